# loadcheck: predict, measure and judge every memory figure of a 4-bit load. `make help` lists the targets: a line that begins with
# "##@" opens a group there, and what follows "##" behind a target is its line.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# What the user gives is text, such as a run folder's name: make must not expand it, nor a shell run it. Here each variable is fixed as
# it was written; recipes name it as "$$RUN", which the shell takes from the environment and never evaluates.
GIVEN := ENGINE RUNTIME PROFILE GPU GPUS DATA RUN LOG ARGS BASE CA APT_SOURCES REGISTRY IMAGE TAG DIGEST TLS_VERIFY CHUNK_MB LAZY RELEASE AUDIT_DB SIGN_KEY SIGNERS
GIVEN += $(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),$(name)))
$(foreach name,$(sort $(GIVEN)),$(if $(filter-out undefined,$(origin $(name))),$(eval override $(name) := $$(value $(name)))))

# What a load runs in: the whole stack where there is an NVIDIA GPU, the subset for the CPU where there is none.
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

# Where a load runs: in the image, where Docker can hand a GPU on, else in the local environment; RUNTIME=image or local overrides.
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

##@ For users. More words go into ARGS=, such as ARGS=--json

.PHONY: load
load: $(RUNTIME_NEEDS) ## load, attach adapters, answer, check each figure (PROFILE=)
	@scripts/with-args scripts/image/load $(RUNTIME) $(ENGINE) load $${PROFILE:+"$$PROFILE"}

.PHONY: predict
predict: .venv/dev/.complete ## each figure of a load, and if it fits (GPU=, PROFILE=)
	@scripts/with-args $(DEV)/loadcheck predict --gpu "$$GPU" $(PROFILE_FLAG)

.PHONY: matrix
matrix: .venv/dev/.complete ## which cards hold a load, or a training (GPUS=T4,L4, PROFILE=)
	@scripts/with-args $(DEV)/loadcheck predict --gpus "$$GPUS" $(PROFILE_FLAG)

.PHONY: fit
fit: .venv/dev/.complete ## the settings that fit a card, best first (GPU=, PROFILE=)
	@scripts/with-args $(DEV)/loadcheck fit --gpu "$$GPU" $(PROFILE_FLAG)

.PHONY: doctor
doctor: .venv/dev/.complete ## what keeps this machine from a load, before it is fetched
	@scripts/with-args scripts/doctor $(RUNTIME) $(ENGINE) doctor $(PROFILE_FLAG)

.PHONY: peft
peft: $(RUNTIME_NEEDS) ## load, and train the adapters for five steps (PROFILE=)
	@scripts/with-args scripts/image/load $(RUNTIME) $(ENGINE) load $${PROFILE:+"$$PROFILE"} --train-steps 5

.PHONY: train
train: $(RUNTIME_NEEDS) ## fine-tune on your data, checked like a load (DATA=file)
	@scripts/with-args scripts/image/load $(RUNTIME) $(ENGINE) train $${PROFILE:+"$$PROFILE"} $${DATA:+--data "$$(realpath -m -- "$$DATA")"}

# In the local environment alone: a container's port would have to be published.
.PHONY: serve
serve: .venv/$(ENGINE)/.complete ## vLLM's own server with your adapters (RUN=folder, PROFILE=)
	@served=$${RUN:-$${PROFILE:-}}; scripts/with-args .venv/$(ENGINE)/bin/loadcheck serve $${served:+"$$served"}

.PHONY: check
check: .venv/dev/.complete ## judge the newest run, or another one (RUN=folder, LOG=file)
	@judged=$${LOG:-$${RUN:-$$(scripts/newest-run)}}; scripts/with-args $(DEV)/loadcheck check "$$judged"

.PHONY: report
report: .venv/dev/.complete ## show the newest run again, or another one (RUN=folder)
	@shown=$${RUN:-$$(scripts/newest-run)}; scripts/with-args $(DEV)/loadcheck report "$$shown"

.PHONY: parse
parse: .venv/dev/.complete ## print every figure of a log (LOG=file)
	@scripts/with-args $(DEV)/loadcheck parse $${LOG:+"$$LOG"}

.PHONY: test
test: .venv/dev/.complete .venv/$(ENGINE)/.complete ## the unit tests, then a real load on what this machine has
	@scripts/with-args $(DEV)/$(PYTEST) -p tests.heartbeat --hypothesis-profile many

##@ For developers

