"""Imports point one way and stay light, and every public name is listed and documented."""

import ast
import graphlib
import importlib
import importlib.util
import inspect
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

import quantcore

ROOT = Path(quantcore.__file__).parent
FILES = {
    ".".join(("quantcore", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}

# Optional modules, and the package that each may import at its top. Only modules with the same need import them.
OPTIONAL = {
    name: packages
    for name in FILES
    for wing, packages in (
        ("quantcore.torch", {"torch"}),
        ("quantcore.arrow", {"pyarrow"}),
        ("quantcore.dask", {"dask"}),
        ("quantcore.onnx", {"onnx", "onnxruntime"}),
    )
    if name.startswith(f"{wing}.") or name == wing
}
OPTIONAL |= {
    "quantcore.zarr": {"numcodecs", "zarr"},
    "quantcore.zarr.codecs": {"zarr"},
    "quantcore.zarr.filters": {"numcodecs"},
}
OPTIONAL["quantcore.torch.layers_of_transformers"] = {"torch", "transformers"}
OPTIONAL |= {f"quantcore.onnx.{name}": {"onnx"} for name in ("graphs", "nodes")}

# A wing may import from those on the lines below its own, and on its own line. A new wing is given its place here.
ORDER = """
    __main__, cli
    report, mixed_precision, demo, torch, arrow, dask, onnx, zarr
    conversion, embeddings
    calibration
    models, array_files
    analysis, qat, gguf, safetensors
    ggml, blockwise, affine, files
    _base
    _kernels
    errors, _version
"""
MOST_MODULES_ON_TOP = 14
LINES = [[name.strip() for name in line.split(",")] for line in ORDER.strip().splitlines()]
LINE_OF = {name: i for i, names in enumerate(LINES) for name in names}


@cache
def parse(module: str) -> ast.Module:
    return ast.parse(FILES[module].read_text())


def imports(module: str, *, at_import_only: bool = False) -> Iterator[str]:
    """The modules that a module imports, in full; names of the package itself come as ``quantcore``."""
    pending: list[ast.AST] = [parse(module)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in FILES else str(node.module) for name in inner)
        if not (at_import_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)):
            pending.extend(ast.iter_child_nodes(node))


@cache
def own_imports(module: str) -> frozenset[str]:
    return frozenset(name for name in imports(module) if name.split(".")[0] == "quantcore") - {module}


INNER = sorted(set(FILES) - {"quantcore"})


def wing_of(module: str) -> str:
    return module.split(".")[1]


@pytest.mark.parametrize("module", INNER)
def test_imports_point_down(module):
    wing = wing_of(module)
    assert wing in LINE_OF, f"{wing} has no place: give it one in ORDER"
    for name in own_imports(module):
        if name == "quantcore":  # the public names: for the command line only
            assert LINE_OF[wing] == 0
        else:
            assert LINE_OF[wing_of(name)] >= LINE_OF[wing], f"{module} imports {name}"


def test_every_wing_has_its_place():
    assert set(LINE_OF) == {wing_of(module) for module in INNER}
    on_top = [path for path in ROOT.glob("*.py") if path.name != "__init__.py"]
    assert len(on_top) <= MOST_MODULES_ON_TOP


@pytest.mark.slow
def test_wings_have_no_cycle():
    graph = {wing_of(module): set() for module in INNER}
    for module in INNER:
        graph[wing_of(module)] |= {wing_of(name) for name in own_imports(module) - {"quantcore"}} - {wing_of(module)}
    graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("wing", sorted({wing_of(name) for name in INNER if name.count(".") > 1} - {"_kernels"}))
def test_other_wings_import_the_face_or_a_module_that_it_names(wing):
    head = ast.get_docstring(ast.parse(FILES[f"quantcore.{wing}"].read_text())) or ""
    for module in INNER:
        if wing_of(module) != wing:
            for name in own_imports(module):
                if name.startswith(f"quantcore.{wing}."):
                    assert re.search(rf"\b{name.split('.')[2]}\b", head), f"{module} imports {name}"


def test_imports_have_no_cycle():
    graphlib.TopologicalSorter({module: own_imports(module) - {"quantcore"} for module in INNER}).prepare()


def test_kernels_import_nothing_of_ours():
    for module in INNER:
        if module.startswith("quantcore._kernels"):
            assert {name for name in own_imports(module) if not name.startswith("quantcore._kernels")} == set()
    sources = [path for suffix in ("pyx", "pxd", "pxi", "pyi") for path in (ROOT / "_kernels").rglob(f"*.{suffix}")]
    for path in sources:
        imported = re.findall(r"^\s*(?:from|import|cimport)\s+(quantcore[\w.]*)", path.read_text(), re.MULTILINE)
        assert [name for name in imported if not name.startswith("quantcore._kernels.")] == [], path.name


@pytest.mark.parametrize("module", FILES)
def test_nothing_but_numpy_is_needed_to_import(module):
    needed = {name.split(".")[0] for name in imports(module, at_import_only=True)}
    assert needed - sys.stdlib_module_names <= {"numpy", "quantcore"} | OPTIONAL.get(module, set())


@pytest.mark.parametrize("module", OPTIONAL)
def test_optional_modules_are_needed_by_nothing(module):
    assert OPTIONAL[module] <= {name.split(".")[0] for name in imports(module, at_import_only=True)}
    for other in FILES:
        has_package = OPTIONAL[module] <= OPTIONAL.get(other, set())
        assert has_package or module not in own_imports(other), f"{other} imports {module}"


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [
        ("quantcore.torch", "torch", "torch"),
        ("quantcore.arrow", "pyarrow", "arrow"),
        ("quantcore.dask", "dask", "dask"),
        ("quantcore.onnx", "onnx", "onnx"),
        ("quantcore.zarr", "zarr", "zarr"),
    ],
)
def test_optional_modules_say_how_to_install_what_is_missing(module, package, extra):
    code = f"import sys; sys.modules['{package}'] = None; import {module}"
    environment = os.environ | {"PYTHONPATH": str(ROOT.parent)}
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert child.returncode == 1
    last = child.stderr.splitlines()[-1]
    assert last.startswith(
        f"quantcore.errors.MissingExtraError: {module} needs {package}: pip install 'quantcore-quantization[{extra}]'"
    )


