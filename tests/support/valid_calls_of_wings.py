"""Valid calls of the optional modules, as those of `valid_calls`: a function for each, which imports what it needs."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import quantcore as qc
from tests.support.valid_calls import OFFSET_PARAMS, PARAMS, Call, Files, X, calibrated, call, told

Calls = dict[str, Callable[[Files], Call]]


def demo() -> Calls:
    from quantcore import demo

    return {
        "evaluate_formats": lambda f: call(qc.evaluate_formats, formats=("Q8_0",), folder=None),
        "demo.top1_accuracy": lambda f: call(demo.top1_accuracy, weights=demo.digits_weights()),
    }


def report() -> Calls:
    return {
        "write_report": lambda f: call(
            qc.write_report,
            reference=f.model, quantized=f.model, target=f.new(".html"), seed=0, force=False, n_threads=1,
            progress=told,
        ),
    }  # fmt: skip


def arrow() -> Calls:
    import pyarrow as pa

    from quantcore import arrow

    column = pa.array(X.tolist(), pa.list_(pa.float32(), 128))
    codes = arrow.quantize(column)
    table = pa.table({"a": column})
    common: Any = {"granularity": "dimension", "on_bad": "error", "n_threads": 1}
    return {
        "arrow.AffineType": lambda f: call(arrow.AffineType, params=OFFSET_PARAMS, n_dimensions=2),
        "arrow.BlockType": lambda f: call(arrow.BlockType, qtype=qc.GGUFQuantType.Q8_0, n_dimensions=128),
        "arrow.calibrate": lambda f: call(
            arrow.calibrate, column=column, calibrator=qc.Calibrator.min_max(), on_bad="error", n_threads=1
        ),
        "arrow.quantize": lambda f: call(arrow.quantize, column=column, scheme="uint8", params=None, **common),
        "arrow.dequantize": lambda f: call(arrow.dequantize, column=codes, params=None, dtype="float32", n_threads=1),
        "arrow.params_of": lambda f: call(arrow.params_of, column=codes),
        "arrow.to_numpy": lambda f: call(arrow.to_numpy, column=column),
        "arrow.quantize_table": lambda f: call(
            arrow.quantize_table, table=table, columns=["a"], scheme="uint8", **common
        ),
        "arrow.dequantize_table": lambda f: call(
            arrow.dequantize_table, table=arrow.quantize_table(table, "a"), columns=["a"], n_threads=1
        ),
    }


def zarr() -> Calls:
    from quantcore import zarr

    affine: Any = {"params": None, "granularity": "per_tensor", "mode": "symmetric", "bits": 8}
    by_block: Any = {"format": "Q8_0", "block_size": None}

    def affine_filter() -> Any:
        return zarr.AffineFilter(PARAMS)

    def block_filter() -> Any:
        return zarr.BlockFilter("Q8_0")

    return {
        "zarr.AffineCodec": lambda f: call(zarr.AffineCodec, **affine),
        "zarr.AffineCodec.from_dict": lambda f: call(zarr.AffineCodec.from_dict, data=zarr.AffineCodec().to_dict()),
        "zarr.BlockCodec": lambda f: call(zarr.BlockCodec, **by_block),
        "zarr.BlockCodec.from_dict": lambda f: call(zarr.BlockCodec.from_dict, data=zarr.BlockCodec("Q8_0").to_dict()),
        "zarr.AffineFilter": lambda f: call(zarr.AffineFilter, dtype="<f4", **affine),
        "zarr.AffineFilter.encode": lambda f: call(affine_filter().encode, buf=X),
        "zarr.AffineFilter.decode": lambda f: call(affine_filter().decode, buf=affine_filter().encode(X), out=None),
        "zarr.AffineFilter.from_config": lambda f: call(
            zarr.AffineFilter.from_config, config=affine_filter().get_config()
        ),
        "zarr.BlockFilter": lambda f: call(zarr.BlockFilter, dtype="<f4", **by_block),
        "zarr.BlockFilter.encode": lambda f: call(block_filter().encode, buf=X),
        "zarr.BlockFilter.decode": lambda f: call(block_filter().decode, buf=block_filter().encode(X), out=None),
        "zarr.BlockFilter.from_config": lambda f: call(
            zarr.BlockFilter.from_config, config=block_filter().get_config()
        ),
        "zarr.standard_codecs": lambda f: call(zarr.standard_codecs, params=PARAMS),
    }


def dask() -> Calls:
    import dask.array as da

    import quantcore.dask as qd

    array = da.from_array(X, chunks=(1, 128))
    return {
        "dask.quantize": lambda f: call(
            _quantized, array=array, scheme="Q4_0", imatrix=np.ones(128), effort="reference"
        ),
        "dask.dequantize": lambda f: call(
            _dequantized, array=qd.quantize(array, "Q8_0"), scheme="Q8_0", dtype="float32"
        ),
        "dask.calibrate": lambda f: call(qd.calibrate, array=array, calibrator=qc.Calibrator.min_max()),
        "dask.quantize_checkpoint": lambda f: call(
            qd.quantize_checkpoint,
            source=f.checkpoint, target=f.new(), quant_type="nf4", client=None, block_size=64, double_quant=False,
            exclude=("b",), compute_dtype="float32", quant_storage="uint8", force=False, n_threads=1,
        ),
    }  # fmt: skip


def _quantized(**arguments: Any) -> Any:
    from quantcore.dask import quantize

    return quantize(**arguments).compute(scheduler="synchronous")


def _dequantized(**arguments: Any) -> Any:
    from quantcore.dask import dequantize

    return dequantize(**arguments).compute(scheduler="synchronous")


def onnx() -> Calls:
    from onnx import TensorProto, helper, numpy_helper

    import quantcore.onnx as qo

    weight = numpy_helper.from_array(np.ascontiguousarray(X.T), "w")
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", ["n", 128]), ("y", ["n", 2]))]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "net", ends[:1], ends[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return {
        "onnx.calibrate_activations": lambda f: call(
            qo.calibrate_activations, model=model, batches=[{"x": X}], calibrator=qc.Calibrator.min_max()
        ),
        "onnx.quantize_static": lambda f: call(
            qo.quantize_static,
            model=model, path=f.new(".onnx"), calibrators={"x": calibrated()}, per_channel=True, reduce_range=False,
            force=False,
        ),
    }  # fmt: skip


def torch() -> Calls:
    import torch
    from torch import nn

    import quantcore.torch as qt

    x = torch.from_numpy(X)
    adapters: Any = {"rank": 2, "alpha": 1.0, "dropout": 0.0}
    packed: Any = {"quant_type": "nf4", "block_size": 64, "scale_code": None, **adapters}

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(128, 4))

    def adapted() -> nn.Module:
        return nn.Sequential(qt.Linear4bit.from_linear(nn.Linear(128, 4), rank=2))

    def switched(switch: Any) -> Callable[[Files], Call]:
        return lambda f: call(switch, module=qt.FakeQuantize())

    return {
        "torch.FakeQuantize": lambda f: call(
            qt.FakeQuantize,
            bits=8, symmetric=True, granularity="per_tensor", narrow_range=True, observer="min_max", learn_scale=False,
        ),
        "torch.FakeQuantize.along": lambda f: call(qt.FakeQuantize().along, axis=0),
        "torch.FakeQuantize.allocate": lambda f: call(qt.FakeQuantize().allocate, shape=(2, 128)),
        "torch.FakeQuantize.calibrate": lambda f: call(qt.FakeQuantize().calibrate, x=x),
        "torch.FakeQuantize.forward": lambda f: call(qt.FakeQuantize().forward, x=x),
        "torch.FakeQuantize.preview": lambda f: call(qt.FakeQuantize().preview, x=x),
        "torch.FakeQuantize.enable_fake_quant": lambda f: call(qt.FakeQuantize().enable_fake_quant, enabled=True),
        "torch.FakeQuantize.enable_observer": lambda f: call(qt.FakeQuantize().enable_observer, enabled=True),
        "torch.FakeQuantize.set_extra_state": lambda f: call(
            qt.FakeQuantize().set_extra_state, state=qt.FakeQuantize().get_extra_state()
        ),
        "torch.Linear4bit": lambda f: call(qt.Linear4bit, in_features=128, out_features=4, bias=True, **packed),
        "torch.Linear4bit.from_linear": lambda f: call(
            qt.Linear4bit.from_linear, linear=nn.Linear(128, 4), **packed
        ),
        "torch.Linear4bit.from_quantized": lambda f: call(
            qt.Linear4bit.from_quantized,
            q=qc.quantize_4bit(X), bias=torch.zeros(2), rank=2, alpha=1.0, dropout=0.0,
        ),
        "torch.Linear4bit.forward": lambda f: call(adapted()[0].forward, x=x),
        "torch.Linear4bit.set_extra_state": lambda f: call(
            adapted()[0].set_extra_state, state=adapted()[0].get_extra_state()
        ),
        "torch.collect_imatrix": lambda f: call(
            qt.collect_imatrix,
            model=model(), batches=[x], names={"0.weight": "a"}, process_output=False, datasets=("a",), chunk_size=512,
        ),
        "torch.convert": lambda f: call(qt.convert, model=_trained(qt, model(), x), fold_batch_norm=False),
        "torch.prepare_qat": lambda f: call(
            qt.prepare_qat, model=model(), weight=None, activation=None, modules=None, fold_batch_norm=False
        ),
        **{
            f"torch.{switch.__name__}": switched(switch)
            for switch in (qt.enable_fake_quant, qt.disable_fake_quant, qt.enable_observer, qt.disable_observer)
        },
        "torch.fake_quantize": lambda f: call(qt.fake_quantize, x=x, params=PARAMS),
        "torch.fake_quantize_learned": lambda f: call(
            qt.fake_quantize_learned,
            x=x, scale=torch.ones(1), zero_point=torch.zeros(1), bits=8, granularity="per_tensor", narrow_range=True,
            grad_factor=1.0,
        ),
        "torch.fold_batch_norms": lambda f: call(qt.fold_batch_norms, model=model()),
        "torch.load_qlora": lambda f: call(
            qt.load_qlora, model=_as_checkpoint(nn), checkpoint=f.codes, adapters=["output"], **adapters
        ),
        "torch.merge_qlora": lambda f: call(qt.merge_qlora, model=adapted(), dtype=torch.float32),
        "torch.prepare_qlora": lambda f: call(
            qt.prepare_qlora,
            model=model(), modules=[nn.Linear], exclude=(), adapters=["0"], quant_type="nf4", block_size=64,
            scale_code=None, **adapters,
        ),
        "torch.matmul_4bit": lambda f: call(qt.matmul_4bit, x=x, q=qc.quantize_4bit(X), bias=torch.zeros(2)),
        "torch.save_peft_adapter": lambda f: call(
            qt.save_peft_adapter,
            model=adapted(), folder=f.new(), base_model="a", task_type="CAUSAL_LM", force=False,
        ),
    }  # fmt: skip


def _as_checkpoint(nn: Any) -> Any:
    """A model whose parameters have the names of the tensors in the files."""
    layers = {name: nn.Linear(64, 4, bias=False) for name in ("token_embd", "output")}
    block = nn.ModuleDict({"attn_q": nn.Linear(64, 64, bias=False)})
    return nn.ModuleDict({**layers, "blk": nn.ModuleList([block])})


def _trained(qt: Any, model: Any, x: Any) -> Any:
    prepared = qt.prepare_qat(model)
    prepared(x)
    return prepared


class Wing(NamedTuple):
    """Optional modules: the packages that they need, and their calls."""

    modules: tuple[str, ...]
    packages: tuple[str, ...]
    calls: Callable[[], Calls]


WINGS = {
    "arrow": Wing(("quantcore.arrow",), ("pyarrow",), arrow),
    "dask": Wing(("quantcore.dask",), ("dask",), dask),
    "demo": Wing(("quantcore", "quantcore.demo"), (), demo),
    "onnx": Wing(("quantcore.onnx",), ("onnx", "onnxruntime"), onnx),
    "report": Wing(("quantcore", "quantcore.report"), ("matplotlib",), report),
    "torch": Wing(("quantcore.torch",), ("torch",), torch),
    "zarr": Wing(("quantcore.zarr",), ("zarr",), zarr),
}
