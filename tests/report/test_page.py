"""The report: one self-contained page, reproducible, whatever the names of the tensors."""

import base64
import hashlib
import itertools
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import quantcore
from quantcore.cli import main
from quantcore.conversion import compare_models, quantize_model
from quantcore.conversion.to_bitsandbytes import quantize_checkpoint
from quantcore.errors import InvalidTypeError, InvalidValueError, MissingExtraError, OutputFileError
from quantcore.models.comparison import compare_opened
from quantcore.models.opening import open_model
from quantcore.report import write_report
from quantcore.report.frontier import FormatPoint, best_points
from quantcore.report.labels import Box, place_labels
from quantcore.report.samples import RUN_ELEMENTS, sample_pairs
from tests.support.models import Tensor, write_gguf

pytest.importorskip("matplotlib")

VOID = {"meta", "link", "img", "br", "hr", "input"}
HOSTILE = (
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "a&amp;b", "$x^2$ \\frac{", "日本語",
    "]]>--><svg/onload=1>",
    "new\nline\x1b[2J\u202e", "x" * 200, "'); alert(1); ('", "</style></script><b>", 'id="p" url(#q)', "#010203",
)  # fmt: skip


class Page(HTMLParser):
    """Tags with their attributes, the rows of the table of tensors, and whether every tag is closed in its order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.rows: list[list[str]] = []
        self.is_main = False
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.is_main = ("class", "sortable") in attrs
        if tag == "tr" and "tbody" in self.open and self.is_main:
            self.rows.append([])
        if tag in ("th", "td") and "tbody" in self.open and self.is_main:
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)
            if self.open[-1] in ("th", "td") and "tbody" in self.open and self.is_main:
                self.rows[-1][-1] += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model and its quantized version, which the tests only read."""
    folder = tmp_path_factory.mktemp("pair")
    rng = np.random.default_rng(1)
    tensors = {f"blk.{i}.ffn_up.weight": rng.standard_normal((8, 256)).astype(np.float32) for i in range(12)}
    save_file(tensors | {"norm.weight": np.ones(64, np.float32)}, folder / "ref.safetensors")
    types = [(r"blk\.1\.", "Q8_0"), (r"blk\.2\.", "F16")]
    quantize_model(folder / "ref.safetensors", folder / "q.gguf", "Q4_0", tensor_types=types)
    return folder / "ref.safetensors", folder / "q.gguf"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two models whose files and tensors have names that mean something to a page, a terminal or a formula."""
    folder = tmp_path_factory.mktemp("hostile")
    rng = np.random.default_rng(2)
    x = {name: rng.standard_normal((64, 32)).astype(np.float32) for name in HOSTILE}
    y = {name: values + rng.standard_normal(values.shape).astype(np.float32) / 99 for name, values in x.items()}
    save_file(x | {"</ul><script>": x["日本語"]}, folder / "<b>x&.safetensors")
    save_file(y | {"</li><script>": x["日本語"]}, folder / "</h1><script>'\".safetensors".replace("/", "\u2215"))
    return folder / "<b>x&.safetensors", folder / "</h1><script>'\".safetensors".replace("/", "\u2215")


def written(pair: tuple[Path, Path], path: Path, **options: object) -> str:
    write_report(*pair, path, **options)
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def text(pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page about the pair."""
    return written(pair, tmp_path_factory.mktemp("text") / "r.html")


