#!/usr/bin/env bash
# Draws what a processor spends its time on: docs/processor.svg. Wants Linux, `perf` and the right to use it (root, or
# kernel.perf_event_paranoid at 1 or below). inferno is built into target/tools at the first run. BUILT=1 takes the
# benchmarks as they were built last.
set -euo pipefail
cd "$(dirname "$0")/.."

picture=docs/processor.svg
tools=target/tools/bin
bench=target/release/bench

command -v perf >/dev/null || { echo "perf is missing: install it (linux-perf, linux-tools)" >&2; exit 1; }
[ -x $tools/inferno-flamegraph ] ||
  cargo install inferno --locked --no-default-features --features cli --root target/tools
[ -n "${BUILT:-}" ] || cargo build --release --workspace --all-features --bin bench

work=$(mktemp -d)
$bench --into "$work/summary.json" processor >"$work/out" 2>&1 &
running=$!
trap 'kill $running 2>/dev/null || true; wait $running 2>/dev/null || true; rm -rf "$work"' EXIT

# The first that is measured are uploads of 5,000 keys for four countries.
until processor=$(pgrep -P $running -f -- '--instance .* p-0') && [ -n "$processor" ]; do
  kill -0 $running 2>/dev/null || { cat "$work/out" >&2; exit 1; }
  sleep 0.2
done
# Uploads are signed first; there is nothing to see until it has worked for a while.
until [ "$(ps -o cputimes= -p "$processor")" -ge 3 ]; do sleep 0.5; done
# Stacks by DWARF, for nothing is built with frame pointers.
perf record -q -e cpu-clock -F 199 --call-graph dwarf,16384 -p "$processor" -o "$work/perf.data" -- sleep "${SECONDS_OF_WORK:-40}"
perf script -i "$work/perf.data" --no-inline 2>/dev/null >"$work/script"

# Names for people: the type of `<Type as Trait>::function`, no hashes and type parameters, nothing of how threads start,
# the kernel in one piece, no paths.
$tools/inferno-collapse-perf "$work/script" |
  sed -E \
    -e 's/::h[0-9a-f]{16}//g; s/\.llvm\.[0-9]+//g; s/@+GLIBC[_0-9.]*//g; s/keyferry_//g' \
    -e ':types; s/<([^<>; ]+) as [^<>;]*>/\1/g; s/(::)?<[^<>;]*>//g; ttypes' \
    -e 's/\{\{closure\}\}/closure/g; s/;(entry_SYSCALL_64|asm_)[^ ]*/;kernel/' \
    -e 's/^[^;]+/processor/' \
    -e ':start; s/^(processor;)(_start|__libc_start[^; ]*|_*clone3?|start_thread|main|bench::main|std::[^; ]*|core::ops::[^; ]*|__rust_[^; ]*|\[unknown\]|tests::bench::[^; ]*);/\1/; tstart' \
    -e 's#[^; ]*/##g' >"$work/folded"

# What is too thin to be read is left out.
$tools/inferno-flamegraph --minwidth 0.4 --width 1200 --title "A processor at work" --countname ns \
  --subtitle "Uploads of 5,000 keys for 4 countries; processor time of all of its threads" "$work/folded" >"$picture"
ls -l "$picture"
