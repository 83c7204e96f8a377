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
for test in tests/tests/*.rs tests/tests/*/main.rs; do
  name=${test#tests/tests/} name=${name%/main.rs} name=${name%.rs}
  [[ " ${patient[*]} " == *" $name "* ]] || others+=("$name")
done

run() { cargo test --all-features "$@"; }

run -p keyferry-tests "${patient[@]/#/--test=}" >target/patient.log 2>&1 &
lane=$!
trap 'kill -- -$lane 2>/dev/null' EXIT
failed=0
run --workspace --exclude keyferry-tests && run -p keyferry-tests --lib --bins "${others[@]/#/--test=}" || failed=1
wait $lane || failed=1
trap - EXIT
cat target/patient.log
exit $failed
