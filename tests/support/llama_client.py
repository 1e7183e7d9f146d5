"""llama.cpp for the tests, always in a process of its own.

A process can hold one libggml only, so the two Python builds of llama.cpp (xllamacpp runs models, cyllama carries
`llama_model_quantize`) are imported by this file run as a script, never by a test. The functions for the tests start
that script: the request goes to its stdin as JSON, the answer comes from its stdout as JSON. The C++ side logs to file
descriptor 1 as well, so the script keeps the real stdout for the answer and turns descriptor 1 into stderr.

`our_quantize` stands beside `llama_quantize`: the same job by our command line.
"""

import ctypes
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

# `general.file_type` by target type: llama.cpp's `llama_ftype`.
FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 7, "BF16": 32}


def is_installed(package: str) -> bool:
    """Whether a package could be imported; it is not."""
    return importlib.util.find_spec(package) is not None


class LlamaError(RuntimeError):
    """llama.cpp refused, or its process died; the message ends with its log."""


def embed(model: Path, sentences: Sequence[str]) -> np.ndarray:
    """Embed sentences with llama.cpp; shape (sentences, width), rows of length 1."""
    answer = _request({"command": "embed", "model": str(model), "sentences": list(sentences)})
    return np.array(answer["embeddings"], dtype=np.float64)


def next_token_logprobs(model: Path, prompts: Sequence[Sequence[int]], vocab_size: int) -> np.ndarray:
    """Natural logarithm of every token's probability to come next; shape (prompts, vocab_size)."""
    request = {"command": "logprobs", "model": str(model), "prompts": prompts, "vocab_size": vocab_size}
    return np.array(_request(request)["logprobs"], dtype=np.float64)


def llama_quantize(source: Path, targets: Mapping[str, Path], *, n_threads: int = 1) -> None:
    """Write `source` once a target type with llama.cpp's own quantizer, as ``llama-quantize --pure`` does.

    Parameters
    ----------
    source : Path
        GGUF file to read.
    targets : mapping of str to Path
        Type (a key of `FILE_TYPES`) and the file to write.
    n_threads : int
        Threads of the quantizer.
    """
    jobs = [[FILE_TYPES[type_name], str(path)] for type_name, path in targets.items()]
    _request({"command": "quantize", "source": str(source), "jobs": jobs, "n_threads": n_threads})


def opens(paths: Sequence[Path]) -> list[bool]:
    """Whether ggml opens each of these GGUF files (`gguf_init_from_file`)."""
    return _request({"command": "open", "paths": [str(path) for path in paths]})["opened"]


def our_quantize(source: Path, target: Path, type_name: str, *, n_threads: int = 2, exit_status: int = 0) -> None:
    """Write `target` with our command line, in this process; another status than the expected one fails the test."""
    from quantcore.cli import main  # not at the top: the script needs nothing of ours

    assert main(["quantize", str(source), str(target), type_name, "--pure", "-j", str(n_threads)]) == exit_status


def _run(command: list[str], stdin: str) -> subprocess.CompletedProcess[str]:
    # The timeout only keeps a hung process from hanging the test run.
    return subprocess.run(command, input=stdin, capture_output=True, text=True, errors="replace", timeout=300)


def _request(request: dict[str, Any]) -> dict[str, Any]:
    process = _run([sys.executable, __file__], json.dumps(request))
    if process.returncode != 0:
        raise LlamaError(f"exit status {process.returncode}:\n{process.stderr[-2000:]}")
    return json.loads(process.stdout)


def _server(model: str, *, embedding: bool) -> Any:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = model
    params.embedding = embedding
    params.n_gpu_layers = 0
    params.n_ctx = params.n_batch = params.n_ubatch = 256
    params.n_parallel = 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 2
    params.warmup = False
    params.fit_params = False
    params.ui = False
    return xllamacpp.Server(params)


def _embed(request: dict[str, Any]) -> dict[str, Any]:
    answer = _server(request["model"], embedding=True).handle_embeddings({"input": request["sentences"]})
    return {"embeddings": [row["embedding"] for row in sorted(answer["data"], key=lambda row: row["index"])]}


def _logprobs(request: dict[str, Any]) -> dict[str, Any]:
    server = _server(request["model"], embedding=False)
    last_token = request["vocab_size"] - 1
    rows = []
    for prompt in request["prompts"]:
        answer = server.handle_completions(
            {
                "prompt": prompt,
                "n_predict": 1,
                "temperature": 0,
                "n_probs": request["vocab_size"],
                "cache_prompt": False,
                # No probabilities come with a token that is half a UTF-8 sequence or ends the text: always sample a
                # word. They are taken before the bias.
                "logit_bias": [[last_token, 1e6]],
            }
        )
        tokens = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        by_id = {token["id"]: token["logprob"] for token in tokens}
        rows.append([by_id[i] for i in range(request["vocab_size"])])
    return {"logprobs": rows}


def _quantize(request: dict[str, Any]) -> dict[str, Any]:
    from cyllama.llama import llama_cpp

    for file_type, path in request["jobs"]:
        params = llama_cpp.LlamaModelQuantizeParams()
        params.ftype = file_type
        params.pure = True
        params.nthread = request["n_threads"]
        llama_cpp.model_quantize(request["source"], path, params)
    return {}


class _OpenParams(ctypes.Structure):
    """`struct gguf_init_params` of gguf.h."""

    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))


def _open(request: dict[str, Any]) -> dict[str, Any]:
    spec = importlib.util.find_spec("xllamacpp")
    assert spec is not None and spec.origin is not None
    (path,) = Path(spec.origin).parent.glob("xllamacpp*.so")
    library = ctypes.CDLL(str(path))
    library.gguf_init_from_file.restype = ctypes.c_void_p
    library.gguf_init_from_file.argtypes = [ctypes.c_char_p, _OpenParams]
    opened = []
    for path in request["paths"]:
        context = ctypes.c_void_p()  # asks for the tensors too, whose offsets and types are only then checked
        params = _OpenParams(True, ctypes.addressof(context))
        opened.append(bool(library.gguf_init_from_file(path.encode(), params)))
    return {"opened": opened}


def main() -> None:
    """Answer the one request on stdin."""
    answer_file = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    request = json.load(sys.stdin)
    commands = {"embed": _embed, "logprobs": _logprobs, "quantize": _quantize, "open": _open}
    json.dump(commands[request["command"]](request), answer_file)
    answer_file.close()


if __name__ == "__main__":
    main()
