PYTHON ?= python3
BIN := .venv/bin

PROMPT := The for statement is used to

.PHONY: demo test bench

.venv/.ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: .venv/.ready
	$(BIN)/fftnet train --config recipes/python_docs.yaml
	$(BIN)/fftnet generate --prompt '$(PROMPT)'

test: .venv/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright
	$(BIN)/python -m pytest

bench: .venv/.ready
	$(BIN)/python -m benchmarks
