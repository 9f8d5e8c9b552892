# Every target sets itself up: python3 >= 3.11, pip and make are all that is needed.
SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Compiled modules are kept: without them every process compiles torch and all else again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test check bench papers clean test-studies
.DEFAULT_GOAL := test

demo: $(READY)
	$(BIN)/cfpairs demo --out cfpairs-demo

test: $(READY)
	$(BIN)/python -m pytest -n auto --dist loadfile -m "not study"

# The studies on images, reduced: they take as long as all other tests.
test-studies: $(READY)
	$(BIN)/python -m pytest -n auto --dist loadfile -m study

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

bench: $(READY)
	$(BIN)/python pipelines/bench_encoders.py
	$(BIN)/python pipelines/bench_embed.py
	$(BIN)/python pipelines/bench_sweep.py
	$(BIN)/python pipelines/bench_composite.py
	$(BIN)/python pipelines/bench_quality.py
	$(BIN)/python pipelines/bench_matching.py --skip greedy optimal

# What the studies of papers find, from scratch or from where they stopped; IDX is a folder of four IDX files.
IDX ?= /usr/share/datasets/fashion-mnist
RUNS ?= 1
WATERBIRDS ?= data/waterbirds
PACS ?= data/PACS
ADULT ?= data/adult
GERMAN ?= data/german
papers: $(READY)
	$(BIN)/python pipelines/synthetic_ncm.py
	$(BIN)/python pipelines/synthetic_irm.py
	$(BIN)/python pipelines/synthetic_causirl.py
	$(BIN)/python pipelines/synthetic_pica.py
	@if test -d "$(IDX)"; then $(BIN)/python pipelines/viae_mnist.py --root "$(IDX)" --runs $(RUNS); else echo "no folder $(IDX): viae_mnist.py is left out"; fi
	@if test -d "$(IDX)"; then $(BIN)/python pipelines/colored_mnist.py --root "$(IDX)"; else echo "no folder $(IDX): colored_mnist.py is left out"; fi
	@if test -d "$(WATERBIRDS)"; then $(BIN)/python pipelines/waterbirds_cf.py --root "$(WATERBIRDS)"; else echo "no folder $(WATERBIRDS): waterbirds_cf.py is left out"; fi
	@if test -d "$(PACS)"; then $(BIN)/python pipelines/pacs.py --root "$(PACS)"; else echo "no folder $(PACS): pacs.py is left out"; fi
	@if test -d "$(ADULT)"; then $(BIN)/python pipelines/adult.py --data "$(ADULT)/adult.data" --test "$(ADULT)/adult.test"; else echo "no folder $(ADULT): adult.py is left out"; fi
	@if test -d "$(GERMAN)"; then $(BIN)/python pipelines/german.py --data "$(GERMAN)/german.data"; else echo "no folder $(GERMAN): german.py is left out"; fi
	$(BIN)/python pipelines/nonlinear.py
	$(BIN)/python pipelines/results.py

# uv resolves torch and torchvision as one; it is installed into the environment itself.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("cfpairs needs Python 3.11 or newer, found " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { $(PYTHON) -m pip install --quiet --user uv && $(PYTHON) -m uv venv --quiet --clear --seed $(VENV); }
	@$(BIN)/python -m uv --version >/dev/null 2>&1 || $(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip --upgrade >/dev/null
	@$(BIN)/python -m uv --version >/dev/null 2>&1 || $(BIN)/python -m pip install --quiet uv
	$(BIN)/python -m uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[cpu,edit,dev]'
	@touch $@

clean:
	rm -rf $(VENV) cfpairs-demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
