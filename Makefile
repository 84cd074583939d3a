# Two commands set everything up: `make quickstart` and `make test`.
PYTHON ?= python3.11
VENV := .venv
PY := $(VENV)/bin/python
RUN := runs/quickstart

# glibc takes large arrays from the kernel anew each time, zeroed page by page: huge
# pages spare a training step on the CPU most of that. Other systems ignore it.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

.PHONY: quickstart test test-slow lint clean

quickstart: $(VENV)/.core
	$(PY) -m data_synthesis.world --output=$(RUN)/world --seed=0 --videos=2000
	$(PY) -m gve_jax.train --config=configs/world.py --workdir=$(RUN)/train
	$(PY) -m eval --config=configs/uvrb_mini.py --checkpoint=$(RUN)/train --output=$(RUN)/eval
	$(PY) -m gve_jax.embed --checkpoint=$(RUN)/train --input=$(RUN)/world/items.jsonl \
	  --output=$(RUN)/embeddings --stats
	@echo "Open $(RUN)/eval/report.html"

test: $(VENV)/.test
	$(PY) -m pytest -m "not slow"

test-slow: $(VENV)/.test
	$(PY) -m pytest -m slow

lint: $(VENV)/.test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

clean:
	rm -rf $(RUN)

# The stamps are renewed when the dependencies change.
$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: setup.py | $(VENV)/bin/python
	$(PY) -m pip install -q -e .
	touch $@

$(VENV)/.test: setup.py | $(VENV)/bin/python
	$(PY) -m pip install -q -e '.[test]'
	touch $@
