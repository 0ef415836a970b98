# The two commands that matter: make demo, make test.  make check is what CI runs.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: venv demo test test-long alerts crash chaos sim docs-run deploy-check slices mutations check lint types contracts proto proto-check vectors lock clean certificates drills upgrade console

venv: .venv/.installed

.venv/.installed: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 13) else f"HCE-FS needs Python 3.11 to 3.13, this is {v[0]}.{v[1]}: run make PYTHON=python3.12 {chr(32).join(sys.argv[1:])}")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@

demo: venv
	$(BIN)/hcefs demo

# The heaviest of the tests that are not long: make slices runs them, make test does not.
# tests/unit/test_make_check.py sees to it that make check runs every test exactly once.
HEAVY_MOVES := $(addprefix tests/moves/test_,networks.py reprofile.py under_load.py)
HEAVY_CLUSTER := $(addprefix tests/cluster/test_,chaos.py ledger_recovery.py operator_verbs.py \
  repair_verbs.py scaling.py) tests/bench/test_toy_runs.py tests/cli/test_demo.py
SLICED := $(addprefix --ignore=,tests/crash $(HEAVY_MOVES) $(HEAVY_CLUSTER))

# Fast tiers on two workers, then the tests that start real processes, one at a time.
test: venv
	$(BIN)/python -m tests.fhir
	$(BIN)/pytest -q -n 2 -m "not cluster" $(SLICED)
	$(BIN)/pytest -q -m cluster $(SLICED) tests/cluster

# What takes a cluster long, and a short slice of what has long runs of its own: crash, chaos, sim.
slices: venv
	$(BIN)/pytest -q -n 2 tests/crash
	$(BIN)/pytest -q $(HEAVY_MOVES)
	$(BIN)/pytest -q $(HEAVY_CLUSTER)
	$(BIN)/hcefs sim --seeds 50 --phase 40

# More seeds and larger clusters than the fast tier: minutes of CPU, no processes.
test-long: venv
	$(BIN)/pytest -q -n 2 -m "long and not cluster"

# Kills real processes: at every crash point and hit, with bugs planted on purpose, and a whole
# cluster under load twenty times.
crash: venv
	$(BIN)/pytest -q -n 2 -m "long or not long" tests/crash
	$(BIN)/pytest -q -s -m "long or not long" tests/cluster/test_kill_all.py tests/cluster/test_crash_points.py

# Real clusters lose all databases, the ledger, a zone; each is recovered as recover.md says.
drills: venv
	$(BIN)/pytest -q -m "long and cluster" tests/cluster/test_drills.py

# Real processes under faults, then a full verification; exit code 1 on a violation.
MINUTES ?= 5
SEED ?= -1
chaos: venv
	$(BIN)/hcefs chaos --minutes $(MINUTES) --seed $(SEED) --report chaos-report.md

# Whole clusters on a virtual clock, one a seed; exit code 1 when a promise was broken.
SEEDS ?= 1000
sim: venv
	$(BIN)/hcefs sim --seeds $(SEEDS)

# From the release before (out of git) to this one under load, process by process: minutes.
upgrade: venv
	$(BIN)/pytest -q -m "long or not long" tests/cluster/test_upgrade_rolling.py

# Needs promtool and prometheus (Debian package prometheus): the cases of all alerts, and a real
# cluster that is scraped, hurt and mended.  `hcefs bench alerts` does many faults, one by one, and
# compares what fires with what should (docs/operations/watch.md); it takes 20 minutes.
alerts: venv
	$(BIN)/pytest -q -m "long or not long" tests/unit/deploy tests/cluster/test_prometheus.py tests/bench/test_alerts_run.py

# The commands of README.md, docs/operations and docs/api, executed as they stand there; needs curl,
# grpcurl and go.  DOCS_PATIENCE=3 multiplies the limits of time.
docs-run: venv
	$(BIN)/pytest -v -m "long or not long" tests/docs_run

# All of deploy/ that can be checked on one machine; needs systemd-analyze and promtool, and says
# what to install where one is missing.
deploy-check: venv
	$(BIN)/python deploy/grafana/generate.py --check
	$(BIN)/python deploy/prometheus/tests/generate.py --check
	$(BIN)/pytest -q -m "(long or not long) and not cluster" tests/deploy tests/unit/deploy

# A real cluster under load whose certificates are renewed and whose authority is exchanged.
certificates: venv
	$(BIN)/pytest -q -s -m long tests/cluster/test_certificates.py

# Needs chromium (Debian package chromium): the console in a browser over a real cluster, with
# pictures of it in PICTURES.
PICTURES ?= console-pictures
console: venv
	HCEFS_CONSOLE_PICTURES=$(PICTURES) $(BIN)/pytest -q -s -m long tests/console

# Bugs planted on purpose: each must be caught.
mutations: venv
	$(BIN)/python -m hcefs.testing.mutations

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: venv
	$(BIN)/mypy

contracts: venv
	$(BIN)/lint-imports

proto: venv
	$(BIN)/python proto/generate.py

proto-check: venv
	$(BIN)/python proto/generate.py --check
	$(BIN)/python docs/generate_metrics.py --check
	$(BIN)/python deploy/grafana/generate.py --check
	$(BIN)/python deploy/prometheus/tests/generate.py --check

check: lint types contracts proto-check test slices

# Rewrites the golden vectors.  Only for a NEW version of a format: existing bytes are frozen.
vectors: venv
	$(BIN)/python -m tests.vectors.generate

lock:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip install --quiet -e '.[demo,dev]'
	(sed -n '/^#/p' requirements.lock; .venv-lock/bin/pip freeze | grep -v -e '^-e') > requirements.new
	mv requirements.new requirements.lock
	rm -rf .venv-lock

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
