#!/usr/bin/env bash
# Have the kernels become slower? Counts instead of timings: see guard.py. Needs gcc, what bench/ imports, and valgrind,
# which is installed if it is missing in CI. With --write, the figures become the new baseline, guard.json.
set -euo pipefail
# shellcheck source=ci/common.sh
source "$(dirname "$0")/common.sh"

if [ "${CI:-}" = true ] && [ ! -e /usr/include/valgrind/callgrind.h ]; then
    as_root=()
    [ "$(id -u)" = 0 ] || as_root=(sudo -n)
    "${as_root[@]}" apt-get -qq update
    "${as_root[@]}" apt-get -qq install --no-install-recommends valgrind
fi
command -v valgrind >/dev/null || fail "valgrind is missing"
options=()
[ "${1:-}" != --write ] || options=(--write "$CHECKOUT/ci/guard.json")

# The dumps that guard.py reads change nothing in the code.
copy_sources "$WORK/source"
CFLAGS=-fdump-tree-vect-optimized "$PYTHON" -m pip install --no-deps --target "$WORK/package" "$WORK/source"

# What count_works.py asks of the callgrind that runs it; these are macros.
gcc -shared -fPIC -o "$WORK/requests.so" -x c - <<'C'
#include <valgrind/callgrind.h>
void start(void) { CALLGRIND_START_INSTRUMENTATION; }
void zero(void) { CALLGRIND_ZERO_STATS; }
void dump(const char *name) { CALLGRIND_DUMP_STATS_AT(name); }
C

copy_tests "$WORK/run"
mkdir "$WORK/scratch"
cd "$WORK/run"
"$PYTHON" -m ci.guard --package "$WORK/package" --source "$WORK/source" --requests "$WORK/requests.so" \
    --scratch "$WORK/scratch" "${options[@]}"
