#!/usr/bin/env bash
# gpu_check.sh BUILD [SECONDS] - everything that needs a GPU, within so many seconds: the tests tagged [cuda], a reduced
# set of them under compute-sanitizer, benchmarks. BUILD is a folder with mote and mote_tests. Writes gpu-check.json and
# gpu-check.md into it and ends with the line "N passed, N failed, N skipped"; the status is 0 only if none failed.
set -uo pipefail
build=${1:?usage: gpu_check.sh BUILD [SECONDS]}
limit=${2:-470}   # for all steps together
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export GOMP_SPINCOUNT=10000
passed=0 failed=0 skipped=0
: > "$scratch/steps"

# step NAME SECONDS COMMAND...: runs the command with that time, or what is left of the limit if it is less.
step() {
  local name=$1 seconds=$2 result=passed begun=$SECONDS status
  shift 2
  [ $((limit - SECONDS)) -lt "$seconds" ] && seconds=$((limit - SECONDS))
  echo "== $name: $*"
  if [ "$seconds" -le 5 ]; then
    skip "$name" "no time left"
    return 1
  fi
  timeout "$seconds" "$@"
  status=$?
  if [ "$status" -eq 0 ]; then
    passed=$((passed + 1))
  else
    result="failed (status $status)"
    [ "$status" -eq 124 ] && result="failed (longer than $seconds s)"
    failed=$((failed + 1))
    echo "== FAILED: $name"
  fi
  printf '%s\t%s\t%s\n' "$name" "$result" $((SECONDS - begun)) >> "$scratch/steps"
  [ "$status" -eq 0 ]
}

skip() {
  skipped=$((skipped + 1))
  echo "== skipped: $1: $2"
  printf '%s\tskipped: %s\t0\n' "$1" "$2" >> "$scratch/steps"
}

device=$("$build/mote" bench gemm --device cuda --runs 1 --quiet --json 2>&1 > "$scratch/probe.json")
if [ $? -ne 0 ]; then
  echo "gpu-check: no GPU to check: $device"
  echo "0 passed, 1 failed, 0 skipped"
  exit 1
fi

# A test that finds no device says so and passes, so its words are looked for.
cuda_tests() {
  "$build/mote_tests" --order lex "$@" 2>&1 | tee "$scratch/tests"
  local status=${PIPESTATUS[0]}
  grep -q '^skipped:' "$scratch/tests" && return 1
  return "$status"
}
export -f cuda_tests
export build scratch
step "tests" 180 bash -c 'cuda_tests "[cuda]"'

sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)
for tool in memcheck racecheck; do
  if [ -n "$sanitizer" ]; then
    step "$tool" 90 "$sanitizer" --tool "$tool" --error-exitcode 1 "$build/mote_tests" "[cuda][sanitizer]"
  else
    skip "$tool" "compute-sanitizer is not installed"
  fi
done

# bench NAME SECONDS ARGUMENTS...: one JSON of `mote bench`, kept for the report.
count=0
bench() {
  local name=$1 seconds=$2
  shift 2
  count=$((count + 1))
  step "$name" "$seconds" bash -c '"$build/mote" bench "$@" --device cuda --quiet --json > "$scratch/bench.$0.json"' \
    "$count" "$@" || rm -f "$scratch/bench.$count.json"
}
bench "bench: ops" 120 gemm conv norm attention ot
for batch in 128 512; do
  bench "bench: cifar10, batch $batch" 40 train sample --unet cifar10 --batch "$batch" --precision bf16
done
bench "bench: fmnist, batch 512" 30 train sample --unet fmnist --batch 512 --precision bf16

# The JSON of `mote bench` has a key a line; each result begins with its name.
json_rows() {
  awk -F'": ' 'function flush() { if (name != "") print name "\t" median "\t" unit "\t" share "\t" images "\t" peak
                                  name = images = peak = "" }
    { value = $2; sub(/,$/, "", value); gsub(/"/, "", value) }
    /"name":/ { flush(); name = value }   /"median":/ { median = sprintf("%.1f", value) }   /"unit":/ { unit = value }
    /"share":/ { share = value + 0 > 0 ? sprintf("%.0f %%", 100 * value) : "" }
    /"images_per_s":/ { images = sprintf("%.0f", value) }   /"peak_mib":/ { peak = sprintf("%.0f", value) }
    END { flush() }' "$@"
}
escaped() { sed 's/\\/\\\\/g; s/"/\\"/g'; }

benches=$(ls "$scratch"/bench.*.json 2>/dev/null)
{
  echo "{\"passed\": $passed, \"failed\": $failed, \"skipped\": $skipped, \"steps\": ["
  escaped < "$scratch/steps" | awk -F'\t' '{ printf "%s{\"name\": \"%s\", \"result\": \"%s\", \"seconds\": %s}",
    (NR > 1 ? ",\n" : ""), $1, $2, $3 }'
  echo '], "bench": ['
  first=1
  for file in $benches; do
    [ -n "$first" ] || echo ','
    first=
    cat "$file"
  done
  echo ']}'
} > "$build/gpu-check.json"
{
  printf '| step | result | seconds |\n|---|---|---|\n'
  awk -F'\t' '{ print "| " $1 " | " $2 " | " $3 " |" }' "$scratch/steps"
  if [ -n "$benches" ]; then
    echo
    sed -nE '/"ceilings"/,/}/s/^ *"(.*)": "?([^",{]+)"?,?$/Ceiling \1: \2  /p' "$scratch/bench.1.json" 2>/dev/null
    printf '\n| measured | median | unit | share of the ceiling | images/s | peak MiB |\n|---|---|---|---|---|---|\n'
    json_rows $benches | awk -F'\t' '{ print "| " $1 " | " $2 " | " $3 " | " $4 " | " $5 " | " $6 " |" }'
  fi
} > "$build/gpu-check.md"
echo "gpu-check: $build/gpu-check.json, $build/gpu-check.md"
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
