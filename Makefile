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

.PHONY: setup demo demo-quick test test-alone test-slow test-orthanc fuzz soak lint types docs wheel oldest lock audit sbom container capacity gpu clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "make: Python 3.11 or 3.12 is needed (pydensecrf builds on no newer one); set PYTHON=" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cpu,train,export,serve,dicom,node,gaze,client,video,openvino,ray,docs,dev]'
	@touch $@

demo: $(READY)
	$(BIN)/gazeseg-serve demo --out $(DEMO_OUT)

demo-quick: $(READY)
	$(BIN)/gazeseg-serve demo --quick --out $(DEMO_OUT)

# One thread a worker: two workers that each spread over all cores wait for one another. A worker that was killed ends the
# run: pytest-xdist would start another, and has been seen to wait for it for good.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --max-worker-restart 0

# The same in this process alone: where two at once are too much, or one was killed.
test-alone: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -p no:xdist

# The DICOM node with Debian's Orthanc.
test-orthanc: $(READY)
	.ci/orthanc

test-slow: $(READY)
	.ci/slow

# A hundred thousand broken requests at either door, and twenty thousand good ones for the memory: minutes, docs/reliability.md.
fuzz: $(READY)
	for seed in 1 2 3 4 5; do $(BIN)/python -W ignore benchmarks/fuzz.py --requests 20000 --seed $$seed --clients 16 \
	    --examples 60 --out benchmarks/results/fuzz.json || exit 1; done
	$(BIN)/python -W ignore benchmarks/fuzz.py --door v2 --requests 100000 --clients 16 --out benchmarks/results/fuzz_v2.json

soak: $(READY)
	$(BIN)/python -W ignore benchmarks/soak.py --requests 20000 --out benchmarks/results/soak.json

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Type checkers do not follow the folder map of an editable install, so an installed copy is checked.
types: $(READY)
	rm -rf build/typed
	$(BIN)/python -m pip install --quiet --no-deps --target build/typed .
	cd build/typed && ../../$(BIN)/mypy --config-file ../../pyproject.toml -p gazeseg_serve

# The manual, with the generated reference; a warning is an error. Read it with: .venv/bin/mkdocs serve
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# sdist and wheel, installed into an empty environment and used.
wheel: $(READY)
	.ci/wheel

# The tests on the oldest versions that pyproject.toml allows.
oldest: $(READY)
	.ci/oldest

# The serving image's packages with the hashes of their files, from constraints.txt.
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header
lock: $(READY)
	for engine in cpu gpu; do $(COMPILE) -c constraints.txt --extra serve --extra dicom --extra node --extra $$engine \
	    --no-emit-package gazeseg-serve pyproject.toml -o deploy/requirements-$$engine.txt; done
	printf 'pip\nsetuptools>=77\n' | $(COMPILE) -o deploy/requirements-build.txt -

# Known vulnerabilities in what the image installs, and in everything that the tests ran with.
audit: $(READY)
	test -x build/audit/bin/pip-audit || { $(PYTHON) -m venv build/audit && build/audit/bin/pip install --quiet 'pip-audit>=2.9'; }
	$(BIN)/python deploy/audit.py build/audit/bin/pip-audit

# Bills of material of the wheel and of the image's packages, into build/sbom.
sbom: $(READY)
	$(BIN)/python deploy/sbom.py --out build/sbom

# The image, built and run for real without a Docker engine, as root; CONTAINER_BUILD lends the host's files to the build:
#   make container CONTAINER_BUILD='--mount /etc/ssl/certs/ca-certificates.crt --mount /etc/pip.conf'
container: $(READY)
	test -n "$$($(BIN)/python deploy/container.py list | grep python-base)" || $(BIN)/python deploy/container.py base $(CONTAINER_BASE)
	$(BIN)/python deploy/container.py build $(CONTAINER_BUILD)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m container tests/test_container.py
	$(BIN)/python deploy/container.py measure

# How many cores for how many requests a second: docs/capacity.md. Needs the machine to itself for two minutes.
capacity: $(READY)
	$(BIN)/python -W ignore benchmarks/capacity.py --out benchmarks/results/capacity.json

# Everything that has a GPU side: docs/performance/gpu.md. WHEELS is a folder of packages for a machine without a network.
GPU_PYTHON = $(if $(WHEELS),build/gpu/bin/python,$(BIN)/python)
gpu: $(if $(WHEELS),,$(READY))
	test -z "$(WHEELS)" || { $(PYTHON) -m venv build/gpu && build/gpu/bin/pip install --quiet --no-index --find-links "$(WHEELS)" \
	    '.[gpu,tensorrt,train,export,serve,client]' psutil; }
	$(GPU_PYTHON) -W ignore benchmarks/gpu.py --out benchmarks/results/gpu.json --page docs/performance/gpu-measured.md

clean:
	rm -rf build dist *.egg-info $(DEMO_OUT)
