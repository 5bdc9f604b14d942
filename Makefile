# loadcheck: predict, measure and judge every memory figure of a 4-bit load. `make help` lists the targets: a line that begins with
# "##@" opens a group there, and the text after "##" behind a target is its line.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# Values from the user are plain text, such as the name of a run folder: neither make nor a shell may evaluate them. Here each variable is
# fixed as it was written; recipes use "$$RUN", which the shell takes from the environment and never evaluates.
GIVEN := ENGINE RUNTIME PROFILE GPU GPUS DATA RUN LOG ARGS BASE CA APT_SOURCES REGISTRY IMAGE TAG DIGEST TLS_VERIFY CHUNK_MB LAZY RELEASE AUDIT_DB SIGN_KEY SIGNERS
GIVEN += $(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),$(name)))
$(foreach name,$(sort $(GIVEN)),$(if $(filter-out undefined,$(origin $(name))),$(eval override $(name) := $$(value $(name)))))

# The environment of a load: the whole stack with an NVIDIA GPU, the CPU subset without.
ifeq ($(ENGINE),)
override ENGINE := $(shell scripts/engine)
endif
GPU ?= T4
GPUS ?= all
export $(sort $(GIVEN))

DEV := .venv/dev/bin
UNIT := tests $(foreach more,engines faults gpu image integration sweeps,--ignore tests/$(more))
# On all cores (ARGS='-n 0': one process); -X utf8 so that files and paths are read alike in every locale.
PYTEST := python -X utf8 -m pytest -n auto --dist loadgroup
PROFILE_FLAG := $${PROFILE:+--profile "$$PROFILE"}

# Where a load runs: in the image if Docker can pass a GPU on, else in the local environment; RUNTIME=image or local overrides.
ifeq ($(RUNTIME),)
override RUNTIME := $(shell scripts/image/runtime)
endif
one_of = $(if $(findstring <$($1)>,$2),,$(error $1: '$($1)' is not one of $2))
$(call one_of,ENGINE,<gpu> <cpu>)$(call one_of,RUNTIME,<image> <local>)
RUNTIME_NEEDS := $(if $(filter image,$(RUNTIME)),,.venv/$(ENGINE)/.complete)

.PHONY: help
help:
	@awk -F ':.*## ' '/^##@ / { printf "%s%s\n", (group++ ? "\n" : ""), substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  %-12s  %s\n", $$1, $$2 }' Makefile

##@ For users. Pass further flags in ARGS=, such as ARGS=--json

.PHONY: load
load: $(RUNTIME_NEEDS) ## load, attach adapters, answer, check each figure (PROFILE=)
	@scripts/with-args scripts/image/load $(RUNTIME) $(ENGINE) load $${PROFILE:+"$$PROFILE"}

.PHONY: predict
predict: .venv/dev/.complete ## predict each figure of a load, and if it fits (GPU=, PROFILE=)
	@scripts/with-args $(DEV)/loadcheck predict --gpu "$$GPU" $(PROFILE_FLAG)

.PHONY: matrix
matrix: .venv/dev/.complete ## show which cards hold a load or training (GPUS=T4,L4, PROFILE=)
	@scripts/with-args $(DEV)/loadcheck predict --gpus "$$GPUS" $(PROFILE_FLAG)

.PHONY: fit
fit: .venv/dev/.complete ## find the settings that fit a card, best first (GPU=, PROFILE=)
	@scripts/with-args $(DEV)/loadcheck fit --gpu "$$GPU" $(PROFILE_FLAG)

.PHONY: doctor
doctor: .venv/dev/.complete ## report what would stop a load here, before any download
	@scripts/with-args scripts/doctor $(RUNTIME) $(ENGINE) doctor $(PROFILE_FLAG)

.PHONY: peft
peft: $(RUNTIME_NEEDS) ## load, and train the adapters for five steps (PROFILE=)
	@scripts/with-args scripts/image/load $(RUNTIME) $(ENGINE) load $${PROFILE:+"$$PROFILE"} --train-steps 5

