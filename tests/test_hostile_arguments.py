"""Every public call with one argument that makes no sense: it works all the same, or is refused in one line of ours."""

import importlib
import inspect
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import quantcore
from quantcore import Blocks, QuantcoreError
from quantcore.gguf import quants
from quantcore.gguf.quants import BlockType
from tests.support.valid_calls import CALLS, INTERNAL, Call, Files
from tests.support.valid_calls_of_wings import WINGS

PUBLIC = (
    "quantcore", "quantcore.affine", "quantcore.analysis", "quantcore.array_files", "quantcore.arrow",
    "quantcore.blockwise", "quantcore.calibration", "quantcore.conversion", "quantcore.dask", "quantcore.demo",
    "quantcore.embeddings", "quantcore.ggml", "quantcore.gguf", "quantcore.gguf.quants", "quantcore.mixed_precision",
    "quantcore.models", "quantcore.onnx", "quantcore.qat", "quantcore.report", "quantcore.safetensors",
    "quantcore.torch", "quantcore.zarr",
)  # fmt: skip
# Records that only functions make: whatever is put into one comes out again; and a class without instances.
UNCHECKED = {
    "BlockType", "Checkpoint", "FormatEvaluation", "GGMLType", "GGUFModel", "Model", "ModelComparison", "ModelReport",
    "ModelSuggestion", "ModelTensor", "PartReport", "SplitReport", "StoredArray", "TensorComparison",
    "TensorInfo", "TensorReport", "TypeSuggestion",
}  # fmt: skip
SLOW = {"BenchmarkSuite.plot", "models.ModelComparison.plot", "quantize_model", "suggest_model_types"}
# A model of torch takes what it likes, and says itself what is wrong with a batch.
PASSED_ON = {("torch.collect_imatrix", "batches")}
# Not among the tests' own requirements: ci/transformers.sh installs it, and allows no skip.
NEEDS_ONNX = {"onnx", "quantcore.onnx"}
NO_ITERABLES = ("None", "a float", "an object", "a failure")


class Fails:
    """An object that fails whatever is asked."""

    def _fail(self, *arguments: Any) -> Any:
        raise ZeroDivisionError("an object\nof two lines")

    __array__ = __fspath__ = __index__ = __float__ = __len__ = __iter__ = __getitem__ = __eq__ = _fail
    __bool__ = __repr__ = __str__ = __lt__ = __contains__ = __buffer__ = _fail
    __hash__ = _fail  # type: ignore[assignment]
    dtype = shape = ndim = property(_fail)


class LiesAboutItsPath:
    def __fspath__(self) -> Any:
        return 3


class Takes:
    """Any arguments, as a function that is told something may."""

    def __init__(self, *arguments: Any) -> None:
        pass


def fails_midway() -> Iterator[str]:
    yield "output"
    raise ZeroDivisionError


HOSTILE: dict[str, Any] = {
    "None": lambda: None,
    "a float": lambda: 3.5,
    "NaN": lambda: math.nan,
    "a negative": lambda: -1,
    "2**70": lambda: 2**70,
    "5000 digits": lambda: 10**5000,
    "a bool": lambda: True,
    "an object": object,
    "a class": lambda: Takes,
    "an empty list": list,
    "a nested list": lambda: [[1], [2, 3]],
    "a list of objects": lambda: [object()],
    "a list of failures": lambda: [Fails()],
    "an empty dictionary": dict,
    "a dictionary": lambda: {"a": object()},
    "a dictionary of numbers": lambda: {1: 2},
    "a nested dictionary": lambda: {"a": {"b": object()}},
    "a list of numbers": lambda: [3.5, -1, math.nan],
    "no elements": lambda: np.zeros(0, np.float32),
    "no dimensions": lambda: np.zeros((), np.float32),
    "an array of text": lambda: np.array(["x"]),
    "an array of objects": lambda: np.array([object()]),
    "many dimensions": lambda: np.zeros((1,) * 20, np.float32),
    "bytes": lambda: b"x",
    "no text": lambda: "",
    "two lines": lambda: "x\ny",
    "a NUL": lambda: "\0",
    "half a pair": lambda: "\ud800",
    "long text": lambda: "x" * 10_000,
    "a failure": Fails,
    "no path": LiesAboutItsPath,
    "an iterator that fails": fails_midway,
}


