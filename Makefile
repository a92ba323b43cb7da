# Set-up, demo and checks. `make` alone says what there is.

PYTHON ?= python3
VENV ?= .venv
# Index for torch alone, where the default one would bring CUDA libraries (PyTorch has a CPU index).
TORCH_INDEX ?=
# Further arguments: EXTRA for pip install, ARGS for the command a target runs.
EXTRA ?=
ARGS ?=
# Tests over ROS 2 mostly wait. Files of the others stay whole: each shares what it has trained.
PARALLEL := -n 2 --dist loadfile --durations=30
PARALLEL_ROS := -n 2 --dist worksteal --durations=30

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
# Set by a Python with ROS 2 wheels for itself; ours is another one.
unexport _ROS_WHEELS_BOOTSTRAP_COMPLETE

# A sourced ROS 2 is used; without one, ROS 2 comes from wheels.
ROS := $(if $(and $(ROS_DISTRO),$(AMENT_PREFIX_PATH)),$(ROS_DISTRO),wheels)
STATE := $(VENV)/.setup
PY := $(abspath $(VENV))/bin/python
PIP = $(PY) -m pip install --disable-pip-version-check $(EXTRA)
MESSAGES := ros_ws/src/jepa_arm_msgs
MESSAGE_FILES := $(shell find $(MESSAGES) -type f) ros_ws/cmake/ros_wheels_fix.cmake

ifeq ($(ROS),wheels)
  VENV_FLAGS :=
  EXTRAS := test,docs,ros,ros-build
  MESSAGES_ENV = export PATH="$(abspath $(VENV))/bin:$$PATH" AMENT_PREFIX_PATH=$(abspath $(VENV)) \
    CMAKE_PREFIX_PATH=$(abspath $(VENV)) LD_LIBRARY_PATH=$(abspath $(VENV))/lib
  MESSAGES_FLAGS := -G Ninja -DCMAKE_PROJECT_INCLUDE=$(CURDIR)/ros_ws/cmake/ros_wheels_fix.cmake
else
  VENV_FLAGS := --system-site-packages
  EXTRAS := test,docs
  MESSAGES_ENV := true
  MESSAGES_FLAGS :=
endif

.PHONY: help setup demo model test test-all test-fast lint typecheck docs results faults bench clean same-ros

help: ## Show this list
	@echo 'make TARGET [PYTHON=python3.12] [VENV=.venv] [TORCH_INDEX=URL] [EXTRA="pip arguments"]'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' Makefile | expand -t 14

setup: $(STATE)/messages ## Make the environment in .venv; done steps are skipped
	@$(if $(filter setup,$(MAKECMDGOALS)),echo 'Ready in $(VENV). Next: make demo',:)

demo: setup ## Watch the virtual arm reach its goals over ROS 2
	@$(VENV)/bin/jepa-arm demo $(ARGS)

model: setup ## Collect data and train the world model that is shipped (45 minutes on two cores)
	@$(VENV)/bin/jepa-arm train --install $(ARGS)

test: lint typecheck docs ## Check style, types, imports and docs, run the tests (8 minutes)
	@OMP_NUM_THREADS=1 $(PY) -m pytest test/fast test/sim $(PARALLEL) -m 'not extended' $(ARGS)
	@$(PY) -m pytest test/ros $(PARALLEL_ROS) -m 'not extended' $(ARGS)

test-all: lint typecheck docs ## Run every test, also of tools, examples, builds and soaks
	@OMP_NUM_THREADS=1 $(PY) -m pytest test/fast test/sim $(PARALLEL) $(ARGS)
	@$(PY) -m pytest test/ros $(PARALLEL_ROS) $(ARGS)

test-fast: setup ## Run the tests that need no ROS 2 (a minute)
	@$(PY) -m pytest test/fast -m 'not extended' $(ARGS)

lint: setup
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(VENV)/bin/lint-imports --no-logo

