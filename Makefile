# RC-MAE: what one types. `make run` and `make test` need git, make and Python >= 3.11, nothing else.
#
#   make run           set up .venv and run the whole pipeline; ends by naming the report
#   make learn FOLDER=/path   train on your own recordings; docs/recordings.md shows how they may lie in the folder
#   make test          run the tests and show how much of the code they reach
#   make lint          check style (ruff) and types (mypy)
#   make constraints   write the versions in .venv to constraints.txt
#   make clean         remove .venv
#
# Variables:
#   PYTHON=python3.12  the Python that .venv is made with
#   CONSTRAINTS=       install the newest versions that requirements.txt allows, not those of constraints.txt
PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
VENV := .venv
BIN := $(abspath $(VENV))/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check $(addprefix -c ,$(CONSTRAINTS))
export PATH := $(BIN):$(PATH)

.PHONY: help run learn test lint constraints clean

help:
	@sed -n 's/^#\( \|$$\)//p' $(firstword $(MAKEFILE_LIST))

run: $(VENV)/.requirements
	dvc repro
	@python -m stages.summary

learn: $(VENV)/.requirements
	@python -m stages.learn "$(FOLDER)"

test: $(VENV)/.requirements-test
	python -m pytest --cov --cov-report=term:skip-covered

lint: $(VENV)/.requirements-test
	ruff check .
	ruff format --check .
	mypy

constraints: $(VENV)/.requirements-test
	python -m pip freeze --quiet >constraints.txt

clean:
	rm -rf $(VENV)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ": make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.requirements: requirements.txt requirements-detect.txt $(CONSTRAINTS) | $(VENV)/bin/python
	$(PIP) -r requirements.txt
	@touch $@

$(VENV)/.requirements-test: requirements-test.txt requirements.txt requirements-detect.txt requirements-cluster.txt $(CONSTRAINTS) | $(VENV)/bin/python
	$(PIP) -r requirements-test.txt
	@touch $@ $(VENV)/.requirements
