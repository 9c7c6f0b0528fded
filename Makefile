# Needs Python 3.11 or newer, make and pip; everything else goes into .venv.
PYTHON ?= $(shell for p in python3.12 python3.11 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed

.PHONY: help sandbox test soak check docs clean

help:
	@echo "make sandbox   the whole relay on this machine, one message through it (ONCE=1: then exit)"
	@echo "make test      checks, then unit, integration and fault tests"
	@echo "make soak      30 minutes of random faults under load (SOAK_SECONDS, SOAK_SEED); the books must balance"
	@echo "make check     ruff and mypy"
	@echo "make docs      write the settings table anew"
	@echo "make clean     remove the venv and caches"

$(INSTALLED): pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; name it with PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[sandbox,test]'
	@touch $@

sandbox: $(INSTALLED)
	@ONCE=$(ONCE) $(BIN)/python -m sandbox

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: check
	$(BIN)/python -m pytest tests

soak: $(INSTALLED)
	@$(BIN)/python -m tests.soak

docs: $(INSTALLED)
	$(BIN)/python -c "import re, pathlib; from shared.settings import settings_table; \
	p = pathlib.Path('docs/settings.md'); t = p.read_text('utf-8'); \
	p.write_text(re.sub(r'(?s)(<!-- settings -->\n).*?(<!-- /settings -->)', lambda m: m[1] + settings_table() + m[2], t), 'utf-8')"

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .sandbox .soak
