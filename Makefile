# Muster: the commands of a checkout. `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help

export ANSIBLE_HOME := $(CURDIR)/.ansible
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export PYTHONDONTWRITEBYTECODE := 1
export PYTHONUNBUFFERED := 1

SCENARIO ?= switchover
PLAY := ansible-playbook -i inventories/lab

.PHONY: help
help: ## list the targets
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## /{printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## install what the checkout needs (every other target does it first)
	@scripts/setup
