#!/usr/bin/env bash
# Measures Lacuna on a GPU machine that has neither Rust nor a network: pack here, measure there.
#
#   benches/gpu/run.sh pack DIR                    builds with CUDA; puts the stripped, packed program and the scripts into DIR
#   DIR/run.sh measure OUT [DEVICE] [ACT…]         DEVICE is cuda:0 unless said, ACT is prove; `cpu` tries the script
#                                                  another GPU than the first: CUDA_VISIBLE_DEVICES=1 DIR/run.sh measure OUT
#
#   prove      libraries, ceilings, selftest with and without graphs, operators (bf16, int8), engine at 0.5B and 7B, the demo model
#   engine     the other shapes, int8 of 7B, then a served 7B over HTTP: start-up, load, keystrokes
#   peers      the same shapes in PyTorch: decode compiled, prefill eager
#   sanitize   compute-sanitizer over the selftest's operators, ncu over the operators that lose the most time
#
# `pack` needs what `--features cuda` needs (docs/gpu.md); CUDA_COMPUTE_CAP is the card's capability, 90 unless said.
# `measure` takes a path to CUDA's libraries in LD_LIBRARY_PATH, and finds those of PyTorch's wheels by itself. All acts of one call share
# SECONDS_MAX. It goes on where a measurement fails: a failure is a result too, and its message is kept. OUT gets two files, which are written
# anew after each measurement: results.tar.gz with every JSON and log, and summary.txt, which is also what is printed last.
set -euo pipefail

# A machine that is lent may take 64 MiB in one transfer, and the repository may be part of it: the packed folder has what that leaves.
LIMIT_BYTES=${LIMIT_BYTES:-$((36 << 20))}
# A call on such a machine may be ended after 600 s: what is left of them stops what still runs, and packs and sends the results.
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
# Launches of a kernel that ncu passes over. `bench kernels` calls a case six times at least: twice to take memory, twice or more to see how many calls
# take --min-ms, and as many again for the one measurement. So 3 is past what only warms up, and three more launches are there to be profiled.
NCU_SKIP=${NCU_SKIP:-3}

pack() {
  local dir=$1 root target commit
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
  commit=${BUILD_COMMIT:-$(git -C "$root" describe --always --dirty --abbrev=12 --exclude '*' 2>/dev/null || echo unknown)}
  echo "$commit" >"$dir/commit.txt"
  local size
  size=$(du -sb "$dir" | cut -f1)
  echo "$dir: $size bytes"
  [ "$size" -le "$LIMIT_BYTES" ] || { echo "more than $LIMIT_BYTES bytes: it cannot be carried"; return 1; }
}

# Adds the libraries that PyTorch brings: behind those of LD_LIBRARY_PATH, but before the system's own, as the loader reads that variable first.
find_libraries() {
  local found
  found=$(python3 -c 'import nvidia, os; print(":".join(sorted({r for p in nvidia.__path__ for r, _, f in os.walk(p) if any(n.startswith("lib") and ".so" in n for n in f)})))' 2>/dev/null || true)
  # An empty part of it would mean the current folder.
  [ -z "$found" ] || export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$found
}

say() {
  echo "$*" | tee -a "$results/steps.txt"
}

# Whoever ends this script before its time leaves what was measured until then.
bundle() {
  python3 "$here/summary.py" origin "$results" || true
  python3 "$here/summary.py" report "$results" >"$results/summary.txt" 2>&1 || true
  cp "$results/summary.txt" "$out/summary.txt"
  tar -C "$scratch" -czf "$scratch/results.tar.gz" results
  mv "$scratch/results.tar.gz" "$out/results.tar.gz"
}

