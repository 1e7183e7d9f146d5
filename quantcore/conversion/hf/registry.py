"""The architectures that are converted, one line each."""

from quantcore.conversion.hf.architecture import Architecture
from quantcore.conversion.hf.bert import BERT
from quantcore.conversion.hf.gemma import GEMMA2, GEMMA3
from quantcore.conversion.hf.gpt2 import GPT2
from quantcore.conversion.hf.gpt_oss import GPT_OSS
from quantcore.conversion.hf.llama import LLAMA
from quantcore.conversion.hf.phi3 import PHI3
from quantcore.conversion.hf.qwen import QWEN2, QWEN2_ENCODER, QWEN3, QWEN3_MOE

_ALL = (LLAMA, BERT, QWEN2, QWEN2_ENCODER, QWEN3, QWEN3_MOE, GEMMA2, GEMMA3, PHI3, GPT2, GPT_OSS)

ARCHITECTURES: dict[str, Architecture] = {name: record for record in _ALL for name in record.names}
"""The records by the names that config.json has in `architectures`."""

BY_GGUF_NAME: dict[str, Architecture] = {record.gguf_name: record for record in reversed(_ALL) if record.tensor_names}
"""The records by the names that GGUF files have, the first of each, for the way back."""
