# Everything a developer and CI run. `make help` lists it.
#
#   PYTHON=3.12          another interpreter (a version, a name or a path); it gets .venv-3.12
#   BACKEND=epoll        one backend; without it zloop chooses
#   PROFILE=dev-release  a quicker build with debug assertions instead of the release build
#   PGO=1                for `make wheel` and `make bench`: optimise by a profile (rustup component add llvm-tools)
#   SANITIZER=thread     for `make sanitize`: address (the default) or thread

PYTHON ?=
BACKEND ?=
SUITE ?=
TLS ?=
MATCH ?=
QUICK ?=
PGO ?=
PROFILE ?= release
SANITIZER ?= address

# The default interpreter lives in .venv and builds in target/; a named one has its own folders, so
# that going back and forth between two rebuilds nothing.
ifeq ($(strip $(PYTHON)),)
VENV := .venv
else
FOUND := $(shell scripts/find-python "$(PYTHON)")
ifeq ($(FOUND),)
$(error PYTHON=$(PYTHON) cannot be used)
endif
VENV := .venv-$(firstword $(FOUND))
export CARGO_TARGET_DIR := $(CURDIR)/target/python-$(firstword $(FOUND))
endif

# On Linux kqueue is a library, and builds with it live apart too: installed for good, since the editable ones of an
# interpreter share one file. Where pkg-config does not find the library, the usual build tells so.
FEATURES :=
ifeq ($(strip $(BACKEND)) $(shell uname -s),kqueue Linux)
ifneq ($(shell pkg-config --exists 'libkqueue >= 2.7' 2>/dev/null && echo found),)
FEATURES := libkqueue
VENV := $(VENV)-libkqueue
export CARGO_TARGET_DIR := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)/libkqueue
endif
endif
WITH_FEATURES := $(if $(FEATURES),--features $(FEATURES))

