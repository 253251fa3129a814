# The two commands of the README. Both set up .venv first; a second call reuses it.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

.PHONY: demo test slow lint proto clean

# Five peers train a 1.2M parameter model on this machine for about two minutes; one is killed halfway, the run goes
# on; a sample is printed. The first four are pinned so that every stage has two replicas, the fifth chooses itself.
demo: .venv/installed
	$(BIN)/swarmtrain up deploy/runs/demo.toml --peers 5 --kill 1@90 \
		--stage 0:2 --stage 3:4 --stage 0:2 --stage 3:4

# Style, types and the whole default suite (under 15 minutes on two cores): what runs real processes, browsers and sockets
# has the machine to itself, the rest computes on two cores.
REAL := tests/conformance tests/dashboard tests/docs tests/integration tests/swarm tests/transport
test: lint
	$(BIN)/python -m pytest -q $(REAL)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses 2 --dist loadfile tests $(addprefix --ignore=,$(REAL))

slow: .venv/installed
	$(BIN)/python -m pytest -q -m slow

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

proto: .venv/installed
	$(BIN)/python proto/generate.py

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
		|| { echo "swarmtrain needs Python 3.11 to 3.13; set PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
