#!/usr/bin/env bash
# Style, types, stubs and what git holds. Tools: requirements-lint.txt, in an environment of their own.
set -euo pipefail
# shellcheck source=ci/common.sh
source "$(dirname "$0")/common.sh"

"$PYTHON" -m venv "$WORK/venv"
PATH="$WORK/venv/bin:$PATH"
pip install -r ci/requirements-lint.txt

while read -r pin; do
    grep -qF -- "$pin" .pre-commit-config.yaml || fail ".pre-commit-config.yaml: does not name $pin"
done < <(grep -v '^#' ci/requirements-lint.txt)

ruff check
ruff format --check
cython-lint quantcore
shellcheck --external-sources .ci/run ci/*.sh
mypy

# What git holds: sources only, and nothing large.
if git ls-files | grep -E '\.(so|o|a|dylib|pyd|py[co]|whl|c|cpp|html)$|(^|/)(build|dist|[^/]*\.egg-info|__pycache__)/'; then
    fail "build products are tracked"
fi
git ls-files -z | while IFS= read -r -d '' file; do
    size=$(stat -c %s -- "$file")
    [ "$size" -le 1000000 ] || fail "$file: $size bytes, the limit is 1000000"
done
