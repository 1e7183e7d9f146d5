"""Docstrings are in numpydoc's form: underlines on lines of their own, and exactly the parameters that there are."""

import ast
import inspect
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

import quantcore

ROOT = Path(quantcore.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def documented(path: Path) -> Iterator[tuple[str, Documented, str]]:
    """What has a docstring in a file: its name, its node and the docstring."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, Documented) and (text := ast.get_docstring(node)):
            yield getattr(node, "name", path.name), node, text


def misplaced_underlines(text: str) -> list[str]:
    """The lines with an underline that is not below a heading of its length, or not alone on its line."""
    lines = ["", *text.splitlines()]
    pairs = pairwise(lines)
    return [line for above, line in pairs if re.search(r"-{4,}", line) and line != "-" * len(above)]


def section(text: str, title: str) -> list[str] | None:
    """The lines of a section; None if there is none."""
    found = re.search(rf"^{title}\n-+\n(.*?)(?=^\S[^\n]*\n-{{4,}}$|\Z)", text, re.DOTALL | re.MULTILINE)
    return None if found is None else found[1].splitlines()


def named_parameters(lines: list[str]) -> list[str]:
    heads = [line for line in lines if line and not line.startswith(" ")]
    return [name.strip().lstrip("*") for head in heads for name in head.split(" : ")[0].split(",")]


def parameters_of(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> list[str] | None:
    """The parameters of a function, or of the `__init__` of a class; None if the class has none of its own."""
    if isinstance(node, ast.ClassDef):
        own = [item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"]
        return parameters_of(own[0]) if own else None
    args = node.args
    rest = [arg for arg in (args.vararg, args.kwarg) if arg is not None]
    names = [arg.arg for arg in (*args.posonlyargs, *args.args, *args.kwonlyargs, *rest)]
    return [name for name in names if name not in ("self", "cls")]


def differing_parameters(path: Path) -> list[tuple[str, list[str], list[str]]]:
    """What names other parameters in its docstring than it has."""
    found = []
    for name, node, text in documented(path):
        lines = None if isinstance(node, ast.Module) else section(text, "Parameters")
        if lines is not None and not isinstance(node, ast.Module):
            wanted, named = parameters_of(node), named_parameters(lines)
            if wanted is not None and sorted(named) != sorted(wanted):
                found.append((name, named, wanted))
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_underlines_are_below_headings_and_alone_on_their_lines(path):
    assert [(name, bad) for name, _, text in documented(path) if (bad := misplaced_underlines(text))] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_sections_of_parameters_name_exactly_these(path):
    assert differing_parameters(path) == []


def test_what_is_wrong_is_found():
    text = inspect.cleandoc("""
        What it does.

        Parameters
        ----------
        a, b : int
            Both.
        *rest : str

        Notes ----- More.
        """)
    assert misplaced_underlines(text) == ["Notes ----- More."]
    assert named_parameters(section(text, "Parameters") or []) == ["a", "b", "rest", "Notes ----- More."]
    assert named_parameters(section(text.replace("Notes -----", "Notes\n-----\n"), "Parameters") or []) == [
        "a", "b", "rest",
    ]  # fmt: skip