.PHONY: train
train: $(RUNTIME_NEEDS) ## fine-tune on your data, predicted and judged (DATA=file)
	@scripts/with-args scripts/image/load $(RUNTIME) $(ENGINE) train $${PROFILE:+"$$PROFILE"} $${DATA:+--data "$$(realpath -m -- "$$DATA")"}

# Only in the local environment: a container's port would have to be published.
.PHONY: serve
serve: .venv/$(ENGINE)/.complete ## run vLLM's server with your adapters (RUN=folder, PROFILE=)
	@served=$${RUN:-$${PROFILE:-}}; exec scripts/with-args .venv/$(ENGINE)/bin/loadcheck serve $${served:+"$$served"}

.PHONY: check
check: .venv/dev/.complete ## judge the newest run, or another one (RUN=folder, LOG=file)
	@judged=$${LOG:-$${RUN:-$$(scripts/newest-run)}}; scripts/with-args $(DEV)/loadcheck check "$$judged"

.PHONY: report
report: .venv/dev/.complete ## show the newest run again, or another one (RUN=folder)
	@shown=$${RUN:-$$(scripts/newest-run)}; scripts/with-args $(DEV)/loadcheck report "$$shown"

.PHONY: parse
parse: .venv/dev/.complete ## print each figure of the newest run, or of a log (LOG=file)
	@parsed=$${LOG:-$${RUN:-$$(scripts/newest-run)}}; scripts/with-args $(DEV)/loadcheck parse "$$parsed"

.PHONY: test
test: .venv/dev/.complete .venv/$(ENGINE)/.complete ## run the unit tests, then a real load on what this machine has
	@scripts/with-args $(DEV)/$(PYTEST) -p tests.heartbeat --hypothesis-profile many

##@ For developers

.PHONY: unit
unit: .venv/dev/.complete ## run the unit tests: no GPU, no network
	@scripts/with-args $(DEV)/$(PYTEST) --dist worksteal $(UNIT)

.PHONY: unit-newest
unit-newest: ## run them with the newest packages that pyproject.toml allows
	@rm -f .venv/newest/.complete && scripts/venv newest pyproject.toml env/newest.in
	@scripts/with-args .venv/newest/bin/$(PYTEST) $(UNIT)

.PHONY: lint
lint: .venv/dev/.complete ## check style, types, and which module may import which
	@$(DEV)/ruff format --check --quiet src tests scripts examples
	@$(DEV)/ruff check --quiet src tests scripts examples
	@$(DEV)/mypy
	@$(DEV)/lint-imports

.PHONY: fmt
fmt: .venv/dev/.complete ## format the code
	@$(DEV)/ruff check --quiet --fix-only src tests scripts examples
	@$(DEV)/ruff format --quiet src tests scripts examples

.PHONY: lock
lock: .venv/tools/.complete ## resolve the locked packages again, and show what changed
	@python3 scripts/lock.py .venv/tools/bin/uv

.PHONY: release
release: .venv/dev/.complete ## check, build and tag a release (RELEASE=check: all but the tag)
	@$(DEV)/python scripts/release.py $${RELEASE:+"$$RELEASE"}

.PHONY: manifest
manifest: $(RUNTIME_NEEDS) ## list what is installed and differs from the lock (ARGS=--files)
	@scripts/with-args scripts/image/load $(RUNTIME) $(ENGINE) manifest

.PHONY: fuzz
fuzz: .venv/dev/.complete ## feed damaged logs to the parser and checks (ARGS='-n 100000')
	@scripts/with-args $(DEV)/python scripts/fuzz.py

.PHONY: fuzz-atheris
fuzz-atheris: .venv/fuzz/.complete ## fuzz by coverage: logs, run folders, profiles; a minute each
	@for target in log run profile; do scripts/with-args .venv/fuzz/bin/python scripts/fuzz_atheris.py $$target; done

