#!/usr/bin/env bash
# The kernels under AddressSanitizer and UndefinedBehaviorSanitizer at every CPU level, under ThreadSanitizer, and built
# with bounds checks. Every sanitizer is first shown a fault that it must find. Needs gcc, setarch (util-linux).
set -euo pipefail
# shellcheck source=ci/common.sh
source "$(dirname "$0")/common.sh"

CASES=${CASES:-5120}
CALLS=${CALLS:-35000} # at each of three levels
TESTS=(tests/base tests/ggml/test_{golden,records}.py) # the kernels themselves are fuzzed at every level

copy_tests "$WORK/run"
"$PYTHON" -m venv "$WORK/venv"
python="$WORK/venv/bin/python"
install "$python" cython gguf hypothesis ml_dtypes numpy pytest xllamacpp safetensors setuptools

# build NAME FLAG...: the package compiled into a folder of its own. The flags come last, after those of setup.py.
build() {
    copy_sources "$WORK/src-$1"
    printf '#!/bin/sh\nexec gcc "$@" %s\n' "${*:2}" >"$WORK/gcc-$1"
    chmod +x "$WORK/gcc-$1"
    CC="$WORK/gcc-$1" "$python" -m pip install --no-deps --no-build-isolation --target "$WORK/$1" "$WORK/src-$1"
}

# must_report WORDS COMMAND...: the command has to fail and say so.
must_report() {
    local words=$1
    shift
    if "$@" >"$WORK/report" 2>&1; then
        fail "this should have been reported: $*"
    fi
    grep -q "$words" "$WORK/report" || { cat "$WORK/report"; fail "no '$words' from: $*"; }
}

cd "$WORK/run"

echo "AddressSanitizer, UndefinedBehaviorSanitizer"
# Vectorised as what users get, so no -O1.
build asan -g1 -fno-omit-frame-pointer -fsanitize=address,undefined,float-cast-overflow -fno-sanitize-recover=undefined
grep -q __ubsan_handle_float_cast_overflow "$WORK"/asan/quantcore/_kernels/_baseline*.so || fail "no UBSAN in the build"
asan() {
    env LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libstdc++.so)" \
        ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:max_allocation_size_mb=4096 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
        PYTHONMALLOC=malloc PYTHONPATH="$WORK/asan" "$python" "$@"
}
levels=$(asan -c 'from quantcore import _kernels; print(*_kernels.SUPPORTED_LEVELS)')
overflow='AddressSanitizer: \(heap-buffer-overflow\|unknown-crash\)' # the latter of a vector that begins inside
must_report "$overflow" asan ci/fuzz_kernels.py --short input
must_report "$overflow" asan ci/fuzz_kernels.py --short output
must_report "$overflow" asan -m ci.fuzz_calls --plant overflow
must_report '[1-9][0-9]* findings' asan -m ci.fuzz_calls --plant raw
at_level() {
    export QUANTCORE_ISA=$1
    asan ci/fuzz_kernels.py --cases "$CASES" --hash "$WORK/hash-$1"
    asan -m ci.fuzz_calls --calls "$CALLS"
    asan ci/race.py changing
    # The fuzzing above covers every level; the test suite, slow in this build, the best one. A process with little address
    # space is left out: the sanitizer itself does not fit there.
    [ "$1" = "${levels##* }" ] || return 0
    asan -m pytest -q -p no:cacheprovider -k "not ctrl_c and not 2_to_the_31 and not no_thread_with_a_larger" "${TESTS[@]}"
}
declare -A running=()
for level in $levels; do
    at_level "$level" >"$WORK/log-$level" 2>&1 &
    running[$level]=$!
done
for level in $levels; do
    status=0
    wait "${running[$level]}" || status=$?
    cat "$WORK/log-$level"
    [ "$status" = 0 ] || fail "AddressSanitizer at $level: exit status $status"
done
[ "$(cat "$WORK"/hash-* | sort -u | wc -l)" = 1 ] || fail "the CPU levels differ"

echo "ThreadSanitizer"
build tsan -O1 -g1 -fsanitize=thread
tsan() {
    setarch -R env LD_PRELOAD="$(gcc -print-file-name=libtsan.so)" PYTHONPATH="$WORK/tsan" \
        TSAN_OPTIONS=ignore_noninstrumented_modules=1:halt_on_error=1 "$python" "$@"
}
must_report 'ThreadSanitizer: data race' tsan ci/race.py clash
tsan ci/race.py shared --rounds 8
tsan ci/race.py changing

echo "Bounds checks"
QUANTCORE_DEBUG_BUILD=1 build debug -O1
PYTHONPATH="$WORK/debug" "$python" -m pytest -q -p no:cacheprovider tests/ggml/test_{golden,records}.py \
    tests/models/test_hostile_{files,limits}.py
