"""The documents name every type, and their tables are those of today."""

import re
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

import quantcore
from ci import cli_reference, formats_table, layouts, misses, speed_chart
from quantcore import isa
from quantcore.cli import main
from quantcore.cli.parser_facts import walk
from quantcore.cli.program import _make_parser
from quantcore.ggml import SUPPORTED_TYPES
from quantcore.ggml.types import GGML_TYPES
from tests.support.documents import IMPLIED, IMPORT, blocks, relative

ROOT = Path(__file__).parents[1]
CHOOSING = "docs/choosing.md"


def test_table_of_formats_is_that_of_the_rows():
    text = formats_table.PART.document.read_text()
    assert formats_table.PART.updated(text) == text, "stale: python -m ci.formats_table"
    assert all(formats_table.row(layout) in text for layout in GGML_TYPES.values())


def test_layouts_are_those_of_the_rows():
    text = layouts.PART.document.read_text()
    assert layouts.PART.updated(text) == text, "stale: python -m ci.layouts"
    assert layouts.LAYOUTS.keys() == {t.name for t in SUPPORTED_TYPES if t.block_size > 1}
    for name, (_, fields) in layouts.LAYOUTS.items():
        row = next(layout for layout in GGML_TYPES.values() if layout.name == name)
        assert sum(field.n_bytes for field in fields) == row.bytes_per_block, name
        if row.scale is not None:
            before = 0
            for field in fields:
                if before == row.scale.offset:
                    break
                before += field.n_bytes
            width = {"<f2": 2, "u1": 1}.get(row.scale.dtype, 2) * row.scale.count
            assert (field.name, field.n_bytes) in (("d", width), ("e", width)), name


def test_a_diagram_whose_bytes_moved_is_found(monkeypatch):
    text = layouts.PART.document.read_text()
    monkeypatch.setitem(layouts.LAYOUTS, "Q8_0", ("q * d", (layouts.Field("qs", 32, "codes"), layouts.D)))
    assert layouts.PART.updated(text) != text


def test_reference_of_the_command_line_is_that_of_the_parsers():
    text = cli_reference.DOCUMENT.read_text()
    assert cli_reference.PART.updated(text) == text, "stale: python -m ci.cli_reference"
    [commands] = _make_parser()[0]._subparsers._group_actions
    for command in walk(commands):
        if command.name:
            [section] = re.findall(rf"^##+ quantcore {command.name}\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL)
            assert [name for flag in command.flags[1:] for name in flag.names if f"`{name}" not in section] == []


def test_picture_of_speed_is_that_of_the_tables():
    drawn = speed_chart.picture(speed_chart.TABLES.read_text())
    assert speed_chart.PICTURE.read_text() == drawn, "stale: python -m ci.speed_chart"
    faster = speed_chart.TABLES.read_text().replace("ggml 4.3x", "ggml 9.9x")
    assert speed_chart.picture(faster) != drawn


def test_what_misses_the_goals_is_told_of_the_tables(tmp_path, monkeypatch):
    text = misses.DOCUMENT.read_text()
    assert misses.PART.updated(text) == text, "stale: python -m ci.misses"
    slower = tmp_path / "benchmarks.md"
    slower.write_text(text.replace("ggml 4.3x", "ggml 0.5x"))
    monkeypatch.setattr(misses, "DOCUMENT", slower)
    assert "| Works | Q4_0 quantize | 0.5 (ggml, x86_64_v4, 2 threads, float32) |" in misses.part()


def test_the_site_has_every_page_and_the_reference_every_name():
    nav = (ROOT / "mkdocs.yml").read_text()
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    assert [page for page in pages if not re.search(rf"(-|:) {page}\n", nav)] == []
    reference = "\n".join(path.read_text() for path in (ROOT / "docs" / "reference").glob("*.md"))
    shown = re.findall(r"^::: ([\w.]+)$", reference, re.MULTILINE)
    modules = {name: getattr(getattr(quantcore, name), "__module__", None) for name in quantcore.__all__}
    constants = [name for name, module in modules.items() if module is None or not module.startswith("quantcore")]
    assert all(name.isupper() for name in constants)
    full = {name: f"{module}.{name}" for name, module in modules.items() if name not in constants}
    missing = [name for name, path in full.items() if not any(f"{path}.".startswith(f"{each}.") for each in shown)]
    assert missing == []
    wings = [path.parent.name for path in (ROOT / "quantcore").glob("[a-z]*/__init__.py")]
    inside = {"cli", "files"}  # the program, and what the others write files with
    assert [wing for wing in wings if wing not in inside and f"quantcore.{wing}" not in shown] == []


def test_a_stale_table_is_found_and_written(tmp_path, monkeypatch, capsys):
    document = tmp_path / "formats.md"
    begin, end = (f"<!-- made by python -m ci.formats_table: {word} -->" for word in ("begin", "end"))
    document.write_text(f"head\n{begin}\nold\n{end}\ntail\n")
    part = replace(formats_table.PART, document=document)
    monkeypatch.setattr("sys.argv", ["formats_table", "--check"])
    assert part.main("") == 1 and "stale" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["formats_table"])
    assert part.main("") == 0
    text = document.read_text()
    assert text.startswith("head\n") and text.endswith("\ntail\n") and "| Q4_K | 12 | 256 | 144 | 4.5 |" in text
    monkeypatch.setattr("sys.argv", ["formats_table", "--check"])
    assert part.main("") == 0
    document.write_text("no markers")
    with pytest.raises(SystemExit, match="needs the lines"):
        part.main("")


