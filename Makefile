# Sets up what it needs, once, and runs the thing named. `make help` lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest
DASHBOARD_PORT ?= 8265
export PYTHON
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test lint bench gpu faults cluster-up cluster-down clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | column -t -s "$$(printf '\t')"

demo: .venv/ready ## the main job: render, build, train, probe and log, on rendered music
	@$(BIN)/sonograph demo

test: lint ## everything that must hold, in about twenty minutes on two cores
	@$(PYTEST)

lint: .venv/ready ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: .venv/ready ## paired benchmarks: a row each in tests/benchmarks/results.jsonl and in the README
	@$(BIN)/python -m tests.benchmarks.run

gpu: .venv/ready ## the tests that need a GPU, and the step on it: a row as of bench
	@$(PYTEST) -m gpu
	@$(BIN)/python -m tests.benchmarks.run step_gpu

faults: .venv/ready ## the long fault matrix, about an hour
	@$(PYTEST) -m faults --timeout 1800

cluster-up: .venv/ready ## an authenticated Ray head on this machine
	@$(BIN)/python -m cluster.head up --dashboard-port $(DASHBOARD_PORT)

cluster-down: .venv/ready ## stop that head, and no other
	@$(BIN)/python -m cluster.head down

clean: ## remove what the tools made; corpora, datasets and runs stay
	rm -rf .venv build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/ready: pyproject.toml constraints.txt set-up.sh
	@./set-up.sh