def spoiled(name: str, make: Callable[[Files], Call], files: Files) -> Iterator[tuple[str, Call]]:
    """The call with one argument after the other replaced by each of the hostile ones."""
    for parameter in make(files)[1]:
        for what, hostile in HOSTILE.items():
            if (name, parameter) not in PASSED_ON or what in NO_ITERABLES:
                function, arguments = make(files)
                yield f"{parameter}: {what}", (function, arguments | {parameter: hostile()})


def problem_of(call: Call) -> str | None:
    """What is wrong with how a call ends."""
    function, arguments = call
    try:
        result = function(**arguments)
        if inspect.isgenerator(result):
            list(result)
    except (QuantcoreError, OSError) as error:
        text = str(error)
        return None if text.isprintable() and text else f"{type(error).__name__} of {text!r}"
    except Exception as error:
        place = error.__traceback__
        while place and place.tb_next:
            place = place.tb_next
        where = f"{Path(place.tb_frame.f_code.co_filename).name}:{place.tb_lineno}" if place else ""
        return f"{type(error).__name__} from {where}"
    return None


def may_skip_onnx(names: Iterable[str]) -> list[Any]:
    return [pytest.param(name, marks=pytest.mark.may_skip) if name in NEEDS_ONNX else name for name in names]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("files"))


def problems_of(name: str, make: Callable[[Files], Call], files: Files) -> list[str]:
    function, arguments = make(files)
    function(**arguments)
    found = ((which, problem_of(call)) for which, call in spoiled(name, make, files))
    return [f"{name}: {which}: {problem}" for which, problem in found if problem is not None]


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in CALLS])
def test_a_hostile_argument_is_refused_in_one_line(name, files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    warnings.simplefilter("ignore")
    problems = problems_of(name, CALLS[name], files)
    assert not problems, "\n".join(problems)


@pytest.mark.slow
@pytest.mark.parametrize("wing", may_skip_onnx(WINGS))
def test_a_hostile_argument_of_an_optional_module_is_refused_in_one_line(wing, files, tmp_path, monkeypatch):
    for package in WINGS[wing].packages:
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    warnings.simplefilter("ignore")
    problems = [p for name, make in WINGS[wing].calls().items() for p in problems_of(name, make, files)]
    assert not problems, "\n".join(problems)


def has_arguments(function: Any) -> bool:
    kinds = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    return any(p.name != "self" and p.kind not in kinds for p in inspect.signature(function).parameters.values())


def methods_of(kind: type) -> Iterator[str]:
    for name in dir(kind):
        owner = next(base for base in kind.__mro__ if name in vars(base) or base is object)
        member = getattr(kind, name)
        is_ours = owner.__module__.startswith("quantcore") and not name.startswith("_")
        if f"{kind.__name__}.{name}" in INTERNAL:
            continue
        if is_ours and (inspect.isfunction(member) or inspect.ismethod(member)) and has_arguments(member):
            yield name


def is_checked_elsewhere(kind: type) -> bool:
    """Whether it is Python that checks the arguments, or a class that stands for all of its kind."""
    return issubclass(kind, (BaseException, Enum, tuple)) or any(
        issubclass(kind, base) and kind is not base for base in (Blocks, BlockType)
    )


def public_calls(module_name: str) -> Iterator[str]:
    """The public functions and methods of a module that take arguments; those of the package itself by their name."""
    module = importlib.import_module(module_name)
    prefix = module_name.removeprefix("quantcore").removeprefix(".")
    names = [*module.__all__, "BlockType"] if module is quants else module.__all__
    for name in names:
        entry = getattr(module, name)
        where = f"{prefix}.{name}" if prefix and getattr(quantcore, name, None) is not entry else name
        if not isinstance(entry, type):
            if callable(entry) and has_arguments(entry):
                yield where
        elif not is_checked_elsewhere(entry):
            if name not in UNCHECKED:
                yield where
            yield from (f"{where}.{method}" for method in methods_of(entry))


@pytest.mark.parametrize("module", may_skip_onnx(PUBLIC))
def test_every_public_call_is_tried(module):
    for wing in WINGS.values():
        if module in wing.modules:
            for package in wing.packages:
                pytest.importorskip(package)
    known = CALLS.keys() | {name for wing in WINGS.values() if module in wing.modules for name in wing.calls()}
    missing = set(public_calls(module)) - known
    assert not missing


def test_what_is_raw_is_found():
    def fails(value: Any) -> Any:
        return value + 1

    problems = problems_of("fails", lambda _: (fails, {"value": 1}), None)
    assert any(
        problem.startswith("fails: value: None: TypeError from test_hostile_arguments.py:") for problem in problems
    )
