# Two commands set everything up: `make quickstart` and `make test`.
PYTHON ?= python3.11
VENV := .venv
PY := $(VENV)/bin/python

# glibc takes large arrays from the kernel anew each time, zeroed page by page: huge
# pages spare a training step on the CPU most of that. Other systems ignore it.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

.PHONY: quickstart full test test-slow lint clean

# The whole loop. Arguments: folder, training videos, training configuration.
define loop
	$(PY) -m data_synthesis.world --output=$(1)/world --seed=0 --videos=$(2)
	$(PY) -m gve_jax.train --config=$(3) --workdir=$(1)/train
	$(PY) -m eval --config=configs/uvrb_mini.py:$(1)/world/uvrb_mini \
	  --checkpoint=$(1)/train --output=$(1)/eval
	$(PY) -m gve_jax.embed --checkpoint=$(1)/train --input=$(1)/world/items.jsonl \
	  --output=$(1)/embeddings --stats
	@echo "Open $(1)/eval/report.html"
endef

quickstart: $(VENV)/.core
	$(call loop,runs/quickstart,2000,configs/world.py)

# The same with about an hour to spare.
full: $(VENV)/.core
	$(call loop,runs/full,10000,configs/world_full.py)

# A module of tests stays in one process: its fixtures are made once.
PYTEST := -m pytest -n auto --maxprocesses=2 --dist=loadfile

test: $(VENV)/.test
	$(PY) $(PYTEST) -m "not slow"

test-slow: $(VENV)/.test
	$(PY) -m pytest -m slow

lint: $(VENV)/.test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

clean:
	rm -rf runs/quickstart

# The stamps are renewed when the dependencies change.
$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: setup.py | $(VENV)/bin/python
	$(PY) -m pip install -q -e .
	touch $@

$(VENV)/.test: setup.py | $(VENV)/bin/python
	$(PY) -m pip install -q -e '.[test]'
	touch $@
