# Both commands set everything up themselves: Python 3.11 or later and make are all that is needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-all test-lowest lint format docs notebooks clean

demo: $(VENV)/installed  ## train on digits, cut three sizes, write a report
	$(BIN)/widthwise demo

test: $(VENV)/installed lint  ## what must hold, on a sample of the networks that it must hold for
	$(BIN)/python -m pytest

test-all: $(VENV)/installed lint  ## the same on all of them: an hour on two cores
	$(BIN)/python -m pytest --all

# The engine, the cut, files, training and the command line with the lowest versions that
# pyproject.toml allows. torch.export of torch 2.11 refuses the quantile in the net `distances`;
# old packages may use what newer ones deprecate.
LOWEST := build/lowest
LOWEST_TESTS := tests/graph/test_engine.py tests/graph/test_proof.py tests/elastic/test_elastic.py \
	tests/store/test_store.py tests/train/test_fit.py tests/train/test_family.py tests/app/cli/test_main.py

test-lowest: $(LOWEST)/installed  ## the lowest supported versions, in an environment of their own
	$(LOWEST)/bin/python -m pytest -k "not distances" -W default::DeprecationWarning $(LOWEST_TESTS)

$(LOWEST)/installed: pyproject.toml scripts/lowest_versions.py
	rm -rf $(LOWEST)
	$(PYTHON) -m venv $(LOWEST)
	$(PYTHON) scripts/lowest_versions.py > $(LOWEST)/lowest.txt
	$(LOWEST)/bin/python -m pip install --quiet --constraint $(LOWEST)/lowest.txt --editable '.[zstd]' \
		hypothesis pytest pytest-xdist scikit-learn
	touch $@

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

notebooks: $(VENV)/installed  ## run docs/notebooks and store what they print and draw
	$(BIN)/python scripts/run_notebooks.py

docs: $(VENV)/installed  ## the documentation site, in build/site; a warning is an error
	$(BIN)/python scripts/cli_reference.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "widthwise needs Python 3.11 or later; run: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist src/*.egg-info
