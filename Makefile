# Two commands from a fresh clone: `make run` searches on the built-in data, `make test` runs the tests.
# `make cluster` runs those that need several Ray nodes, or PostgreSQL.
# `make timm-suite` runs timm's own published tests over our models; it fetches timm's source archive.
# Both work in a virtual environment of their own, .venv, with the versions that CI passed with.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test cluster timm-suite clean

run: .venv/installed
	$(BIN)/gmsearch run --space search_spaces/gated.yaml --budget 300M

test: .venv/tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

cluster: .venv/tested
	$(BIN)/python -m pytest -m cluster

timm-suite: .venv/tested
	rm -rf .venv/timm
	$(BIN)/python -m pip download --quiet --no-deps --no-binary :all: --dest .venv/timm \
		timm==$$($(BIN)/python -c 'import timm; print(timm.__version__)')
	tar xzf .venv/timm/timm-*.tar.gz -C .venv/timm
	$(BIN)/python tests/timm_suite.py .venv/timm/timm-*/tests/test_models.py -q

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	touch $@

.venv/tested: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	touch $@ .venv/installed

clean:
	rm -rf .venv
