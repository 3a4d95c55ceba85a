# `make run` and `make test` do everything on a fresh machine; `make help` lists the rest.
PYTHON ?= python3
CONFIG ?= args_ngd_sgd.json
DATASET ?= fashion-mnist
BIN := .venv/bin
# Bars in a log: a line every ten seconds instead of a redrawn one.
QUIET_BARS := TQDM_MININTERVAL=10

.PHONY: run test venv venv-dev data lint bench bench-full published directions min-singular phase-transitions \
	phase-transitions-cnn schema clean help
.DEFAULT_GOAL := help

run: venv  ## execute the notebook with CONFIG and print the report's path
	test -f "$(CONFIG)"
	mkdir -p build
	$(QUIET_BARS) $(BIN)/papermill experiments/eval_ngd_sgd.ipynb build/eval_ngd_sgd.ipynb --cwd experiments \
		--log-output --no-progress-bar -p config_path "$$(realpath "$(CONFIG)")"
	@$(BIN)/python -c "import sys; from experiment import default_directory, load_config; \
		print('report:', default_directory(load_config(sys.argv[1])) / 'report.html')" "$(CONFIG)"

test: venv-dev  ## run the whole test suite
	$(BIN)/python -m pytest

venv: .venv/.installed  ## make .venv with what `make run` needs
venv-dev: .venv/.installed-dev

.venv/.installed: requirements.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps -e .
	touch $@

.venv/.installed-dev: .venv/.installed requirements-dev.txt
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements-dev.txt
	touch $@

data: venv  ## get DATASET (mnist, fashion-mnist, cifar10) into data/
	$(BIN)/python -m data_files $(DATASET)

lint: venv-dev  ## check style, and that notebooks carry no outputs
	$(BIN)/ruff check .
	$(BIN)/python -m pytest -q tests/test_notebooks.py -k outputs

bench: venv-dev  ## time training, sampling and curvature against their peers, check against exact values (40 minutes)
	$(BIN)/python benchmarks/training_speed.py
	$(QUIET_BARS) $(BIN)/python benchmarks/ngd_speed.py
	$(BIN)/python benchmarks/llc_speed.py
	$(QUIET_BARS) $(BIN)/python benchmarks/llc_accuracy.py
	$(QUIET_BARS) $(BIN)/python benchmarks/curvature_speed.py
	$(QUIET_BARS) $(BIN)/python benchmarks/curvature_accuracy.py

bench-full: venv-dev  ## exact values up to 10⁶ weights, not run through yet
	$(QUIET_BARS) $(BIN)/python benchmarks/llc_accuracy.py --full

published: venv  ## reproduce the published swap run: three seeds, both arithmetics (half an hour)
	$(QUIET_BARS) $(BIN)/python benchmarks/published_swap.py

directions: venv  ## how exact is online NGD? the study notebook and its report (two minutes)
	mkdir -p build
	$(QUIET_BARS) $(BIN)/papermill experiments/eval_ngd_directions.ipynb build/eval_ngd_directions.ipynb --cwd experiments \
		--log-output --no-progress-bar

min-singular: venv  ## LLCs of models whose learning coefficient is known: notebook and report (four minutes)
	mkdir -p build
	$(QUIET_BARS) $(BIN)/papermill experiments/eval_min_singular_models.ipynb build/eval_min_singular_models.ipynb \
		--cwd experiments --log-output --no-progress-bar

phase-transitions: venv  ## LLC and curvature where training leaves a plateau: notebook and report (nine minutes)
	mkdir -p build
	$(QUIET_BARS) $(BIN)/papermill experiments/eval_mnist_phase_transitions.ipynb build/eval_mnist_phase_transitions.ipynb \
		--cwd experiments --log-output --no-progress-bar

phase-transitions-cnn: venv  ## the same of LeNet-5 with extra convolutions (about an hour without CUDA)
	mkdir -p build
	$(QUIET_BARS) $(BIN)/papermill experiments/eval_mnist_phase_transitions.ipynb \
		build/eval_mnist_phase_transitions_cnn.ipynb --cwd experiments --log-output --no-progress-bar \
		-p config_path args_phase_transitions_cnn.json -p out phase_transitions_cnn

schema: venv  ## write the config's JSON Schema anew
	$(BIN)/python -m experiment_config > .schema.json.partial && mv .schema.json.partial args_ngd_sgd.schema.json

clean:  ## remove the virtual environment and built files, keep data and runs
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache .hypothesis

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 12
