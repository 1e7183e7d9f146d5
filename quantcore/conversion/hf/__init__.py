"""A Hugging Face folder as the source of a GGUF file that llama.cpp runs, and the way back.

Modules
-------
source : `convert`, the tensors and keys of a file, `is_known`; names : `find_places`, only what its tensors are called.
restoring : `restore`, the tensors and config.json of a folder.
architecture : the record of an architecture; registry : those there are; llama, qwen, gemma, bert, phi3, gpt2 : the
records.
tensors : names and transformations of tensors; streams : tensors whose bytes are rearranged while they are read.
hyperparameters, defaults : config.json, and the keys that it becomes; metadata_reader : the way back.
vocabularies : tokenizers; sentencepiece, byte_pair_files : those of other files than tokenizer.json.
encoding, pre_tokenizers : which pre-tokenizer is one.
pooling : embedding models; keys : metadata, and what `gguf` has collected.
"""

from quantcore.conversion.hf.names import find_places
from quantcore.conversion.hf.restoring import Restored, restore
from quantcore.conversion.hf.source import Converted, convert, is_known, scaled_weights

__all__ = ["Converted", "Restored", "convert", "find_places", "is_known", "restore", "scaled_weights"]
