# `make demo` and `make test` each set everything up from nothing; a second run starts at once.
PYTHON ?= python3
RUN := .venv/bin/python

.PHONY: setup demo test test-quick lint clean

setup:
	@$(PYTHON) tools/setup_env.py

demo: setup
	@$(RUN) tools/quickstart.py --out output/demo

test: setup
	@$(RUN) -m pytest

test-quick: setup
	@$(RUN) -m pytest -m "not slow"

lint: setup
	@$(RUN) -m ruff check . && $(RUN) -m ruff format --check .

clean:
	rm -rf .venv output datasets
