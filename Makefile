# `make demo` and `make test` do everything on a fresh Debian 12 machine, as root.
PYTHON := .venv/bin/python

.PHONY: demo test test-compose setup lint unit system bench replay clean

demo: setup          ## the main job, end to end, on the lab
	$(PYTHON) -m compose.demo

test: setup lint unit system  ## everything CI judges

setup:               ## Debian packages, uv, the locked virtual environment
	@deploy/debian-setup.sh

lint:
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

unit:                ## no namespaces, no lab; in another random order each time
	.venv/bin/pytest -q -n 2 -m "not system and not lab and not crash and not compose"

system:              ## network namespaces, labs, and kill -9 at every crash point (two labs share the points)
	.venv/bin/pytest -q -m "(system or lab) and not crash"
	.venv/bin/pytest -q -n 2 -m crash

test-compose: setup  ## each service in a container of its own, on a Docker engine of the test's own
	@deploy/docker-setup.sh
	.venv/bin/pytest -q -m compose tests/compose

bench: setup         ## ratios measured side by side; writes build/bench.json
	$(PYTHON) -m tests.bench.cni_bench

replay:              ## FILES="…": recorded universes and selectors through the policy calculation
	$(PYTHON) -m tests.policy.replay $(FILES)

clean:
	rm -rf build .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