.PHONY: faults
faults: .venv/dev/.complete .venv/cpu/.complete ## inject every fault into loads, write docs/faults.md; minutes
	@scripts/with-args $(DEV)/pytest tests/faults -m faults
	@$(DEV)/python scripts/faults.py

.PHONY: engines
engines: .venv/dev/.complete .venv/engines/.complete ## check fleet plans with SkyPilot, Kubernetes, Slurm and Ray
	@scripts/with-args $(DEV)/$(PYTEST) -n 0 tests/engines

.PHONY: bench
bench: $(if $(filter gpu,$(ENGINE)),.venv/gpu/.complete) ## time to first token: unsloth's plain script against ours (GPU)
	@[ "$$ENGINE" = gpu ] || { echo "Error: bench: needs an NVIDIA GPU, and nvidia-smi lists none; run it where there is one" >&2; exit 3; }
	@scripts/with-args .venv/gpu/bin/python -m scripts.bench

.PHONY: clean
clean: ## remove the environments and build files; runs and weights stay
	@rm -rf .venv build src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

##@ The image

# Options of every build: BASE=, CA= (your proxy's certificates), APT_SOURCES= (see docs/image.md).

.PHONY: build
build: ## build the image into Docker
	@scripts/image/build

.PHONY: shell
shell: ## open a shell in the image, with the GPU where there is one
	@scripts/image/run $(if $(filter gpu,$(ENGINE)),shell,cpu-shell)

.PHONY: test-image
test-image: ## test the image: read-only root, ordinary user, no network
	@scripts/image/test

.PHONY: ci-image
ci-image: .venv/dev/.complete ## build, test, run, push and pull it (installs Docker if missing)
	@scripts/image/ci

.PHONY: lint-image
lint-image: .venv/tools/.complete ## lint the Dockerfile, the compose file and the shell scripts
	@scripts/image/lint

.PHONY: reproducible
reproducible: .venv/dev/.complete ## build it twice from nothing and compare the digests
	@scripts/image/reproducible

.PHONY: image-size
image-size: .venv/dev/.complete build/image/oci/index.json ## compare each layer's size with its limit in env/image.toml
	@$(DEV)/python scripts/image/layout.py size build/image/oci

.PHONY: sbom
sbom: .venv/dev/.complete build/image/oci/index.json ## list packages (CycloneDX), licences, vulnerabilities (OpenVEX)
	@scripts/image/sbom

.PHONY: audit
audit: .venv/dev/.complete ## check locked packages against your advisories (AUDIT_DB=)
	@$(DEV)/python scripts/image/audit.py "$${AUDIT_DB:-}"

.PHONY: push
push: .venv/dev/.complete build/image/oci/index.json ## push it, digest unchanged (REGISTRY=, SIGN_KEY=)
	@scripts/image/push

.PHONY: pull
pull: .venv/dev/.complete ## pull it into Docker (REGISTRY=, DIGEST=, SIGNERS=)
	@scripts/image/pull

.PHONY: bundle
bundle: build/image/oci/index.json ## write the image as files for hosts without Docker (CHUNK_MB=)
	@scripts/image/bundle

build/image/oci/index.json: | .venv/dev/.complete
	@scripts/image/oci

# scripts/venv decides by content whether an environment is current, in a few milliseconds, so it always runs.
.PHONY: FORCE
FORCE:

.venv/tools/.complete: FORCE
	@scripts/venv tools env/tools.lock

.venv/dev/.complete: FORCE
	@scripts/venv dev env/dev.lock

.venv/engines/.complete: FORCE
	@scripts/venv engines env/engines.lock

.venv/fuzz/.complete: FORCE
	@scripts/venv fuzz env/fuzz.lock

# Before the stack is fetched, doctor runs in the light environment.
.venv/cpu/.complete: FORCE | .venv/dev/.complete
	@scripts/venv cpu env/cpu.lock env/smollm2.lock

.venv/gpu/.complete: FORCE | .venv/dev/.complete
	@scripts/venv gpu env/requirements.lock
