# make demo   compile the digits network and judge it, on this machine
# make check  formatting, lint, types and the fast tests: before every commit
# make test   everything that this machine can run
# make bench  tables beside other tools; asserts nothing about time

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

MARKS := not device$(if $(shell command -v nvidia-smi), , and not gpu)
PYTEST := $(BIN)/python -m pytest
# A file's tests share what it sets up. Not by falling numbers of tests: files with few and long ones would come last.
PARALLEL := -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: demo test check bench goldens lock clean

demo: $(STAMP)
	$(BIN)/edgeopt compile recipes/digits.yaml

# What `recipes/digits_onnx.yaml` starts from.
recipes/digits/digits.onnx: $(STAMP) recipes/digits/export.py recipes/digits/network.py recipes/digits/digits.safetensors
	$(BIN)/python recipes/digits/export.py

test: $(STAMP)
	$(PYTEST) -m "$(MARKS)" $(PARALLEL)

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PYTEST) -q $(PARALLEL)

bench: $(STAMP)
	set -e; for table in $$(grep -l __main__ benchmarks/*.py); do $(BIN)/python $$table; done

goldens: $(STAMP)
	$(PYTEST) -q --update-goldens

# What pip finds today for pyproject.toml, written down; then read the difference and run `make test`.
lock:
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable ".[compile,cpu,openvino,ssh,serve,registry,dev]" hatchling
	{ sed -n 1p requirements.lock; $(BIN)/pip freeze --all --exclude edgeopt --exclude pip | sed 's/+cpu$$//'; } > lock.new
	mv lock.new requirements.lock

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

# Half an installation is thrown away, so that the next `make` never stands on one.
$(STAMP): requirements.lock pyproject.toml
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@
