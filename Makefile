# Set-up, tests and the demonstration. `make demo` and `make test` install what is missing by themselves.

VENV := .venv
BIN := $(VENV)/bin
PREFIX := /usr/local
# The system's Python: the one that fstab's mount helper and a fresh machine have.
PYTHON := $(firstword $(wildcard /usr/bin/python3) python3)
PIP_INSTALL := python -m pip install --quiet --disable-pip-version-check --use-pep517
EDITABLE := $(PIP_INSTALL) --config-settings editable_mode=compat --editable

# A virtual environment with xtar and no more. Modules that an older version left under build/ would be installed too.
define install_into
rm -rf build/lib* build/bdist*
$(PYTHON) -m venv --clear $(1)
$(1)/bin/$(PIP_INSTALL) .
endef

.PHONY: setup system test lint demo install uninstall damage bench clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml setup.py $(wildcard builder/*.[ch] xtarfs/*.[ch] xtarfs/native/*.[ch]) | system
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/$(EDITABLE) '.[test]'
	$(BIN)/python -m compileall -q builder xtarfs
	touch $@

# Every package is named with a file or command that shows it is there, so that apt runs only where it must.
system:
	@scripts/install-system-packages

test: setup lint
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

demo: setup
	@scripts/demo $(BIN)/xtar

# A virtual environment of its own, so that the command works for root whatever becomes of this folder.
install: system
	$(call install_into,$(PREFIX)/lib/xtar)
	install -d $(PREFIX)/bin /sbin
	ln -sf $(PREFIX)/lib/xtar/bin/xtar $(PREFIX)/bin/xtar
	ln -sf $(PREFIX)/lib/xtar/bin/xtarfs $(PREFIX)/bin/xtarfs
	ln -sf $(PREFIX)/lib/xtar/bin/xtarfs /sbin/mount.fuse.xtarfs

uninstall:
	rm -rf $(PREFIX)/lib/xtar $(PREFIX)/bin/xtar $(PREFIX)/bin/xtarfs /sbin/mount.fuse.xtarfs

# The damage laboratory: docs/durability.md. For example: make damage LAB="--size 200 --out docs"
damage: setup
	@scripts/install-damage-packages
	$(BIN)/$(EDITABLE) '.[lab]'
	$(BIN)/python -m lab $(LAB)

# The benchmark: docs/performance.md. For example: make bench BENCH="--only builds --rounds 5 --out docs"
bench: setup
	@scripts/install-bench-packages build/peers
	$(call install_into,build/installed)
	$(BIN)/$(EDITABLE) '.[lab]'
	$(BIN)/python -m bench $(BENCH)

clean:
	rm -rf $(VENV) build *.egg-info builder/*.so xtarfs/*.so xtarfs/native/*.so .mypy_cache .ruff_cache .pytest_cache .hypothesis
