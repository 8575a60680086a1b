# medseg. `make help` lists what it can do; everything is installed into $(VENV) on first use.

VENV        ?= .venv
PYTHON      ?= python3
CONSTRAINTS ?= constraints.txt

INSTALLED := $(VENV)/.installed
BIN       := $(VENV)/bin
MEDSEG    := $(BIN)/medseg

# ---- what the targets below take, as in `make evaluate RUN=runs/<id> SPLIT=test` ----
EXP       ?=
MANIFEST  ?=
RUN       ?=
RUNS      ?=
IMAGES    ?=
REFERENCE ?=
PREDICTION ?=
OUT       ?=
ARGS      ?=
SPLIT     ?= test
PORT      ?= 5000
DATA_ROOT ?= $(if $(filter phantom/%,$(EXP)),$(DEMO_DATA),$(if $(filter organ/%,$(EXP)),$(ORGAN_DATA),$(MEDSEG_DATA)))
MLFLOW_TRACKING_URI ?= sqlite:///mlflow.db

# ---- the demo's numbers ----
DEMO_EXP      ?= phantom/unet
DEMO_COUNT    ?= 1000
DEMO_SEED     ?= 0
DEMO_SPLIT    ?= main
# 320 test images, so that the test split holds over 30 lesions
DEMO_RATIOS   ?= 0.60 0.08 0.32
DEMO_DATA     := data/phantom
DEMO_MANIFEST := data_manifests/phantom/v1

ORGAN_COUNT    ?= 60
ORGAN_DATA     := data/organ
ORGAN_MANIFEST := data_manifests/organ/v1

.DEFAULT_GOAL := help
.PHONY: help setup demo phantom organ check experiment train resume cv evaluate score predict export serve register annotate compare tables sampling-study loss-study zoo-table record results reference \
        mlflow-ui test test-slow lint format bench clean distclean

help: ## list the targets
	@echo "usage: make TARGET [NAME=value ...]"
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

# ---- set-up ----

setup: $(INSTALLED) ## create the virtual environment and install medseg (again only when its dependencies change)

# The stamp is newer than both files as long as nothing is to be installed.
$(INSTALLED): pyproject.toml $(CONSTRAINTS) | $(BIN)/pip
	$(BIN)/python -m pip install $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) -e '.[dev]'
	@touch $@

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "medseg needs Python 3.11 or newer, but '$(PYTHON)' is not: make $(or $(MAKECMDGOALS),setup) PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# ---- the demo: drawn tongues, so that the whole path runs without a patient's image ----

demo: phantom ## draw the phantom, train, evaluate on its test split, print the table
	$(MEDSEG) experiment experiments/$(DEMO_EXP).yaml $(ARGS) --data-root $(DEMO_DATA)

phantom: $(INSTALLED) ## draw the phantom data set, import it and split it
	$(MEDSEG) phantom --out $(DEMO_DATA) --count $(DEMO_COUNT) --seed $(DEMO_SEED)
	rm -rf $(DEMO_MANIFEST)/manifest.csv $(DEMO_MANIFEST)/masks $(DEMO_MANIFEST)/instances $(addprefix $(DEMO_MANIFEST)/splits/$(DEMO_SPLIT),.csv .ledger.jsonl)
	$(MEDSEG) manifest import labelme $(DEMO_DATA) --out $(DEMO_MANIFEST)
	$(MEDSEG) manifest split $(DEMO_MANIFEST) --name $(DEMO_SPLIT) --ratios $(DEMO_RATIOS) --seed $(DEMO_SEED)

# ---- the same of volumes ----

organ: $(INSTALLED) ## draw abdomens, train on volumes, evaluate, print the table; fails where an organ's IoU is below 0.80
	$(MEDSEG) phantom --kind organ --out $(ORGAN_DATA) --count $(ORGAN_COUNT) --seed $(DEMO_SEED)
	rm -rf $(ORGAN_MANIFEST)/manifest.csv $(ORGAN_MANIFEST)/import.json $(ORGAN_MANIFEST)/splits
	$(MEDSEG) manifest import decathlon $(ORGAN_DATA)/dataset.json --out $(ORGAN_MANIFEST)
	$(MEDSEG) manifest split $(ORGAN_MANIFEST) --name main --ratios 0.7 0.1 0.2 --seed $(DEMO_SEED)
	$(MEDSEG) experiment experiments/organ/unet.yaml $(ARGS) --data-root $(ORGAN_DATA)
	$(BIN)/python experiments/organ/bar.py $$(ls -td runs/organ-unet-* | head -n 1)

