# Everything sets itself up: a virtual environment in .venv, made anew when pyproject.toml changes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS_STAMP := $(VENV)/.installed-docs
export OMP_NUM_THREADS := 1
export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1

# Drawings of 32 pixels for the student, pictures of 64 for the teacher, two worker processes.
DEMO := --set data.image_size=32 --set data.source_size=64 --set federation.num_workers=2 \
        --set federation.num_rounds=60 --set evaluate.num_draws=3

.PHONY: setup demo test coverage lint slow docs clean

setup: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/pip install --quiet --disable-pip-version-check 'torch>=2.9,<2.14'
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev,build]'
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/edgecmd run --fresh --set name=demo $(DEMO)

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Two processes of one thread each; the tests of a file stay together, so that they share what they set up.
# In their own order: files of few tests, which take longest, would else come last, and one process wait.
# One of them puts the oldest ONNX Runtime that pip finds into .venv/oldest-*, and skips where pip finds none.
test: lint
	$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder -m 'not slow and not network'

# The same tests while coverage watches, which doubles their time; at least 90% with branches.
coverage: lint
	$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder -m 'not slow and not network' --cov --cov-report=
	$(BIN)/coverage report

# With what the docs need: it runs the tutorials too.
slow: $(DOCS_STAMP)
	$(BIN)/pytest -m 'slow or network'

# The site in site/, from docs/ and the code; a warning is an error. NO_MKDOCS_2_WARNING: an advertisement.
docs: $(DOCS_STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

$(DOCS_STAMP): $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[docs]'
	touch $(DOCS_STAMP)

clean:
	rm -rf $(VENV) runs dist build site
