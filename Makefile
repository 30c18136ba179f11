# `make quickstart` (collect, train, evaluate: the whole loop), `make metaworld` (the same in a simulator that lives in an
# environment of its own) and `make test`. Each creates .venv with everything it needs first. Another Python: make PYTHON=/path/to/python3.11 quickstart

PYTHON ?= python3
BIN := .venv/bin
REFERENCE := .venv/reference
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

.PHONY: quickstart metaworld test check lint setup gl browser

quickstart: setup gl
	$(BIN)/python tools/collect_demos.py --task_suite libero_object --task_ids $(TASK_ID) --num_demos 120 \
		--resolution 128 --render fast --start_noise 0.05 --start_near 0.2 --start_late 0.4 --workers 2 --out $(DEMOS)
	$(BIN)/python -m rv_train.train --cfg configs/quickstart.yaml --nproc 2 \
		$$(ls $(RUN)/step_*/complete >/dev/null 2>&1 && echo --resume) EXP.ID $(NAME)
	$(BIN)/python tools/eval_libero.py --model_path $(RUN) --task_suite libero_object --task_id $(TASK_ID) \
		--episodes 10 --num_envs 2 --log_dir $(EVAL) --skip_evaluated
	@echo "curves:  $(BIN)/tensorboard --logdir $(RUN)"

metaworld: setup gl $(METAWORLD)/complete
	$(BIN)/python tools/collect_env.py --env_command "$(ENV_COMMAND)" --num_demos 80 --resolution 128 --render fast \
		--pushed 0.5 --push position=0.6 --workers 2 --out $(MW_DEMOS)
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
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
test: lint gl browser
	$(PYTEST)

# What needs neither simulator nor browser nor compiler, and takes no programs to start: for who changes the code.
check: lint
	$(PYTEST) -m "not sim and not browser and not compiler and not slow"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

setup: .venv/complete

# The stamp comes last, so an installation that was cut off is done again.
.venv/complete: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
		{ echo "Python 3.11 is needed, $(PYTHON) is $$($(PYTHON) --version); try: make PYTHON=python3.11"; exit 2; }
	$(PYTHON) -m venv .venv
	@# torch alone and first: what comes later then keeps this build instead of choosing one of its own
	$(BIN)/pip install --quiet --disable-pip-version-check "$$(grep -o 'torch==[0-9.]*' pyproject.toml)"
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[sim,serve,lerobot,adamw8bit,lora,dev]"
	@# the reference preprocessing beside the rest, for its own test: see pyproject.toml. Without dependencies, so that
	@# no second torch comes along
	rm -rf $(REFERENCE)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --target $(REFERENCE) \
		$$(grep -oE '(torchvision|qwen-vl-utils|num2words)==[0-9.]+' pyproject.toml)
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
