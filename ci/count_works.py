"""Every work of bench/ once, on few elements and one thread, for callgrind to count: ci/guard.py starts this.

Counted is the second call of each: not the imports, not the making of arrays, not a calibrator's first batch.

Usage: python -m ci.count_works REQUESTS N_ELEMENTS   (REQUESTS: the library that ci/guard.sh compiles)
"""

import ctypes
import sys

# Only our own calls are counted, and these take minutes to import under valgrind: to bench/ they are not installed.
for peer in ("torch", "bitsandbytes", "onnx", "onnxruntime", "faiss"):
    sys.modules[peer] = None  # type: ignore[assignment]

from bench.suites import SUITES  # noqa: E402


def main() -> None:
    callgrind, n_elements = ctypes.CDLL(sys.argv[1]), int(sys.argv[2])
    callgrind.start()
    for suite, works in SUITES.items():
        for work in works(n_elements):
            call = work.ours(1)
            call()
            callgrind.zero()
            call()
            callgrind.dump(f"{suite}: {work.title}".encode())


if __name__ == "__main__":
    main()
