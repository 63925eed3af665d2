# Everything a stranger needs: `make demo` and `make test` on a fresh machine do it all.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-slow test-vllm check fuzz bench install install-dev clean help

help:
	@echo "make demo   the whole way on a miniature benchmark (creates .venv)"
	@echo "make test   all tests (creates .venv)"
	@echo "make check  ruff, mypy, tests"
	@echo "make fuzz   damaged and hostile inputs for 15 minutes (SECONDS=60 SEED=1 for other times and inputs)"
	@echo "make bench  the benchmarks behind docs/benchmarks.md"

# A stamp per set of packages: installed again only when pyproject.toml changed.
$(VENV)/.base: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/.dev: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@ $(VENV)/.base

install: $(VENV)/.base

install-dev: $(VENV)/.dev

demo: install
	$(BIN)/seedbench-r1 demo

# Three at a time on a machine of two cores: for a third of their time tests wait, for processes that start or are killed.
# A file's tests stay together, since they share what they make. In the folders' order: trainers, which take longest,
# before the many small ones, so that no core waits at the end.
# Bytecode is kept, whatever the environment says: hundreds of processes import the same modules.
test: install-dev
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

# One thread each: torch with several on models this small is many times slower.
test-slow: install-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow -n 2

check: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(MAKE) test

# Other inputs every day; the same ones for the same seed.
SECONDS ?= 900
SEED ?= $(shell date +%Y%m%d)
fuzz: install-dev
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS) --seed $(SEED)

bench: install-dev
	for script in tests/benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

clean:
	rm -rf $(VENV) demo-out build dist *.egg-info

# The CPU build of vLLM in an environment of its own: contract and parity with the transformers backend.
test-vllm:
	PYTHON=$(PYTHON) tests/vllm/make_env.sh
	.venv-vllm/bin/python -m pytest tests/vllm
