#!/usr/bin/env bash
# Measures Lacuna on a GPU machine that has neither Rust nor a network: pack here, measure there.
#
#   benches/gpu/run.sh pack DIR                    builds with CUDA; puts the stripped, packed program and the scripts into DIR
#   DIR/run.sh measure OUT [DEVICE] [ACT…]         DEVICE is cuda:0 unless said, ACT is prove; `cpu` tries the script
#
#   prove      libraries, ceilings, selftest with and without graphs, operators (bf16, int8), engine at 0.5B and 7B, the demo model
#   engine     the other shapes, int8 of 7B, then a served 7B over HTTP: start-up, load, keystrokes
#   peers      the same shapes in PyTorch, compiled, with a static cache
#   sanitize   compute-sanitizer over the selftest's operators, ncu over the operator that is furthest from its ceiling
#
# `pack` needs what `--features cuda` needs (docs/gpu.md); CUDA_COMPUTE_CAP is the card's capability, 90 unless said.
# `measure` takes a path to CUDA's libraries in LD_LIBRARY_PATH, and finds those of PyTorch's wheels by itself. All acts of one call share
# SECONDS_MAX. It goes on where a measurement fails: a failure is a result too, and its message is kept. OUT gets two files, which are written
# anew after each measurement: results.tar.gz with every JSON and log, and summary.txt, which is also what is printed last.
set -euo pipefail

