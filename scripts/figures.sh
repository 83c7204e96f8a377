#!/usr/bin/env bash
# Puts the tables that `make bench` left in target/bench into the documentation, between their marks.
set -euo pipefail
cd "$(dirname "$0")/.."

put() {
  local table=$1 page=$2
  awk -v table="$table" '
    /<!-- end -->/ { inside = 0 }
    !inside
    $0 == "<!-- " table " -->" { inside = 1; print ""; while ((getline line < table) > 0) print line; print "" }
  ' "$page" >"$page.new"
  mv "$page.new" "$page"
}

put target/bench/table.md docs/performance.md
put target/bench/sizing.md docs/sizing.md
