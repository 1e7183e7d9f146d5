#!/usr/bin/env bash
# Without the GIL: the package is built for a free-threaded Python, whose GIL it must not switch on, and the tests of threads
# run there. That Python is $FREE_THREADED, or is made from Debian's source; needs apt and PyPI. Both are built to be built
# soon, not to be fast: what is tested is who touches what.
set -euo pipefail
# shellcheck source=ci/common.sh
source "$(dirname "$0")/common.sh"

TESTS=(tests/base/test_parallel.py tests/calibration/test_turns.py)
# Modules that none of this imports.
LEFT_OUT=(_bz2 _curses _curses_panel _dbm _decimal _gdbm _hashlib _interpchannels _interpqueues _interpreters _lsprof _lzma
    _multibytecodec _codecs_{cn,hk,iso2022,jp,kr,tw} _sqlite3 _ssl _statistics _tkinter _uuid cmath readline syslog)

# What configure would find out by compiling something for each function, the header of this machine's own Python knows.
known_answers() {
    gcc -dM -E -I "$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("include"))')" -include pyconfig.h - </dev/null |
        sed -nE '/_H 1$/d; s/^#define HAVE_(\w+) 1$/ac_cv_func_\L\1=yes/p; s/^#define SIZEOF_(\w+) /ac_cv_sizeof_\L\1=/p'
}

# apt-get with lists of its own, beside the system's state.
make_python() {
    local keys refused=("${LEFT_OUT[@]/#/py_cv_module_}")
    keys=$(debian_keys)
    mkdir -p "$WORK/cpython"
    own_apt "$WORK/apt" "deb-src [signed-by=$keys] http://deb.debian.org/debian trixie main"
    known_answers >"$WORK/config.site"
    cd "$WORK/cpython"
    "${APT[@]}" update
    "${APT[@]}" source --download-only python3.13
    tar -xf python3.13_*.orig.tar.xz --strip-components 1
    export CONFIG_SITE=$WORK/config.site
    ./configure -q --disable-gil --disable-test-modules --without-ensurepip --without-doc-strings OPT="-O0 -DNDEBUG" \
        "${refused[@]/%/=n/a}"
    make -s -j 2
}

if [ -z "${FREE_THREADED:-}" ]; then
    (make_python) >"$WORK/log" 2>&1 || { tail -40 "$WORK/log"; fail "no free-threaded Python could be made"; }
    FREE_THREADED=$WORK/cpython/python
fi
tag=$("$FREE_THREADED" -c 'import sys; print("cp%d%dt" % sys.version_info[:2])')
for_it=(--python-version "${tag:2:1}.${tag:3:-1}" --implementation cp --abi "$tag" --abi none --only-binary=:all:
    --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_17_x86_64 --platform any)
"$PYTHON" -m venv "$WORK/tools"
install "$WORK/tools/bin/python" setuptools cython
"$WORK/tools/bin/pip" install 'pip>=26' # older ones take abi3 wheels, which are for Pythons with the GIL
"$WORK/tools/bin/pip" install --no-compile --target "$WORK/site" "${for_it[@]}" 'numpy>=2.0' 'setuptools>=77' 'cython>=3.3' \
    'pytest>=9' 'hypothesis>=6.100' 'ml_dtypes>=0.5'

copy_sources "$WORK/src"
copy_tests "$WORK/run"
cd "$WORK/src"
export QUANTCORE_LEVELS=baseline QUANTCORE_ISA=baseline
"$WORK/tools/bin/python" setup.py -q --version >"$WORK/log" 2>&1 || { tail -40 "$WORK/log"; fail "Cython failed"; }
export PYTHONPATH="$WORK/site" PYTHONPYCACHEPREFIX="$WORK/compiled"
unset PYTHONDONTWRITEBYTECODE # the tests start many processes
printf '#!/bin/sh\nexec gcc "$@" -O1\n' >"$WORK/gcc"
chmod +x "$WORK/gcc"
CC="$WORK/gcc" "$FREE_THREADED" setup.py -q build --build-lib "$WORK/site" >"$WORK/log" 2>&1 ||
    { tail -40 "$WORK/log"; fail "the build failed"; }
[ -z "$(find "$WORK/site/quantcore" -name '*.abi3.so')" ] || fail "abi3 is for Pythons with the GIL"

# A module that does not declare itself free-threaded switches the GIL on, with a warning.
cd "$WORK/run"
"$FREE_THREADED" -W error -c 'import sys; from quantcore import *; assert not sys._is_gil_enabled()'
export PYTHON_GIL=0
"$FREE_THREADED" ci/race.py shared
"$FREE_THREADED" ci/race.py changing
"$FREE_THREADED" -m pytest -q -p no:cacheprovider "${TESTS[@]}"
