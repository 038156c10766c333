# `make` alone prints what there is.
SHELL := /bin/sh
PY := .venv/bin/python
# One more than there are cores, for system tests wait as often as they work.
WORKERS ?= $(shell n=$$(($$(nproc) + 1)); [ $$n -gt 4 ] && n=4; echo $$n)
PYTEST_ARGS ?=
BENCH_ARGS ?=
NEMESIS_MINUTES ?= 30

.DEFAULT_GOAL := help
.PHONY: help setup demo test durations test-packages check format docs docs-tables pages picture deb bench soak lock clean

help: ## Print these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install missing system packages and the virtual environment .venv (a second run does nothing)
	@tools/setup.sh

demo: setup ## Watch labd take a real lab up and down; KEEP=1 leaves the lab running
	@$(PY) -m tools.demo $(if $(KEEP),--keep)

test: setup ## Run the whole suite (needs root for tests/system); PYTEST_ARGS="-k name" narrows it
	@tools/test.sh $(WORKERS) $(PYTEST_ARGS)

durations: setup ## Run the whole suite, and write how long its tests take to tests/durations.json, by which it is ordered
	@tools/test.sh $(WORKERS) --store-durations $(PYTEST_ARGS)

test-packages: setup ## Install labd on clean systems by apt and by pipx, and try it there (needs root; minutes)
	@$(PY) -m pytest -m packages tests/packaging $(PYTEST_ARGS)

check: setup ## Lint, formatting, types and the import contract
	@tools/check.sh

format: setup ## Format the code and mend what can be mended
	@.venv/bin/ruff check --quiet --fix-only . ; .venv/bin/ruff format --quiet .

docs: setup ## Build the documentation as a site in build/site; SERVE=1 serves it on 127.0.0.1:8000
	@tools/docs.sh $(if $(SERVE),--serve)
	@echo "docs: build/site/index.html"

docs-tables: setup ## Write the tables of the documentation that are made of the code
	@$(PY) -m tools.docs_tables

pages: setup ## Run docs/tutorial.md on a real labd and write what it prints into it (needs root)
	@$(PY) -m tools.run_page docs/tutorial.md

picture: setup ## Draw docs/terminal.svg afresh from a real session (needs root)
	@$(PY) -m tools.terminal_picture

deb: setup ## Build dist/labd_VERSION_ARCH.deb
	@$(PY) -m tools.deb

bench: setup ## Run the benchmarks; BENCH_ARGS="--only NAME" narrows them
	@$(PY) bench/run.py $(BENCH_ARGS)

soak: setup ## The long runs: every failpoint at every visit, 30 minutes of nemesis, 500 cycles; takes hours
	@SOAK=1 NEMESIS_MINUTES=$(NEMESIS_MINUTES) NEMESIS_SEED=$${NEMESIS_SEED:-$$(date +%Y%m%d)} $(PY) -m pytest -s --timeout 0 tests/faults $(PYTEST_ARGS)
	@$(PY) bench/run.py --only soak_rss_growth_percent soak_descriptors_growth soak_threads_growth \
	    soak_tasks_growth burst_events_per_second burst_rss_growth_mib adopt_seconds ls_with_hung_vm

lock: ## Write the locked requirements afresh from pyproject.toml
	@tools/setup.sh --lock

clean: ## Remove everything that was built or cached here (not what labs made: `lab destroy` does that)
	@rm -rf .venv .venv-docs build dist bench/out .pytest_cache .mypy_cache .ruff_cache .hypothesis \
	    .import_linter_cache .schemathesis .scratch *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
