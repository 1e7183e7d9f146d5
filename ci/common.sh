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

# What the tests import, for an interpreter that gets quantcore in another way than pip; whole llama.cpp builds left out.
install_test_dependencies() {
    "$1" -m pip install -r <("$1" - <<'PY'
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"]
left_out = ("quantcore", "cyllama", "xllamacpp")
print(*project["dependencies"], *extras["cli"], *extras["dask"], *(r for r in extras["test"] if not r.startswith(left_out)), sep="\n")
PY
    )
}

fail() {
    printf '%s\n' "$*" >&2
    exit 1
}
