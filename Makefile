# Two commands: `make demo` and `make test`. Both set up .venv first where it is missing.
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test lint format install benchmark clean

demo: $(STAMP)
	$(BIN)/edge-dl run lstm --out runs/demo

test: $(STAMP)
	$(BIN)/python -m pytest -n auto --dist loadfile

install: $(STAMP)

$(STAMP): pyproject.toml requirements.txt scripts/setup.sh
	sh scripts/setup.sh $(VENV)
	touch $(STAMP)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
# training/ and converters/ only become part of the package when it is installed: the type checker and the import
# rules look at an installed copy.
	rm -rf build/lint && $(BIN)/pip install --quiet --no-deps --no-build-isolation --target build/lint .
	cd build/lint && $(abspath $(BIN))/mypy --config-file ../../pyproject.toml -p edge_dl
	cd build/lint && PYTHONPATH=. $(abspath $(BIN))/lint-imports --config ../../pyproject.toml --no-cache

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf build dist runs $(VENV)
