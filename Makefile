# `make run` and `make test` do everything on a fresh machine; `make help` lists the rest.
PYTHON ?= python3
VENV ?= .venv
PYTHONS ?= 3.11 3.12 3.13
DATASET ?= fashion-mnist
WORKERS ?= $(shell nproc 2>/dev/null || echo 2)
STUDIES ?= studies
BIN := $(VENV)/bin
# Bars in a log: a line every ten seconds instead of a redrawn one.
QUIET_BARS := TQDM_MININTERVAL=10
LISTING := $(PYTHON) studies/listing.py --folder "$(STUDIES)"
# Each folder of a study is a target, with hyphens: studies/ngd_directions is `make ngd-directions`.
STUDY_TARGETS := $(subst _,-,$(patsubst $(STUDIES)/%/__init__.py,%,$(wildcard $(STUDIES)/*/__init__.py)))
# A thread of PyTorch for each worker; neighbouring tests go to one, so that they share what is trained.
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 8 --dist worksteal

.PHONY: run atlas-quick atlas-stage-2 paper-quick natural-gradients-full demo test test-full \
	test-pythons venv venv-dev data lint bench bench-full published schema runs clean-runs clean help \
	$(STUDY_TARGETS)
.DEFAULT_GOAL := help

run: ngd-sgd  ## the primary experiment: its notebook with CONFIG, and its report's path last

$(STUDY_TARGETS): venv
	@mkdir -p build
	@config="$(or $(CONFIG),$$($(LISTING) config $@))" && notebook="$$($(LISTING) notebook $@)" && \
		{ test -f "$$config" || { echo "CONFIG: $$config given; allowed: a JSON file"; exit 2; }; } && \
		$(QUIET_BARS) $(BIN)/papermill "$$notebook" build/$@.ipynb --cwd experiments --log-output \
		--no-progress-bar -p config_path "$$(realpath "$$config")"
	@echo "report: $$($(LISTING) report build/$@.ipynb)"

atlas-quick:  ## the atlas, small: two seeds, a narrow network (15 minutes)
	@$(MAKE) --no-print-directory atlas CONFIG=experiments/args_atlas_quick.json

atlas-stage-2:  ## seven optimizers, each the same throughout, in five settings (hours)
	@for config in experiments/args_atlas_stage2_*.json; do \
		$(MAKE) --no-print-directory atlas CONFIG=$$config || exit 1; done

paper-quick:  ## the paper's tables, small: two seeds, narrow networks, few epochs (15 minutes)
	@$(MAKE) --no-print-directory paper CONFIG=experiments/args_paper_quick.json

natural-gradients-full:  ## natural gradients with five seeds and up to four rates an optimizer (an hour)
	@$(MAKE) --no-print-directory natural-gradients CONFIG=experiments/args_natural_gradients_full.json

demo: venv  ## a small real run, from training to report, in a minute
	$(QUIET_BARS) $(BIN)/python experiment.py experiments/args_demo.json

test: venv-dev  ## run the test suite on WORKERS cores (default: all, at most 8)
	$(PYTEST) -m "not slow"

test-full: venv-dev  ## the same with the slow variants
	$(PYTEST)

test-pythons: $(addprefix test-python-,$(PYTHONS))  ## the suite on each of PYTHONS that is there

test-python-%:
	@if command -v python$* >/dev/null && python$* --version >/dev/null 2>&1; then \
		$(MAKE) test VENV=.venv-$* PYTHON=python$*; else echo "python$*: not here, left out"; fi

venv: $(VENV)/.installed  ## make .venv with what `make run` needs
venv-dev: $(VENV)/.installed-dev

$(VENV)/.installed: requirements.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.txt
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements-dev.txt
	touch $@

data: venv  ## get DATASET (mnist, fashion-mnist, cifar10) into data/
	$(BIN)/python -m degeneracy.data.files $(DATASET)

lint: venv-dev  ## check style, layers, sizes, and that notebooks carry no outputs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m pytest -q tests/test_layout.py tests/test_notebooks.py -k "layout or outputs"

bench: venv-dev  ## time training, sampling and curvature against their peers, check against exact values (40 minutes)
	$(BIN)/python benchmarks/training_speed.py
	$(QUIET_BARS) $(BIN)/python benchmarks/ngd_speed.py
	$(BIN)/python benchmarks/llc_speed.py
	$(QUIET_BARS) $(BIN)/python benchmarks/llc_accuracy.py
	$(QUIET_BARS) $(BIN)/python benchmarks/curvature_speed.py
	$(QUIET_BARS) $(BIN)/python benchmarks/curvature_accuracy.py
	$(QUIET_BARS) $(BIN)/python benchmarks/eigenvalues.py

bench-full: venv-dev  ## exact values up to 10⁶ weights, not run through yet
	$(QUIET_BARS) $(BIN)/python benchmarks/llc_accuracy.py --full

published: venv  ## reproduce the published swap run: three seeds, both arithmetics (half an hour)
	$(QUIET_BARS) $(BIN)/python benchmarks/published_swap.py

schema: venv  ## write the configs' JSON Schemas and docs/config.md anew
	$(BIN)/python -m studies.schemas

runs: venv  ## list the runs under experiments/
	@$(BIN)/python -m degeneracy.runs.directories

clean-runs: venv  ## remove runs older than DAYS; it lists them and asks (YES=1: it does not ask)
	@test -n "$(DAYS)" || { echo "make clean-runs DAYS=30: say how many days old a run may be"; exit 2; }
	@$(BIN)/python -m degeneracy.runs.directories --remove-older-than $(DAYS) $(if $(YES),--yes)

clean:  ## remove the virtual environment and built files, keep data and runs
	rm -rf .venv .venv-* build *.egg-info .pytest_cache .ruff_cache .hypothesis

help:  ## show this list
	@grep -hE '^[a-z0-9-]+:.*##' $(firstword $(MAKEFILE_LIST)) | sed -E 's/:.*##/\t/' | expand -t 24
	@echo
	@echo "Studies: make NAME runs a notebook and builds its report; CONFIG=FILE takes another config."
	@$(LISTING) | sed 's/^/  /'
