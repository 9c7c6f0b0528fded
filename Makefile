# Needs Python 3.11 or newer, make and pip; everything else goes into .venv.
PYTHON ?= $(shell for p in python3.12 python3.11 python3.13 python3; do \
	$$p -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
# Programs that look after the dependencies; the relay and its tests need none of them.
TOOLS := .tools
TOOLS_INSTALLED := $(TOOLS)/installed
LOCK := $(TOOLS)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	--custom-compile-command 'make lock' $(if $(UPGRADE),--upgrade)

.PHONY: help sandbox test soak fuzz check bench docs clean

help:
	@echo "make sandbox   the whole relay on this machine, one message through it (ONCE=1: then exit)"
	@echo "make test      checks, then unit, integration and fault tests (JOBS=0: one file after another)"
	@echo "make soak      30 minutes of random faults under load (SOAK_SECONDS, SOAK_SEED); the books must balance"
	@echo "make fuzz      hostile input for an hour (FUZZ_SECONDS=600: ten minutes a file of tests/fuzz)"
	@echo "make check     ruff and mypy"
	@echo "make bench     the relay beside its peers, 22 min (QUICK=1: 4 min; BENCH='accept large': only these)"
	@echo "make docs      write the settings table anew"
	@echo "make lock      lock the dependencies' hashes (UPGRADE=1: newest versions)"
	@echo "make audit     look the locked dependencies up for known vulnerabilities"
	@echo "make sbom      dist/sbom.cdx.json, a CycloneDX list of what is shipped"
	@echo "make clean     remove the venv and caches"

$(INSTALLED): pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer with venv is needed (Debian: python3-venv);" \
		"name it with PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[sandbox,test]'
	@touch $@

sandbox: $(INSTALLED)
	@ONCE=$(ONCE) $(BIN)/python -m sandbox

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Most tests wait for servers most of the time: three files at once on two cores. JOBS=0: one after another.
JOBS ?= 3
test: check
	$(BIN)/python -m pytest tests -n $(JOBS) --dist loadfile

soak: $(INSTALLED)
	@$(BIN)/python -m tests.soak

fuzz: $(INSTALLED)
	FUZZ_SECONDS=$(or $(FUZZ_SECONDS),3600) $(BIN)/python -m pytest tests/fuzz -s

# ENDURANCE=500000 looks for growth of memory over so many messages, RUNS=9 runs each measure so often.
bench: $(INSTALLED)
	@$(BIN)/python -c 'import matplotlib' 2>/dev/null || \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	@$(BIN)/python -m benchmarks $(BENCH) $(if $(QUICK),--scale quick) $(if $(RUNS),--runs $(RUNS)) \
		$(if $(ENDURANCE),--endurance $(ENDURANCE))

docs: $(INSTALLED)
	$(BIN)/python -c "import re, pathlib; from shared.settings import settings_table; \
	p = pathlib.Path('docs/settings.md'); t = p.read_text('utf-8'); \
	p.write_text(re.sub(r'(?s)(<!-- settings -->\n).*?(<!-- /settings -->)', lambda m: m[1] + settings_table() + m[2], t), 'utf-8')"

.PHONY: lock audit sbom

$(TOOLS_INSTALLED): Makefile
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check 'uv>=0.9' 'pip-audit>=2.9,<3' 'cyclonedx-bom>=7,<8'
	@touch $@

lock: $(TOOLS_INSTALLED)
	$(LOCK) --output-file requirements.lock pyproject.toml
	$(LOCK) --extra demo --constraint requirements.lock --output-file requirements-demo.lock pyproject.toml

# --strict: what could not be looked up is no good news.
audit: $(TOOLS_INSTALLED)
	$(TOOLS)/bin/pip-audit --strict --disable-pip --require-hashes -r requirements.lock -r requirements-demo.lock

# Of an environment that holds just what is locked, so that licences and the tree of dependencies are in it.
sbom: $(TOOLS_INSTALLED)
	rm -rf $(TOOLS)/locked && $(PYTHON) -m venv --without-pip $(TOOLS)/locked
	$(TOOLS)/bin/uv pip install --quiet --python $(TOOLS)/locked/bin/python --require-hashes -r requirements.lock
	mkdir -p dist && $(TOOLS)/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
		--output-file dist/sbom.cdx.json $(TOOLS)/locked/bin/python

clean:
	rm -rf $(VENV) $(TOOLS) dist .pytest_cache .mypy_cache .ruff_cache .sandbox .soak
