# Everything a newcomer needs: `make migrate` and `make test` do all of their own set-up.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
TOOLS  := $(VENV)/.installed-tools
FUZZER := $(VENV)/.installed-fuzzer
SOURCES := $(wildcard vhost_user/extension.py vhost_user/_native_build.py vhost_user/native/*.c vhost_user/native/*.h emu/machine/accel/_kvm_build.py emu/machine/accel/native/*.[ch]) pyproject.toml setup.py

# Processes that run tests. Many tests wait, so more of them than processors are right.
WORKERS ?= $(shell expr 3 \* $$(nproc))
PIP      = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
PYTEST   = $(BIN)/python -m pytest -n $(WORKERS)

# Programs that are started a thousand times must not compile their modules each time.
unexport PYTHONDONTWRITEBYTECODE

# What `make test` runs, and what `make test-all` runs besides; `make check` runs the commands of the
# documents that do not take long.
QUICK   := not slow and not soak and not peer and not document
SLOW    := (slow or peer) and not soak
C_FILES := $(wildcard vhost_user/native/*.[ch] emu/machine/accel/native/*.[ch] bench/*.[ch] bench/*/*.[ch] tests/peers/*.c tests/emu/machine/accel/*.c)

.PHONY: help migrate sweep test test-all test-slow test-failed soak test-lowest check lint test-documents format bench bench-document bench-compare profile qemu-baseline evacuation fault-matrix hostile fuzz sanitize mutants peers peers-install peers-newer docs clean

help:
	@echo "make migrate  migrate the RFC's whole VM live, by three strategies, and print the table"
	@echo "make sweep    migrate VMs of 4 to 128 devices, and show how the blackout grows"
	@echo "make test     the tests that need nothing but this package"
	@echo "make test-all all tests: long ones, and those with QEMU and DPDK, too (make peers-install)"
	@echo "make soak     tests of many minutes: the conformance suite on back-ends that serve at unusual times, long matrices"
	@echo "make test-lowest  the same as make test, with the lowest supported versions of the dependencies"
	@echo "make check    ruff, mypy --strict, import-linter, vulture, clang-format, links and commands of documents"
	@echo "make bench    benchmarks, JSON in bench/results/"
	@echo "make bench-document  write the results of make bench into docs/explanation/"
	@echo "make bench-compare  benchmarks of REV=COMMIT and of the work tree in alternation: which differences are real"
	@echo "make profile  where the time of a blackout goes: CPU time of each ring and each device, by step"
	@echo "make qemu-baseline  the same VM in QEMU and here, on the same back-ends: stop, start, migration"
	@echo "make evacuation  what the evacuation of a host takes: costs, a simulation, measured evacuations"
	@echo "make fault-matrix  every fault, in every phase, at every place, under every strategy"
	@echo "make hostile  hostile peers at every socket of every program: nothing but their own connection fails"
	@echo "make fuzz     coverage-guided fuzzing of ten parts, SECONDS=60 each"
	@echo "make sanitize  tests and the fuzzing corpus with the C parts under ASan and UBSan"
	@echo "make peers    conformance of QEMU, DPDK, virtiofsd and ours; results in docs/conformance/results/"
	@echo "make peers-install  install them, where they are missing (Debian; root or sudo)"
	@echo "make peers-newer    conformance of the programs of newer Debian releases, in chroots (root, debootstrap)"
	@echo "make mutants  one mistake after another in our own endpoints: does the conformance suite find it?"
	@echo "make docs     generate the documents that are made from data"
	@echo "make clean    remove what was built"

$(STAMP): $(SOURCES)
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) was not found: install Python 3.11 or later, or say make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is too old: Python 3.11 or later is needed" >&2; exit 1; }
	@command -v $${CC:-cc} >/dev/null || { echo "no C compiler was found: install one (Debian: apt-get install gcc python3-dev) or set CC" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "could not make $(VENV): is the venv module installed (Debian: apt-get install python3-venv)?" >&2; exit 1; }
	@$(PIP) -e '.[test]'
	@touch $@

# What checks the sources, which neither a migration nor a test needs.
$(TOOLS): $(STAMP)
	@$(PIP) -e '.[test,dev]'
	@touch $@

$(FUZZER): $(STAMP)
	@$(PIP) -e '.[test,fuzz]'
	@touch $@

migrate: $(STAMP)
	$(BIN)/emu migrate

sweep: $(STAMP)
	$(BIN)/emu sweep --vcpus 8 --memory 4G

test: $(STAMP)
	$(PYTEST) -m "$(QUICK)"

test-all: test test-slow

# They start programs with processes of their own: fewer side by side than of the others.
test-slow: $(STAMP)
	$(BIN)/python -m pytest -n $(shell expr 2 \* $$(nproc)) -m "$(SLOW)"

# Those that have failed in the last run, one after another, until one fails again.
test-failed: $(STAMP)
	$(BIN)/python -m pytest -x --last-failed --last-failed-no-failures none -m "not soak"

soak: $(STAMP)
	$(PYTEST) -m soak

# The quick tests with the lowest versions of the dependencies that pyproject.toml allows.
LOWEST := .venv-lowest
test-lowest: $(STAMP)
	@test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	$(PIP) uv
	VIRTUAL_ENV=$(LOWEST) $(BIN)/uv pip install --quiet --resolution lowest-direct -e '.[test]'
	$(LOWEST)/bin/python -m pytest -n $(WORKERS) -m "$(QUICK)"

check: lint test-documents

lint: $(TOOLS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict
	$(BIN)/lint-imports
	$(BIN)/vulture
	$(BIN)/clang-format --dry-run --Werror $(C_FILES)

# Links, and the commands that do not take long.
test-documents: $(STAMP)
	$(PYTEST) tests/docs -m "not slow and not soak and not peer"

format: $(TOOLS)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(C_FILES)

bench: $(STAMP)
	@mkdir -p bench/results
	$(BIN)/python -m pytest bench --benchmark-json=bench/results/bench.json

# The page with all results, and tables of another document.
bench-document: $(STAMP)
	@$(BIN)/python -m bench.document docs/explanation bench/results/bench.json

# The CPU time of a stop and a restart, by step.
profile: $(STAMP)
	@$(BIN)/python -m bench.blackout_profile

# OLD_DIR=DIRECTORY is a work tree with its .venv, instead of REV; ONLY="protocol and encode" is pytest's -k.
ROUNDS ?= 5
bench-compare: $(STAMP)
	@mkdir -p bench/results
	@$(BIN)/python -m bench.compare --rounds $(ROUNDS) --only "$(ONLY)" $(if $(OLD_DIR),--old-dir "$(OLD_DIR)") --json=bench/results/compare.json $(if $(REV),-- "$(REV)")

# BASELINE="--blk 4x4 --net 0 --rounds 5" are its options; without QEMU it says so, and measures nothing.
qemu-baseline: $(STAMP)
	@mkdir -p bench/results
	@$(BIN)/python -m bench.qemu_baseline --json bench/results/qemu-baseline.json $(BASELINE)

# EVACUATION="--parallel 1,4 --vms 4" are its options; the sweep's results in the directory are kept.
evacuation: $(STAMP)
	@$(BIN)/python -m bench.evacuation --out bench/results/evacuation $(EVACUATION)

# ONLY="prewired and hang" runs the cells whose names (strategy:place:phase:fault) match.
fault-matrix: $(STAMP)
	$(BIN)/python -m pytest tests/faults --fault-matrix --tb=no $(if $(ONLY),-k "$(ONLY)")

# ONLY="inflight blk" runs the cells whose names (group: place: input) have all these words.
hostile: $(STAMP)
	$(BIN)/python -m tests.hostile --only "$(ONLY)" --json bench/results/hostile.json

# ONLY="codec qmp" runs these harnesses (tests/fuzz/harnesses/) only.
SECONDS ?= 60
fuzz: $(FUZZER)
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS) --only "$(ONLY)" --out bench/results/fuzz

# ONLY="tests/vhost_user" runs these tests only.
sanitize: $(STAMP)
	$(BIN)/python -m tests.sanitize build/sanitized -n $(WORKERS) -m "$(QUICK)" $(ONLY)

# PEERS="virtiofsd qemu-net" runs these only (tests/peers/table.py names all).
peers: peers-install
	$(BIN)/python -m tests.peers.results $(PEERS)

peers-install: $(STAMP)
	@$(BIN)/python -m tests.peers.install

# The same in chroots of newer releases of Debian, made by debootstrap: root, 1 GiB each, some minutes.
peers-newer: $(STAMP)
	$(BIN)/python -m tests.peers.newer $(PEERS)

# ONLY="dirty_log leak" tries those that are called so, or are about that; all of them write the document.
mutants: $(STAMP)
	$(BIN)/python -m tests.mutants --only "$(ONLY)" --json bench/results/mutants.json --document docs

docs: $(STAMP)
	$(BIN)/python -m vhost_user.tables docs/reference
	$(BIN)/python -m emu.strategies.document docs/explanation
	$(BIN)/python -m emu.report.trace_document docs/reference
	$(BIN)/python -m emu.commands.options_document docs/reference
	$(BIN)/python -m emu.vm_process.monitor_document docs/reference
	$(BIN)/python -m vhost_user_conformance.report.cases_document docs
	$(BIN)/python -m tests.peers.results --write-only
	$(BIN)/python -m tests.mutants.document docs

clean:
	rm -rf $(VENV) $(LOWEST) build *.egg-info bench/floor bench/kvm_floor bench/front_end_floor bench/libtraffic.so bench/results vhost_user/_native.c vhost_user/_native*.so emu/machine/accel/_kvm.c emu/machine/accel/_kvm*.so
