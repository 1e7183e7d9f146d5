"""llama.cpp b11739's `llama_model_quantize` with all of its parameters, from the wheel llama-cpp-py-sync.

This file is run as a script by the python that has the wheel, one process for many jobs, since a process can hold one
libggml only. The wheel needs glibc 2.38. No test needs it: it makes the golden digests (`make_golden_models`).
"""

import ctypes
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

_VALUES = {"int": (0, "i", int), "float": (1, "f", float), "bool": (2, "b", bool), "str": (3, "s", str.encode)}


class _Weights(ctypes.Structure):
    """`struct llama_model_imatrix_data` of llama.h; the following ones likewise."""

    _fields_ = (("name", ctypes.c_char_p), ("data", ctypes.c_void_p), ("size", ctypes.c_size_t))


class _TypeOverride(ctypes.Structure):
    _fields_ = (("pattern", ctypes.c_char_p), ("type", ctypes.c_int))


class _Value(ctypes.Union):
    _fields_ = (("i", ctypes.c_int64), ("f", ctypes.c_double), ("b", ctypes.c_bool), ("s", ctypes.c_char * 128))


class _KeyOverride(ctypes.Structure):
    _fields_ = (("tag", ctypes.c_int), ("key", ctypes.c_char * 128), ("value", _Value))


class _Params(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int) for name in ("nthread", "ftype", "output_tensor_type", "token_embedding_type")),
        *((name, ctypes.c_bool) for name in ("allow_requantize", "quantize_output_tensor", "only_copy", "pure",
                                             "keep_split", "dry_run")),
        ("imatrix", ctypes.POINTER(_Weights)), ("kv_overrides", ctypes.POINTER(_KeyOverride)),
        ("tt_overrides", ctypes.POINTER(_TypeOverride)), ("prune_layers", ctypes.POINTER(ctypes.c_int32)),
        ("max_buf_size", ctypes.c_size_t),
    )  # fmt: skip


class _ModelDescription(ctypes.Structure):
    """`struct llama_quant_model_desc` of llama-ext.h."""

    _fields_ = (("architecture", ctypes.c_char_p), *((name, ctypes.c_uint32) for name in (
        "n_embd", "n_ff", "n_layer", "n_head", "n_head_kv", "n_expert", "n_embd_head_k", "n_embd_head_v",
    )))  # fmt: skip


class _ContextParams(ctypes.Structure):
    """`struct ggml_init_params` of ggml.h."""

    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


def run(python: str, jobs: list[dict[str, Any]]) -> list[int]:
    """The status of each job: `source`, `target`, `ftype`, optional fields of the parameters, and `imatrix`, lists of
    float32 numbers by the tensors' names.
    """
    statuses: list[int] = _request(python, {"jobs": jobs})
    return statuses


def choose_types(python: str, models: list[dict[str, Any]], file_types: list[int]) -> list[list[list[int]]]:
    """ggml's id of the type of each tensor, by model and file type: what `llama_quant_compute_types` chooses.

    A model has the fields of `llama_quant_model_desc`, and `tensors`: pairs of a name and a shape, the innermost extent
    first.
    """
    types: list[list[list[int]]] = _request(python, {"models": models, "file_types": file_types})
    return types


def _request(python: str, request: dict[str, Any]) -> Any:
    process = subprocess.run(
        [python, __file__], input=json.dumps(request), stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(process.stdout.splitlines()[-1])


def _load() -> ctypes.CDLL:
    spec = importlib.util.find_spec("llama_cpp_py_sync")
    assert spec is not None and spec.submodule_search_locations is not None
    folder = Path(spec.submodule_search_locations[0])
    # What makes the library load on an older glibc, if somebody put it there.
    names = ["libshim238.so", "libggml-base.so.0", "libllama.so"]
    loaded = [ctypes.CDLL(str(folder / name), mode=ctypes.RTLD_GLOBAL) for name in names if (folder / name).exists()]
    return loaded[-1]


def _quantize(library: ctypes.CDLL, job: dict[str, Any]) -> int:
    params = library.llama_model_quantize_default_params()
    params.nthread = 2
    kept: list[Any] = []
    for name, value in job.items():
        if name == "imatrix":
            arrays = {key: (ctypes.c_float * len(numbers))(*numbers) for key, numbers in value.items()}
            entries = [_Weights(key.encode(), ctypes.addressof(a), len(a)) for key, a in arrays.items()]
            params.imatrix = (_Weights * (len(entries) + 1))(*entries)
            kept.append(arrays)
        elif name == "tensor_types":
            entries = [_TypeOverride(pattern.encode(), type_id) for pattern, type_id in value]
            params.tt_overrides = (_TypeOverride * (len(entries) + 1))(*entries)
        elif name == "prune_layers":
            params.prune_layers = (ctypes.c_int32 * (len(value) + 1))(*value, -1)
        elif name == "kv_overrides":
            params.kv_overrides = (_KeyOverride * (len(value) + 1))(*(_key_override(*entry) for entry in value))
        elif name not in ("source", "target"):
            setattr(params, name, value)
    return library.llama_model_quantize(job["source"].encode(), job["target"].encode(), ctypes.byref(params))


def _key_override(key: str, kind: str, value: Any) -> _KeyOverride:
    tag, member, convert = _VALUES[kind]
    entry = _KeyOverride(tag, key.encode())
    setattr(entry.value, member, convert(value))
    return entry


def _choose_types(library: ctypes.CDLL, model: dict[str, Any], file_types: list[int]) -> list[list[int]]:
    describe = library["_Z31llama_quant_model_from_metadataPK22llama_quant_model_desc"]
    start = library["_Z16llama_quant_initPK11llama_modelPK27llama_model_quantize_params"]
    compute = library["_Z25llama_quant_compute_typesP19quantize_state_impl11llama_ftypePP11ggml_tensorP9ggml_typem"]
    for function in (describe, start, library.ggml_init, library.ggml_new_tensor):
        function.restype = ctypes.c_void_p
    fields = {key: value for key, value in model.items() if key not in ("tensors", "architecture")}
    made = describe(ctypes.byref(_ModelDescription(architecture=model["architecture"].encode(), **fields)))
    params = library.llama_model_quantize_default_params()
    state = start(ctypes.c_void_p(made), ctypes.byref(params))
    n = len(model["tensors"])
    library.ggml_init.argtypes = [_ContextParams]
    context = library.ggml_init(_ContextParams(1024 * (n + 1), None, True))
    tensors = (ctypes.c_void_p * n)()
    for i, (name, shape) in enumerate(model["tensors"]):
        extents = (ctypes.c_int64 * len(shape))(*shape)
        tensors[i] = library.ggml_new_tensor(ctypes.c_void_p(context), 0, len(shape), extents)
        library.ggml_set_name(ctypes.c_void_p(tensors[i]), name.encode())
    found = []
    for file_type in file_types:
        types = (ctypes.c_int * n)()
        compute(ctypes.c_void_p(state), file_type, tensors, types, ctypes.c_size_t(n))
        found.append(list(types))
    return found


def main() -> None:
    """Answer the request on stdin; the answer is the last line of stdout."""
    library = _load()
    library.llama_model_quantize_default_params.restype = _Params
    library.llama_model_quantize.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.POINTER(_Params)]
    library.llama_backend_init()
    request = json.load(sys.stdin)
    if "jobs" in request:
        answer: list[Any] = [_quantize(library, job) for job in request["jobs"]]
    else:
        answer = [_choose_types(library, model, request["file_types"]) for model in request["models"]]
    print("\n" + json.dumps(answer))


if __name__ == "__main__":
    main()
