# Names for the CMake presets. Binaries are in build/release/bin; everything made is under build/.

PROMPT ?= What is the capital of France?
MODEL ?= $(firstword $(wildcard models/*.gguf))

.PHONY: all demo test test-deep asan tsan fuzz arm64 cuda format lint clean

all:
	@scripts/install_packages.sh build
	@cmake --preset release >/dev/null
	@cmake --build build/release --target programs

demo: all
ifeq ($(MODEL),)
	@echo "There is no model in models/. Run one that you have with:" >&2
	@echo "  build/release/bin/ds4 -m /path/to/DeepSeek-V4.gguf -p '$(PROMPT)'" >&2
else
	build/release/bin/ds4 -m $(MODEL) -p '$(PROMPT)'
endif

# What every change must pass.
test:
	@scripts/install_packages.sh build test
	@scripts/install_packages.sh arm64 || true
	@scripts/test.sh release parsers arm64 cuda

# What takes long: all tests under the sanitizers, fuzzing (FUZZ_SECONDS a target), the tests labelled deep.
test-deep:
	@scripts/install_packages.sh build test deep
	@scripts/install_packages.sh arm64 || true
	@scripts/test.sh release deep asan tsan fuzz arm64_all

asan tsan fuzz:
	@scripts/install_packages.sh build test deep
	@scripts/test.sh $@

arm64:
	@scripts/install_packages.sh build test arm64
	@scripts/test.sh $@

cuda:
	@scripts/install_packages.sh build
	@cmake --preset cuda >/dev/null
	@cmake --build build/cuda --target programs

format:
	@scripts/install_packages.sh deep
	@git ls-files '*.h' '*.cpp' '*.cu' '*.cuh' | xargs clang-format-19 -i

lint:
	@scripts/install_packages.sh build test deep
	@scripts/lint.sh

clean:
	rm -rf build
