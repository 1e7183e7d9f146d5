# common.sh: sourced by the scripts beside it. Each of them works on copies in a temporary folder, never in the checkout.
# shellcheck shell=bash
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
CHECKOUT=$PWD
PYTHON=${PYTHON:-python3}
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_QUIET=2

WORK=$(mktemp -d "${TMPDIR:-/tmp}/quantcore-ci.XXXXXX")
trap 'rm -rf "$WORK"' EXIT

# setuptools reads this file too: compile the CPU levels side by side.
printf '[build_ext]\nparallel = 2\n' >"$WORK/build.cfg"
export DIST_EXTRA_CONFIG=$WORK/build.cfg

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

fail() {
    printf '%s\n' "$*" >&2
    exit 1
}
