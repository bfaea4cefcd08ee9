# `make demo` and `make test` each set everything up from nothing; a second run starts at once.
PYTHON ?= python3
RUN := .venv/bin/python
# Test files side by side, one on each core.
# Threads of OpenMP sleep while they wait: a busy machine slows them down many times otherwise.
export OMP_WAIT_POLICY ?= PASSIVE
PARALLEL := -n logical --dist loadfile

.PHONY: setup demo test test-quick test-plain soak lint clean

setup:
	@$(PYTHON) tools/setup_env.py

demo: setup
	@$(RUN) tools/quickstart.py --out output/demo

test: setup
	@$(RUN) -m pytest $(PARALLEL)

test-quick: setup
	@$(RUN) -m pytest $(PARALLEL) -m "not slow"

# The tests whose numbers are compared bit by bit, by torch's plainest kernels: what holds here and
# above does not hang on one processor. `nox -s kernels` runs all tests so, and in other ways.
SENSITIVE := tests/engine/feature_cache/test_cached_evaluation.py tests/engine/test_checkpoint.py \
	tests/engine/classifier/test_classifier_run.py tests/losses/test_balanced_softmax.py \
	tests/modeling/test_fast_inference.py tests/modeling/test_box_predictor.py

test-plain: setup
	@ATEN_CPU_CAPABILITY=default $(RUN) -m pytest $(PARALLEL) -m "not slow" $(SENSITIVE)

# What takes too long for `make test`: 20 kills of each job, and 3,000 iterations.
soak: setup
	@$(RUN) -m tests.soak --kills 20
	@$(RUN) -m tests.soak.long_run --iterations 3000

lint: setup
	@$(RUN) -m ruff check . && $(RUN) -m ruff format --check .

clean:
	rm -rf .venv output datasets
