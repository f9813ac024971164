# The front door of Mote: make demo, make test. CMakeLists.txt holds the build itself.
#   make            build/mote                make bench      speed against this machine's ceilings
#   make demo       train, sample, report     make asan       the tests under address and undefined-behaviour checks
#   make test       all tests                 make gpu-check  the tests and benchmarks that need a GPU
#   make deps       install missing packages  make install    to PREFIX (default /usr/local)
# Options: JOBS=n  BUILD=folder  MOTE_MARCH=native|x86-64-v3|...  CUDA=auto|on|off  PREFIX=folder
BUILD      ?= build
JOBS       ?= $(shell nproc)
MOTE_MARCH ?= native
CUDA       ?= auto
PREFIX     ?= /usr/local
CMAKE_ARGS  = -DMOTE_MARCH=$(MOTE_MARCH) -DCUDA=$(CUDA) -DCMAKE_INSTALL_PREFIX=$(PREFIX)

PACKAGES = g++ cmake catch2 libcli11-dev nlohmann-json3-dev libstb-dev zlib1g-dev dataset-fashion-mnist

DEMO_RUN   ?= runs/demo
DEMO_STEPS ?= 1000

.PHONY: build deps demo test bench asan gpu-check install clean
build: deps
	@cmake -S . -B $(BUILD) $(CMAKE_ARGS)
	@cmake --build $(BUILD) --target mote -j $(JOBS)

# Says what it is about to install before it does; does nothing when nothing is missing.
deps:
	@sh apps/install_packages.sh $(PACKAGES)

demo: build
	@$(BUILD)/mote train --data fashion-mnist --unet fmnist --schedule cosine --steps $(DEMO_STEPS) --batch 32 --lr 1e-3 \
	  --warmup 50 --lr-schedule cosine --dropout 0 --ema 0.995 --seed 1 --sample-every 500 --out $(DEMO_RUN) --overwrite
	@$(BUILD)/mote sample --run $(DEMO_RUN) --sampler ddim --steps 50 --count 64 --seed 1 --out $(DEMO_RUN)/grid.png
	@$(BUILD)/mote report --run $(DEMO_RUN)
	@echo "pictures: $(DEMO_RUN)/grid.png   report: $(DEMO_RUN)/report.html"

test: deps
	@cmake -S . -B $(BUILD) $(CMAKE_ARGS)
	@cmake --build $(BUILD) -j $(JOBS)
	@GOMP_SPINCOUNT=10000 $(BUILD)/mote_tests --order lex

bench: build
	@$(BUILD)/mote bench all

# For AVX2: the tiles of AVX-512 take GCC many minutes with the checks compiled in, and the other path is tested too.
asan: deps
	@cmake -S . -B $(BUILD)-asan $(CMAKE_ARGS) -DMOTE_MARCH=x86-64-v3 -DSANITIZE=address,undefined -DCMAKE_BUILD_TYPE=Debug -DCUDA=off
	@cmake --build $(BUILD)-asan -j $(JOBS)
	@ASAN_OPTIONS=allocator_may_return_null=1 GOMP_SPINCOUNT=10000 $(BUILD)-asan/mote_tests --order lex

# Eight minutes in all: what the build has taken is not left to the checks.
gpu-check: deps
	@begun=$$(date +%s); cmake -S . -B $(BUILD) $(CMAKE_ARGS) && \
	  cmake --build $(BUILD) -j $(JOBS) --target mote mote_tests && \
	  bash tests/gpu_check.sh $(BUILD) $$((470 - $$(date +%s) + begun))

install: build
	@cmake --install $(BUILD)

clean:
	@rm -rf $(BUILD) $(BUILD)-asan
