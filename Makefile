# Every target sets up what it needs: a fresh machine needs Python 3.11+ and make, nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ALL := $(VENV)/.installed-extras

.PHONY: quickstart test test-slow test-ray test-hosts test-lowest lint docs clean

quickstart: $(STAMP)
	$(BIN)/distseg run configs/quickstart.yaml

# Files of tests on all cores, four at most: a whole run in a test takes up to 2 GB
test: lint $(ALL)
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile

# Kills at random moments, memory over thousands of images, whole runs: about 20 minutes on 2 cores
test-slow: $(ALL)
	$(BIN)/python -m pytest -m "slow and not gpu"

# Real Ray clusters of several nodes, whose nodes and drivers are killed, and sweeps
test-ray: $(ALL)
	$(BIN)/python -m pytest -m "ray and not gpu"

# Several hosts on this machine (Linux, root): their cables are cut, they vanish; Slurm where it is there
test-hosts: $(ALL)
	$(BIN)/python -m pytest -m "hosts and not gpu"

# The quickstart on the lowest versions that pyproject.toml allows: 5 GB of packages, 10 minutes
test-lowest: $(STAMP)
	.ci/lowest $(BIN)/python $(abspath $(BIN))/uv

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# docs/config.md, docs/commands.md, configs/schema.json and README's table of results, from the code and
# the reports; then the site, into site/
docs: $(ALL)
	$(BIN)/python docs/generate_config.py
	$(BIN)/python docs/generate_results.py
	$(BIN)/python -m mkdocs build --strict

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -c constraints.txt -e ".[dev]"
	touch $@

# Ray, DeepSpeed, ONNX, pandas, trackers and the site, which the tests use for real
$(ALL): $(STAMP)
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e ".[dev,ray,deepspeed,export,pandas,docs,track]"
	touch $@

clean:
	rm -rf $(VENV) runs
