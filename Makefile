# `make demo` and `make test` work in a fresh clone on a bare machine: they install what they need first.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

export PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
CLIPS := .cache/demo-clips
OUTPUT := demo-output
BENCHMARKS ?= chain decode threads cpu_models train listing decode_memory s3_gets scaling autoscaling balance camera_accuracy camera_real enhance upscale interpolate ladder gpu

.PHONY: help demo test test-long chaos lint format bench bench-decode lock wheel job clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

$(INSTALLED): requirements.lock pyproject.toml scripts/install.sh
	@scripts/install.sh python

demo: $(INSTALLED)  ## label real clips on this machine and show what the model saw (demo-output/index.html)
	@$(BIN)/python tests/clips.py demo --to $(CLIPS) --skip-missing
	$(BIN)/vidbatch label $(CLIPS) --output $(OUTPUT)
	@$(BIN)/python jobs/demo.py $(OUTPUT)

test: $(INSTALLED)  ## all tests that take seconds (PYTEST_ARGS="-k name" for some)
	@scripts/install.sh debian
	$(BIN)/python -m pytest -m "not long" $(PYTEST_ARGS)

test-long: $(INSTALLED)  ## the tests that take minutes
	@scripts/install.sh debian
	$(BIN)/python -m pytest -m long -o faulthandler_timeout=0 $(PYTEST_ARGS)

chaos: $(INSTALLED)  ## disturb runs at random and compare their tables row for row (45 minutes; goes on where it was)
	@scripts/install.sh debian
	$(BIN)/python tests/chaos/run.py

lint: $(INSTALLED)  ## ruff and mypy, as CI runs them
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(INSTALLED)  ## let ruff format and fix what it can
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

bench: $(INSTALLED)  ## verify, then time: hours, on a quiet machine (BENCHMARKS="chain" for some)
	@scripts/install.sh debian
	@[[ ! " $(BENCHMARKS) " =~ " decode "|" train "|" camera_accuracy " ]] || scripts/install.sh peers
	for name in $(BENCHMARKS) report; do $(BIN)/python benchmarks/$$name.py; done

bench-decode:  ## decoding alone, against other decoders (an hour; 6 GB for them, once)
	@$(MAKE) bench BENCHMARKS=decode

weights: $(INSTALLED)  ## train anew the weights that come along (NAME=denoise, artefacts, colour, upscale, interpolate): hours
	@scripts/install.sh debian
	$(BIN)/python scripts/weights.py $(NAME) --output .cache/weights

lock: $(INSTALLED)  ## resolve requirements.lock anew from pyproject.toml
	$(BIN)/python scripts/lock.py

wheel: $(INSTALLED)  ## build dist/vidbatch-VERSION-py3-none-any.whl
	@$(BIN)/python scripts/job.py wheel

job: $(INSTALLED)  ## build dist/job, the folder to send to a cluster by `ray job submit` (see jobs/label.py)
	@$(BIN)/python scripts/job.py job

clean:  ## remove what was built; .venv and the fetched clips stay
	rm -rf build dist $(OUTPUT) $(CLIPS) *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
