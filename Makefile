# Muster: the commands of a checkout. `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help

export ANSIBLE_HOME := $(CURDIR)/.ansible
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export PYTHONPYCACHEPREFIX := $(CURDIR)/.cache/pycache
export PYTHONUNBUFFERED := 1

SCENARIO ?= switchover
# 1 turns automatic failover on in the lab, where it stays on, and lets the witness do it; 0 turns it off.
AUTOMATIC ?=
# Stores beside PostgreSQL that the lab shall have: all (as a new one has), none, or names. They stay.
STORES ?=
export STORES
# The directory that `make mirror` fills, and the inventory that it is for.
DIR ?=
INVENTORY ?= inventories/lab
# Such a directory, from which alone everything is installed then: make lab MIRROR=/srv/muster-mirror
MIRROR ?=
export MIRROR
PLAY := ansible-playbook -i inventories/lab

.PHONY: help
help: ## list the targets
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## /{printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## install what the checkout needs (every other target does it first)
	@scripts/setup

.PHONY: lab
lab: setup ## provision two regions in containers, drill a switchover there and back, print the verdict
	@scripts/lab

.PHONY: lab-up
lab-up: setup ## provision the lab, without a drill
	@scripts/lab up

.PHONY: lab-down
lab-down: setup ## remove the lab: containers, network, volumes, secrets (drill reports stay)
	@scripts/lab down

.PHONY: drill
drill: setup ## run a drill in the lab: make drill SCENARIO=region_loss (or switchover, partition, restore) [AUTOMATIC=1]
	@AUTOMATIC=$(AUTOMATIC) scripts/lab drill $(SCENARIO)

.PHONY: status
status: setup ## how the lab stands: one table; exit code 0 healthy, 1 degraded, 2 unable to switch
	@$(PLAY) playbooks/dr_status.yml

.PHONY: test
test: setup ## every check and every test, set-up included
	@scripts/test

.PHONY: lint
lint: setup ## the static checks
	@scripts/lint

.PHONY: unit
unit: setup ## unit tests, on both generations of ansible-core
	@scripts/unit

.PHONY: sanity
sanity: setup ## ansible-test sanity
	@scripts/sanity

.PHONY: molecule
molecule: setup ## the roles' scenarios: make molecule SCENARIOS="etcd haproxy" for some
	@scripts/molecule $(SCENARIOS)

.PHONY: e2e
e2e: setup ## end-to-end tests in a lab: kill things, interrupt things, restore
	@scripts/e2e

.PHONY: bench
bench: setup ## the speed that the project promises, as ratios
	@scripts/bench

.PHONY: mirror
mirror: setup ## fill a directory with all that an inventory needs: make mirror DIR=/srv/muster-mirror [INVENTORY=inventories/prod]
	@ansible-playbook -i $(INVENTORY) playbooks/mirror.yml -e mirror_directory=$(DIR)

.PHONY: airgap
airgap: setup ## prove it: a lab made from such a directory, in a network that leads nowhere [DIR=/srv/muster-mirror]
	@scripts/airgap $(DIR)

.PHONY: docs
docs: setup ## the documentation site, in docs/_build/html
	@scripts/docs

.PHONY: requirements
requirements: setup ## compile the pinned requirements anew
	@cd requirements && for name in uv controller; do \
	  uv pip compile -q --universal --generate-hashes --no-header --no-emit-index-url --no-annotate \
	    --python-version 3.11 $$name.in -o $$name.txt || exit 1; done