# ---- manifests ----

check: need-MANIFEST need-DATA_ROOT $(INSTALLED) ## look at every image and mask of a manifest: MANIFEST= DATA_ROOT= [ARGS="--html check.html"]
	$(MEDSEG) manifest check "$(MANIFEST)" --data-root "$(DATA_ROOT)" $(ARGS)

# ---- experiments ----

experiment: need-EXP need-DATA_ROOT $(INSTALLED) ## train, evaluate on test and print the table: EXP= DATA_ROOT= [ARGS=]
	$(MEDSEG) experiment experiments/$(EXP).yaml $(ARGS) --data-root "$(DATA_ROOT)"

train: need-EXP need-DATA_ROOT $(INSTALLED) ## train one experiment: EXP= DATA_ROOT= [ARGS=]
	$(MEDSEG) train experiments/$(EXP).yaml $(ARGS) --data-root "$(DATA_ROOT)"

resume: need-RUN need-DATA_ROOT $(INSTALLED) ## go on with a training that was stopped or killed: RUN= DATA_ROOT=
	$(MEDSEG) train --resume $(RUN) $(ARGS) --data-root "$(DATA_ROOT)"

cv: need-EXP need-DATA_ROOT $(INSTALLED) ## cross-validation; goes on where it stopped: EXP= DATA_ROOT= [ARGS="--folds 5 --seeds 3"]
	$(MEDSEG) cv experiments/$(EXP).yaml $(ARGS) --data-root "$(DATA_ROOT)"

evaluate: need-RUN need-DATA_ROOT $(INSTALLED) ## score a run on one split: RUN= DATA_ROOT= [SPLIT=test]
	$(MEDSEG) evaluate $(RUN) --split $(SPLIT) $(ARGS) --data-root "$(DATA_ROOT)"

score: need-REFERENCE need-PREDICTION need-OUT $(INSTALLED) ## score anybody's masks: REFERENCE= PREDICTION= OUT= [ARGS=--conventions]
	$(MEDSEG) score --reference "$(REFERENCE)" --prediction "$(PREDICTION)" --out "$(OUT)" $(ARGS)

predict: need-RUN need-IMAGES need-OUT $(INSTALLED) ## write masks for a folder of images: RUN= IMAGES= OUT=
	$(MEDSEG) predict $(RUN) "$(IMAGES)" --out "$(OUT)" $(ARGS)

export: need-RUN $(INSTALLED) ## write a run as ONNX with description and model card: RUN= [ARGS="--int8 --data-root DIR"]
	$(MEDSEG) export $(RUN) $(ARGS)

serve: need-RUN $(INSTALLED) ## a web page and an HTTP API for a run, an export or models:/NAME@ALIAS: RUN= [ARGS="--port 8000"]
	$(MEDSEG) serve $(RUN) $(ARGS)

register: need-RUN $(INSTALLED) ## put a run into MLflow's model registry: RUN= [ARGS="--alias champion"]
	MLFLOW_TRACKING_URI='$(MLFLOW_TRACKING_URI)' $(MEDSEG) register $(RUN) $(ARGS)

annotate: need-RUN need-IMAGES need-OUT $(INSTALLED) ## labelme files with predicted outlines to correct: RUN= IMAGES= OUT=
	$(MEDSEG) annotate $(RUN) "$(IMAGES)" --out "$(OUT)" $(ARGS)

compare: need-RUNS $(INSTALLED) ## hold runs against the first, with paired tests: RUNS="runs/<id> runs/<id>" [ARGS="--margin 0.02"]
	$(MEDSEG) compare $(RUNS) $(ARGS)

tables: need-RUNS need-OUT $(INSTALLED) ## the tables one publishes, CSV, Markdown, LaTeX: RUNS="A=runs/<id> B=runs/<id>" OUT=
	$(MEDSEG) report $(RUNS) --out "$(OUT)" $(ARGS)

# The phantom is drawn only where it is not there: a new one of another order would set finished runs aside.
PHANTOM_FILES := $(addprefix $(DEMO_MANIFEST)/,manifest.csv splits/$(DEMO_SPLIT).csv) $(DEMO_DATA)
PHANTOM       := $(if $(filter-out $(wildcard $(PHANTOM_FILES)),$(PHANTOM_FILES)),phantom)

