# make demo and make test do everything on a machine that has Python 3.11+, make and a package index.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test lint lock clean

setup: .venv/installed

.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	$(BIN)/cellvision doctor
	touch $@

demo: setup
	$(BIN)/cellvision simulate --images 6 --contamination 0.15 --out runs/demo/simulated
	$(BIN)/cellvision study --raw runs/demo/simulated/raw --annotations runs/demo/simulated/truth/points.csv \
		--size 48 --budget 6min --out runs/demo/study
	@echo "The report is runs/demo/study/report.html"

test: setup lint
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy cellvision tests

lock:
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --extra dev --python-version 3.11 \
		--no-header pyproject.toml -o requirements.lock

clean:
	rm -rf .venv runs build *.egg-info
