# common.sh: sourced by the scripts beside it. Each of them works on copies in a temporary folder, never in the checkout.
# shellcheck shell=bash
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
CHECKOUT=$PWD
PYTHON=${PYTHON:-python3}
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_QUIET=2

WORK=$(mktemp -d "${TMPDIR:-/tmp}/quantcore-ci.XXXXXX")
trap 'rm -rf "$WORK"' EXIT

# The project's files as git knows them (new ones included), without anything built.
copy_sources() {
    mkdir -p "$1"
    git -C "$CHECKOUT" ls-files -z --cached --others --exclude-standard |
        tar -C "$CHECKOUT" --null --files-from=- --ignore-failed-read -cf - | tar -C "$1" -xf -
}

# The tests and their settings, but not the package: what they import is what is installed.
copy_tests() {
    copy_sources "$1"
    rm -r "$1/quantcore"
}

# install PYTHON NAME...: the packages of these names, in the versions that pyproject.toml asks for.
install() {
    "$1" -m pip install -r <("$1" - "${@:2}" <<'PY'
import re
import sys
import tomllib
from pathlib import Path

settings = tomllib.loads(Path("pyproject.toml").read_text())
project = settings["project"]
asked = settings["build-system"]["requires"] + project["dependencies"]
asked += [requirement for extra in project["optional-dependencies"].values() for requirement in extra]
by_name = {re.match(r"[\w.-]+", requirement)[0]: requirement for requirement in asked}
print(*(by_name[name] for name in sys.argv[1:]), sep="\n")
PY
    )
}

# own_apt FOLDER [LINE]: apt-get as the array APT, with lists and packages in that folder, beside the system's state, and with
# the sources of the system or those of a line of sources.list.
own_apt() {
    mkdir -p "$1/state/lists/partial" "$1/cache/archives/partial"
    APT=(apt-get -q -o "Dir::State=$1/state" -o "Dir::Cache=$1/cache" -o Dir::State::status=/dev/null
        -o APT::Sandbox::User=root)
    if [ $# -gt 1 ]; then
        echo "$2" >"$1/sources.list"
        APT+=(-o "Dir::Etc::sourcelist=$1/sources.list" -o Dir::Etc::sourceparts=/dev/null)
    fi
}

# The file with the keys of Debian's archive. Ubuntu has it in a package, which is unpacked, not installed.
debian_keys() {
    local file=/usr/share/keyrings/debian-archive-keyring.gpg folder="$WORK/keys"
    if [ ! -e "$file" ]; then
        own_apt "$folder"
        "${APT[@]}" update >"$WORK/log" 2>&1 || { cat "$WORK/log" >&2; fail "apt-get update failed"; }
        (cd "$folder" && "${APT[@]}" download debian-archive-keyring) >"$WORK/log" 2>&1 ||
            { cat "$WORK/log" >&2; fail "there are no keys of Debian's archive"; }
        dpkg --extract "$folder"/*.deb "$folder"
        file=$folder$file
    fi
    echo "$file"
}

fail() {
    printf '%s\n' "$*" >&2
    exit 1
}
