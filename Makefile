# Every target does its own set-up: on a machine with Python 3.11+ and make, `make demo` or `make test` is enough.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
PEERS := .venv-peers/installed

TRACKERS := .venv-track/installed
DIST := dist

.PHONY: install demo test test-slow test-track test-cluster check bench bench-peers docs dist notebook clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else f"t3d needs Python 3.11 or newer, this is {v.major}.{v.minor}; try: make PYTHON=python3.11 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[all,dev]"
	@touch $@

demo: $(INSTALLED)
	$(BIN)/t3d train HalfCheetah-v5 --steps 30_000 --preset fast

test: $(INSTALLED)
	$(BIN)/python -m pytest

# A line a test. A file's tests need not stay together: a few files are most of the time.
test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow -vv --dist worksteal

$(TRACKERS): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-track
	.venv-track/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[wandb,mlflow,dev]"
	@touch $@

# W&B and MLflow bring fifty packages, so they have an environment of their own.
test-track: $(TRACKERS)
	.venv-track/bin/python -m pytest -m "slow or not slow" -n 2 --dist worksteal tests/test_tracking.py

# Two nodes in a network namespace of their own, some minutes. Ray is large: nothing else here needs it.
test-cluster: $(INSTALLED)
	@unshare -n true 2>/dev/null || unshare -rn true 2>/dev/null || { echo "make test-cluster needs root, or a system that lets users have namespaces of their own (unshare -rn)"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[all,dev,ray]"
	$$(unshare -n true 2>/dev/null && echo unshare -n || echo unshare -rn) $(BIN)/python -m pytest -m cluster -n 0 tests/cluster

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(INSTALLED) $(PEERS)
	$(BIN)/python benchmarks/learn.py

$(PEERS): benchmarks/peers/requirements.txt constraints.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/peers/requirements.txt
	@touch $@

# Half an hour on an idle machine: the same job in t3d and its peers, in turns.
bench-peers: $(INSTALLED) $(PEERS)
	$(BIN)/python benchmarks/peers.py

docs: $(INSTALLED)
	$(BIN)/python docs/build.py

# The wheel.
dist: $(INSTALLED)
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir $(DIST) .

# The notebook, beside the wheel that it installs: the two are all that Colab needs.
notebook: dist
	$(BIN)/jupytext --quiet --to ipynb --output $(DIST)/fifteen_steps.ipynb examples/fifteen_steps.py

clean:
	rm -rf .venv .venv-peers .venv-track .mypy_cache .ruff_cache .pytest_cache .hypothesis
