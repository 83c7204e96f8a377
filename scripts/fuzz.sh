#!/usr/bin/env bash
# Feeds the decoders garbage until one breaks its word: scripts/fuzz.sh [TARGET] [SECONDS for each]. docs/fuzzing.md says
# what the targets are. New inputs lie in target/fuzz/corpus, one that breaks something in fuzz/artifacts.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { echo "fuzz: $*" >&2; }
fail() { say "$*"; exit 1; }

cargo +nightly --version >/dev/null 2>&1 ||
  fail "missing: a nightly compiler; rustup toolchain install nightly --profile minimal"
cargo fuzz --version >/dev/null 2>&1 || fail "missing: cargo-fuzz; cargo install cargo-fuzz --locked"

all=$(cd fuzz/fuzz_targets && ls -- *.rs | sed 's/\.rs$//')
target=${1:-$all}
seconds=${2:-60}
for name in $target; do
  [ -f "fuzz/fuzz_targets/$name.rs" ] || fail "there is no target $name; there are: $(echo $all)"
done
for name in $target; do
  say "$name, for $seconds s"
  mkdir -p "target/fuzz/corpus/$name"
  # No sanitizer: there is no unsafe code of ours for one to watch, and the C that is linked is not built with one.
  cargo +nightly fuzz run --sanitizer none --target-dir target/fuzz "$name" \
    "target/fuzz/corpus/$name" "fuzz/corpus/$name" -- \
    -max_total_time="$seconds" -max_len=16384 -timeout=10 -rss_limit_mb=2048 -print_final_stats=1
done
