# `make` alone says what there is. Every target starts from a Python of at least 3.11 and nothing else.
PYTHON ?= python3
PY := .venv/bin/python
STAMPS := .venv/.stamps
LOCK := requirements.lock
DEV_LOCK := requirements-dev.lock
# What pip needs to build this package itself; the locks hold it too, so that nothing is fetched unhashed.
BUILD := $(shell sed -n 's/^requires = \["\(.*\)"\]$$/\1/p' pyproject.toml)
UV_VERSION := 0.13.9
PIP := $(PY) -m pip --disable-pip-version-check --quiet
SOURCES := extproc ledger tests

.PHONY: help install demo run test test-fast retest check format bench proto lock clean
.DEFAULT_GOAL := help

help:
	@echo "Tollkeeper: who spent every AI token, and the stop before the bill."
	@echo
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)$$/\1|\2/p' $(MAKEFILE_LIST) | \
		while IFS='|' read -r target says; do printf '  make %-10s %s\n' "$$target" "$$says"; done

install: $(STAMPS)/installed ## create .venv with the commands `ledger` and `extproc`

demo: install ## see it at work for a minute, with a fake provider; nothing leaves this machine
	@.venv/bin/ledger up --demo

run: install ## run all of it on this machine, at 127.0.0.1:10000, until Ctrl-C
	@.venv/bin/ledger up

test: $(STAMPS)/developing ## all tests, with real Envoy, PostgreSQL and Valkey
	$(PY) -m pytest -n auto --ignore=tests/bench

test-fast: $(STAMPS)/developing ## the tests that need no service, in less than a minute
	$(PY) -m pytest -n auto tests/ledger tests/extproc

retest: $(STAMPS)/developing ## what failed last, once more, one test at a time
	$(PY) -m pytest --last-failed --last-failed-no-failures none

check: $(STAMPS)/developing ## format, lint, strict types; generated code is what proto/ says
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy $(SOURCES)
	@rm -rf build/wire && mkdir -p build/wire
	@$(call compile_proto,build/wire/extproc,build/wire/ledger)
	@for side in extproc ledger; do \
		for file in build/wire/$$side/*; do \
			cmp -s $$file $$side/wire/$$(basename $$file) || \
			{ echo "$$side/wire/$$(basename $$file) is not what proto/ says; run make proto."; exit 1; }; \
		done; \
	done

format: $(STAMPS)/developing ## put the code into the one format
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

bench: $(STAMPS)/developing ## measure what metering costs
	$(PY) -m tests.bench

proto: $(STAMPS)/developing ## compile proto/ into extproc/wire and ledger/wire
	@$(call compile_proto,extproc/wire,ledger/wire)

lock: ## choose the newest versions that pyproject.toml allows, with their hashes
	@test -x build/uv/bin/uv || { $(PYTHON) -m venv build/uv && build/uv/bin/pip install -q uv==$(UV_VERSION); }
	@printf '%s\neditables\n' '$(BUILD)' > build/build.in
	@$(call compile_lock,$(LOCK),)
	@$(call compile_lock,$(DEV_LOCK),--group dev --constraint $(LOCK))

clean: ## remove .venv and whatever was built; data directories stay
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# $(1): where the sidecar's messages go, $(2): where the ledger's go.
define compile_proto
mkdir -p $(1) $(2) && \
$(PY) -m grpc_tools.protoc -I proto --python_out=$(1) --pyi_out=$(1) \
	proto/core.proto proto/http_status.proto proto/processing_mode.proto proto/ext_proc.proto && \
$(PY) -m grpc_tools.protoc -I proto --python_out=$(2) --pyi_out=$(2) proto/event.proto && \
for file in $(1)/*_pb2.py $(1)/*_pb2.pyi; do \
	sed -E 's/^import ((core|http_status|processing_mode)_pb2)/from extproc.wire import \1/' $$file > $$file.new && \
	mv $$file.new $$file; \
done
endef

# $(1): the lock, $(2): what to lock beside the package and its embedded services.
define compile_lock
build/uv/bin/uv pip compile pyproject.toml build/build.in --extra embedded $(2) \
	--universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
	--no-emit-index-url --no-emit-find-links --upgrade --quiet --output-file $(1)
endef

$(STAMPS)/venv:
	@command -v $(PYTHON) > /dev/null || { echo "$(PYTHON) is not installed; Tollkeeper needs Python 3.11 or newer."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Tollkeeper needs Python 3.11 or newer; choose one with make PYTHON=python3.12."; exit 1; }
	@test -x $(PY) || { echo "Creating .venv ..."; $(PYTHON) -m venv .venv; }
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/installed: $(STAMPS)/venv $(LOCK) pyproject.toml
	@echo "Installing what $(LOCK) names ..."
	@$(PIP) install --require-hashes -r $(LOCK)
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(STAMPS)/developing: $(STAMPS)/installed $(DEV_LOCK)
	@echo "Installing what $(DEV_LOCK) names ..."
	@$(PIP) install --require-hashes -r $(DEV_LOCK)
	@touch $@
