#!/usr/bin/env bash
# Every kernel compiles for Windows and for macOS, with the flags that setup.py has for them, by Clang (zig) and the C
# headers that come with it. Nothing is optimised or linked, so that it is quick; the bytes of Clang's code are tested by
# ci/aarch64.sh. Needs PyPI.
set -euo pipefail
# shellcheck source=ci/common.sh
source "$(dirname "$0")/common.sh"

"$PYTHON" -m venv "$WORK/tools"
install "$WORK/tools/bin/python" setuptools cython
"$WORK/tools/bin/pip" install ziglang==0.17.1
cp -r "$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("include"))')" "$WORK/include"
# What Python's headers ask of the compiler's target, wherever they were configured.
cat >"$WORK/include/pyconfig.h" <<'C'
#ifdef _WIN32
#define HAVE_DECLSPEC_DLL 1
#define MS_WIN32 1
#define MS_WIN64 1
#define MS_WINDOWS 1
#else
#define HAVE_SSIZE_T 1
#define HAVE_UNISTD_H 1
#endif
#define HAVE_INTTYPES_H 1
#define HAVE_STDDEF_H 1
#define HAVE_STDINT_H 1
#define Py_ENABLE_SHARED 1
#define SIZEOF_INT __SIZEOF_INT__
#define SIZEOF_LONG __SIZEOF_LONG__
#define SIZEOF_LONG_LONG __SIZEOF_LONG_LONG__
#define SIZEOF_SHORT __SIZEOF_SHORT__
#define SIZEOF_SIZE_T __SIZEOF_SIZE_T__
#define SIZEOF_VOID_P __SIZEOF_POINTER__
#define SIZEOF_WCHAR_T __SIZEOF_WCHAR_T__
C
copy_sources "$WORK/src"
cd "$WORK/src"

# compile PLATFORM TARGET: as setup.py would on that platform, by the compiler for that target.
compile() {
    cat >"$WORK/cc" <<SH
#!/usr/bin/env bash
arguments=("\${@/#-march=x86-64-/-march=x86_64_}") # as zig spells it
exec "$WORK/tools/bin/python" -m ziglang cc -target $2 -I"$WORK/include" "\${arguments[@]}" -O0 -Werror=return-type
SH
    chmod +x "$WORK/cc"
    _PYTHON_HOST_PLATFORM=$1 CC="$WORK/cc" LDSHARED=true "$WORK/tools/bin/python" setup.py -q build_ext \
        --build-temp "$WORK/$1" --build-lib "$WORK/lib" >"$WORK/log" 2>&1 || { tail -40 "$WORK/log"; fail "not for $1"; }
    find "$WORK/$1" -name '*.o' | sort | sed "s|.*/|$1: |"
}

compile win-amd64 x86_64-windows-gnu
compile macosx-11.0-arm64 aarch64-macos.11.0
QUANTCORE_LEVELS=baseline compile macosx-11.0-x86_64 x86_64-macos.11.0
