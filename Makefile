# make demo    a platform, two functions, calls, a bill; everything stopped again
# make test    all that a change must pass (tests/run.sh says what)
# make bench   how fast: one table, and bench-results.json
# make clean   removes what these made here

PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check --quiet

.PHONY: demo test bench clean

demo: $(VENV)/bin/python
	$(PIP) install .
	$(VENV)/bin/python -P examples/demo.py

test: $(VENV)/bin/python
	$(PIP) install -e '.[dev]'
	sh tests/run.sh $(VENV)/bin/python

bench: $(VENV)/bin/python
	$(PIP) install -e '.[dev]'
	$(VENV)/bin/python -m tests.benchmarks

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis bench-results.json
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