.PHONY: unit
unit: .venv/dev/.complete ## the unit tests alone: no GPU, no network
	@scripts/with-args $(DEV)/$(PYTEST) --dist worksteal $(UNIT)

.PHONY: unit-newest
unit-newest: ## the same with the newest packages that pyproject.toml allows
	@rm -f .venv/newest/.complete && scripts/venv newest pyproject.toml env/newest.in
	@scripts/with-args .venv/newest/bin/$(PYTEST) $(UNIT)

.PHONY: lint
lint: .venv/dev/.complete ## style, types, and which module may import which
	@$(DEV)/ruff format --check --quiet src tests scripts examples
	@$(DEV)/ruff check --quiet src tests scripts examples
	@$(DEV)/mypy
	@$(DEV)/lint-imports

.PHONY: fmt
fmt: .venv/dev/.complete ## format the code
	@$(DEV)/ruff check --quiet --fix-only src tests scripts examples
	@$(DEV)/ruff format --quiet src tests scripts examples

.PHONY: lock
lock: .venv/tools/.complete ## resolve the locked packages again, and say what moved
	@python3 scripts/lock.py .venv/tools/bin/uv

.PHONY: release
release: .venv/dev/.complete ## check, build and tag a release (RELEASE=check: all but the tag)
	@$(DEV)/python scripts/release.py $${RELEASE:+"$$RELEASE"}

.PHONY: manifest
manifest: $(RUNTIME_NEEDS) ## what is installed, and what is not as locked (ARGS=--files)
	@scripts/with-args scripts/image/load $(RUNTIME) $(ENGINE) manifest

.PHONY: fuzz
fuzz: .venv/dev/.complete ## damaged logs for the parser and the checks (ARGS='-n 100000')
	@scripts/with-args $(DEV)/python scripts/fuzz.py

.PHONY: fuzz-atheris
fuzz-atheris: .venv/fuzz/.complete ## the same by coverage: logs, run folders, profiles; a minute each
	@for target in log run profile; do scripts/with-args .venv/fuzz/bin/python scripts/fuzz_atheris.py $$target; done

.PHONY: faults
faults: .venv/dev/.complete .venv/cpu/.complete ## every fault at every moment of a load; minutes; docs/faults.md
	@scripts/with-args $(DEV)/pytest tests/faults -m faults
	@$(DEV)/python scripts/faults.py

.PHONY: engines
engines: .venv/dev/.complete .venv/engines/.complete ## what fleet plan writes, read by SkyPilot, Kubernetes, Slurm, Ray
	@scripts/with-args $(DEV)/$(PYTEST) -n 0 tests/engines

.PHONY: bench
bench: .venv/gpu/.complete ## start to first token: unsloth's plain script against ours (GPU)
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
test-image: ## the image's own tests: read-only root, ordinary user, no network
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
image-size: .venv/dev/.complete build/image/oci/index.json ## the size of each layer against its limit in env/image.toml
	@$(DEV)/python scripts/image/layout.py size build/image/oci

.PHONY: sbom
sbom: .venv/dev/.complete build/image/oci/index.json ## list its packages (CycloneDX), licences, holes (OpenVEX)
	@scripts/image/sbom

.PHONY: audit
audit: .venv/dev/.complete ## locked packages with known holes, by your database (AUDIT_DB=)
	@$(DEV)/python scripts/image/audit.py "$${AUDIT_DB:-}"

.PHONY: push
push: .venv/dev/.complete build/image/oci/index.json ## push it, digest unchanged (REGISTRY=, SIGN_KEY=)
	@scripts/image/push

.PHONY: pull
pull: .venv/dev/.complete ## pull it into Docker (REGISTRY=, DIGEST=, SIGNERS=)
	@scripts/image/pull

.PHONY: bundle
bundle: build/image/oci/index.json ## the image as files for machines without Docker (CHUNK_MB=)
	@scripts/image/bundle

build/image/oci/index.json: | .venv/dev/.complete
	@scripts/image/oci

# scripts/venv decides by content whether an environment is current, in a few milliseconds: so it is always asked.
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

# What doctor says before the stack is fetched comes from the light environment.
.venv/cpu/.complete: FORCE | .venv/dev/.complete
	@scripts/venv cpu env/cpu.lock env/smollm2.lock

.venv/gpu/.complete: FORCE | .venv/dev/.complete
	@scripts/venv gpu env/requirements.lock
