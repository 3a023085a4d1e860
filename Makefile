PYTHON ?= python3
BIN := .venv/bin
DOCS := .venv-docs

PROMPT := The for statement is used to

LOWEST := .venv-transformers

.PHONY: demo test test-transformers newcomer tutorial bench report docs

.venv/.ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# The site is built from the text of the sources, so its environment needs neither torch nor the package.
$(DOCS)/.ready: pyproject.toml constraints.txt
	test -x $(DOCS)/bin/python || $(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --constraint constraints.txt L2M4M mkdocstrings-python zensical
	touch $@

demo: .venv/.ready
	$(BIN)/fftnet train --config recipes/python_docs.yaml --output_dir outputs/demo --overwrite
	$(BIN)/fftnet generate outputs/demo --prompt '$(PROMPT)'
	$(BIN)/fftnet generate models/shakespeare --prompt 'ROMEO.\n' --temperature 0.6

test: .venv/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright
	$(BIN)/python -m pytest

# Beside the packages of .venv stands the lowest Transformers that the extra admits.
$(LOWEST)/.ready: .venv/.ready
	test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	grep -v '^transformers=' constraints.txt > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip install --quiet --constraint $(LOWEST)/constraints.txt torch
	$(LOWEST)/bin/python -m pip install --quiet --constraint $(LOWEST)/constraints.txt 'transformers==5.20.0' --editable '.[dev]'
	touch $@

test-transformers: $(LOWEST)/.ready
	$(LOWEST)/bin/python -m pytest tests/hf

# The README with the wheel in a fresh environment; downloads its packages, takes minutes.
newcomer: .venv/.ready
	$(BIN)/python -m pytest -n 0 tests/newcomer/fresh_environment.py

tutorial: .venv/.ready
	$(BIN)/python scripts/tutorial.py

bench: .venv/.ready
	$(BIN)/python -m benchmarks

report: .venv/.ready
	$(BIN)/python -m experiments report

docs: $(DOCS)/.ready
	$(DOCS)/bin/zensical build --clean --strict
	@! grep -rnoE '(src=|<link[^>]* href=|url\()"?(https?:)?//[^" )]*' site --include='*.html' --include='*.css' \
		|| { echo 'error: the pages above load something from another host'; exit 1; }
