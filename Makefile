# Two commands do all the set-up on a fresh machine with Python 3.11 or 3.12, a C++ compiler and make:
#   make demo    the whole path on synthetic images, about two minutes after set-up
#   make test    the tests
# The set-up happens once, in .venv, from the pins in constraints.txt.

PYTHON ?= $(shell for p in python3.11 python3.12 python3; do \
    $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO_OUT ?= gazeseg-demo

.PHONY: setup demo demo-quick test test-slow lint types docs clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "make: Python 3.11 or 3.12 is needed (pydensecrf builds on no newer one); set PYTHON=" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cpu,train,export,serve,dicom,client,openvino,dev]'
	@touch $@

demo: $(READY)
	$(BIN)/gazeseg-serve demo --out $(DEMO_OUT)

demo-quick: $(READY)
	$(BIN)/gazeseg-serve demo --quick --out $(DEMO_OUT)

# One thread a worker: two workers that each spread over all cores wait for one another.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile

test-slow: $(READY)
	$(BIN)/python -m pytest -q -m 'slow or browser'

lint: $(READY)
	$(BIN)/ruff check .

# Type checkers do not follow the folder map of an editable install, so an installed copy is checked.
types: $(READY)
	rm -rf build/typed
	$(BIN)/python -m pip install --quiet --no-deps --target build/typed .
	cd build/typed && ../../$(BIN)/mypy --config-file ../../pyproject.toml -p gazeseg_serve

clean:
	rm -rf build dist *.egg-info $(DEMO_OUT)
