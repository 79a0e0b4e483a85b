# Everything happens in .venv, which `make setup` fills from the lock. TORCH_INDEX: where pip takes torch from (README).
PYTHON ?= python3
LOCK ?= $(if $(wildcard .venv/.done-cuda),cuda,cpu)
# Bytecode is kept beside the packages: compiled anew in every process, it makes each start three times as long.
unexport PYTHONDONTWRITEBYTECODE
.PHONY: setup demo test test-dags lint ui clean lock

setup: .venv/.done-$(LOCK)

.venv/.done-%: infra/locks/%.txt infra/locks/torch.txt pyproject.toml
	bash infra/setup.sh $(PYTHON) $*

demo: setup
	.venv/bin/longtake demo $(DEMO)

# A thread a process: three of them share the cores already.
test: setup
	OMP_NUM_THREADS=1 OPENCV_FOR_THREADS_NUM=1 .venv/bin/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(PYTEST)

test-dags:
	bash dags/test.sh $(PYTHON)

lint: setup
	.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/lint-imports && .venv/bin/pyright

ui: setup
	.venv/bin/longtake ui

clean:
	rm -rf runs .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage

lock:
	bash infra/lock.sh
