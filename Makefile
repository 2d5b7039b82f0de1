# Two commands do all their own set-up: `make demo` and `make test`. Needs Linux, Python 3.11 or later, and make.
# The newest that there is, be it on the PATH or kept by pyenv or uv: from 3.12 on a tenant weighs half.
KEPT := $(or $(PYENV_ROOT),$(HOME)/.pyenv)/versions $(or $(UV_PYTHON_INSTALL_DIR),$(HOME)/.local/share/uv/python)
PYTHON ?= $(or $(shell for version in 3.13 3.12 3.11; do \
	for python in python$$version $(foreach folder,$(KEPT),$(folder)/*/bin/python$$version); do \
	$$python -c 'import ensurepip' 2>/dev/null && { echo $$python; exit; }; done; done),python3)
VENV ?= .venv
BIN := $(VENV)/bin
FOLDERS := ipc sandbox sandbox/guest sandbox/guest/workers $(addprefix sandbox/guest/foreign,/ /cloudflare /js /pyodide) sandbox/lockdown engine engine/store loader loader/bindings loader/bindings/sql loader/bundle loader/cli loader/demo loader/http
CHECKED := ipc sandbox engine loader tests benchmarks

.PHONY: demo test test-long lint types unit bench bench-all compare million soak fuzz lock clean

demo: $(VENV)/.installed
	$(BIN)/python -m cloister.loader.demo

test: lint types unit

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed
	$(BIN)/mypy

# On every core, a file at a time. By itself `pytest` runs them one after the other, and takes --pdb.
WORKERS ?= logical
unit: $(VENV)/.installed
	$(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 8 --dist loadfile

# What `test` takes a sample of, and all of it: a host that dies at each of its writes and syncs and again at each of the
# next one's, hosts that are killed while they open, and runs of ten thousand steps of one kind at once.
test-long: $(VENV)/.installed
	$(BIN)/python -m pytest -m long

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/boot.py
	$(BIN)/python benchmarks/hop.py
	$(BIN)/python benchmarks/steps.py

# Some minutes; with its 5,000 tenants, idle.py wants a machine with 20 GiB free and 65,536 descriptors (ulimit -n).
bench-all: bench
	$(BIN)/python benchmarks/sleepers.py
	$(BIN)/python benchmarks/timers.py
	$(BIN)/python benchmarks/deaths.py
	$(BIN)/python benchmarks/idle.py
	$(BIN)/python benchmarks/pools.py
	$(BIN)/python benchmarks/shards.py
	$(BIN)/python benchmarks/churn.py
	$(BIN)/python benchmarks/burst.py
	$(BIN)/python benchmarks/neighbours.py
	$(BIN)/python benchmarks/overshoot.py
	$(BIN)/python benchmarks/scaling.py
	$(BIN)/python benchmarks/million.py --quick

# The same workloads on cloister and on DBOS, Restate and workerd, which are installed beside it from PyPI and npm.
compare: $(VENV)/.installed
	PYTHON=$(PYTHON) benchmarks/compare/install.sh
	$(BIN)/python benchmarks/compare/compare.py

# Twenty thousand tenants and a minute; without --quick a million, and half an hour.
million: $(VENV)/.installed
	$(BIN)/python benchmarks/million.py --quick

# Ten thousand sandboxes, of which a tenth come to a bad end, and five zygotes; some minutes, and then what is left.
soak: $(VENV)/.installed
	$(BIN)/python benchmarks/churn.py --boots 10000 --killed 10 --rotate 2500

# The wire under atheris, where that is installed, for so many seconds each; the tests do the same with hypothesis.
FUZZ_SECONDS ?= 60
fuzz: $(VENV)/.installed
	for target in frame value stream conversation; do \
		$(BIN)/python tests/ipc/fuzz.py $$target -max_total_time=$(FUZZ_SECONDS) -max_len=1000 -verbosity=0 || exit; \
	done

# The link tree of an editable install is made anew when a file comes or goes, which a folder's time tells.
$(VENV)/.installed: pyproject.toml requirements.lock $(FOLDERS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "cloister needs Python 3.11 or later; $(PYTHON) is $$($(PYTHON) -V 2>&1). Try: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
		{ echo "$(PYTHON) has no pip of its own (on Debian and Ubuntu: apt install python3-venv)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation \
		--config-settings editable_mode=strict -e .
	$(BIN)/python -m compileall -q build  # each process of a test would do it anew where the environment forbids to keep it
	touch $@

# Maintainers only: writes the versions and hashes that everybody else installs.
lock: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-annotate --custom-compile-command "make lock" -o requirements.lock

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
