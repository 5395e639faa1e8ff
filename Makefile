# `make demo` and `make test` set up .venv themselves; the second time, that takes no time.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Named entities for the battery: a folder of GENRE.train.jsonl, GENRE.val.jsonl and GENRE.test.jsonl.
NER_DATA ?= $(wildcard ../shared/data/ner)

# Four files of tests at a time on two cores: many wait for an app, a browser or a Hub.
TOGETHER := -n 4 --dist loadfile --no-loadscope-reorder
# What is compiled once is kept, also where an image says otherwise: the tests start a hundred processes.
COMPILED := PYTHONDONTWRITEBYTECODE=

BENCHMARKS ?= startup merging language mergekit growth
CAMPAIGNS ?= faults kills fuzz limits tokens load

.PHONY: demo test test-all test-oldest docs soak audit install lint format bench battery clean

demo: install  ## the whole way on this machine alone
	$(BIN)/fusehub demo --folder demo

test: install  ## lint, format and the whole test suite
	$(COMPILED) OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(TOGETHER)

test-all: install  ## the same with what takes long: the demo on all of its texts, the core in a fresh environment
	DEMO=full FRESH=1 $(COMPILED) OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(TOGETHER)

# What holds of the newest versions alone: that requirements.txt pins what is installed.
NEWEST := tests/unit/test_pins.py::test_all_that_a_space_installs_is_pinned_to_what_is_tested

# OLDEST=torch==2.13.0+cpu takes that torch; by default it is the lowest too, with whatever its build brings along.
test-oldest: install  ## the tests on the lowest versions that pyproject.toml allows
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[oldest]"
	$(BIN)/uv venv --quiet --seed --allow-existing --python $(BIN)/python $(VENV)-oldest
	$(BIN)/python .ci/oldest.py $(OLDEST) > $(VENV)-oldest/lowest.txt
	$(BIN)/uv pip install --quiet --python $(VENV)-oldest --constraints $(VENV)-oldest/lowest.txt --editable ".[test]"
	$(COMPILED) OMP_NUM_THREADS=1 $(VENV)-oldest/bin/python -m pytest $(TOGETHER) --deselect $(NEWEST) $(TESTS)

docs: install  ## the documents as a site, in build/site; a warning is an error
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# Each writes its table into docs/reliability.md.
soak: install  ## hours: kills, faults, broken files, tokens and load, far more of them than `make test` has time for
	set -e; for campaign in $(CAMPAIGNS); do $(BIN)/python -m tests.reliability.$$campaign; done

# Ends with 3 where nobody could be asked: that is no all-clear, and no fault of the project.
audit: install  ## known vulnerabilities of everything that is installed for the tests; needs the network
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[audit]"
	$(BIN)/python .ci/audit.py

lint: install  ## style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Each writes its rows and plots into docs/performance.md. The models are made once, in build/benchmarks.
bench: install  ## time and memory beside their targets: an hour or two, on a machine that does nothing else
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[battery]"
	set -e; for name in $(BENCHMARKS); do $(BIN)/python -m tests.benchmarks.$$name --record --folder build/benchmarks; done
	set -e; for name in layer stream perplexity; do OMP_NUM_THREADS=1 $(BIN)/python -m tests.benchmarks.$$name --record; done
	$(BIN)/python -m tests.benchmarks.collect --record
	$(BIN)/python -m tests.benchmarks.projection --record
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.benchmarks.projection --check --record

battery: install  ## the paper's comparison into docs/results.md: hours, and it goes on where it was stopped
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[battery]"
	NER_DATA="$(NER_DATA)" $(BIN)/python -m tests.battery

install: $(READY)

$(READY): pyproject.toml requirements.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -e ".[test]"
	touch $(READY)

clean:
	rm -rf $(VENV) $(VENV)-oldest build *.egg-info
