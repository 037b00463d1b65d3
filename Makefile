# RoadQA: `make demo` and `make test` do all their set-up; `make help` lists the rest.
SHELL := /bin/bash
PYTHON ?= python3.11
SERVICES := .venvs/services/bin
BENCHMARKS := $(subst _,-,$(filter-out __init__,$(basename $(notdir $(wildcard benchmarks/*.py)))))
export PYTHONPATH := $(CURDIR)

.PHONY: test-containers secrets images push help setup demo test check unit integration e2e core bench named prove up down logs clean locks

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: ## one virtual environment for each worker, from its lock file (a second time installs nothing)
	@$(PYTHON_FOUND) -m scripts.setup

PYTHON_FOUND := $(shell command -v $(PYTHON) || command -v python3)

demo: setup ## the whole pipeline on drawn scenes: demo/report.html, report.json, submission.csv
	@$(SERVICES)/python -m scripts.demo

test: setup ## everything that a change must pass (check, unit, integration, e2e, core)
	@$(SERVICES)/python -m scripts.test

check: setup ## ruff, mypy, import-linter, stage versions, generated docs
	@$(SERVICES)/python -m scripts.test check

unit integration e2e core: setup ## one part of `make test`; core: two images, the stores, conductor and labeler
	@$(SERVICES)/python -m scripts.test $@

test-containers: setup ## build every image and run the pipeline through compose (half an hour on an idle machine; root on Debian, or Docker)
	@$(SERVICES)/python -m scripts.test containers

bench: named setup ## one benchmark (NAME=learning): a table, and benchmarks/results/NAME.json
	@$(SERVICES)/python -m benchmarks.$(subst -,_,$(NAME))

named:
	@: $(if $(filter $(BENCHMARKS),$(subst _,-,$(NAME))),,$(error say which benchmark: make bench NAME=…, one of: $(BENCHMARKS)))

prove: ## what takes too long for `make test`: properties on other cases, the preset under three seeds, its knobs (hours)
	@HYPOTHESIS_PROFILE=default $(MAKE) --no-print-directory unit
	@$(MAKE) --no-print-directory bench NAME=learning
	@$(MAKE) --no-print-directory bench NAME=ablation

secrets: ## .env and compose/secrets/, with random passwords, where they are missing
	@$(PYTHON_FOUND) -m scripts.secrets

images: secrets ## every container image; DEVICE=cuda for NVIDIA GPUs, REGISTRY=… before their names
	@$(COMPOSE) build $(IMAGES)

push: ## the images to REGISTRY: make images push REGISTRY=registry.example.com/team
	@$(COMPOSE) push $(IMAGES)

# Asked before anything is built: half an hour later would be late.
ifneq (,$(filter images push,$(MAKECMDGOALS)))
DEVICE ?= cpu
$(if $(filter cpu cuda,$(DEVICE)),,$(error DEVICE=$(DEVICE) is no build: say DEVICE=cpu or DEVICE=cuda))
endif
ifneq (,$(filter push,$(MAKECMDGOALS)))
$(if $(REGISTRY),,$(error say where to: make images push REGISTRY=registry.example.com/team))
endif

COMPOSE = ROADQA_REVISION=$$(git rev-parse HEAD) $(if $(REGISTRY),ROADQA_REGISTRY=$(REGISTRY)/) \
	$(if $(filter cuda,$(DEVICE)),ROADQA_DEVICE_SUFFIX=-cuda COMPOSE_FILE=compose.yaml:compose/compose.gpu.yml) docker compose
# One service for each image; store-volume builds that of conductor, set-up, teacher and CLI.
IMAGES := store-volume labeler augmenter trainer quantizer inference

up: setup ## start the local stack in the background
	@$(SERVICES)/python -m services.local.stack up

down: ## stop the local stack
	@$(SERVICES)/python -m services.local.stack down

logs: ## follow every log of the local stack
	@$(SERVICES)/python -m services.local.stack logs

locks: ## write workers/*/requirements.txt and services/requirements.txt anew from pyproject.toml
	@$(PYTHON_FOUND) -m scripts.locks

clean: ## take away everything that make has put here, but passwords, .env and data/
	@if [ -x $(SERVICES)/python ]; then $(SERVICES)/python -m services.local.stack down; fi
	rm -rf .venvs .state demo .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
