# The two commands of the README are `make demo` and `make test`. Everything installs from constraints.txt.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
DEMO := build/demo
DEMO_SIZE := 4096 4096

# What is compiled is kept, whatever the environment says: without it each of the hundreds of processes that the tests
# start would compile torch and Prefect again.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: docs gallery install wheel demo up down test test-unit test-integration test-system image-test fuzz check lock clean

install: $(VENV)/.installed

# The pip that Python 3.11 brings takes twice as long. constraints.txt names all that is needed on Linux, so two halves of
# it are unpacked at once and nothing is resolved; where that fails, and for what is left, the last line takes its time.
# Of 22,000 modules about 2,000 are ever imported, and compiled then.
PIP := $(BIN)/pip --quiet --disable-pip-version-check
HALVES := $(VENV)/half-0.txt $(VENV)/half-1.txt
$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --constraint constraints.txt --upgrade pip
	grep -v '^pip==' constraints.txt | awk '{ print > "$(VENV)/half-" NR % 2 ".txt" }'
	for half in $(HALVES); do $(PIP) install --no-compile --no-deps --requirement $$half & done; wait
	$(PIP) install --no-compile --constraint constraints.txt --editable '.[dev]'
	touch $@

# A wheel for machines without this repository. What an earlier build left would get into it.
wheel: install
	rm -rf build/lib build/bdist.*
	$(PIP) wheel --no-deps --no-build-isolation --wheel-dir build/wheel .
	@echo build/wheel/*.whl

demo: install
	$(BIN)/python -m seamline.flows.cli.demo --size $(DEMO_SIZE) --out $(DEMO)

# Prefect, Dask, a watched inbox and the map on this machine; `make down` stops all of it.
up: install
	$(BIN)/seamline up --detach

down: install
	$(BIN)/seamline down

# Tests of a file share a process. Four processes on two cores, since much of the time they wait for others that they
# start. The order is that of tests/conftest.py.
TEST := $(BIN)/pytest --numprocesses 4 --dist loadfile --no-loadscope-reorder

# Everything, and which tests took longest.
test: install
	$(TEST) --durations=30

# Without clusters, processes and servers: in less than two minutes.
test-unit: install
	$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder tests/unit

test-integration: install
	$(TEST) tests/integration

test-system: install
	$(TEST) tests/system

# The site of README, guides, notebooks, reference and decisions: build/site/index.html. Any warning fails it, which
# `--quiet` would hide from `--strict`.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo build/site/index.html

# The pictures of README and gallery, from real runs; scenes that SEAMLINE_DATA does not hold are left out.
gallery: install
	$(BIN)/python docs/gallery.py

$(VENV)/.docs: $(VENV)/.installed docs/requirements.txt
	$(PIP) install --constraint constraints.txt --requirement docs/requirements.txt
	touch $@

# Builds the image and runs the services of deploy/compose.yaml in it, as root, with Debian's buildah, debootstrap, runc
# and tini. IMAGE may name one that is built already.
IMAGE ?= build
image-test: install
	SEAMLINE_TEST_IMAGE=$(IMAGE) $(BIN)/pytest --durations=10 tests/system/image

# Damaged and hostile files of every kind; another SEED, other damages. Takes an hour.
SEED ?= 1
fuzz: install
	$(BIN)/python -m tests.fuzz --count 10000 --seed $(SEED)

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# After a change of dependencies: write down what runs together.
lock: install
	$(BIN)/pip freeze --all --exclude-editable --exclude setuptools | sed "s/+cpu$$//" > constraints.txt

clean:
	rm -rf build .mypy_cache .pytest_cache .ruff_cache
