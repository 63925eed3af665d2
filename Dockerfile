# Evaluation and training with vLLM on a GPU server. The wheels of torch and vLLM bring CUDA; the host brings the driver.
#
#   docker build -t seedbench-r1 .
#   docker run --gpus all --ipc host -v /data:/data -v $PWD/runs:/out/runs seedbench-r1 doctor --data-root /data/SEED-Bench-R1
#
# Its commands were carried out in a bare Debian 12 with Python 3.11 (11 GB; torch 2.14, vLLM 0.33; doctor and demo end well). No
# Docker was at hand: the image itself has not been built, and nothing of it has run on a GPU.
FROM python:3.11-slim-bookworm

# A C compiler: Triton, on which vLLM's kernels stand, compiles its launcher when it is first used.
RUN apt-get update && apt-get install -y --no-install-recommends gcc g++ && rm -rf /var/lib/apt/lists/*

WORKDIR /src
COPY . .
RUN pip install --no-cache-dir '.[train,vllm]'

WORKDIR /out
ENTRYPOINT ["seedbench-r1"]
