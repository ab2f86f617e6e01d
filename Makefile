# Each target but gpu and clean sets up .venv first; `make search` is the place to begin.
PYTHON ?= python3
BIN := .venv/bin
ROUNDS ?= 200
SEED ?= 0
# a file of tests stays on one worker, whose tests share what they set up (tests/conftest.py joins some files); a worker
# takes 1.5 GiB
PARALLEL ?= -n logical --maxprocesses 8 --dist loadfile

.PHONY: search test test-fast test-long test-bare test-wheel docs gpu chaos lint lock clean

search: .venv/installed
	$(BIN)/forcetune search search_spaces/digits.yaml

test: .venv/installed
	$(BIN)/pytest $(PARALLEL) -m "not long and not gpu"

test-fast: .venv/installed   # while you write: no stores, processes or Ray
	$(BIN)/pytest $(PARALLEL) -m "not heavy and not long and not gpu"

test-long: .venv/installed   # minutes on real data, two files at a time: see the marker in pyproject.toml
	$(BIN)/pytest -n 2 --dist loadfile -m long --durations=25

test-bare: .venv-bare/installed   # the packages that need neither Ray nor MLflow, with the oldest torch
	.venv-bare/bin/python -m pytest $(PARALLEL) -m "not long" -o filterwarnings=error tests/pruning tests/training tests/models \
		tests/datasets/test_data.py tests/datasets/test_streamed.py

test-wheel: .venv/installed   # a wheel in an empty environment ends in a front: with the locked and the oldest versions
	rm -rf build dist
	$(BIN)/uv build --quiet --wheel
	$(BIN)/uv venv --quiet --clear --python $(PYTHON) .venv-wheel
	$(BIN)/uv pip install --quiet --python .venv-wheel/bin/python --constraint requirements.lock dist/*.whl
	$(PYTHON) tests/try_installed.py .venv-wheel/bin/forcetune
	$(BIN)/uv venv --quiet --clear --python $(PYTHON) .venv-oldest
	$(BIN)/uv pip compile --quiet --resolution lowest-direct --output-file .venv-oldest/requirements.txt pyproject.toml
	$(BIN)/uv pip install --quiet --python .venv-oldest/bin/python --requirements .venv-oldest/requirements.txt
	$(BIN)/uv pip install --quiet --python .venv-oldest/bin/python --no-deps dist/*.whl
	$(PYTHON) tests/try_installed.py .venv-oldest/bin/forcetune

docs: .venv/installed   # the documents as a site, in site/; a broken link or anchor is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

gpu:   # tests, figures and a study on a GPU, in six minutes; no .venv: PYTHON has torch, and all else can be imported
	PYTHONPATH=$(CURDIR):$$PYTHONPATH $(PYTHON) benchmarks/gpu.py $(ARGS)

chaos: .venv/installed   # ROUNDS kills, and a SHARE of the requests to MLflow that is lost or late, drawn from SEED
	ROUNDS=$(ROUNDS) SEED=$(SEED) $(BIN)/pytest -m long -rP tests/cluster/test_chaos.py
	KILLS=all $(BIN)/pytest -m long tests/search/test_kills.py tests/search/test_kept_weights.py   # at every write

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

lock: .venv/installed   # the versions that were tested together
	$(BIN)/uv pip compile --quiet --universal --all-extras --no-annotate \
		--custom-compile-command "make lock" --upgrade -o requirements.lock pyproject.toml

clean:
	rm -rf .venv .venv-bare .venv-wheel .venv-oldest build dist site

# uv takes torch and torchvision from one build; plain pip may pair two that do not fit
.venv/installed: pyproject.toml requirements.lock
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements.lock -e .
	touch $@

.venv-bare/installed: .venv/installed
	$(BIN)/uv venv --quiet --clear --python $(PYTHON) .venv-bare
	$(BIN)/uv pip install --quiet --python .venv-bare/bin/python "torch==2.11.*" "torchvision==0.26.*" numpy safetensors pytest pytest-xdist \
		hypothesis
	touch $@
