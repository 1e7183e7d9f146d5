"""Importance matrices of models in torch: the squares of what each linear layer is given, summed up while it runs.

`imatrix_names` says where the sums of a layer belong, `imatrix_sums` keeps them.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from quantcore._base import arguments
from quantcore.errors import InvalidTypeError, InvalidValueError
from quantcore.gguf.imatrix import Imatrix
from quantcore.torch.imatrix_names import Names, Placing, gguf_places, given_places
from quantcore.torch.imatrix_sums import Place, Sums

__all__ = ["collect_imatrix"]

_CONVOLUTIONS = (nn.Conv1d, nn.ConvTranspose1d)


def collect_imatrix(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    names: Names | None = None,
    process_output: bool = False,
    datasets: Iterable[str] = (),
    chunk_size: int = 512,
) -> Imatrix:
    """Run a model and collect the mean square of every input channel of its linear layers, as llama-imatrix does.

    Parameters
    ----------
    model : torch.nn.Module
        Run without gradients and in `eval()`, which is undone afterwards. Its Linear layers are watched, subclasses
        and the Conv1D of transformers' GPT-2 included, and the experts that transformers 5 keeps in one parameter.
    batches : iterable
        What the model is called with: a mapping is taken as keyword arguments, a tuple or list as positional ones.
        Every row counts, padding too.
    names : mapping or callable, optional
        From the name of a weight (`model.layers.0.mlp.up_proj.weight`) to that of the tensor in the GGUF file
        (`blk.0.ffn_up.weight`); or to a pair of it and the number of the expert, for experts that are stacked there;
        or to a list of those. None for a name: the layer is left out. By default a model of transformers that
        `quantcore quantize` converts has the names of the GGUF file that it becomes, for which the package `gguf` is
        needed; other models have their own names.
    process_output : bool, default False
        Whether the output matrix of such a model is among them, as with the option of llama-imatrix. By default only
        the layers are, since that matrix is better quantized without importance.
    datasets : iterable of str, optional
        What to call the source of the batches.
    chunk_size : int, default 512
        Rows that make a chunk, of which the file tells the number.

    Returns
    -------
    Imatrix
        Squares are added up in float64, one number per input channel; files have the sums in float32, as those of
        llama-imatrix.

    Raises
    ------
    ValueError
        No layer was used; two layers have one name and different widths; an input is not finite: the layer is named.
    TypeError
        `model` is not a module.
    MissingExtraError
        The package `gguf` is missing.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(2, 1))
    >>> matrix = collect_imatrix(model, [torch.tensor([[1.0, 2.0], [3.0, 0.0]])])
    >>> matrix.weights("0.weight")
    array([[5., 2.]], dtype=float32)
    """
    if not isinstance(model, nn.Module):
        raise InvalidTypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    size = arguments.integer(chunk_size, "chunk_size", 1)
    sources = tuple(arguments.text(name, "datasets") for name in arguments.entries(datasets, "datasets", "names"))
    with_output = arguments.flag(process_output, "process_output")
    found = gguf_places(model, process_output=with_output) if names is None else None
    sums = Sums()
    with _watching(model, found or given_places(names), sums) as stacks, _evaluating(model), torch.no_grad():
        for batch in arguments.iterator(batches, "batches", "batches"):
            _call(model, batch)
    if unseen := [stack.name for stack in stacks if found is not None and not stack.is_seen]:
        warnings.warn(
            f"collect_imatrix: experts that were not seen: {', '.join(unseen)}; their layers were not used, or do not "
            "run as loops over torch.nn.functional.linear",
            stacklevel=2,
        )
    entries = sums.entries()
    if not entries:
        raise InvalidValueError("collect_imatrix: no linear layer was given anything")
    most = max(int(entry.counts.max()) for entry in entries.values())
    return Imatrix(entries, sources, -(-most // size), size)


class _Stack:
    """A parameter that holds the matrices of all experts of a layer, of shape (experts, rows, cols)."""

    def __init__(self, name: str, parameter: nn.Parameter, places: tuple[Place, ...]) -> None:
        self.name = name
        self.parameter = parameter
        self.places = places
        self.is_seen = False

    def places_of(self, weight: torch.Tensor) -> tuple[Place, ...]:
        """Those of the expert whose matrix a view of the parameter is."""
        whole = self.parameter
        if weight.shape != whole.shape[1:] or weight.stride() != whole.stride()[1:]:
            return ()
        self.is_seen = True
        expert = (weight.storage_offset() - whole.storage_offset()) // whole.stride(0)
        return tuple((name, first + expert) for name, first in self.places)


class _WatchedStacks(TorchFunctionMode):  # type: ignore[misc,unused-ignore]
    """Sees every call of `torch.nn.functional.linear` with a matrix of a stack."""

    def __init__(self, stacks: Iterable[_Stack], sums: Sums) -> None:
        super().__init__()
        self._stacks = {stack.parameter.untyped_storage().data_ptr(): stack for stack in stacks}
        self._sums = sums

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is nn.functional.linear and len(args) >= 2:
            x, weight = args[:2]
            if (stack := self._stacks.get(weight.untyped_storage().data_ptr())) is not None:
                self._sums.add(stack.places_of(weight), x, f"{stack.name}.input")
        return func(*args, **(kwargs or {}))


@contextmanager
def _watching(model: nn.Module, place: Placing, sums: Sums) -> Iterator[list[_Stack]]:
    """Watch all linear layers and stacks that have a place while the context lasts."""
    with ExitStack() as exits:
        for name, module in model.named_modules():
            if _is_linear(module) and (places := place(f"{name}.weight".lstrip("."))):
                sums.expect(places)
                hook = module.register_forward_pre_hook(_watch(sums, places, name), with_kwargs=True)
                exits.callback(hook.remove)
        stacks = []
        kernels = {id(module.weight) for module in model.modules() if isinstance(module, _CONVOLUTIONS)}
        for name, parameter in model.named_parameters():
            if parameter.ndim == 3 and id(parameter) not in kernels and (places := place(name)):
                stacks.append(_Stack(name, parameter, places))
                sums.expect([(target, first + i) for target, first in places for i in range(len(parameter))])
        if stacks:
            exits.enter_context(_looping_over_experts(model))
            exits.enter_context(_WatchedStacks(stacks, sums))
        yield stacks


@contextmanager
def _looping_over_experts(model: nn.Module) -> Iterator[None]:
    """Have transformers compute experts one after the other, as it can since version 5."""
    for module in model.modules():
        if hasattr(type(module), "set_experts_implementation"):
            outer: Any = module  # It passes the choice on to those within.
            before = outer.config._experts_implementation
            outer.set_experts_implementation("eager")
            try:
                yield
            finally:
                outer.set_experts_implementation(before)
            return
    yield


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    was_training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in was_training.items():
            module.training = training


def _is_linear(module: nn.Module) -> bool:
    is_conv1d = type(module).__name__ == "Conv1D" and hasattr(module, "nf")
    return isinstance(module, nn.Linear) or is_conv1d


def _watch(sums: Sums, places: tuple[Place, ...], name: str) -> Callable[..., None]:
    def watch(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = args[0] if args else kwargs.get("input", kwargs.get("x"))
        if isinstance(x, torch.Tensor):
            sums.add(places, x, f"{name or 'the model'}.input")

    return watch


def _call(model: nn.Module, batch: Any) -> None:
    if isinstance(batch, Mapping):
        model(**batch)
    elif isinstance(batch, tuple | list):
        model(*batch)
    else:
        model(batch)
