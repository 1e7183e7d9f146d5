#!/usr/bin/env bash
# Without the GIL: the package is built for a free-threaded Python, whose GIL it must not switch on, and the tests of threads
# run there. That Python is $FREE_THREADED, or is made from Debian's source in about two minutes; needs apt and PyPI.
set -euo pipefail
# shellcheck source=ci/common.sh
source "$(dirname "$0")/common.sh"

TESTS=(tests/base/test_{parallel,sealed,small_stacks,few_threads}.py tests/kernels tests/ggml/test_golden.py
    tests/blockwise/test_golden.py tests/calibration/test_{calibrators_merging,turns,percentiles}.py)

# apt-get with lists of its own, beside the system's state.
make_python() {
    local apt="$WORK/apt" options
    mkdir -p "$apt/state/lists/partial" "$apt/cache/archives/partial" "$WORK/cpython"
    echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian trixie main" \
        >"$apt/sources.list"
    options=(-q -o "Dir::State=$apt/state" -o "Dir::Cache=$apt/cache" -o Dir::State::status=/dev/null
        -o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=/dev/null -o APT::Sandbox::User=root)
    cd "$WORK/cpython"
    apt-get "${options[@]}" update
    apt-get "${options[@]}" source --download-only python3.13
    tar -xf python3.13_*.orig.tar.xz --strip-components 1
    ./configure -q --disable-gil --disable-test-modules --without-ensurepip OPT="-O1 -DNDEBUG"
    make -s -j 2
}

if [ -z "${FREE_THREADED:-}" ]; then
    (make_python) >"$WORK/log" 2>&1 || { tail -40 "$WORK/log"; fail "no free-threaded Python could be made"; }
    FREE_THREADED=$WORK/cpython/python
fi
tag=$("$FREE_THREADED" -c 'import sys; print("cp%d%dt" % sys.version_info[:2])')
for_it=(--python-version "${tag:2:1}.${tag:3:-1}" --implementation cp --abi "$tag" --abi none --only-binary=:all:
    --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_17_x86_64 --platform any)
"$PYTHON" -m pip install --target "$WORK/site" "${for_it[@]}" 'numpy>=2.0' 'setuptools>=77' 'cython>=3.3' 'pytest>=9' \
    'hypothesis>=6.100' 'ml_dtypes>=0.5'

copy_sources "$WORK/src"
cd "$WORK/src"
export PYTHONPATH="$WORK/src:$WORK/site"
"$FREE_THREADED" setup.py -q build_ext --inplace >"$WORK/log" 2>&1 || { tail -40 "$WORK/log"; fail "the build failed"; }
[ -z "$(find quantcore -name '*.abi3.so')" ] || fail "abi3 is for Pythons with the GIL"

# A module that does not declare itself free-threaded switches the GIL on, with a warning.
"$FREE_THREADED" -W error -c 'import sys; from quantcore import *; assert not sys._is_gil_enabled()'
PYTHON_GIL=0 "$FREE_THREADED" -m pytest -q -p no:cacheprovider "${TESTS[@]}"
