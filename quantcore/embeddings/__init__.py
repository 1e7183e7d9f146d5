"""Embeddings as codes: ranges per dimension or per vector, and the codes of faiss and sentence-transformers.

Modules
-------
quantizer : `EmbeddingQuantizer`.
fitting : the parameters of a quantizer, and the ranges that batches of vectors give it.
states : its methods that only concern its state: to JSON, to files and back.
schemes : what each scheme of each layout is, as a table.
coding : vectors to codes and back, by a scheme and its ranges.
packing : codes of fewer than 8 bits in bytes.
rows : rows of vectors at the boundary; which of them are bad.
search : nearest neighbours by comparing all, for `recall_at_k`.
"""

from quantcore.embeddings.quantizer import EmbeddingQuantizer
from quantcore.embeddings.search import recall_at_k

__all__ = ["EmbeddingQuantizer", "recall_at_k"]