@pytest.mark.parametrize("document", ["README.md", CHOOSING, "docs/formats.md", "docs/benchmarks.md"])
def test_every_type_is_named(document):
    text = (ROOT / document).read_text()
    assert [t.name for t in SUPPORTED_TYPES if t.block_size > 1 and t.name not in text] == []


@pytest.mark.slow
def test_the_page_shows_what_the_demo_prints(capsys):
    text = (ROOT / CHOOSING).read_text()
    shown = re.search(r"^```text\n(A digits classifier.*?)^```$", text, re.MULTILINE | re.DOTALL)[1]
    assert main(["demo"]) == 0
    assert shown.replace("x86_64_v4", isa()) == capsys.readouterr().out


def test_the_types_of_readme_are_those_of_the_page():
    shown, all_rows = (
        set(re.findall(r"^\| I?Q\w+ \|(?:[^|\n]+\|){4}$", (ROOT / name).read_text(), re.MULTILINE))
        for name in ("README.md", CHOOSING)
    )
    assert len(shown) > 5 and shown <= all_rows


def test_readme_links_the_documents():
    text = (ROOT / "README.md").read_text()
    assert [path.name for path in (ROOT / "docs").glob("*.md") if f"(docs/{path.name})" not in text] == []


BRINGS = {
    "torch": {"torch", "ml_dtypes"},
    "dask[array,distributed]": {"dask", "distributed"},
    "faiss-cpu": {"faiss"},
    "transformers": {"transformers", "safetensors", "huggingface_hub"},
}
"""What a requirement installs besides a package of its name, where that is imported by other names."""


def installed_by(text: str) -> set[str]:
    """The packages that the commands `pip install` of a page bring, with the extras of this project."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    found = {"numpy", "quantcore"}
    for command in re.findall(r"`pip install ([^`]+)`", text):
        for word in command.replace("'", "").split():
            own = re.fullmatch(r"quantcore-quantization(?:\[([\w,]+)\])?", word)
            wanted = [line for extra in (own[1] or "").split(",") if extra for line in extras[extra]] if own else [word]
            for name in (re.match(r"[\w-]+(\[[\w,]+\])?", requirement)[0] for requirement in wanted):
                found |= {name} | BRINGS.get(name, set())
    return found


@pytest.mark.parametrize(
    "page", [ROOT / "docs" / "how_to.md", *(ROOT / "docs" / "tutorials").glob("*.md")], ids=relative
)
def test_a_page_says_how_to_install_what_it_imports(page):
    text = page.read_text()
    python = "\n".join(block for _, language, block in blocks(page) if language == "python")
    needed = set(IMPORT.findall(python)) - sys.stdlib_module_names
    needed |= {package for call, packages in IMPLIED.items() if call in python for package in packages}
    needed -= {"bitsandbytes"} if "nf4" not in text else set()  # only such checkpoints need it
    needed |= {"huggingface_hub"} if re.search(r"\bhf download", text) else set()
    assert needed - installed_by(text) == set()
