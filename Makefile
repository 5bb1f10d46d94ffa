# `make demo` and `make test` do everything on a fresh Debian 12 machine, as root.
PYTHON := .venv/bin/python
# Else each of the tests' many processes compiles every module anew: 7 s for the tests themselves.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test crash test-compose test-kernel setup lint unit system bench soak conformance replay nightly fuzz clean

MODE ?= shared-veth
STACK ?= ipv4
demo: setup          ## the main job, end to end, on the lab; MODE=vpc-route: in another mode; STACK=dual: with IPv6
	$(PYTHON) -m compose.demo --mode $(MODE) --stack $(STACK)

test: setup lint unit system  ## the test suite; `.ci/run` says what CI judges beside it

setup:               ## Debian packages, uv, the locked virtual environment
	@deploy/debian-setup.sh

lint:
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

unit:                ## no namespaces, no lab; in another random order each time
	.venv/bin/pytest -q -n 2 -m "not system and not lab and not crash and not compose"

system:              ## network namespaces and labs, with packets; then, by themselves, what judges rates and delays
	.venv/bin/pytest -q -n 2 --dist loadscope -m "(system or lab) and not (crash or alone)"
	.venv/bin/pytest -q -m "(system or lab) and alone and not crash"

crash: setup         ## kill -9 at every crash point, beside `make test`; two labs share the points
	.venv/bin/pytest -q -n 2 -m crash

test-compose: setup  ## each service in a container of its own, on a Docker engine of the test's own
	@deploy/docker-setup.sh
	.venv/bin/pytest -q -m compose tests/compose

test-kernel: setup   ## what this machine's kernel lacks, in a guest kernel under QEMU; K="-k name" for a part
	@deploy/guest-setup.sh
	$(PYTHON) -m tests.kernel $(K)

bench: setup         ## ratios measured side by side; writes build/bench.json
	$(PYTHON) -m tests.bench.cni_bench
	$(PYTHON) -m tests.bench.policy_bench
	$(PYTHON) -m tests.bench.modes_bench
	$(PYTHON) -m tests.bench.bandwidth_bench
	$(PYTHON) -m tests.bench.enforce_bench
	$(PYTHON) -m tests.bench.enforce_bench_pods

CONFORMANCE_shared-veth-ipv4 := tests/conformance
CONFORMANCE_exclusive-eni-ipv4 := tests/conformance/test_exclusive_live.py
CONFORMANCE := $(addprefix tests/conformance/test_,cyclonus_live.py enforced_live.py api_server_live.py)
conformance: setup   ## every cyclonus step with at most nine pods, live on two nodes with real packets, 200 pods started under floods, services killed; MODE=vpc-route, STACK=dual: in another mode, or by IPv6; MODE=shared-ipvlan: in a guest
ifeq ($(MODE),shared-ipvlan)
	@deploy/guest-setup.sh
	TERWAY_CONFORMANCE=all TERWAY_GUEST_S=10800 $(PYTHON) -m tests.kernel -s --timeout 7200 -k test_ipvlan_live
else
	TERWAY_CONFORMANCE=all TERWAY_CONFORMANCE_MODE=$(MODE) TERWAY_CONFORMANCE_STACK=$(STACK) .venv/bin/pytest -q -s \
	    $(or $(CONFORMANCE_$(MODE)-$(STACK)),$(CONFORMANCE))
endif

SOAK_S ?= 1800
soak: setup          ## SOAK_S=1800: pods come and go while everything goes wrong; SOAK_SEED=N repeats one
	$(PYTHON) -m tests.soak --seconds $(SOAK_S) --stack $(STACK) $(if $(SOAK_SEED),--seed $(SOAK_SEED))

replay:              ## FILES="…": recorded universes and selectors through the policy calculation
	$(PYTHON) -m tests.policy.replay $(FILES)

nightly: setup       ## what takes too long for every change: long random sequences, against models and by coverage
	TERWAY_POLICY_SEQUENCES=10000 .venv/bin/pytest -q tests/policy --timeout 3600
	TERWAY_CRASH_MODES=all .venv/bin/pytest -q -m "crash or system" tests/crash
	POOL_AND_ENIS_STEPS=100000 .venv/bin/pytest -q tests/pool_and_enis --timeout 3600
	$(MAKE) fuzz

FUZZ_S ?= 300
fuzz: setup          ## FUZZ_S=300: seconds of coverage-guided search; a find is left in build/fuzz
	build/uv/bin/uv sync --frozen --quiet --python /usr/bin/python3 --group fuzz
	mkdir -p build/fuzz/corpus
	$(PYTHON) -m tests.fuzz.policy_fuzz -max_total_time=$(FUZZ_S) -max_len=400 -artifact_prefix=build/fuzz/ build/fuzz/corpus

clean:
	rm -rf build .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
