#!/usr/bin/env bash
# All tests, in two lanes beside one broker. The tests of the first lane mostly wait: for brokers, for sessions that run
# out, for processes that were stopped. So the machine has time for the others meanwhile.
#
# What the first lane prints comes when both are done; until then it stands in target/patient.log.
# -m: a lane is a group of processes, so that it can be ended as a whole.
set -muo pipefail
cd "$(dirname "$0")/.."

patient=(brokers clocks exactly_once fire killed left_open silence takeover versions zombies)
others=()
for test in */tests/*.rs */tests/*/main.rs; do
  name=${test#*/tests/} name=${name%/main.rs} name=${name%.rs}
  [[ " ${patient[*]} ${others[*]} " == *" $name "* ]] || others+=("$name")
done

# Always the whole workspace: with fewer packages cargo chooses other features, and builds all of it again.
run() { cargo test --workspace --all-features "$@"; }

run "${patient[@]/#/--test=}" >target/patient.log 2>&1 &
lane=$!
trap 'kill -- -$lane 2>/dev/null' EXIT
failed=0
run --lib --bins "${others[@]/#/--test=}" && run --doc || failed=1
wait $lane || failed=1
trap - EXIT
cat target/patient.log
exit $failed