# With the repository itself it must be carried in 64 MiB.
LIMIT_BYTES=$((36 << 20))
SECONDS_MAX=${SECONDS_MAX:-570}
# The shape that operators, int8 and HTTP are measured on, and those of each act, in the order of their worth: what time does not allow is left out.
MAIN=${MAIN:-qwen2.5-coder-7b}
HTTP_SHAPE=${HTTP_SHAPE:-$MAIN}
SHAPES_PROVE=${SHAPES-"qwen2.5-coder-7b qwen2.5-coder-0.5b"}
SHAPES_ENGINE=${SHAPES-"qwen2.5-coder-1.5b qwen2.5-coder-14b qwen2.5-coder-32b codestral-22b"}
SHAPES_PEERS=${SHAPES-"qwen2.5-coder-7b qwen2.5-coder-0.5b qwen2.5-coder-1.5b qwen2.5-coder-14b codestral-22b qwen2.5-coder-32b"}
# Sizes; smaller ones try the script on a CPU.
PROMPT_TOKENS=${PROMPT_TOKENS:-512}
GEN_TOKENS=${GEN_TOKENS:-64}
BATCH=${BATCH:-1,8,64}
# The last one is what a keystroke's first token is measured behind.
PREFILL=${PREFILL:-512,2048,4096}
read -ra CEILINGS <<<"${CEILINGS:-"--mib 4096 --side 8192"}"
read -ra KERNELS <<<"${KERNELS:-"--rotate-mib 512"}"
read -ra SELFTEST <<<"${SELFTEST:-}"
read -ra PEER <<<"${PEER:-}"
CLIENTS=${CLIENTS:-"1 8 64"}
HTTP_PROMPT_TOKENS=${HTTP_PROMPT_TOKENS:-1024}

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
  cp "$root"/benches/gpu/*.py "$root/models/demo/tokenizer.json" "$dir/"
  # What is typed through, a key a request.
  cp "$root/src/bench/keystrokes.rs" "$dir/typed.rs"
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

say() {
  echo "$*" | tee -a "$results/steps.txt"
}

# Whoever ends this script before its time leaves what was measured until then.
bundle() {
  python3 "$here/summary.py" report "$results" >"$results/summary.txt" 2>&1 || true
  cp "$results/summary.txt" "$out/summary.txt"
  tar -C "$scratch" -czf "$scratch/results.tar.gz" results
  mv "$scratch/results.tar.gz" "$out/results.tar.gz"
}

# attempt NAME SECONDS COMMAND…: runs it within so many seconds, or those that are left; its messages go beside its JSON.
attempt() {
  local name=$1 most=$2 left=$((SECONDS_MAX - SECONDS)) code=0 began=$SECONDS
  shift 2
  [ "$left" -ge "$most" ] || most=$left
  if [ "$most" -lt 8 ]; then
    say "$name: left out, no time"
    return
  fi
  timeout -k 5 "$most" "$@" >"$results/$name.log" 2>&1 &
  running=$!
  wait "$running" || code=$?
  running=
  say "$name: exit $code after $((SECONDS - began)) s of at most $most"
  bundle
}

machine() {
  python3 "$here/summary.py" machine "$scratch" >"$results/$1.json" || true
}

ceilings() {
  attempt ceilings 90 python3 "$here/ceilings.py" --device "${device%%:*}" "${CEILINGS[@]}" --output "$results/ceilings.json"
}

# engine NAME SHAPE SECONDS OPTION…
engine() {
  local name=$1 shape=$2 most=$3
  shift 3
  attempt "engine-$name" "$most" "$lacuna" bench engine --device "$device" --random-weights "$shape" \
    --prompt-tokens "$PROMPT_TOKENS" --gen-tokens "$GEN_TOKENS" --batch "$(batch_of "$shape")" --prefill "$PREFILL" \
    --max-num-batched-tokens 2048 --format json --output "$results/engine-$name.json" "$@"
}

# 64 sequences of the largest shape have no room beside its weights on a card of 80 GB.
batch_of() {
  local mib
  mib=$(nvidia-smi --query-gpu=memory.total --format=csv,noheader,nounits 2>/dev/null | head -n 1 || true)
  if [[ $1 == *-32b && $mib =~ ^[0-9]+$ && $mib -lt 100000 && $BATCH == 1,8,64 ]]; then echo 1,8,32; else echo "$BATCH"; fi
}

prove() {
  attempt libraries 20 ldd "$lacuna"
  attempt start 20 "$lacuna" --version
  ceilings
  attempt selftest 150 "$lacuna" selftest --device "$device" "${SELFTEST[@]}" --json "$results/selftest.json"
  attempt kernels 90 "$lacuna" bench kernels --device "$device" --shape "$MAIN" "${KERNELS[@]}" --format json --output "$results/kernels.json"
  local shape
  for shape in $SHAPES_PROVE; do
    engine "$shape" "$shape" 100
  done
  attempt engine-embedded 40 "$lacuna" bench engine --device "$device" --model demo --prompt-tokens "$PROMPT_TOKENS" --gen-tokens "$GEN_TOKENS" \
    --batch "$BATCH" --format json --output "$results/engine-embedded.json"
  attempt selftest-eager 150 "$lacuna" selftest --device "$device" "${SELFTEST[@]}" --no-graphs --json "$results/selftest-eager.json"
  attempt kernels-int8 90 "$lacuna" bench kernels --device "$device" --shape "$MAIN" --quantize int8 "${KERNELS[@]}" \
    --format json --output "$results/kernels-int8.json"
}

engines() {
  ceilings
  engine "$MAIN-int8" "$MAIN" 130 --quantize int8
  http
  local shape
  for shape in $SHAPES_ENGINE; do
    engine "$shape" "$shape" 150
  done
}

# A folder in memory where there is room, for the disk may be slow.
model_folder() {
  local free
  free=$(df -k --output=avail /dev/shm 2>/dev/null | tail -n 1 || true)
  if [ "${free:-0}" -gt $((24 << 20)) ]; then mktemp -d /dev/shm/lacuna-model.XXXXXX; else mktemp -d "$scratch/model.XXXXXX"; fi
}

# Serves a model of random weights and asks it, all on this machine.
http() {
  local clients began url=
  model=$(model_folder)
  attempt model 150 python3 "$here/random_model.py" --shape "$HTTP_SHAPE" --tokenizer "$here/tokenizer.json" --device "${device%%:*}" "$model"
  if [ ! -s "$model/model.safetensors.index.json" ]; then
    say "serve: left out, no model"
    return
  fi
  began=$(date +%s%N)
  "$lacuna" serve --model "$model" --served-model-name "$HTTP_SHAPE" --device "$device" --port 0 --metrics-address 127.0.0.1:0 \
    --max-num-seqs 64 >"$results/serve.out" 2>"$results/serve.log" &
  server=$!
  while [ -z "$url" ] && kill -0 "$server" 2>/dev/null && [ $(($(date +%s%N) - began)) -lt 120000000000 ] && [ "$SECONDS" -lt "$SECONDS_MAX" ]; do
    sleep 0.1
    url=$(grep -oE 'on http://[^ ]+' "$results/serve.out" | head -n 1 | cut -d' ' -f2 || true)
  done
  if [ -n "$url" ]; then
    local seconds
    seconds=$(python3 -c "print(($(date +%s%N) - $began) / 1e9)")
    say "serve: ready after $seconds s"
    machine machine-serving
    echo "{\"shape\": \"$HTTP_SHAPE\", \"device\": \"$device\", \"ready_seconds\": $seconds}" >"$results/serve-start.json"
    for clients in $CLIENTS; do
      attempt "serve-$clients" 60 "$lacuna" bench serve --url "$url" --clients "$clients" --requests $((clients * 2 + 24)) --distinct --seed "$clients" \
        --ignore-eos --prompt-tokens "$HTTP_PROMPT_TOKENS" --max-tokens 64 --format json --output "$results/serve-$clients.json"
    done
    attempt keystrokes 60 "$lacuna" bench keystrokes --url "$url" "$here/typed.rs" --format json --output "$results/keystrokes.json"
  else
    say "serve: not ready"
  fi
  stop_server
  rm -rf "$model"
  model=
  bundle
}

stop_server() {
  local code=0 waited=0
  [ -n "$server" ] || return 0
  kill -TERM "$server" 2>/dev/null || true
  while kill -0 "$server" 2>/dev/null && [ "$waited" -lt 100 ]; do
    sleep 0.1
    waited=$((waited + 1))
  done
  kill -KILL "$server" 2>/dev/null || true
  wait "$server" || code=$?
  server=
  say "serve: ended with $code"
}

peers() {
  ceilings
  local shape
  for shape in $SHAPES_PEERS; do
    attempt "torch-$shape" 220 python3 "$here/peer_torch.py" --device "${device%%:*}" --shape "$shape" --prompt-tokens "$PROMPT_TOKENS" \
      --gen-tokens "$GEN_TOKENS" --batch "$BATCH" --prefill "$PREFILL" "${PEER[@]}" --output "$results/torch-$shape.json"
  done
}

sanitize() {
  local operators=("$lacuna" selftest --device "$device" --grid quick --prompts 0) tool worst title kernel
  for tool in memcheck racecheck; do
    attempt "$tool" 190 compute-sanitizer --tool "$tool" --print-limit 50 --error-exitcode 9 "${operators[@]}"
  done
  attempt kernels-worst 60 "$lacuna" bench kernels --device "$device" --shape "$MAIN" "${KERNELS[@]}" --repeat 3 --format json \
    --output "$results/kernels-worst.json"
  worst=$(python3 "$here/summary.py" worst "$results/kernels-worst.json" || true)
  if [ -n "$worst" ]; then
    IFS=$'\t' read -r title kernel <<<"$worst"
    say "worst: $title ($kernel)"
    attempt ncu 100 ncu --clock-control none --set full --kernel-name "regex:$kernel" --launch-count 3 --csv --log-file "$results/ncu.csv" \
      "$lacuna" bench kernels --device "$device" --shape "$MAIN" "${KERNELS[@]}" --only "$title" --repeat 1 --min-ms 1
  fi
  attempt synccheck 100 compute-sanitizer --tool synccheck --print-limit 50 --error-exitcode 9 "${operators[@]}"
}

# Ends what was started, and takes away what was unpacked.
finish() {
  [ -z "$running" ] || kill -TERM "$running" 2>/dev/null || true
  stop_server
  [ -z "$model" ] || rm -rf "$model"
  bundle
  rm -rf "$scratch"
  echo
  cat "$out/summary.txt"
}

measure() {
  out=$1
  shift
  device=cuda:0
  case ${1:-prove} in
    prove | engine | peers | sanitize) ;;
    *) device=$1 && shift ;;
  esac
  [ $# -gt 0 ] || set -- prove
  local act
  for act in "$@"; do
    case $act in
      prove | engine | peers | sanitize) ;;
      *) echo "an act must be prove, engine, peers or sanitize, got $act" >&2 && exit 64 ;;
    esac
  done
  here=$(cd "$(dirname "$0")" && pwd)
  scratch=$(mktemp -d)
  results=$scratch/results lacuna=$scratch/lacuna server='' model='' running=''
  mkdir -p "$out" "$results"
  out=$(cd "$out" && pwd)
  trap finish EXIT
  gunzip -c "$here/lacuna.gz" >"$lacuna"
  chmod +x "$lacuna"
  find_libraries
  say "measure $device $*"
  machine machine
  for act in "$@"; do
    case $act in
      engine) engines ;;
      *) "$act" ;;
    esac
  done
  machine machine-after
}

case ${1:-} in
  pack) pack "${2:?a folder to pack into}" ;;
  measure) shift && measure "${1:?a folder for the results}" "${@:2}" ;;
  *) sed -n '2,17s/^# \{0,1\}//p' "$0"; exit 64 ;;
esac
