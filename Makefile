# One line each: make demo | gallery | test | test-torches | test-all | docs | wheels | cuda-check | bench | lint | format | clean
#
# Everything is installed into .venv by these commands; pip's own index settings are honoured.
# make test TORCH=torch==2.14.1        another torch
# make test-torches VERSIONS=2.11.0    one of those that it tests with; TORCHES=folder for what it installs
# make demo DATA=folder EPOCHS=5       other images, fewer epochs
# make test-mutants COUNT=30 SEED=0    how many planted faults, and which
# make bench ARGS=step         one benchmark instead of all; ARGS="--help" names them

TORCH ?= torch==2.13.0
PYTHON ?= python3
VENV ?= .venv
EPOCHS ?= 20
JOBS ?= 2
COUNT ?= 30
SEED ?= 0

BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
PEERS := build/peers
WITH_PEERS := REQUIRE_PEERS=1 PYTHONPATH=$(PEERS) TORCH_EXTENSIONS_DIR=$(PEERS)/extensions \
  PATH="$(abspath $(BIN)):$$PATH"
PIP := $(BIN)/python -m pip --disable-pip-version-check
PYTEST := $(BIN)/pytest -n $(JOBS) --dist loadgroup
SOURCES := setup.py pyproject.toml $(wildcard build_backend/*.py csrc/*.* csrc/*/*.*)
CXX_FILES := $(wildcard csrc/*.* csrc/*/*.* tests/cuda_emulation/*.h tests/cuda_emulation/[bk]*.cpp)

help:
	@sed -n 's/^# \(make\)/\1/p; s/^# \(One\)/\1/p' Makefile

demo: $(STAMPS)/demo
	$(BIN)/python examples/perceptron.py --epochs $(EPOCHS) $(if $(DATA),--data "$(DATA)")

gallery: $(STAMPS)/demo
	$(BIN)/python examples/gallery.py gallery

test: $(STAMPS)/test
	$(PYTEST) --timeout 300 -m "not slow"

# The same tests with other versions of torch, on other Pythons: nothing of the checkout is touched.
test-torches:
	$(PYTHON) tools/torches.py $(VERSIONS) -- -n $(JOBS) --dist loadgroup --timeout 600 -m "not slow"

# A wheel for each Python that is here, for every torch; ARGS="--python 3.11 --torch 2.13.0" takes fewer.
wheels:
	$(PYTHON) -m tools.wheels $(ARGS)

# Whether the tests notice faults planted in csrc/: a minute or two for each of COUNT. Not in test-all.
test-mutants: $(STAMPS)/test
	$(BIN)/python -m tools.mutants --count $(COUNT) --seed $(SEED)

# What `make test` leaves out; it is not repeated here.
test-all: test-slow test-peers test-sanitized docs cuda-check lint

test-slow: $(STAMPS)/test
	$(PYTEST) --timeout 900 -m "slow and not peers"

# docs/migration.md against other libraries, which stand apart so that no other test sees them.
test-peers: $(STAMPS)/test $(STAMPS)/peers
	$(WITH_PEERS) $(PYTEST) --timeout 300 -m "peers and not deepspeed" $(wildcard tests/test_migration*.py)

# Left out of test-all: DeepSpeed compiles for minutes what its classes for the CPU need.
test-deepspeed: $(STAMPS)/test $(STAMPS)/peers
	$(WITH_PEERS) $(PYTEST) --timeout 900 -m deepspeed $(wildcard tests/test_migration*.py)

# ASan must come first in the process, and libstdc++ with it, or C++ exceptions end the process.
# Leaks are not looked for: Python and torch leave much on purpose.
test-sanitized: $(STAMPS)/test
	ONEPASS_SANITIZE=1 ONEPASS_CUDA=emulate $(PIP) install -q --no-deps --upgrade --target build/sanitized .
	LD_PRELOAD="$$(for l in asan ubsan stdc++; do g++ -print-file-name=lib$$l.so; done | xargs)" \
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	PYTHONPATH=build/sanitized $(PYTEST) --timeout 900 -m "(sanitize or emulated) and not slow" tests

# The kernels as they were compiled; it says so where there is no nvcc, and with REQUIRE_NVCC=1 fails.
cuda-check: $(STAMPS)/cuda-check
	$(BIN)/python -m tools.cuda_check

# The documentation site; read it with python3 -m http.server -d build/site, for its search.
docs: $(STAMPS)/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	$(BIN)/python tools/site/check.py build/site

bench: $(STAMPS)/bench
	$(BIN)/python -m benchmarks $(or $(ARGS),all)

lint: $(STAMPS)/lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CXX_FILES)
	printf '%s\n' $(filter %.cpp,$(CXX_FILES)) | xargs -P $(JOBS) -I % $(BIN)/clang-tidy --quiet % -- \
	  -std=c++20 -DONEPASS_VERSION='""' -DONEPASS_TORCH_VERSION='""' \
	  -DTORCH_EXTENSION_NAME=_C $$($(BIN)/python tools/includes.py)

format: $(STAMPS)/lint
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/clang-format -i $(CXX_FILES)

clean:
	rm -rf build dist python/*.egg-info python/onepass/*.so python/onepass/_torch_*_*
	rm -rf $(STAMPS) .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(STAMPS)/venv:
	@PYTHON=$(PYTHON) sh tools/preflight.sh
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	mkdir -p $(STAMPS) && touch $@

# Rewritten only when TORCH has another value, so that what follows is redone only then.
$(STAMPS)/torch-wanted: FORCE | $(STAMPS)/venv
	@echo '$(TORCH)' | cmp -s - $@ || echo '$(TORCH)' > $@

$(STAMPS)/torch: $(STAMPS)/torch-wanted
	$(PIP) install '$(TORCH)'
	touch $@

# onepass with one of its extras (demo, test, docs, cuda-check, bench, lint), compiled again when a source changed.
$(STAMPS)/demo $(STAMPS)/test $(STAMPS)/docs $(STAMPS)/cuda-check $(STAMPS)/bench $(STAMPS)/lint: $(STAMPS)/torch $(SOURCES)
	@echo "Compiling onepass and installing what make $(notdir $@) needs: minutes, the first time"
	$(PIP) install -q -e '.[$(notdir $@)]'
	touch $@

$(STAMPS)/peers: benchmarks/requirements-peers.txt | $(STAMPS)/test
	$(PIP) install -q --no-deps --upgrade --target $(PEERS) -r $<
	touch $@

FORCE:
.NOTPARALLEL:
.PHONY: help demo gallery test test-torches test-all test-slow test-peers test-deepspeed test-mutants test-sanitized cuda-check docs wheels bench lint format clean FORCE
