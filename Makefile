# Works with GNU make 3.81 (macOS) and newer. Paths are relative and tools run as modules of .venv, so that nothing needs
# activation, nothing is installed globally, and the path of the clone may contain spaces.

PYTHON ?= python3
ARGS ?=
BENCH ?= train
TEST_DATA_ARCHIVES ?= ../shared/data
LINNAEUS_TEST_DATA ?= $(HOME)/.cache/linnaeus/test-data

RUN := .venv/bin/python -m
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL: # two pips must not write to one .venv
.PHONY: help demo test test-slow test-data lint types format bench clean

help: ## Lists these targets
	@echo 'make TARGET [PYTHON=python3.12] [ARGS="-k name"]'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' Makefile

demo: .venv/.installed ## Trains and evaluates a small network on images that come with the package; no network, no GPU
	$(RUN) linnaeus demo

# One worker a core, since each test computes on one thread (tests/conftest.py): on two cores that is two workers. At most
# four, since each imports torch, which costs seconds and a few hundred MB. Worksteal keeps neighbours in one worker, so
# that a fixture of a module is built about once. The tests of export come last and by themselves: with the runtimes of half
# a dozen makers loaded after thousands of other tests, a worker ended without a word when it started a process. 5: -k chose
# none of them.
PARALLEL := -m 'not slow' -n auto --maxprocesses 4 --dist worksteal

test: .venv/.installed-dev ## Runs the tests, except the slow ones
	@$(find_test_data); set -ex; \
	$(RUN) pytest $(PARALLEL) --ignore tests/deploy $(ARGS) || [ $$? -eq 5 ]; \
	$(RUN) pytest $(PARALLEL) tests/deploy $(ARGS) || [ $$? -eq 5 ]

# One at a time and with all cores: these measure time and memory, or train for a while.
test-slow: .venv/.installed-dev ## Runs the slow tests, one at a time
	@$(find_test_data); export OMP_NUM_THREADS="$${OMP_NUM_THREADS:-$$(getconf _NPROCESSORS_ONLN)}"; \
	set -x; $(RUN) pytest -m slow $(ARGS)

# Unpacked beside its place and then renamed: an interrupted unpacking leaves nothing that looks whole.
test-data: ## Unpacks the real images that some tests and benchmarks use, where their archives are there
	@set -e; from="$(TEST_DATA_ARCHIVES)"; to="$(LINNAEUS_TEST_DATA)"; \
	if [ ! -d "$$from" ]; then echo "No test data: there is no folder $$from (TEST_DATA_ARCHIVES=...)"; exit 0; fi; \
	mkdir -p "$$to"; part="$$to/.unpacking.$$$$"; trap 'rm -rf "$$part"' EXIT; trap 'exit 130' INT; trap 'exit 143' TERM; \
	for archive in "$$from"/*.tar "$$from"/*.tar.xz; do \
		[ -f "$$archive" ] || continue; \
		name="$$(basename "$$archive")"; name="$${name%.xz}"; name="$${name%.tar}"; \
		[ ! -d "$$to/$$name" ] || continue; \
		echo "Unpacking $$archive"; \
		rm -rf "$$part"; mkdir "$$part"; tar -xf "$$archive" -C "$$part"; mv "$$part/$$name" "$$to/$$name"; \
	done; \
	echo "The test data is in $$to"; echo "export LINNAEUS_TEST_DATA=\"$$to\""

lint: .venv/.installed-dev ## Checks the code and its formatting
	$(RUN) ruff check .
	$(RUN) ruff format --check .

types: .venv/.installed-dev ## Checks the types
	$(RUN) mypy

format: .venv/.installed-dev ## Formats the code and repairs what can be repaired
	$(RUN) ruff check --fix-only --quiet .
	$(RUN) ruff format .

bench: .venv/.installed-dev ## Measures speed: BENCH=train (default), loader, models, overhead, speedrun, photos, pretrained, start, deploy, predict
	@$(find_test_data); set -x; .venv/bin/python benchmarks/$(BENCH).py $(ARGS)

clean: ## Removes caches and build results; leaves .venv and runs/
	rm -rf .mypy_cache .pytest_cache .ruff_cache build dist
	find src tests -type d -name __pycache__ -prune -exec rm -rf {} +

# What the tests look at; where the default folder does not exist, the variable stays as the user has it.
define find_test_data
if [ -d "$(LINNAEUS_TEST_DATA)" ]; then export LINNAEUS_TEST_DATA="$(LINNAEUS_TEST_DATA)"; fi
endef

# Stamps say what .venv holds, and are written last: an interrupted installation is repeated.
.venv/.created:
	@command -v "$(PYTHON)" >/dev/null || { echo "Linnaeus needs Python 3.11 or newer, and '$(PYTHON)' is not there: make PYTHON=python3.12 ..."; exit 1; }
	@"$(PYTHON)" -c 'import sys; version = "%d.%d" % sys.version_info[:2]; sys.exit(sys.version_info < (3, 11) and "Linnaeus needs Python 3.11 or newer, and %s is %s: make PYTHON=python3.12 ..." % (repr("$(PYTHON)"), version))'
	@.venv/bin/python -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv .venv
	@touch $@

.venv/.installed: pyproject.toml | .venv/.created
	$(RUN) pip install -e .
	@touch $@

.venv/.installed-dev: pyproject.toml | .venv/.created
	$(RUN) pip install -e '.[dev]'
	@touch .venv/.installed $@