@pytest.mark.parametrize("statement", ["import quantcore", "import quantcore._kernels", "from quantcore import cli"])
def test_sources_without_kernels_say_so(statement, tmp_path):
    shutil.copytree(ROOT, tmp_path / "quantcore", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    child = subprocess.run(
        [sys.executable, "-P", "-c", f"import sys; sys.path.insert(0, '.'); {statement}"],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert child.returncode == 1
    last = child.stderr.splitlines()[-1]
    assert last.startswith("ImportError: the kernels are not built here: pip install -e . ")
    assert str(tmp_path / "quantcore") in last and "circular" not in child.stderr


def modules_after(code: str) -> set[str]:
    """What a new interpreter has imported once it has run some code."""
    code += "; import sys; print(*sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(ROOT.parent)}
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    return set(child.stdout.split())


def test_import_loads_the_kernels_and_nothing_else():
    ours = {name for name in modules_after("import quantcore") if name.split(".")[0] == "quantcore"}
    level = f"quantcore._kernels._{quantcore.isa()}"
    assert ours == {"quantcore", "quantcore._version", "quantcore._kernels", "quantcore._kernels._core", level}
    assert "quantcore.ggml.formats" in modules_after("import quantcore; quantcore.quantize")


def test_all_public_names_load_no_optional_package():
    loaded = {name.split(".")[0] for name in modules_after("from quantcore import *")}
    assert "quantcore" in loaded
    optional = {"dask", "gguf", "matplotlib", "ml_dtypes", "pyarrow", "safetensors", "torch", "tqdm", "zarr"}
    assert loaded & optional == set()


def test_wings_are_attributes():
    assert quantcore.gguf is importlib.import_module("quantcore.gguf")
    assert "quantcore.gguf" in modules_after("import quantcore; quantcore.gguf")
    with pytest.raises(AttributeError, match=r"^module 'quantcore' has no attribute 'ggfu'$"):
        quantcore.ggfu  # noqa: B018


# Public names


def is_importable(module: str) -> bool:
    """Whether what an optional module and its wing need is installed."""
    wing = ".".join(module.split(".")[:2])
    needed = OPTIONAL.get(module, set()) | OPTIONAL.get(wing, set())
    return all(importlib.util.find_spec(package) for package in needed)


def public_modules() -> list[ModuleType]:
    """The modules that say which of their names are public; `_kernels` is not for users."""
    names = [name for name in FILES if not name.startswith("quantcore.__main__") and is_importable(name)]
    modules = [importlib.import_module(name) for name in names]
    return [module for module in modules if hasattr(module, "__all__") and module.__name__ != "quantcore._kernels"]


@pytest.mark.parametrize("module", public_modules(), ids=lambda module: module.__name__)
def test_public_names_are_listed_and_documented(module):
    assert module.__doc__
    assert len(set(module.__all__)) == len(module.__all__)
    for name in module.__all__:
        assert undocumented(getattr(module, name), name) == []


def undocumented(value: object, name: str) -> list[str]:
    """The public function or class, or those of its methods and properties, that have no docstring of their own."""
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        return []
    names = [] if (value.__doc__ or "").strip() else [name]
    for member, attribute in vars(value).items() if inspect.isclass(value) else ():
        function = getattr(attribute, "__func__", attribute)
        if not member.startswith("_") and (inspect.isfunction(function) or isinstance(function, property)):
            names += [] if (function.__doc__ or "").strip() else [f"{name}.{member}"]
    return names


WINGS = sorted(name for name, path in FILES.items() if path.name == "__init__.py" and "._" not in name)


@pytest.mark.may_skip
@pytest.mark.parametrize("package", WINGS)
def test_packages_export_what_they_list_and_nothing_else(package):
    for optional in OPTIONAL.get(package, ()):
        pytest.importorskip(optional)
    module = importlib.import_module(package)
    for name in getattr(module, "__all__", ()):
        getattr(module, name)  # quantcore's own are imported now
    public = {name for name, value in vars(module).items() if name[0] != "_" and not inspect.ismodule(value)}
    assert public == set(getattr(module, "__all__", ()))


def test_dir_shows_the_public_names_and_the_wings():
    wings = {name.split(".")[1] for name in FILES if name != "quantcore" and not name.split(".")[1].startswith("_")}
    assert set(dir(quantcore)) == set(quantcore.__all__) | wings | {"__version__"}


def test_stub_has_the_wings_and_the_public_names_of_the_same_modules():
    stub = ast.parse((ROOT / "__init__.pyi").read_text())
    imported = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    modules = {alias.name: node.module for node in imported for alias in node.names}
    assert modules == quantcore._HOMES | dict.fromkeys(quantcore._WINGS, "quantcore")
    assert all(alias.asname == alias.name for node in imported for alias in node.names)  # what makes it public
    assert [node.name for node in stub.body if isinstance(node, ast.FunctionDef)] == ["isa"]
    assert set(quantcore.__all__) == {"isa", *quantcore._HOMES}


def test_kernel_stub_lists_what_the_kernels_export():
    stub = ast.parse((ROOT / "_kernels" / "__init__.pyi").read_text())
    named = {node.name for node in stub.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    named |= {node.target.id for node in stub.body if isinstance(node, ast.AnnAssign)}
    assert named == set(importlib.import_module("quantcore._kernels").__all__)


def test_what_conftest_leaves_out_is_there():
    """Files that are only collected where an optional package is installed, under the names that they have now."""
    checkout = Path(__file__).parents[1]
    if not (checkout / "pyproject.toml").exists() or not (checkout / "quantcore").exists():
        pytest.skip("needs the sources")
    needs = re.search(r"^_NEEDS = (\{.*?\n\})", (checkout / "conftest.py").read_text(), re.DOTALL | re.MULTILINE)
    assert needs is not None
    assert [path for path in ast.literal_eval(needs[1]) if not (checkout / path).exists()] == []


def test_every_package_is_installed():
    settings = Path(__file__).parents[1] / "pyproject.toml"
    if not settings.exists():
        pytest.skip("needs the sources: pyproject.toml")
    listed = tomllib.loads(settings.read_text())["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted(name for name, path in FILES.items() if path.name == "__init__.py")
