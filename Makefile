# loadcheck: predict, measure and judge every memory figure of a 4-bit load. `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# What the user gives is text, such as a run folder's name: make must not expand it, nor a shell run it. Here each variable is fixed as
# it was written; recipes name it as "$$RUN", which the shell takes from the environment and never evaluates.
GIVEN := ENGINE RUNTIME PROFILE GPU RUN LOG ARGS BASE CA APT_SOURCES REGISTRY IMAGE TAG DIGEST TLS_VERIFY CHUNK_MB
GIVEN += $(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),$(name)))
$(foreach name,$(sort $(GIVEN)),$(if $(filter-out undefined,$(origin $(name))),$(eval override $(name) := $$(value $(name)))))

# What a load runs in: the whole stack where there is an NVIDIA GPU, the subset for the CPU where there is none.
ifeq ($(ENGINE),)
override ENGINE := $(shell scripts/engine)
endif
GPU ?= T4
export $(sort $(GIVEN))

DEV := .venv/dev/bin
PROFILE_FLAG := $${PROFILE:+--profile "$$PROFILE"}

# Where a load runs: in the image, where Docker can hand a GPU on, else in the local environment; RUNTIME=image or local overrides.
ifeq ($(RUNTIME),)
override RUNTIME := $(shell scripts/image/runtime)
endif
one_of = $(if $(findstring <$($1)>,$2),,$(error $1: '$($1)' is not one of $2))
$(call one_of,ENGINE,<gpu> <cpu>)$(call one_of,RUNTIME,<image> <local>)
RUNTIME_NEEDS := $(if $(filter image,$(RUNTIME)),,.venv/$(ENGINE)/.complete)

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: load
load: $(RUNTIME_NEEDS) ## load the model, attach adapters, answer once, check every figure (PROFILE=, ARGS=, RUNTIME=)
	@scripts/with-args scripts/image/load $(RUNTIME) $(ENGINE) load $${PROFILE:+"$$PROFILE"}

.PHONY: peft
peft: $(RUNTIME_NEEDS) ## as load, and train the adapters for a few steps (PROFILE=, ARGS=, RUNTIME=)
	@scripts/with-args scripts/image/load $(RUNTIME) $(ENGINE) load $${PROFILE:+"$$PROFILE"} --train-steps 5

.PHONY: doctor
doctor: .venv/dev/.complete ## what is wrong with this machine for this stack, before anything is downloaded (PROFILE=, ARGS=, RUNTIME=)
	@scripts/with-args scripts/doctor $(RUNTIME) $(ENGINE) doctor $(PROFILE_FLAG)

.PHONY: predict
predict: .venv/dev/.complete ## say every figure of the load log before there is one (GPU=T4, PROFILE=, ARGS=)
	@scripts/with-args $(DEV)/loadcheck predict --gpu "$$GPU" $(PROFILE_FLAG)

.PHONY: fit
fit: .venv/dev/.complete ## the settings that fit, best first (GPU=T4, PROFILE=, ARGS=)
	@scripts/with-args $(DEV)/loadcheck fit --gpu "$$GPU" $(PROFILE_FLAG)

.PHONY: check
check: .venv/dev/.complete ## judge the newest run, or RUN=folder, or LOG=file
	@judged=$${LOG:-$${RUN:-$$(scripts/newest-run)}}; scripts/with-args $(DEV)/loadcheck check "$$judged"

.PHONY: report
report: .venv/dev/.complete ## show the newest run again, or RUN=folder (ARGS='--html page.html')
	@shown=$${RUN:-$$(scripts/newest-run)}; scripts/with-args $(DEV)/loadcheck report "$$shown"

.PHONY: manifest
manifest: $(RUNTIME_NEEDS) ## what is really installed, and what of it is not as locked (ARGS=--files, RUNTIME=)
	@scripts/with-args scripts/image/load $(RUNTIME) $(ENGINE) manifest

.PHONY: parse
parse: .venv/dev/.complete ## every figure of LOG=file
	@scripts/with-args $(DEV)/loadcheck parse $${LOG:+"$$LOG"}

.PHONY: test
test: .venv/dev/.complete .venv/$(ENGINE)/.complete ## unit tests, then a real load end to end on what this machine has
	@scripts/with-args $(DEV)/pytest

.PHONY: unit
unit: .venv/dev/.complete ## the unit tests alone: seconds, no GPU, no network
	@scripts/with-args $(DEV)/pytest tests --ignore tests/integration --ignore tests/image --ignore tests/gpu --ignore tests/faults

