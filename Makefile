# Needs python3 (3.11 or newer) and make; everything else comes from the hashed requirements.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
NAME ?= serving

.DEFAULT_GOAL := help
.PHONY: help setup demo up test test-ecosystem lint lock generate check bench clean

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-16s %s\n", $$1, $$2}' Makefile

setup: $(READY) ## Make .venv from the lock and install every member into it

demo: $(READY) ## Replay a year of flights: train, serve, drift, retrain, canary, promote
	@$(BIN)/setpoint demo $(ARGS)

up: $(READY) ## Run PostgreSQL, Valkey and every service until Ctrl-C
	@$(BIN)/setpoint up $(ARGS)

test: $(READY) ## Run the tests, two parts at once; ARGS goes to one pytest, e.g. ARGS=libs/rpc
	@$(BIN)/python tools/run_tests.py $(ARGS)

test-ecosystem: $(READY) ## Run the tests that make environments of their own for heavy packages
	@$(BIN)/python -m pytest -m ecosystem tests/ecosystem $(ARGS)

lint: $(READY) ## Check style, types, import contracts, protos and generated code
	@$(BIN)/python tools/lint.py $(ARGS)

lock: $(READY) ## Resolve requirements.txt anew; ARGS="--upgrade" moves versions
	@$(BIN)/python tools/lock.py $(ARGS)

generate: $(READY) ## Write the Python stubs of proto/ into libs/protos and libs/oip
	@$(BIN)/python libs/protos/generate.py

check: lint test ## Everything that must hold before a push

bench: $(READY) ## Run a benchmark of tests/load and write var/bench/NAME.json
	@$(BIN)/python tests/load/bench.py $(NAME) $(ARGS)

clean: ## Remove the environment, local state and caches
	@rm -rf .venv var .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

$(READY): requirements.txt tools/setup.py $(wildcard libs/*/pyproject.toml services/*/pyproject.toml)
	@$(PYTHON) tools/setup.py
