#!/usr/bin/env bash
# Compiles every CUDA kernel with nvcc for each target, warnings as errors, and refuses spilled registers.
#
#   kernels/build/check_nvcc.sh [DIR]
#
# Takes nvcc from NVCC, CUDA_HOME or PATH; else installs NVIDIA's compiler packages from the Python index into DIR, about
# 200 MB. Without either it says that it is skipped, and succeeds: the emulated device has run the same sources by then.
set -euo pipefail
cd "$(dirname "$0")/.."

nvcc=${NVCC:-${CUDA_HOME:+$CUDA_HOME/bin/nvcc}}
nvcc=${nvcc:-$(command -v nvcc || true)}
if [ ! -x "$nvcc" ] && [ $# -gt 0 ]; then
  nvcc=$1/nvidia/cu13/bin/nvcc
  if [ ! -x "$nvcc" ]; then
    python3 -m pip install --quiet --disable-pip-version-check --no-deps --target "$1" \
      nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-runtime==13.0.96 || true
    chmod -R u+rx "$1/nvidia/cu13/bin" "$1/nvidia/cu13/nvvm/bin" 2>/dev/null || true
  fi
fi
if [ ! -x "$nvcc" ]; then
  echo "skipped: there is no nvcc, and it could not be installed"
  exit 0
fi

out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
compile() {
  local file=$1 arch=$2 log=$out/$(basename "$1").$2.log
  "$nvcc" -std=c++17 -O3 -Werror all-warnings -Xptxas -v -gencode "arch=compute_$arch,code=sm_$arch" -cubin "$file" \
    -o "$log.cubin" >"$log" 2>&1 || { cat "$log"; return 1; }
  if grep -qE '[1-9][0-9]* bytes spill' "$log"; then
    echo "$file spills registers on sm_$arch:"
    grep -B1 -E '[1-9][0-9]* bytes spill' "$log"
    return 1
  fi
}
export -f compile
export nvcc out
num=0
for arch in 80 89 90a; do
  for file in cuda/*.cu; do
    printf '%s\0%s\0' "$file" "$arch"
    num=$((num + 1))
  done
done >"$out/jobs"
xargs -0 -n 2 -P 2 bash -c 'compile "$0" "$1"' <"$out/jobs"
echo "$num compilations without a warning or a spilled register"