.PHONY: fuzz
fuzz: .venv/dev/.complete ## throw damaged logs at the parser and the judgement (ARGS='-n 100000 --seed 1')
	@scripts/with-args $(DEV)/python scripts/fuzz.py

.PHONY: bench
bench: .venv/gpu/.complete ## time from start to first token: unsloth's plain script against ours (ARGS='--rounds 3 --cold')
	@scripts/with-args .venv/gpu/bin/python scripts/bench

.PHONY: fuzz-atheris
fuzz-atheris: .venv/fuzz/.complete ## coverage-guided: logs, run folders and profiles, a minute each (ARGS=-max_total_time=600)
	@for target in log run profile; do scripts/with-args .venv/fuzz/bin/python scripts/fuzz_atheris.py $$target; done

.PHONY: faults
faults: .venv/dev/.complete .venv/cpu/.complete ## inject every fault at every moment of a load, some minutes, and write docs/faults.md
	@scripts/with-args $(DEV)/pytest tests/faults -m faults
	@$(DEV)/python scripts/faults.py

.PHONY: lint
lint: .venv/dev/.complete ## style, types, layers, and that the locks belong to their .in files
	@$(DEV)/ruff format --check --quiet src tests scripts
	@$(DEV)/ruff check --quiet src tests scripts
	@$(DEV)/mypy
	@$(DEV)/lint-imports

.PHONY: fmt
fmt: .venv/dev/.complete ## format the code
	@$(DEV)/ruff check --quiet --fix-only src tests scripts
	@$(DEV)/ruff format --quiet src tests scripts

.PHONY: lock
lock: .venv/tools/.complete ## resolve the locks again, and say what moved
	@python3 scripts/lock.py .venv/tools/bin/uv

# The image. Options of every build: BASE=, CA= (your proxy's certificates), APT_SOURCES= (see docs/image.md).

.PHONY: build
build: ## build the image into Docker, with buildx
	@scripts/image/build

.PHONY: shell
shell: ## a shell in the image, with the GPU where there is one
	@scripts/image/run $(if $(filter gpu,$(ENGINE)),shell,cpu-shell)

.PHONY: test-image
test-image: ## the image's own tests, in it: read-only root, ordinary user, no network
	@scripts/image/test

.PHONY: ci-image
ci-image: ## build, test, run, weigh, push and pull the image for real; Docker is installed where there is none (as root, Debian)
	@scripts/image/ci

.PHONY: lint-image
lint-image: .venv/tools/.complete ## lint the Dockerfile, the compose file and the shell scripts
	@scripts/image/lint

.PHONY: reproducible
reproducible: ## build the image twice from nothing and compare the digests
	@scripts/image/reproducible

.PHONY: image-size
image-size: .venv/dev/.complete build/image/oci/index.json ## the size of each layer, and the gate of env/image.toml
	@$(DEV)/python scripts/image/layout.py size build/image/oci

.PHONY: sbom
sbom: .venv/dev/.complete build/image/oci/index.json ## the bill of materials (CycloneDX) and the licences
	@scripts/image/sbom

.PHONY: push
push: build/image/oci/index.json ## push the image, digest unchanged (REGISTRY=)
	@scripts/image/push

.PHONY: pull
pull: ## pull the image into Docker (REGISTRY=, DIGEST=)
	@scripts/image/pull

.PHONY: bundle
bundle: build/image/oci/index.json ## the image as checksummed chunks for machines with no registry or no Docker (CHUNK_MB=)
	@scripts/image/bundle

build/image/oci/index.json:
	@scripts/image/oci

.PHONY: clean
clean: ## remove the environments and what tools left; runs and weights stay
	@rm -rf .venv build src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

# scripts/venv decides by content whether an environment is current, in a few milliseconds: so it is always asked.
.PHONY: FORCE
FORCE:

.venv/tools/.complete: FORCE
	@scripts/venv tools env/tools.lock

.venv/dev/.complete: FORCE
	@scripts/venv dev env/dev.lock

.venv/fuzz/.complete: FORCE
	@scripts/venv fuzz env/fuzz.lock

# What doctor says before the stack is fetched comes from the light environment.
.venv/cpu/.complete: FORCE | .venv/dev/.complete
	@scripts/venv cpu env/cpu.lock env/smollm2.lock

.venv/gpu/.complete: FORCE | .venv/dev/.complete
	@scripts/venv gpu env/requirements.lock
