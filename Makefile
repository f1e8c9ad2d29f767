# make report    the notebooks on the built-in phantom, one training each -> reports/quick/phantom/
# make report ARGS=--full    as the committed report has it -> reports/phantom/
# make report DATA=path/to/chest_xray [NAME=kermany] [ARGS="--full -p crop 0.1"]    on real images
# make test      every check and every test
# make test-browser    the committed reports in headless Chromium, with axe-core (needs chromium and npm)
# make check     ruff, formatting, types, docstrings
# make format    let ruff repair and format the code
# make clean     remove .venv, the cache and what tools left behind (runs/ and reports/ stay)
#
# The first call makes .venv; PYTHON=/path/to/python3.12 chooses what it is made with.

DATA =
NAME =
ARGS =
PYTHON =

BIN = .venv/bin
READY = .venv/ready

.DEFAULT_GOAL = help
.PHONY: help report test test-browser check format clean

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

report: $(READY)
	@$(BIN)/cnn-xray report $(if $(DATA),--data "$(DATA)") $(if $(NAME),--name "$(NAME)") $(ARGS)

test: check
	$(BIN)/python -m pytest
	@echo "Left out: the reports in a browser (make test-browser)."

test-browser: $(READY)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[browser]'
	@npm install --silent --no-save --prefix .venv/axe axe-core@4.14.1
	$(BIN)/python -m pytest -m browser

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/numpydoc lint cnn_xray/*.py cnn_xray/*/*.py

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv cache .pytest_cache .ruff_cache .mypy_cache *.egg-info
	find cnn_xray tests -name __pycache__ -type d -prune -exec rm -rf {} +
	find . -maxdepth 2 -name '.*.tmp' -prune -exec rm -rf {} +

# The file is written last: a set-up that was cut short is not taken for finished, and begins anew.
$(READY): pyproject.toml constraints.txt
	@rm -rf .venv
	@for python in $(or $(PYTHON),python3 python3.12 python3.13 python3.11 python); do \
		"$$python" -c 'import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
			2>/dev/null && found=$$python && break; \
	done; \
	if [ -z "$$found" ]; then \
		echo "No Python from 3.11 to 3.13 with venv was found. Install one (on Debian: apt install python3 python3-venv)," >&2; \
		echo "or name it: make $(or $(MAKECMDGOALS),report) PYTHON=/path/to/python3.12" >&2; \
		exit 1; \
	fi; \
	echo "Setting up .venv with $$("$$found" --version): a few minutes once, 3 GB ..."; \
	"$$found" -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@
