# Two commands set everything up: `make demo` and `make test`. Each makes and fills its own .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEV := $(VENV)/.installed-dev

.PHONY: demo test lint starter clean
demo: $(STAMP)
	$(BIN)/polypforge demo --out runs/demo

test: $(DEV)
	$(BIN)/python -m pytest -q -n auto --dist loadfile --no-loadscope-reorder --durations 15 tests/readme tests/workflows/test_cluster.py tests # the longest first

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Reproduces the weights in src/polypforge/starter (see its MODEL_CARD.md): DATA holds kvasir-seg/ and polypgen/.
starter: $(STAMP)
	$(BIN)/polypforge starter --data $(DATA) --out runs/starter

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("PolypForge needs Python 3.11 or newer: make PYTHON=python3.11 ..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $(STAMP)

$(DEV): $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $(DEV)

clean:
	rm -rf $(VENV) runs
