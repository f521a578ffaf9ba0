# `make demo` and `make test` do all set-up themselves: a virtual environment in .venv with everything that they need. The S3 server of the
# tests has one of its own, in .venv-servers: what it needs of Amazon's libraries is not what a library of the tests' needs.

RECENT := -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11 python; do $$name $(RECENT) && echo $$name && break; done)
BIN := .venv/bin
# Tests run in two processes, those of a file in one of them; `make test PARALLEL=` runs them one after the other.
PARALLEL ?= -n 2 --dist loadfile --no-loadscope-reorder
# How many times as many examples as usual, which are drawn anew, tests of properties take in `make test-heavy`; SEED=... draws the same again.
EXPLORE ?= 3
SEED := $(or $(SEED),$(shell date +%s))

# What users import or implement: numpydoc's validator checks its docstrings in `make check`.
PUBLIC := $(wildcard pipeline/api/*.py) pipeline/__init__.py pipeline/errors.py pipeline/workflow.py \
  pipeline/jobs/job.py pipeline/jobs/layers.py pipeline/jobs/routing.py pipeline/execution/result.py \
  pipeline/engine/__init__.py pipeline/engine/contract.py pipeline/engine/given.py \
  pipeline/imageops/preprocessing.py pipeline/imageops/features.py pipeline/sources/__init__.py pipeline/sources/contract.py \
  $(addprefix pipeline/segmenters/,adapters.py blobs.py cluster.py contract.py detector.py edge.py merged_superpixels.py network.py \
    network_base.py pixel_features.py region_growing.py superpixel.py threshold.py watershed.py whole_window.py)

.PHONY: demo test test-heavy check format docs clean

demo: .venv/light demo/earth.tif
	$(BIN)/tilewise run workflows/world_land.yaml
	@printf '%s\n' '' 'To look at it:' \
	  '  the picture   demo/world_land/overview.png' \
	  '  QGIS, GDAL    demo/world_land/labels.tif' \
	  '  napari        napari --plugin napari-ome-zarr demo/world_land/labels.zarr' \
	  '  Python        import pipeline; result = pipeline.open_result("demo/world_land"); result.labels, result.objects' \
	  'The same command again says that it is complete; `make clean demo` starts anew.'

test: .venv/ready .venv-servers/ready
	$(BIN)/python -m pytest -m "not heavy" $(PARALLEL)

test-heavy: .venv/ready .venv-servers/ready
	$(BIN)/python -m pytest -m heavy
	TILEWISE_EXPLORE=$(EXPLORE) $(BIN)/python -m pytest -m "hypothesis and not heavy" $(PARALLEL) --hypothesis-seed=$(SEED) -o timeout=900

check: .venv/ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/numpydoc lint --config . $(PUBLIC)
	$(BIN)/python -m pytest -q tests/test_house.py

format: .venv/ready
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: .venv/docs-ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo 'The documentation is in site/index.html; with its search: $(BIN)/python -m http.server --directory site'

test-heavy: .venv/docs-ready  # one of them builds the documentation

.venv/docs-ready: .venv/light
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@touch $@

clean:
	rm -rf demo

demo/earth.tif: workflows/world.py | .venv/light
	$(BIN)/python workflows/world.py $@

.venv/light: pyproject.toml
	@$(PYTHON) $(RECENT) || { echo "tilewise needs Python 3.11 or newer; say which: make PYTHON=/path/to/python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[demo]'
	@touch $@

.venv/ready: .venv/light
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[check,demo,jupyter,test]'
	@touch $@

.venv-servers/ready: | .venv/ready
	$(PYTHON) -m venv .venv-servers
	.venv-servers/bin/python -m pip install --quiet --disable-pip-version-check 'moto[server]>=5'
	@touch $@
