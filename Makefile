# Two commands: `make run` opens the app, `make test` runs the whole suite. Everything lands in .venv beside this file.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 8501

# Plain torch from PyPI brings gigabytes of CUDA. Without a GPU the CPU build's own index is offered too; the version
# pinned in requirements.txt accepts it, and an index that cannot be reached costs a warning.
GPU := $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | grep -c GPU)
TORCH_INDEX := $(if $(filter-out 0,$(GPU)),,--extra-index-url https://download.pytorch.org/whl/cpu --retries 0 --timeout 15)

.PHONY: run test demo-models demo-saes clean

run: $(VENV)/ready
	@$(BIN)/python -m pages.fonts || true
	$(BIN)/streamlit run app.py --server.port $(PORT)

test: $(VENV)/ready
	$(BIN)/python -m pytest -q -rs --durations=15 -n 2 --dist loadfile

demo-models: $(VENV)/ready
	$(BIN)/python -m demo.train storyteller-a storyteller-b storyteller-llama
	for name in storyteller-a storyteller-b storyteller-llama; do $(BIN)/python -m demo.card demo/models/$$name; done

demo-saes: $(VENV)/ready
	$(BIN)/python -m demo.train_saes

$(VENV)/ready: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "Microtome needs Python 3.11; found $$($(PYTHON) --version). Try: make PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "Python's venv module is missing. On Debian or Ubuntu: sudo apt install python3.11-venv"; rm -rf $(VENV); exit 1; }
	$(BIN)/python -m pip install --disable-pip-version-check -q $(TORCH_INDEX) $$(grep '^torch==' requirements.txt)
	$(BIN)/python -m pip install --disable-pip-version-check -q -r requirements.txt
	@touch $@

clean:
	rm -rf $(VENV) .pytest_cache .hypothesis
