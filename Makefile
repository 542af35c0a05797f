# make: set-up, then the default tier · make test · make smoke · make bench · make accept · make lint
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed
export OMP_NUM_THREADS := 1

.PHONY: all results test smoke compare-smoke bench accept lint
all: results

# The environment is made again when a pin or a requirement changes.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all]'
	touch $@

# Snakemake itself takes seconds to find that nothing is to be done; make asks the files instead.
RESULTS := results/default/report.html
SOURCES := Snakefile $(shell find workflow config claims src profiles -type f -not -name '*.pyc' 2>/dev/null)
$(RESULTS): $(STAMP) $(SOURCES)
	$(BIN)/snakemake --cores all
	touch $@

results: $(RESULTS)
	@echo "report:       $(RESULTS)"
	@echo "claims table: results/default/claims.csv"

# --no-loadscope-reorder: in the order of tests/conftest.py, the longest files first; else those of most tests are.
test: $(STAMP)
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

smoke: $(STAMP)
	$(BIN)/snakemake --cores all --configfile config/smoke.yaml

compare-smoke: $(STAMP)
	$(BIN)/snakemake compare --cores all --configfile config/smoke.yaml

bench: $(STAMP)
	$(BIN)/python -m benchmarks

accept: $(STAMP)
	$(BIN)/python -m lossatlas accept --tier default
	$(BIN)/python -m lossatlas readme

lint: $(STAMP)
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow && $(BIN)/snakemake --lint
