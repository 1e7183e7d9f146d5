"""Imports point one way and stay light, and every public name is listed and documented."""

import ast
import graphlib
import importlib
import importlib.util
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import quantcore

ROOT = Path(quantcore.__file__).parent
FILES = {
    ".".join(("quantcore", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}

# Modules that few need, and the package that each may import at its top. Only those that need it too import them.
OPTIONAL = {"quantcore.dask": {"dask"}} | {
    name: {"torch"} for name in FILES if name.startswith("quantcore.torch.") or name == "quantcore.torch"
}

# A module may import from its own floor and from those below it. A new module is given its place here.
FLOORS = [
    {"__main__", "cli", "dask"},
    {
        "array_files",
        "benchmark_records",
        "benchmarks",
        "bitsandbytes_checkpoint",
        "bitsandbytes_jobs",
        "calibration_files",
        "comparison",
        "comparison_records",
        "degradation",
        "digits",
        "gguf",
        "inspection",
        "model_suggestion",
        "model_values",
        "report",
        "safetensors",
        "safetensors_writer",
        "statistics_files",
        "torch",
    },
    {
        "affine",
        "affine_parameters",
        "analysis",
        "block_records",
        "blockwise",
        "blockwise_records",
        "calibrate",
        "calibration",
        "calibration_records",
        "clipping",
        "costs",
        "error_records",
        "error_sums",
        "fake_quant",
        "fake_quant_config",
        "fake_quantizer",
        "formats",
        "generators",
        "granularity",
        "histograms",
        "lsq",
        "percentiles",
        "quantized_tensor",
        "sensitivity",
        "statistics",
        "suggestions",
    },
    {
        "_arrays",
        "_files",
        "_json",
        "_parallel",
        "_records",
        "array_slabs",
        "bitsandbytes_layout",
        "codebooks",
        "nibbles",
        "npy",
        "npz",
        "patterns",
        "streaming",
    },
    {
        "_kernels",
        "data",
        "ggml_types",
        "model_report",
        "tables",
    },
    {"_version", "errors"},
]
FLOOR_OF = {name: floor for floor, names in enumerate(FLOORS) for name in names}


def imports(module: str, *, at_import_only: bool = False) -> Iterator[str]:
    """The modules that a module imports, in full; names of the package itself come as ``quantcore``."""
    pending: list[ast.AST] = [ast.parse(FILES[module].read_text())]
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


def own_imports(module: str) -> set[str]:
    return {name for name in imports(module) if name.split(".")[0] == "quantcore"} - {module}


INNER = sorted(set(FILES) - {"quantcore"})


@pytest.mark.parametrize("module", INNER)
def test_imports_point_down(module):
    place = module.split(".")[1]
    assert place in FLOOR_OF, f"{place} has no floor: give it one in FLOORS"
    for name in own_imports(module):
        if name == "quantcore":  # the public names: for the top only
            assert FLOOR_OF[place] == 0
        else:
            assert FLOOR_OF[name.split(".")[1]] >= FLOOR_OF[place], f"{module} imports {name}"


def test_every_floor_is_a_module():
    assert set(FLOOR_OF) == {module.split(".")[1] for module in INNER}


def test_imports_have_no_cycle():
    graphlib.TopologicalSorter({module: own_imports(module) - {"quantcore"} for module in INNER}).prepare()


def test_kernels_import_nothing_of_ours():
    for module in INNER:
        if module.startswith("quantcore._kernels"):
            assert {name for name in own_imports(module) if not name.startswith("quantcore._kernels")} == set()
    sources = [path for suffix in ("pyx", "pxd", "pxi", "pyi") for path in (ROOT / "_kernels").glob(f"*.{suffix}")]
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


def test_quantcore_torch_names_the_package_that_is_missing():
    code = "import sys; sys.modules['torch'] = None; import quantcore.torch"
    environment = os.environ | {"PYTHONPATH": str(ROOT.parent)}
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert child.returncode == 1
    assert "ImportError: quantcore.torch needs the package torch (pip install quantcore[torch])" in child.stderr


def test_import_is_light():
    code = "import sys, quantcore; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    environment = os.environ | {"PYTHONPATH": str(ROOT.parent)}
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    modules = set(child.stdout.split())
    assert "quantcore" in modules
    assert modules & {"dask", "gguf", "matplotlib", "ml_dtypes", "safetensors", "torch", "tqdm"} == set()


# Public names


def is_importable(module: str) -> bool:
    """Whether what an optional module needs is installed."""
    return all(importlib.util.find_spec(package) for package in OPTIONAL.get(module, ()))


def public_modules() -> list[ModuleType]:
    """The modules that say which of their names are public; `_kernels` is not for users."""
    names = [name for name in FILES if not name.startswith("quantcore.__main__") and is_importable(name)]
    modules = [importlib.import_module(name) for name in names]
    return [module for module in modules if hasattr(module, "__all__") and module.__name__ != "quantcore._kernels"]


@pytest.mark.parametrize("module", public_modules(), ids=lambda module: module.__name__)
def test_public_names_are_listed_and_documented(module):
    assert module.__doc__
    assert len(set(module.__all__)) == len(module.__all__)
    assert set(module.__all__) <= set(vars(module))
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


@pytest.mark.parametrize("package", ["quantcore", "quantcore.gguf", "quantcore.torch"])
def test_packages_export_what_they_list_and_nothing_else(package):
    for optional in OPTIONAL.get(package, ()):
        pytest.importorskip(optional)
    module = importlib.import_module(package)
    public = {name for name, value in vars(module).items() if name[0] != "_" and not inspect.ismodule(value)}
    assert public == set(module.__all__)


def test_kernel_stub_lists_what_the_kernels_export():
    stub = ast.parse((ROOT / "_kernels" / "__init__.pyi").read_text())
    named = {node.name for node in stub.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    named |= {node.target.id for node in stub.body if isinstance(node, ast.AnnAssign)}
    assert named == set(importlib.import_module("quantcore._kernels").__all__)
