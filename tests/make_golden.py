"""Write the golden vectors of `tests/golden/`: inputs, and what genuine ggml makes of them.

Run once, by hand, where the wheel pywhispercpp is installed: ``python -m tests.make_golden``. Golden vectors are
evidence of what was right once: existing ones are not replaced without ``--force``.
"""

import argparse
import base64
import json
from pathlib import Path

import numpy as np

from tests import ggml
from tests.contract import BLOCK, DISTRIBUTIONS, F32, FORMATS, Format

PATH = Path(__file__).parent / "golden" / "blocks.json"
SEED = 20260101


def encoded(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def decoded(text: str) -> bytes:
    return base64.b64decode(text)


def _block(*values: float) -> np.ndarray:
    """A block that repeats the values."""
    return np.resize(np.array(values, F32), BLOCK)


def hand_picked(fmt: Format) -> dict[str, list[np.ndarray]]:
    """Blocks at the edges of a format: its limit, its ties, the smallest scales that it stores."""
    tiny, steps = 2.0**-24, fmt.steps or 1  # the smallest fp16
    below = float(np.nextafter(F32(min(fmt.limit, 3e38)), F32(0)))
    above_one = float(np.nextafter(F32(1), F32(2)))
    halfway = _block(steps, 0.5, -0.5, 1.5, -1.5, 2.5, -2.5, 6.5, -6.5, 7.5, -7.5, 0.49999997)
    return {
        "zeros": [_block(0.0), _block(-0.0), _block(-0.0, 0.0)],
        "limit": [_block(below, -below / 3), _block(-below, below / 2, 1)],
        "extreme of both signs": [_block(1, -1), _block(-1, 1, 0.5), _block(0.25, -3, 3, 1)],
        "halfway codes": [halfway, -halfway],
        "halfway fp16": [_block(steps * (1 + 2.0**-11)), _block(steps * (1 + 3 * 2.0**-11)), _block(1 + 2.0**-11)],
        "halfway bfloat16": [_block(1 + 2.0**-8, 1 + 3 * 2.0**-8), _block(-1 - 2.0**-8, above_one)],
        "subnormal fp16 scale": [_block(steps * tiny, tiny), _block(-steps * tiny * 1.5, tiny), _block(tiny * 1023)],
        "scale underflows": [
            _block(steps * tiny / 2, tiny),
            _block(steps * tiny * 0.4999, -tiny),
            _block(1e-30, -2e-30),
        ],
        "one value": [_block(1, *[0] * 31), _block(*[0] * 31, -1), _block(*[0] * 16, 5e-4, *[0] * 15)],
        "ramp": [np.arange(-16, 16, dtype=F32), np.arange(-16, 16, dtype=F32)[::-1] / F32(3)],
    }


def vectors(fmt: Format) -> dict[str, np.ndarray]:
    """Flat inputs of two to four blocks, by name."""
    rng = np.random.default_rng([SEED, fmt.id])
    cases = {name: np.concatenate(blocks) for name, blocks in hand_picked(fmt).items()}
    cases |= {f"{kind} {i}": draw(rng, 2 * BLOCK) for kind, draw in DISTRIBUTIONS.items() for i in range(2)}
    cases = {name: fmt.in_range(values) for name, values in cases.items()}
    return {name: values for name, values in cases.items() if fmt.is_defined(values.reshape(-1, BLOCK)).all()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--force", action="store_true", help="replace the existing golden vectors")
    arguments = parser.parse_args()
    if PATH.exists() and not arguments.force:
        parser.exit(1, f"{PATH} exists; --force replaces it\n")
    lines = []
    for fmt in FORMATS[1:]:  # F32 is the values themselves
        for name, values in vectors(fmt).items():
            data = ggml.quantize(values.reshape(1, -1), fmt.id)
            parts = (values.tobytes(), data, ggml.dequantize(data, fmt.id).tobytes())
            lines.append(json.dumps([fmt.name, name, *map(encoded, parts)]))
    made_by = f"ggml {ggml.version()} through ctypes (wheel pywhispercpp), seed {SEED}"
    head = {"made by": made_by, "fields": ["type", "name", "float32 values", "ggml's bytes", "float32 decoded"]}
    PATH.parent.mkdir(exist_ok=True)
    PATH.write_text(f'{json.dumps(head)[:-1]}, "vectors": [\n' + ",\n".join(lines) + "\n]}\n")


if __name__ == "__main__":
    main()