@pytest.fixture(scope="module")
def hostile_text(hostile: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    return written(hostile, tmp_path_factory.mktemp("text") / "r.html")


def assert_stands_alone(page: Page) -> None:
    """One script, the page's own; nothing is loaded and nothing else can run."""
    (script,) = page.texts["script"]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(m["content"] for m in page.named("meta") if "http-equiv" in m)
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert len(page.named("script")) == 1
    for tag, attributes in page.tags:
        assert tag not in ("img", "link", "iframe", "object", "embed", "image", "base", "form", "foreignobject")
        for name, value in attributes.items():
            assert not name.startswith("on") and name not in ("src", "srcset", "action", "formaction")
            assert "href" not in name or value.startswith("#")
            assert "url(" not in (value or "").replace("url(#", "")
    assert not re.search(r"@import|url\(|@font-face", "".join(page.texts["style"]))


# The page


def test_structure(text):
    page = Page(text)
    assert_stands_alone(page)
    assert page.texts["title"] == ["q.gguf: quantization report"] and page.texts["h1"] == ["q.gguf"]
    titles = ["Worst tensors", "Formats", "Errors", "Weights and levels", "Block scales"]
    assert page.texts["strong"] == titles and len(page.named("svg")) == len(titles)
    assert [svg["aria-label"].split(".")[0] for svg in page.named("svg")] == titles
    ids = Counter(attributes["id"] for _, attributes in page.tags if "id" in attributes)
    assert max(ids.values()) == 1
    for _, attributes in page.tags:
        for value in attributes.values():
            for target in re.findall(r"^#(.*)$|url\(#(.*?)\)", value or ""):
                assert "".join(target) in ids
    footer = "".join(page.texts["footer"])
    assert footer.startswith(f"quantcore {quantcore.__version__}, kernels {quantcore.isa()};") and "seed 0" in footer


def test_table_has_the_figures_of_compare(pair, text):
    page = Page(text)
    result = compare_models(*pair)
    assert [row[0] for row in page.rows] == [t.name for t in result.tensors]
    assert page.rows[0][1:3] == ["8x256", "F32 → Q4_0"] and page.rows[-1][1:4] == ["64", "F32", "exact"]
    values = [float(td["data-value"]) for td in page.named("td") if "data-value" in td]
    expected = [
        figure
        for stats, bits, nbytes in [
            *((t.stats, t.bits_per_weight, t.nbytes) for t in result.tensors),
            (result.total, result.bits_per_weight, result.nbytes),
        ]
        for figure in (stats.sqnr_db, stats.mse, stats.max_error, stats.cosine_similarity, bits, nbytes)
    ]
    assert values == expected
    heads = [th for th in page.named("th") if th["scope"] == "col"][-9:]
    assert [th.get("aria-sort") for th in heads] == [None] * 3 + ["ascending"] + [None] * 5
    assert [b["type"] for b in page.named("button")] == ["button"] * len(heads)
    tiles = " ".join(page.texts["dd"])
    assert f"{result.total.sqnr_db:.2f} dB {result.worst.stats.sqnr_db:.2f} dB {result.bits_per_weight:.2f}" in tiles


@pytest.mark.slow
def test_the_same_every_time(pair, text, tmp_path, monkeypatch):
    (tmp_path / "matplotlibrc").write_text("axes.facecolor: red\nfont.size: 30\n")
    monkeypatch.setenv("MATPLOTLIBRC", str(tmp_path))
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    assert written(pair, tmp_path / "2.html", n_threads=3) == text
    import matplotlib

    with matplotlib.rc_context({"lines.linewidth": 17, "svg.hashsalt": "mine", "xtick.major.size": 40}):
        assert written(pair, tmp_path / "3.html", n_threads=1) == text
        assert matplotlib.rcParams["lines.linewidth"] == 17
    assert re.search(r"20\d\d-\d\d-\d\d|rdf:|<metadata", text) is None and str(tmp_path.parent) not in text


@pytest.mark.slow
def test_hostile_names(hostile, hostile_text):
    page = Page(hostile_text)
    assert_stands_alone(page)
    result = compare_models(*hostile)
    printed = [t.name.replace("new\nline\x1b[2J\u202e", "new\\nline\\x1b[2J\\u202e") for t in result.tensors]
    assert [row[0] for row in page.rows] == printed
    assert page.texts["li"] == ["</ul><script>", "</li><script>"]
    assert page.texts["h1"] == [hostile[1].name]
    assert "$x^2$ \\frac{" in page.texts["text"]


@pytest.mark.slow
def test_models_without_loss_and_with_nothing_kept(tmp_path):
    x = {"a": np.zeros((2, 64), np.float32), "b": np.ones((2, 64), np.float32)}
    save_file(x, tmp_path / "x.safetensors")
    save_file({"a": x["b"], "b": x["a"]}, tmp_path / "y.safetensors")
    page = Page(written((tmp_path / "x.safetensors",) * 2, tmp_path / "same.html"))
    assert "exact" in page.texts["dd"] and page.named("figure") == []
    page = Page(written((tmp_path / "x.safetensors", tmp_path / "y.safetensors"), tmp_path / "swapped.html"))
    assert page.rows[0][:4] == ["a", "2x64", "F32", "-inf"] and "-inf" in page.texts["text"]
    save_file({"a": np.ones(3, np.float32)}, tmp_path / "vector.safetensors")
    page = Page(written((tmp_path / "vector.safetensors",) * 2, tmp_path / "vector.html"))
    assert page.named("svg") == []


@pytest.mark.slow
@pytest.mark.parametrize("double_quant", [True, False])
def test_bitsandbytes_checkpoint(double_quant, pair, tmp_path):
    quantize_checkpoint(pair[0], tmp_path / "nf4.safetensors", "nf4", double_quant=double_quant)
    page = Page(written((pair[0], tmp_path / "nf4.safetensors"), tmp_path / "r.html"))
    assert page.rows[0][2] == "F32 → NF4"
    assert "NF4: weight / largest of its block of 64" in page.texts["text"]


# The file


@pytest.mark.slow
def test_output_is_whole_or_untouched(pair, tmp_path, monkeypatch):
    path = tmp_path / "r.html"
    path.write_text("precious")
    for target in (path, pair[0], pair[1], tmp_path):
        with pytest.raises(OutputFileError):
            write_report(*pair, target)
    for target in pair:
        with pytest.raises(OutputFileError, match="same file"):
            write_report(*pair, target, force=True)
    with pytest.raises(OutputFileError, match=r"cannot be written to the folder .*none"):
        write_report(*pair, tmp_path / "none" / "r.html")
    with pytest.raises(OutputFileError, match=r"r\.pdf: what is written is a page of HTML; name it \*\.html$"):
        write_report(*pair, tmp_path / "r.pdf")
    before = sorted(p.name for p in tmp_path.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr("quantcore.report.writing.compare_opened", lambda *_, **__: 1 / 0)
        with pytest.raises(OutputFileError):  # before the work
            write_report(*pair, path)
    monkeypatch.setattr("quantcore.report.writing.page", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report(*pair, path, force=True)
    assert path.read_text() == "precious" and sorted(p.name for p in tmp_path.iterdir()) == before
    monkeypatch.undo()
    assert written(pair, path, force=True).startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("options", "error"),
    [({"seed": -1}, InvalidValueError), ({"seed": 1.5}, InvalidTypeError), ({"n_threads": 0}, InvalidValueError)],
)
def test_arguments(options, error, pair, tmp_path):
    with pytest.raises(error, match=next(iter(options))):
        write_report(*pair, tmp_path / "r.html", **options)


def test_without_matplotlib(pair, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"matplotlib: pip install 'quantcore-quantization\[report\]'"):
        write_report(*pair, tmp_path / "r.html")
    assert main(["report", *map(str, pair), "-o", str(tmp_path / "r.html")]) == 1
    text, err = capsys.readouterr()
    assert (
        text == ""
        and err.startswith("quantcore: error: ")
        and "quantcore-quantization[report]" in err
        and err.count("\n") == 1
    )
    assert not (tmp_path / "r.html").exists()


# The command


@pytest.mark.slow
def test_command(pair, tmp_path, capsys):
    path = tmp_path / "r.html"
    arguments = ["report", *map(str, pair), "-o", str(path)]
    assert main([*arguments, "--seed", "7"]) == 0
    result = compare_models(*pair)
    text, err = capsys.readouterr()
    assert err == "" and text == (
        f"{path}: SQNR {result.total.sqnr_db:.2f} dB, worst {result.worst.stats.sqnr_db:.2f} dB ({result.worst.name}), "
        f"{result.bits_per_weight:.2f} bits per weight\n"
    )
    assert path.read_text(encoding="utf-8") == written(pair, tmp_path / "lib.html", seed=7)
    assert main(arguments) == 1 and "exists already" in capsys.readouterr().err
    assert main([*arguments, "--force", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["total"]["sqnr_db"] == result.total.sqnr_db
    with pytest.raises(SystemExit) as leaving:
        main(arguments[:3])
    assert leaving.value.code == 2


# Samples, formats, labels


def test_samples_are_bounded_drawn_evenly_and_by_the_seed(tmp_path, rng):
    sizes = {"small": 100, "large": 300 * RUN_ELEMENTS + 32, "middle": 60 * RUN_ELEMENTS}
    x = {name: np.arange(n, dtype=np.float32) for name, n in sizes.items()}
    save_file(x, tmp_path / "x.safetensors")
    write_gguf(tmp_path / "y.gguf", [Tensor(name, values + 1) for name, values in x.items()])

    def drawn(seed: int) -> dict[str, np.ndarray]:
        with open_model(tmp_path / "x.safetensors") as a, open_model(tmp_path / "y.gguf") as b:
            samples = sample_pairs(a, b, compare_opened(a, b), seed=seed, n_threads=None)
        for s in samples:
            assert np.array_equal(s.quantized, s.original + 1)
            assert np.isin(s.original, x[s.name]).all() and np.unique(s.original).size == s.original.size
        return {s.name: s.original for s in samples}

    first = drawn(0)
    assert sum(values.size for values in first.values()) <= 256 * RUN_ELEMENTS
    assert 180 < first["large"].size / RUN_ELEMENTS < 240
    for seed in (0, 1):
        again = drawn(seed)
        is_same = first.keys() == again.keys() and all(np.array_equal(first[name], again[name]) for name in first)
        assert is_same == (seed == 0)


def test_best_points_are_those_that_nobody_beats(rng):
    points = [FormatPoint(str(i), *map(float, rng.integers(1, 9, 2))) for i in range(60)]
    best = best_points(points)
    for p in points:
        is_beaten = any(
            q.bits_per_weight <= p.bits_per_weight and q.sqnr_db >= p.sqnr_db and q[1:] != p[1:] for q in points
        )
        assert (p[1:] in {b[1:] for b in best}) == (not is_beaten)
    assert list(best) == sorted(best, key=lambda p: p.bits_per_weight)


def test_labels_do_not_cover_each_other(rng):
    points = [tuple(p) for p in rng.uniform(40, 260, (14, 2)).tolist()]
    boxes = place_labels(points, [(30.0, 9.0)] * len(points), Box(0, 0, 300, 300), radius=3)
    for a, b in itertools.combinations(boxes, 2):
        assert not a.meets(b)
    for box in boxes:
        assert box.left >= 0 and box.right <= 300


# In a browser


@pytest.fixture
def browse(tmp_path: Path) -> Callable[[str], tuple[str, str]]:
    """Load a page and give back its DOM and what was said on the console."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("needs chromium")

    def run(text: str) -> tuple[str, str]:
        (tmp_path / "page.html").write_text(text, encoding="utf-8")
        flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
        command = [program, *flags, "--enable-logging=stderr", "--v=0", (tmp_path / "page.html").as_uri()]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=180, check=True)
        return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)

    return run


def with_script(text: str, script: str) -> str:
    """The page with one script more, which its policy is made to allow."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text = text.replace("script-src 'sha256-", f"script-src 'sha256-{digest}' 'sha256-", 1)
    return text.replace("</body>", f"<script>{script}</script></body>")


CLICKS = {
    "SQNR dB again": ((3,), 3, "descending", lambda row: -float(row["SQNR dB"].replace("exact", "inf"))),
    "tensor": ((0,), 0, "ascending", lambda row: int(re.sub(r"\D", "", row["tensor"]) or 99)),
    "MSE": ((4,), 4, "ascending", lambda row: float(row["MSE"])),
    "bits down": ((7, 7), 7, "descending", lambda row: -float(row["bits per weight"])),
}


@pytest.mark.may_skip
@pytest.mark.parametrize(("clicks", "column", "direction", "key"), CLICKS.values(), ids=CLICKS)
def test_sorting_in_a_browser(clicks, column, direction, key, browse, text):
    script = "".join(f"document.querySelectorAll('thead button')[{i}].click();" for i in clicks)
    dom, console = browse(with_script(text, script))
    page = Page(dom)
    heads = ["tensor", "shape", "type", "SQNR dB", "MSE", "max error", "cosine", "bits per weight", "size"]
    rows = [dict(zip(heads, row, strict=True)) for row in page.rows]
    assert console == "" and len(rows) == 13
    assert rows == sorted(rows, key=key)
    columns = [th.get("aria-sort") for th in page.named("th") if th["scope"] == "col"][-len(heads) :]
    assert columns == [direction if i == column else None for i in range(len(heads))]


@pytest.mark.slow
@pytest.mark.may_skip
def test_hostile_names_in_a_browser(browse, hostile_text):
    probe = "document.title = window.alerted ? 'bad' : String(document.querySelectorAll('script, img, b').length);"
    dom, console = browse(with_script(hostile_text, probe))
    assert console == "" and "<title>2</title>" in dom
