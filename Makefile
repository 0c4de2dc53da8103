# Everything a contributor types. `make` alone lists the targets.
#
# Rule: a fresh clone, a Python of 3.11 or later and make are enough. Every target sets up what it needs,
# once: the stamp files inside $(VENV) are newer than the files that decide what is installed.

VENV ?= .venv
BIN := $(VENV)/bin
# The first of these that is 3.11 or later and can make a virtual environment. Say PYTHON=... to choose.
PYTHONS := $(if $(PYTHON),$(PYTHON),python3 python3.11 python3.12 python3.13 python3.14 python)
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# What `make demo MESSAGES=file.csv` and `make test ARGS="-k waiter"` pass on.
MESSAGES ?=
ARGS ?=
# How long `make torture` goes on; it may be left overnight.
TORTURE_MINUTES ?= 10

.DEFAULT_GOAL := help
.PHONY: help setup demo test check format bench bench-publish bench-harness kill torture live day conformance audit clean

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: $(VENV)/.ready-to-develop ## make .venv and install Holdfast with everything that tests and checks need

demo: $(VENV)/.ready-to-run ## three nodes, a ledger and eight workers; kills the leader, freezes a worker (MESSAGES=file)
	$(BIN)/holdfast demo $(if $(MESSAGES),--messages "$(MESSAGES)") $(ARGS)

test: $(VENV)/.ready-to-develop ## every test (ARGS="-k name" for some of them)
	$(BIN)/pytest $(ARGS)

# All of them run, whatever the first ones say: one run names everything that is wrong.
check: $(VENV)/.ready-to-develop ## style, types, who may import whom, spelling, insecure code
	@failed=; \
	for tool in "ruff check ." "ruff format --check ." "mypy" "lint-imports" "codespell" \
	  "bandit --quiet --configfile pyproject.toml --recursive client coordinator deploy"; do \
	  echo "-- $$tool"; $(BIN)/$$tool || failed="$$failed [$$tool]"; \
	done; \
	if [ -n "$$failed" ]; then echo "make check: failed:$$failed" >&2; exit 1; fi

format: $(VENV)/.ready-to-develop ## let ruff lay out the code and mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.ready-to-measure ## beside etcd, ZooKeeper, Redis, PostgreSQL; table and charts (ARGS=--quick, ARGS=--full)
	$(BIN)/python bench/run.py $(ARGS)

bench-publish: $(VENV)/.ready-to-measure ## the same on a quiet machine, half an hour: docs/performance.md is written anew
	$(BIN)/python bench/run.py --full --publish $(ARGS)

bench-harness: $(VENV)/.ready-to-develop ## virtual hours of the simulator an hour of one core, and what the checker decides how fast
	$(BIN)/python bench/simulator.py
	$(BIN)/python bench/checker.py

conformance: $(VENV)/.ready-to-develop ## one suite on memory, SQLite, PostgreSQL, Redis and a cluster; prints the table
	$(BIN)/pytest tests/conformance $(ARGS)

kill: $(VENV)/.ready-to-develop ## kill -9 of nodes under load, 200 times (ARGS="--all --compaction --minutes 10")
	$(BIN)/python tools/kill_loop.py $(ARGS)

torture: $(VENV)/.ready-to-develop ## simulate new seeds on two cores for TORTURE_MINUTES; reports of what is invalid go to torture/
	$(BIN)/python -m holdfast_jepsen sim --seeds 100000000 --minutes $(TORTURE_MINUTES) --jobs 2 \
	  --start $$(date +%s) --keep-going --reports torture

# Not part of `check`: it asks the package index about every dependency, and an index that does not know them finds nothing wrong. So
# one that is known to be vulnerable is asked about first.
audit: $(VENV)/.ready-to-develop ## known vulnerabilities of the pinned dependencies (needs an index that tells them)
	@sh tools/audit.sh $(BIN)/pip-audit constraints.txt

live: $(VENV)/.ready-to-develop ## real nodes, killed, paused and cut off for a minute (ARGS="--nemesis all --time 600 --nodes 5")
	$(BIN)/python -m holdfast_jepsen live $(ARGS)

day: $(VENV)/.ready-to-develop ## everything that happens to a cluster in years, in half a minute: HTTPS, rights, namespaces (root)
	$(BIN)/python tools/day.py $(ARGS)

clean: ## remove what the tools leave behind (.venv and data stay)
	rm -rf .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis dist
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

$(BIN)/python:
	@found=; \
	for candidate in $(PYTHONS); do \
	  if "$$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
	  then found="$$candidate"; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "make: no Python of 3.11 or later with the venv module was found (tried: $(PYTHONS))." >&2; \
	  echo "make: install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; \
	  exit 2; \
	fi; \
	echo "Setting up $(VENV) with $$("$$found" --version)"; \
	"$$found" -m venv $(VENV)

# pip of 25.1 is the first that knows --group.
$(VENV)/.ready-to-run: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing Holdfast into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(PIP_INSTALL) --editable '.[server,ledger]'
	@touch $@

$(VENV)/.ready-to-develop: $(VENV)/.ready-to-run pyproject.toml constraints.txt
	@echo "Installing the tools for tests and checks into $(VENV)"
	@$(PIP_INSTALL) --group dev
	@touch $@

$(VENV)/.ready-to-measure: $(VENV)/.ready-to-develop pyproject.toml constraints.txt
	@echo "Installing what the benchmarks compare with into $(VENV)"
	@$(PIP_INSTALL) --group bench
	@touch $@
