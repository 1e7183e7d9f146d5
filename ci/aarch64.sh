#!/usr/bin/env bash
# The wheel for aarch64, cross-compiled with Clang (zig), and its bytes there: golden vectors and definitions, under QEMU.
# Needs apt, of Debian or Ubuntu (an aarch64 Python and QEMU are unpacked from Debian's packages, nothing is installed),
# and PyPI.
set -euo pipefail
# shellcheck source=ci/common.sh
source "$(dirname "$0")/common.sh"

PYTHON_PACKAGES=(python3.11-minimal libpython3.11-minimal libpython3.11-stdlib libc6 libgcc-s1 libstdc++6 zlib1g libexpat1
    libssl3 libffi8 libbz2-1.0 liblzma5 libsqlite3-0 libuuid1)
TESTS=(tests/ggml/test_golden.py tests/blockwise/test_golden.py tests/blockwise/test_calls.py tests/affine/test_tensor.py
    tests/qat/test_fake_quant.py tests/kernels/test_halves.py)

# The sources of packages of another architecture, beside the system's own state: apt-get update and download.
unpack() { # ARCHITECTURE FOLDER PACKAGE...
    local apt="$WORK/apt-$1"
    mkdir -p "$apt/debs" "$2"
    own_apt "$apt" "deb [arch=$1 signed-by=$DEBIAN_KEYS] http://deb.debian.org/debian bookworm main"
    APT+=(-o "APT::Architecture=$1" -o "APT::Architectures::=$1")
    "${APT[@]}" update >"$WORK/log" || { cat "$WORK/log"; fail "apt-get update failed"; }
    (cd "$apt/debs" && "${APT[@]}" download "${@:3}" >"$WORK/log") || { cat "$WORK/log"; fail "no packages"; }
    for package in "$apt"/debs/*.deb; do dpkg --extract "$package" "$2"; done
}

"$PYTHON" -m venv "$WORK/tools"
install "$WORK/tools/bin/python" setuptools cython
"$WORK/tools/bin/pip" install wheel ziglang==0.17.1
# Debian's pyconfig.h includes that of the target's architecture, which has the same content.
"$PYTHON" - "$WORK/include/aarch64-linux-gnu" <<'PY'
import shutil
import sys
import sysconfig
from pathlib import Path

header = Path(sysconfig.get_config_h_filename())
of_this_machine = header.parents[1] / str(sysconfig.get_config_var("MULTIARCH")) / header.parent.name / header.name
target = Path(sys.argv[1]) / header.parent.name
target.mkdir(parents=True)
shutil.copy(of_this_machine if of_this_machine.exists() else header, target)
PY
cat >"$WORK/cc" <<SH
#!/bin/sh
exec "$WORK/tools/bin/python" -m ziglang cc -target aarch64-linux-gnu.2.17 -I"$WORK/include" "\$@"
SH
chmod +x "$WORK/cc"

copy_sources "$WORK/src"
(
    cd "$WORK/src"
    export CC="$WORK/cc" LDSHARED="$WORK/cc -shared" _PYTHON_HOST_PLATFORM=linux-aarch64
    "$WORK/tools/bin/python" setup.py -q bdist_wheel --plat-name manylinux_2_17_aarch64 --dist-dir "$WORK/dist"
) >"$WORK/log" 2>&1 || { tail -40 "$WORK/log"; fail "the build failed"; }
wheel=$(echo "$WORK"/dist/*.whl)
[[ $(basename "$wheel") == *-cp311-abi3-manylinux_2_17_aarch64.whl ]] || fail "not the wheel that was asked for: $wheel"

DEBIAN_KEYS=$(debian_keys)
unpack arm64 "$WORK/root" "${PYTHON_PACKAGES[@]}"
unpack "$(dpkg --print-architecture)" "$WORK/host" qemu-user-static
for_aarch64=(--platform manylinux_2_28_aarch64 --platform manylinux_2_17_aarch64 --python-version 3.11 --only-binary=:all:)
"$PYTHON" -m pip install --target "$WORK/site" "${for_aarch64[@]}" "$wheel" hypothesis 'ml_dtypes>=0.5' 'numpy>=2.0' 'pytest>=9'

# What tests start as sys.executable runs under QEMU as well.
cat >"$WORK/python" <<SH
#!/bin/sh
exec "$WORK/host/usr/bin/qemu-aarch64-static" -L "$WORK/root" "$WORK/root/usr/bin/python3.11" "\$@"
SH
chmod +x "$WORK/python"
echo "import sys; sys.executable = '$WORK/python'" >"$WORK/site/sitecustomize.py"

copy_tests "$WORK/run"
cd "$WORK/run"
export PYTHONPATH="$WORK/site" PYTHONDONTWRITEBYTECODE=1
[ "$("$WORK/python" -c 'import platform; print(platform.machine())')" = aarch64 ] || fail "this is no aarch64"
"$WORK/python" -m quantcore doctor
"$WORK/python" -m quantcore demo
"$WORK/python" -m pytest -q -p no:cacheprovider "${TESTS[@]}"