typecheck: setup
	@$(PY) -m pyright --pythonpath $(PY)

docs: setup ## Build the documentation site in build/site
	@$(PY) docs/generate.py --check
	@$(PY) -m mkdocs build --quiet

results: setup ## Measure every published number again (hours, nothing beside it)
	@PATH="$(abspath $(VENV))/bin:$$PATH" docs/measure.sh
	@$(PY) docs/generate.py

faults: setup ## Try every fault on the live graph (up to 10 minutes)
	@mkdir -p out
	@$(VENV)/bin/jepa-arm faults --json out/faults.json $(ARGS)

bench: setup ## Measure planning, and camera to command through ROS 2
	@$(VENV)/bin/jepa-arm bench plan $(ARGS)
	@$(VENV)/bin/jepa-arm bench ros $(ARGS)

clean: ## Remove .venv, build outputs and caches; data and runs stay
	@if [ -d $(STATE) ]; then rm -rf $(VENV); fi
	@rm -rf build dist ros_ws/build ros_ws/install ros_ws/log src/*.egg-info
	@rm -rf .pytest_cache .ruff_cache .hypothesis
	@find src test launch -name __pycache__ -type d -prune -exec rm -rf {} +

# Set-up steps. Each leaves a stamp and a log in $(STATE) and runs again when its inputs change.

# step LABEL COMMAND...: runs a command into the log of this target, shows one line with the
# seconds it took, and the end of the log if it failed.
define STEP
step() {
  local label=$$1 log=$$STAMP.log start=$$SECONDS job
  shift
  set -m  # the job and its children can be ended together
  "$$@" >"$$log" 2>&1 & job=$$!
  trap 'kill -- -$$job; exit 130' INT TERM
  if [ -t 1 ]; then
    while kill -0 $$job 2>/dev/null; do
      printf '\r%-58s %4d s' "$$label" $$((SECONDS - start)); sleep 1
    done
    printf '\r'
  else
    printf '%s ...\n' "$$label"
  fi
  if wait $$job; then
    printf '%-58s %4d s\n' "$$label" $$((SECONDS - start))
  else
    printf '%-58s failed after %d s\n\n' "$$label" $$((SECONDS - start))
    tail -n 40 "$$log"
    printf '\nThe whole log: %s\n' "$$log"
    return 1
  fi
}
endef
export STEP

define CHECK_PYTHON
import importlib.util, os, platform, shutil, sys, sysconfig
version = '%d.%d' % sys.version_info[:2]
ros = sys.argv[1]
if not (3, 10) <= sys.version_info[:2] <= (3, 14):
    sys.exit('expected Python 3.10 to 3.14, got %s (%s); try: make setup PYTHON=/usr/bin/python3'
             % (version, sys.executable))
if ros == 'wheels':
    if (sys.platform, platform.machine()) != ('linux', 'x86_64'):
        sys.exit('ROS 2 wheels exist for Linux on x86_64 only, this is %s on %s; '
                 'source a ROS 2 installation and run make again'
                 % (sys.platform, platform.machine()))
elif importlib.util.find_spec('rclpy') is None:
    sys.exit('ROS 2 %s is sourced, but %s has no rclpy; give its Python (make setup '
             'PYTHON=/usr/bin/python3), or use a shell where ROS 2 is not sourced'
             % (ros, sys.executable))
missing = []
if importlib.util.find_spec('ensurepip') is None:
    missing.append('python%s-venv' % version)
if shutil.which('g++') is None:
    missing.append('build-essential')
if not os.path.exists(os.path.join(sysconfig.get_path('include'), 'Python.h')):
    missing.append('python%s-dev' % version)
if ros != 'wheels' and shutil.which('cmake') is None:
    missing.append('cmake')
if missing:
    sys.exit('missing: %s; install with: sudo apt install %s'
             % (', '.join(missing), ' '.join(missing)))
if sys.version_info[:2] == (3, 14):
    print('Python 3.14: PyBullet has no wheel for it, so the virtual arm is left out')
endef
export CHECK_PYTHON

# Without libGL.so.1 opencv-python cannot be imported; its twin without windows needs nothing.
define CHECK_OPENCV
if ! error=$$($$PY -c 'import cv2' 2>&1); then
  printf '%s\n' "$$error" >>"$$STAMP.log"
  echo 'opencv-python cannot be loaded here, so opencv-python-headless takes its place:'
  echo "  $${error##*$$'\n'}"
  echo '  live windows need: sudo apt install libgl1 libglib2.0-0t64; then: make clean setup'
  version=$$($$PY -c 'import importlib.metadata as m; print(m.version("opencv-python"))')
  $$PY -m pip uninstall -y opencv-python opencv-python-headless >>"$$STAMP.log" 2>&1
  $$PY -m pip install --disable-pip-version-check "opencv-python-headless==$$version" \
    >>"$$STAMP.log" 2>&1 || { tail -n 20 "$$STAMP.log"; exit 1; }
fi
endef
export CHECK_OPENCV
export PY
$(STATE)/%: export STAMP = $@

$(STATE)/python:
	@command -v $(PYTHON) >/dev/null || { echo '$(PYTHON): not found;' \
	  'install it with: sudo apt install python3 python3-venv python3-dev' >&2; exit 1; }
	@$(PYTHON) -c "$$CHECK_PYTHON" $(ROS)
	@mkdir -p $(STATE)
	@eval "$$STEP"; step "Environment in $(VENV) ($$($(PYTHON) -V))" \
	  $(PYTHON) -m venv $(VENV_FLAGS) $(VENV)
	@echo $(ROS) >$@

same-ros: $(STATE)/python
	@[ "$$(cat $<)" = '$(ROS)' ] || { echo "$(VENV) was made for ROS 2 from $$(cat $<)," \
	  'this shell has $(ROS): use a shell like then, or make clean, or another VENV=' >&2; \
	  exit 1; }

$(STATE)/torch: $(STATE)/python | same-ros
	@if [ -z '$(TORCH_INDEX)' ] && ! command -v nvidia-smi >/dev/null; then \
	  echo 'No NVIDIA GPU seen: if torch brings CUDA (3 GB), stop and save it with'; \
	  echo '  make $(or $(MAKECMDGOALS),setup) TORCH_INDEX=ADDRESS   (of the CPU builds, see the PyTorch installation page)'; \
	fi
	@eval "$$STEP"; step 'PyTorch' $(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) \
	  "$$($(PYTHON) -c 'import re; print(re.search("torch>=[^\x27]+", open("setup.py").read())[0])')"
	@touch $@

$(STATE)/packages: setup.py setup.cfg pyproject.toml $(STATE)/torch
	@eval "$$STEP"; step 'Simulator, kinematics, ROS 2, tools and jepa_arm itself' \
	  $(PIP) -e '.[$(EXTRAS)]'
	@eval "$$CHECK_OPENCV"
	@touch $@

$(STATE)/messages: $(MESSAGE_FILES) $(STATE)/packages
	@eval "$$STEP"; build() { set -e; $(MESSAGES_ENV); \
	    cmake -S $(MESSAGES) -B $(STATE)/build -DCMAKE_BUILD_TYPE=MinSizeRel \
	      -DBUILD_TESTING=OFF -DPython3_EXECUTABLE=$(PY) \
	      -DCMAKE_INSTALL_PREFIX=$(abspath $(VENV)) \
	      '-DCMAKE_INSTALL_RPATH=$$ORIGIN;$$ORIGIN/../../..' $(MESSAGES_FLAGS); \
	    cmake --build $(STATE)/build -j2; cmake --install $(STATE)/build; \
	    $(PY) -c 'from jepa_arm.ros.runtime.environment import prepare_ros; prepare_ros()'; }; \
	  step 'Messages' build
	@touch $@
