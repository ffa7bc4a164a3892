# `make help` lists the targets. Each sets up what it needs: `make demo` and `make test` work right after a clone.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal
READY := $(VENV)/.ready
# An environment with the oldest transformers that pyproject.toml allows, and all else as in .venv.
OLDEST := $(shell sed -n 's/.*"transformers>=\([0-9.]*\)".*/\1/p' pyproject.toml)
OLDEST_VENV := $(VENV)/transformers-$(OLDEST)
TRACKIO_VENV := $(VENV)/trackio
OLDEST_TESTS ?= tests/model tests/inference tests/test_published.py tests/test_every_family.py \
	tests/test_train.py::test_a_run_leaves_modules_and_a_summary
# An environment with lmms-eval beside all else as in .venv: without its own dependencies, which would bring another torch.
LMMS_VENV := $(VENV)/lmms-eval
LMMS_EVAL := $(shell sed -n 's/.*"\(lmms-eval==[0-9.]*\)".*/\1/p' pyproject.toml)
# An environment with gradio and the Pillow that it needs, and all else as in .venv.
GRADIO_VENV := $(VENV)/demo
GRADIO_TESTS := tests/integrations/demo tests/test_demo.py "tests/fuzz/test_keys.py::test_every_key_of_every_command"
# The releases that were tested. CPU machines take the pinned CPU wheel of torch, too; with a GPU, pip takes the newest CUDA build.
CONSTRAINTS ?= -c constraints.txt $(if $(shell command -v nvidia-smi),,-c constraints-cpu.txt)

# The demo trains modules anew, as the shipped ones were trained; the preset's layer is among them.
DEMO_LAYERS := 8-10
RECIPE := images=2000 optimizer.learning_rate=0.002
DEMO_RUN := outputs/train/images-2000+layer-$(DEMO_LAYERS)+optimizer.learning_rate-0.002+reference-tiny

.DEFAULT_GOAL := help
.PHONY: help setup demo docs test slow oldest trackio lmms gradio crash fuzz check bench gpu rehearsal build clean

help:  ## List the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  \1\t\2/' | expand -t 12

$(READY): pyproject.toml constraints.txt constraints-cpu.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), f"Python 3.11 or newer is needed, this is {sys.version}"'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(CONSTRAINTS) -e ".[dev]"
	@touch $(READY)

setup: $(READY)  ## Create .venv and install the project into it

demo: $(READY)  ## Train TokenSR modules on the tiny backbone, then compare vanilla, the paper's Blink and the recommended one
	$(BIN)/python -m blink.train layer=$(DEMO_LAYERS) $(RECIPE) reference=tiny
	$(BIN)/python -m blink.eval experiment=recommended scenes.difficulty=hard token_sr=$(DEMO_RUN)/token_sr --multirun

test: $(READY)  ## Run the tests but for the slow ones (five minutes on two cores)
	$(PYTEST) -m "not slow and not crash"

slow: $(READY)  ## Run the others: killed commands, several processes, every key of every command (about ten minutes)
	$(PYTEST) -m "slow or crash"

# An environment of its own that sees what .venv has: $(call beside,FOLDER).
define beside
	$(BIN)/python -m venv --clear $(1)
	$(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' \
		> $$($(1)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/newest.pth
endef

$(OLDEST_VENV)/.ready: $(READY)
	$(call beside,$(OLDEST_VENV))
	$(OLDEST_VENV)/bin/python -m pip install --quiet "transformers==$(OLDEST)"
	@touch $@

oldest: $(OLDEST_VENV)/.ready  ## Run the tests that touch transformers with the oldest release that pyproject.toml allows
	$(OLDEST_VENV)/bin/python -m pytest -n auto --maxprocesses 8 --dist worksteal $(OLDEST_TESTS)

$(TRACKIO_VENV)/.ready: $(READY)
	$(call beside,$(TRACKIO_VENV))
	$(TRACKIO_VENV)/bin/python -m pip install --quiet trackio==0.43.0
	@touch $@

trackio: $(TRACKIO_VENV)/.ready  ## Run the tests of logger=trackio, in an environment of its own: Trackio needs Pillow below 13
	$(TRACKIO_VENV)/bin/python -m pytest tests/runs/boards

$(LMMS_VENV)/.ready: $(READY)
	$(call beside,$(LMMS_VENV))
	$(LMMS_VENV)/bin/python -m pip install --quiet --no-deps "$(LMMS_EVAL)"
	$(LMMS_VENV)/bin/python -m pip install --quiet loguru sacrebleu evaluate pytz tenacity pytablewriter "filelock<4"
	@touch $@

lmms: $(LMMS_VENV)/.ready  ## Run lmms-eval itself on a task of this disk, in an environment of its own
	$(LMMS_VENV)/bin/python -m pytest tests/integrations/harness/test_model.py

$(GRADIO_VENV)/.ready: $(READY) constraints-demo.txt
	$(call beside,$(GRADIO_VENV))
	$(GRADIO_VENV)/bin/python -m pip install --quiet -c constraints-demo.txt gradio playwright
	@touch $@

gradio: $(GRADIO_VENV)/.ready  ## Run the tests of the page, with the gradio of constraints-demo.txt (about three minutes)
	$(GRADIO_VENV)/bin/python -m pytest -n auto --maxprocesses 8 --dist worksteal $(GRADIO_TESTS) -k "demo or not every_key"

crash: $(READY)  ## Kill training, evaluation and multiruns N times each at random moments (N=50; SEED=1 for others)
	$(BIN)/python -m pytest tests/crash --kills $(or $(N),50) --kill-seed $(or $(SEED),0)

fuzz: $(READY)  ## Damaged files and values of other kinds, N drawn anew for each test, and every value for every key (N=500)
	$(BIN)/python -m pytest tests/fuzz --fuzz $(or $(N),500)

docs: $(READY)  ## Build the documentation site into outputs/docs; warnings are errors
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs outputs/docs

check: $(READY)  ## Lint, formatting and types
	$(BIN)/ruff check src tests benchmarks tools examples
	$(BIN)/ruff format --check src tests benchmarks tools examples
	$(BIN)/mypy

bench: $(READY)  ## Measure what Blink costs, into docs/performance.md (about 45 minutes on two cores)
	$(BIN)/python -m benchmarks

gpu: $(READY)  ## Measure Blink at LLaVA-1.5-7B's full size on this machine's GPU, into docs/performance.md (under five minutes)
	$(BIN)/python -m benchmarks.gpu

rehearsal: $(READY)  ## One prompt at LLaVA-1.5-7B's true width, with few layers: time and memory here
	$(BIN)/python -m benchmarks.rehearsal

build: $(READY)  ## Build the wheel into dist/
	$(BIN)/python -m build --wheel

clean:  ## Remove .venv and caches; outputs/ stays
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache dist