# command_of NAME COMMAND…: notes what a JSON comes from, without the folders of this machine.
command_of() {
  local name=$1 folder said
  shift
  said=$*
  [ -z "$model" ] || said=${said//"$model"/MODEL}
  for folder in "$results" "$scratch" "$here"; do
    said=${said//"$folder/"/}
  done
  printf '%s\t%s\t%s\n' "$name" "$(date -u +%FT%TZ)" "$said" >>"$results/commands.tsv"
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
  command_of "$name" "$@"
  timeout -k 5 "$most" "$@" >"$results/$name.log" 2>&1 &
  running=$! step=$name
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
  mib=$(nvidia-smi ${CUDA_VISIBLE_DEVICES:+"--id=${CUDA_VISIBLE_DEVICES%%,*}"} --query-gpu=memory.total --format=csv,noheader,nounits 2>/dev/null | head -n 1 || true)
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
  local serve=("$lacuna" serve --model "$model" --served-model-name "$HTTP_SHAPE" --device "$device" --port 0 --metrics-address 127.0.0.1:0
    --max-num-seqs 64)
  command_of serve-start "${serve[@]}"
  began=$(date +%s%N)
  "${serve[@]}" >"$results/serve.out" 2>"$results/serve.log" &
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

# end PROCESS TENTHS: asks it to end, waits so many tenths of a second for it, and then makes it end.
end() {
  local waited=0
  kill -TERM "$1" 2>/dev/null || true
  while kill -0 "$1" 2>/dev/null && [ "$waited" -lt "$2" ]; do
    sleep 0.1
    waited=$((waited + 1))
  done
  kill -KILL "$1" 2>/dev/null || true
}

stop_server() {
  local code=0
  [ -n "$server" ] || return 0
  end "$server" 100
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
  local operators=("$lacuna" selftest --device "$device" --grid quick --prompts 0) tool worst line name title kernel
  for tool in memcheck racecheck; do
    attempt "$tool" 190 compute-sanitizer --tool "$tool" --print-limit 50 --error-exitcode 9 "${operators[@]}"
  done
  attempt kernels-worst 60 "$lacuna" bench kernels --device "$device" --shape "$MAIN" "${KERNELS[@]}" --repeat 3 --format json \
    --output "$results/kernels-worst.json"
  # By name, for buffers are filled by `embed_*`, and the ceilings before them use other kernels: only launches of that name are counted.
  mapfile -t worst < <(python3 "$here/summary.py" worst "$results/kernels-worst.json" || true)
  [ "${#worst[@]}" -gt 0 ] || say "ncu: left out, no operator was measured"
  for line in "${worst[@]}"; do
    IFS=$'\t' read -r name title kernel <<<"$line"
    say "ncu-$name: $title ($kernel)"
    attempt "ncu-$name" 100 ncu --clock-control none --set full --kernel-name "regex:$kernel" --launch-skip "$NCU_SKIP" --launch-count 3 \
      --csv --log-file "$results/ncu-$name.csv" \
      "$lacuna" bench kernels --device "$device" --shape "$MAIN" "${KERNELS[@]}" --only "$title" --repeat 1 --min-ms 1
  done
  attempt synccheck 100 compute-sanitizer --tool synccheck --print-limit 50 --error-exitcode 9 "${operators[@]}"
}

# Ends what was started, and takes away what was unpacked.
finish() {
  if [ -n "$running" ]; then
    # A bench that is stopped writes what it has, for which it gets 5 s: `timeout` passes the signal on and kills what is left then.
    end "$running" 60
    wait "$running" 2>/dev/null || true
    say "$step: stopped from outside"
  fi
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
  case $device in
    cpu | cuda:0) ;;
    cuda:[1-9]*)
      echo "only cuda:0 is measured, got $device: CUDA_VISIBLE_DEVICES=${device#cuda:} with cuda:0 measures that GPU" >&2
      exit 64
      ;;
    *) echo "a device must be cuda:0 or cpu, and an act prove, engine, peers or sanitize, got $device" >&2 && exit 64 ;;
  esac
  # The numbers of CUDA_VISIBLE_DEVICES are then those that nvidia-smi shows.
  export CUDA_DEVICE_ORDER=PCI_BUS_ID
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
  results=$scratch/results lacuna=$scratch/lacuna server='' model='' running='' step=''
  mkdir -p "$out" "$results"
  out=$(cd "$out" && pwd)
  trap finish EXIT
  gunzip -c "$here/lacuna.gz" >"$lacuna"
  chmod +x "$lacuna"
  cp "$here/commit.txt" "$results/" 2>/dev/null || true
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
  *) sed -n '2,18s/^# \{0,1\}//p' "$0"; exit 64 ;;
esac
