# `make quickstart` (collect, train, evaluate: the whole loop), `make metaworld` (the same in a simulator that lives in an
# environment of its own) and `make test`. Each creates .venv with everything it needs first.
# Another Python: make PYTHON=/path/to/python3.11 quickstart

# python3 if it is 3.11, else python3.11, else the one that uv has or fetches.
PYTHON ?= $(shell for python in python3 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null && echo $$python && exit; done; \
	uv python install --quiet 3.11 2>/dev/null && uv python find 3.11 2>/dev/null || echo python3)
BIN := .venv/bin
REFERENCE := .venv/reference
PIP := $(BIN)/pip install --quiet --disable-pip-version-check
EXTRAS := serve,lerobot,adamw8bit,lora,fast,dev
# Threads: the processes share the cores, more threads per process only get in each other's way.
export OMP_NUM_THREADS = 1
export LP_NUM_THREADS = 1
# A model is compiled where it is used: processes that would help first import torch themselves.
export TORCHINDUCTOR_COMPILE_THREADS = 1

TASK_ID := 0
DEMOS := data/quickstart
NAME := quickstart_run
RUN := checkpoints/$(NAME)
EVAL := eval_logs/$(NAME)

# Ten tasks, four hours on two cores: see configs/metaworld_small.yaml and docs/remote_environments.md.
METAWORLD := .venv-metaworld
ENV_COMMAND := $(METAWORLD)/bin/python docs/examples/serve_metaworld.py
MW_DEMOS := data/metaworld
MW_NAME := metaworld_run
MW_RUN := checkpoints/$(MW_NAME)

.PHONY: quickstart metaworld test test-python check lint setup gl browser docs docs-check

quickstart: setup gl
	$(BIN)/python tools/collect_demos.py --task_suite libero_object --task_ids $(TASK_ID) --num_demos 120 \
		--resolution 128 --render fast --start_noise 0.05 --start_near 0.2 --start_late 0.4 --workers 2 --out $(DEMOS)
	$(BIN)/python -m rv_train.train --cfg configs/quickstart.yaml --nproc 2 \
		$$(ls $(RUN)/step_*/complete >/dev/null 2>&1 && echo --resume) EXP.ID $(NAME)
	$(BIN)/python tools/eval_libero.py --model_path $(RUN) --task_suite libero_object --task_ids $(TASK_ID) \
		--episodes 10 --num_envs 2 --log_dir $(EVAL) --skip_evaluated
	@echo "curves:  $(BIN)/tensorboard --logdir $(RUN)"

metaworld: setup gl $(METAWORLD)/complete
	$(BIN)/python tools/collect_env.py --env_command "$(ENV_COMMAND)" --num_demos 80 --resolution 128 --render fast \
		--pushed 0.5 --push_by position=0.6 --workers 2 --out $(MW_DEMOS)
	$(BIN)/python -m rv_train.train --cfg configs/metaworld_small.yaml --nproc 2 \
		$$(ls $(MW_RUN)/step_*/complete >/dev/null 2>&1 && echo --resume) EXP.ID $(MW_NAME)
	$(BIN)/python tools/eval_env.py --env_command "$(ENV_COMMAND)" --model_path $(MW_RUN) --episodes 20 --num_envs 2 \
		--save_video failures --log_dir eval_logs/$(MW_NAME) --skip_evaluated
	$(BIN)/python tools/summarize_eval.py eval_logs/$(MW_NAME)

# Meta-World wants another mujoco and numpy than LIBERO: an environment of its own, which speaks to ours over a wire.
$(METAWORLD)/complete:
	$(PYTHON) -m venv $(METAWORLD)
	$(METAWORLD)/bin/pip install --quiet --disable-pip-version-check metaworld==3.1.1 mujoco==3.3.0 packaging==26.4 \
		numpy==2.4.6 websockets==17.4 msgpack==1.2.4
	@touch $(METAWORLD)/complete

# Two processes at a time, each with the tests of a file: what a file's tests share is made once. Files in the order of
# tests/conftest.py.
# A process that had to be ended is not started again: it would take the same test.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0
test: lint gl browser
	$(PYTEST)

# The suite without simulators under another Python, with the newest versions that pyproject.toml admits:
#   make test-python PYTHON=python3.13
# A virtual environment of its own. torch stays the locked one, of which there is a build without CUDA.
OTHER = .venv-$(notdir $(PYTHON))
test-python:
	$(PYTHON) -m venv $(OTHER)
	$(OTHER)/bin/pip install --quiet --disable-pip-version-check "$$(grep '^torch==' requirements.lock)"
	$(OTHER)/bin/pip install --quiet --disable-pip-version-check --upgrade --upgrade-strategy eager -e ".[$(EXTRAS)]" \
		"$$(grep '^torch==' requirements.lock)"
	@# it asks for numpy 1, and runs with 2
	$(OTHER)/bin/pip install --quiet --disable-pip-version-check dm-tree
	$(OTHER)/bin/pip install --quiet --disable-pip-version-check --no-deps "$$(grep '^openpi-client==' requirements.lock)"
	rm -rf $(OTHER)/reference
	$(OTHER)/bin/pip install --quiet --disable-pip-version-check --no-deps --target $(OTHER)/reference \
		$$(grep -E '^(torchvision|qwen-vl-utils|num2words)==' requirements.lock)
	$(OTHER)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0 -m "not sim and not browser"

# What needs neither simulator nor browser nor compiler, and takes no programs to start: for who changes the code.
check: lint
	$(PYTEST) -m "not sim and not browser and not compiler and not slow"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The pages that are written from the code.
docs: setup
	$(BIN)/python tools/dev/config_page.py
	$(BIN)/python tools/dev/errors_page.py

# Runs the commands of README and docs at sizes for two cores, in a clone: half an hour.
docs-check: setup gl
	$(BIN)/python tools/dev/docs_check.py

setup: .venv/complete

# The stamp comes last, so an installation that was cut off is done again.
.venv/complete: pyproject.toml setup.py requirements.lock
	@python="$(PYTHON)"; $$python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
		{ echo "requirements.lock is for Python 3.11, $$python is $$($$python --version): install it, or uv, which fetches it," \
		"or name one: make PYTHON=/path/to/python3.11"; exit 2; }; $$python -m venv .venv
	@# torch alone and first: what comes later then keeps this build instead of choosing one of its own
	$(PIP) -c requirements.lock torch
	$(PIP) -c requirements.lock -e ".[sim,$(EXTRAS)]"
	@# the reference preprocessing beside the rest, for its own test: see pyproject.toml. Without dependencies, so that
	@# no second torch comes along
	rm -rf $(REFERENCE)
	$(PIP) --no-deps --target $(REFERENCE) $$(grep -E '^(torchvision|qwen-vl-utils|num2words)==' requirements.lock)
	@touch .venv/complete

gl: setup
	@$(BIN)/python tools/dev/check_gl.py

# The report of an evaluation is tested in a real Chromium.
BROWSER := chromium chromium-driver
browser:
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null && exit 0; \
	if ! command -v apt-get >/dev/null; then root=false; elif [ "$$(id -u)" = 0 ]; then root=; else root="sudo -n"; fi; \
	if ! $$root true 2>/dev/null; then echo "the test of the report needs a browser: apt-get install $(BROWSER)"; exit 2; fi; \
	$$root apt-get update -qq && $$root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $(BROWSER)
