#!/usr/bin/env bash
# Builds the peer: llama.cpp's server, bench and quantizer, for this machine, from the source package of llama-cpp-python on PyPI,
# which carries llama.cpp whole. Nothing of it enters the repository. About ten minutes on two cores.
#
#   build_llama_cpp.sh CACHE_FOLDER
#
# Afterwards CACHE_FOLDER/bin has llama-server, llama-bench and llama-quantize, and CACHE_FOLDER/vocab the vocabulary-only GGUF files.
# Further options go to cmake: CMAKE_OPTIONS="-DGGML_CUDA=ON" build_llama_cpp.sh ...
set -euo pipefail

# The version that docs/performance.md was measured with; another one is another peer.
version=0.3.36
targets=(llama-server llama-bench llama-quantize)

if [[ $# -ne 1 || $1 == -* ]]; then
    sed -n '2,8s/^# \{0,1\}//p' "$0"
    exit 2
fi
mkdir -p "$1"
cache=$(cd "$1" && pwd)
package=$cache/llama_cpp_python-$version
source=$package/vendor/llama.cpp

python3 -m venv "$cache/venv"
export PATH=$cache/venv/bin:$PATH
pip install --quiet cmake ninja scikit-build-core

if [[ ! -d $source ]]; then
    pip download --quiet --no-deps --no-build-isolation --no-binary :all: --dest "$cache" "llama-cpp-python==$version"
    tar -xzf "$package.tar.gz" -C "$cache"
fi

# Release alone would build for any x86-64; GGML_NATIVE uses what this processor has, which is what the peer deserves.
# shellcheck disable=SC2086 # the options are meant to be split
cmake -S "$source" -B "$cache/build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DBUILD_SHARED_LIBS=OFF \
    -DLLAMA_BUILD_COMMIT="llama-cpp-python-$version" \
    -DLLAMA_CURL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF ${CMAKE_OPTIONS:-}
cmake --build "$cache/build" --target "${targets[@]}"

ln -sfn "$cache/build/bin" "$cache/bin"
ln -sfn "$source/models" "$cache/vocab"
"$cache/bin/llama-server" --version