sampling-study: $(PHANTOM) $(INSTALLED) ## does balancing help? Samplers at equal steps, three seeds; goes on where it stopped: [ARGS=--record]
	$(BIN)/python experiments/study.py sampling --data-root $(DEMO_DATA) $(ARGS)

loss-study: $(PHANTOM) $(INSTALLED) ## which loss? Likewise: [ARGS=--record]
	$(BIN)/python experiments/study.py loss --data-root $(DEMO_DATA) $(ARGS)

zoo-table: need-DATA_ROOT $(INSTALLED) ## every 2-D network from scratch on tongue600: DATA_ROOT=; goes on where it stopped (hours)
	$(BIN)/python bench/zoo_table.py --data-root "$(DATA_ROOT)" $(ARGS)

record: need-RUNS $(INSTALLED) ## add evaluated runs to bench/results: RUNS="runs/<id> runs/<id>" [ARGS=--untimed]
	$(BIN)/python bench/record.py $(ARGS) $(RUNS)

results: $(INSTALLED) ## write docs/results.md anew from bench/results
	$(BIN)/python bench/results.py

reference: $(INSTALLED) ## write the table of keys in docs/experiments.md and the networks' costs anew
	$(BIN)/python docs/reference.py
	$(BIN)/python docs/costs.py

mlflow-ui: $(INSTALLED) ## browse the tracked runs: [PORT=5000] [MLFLOW_TRACKING_URI=]
	@case '$(MLFLOW_TRACKING_URI)' in http*) echo 'these runs are on a server, open $(MLFLOW_TRACKING_URI)'; exit 1;; esac
	$(BIN)/mlflow ui --backend-store-uri '$(MLFLOW_TRACKING_URI)' --port $(PORT)

# ---- checks ----

test: $(INSTALLED) ## run the fast tests: [ARGS=tests/test_setup.py]
	$(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

test-slow: $(INSTALLED) ## run the slow tests
	$(BIN)/python -m pytest -m slow $(ARGS)

lint: $(INSTALLED) ## check style, types, imports between the floors, and docstring examples
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q --doctest-modules medseg

format: $(INSTALLED) ## put imports and layout in order
	$(BIN)/ruff check --fix --exit-zero .
	$(BIN)/ruff format .

bench: phantom ## measure this machine; each bench/bench_*.py adds lines to bench/results
	@set -e; for script in $(wildcard bench/bench_*.py); do echo "$$script"; $(BIN)/python "$$script" $(ARGS); done

# ---- cleaning: never runs/ or data/ ----

clean: ## remove caches and build output
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## remove the virtual environment too
	rm -rf $(VENV)

# ---- `need-NAME` stops where NAME is empty, before anything is installed or run ----

EXAMPLE_check      = make check MANIFEST=data_manifests/tongue/v1 DATA_ROOT=/data/tongue
EXAMPLE_experiment = make experiment EXP=tongue/unet DATA_ROOT=/data/tongue
EXAMPLE_train      = make train EXP=tongue/unet DATA_ROOT=/data/tongue
EXAMPLE_resume     = make resume RUN=runs/<id> DATA_ROOT=/data/tongue
EXAMPLE_cv         = make cv EXP=tongue/unet DATA_ROOT=/data/tongue
EXAMPLE_evaluate   = make evaluate RUN=runs/<id> DATA_ROOT=/data/tongue
EXAMPLE_score      = make score REFERENCE=labelsTr PREDICTION=predicted OUT=scores
EXAMPLE_predict    = make predict RUN=runs/<id> IMAGES=photos OUT=masks
EXAMPLE_export     = make export RUN=runs/<id>
EXAMPLE_serve      = make serve RUN=runs/<id>
EXAMPLE_register   = make register RUN=runs/<id> ARGS="--alias champion"
EXAMPLE_annotate   = make annotate RUN=runs/<id> IMAGES=photos OUT=drafts
EXAMPLE_record     = make record RUNS="runs/<id> runs/<id>"
EXAMPLE_zoo-table  = make zoo-table DATA_ROOT=/data/tongue600
EXAMPLE_compare    = make compare RUNS="runs/<id> runs/<id>"
EXAMPLE_tables     = make tables RUNS="U-Net=runs/<id> FCN=runs/<id>" OUT=tables
HINT_DATA_ROOT     := $(if ,) (the folder of the images; or set MEDSEG_DATA)

need-%:
	@$(if $(strip $($*)),:,$(error $* is missing$(HINT_$*), for example: $(EXAMPLE_$(firstword $(MAKECMDGOALS)))))
