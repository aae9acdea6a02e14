# Everything sets itself up: a machine needs Python 3.11, 3.12 or 3.13 with venv and pip, and GNU make.

.DEFAULT_GOAL := help
.ONESHELL:
.SUFFIXES:
.PHONY: help setup servers clients demo test check lint format bench bench-ray clean

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

# PYTHON=python3.12 chooses the interpreter while .venv does not exist yet.
PYTHON ?=
# ENGINE=cpu or ENGINE=cuda; what was set up last stays in use.
ENGINE ?= $(patsubst .venv/.ready-%,%,$(firstword $(wildcard .venv/.ready-*) cpu))

BIN := .venv/bin
READY := .venv/.ready-$(ENGINE)
SERVERS := .venv/.servers
AZURITE := 3.35.0
CLIENTS := $(patsubst tests/clients/%.txt,.venv/clients/%/.ready,$(wildcard tests/clients/*.txt))
# BENCH="unique mixed" chooses what `make bench` runs; more MINUTES are for more rounds, up to ROUNDS; SCALE=1 is for
# all rows also on a processor on which they take long.
BENCH ?=
MINUTES ?= 24
ROUNDS ?= 3
RAY := .venv/bench-ray/.ready
# Kept when its recipe is interrupted: it tells which engine a half-made .venv is for.
.PRECIOUS: $(READY)

# Nothing here reports what it runs to anyone.
export DO_NOT_TRACK := 1
export VLLM_NO_USAGE_STATS := 1
# npm trusts the same certificates as pip does.
export NODE_EXTRA_CA_CERTS ?= $(or $(SSL_CERT_FILE),$(PIP_CERT))

help:
	@cat <<'END'
	make demo    answer jobs/questions.jsonl with the bundled model and show the answers
	make test    run all tests
	make check   format, lint and types, then the tests
	make lint    format, lint and types
	make format  rewrite the files as lint wants them
	make setup   only make .venv; ENGINE=cuda for NVIDIA GPUs, ENGINE=cpu (default) for CPUs
	make servers install what `make test` could not: servers that tests run against, a browser
	make clients only make the environments of the clients that `make test` tries on `xbatch serve`
	make bench   measure xbatch against its peers, into benchmarks/results/, in 25 minutes; BENCH="unique ray" chooses
	make clean   remove .venv and all that tools and the demo have made
	END

setup: $(READY)

demo: $(READY)
	@$(BIN)/xbatch run jobs/questions.jsonl
	echo
	$(BIN)/python jobs/show_answers.py jobs/questions.jsonl jobs/questions.responses.jsonl

test: $(READY) $(SERVERS) $(CLIENTS)
	@$(BIN)/python -m pytest --numprocesses 2

check: lint test

lint: $(READY)
	@$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY)
	@$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY) $(if $(filter ray,$(BENCH)),$(RAY))
	@$(BIN)/python -m benchmarks.peers --minutes $(MINUTES) --rounds $(ROUNDS) $(if $(SCALE),--engine-scale $(SCALE)) $(BENCH)

# Stores and a browser that tests need and that are no Python packages. A test whose server is missing is skipped.
servers: $(READY)
	@rm -f $(SERVERS)
	$(MAKE) --no-print-directory $(SERVERS)

$(SERVERS): Makefile | $(READY)
	@has() { command -v "$$1" >/dev/null || [ -x "/usr/sbin/$$1" ]; }
	packages=()
	has sshd || packages+=(openssh-server)
	has nginx || packages+=(nginx-light)
	has node || packages+=(nodejs)
	has npm || packages+=(npm)
	has chromium || packages+=(chromium)
	has curl || packages+=(curl)
	[ -z "$${XBATCH_LONG:-}" ] || has radosgw || packages+=(ceph-mon ceph-osd ceph-mgr radosgw)
	# Where systemd runs, installing a server starts it, and nobody has asked for that.
	if [ "$${packages[*]}" ] && [ "$$(id -u)" = 0 ] && has apt-get && ! [ -d /run/systemd/system ]; then
	    echo "Installing $${packages[*]}" >&2
	    export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
	    apt-get update &>.venv/servers.log || true
	    # One by one, for a distribution may lack one of them.
	    for package in "$${packages[@]}"; do
	        apt-get install --yes --no-install-recommends "$$package" &>>.venv/servers.log || true
	    done
	fi
	azurite=.venv/node/node_modules/azurite
	if has npm && ! [ -e $$azurite ]; then
	    echo "Installing Azurite" >&2
	    npm install --prefix .venv/node --no-save --no-audit --no-fund azurite@$(AZURITE) &>>.venv/servers.log ||
	        rm -rf .venv/node
	fi
	for server in sshd nginx node chromium; do
	    has $$server || echo "$$server is missing, so the tests that need it are skipped." >&2
	done
	[ -e $$azurite ] || echo "Azurite is missing, so the tests that need it are skipped." >&2
	touch $@

clean:
	@rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -rf jobs/*.xbatch jobs/*.responses.jsonl jobs/*.responses.parquet
	find xbatch tests jobs -name __pycache__ -type d -prune -exec rm -rf {} +

# uv installs in seconds what takes pip minutes, and it can leave a dependency out. It reads none of pip's settings, so
# these hand them over.
define PIP_SETTINGS
settings=$$($(BIN)/python -m pip config list)
setting() { sed -n "/^global\.$$1=/{s/^[^']*'//;s/'\$$//;s/\\\\n/ /g;p}" <<<"$$settings"; }
links=$${PIP_FIND_LINKS:-$$(setting find-links)}
index=$${PIP_INDEX_URL:-$$(setting index-url)}
cert=$${PIP_CERT:-$$(setting cert)}
if [ "$$index" ]; then export UV_DEFAULT_INDEX=$${UV_DEFAULT_INDEX:-$$index}; fi
if [ "$$cert" ]; then export SSL_CERT_FILE=$${SSL_CERT_FILE:-$$cert}; fi
endef

# Clients of `xbatch serve`, each environment with exactly what its file lists. Little of it is ever imported, so
# bytecode is left to those who do.
clients: $(CLIENTS)

$(CLIENTS): .venv/clients/%/.ready: tests/clients/%.txt | $(READY)
	@$(PIP_SETTINGS)
	if [ "$$links" ]; then export UV_FIND_LINKS=$${UV_FIND_LINKS:-$${links// /,}}; fi
	echo "Setting up .venv/clients/$*" >&2
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(@D)
	$(BIN)/uv pip sync --quiet --python $(@D)/bin/python $<
	touch $@

# Ray, before xbatch's own environment, so that it runs the same vLLM.
bench-ray: $(RAY)

$(RAY): benchmarks/ray.txt | $(READY)
	@$(PIP_SETTINGS)
	if [ "$$links" ]; then export UV_FIND_LINKS=$${UV_FIND_LINKS:-$${links// /,}}; fi
	echo "Setting up $(@D)" >&2
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(@D)
	$(BIN)/uv pip sync --quiet --python $(@D)/bin/python $<
	site='import sysconfig; print(sysconfig.get_path("purelib"))'
	$(BIN)/python -c "$$site" >"$$($(@D)/bin/python -c "$$site")/engine.pth"
	touch $@

# vLLM's CPU build pins a build of torch that is not on PyPI: it comes from a wheelhouse if one is named and has it,
# else from where uv knows it to be.
$(READY): pyproject.toml constraints.txt
	@case $(ENGINE) in cpu | cuda) ;; *) echo "ENGINE is cpu or cuda, not $(ENGINE)." >&2; exit 2 ;; esac
	if [ "$(filter-out $@,$(wildcard .venv/.ready-*))" ]; then rm -rf .venv; fi
	if ! { $(BIN)/python -c '' && $(BIN)/uv --version; } >/dev/null 2>&1; then
	    python=
	    for candidate in $(or $(PYTHON),python3 python3.13 python3.12 python3.11); do
	        if "$$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
	            python=$$candidate
	            break
	        fi
	    done
	    if ! [ "$$python" ]; then
	        echo "xbatch needs Python 3.11, 3.12 or 3.13: install one, or name it with PYTHON=/path/to/python3." >&2
	        exit 1
	    fi
	    "$$python" -m venv --clear .venv
	    $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	    touch -d @0 $@  # the engine is known from here on, but it is not ready
	fi

	$(PIP_SETTINGS)

	abi=$$($(BIN)/python -c 'import sys; print("cp%d%d" % sys.version_info[:2])')
	has() { compgen -G "$${1#file://}/torch-*+cpu-$$2-*.whl" >/dev/null; }
	cpu_torch=
	handed=
	for place in $$links; do
	    if [ $(ENGINE) = cuda ] && has "$$place" '*'; then continue; fi  # +cpu would win over the CUDA build
	    if has "$$place" "$$abi"; then cpu_torch=yes; fi
	    handed+=$${handed:+,}$$place
	done
	if [ "$$handed" ]; then export UV_FIND_LINKS=$${UV_FIND_LINKS:-$$handed}; fi

	# An engine starts 10 s faster from bytecode than from source, and some environments keep Python from writing it.
	options=(--quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt)
	if [ $(ENGINE) = cpu ]; then
	    # xbatch needs none of the first three, and where only their CUDA builds are at hand, vLLM can't be imported
	    # beside them. The last one has no CPU backend, so vLLM switches it off.
	    printf "%s; sys_platform == 'never'\n" torchvision torchaudio torchcodec triton >.venv/overrides.txt
	    options+=(--overrides .venv/overrides.txt)
	    if ! [ "$$cpu_torch" ]; then options+=(--torch-backend cpu); fi
	fi
	echo "Setting up .venv for ENGINE=$(ENGINE)" >&2
	$(BIN)/uv pip install "$${options[@]}" --editable '.[$(ENGINE),dev]'
	touch $@
