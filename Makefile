# What a machine with python3.11+ and make can do with a fresh clone. Everything installs into .venv.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/ready
DEMO   := build/demo
# Older SDKs, each in a folder of its own beside the one in the environment: the self-hosted service is held to all of them.
# The first needs a package that the later ones do not.
SDKS   := cohere==5.15.0+httpx-sse==0.4.0 cohere==6.1.0

.PHONY: help setup demo check test exhaustive format bench clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile

setup: $(READY)  ## the virtual environment, with everything pinned

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "python 3.11 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@for sdk in $(SDKS); do \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade \
			--target "$(VENV)/sdk/$${sdk%%+*}" $$(echo $$sdk | tr + ' ') || exit; \
	done
	@touch $(READY)

demo: $(READY)  ## sync this project's own documentation, edit a file, sync again, search
	@rm -rf $(DEMO) && mkdir -p $(DEMO)
	@cp -r README.md CONTRIBUTING.md CHANGELOG.md docs $(DEMO)/ && cp config.example.toml $(DEMO)/vector-sync.toml
	@cd $(DEMO) && run() { printf '\n$$ vector-sync %s\n' "$$*"; "$(CURDIR)/$(BIN)/vector-sync" "$$@"; } && \
	run check && run plan && run sync && \
	printf '\n$$ echo "Each edit costs what it changed: this sentence, and no more." >> CHANGELOG.md\n' && \
	printf '\nEach edit costs what it changed: this sentence, and no more.\n' >> CHANGELOG.md && \
	run sync && run sync && \
	run search "what happens when the power fails in the middle of a run?" --limit 3 && \
	run status

check: $(READY)  ## lint, format, types, spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell connector sinks tests bench deploy docs *.md *.toml *.yaml

test: $(READY)  ## the tests, but for those of `make exhaustive`
	$(BIN)/python -m pytest -q -n auto --dist worksteal

exhaustive: $(READY)  ## mutants of our own code, each of which some test has to catch, and the far half of large tables
	$(BIN)/python -m pytest -q -n auto --dist worksteal -m exhaustive

format: $(READY)  ## put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)  ## the figures of the README: floor and ours
	$(BIN)/python bench/run_all.py --rows 10000 --repeats 3

clean:  ## remove what the others made
	rm -rf $(VENV) build .mypy_cache .pytest_cache .ruff_cache .hypothesis
