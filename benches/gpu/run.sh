#!/usr/bin/env bash
# Measures Lacuna on a GPU machine that has neither Rust nor a network: pack here, measure there.
#
#   benches/gpu/run.sh pack DIR            builds with CUDA and puts the stripped, packed program and this script into DIR, under 60 MiB
#   DIR/run.sh measure OUT [DEVICE]        selftest, kernel bench, then engine benches of random weights beside PyTorch; JSON files in OUT, within ten minutes
#
# `pack` needs what `--features cuda` needs (docs/gpu.md); CUDA_COMPUTE_CAP is the card's capability, 90 unless said.
# `measure` takes a path to CUDA's libraries in LD_LIBRARY_PATH, finds those of PyTorch's wheels by itself, and goes on where a
# measurement fails: a failure is a result too, and its message is kept. DEVICE is cuda:0 unless said; `cpu` tries the script.
set -euo pipefail

LIMIT_BYTES=$((60 << 20))
# Shapes, largest last: what time does not allow is left out.
SHAPES=${SHAPES-"qwen2.5-coder-0.5b qwen2.5-coder-1.5b qwen2.5-coder-7b qwen2.5-coder-14b qwen2.5-coder-32b"}
SECONDS_MAX=${SECONDS_MAX:-570}

pack() {
  local dir=$1 root target
  root=$(cd "$(dirname "$0")/../.." && pwd)
  target=${CARGO_TARGET_DIR:-$root/target}
  (cd "$root" && CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-90} cargo build --release --locked --features cuda)
  mkdir -p "$dir"
  strip -o "$dir/lacuna" "$target/release/lacuna"
  # The grammars are large tables that shrink to a fourth.
  gzip -9 -f "$dir/lacuna"
  cp "$0" "$dir/run.sh"
  cp "$root/benches/gpu/peer_torch.py" "$dir/peer_torch.py"
  local size
  size=$(du -sb "$dir" | cut -f1)
  echo "$dir: $size bytes"
  [ "$size" -le "$LIMIT_BYTES" ] || { echo "more than $LIMIT_BYTES bytes: it cannot be carried"; return 1; }
}

# The libraries that PyTorch brings, where the system has none of its own.
find_libraries() {
  local found
  found=$(python3 -c 'import nvidia, os; print(":".join(sorted({r for p in nvidia.__path__ for r, _, f in os.walk(p) if any(n.startswith("lib") and ".so" in n for n in f)})))' 2>/dev/null || true)
  export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$found
}

# Runs a command within the time that is left, its messages beside its JSON.
attempt() {
  local name=$1 left=$((SECONDS_MAX - SECONDS))
  shift
  if [ "$left" -lt 20 ]; then
    echo "$name: left out, no time"
    return
  fi
  local code=0
  timeout "$left" "$@" >"$out/$name.log" 2>&1 || code=$?
  echo "$name: exit $code after ${SECONDS} s"
}

measure() {
  out=$1
  local device=${2:-cuda:0} here
  here=$(cd "$(dirname "$0")" && pwd)
  mkdir -p "$out"
  lacuna=$(mktemp -d)/lacuna
  trap 'rm -rf "$(dirname "$lacuna")"' EXIT
  gunzip -c "$here/lacuna.gz" >"$lacuna"
  chmod +x "$lacuna"
  find_libraries
  nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv >"$out/device.csv" 2>&1 || true
  attempt start "$lacuna" --version
  attempt selftest "$lacuna" selftest --device "$device" --json "$out/selftest.json"
  attempt selftest-eager "$lacuna" selftest --device "$device" --no-graphs --json "$out/selftest-eager.json"
  attempt kernels "$lacuna" bench kernels --device "$device" --format json --output "$out/kernels.json"
  attempt kernels-int8 "$lacuna" bench kernels --device "$device" --quantize int8 --format json --output "$out/kernels-int8.json"
  local shape
  for shape in $SHAPES; do
    attempt "engine-$shape" "$lacuna" bench engine --device "$device" --random-weights "$shape" \
      --prompt-tokens 512 --gen-tokens 64 --batch 1,8,64 --max-num-batched-tokens 2048 \
      --format json --output "$out/engine-$shape.json"
  done
  # Last: compiling takes the peer longer than measuring.
  for shape in $SHAPES; do
    attempt "torch-$shape" python3 "$here/peer_torch.py" --device "${device%%:*}" --shape "$shape" \
      --prompt-tokens 512 --gen-tokens 64 --batch 1,8,64 --output "$out/torch-$shape.json"
  done
  attempt engine-demo-cpu "$lacuna" bench engine --device cpu --format json --output "$out/engine-demo-cpu.json"
}

case ${1:-} in
  pack) pack "${2:?a folder to pack into}" ;;
  measure) measure "${2:?a folder for the results}" "${3:-}" ;;
  *) sed -n '2,12s/^# \{0,1\}//p' "$0"; exit 64 ;;
esac
