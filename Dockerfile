# Evaluation and training with vLLM on a GPU server. The wheels of torch and vLLM bring CUDA; the host brings the driver.
#
#   docker build -t seedbench-r1 .
#   docker run --gpus all --ipc host -v /data:/data -v $PWD/runs:/out/runs seedbench-r1 doctor --data-root /data/SEED-Bench-R1
#
# It has not been built yet: no Docker was at hand.
FROM python:3.11-slim-bookworm

# A C compiler: Triton, on which vLLM's kernels stand, compiles its launcher when it is first used.
RUN apt-get update && apt-get install -y --no-install-recommends gcc g++ && rm -rf /var/lib/apt/lists/*

WORKDIR /src
COPY . .
RUN pip install --no-cache-dir '.[train,vllm]'

WORKDIR /out
ENTRYPOINT ["seedbench-r1"]