PY := $(VENV)/bin/python
WHEELS := $(CURDIR)/target/wheels-$(FEATURES)
RUST_SOURCES := Cargo.toml Cargo.lock build.rs backends/Cargo.toml $(shell find src backends/src -name '*.rs' 2>/dev/null)
BUILT := $(VENV)/.built-$(PROFILE)
INSTALLED := $(if $(FEATURES),$(wildcard python/zloop/*.py))

export PIP_DISABLE_PIP_VERSION_CHECK := 1
WITH_BACKEND := $(if $(strip $(BACKEND)),ZLOOP_BACKEND=$(BACKEND))

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -e 's/:.*## /	/' | awk -F '\t' '{ printf "  make %-12s %s\n", $$1, $$2 }'
	@echo
	@echo "  PYTHON=3.12 picks the interpreter, BACKEND=epoll the backend, SUITE=uvicorn the upstream suite."

$(VENV)/.made:
	@mkdir -p $(VENV)
	@set -e; found="$$(scripts/find-python $(PYTHON))"; \
	echo "Making $(VENV) with CPython $$found"; "$${found#* }" -m venv $(VENV)
	@$(PY) -m pip install --quiet --upgrade 'pip>=25.1'
	@touch $@

$(VENV)/.ready: $(VENV)/.made pyproject.toml
	@echo "Installing the development tools into $(VENV)"
	@$(PY) -m pip install --quiet --group development
	@touch $@

$(BUILT): $(VENV)/.ready $(RUST_SOURCES) $(INSTALLED) pyproject.toml
	@echo "Building zloop ($(PROFILE)$(if $(FEATURES), with $(FEATURES))) for $(VENV)"
ifeq ($(FEATURES),)
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) $(VENV)/bin/maturin develop --profile $(PROFILE)
else
	@rm -rf $(WHEELS)
	@$(VENV)/bin/maturin build --profile $(PROFILE) $(WITH_FEATURES) --auditwheel skip \
		--out $(WHEELS) --interpreter $(CURDIR)/$(PY)
	@$(PY) -m pip install --quiet --force-reinstall --no-deps $(WHEELS)/*.whl
endif
	@rm -f $(VENV)/.built-*
	@touch $@

.PHONY: develop
develop: $(BUILT) ## Build the extension and install it, editable, into the virtual environment

.PHONY: demo
demo: $(BUILT) ## Serve a FastAPI app on zloop, talk to it over HTTP, WebSocket and HTTPS, show the answers
	@$(WITH_BACKEND) $(PY) scripts/demo.py

.PHONY: serve
serve: $(BUILT) ## The same app, left running on http://127.0.0.1:8000
	$(WITH_BACKEND) $(PY) -m uvicorn --app-dir examples fastapi_app:app --loop zloop:new_event_loop

.PHONY: test
test: $(BUILT) ## Every test: Rust, conformance, Python; with times
	@$(PY) scripts/run_tests.py

.PHONY: test-python
test-python: $(BUILT) ## The Python tests alone
	@$(PY) scripts/run_tests.py python

# Those that are about a loop's own queues and objects; in_threads.py says which of them run in one thread, and why.
IN_THREADS := asyncgens context handles scheduling tasks threadsafe_handles transport_info transport_writing
.PHONY: test-parallel
test-parallel: $(BUILT) ## A part of the Python tests, each in four threads at once: PYTHON=3.14t
	@cd conformance/python && ZLOOP_TEST_BACKENDS=$(or $(BACKEND),epoll) $(CURDIR)/$(PY) -m pytest --parallel-threads=4 \
		-o timeout=120 -o faulthandler_timeout=180 $(IN_THREADS:%=test_%.py)

.PHONY: stress
stress: $(BUILT) ## Eight threads that call call_soon_threadsafe a million times each: PYTHON=3.14t
	@ZLOOP_TEST_CALLS=1000000 $(if $(BACKEND),ZLOOP_TEST_BACKENDS=$(BACKEND)) $(PY) -m pytest \
		-o timeout=600 -o faulthandler_timeout=900 conformance/python/test_threadsafe.py -k eight_threads

.PHONY: lint
lint: $(BUILT) ## Formatting, clippy, ruff, mypy --strict, stubtest
	@$(PY) scripts/lint.py

.PHONY: format
format: $(VENV)/.ready ## Rewrite the sources in the house format
	cargo fmt --all
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix-only .

.PHONY: conform
conform: $(BUILT) ## Both conformance suites on one backend: BACKEND=epoll
	@$(PY) scripts/run_tests.py conform --backend "$(BACKEND)" $(WITH_FEATURES)

.PHONY: clauses
clauses: $(VENV)/.made ## The backends' contract, a line for each clause, on each backend that opens here
	@$(PY) scripts/run_tests.py clauses

# Both need a nightly toolchain: rustup toolchain install nightly --component miri,rust-src
.PHONY: miri
miri: ## Interpret what needs no kernel, and notice undefined behaviour: queues, timers, slabs, tables
	cargo +nightly miri test --package zloop --no-default-features --lib
	cargo +nightly miri test --package zloop-backends --features sim --lib -- addr api selector sim slots table

# The models have a folder of their own, since the flag is one for all crates.
.PHONY: loom
loom: ## Every interleaving of the inbox, of the lock and of the wakers with other threads
	RUSTFLAGS="--cfg loom" cargo test --release --target-dir target/loom --package zloop --no-default-features \
		--lib -- models
	RUSTFLAGS="--cfg loom" cargo test --release --target-dir target/loom --package zloop-backends --lib -- models

# The forked children of some cases start threads, which thread sanitizer only allows on request.
SANITIZED = RUSTFLAGS=-Zsanitizer=$(SANITIZER) RUSTDOCFLAGS=-Zsanitizer=$(SANITIZER) TSAN_OPTIONS=die_after_fork=0 \
	cargo +nightly test -Zbuild-std --target $(shell rustc -vV | sed -n 's/^host: //p') \
		--target-dir target/sanitize-$(SANITIZER)

.PHONY: sanitize
sanitize: ## The backends and their suite, and the inbox, under SANITIZER=address or thread
	$(SANITIZED) --package zloop-backends --package zloop-conformance --tests
	$(SANITIZED) --package zloop --no-default-features --lib

.PHONY: upstream
upstream: $(BUILT) ## Other projects' test suites on zloop against asyncio: SUITE=uvicorn BACKEND=epoll TLS=portable MATCH=ssl
	@$(PY) conformance/python/upstream/run.py $(if $(SUITE),--suite "$(SUITE)") $(if $(BACKEND),--backend "$(BACKEND)") \
		$(if $(TLS),--tls "$(TLS)") $(if $(MATCH),--match "$(MATCH)")

.PHONY: bench
bench: $(VENV)/.made ## The benchmarks against asyncio and other loops; QUICK=1 for under three minutes; PGO=1 as `wheel`
	@$(PY) benches/run.py $(if $(QUICK),--quick) $(if $(PGO),--pgo)

.PHONY: instructions
instructions: $(BUILT) ## Instructions of the hot paths against the committed counts (valgrind); UPDATE=1 sets them anew
ifeq ($(PROFILE),release)
	@$(PY) benches/instructions.py $(if $(UPDATE),--update)
else
	@echo "instructions: not counted, because the committed counts are for PROFILE=release"
endif

.PHONY: wheel
wheel: $(VENV)/.ready ## A wheel for this interpreter, in dist/; PGO=1 optimises it by a profile
	$(VENV)/bin/maturin build --release --strip $(if $(PGO),--pgo) --out dist --interpreter $(CURDIR)/$(PY)

.PHONY: clean
clean: ## Remove everything that was built, virtual environments included
	cargo clean --quiet
	rm -rf .venv .venv-* dist build conformance/python/upstream/.cache benches/.peers
	find python -name '*.so' -delete
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
