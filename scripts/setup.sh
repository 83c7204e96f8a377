#!/usr/bin/env bash
# Makes a machine ready to build, test and run the demo. Does only what is missing, so it may run every time; what
# it fetches lies under target/ and serves off line afterwards.
#
#   scripts/setup.sh          all of it
#   scripts/setup.sh demo     only what the demo needs: no linters, no Python
set -euo pipefail
cd "$(dirname "$0")/.."

purpose=${1:-all}
say() { echo "setup: $*" >&2; }
fail() { say "$*"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# A stamp carries the checksum of what it was made from: a changed version fetches anew.
stamp_of() { cat "$@" | sha256sum | cut -d' ' -f1; }
is_fresh() { [ -f "$1" ] && [ "$(cat "$1")" = "$2" ]; }

# --- system packages -------------------------------------------------------------------------------------------
missing=()
need() { # need PACKAGE TEST...
  local package=$1; shift
  "$@" >/dev/null 2>&1 || missing+=("$package")
}
# The one that the broker is started with, and its major version.
java() {
  if [ -n "${JAVA_HOME:-}" ] && [ -x "$JAVA_HOME/bin/java" ]; then "$JAVA_HOME/bin/java" "$@"; else command java "$@"; fi
}
java_version() { java -version 2>&1 | sed -nE 's/.* version "(1\.)?([0-9]+).*/\2/p' | head -n 1; }
java_works() { [ "$(java_version)" -ge 17 ]; }
# The compiler within Java, which runs the Java of the tests from its source.
compiler_works() { [[ $(java --list-modules 2>/dev/null) == *jdk.compiler@* ]]; }
venv_works() { [ -x target/venv/bin/python ] || python3 -c 'import ensurepip, venv'; }

need default-jre-headless java_works
need g++ have c++
need make have make
need cmake have cmake
need pkg-config have pkg-config
need libssl-dev pkg-config --exists openssl
need zlib1g-dev pkg-config --exists zlib
need openssl have openssl
jars=target/kafka
jars_stamp=$(stamp_of scripts/kafka/pom.xml)
is_fresh $jars/stamp "$jars_stamp" || need maven have mvn
registry=target/registry
registry_stamp=$(stamp_of scripts/registry/pom.xml)
foreign=target/foreign
foreign_stamp=$(stamp_of scripts/foreign/pom.xml)
if [ "$purpose" = all ]; then
  is_fresh $registry/stamp "$registry_stamp" || need maven have mvn
  is_fresh $foreign/stamp "$foreign_stamp" || need maven have mvn
  need default-jdk-headless compiler_works
  need curl have curl
  need python3 have python3
  need python3-venv venv_works
fi
if [ ${#missing[@]} -gt 0 ]; then
  if [ "$(id -u)" = 0 ] && have apt-get; then
    say "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
  else
    fail "missing: ${missing[*]} (Debian's names; Java has to be 17 or later); install them and run this again"
  fi
fi

# What was there already may go before what was installed.
if ! java_works 2>/dev/null; then
  found=$(java_version || true)
  fail "missing: Java 17 or later, which Kafka needs; found is ${found:-none}: set JAVA_HOME, or update the one on the PATH"
fi
if [ "$purpose" = all ] && ! compiler_works; then
  fail "missing: a JDK; the Java that is found is without the module jdk.compiler: set JAVA_HOME to one"
fi

# --- Rust --------------------------------------------------------------------------------------------------------
have cargo || fail "missing: Rust; install rustup, which then takes the version from rust-toolchain.toml"

# --- Kafka for the embedded broker -------------------------------------------------------------------------------
if ! is_fresh $jars/stamp "$jars_stamp"; then
  say "fetching Kafka into $jars/libs"
  rm -rf $jars
  mvn -q -B -Dstyle.color=never -f scripts/kafka/pom.xml dependency:copy-dependencies \
    -DincludeScope=runtime -DoutputDirectory="$PWD/$jars/libs" >&2
  echo "$jars_stamp" >$jars/stamp
fi
[ "$purpose" = all ] || exit 0

# --- the schema registry of the tests --------------------------------------------------------------------------------
if ! is_fresh $registry/stamp "$registry_stamp"; then
  say "fetching a schema registry into $registry/app"
  rm -rf $registry
  mvn -q -B -Dstyle.color=never -f scripts/registry/pom.xml dependency:unpack-dependencies \
    -DoutputDirectory="$PWD/$registry/app" >&2
  echo "$registry_stamp" >$registry/stamp
fi

# --- the libraries that uploads are signed with in Java ----------------------------------------------------------------
if ! is_fresh $foreign/stamp "$foreign_stamp"; then
  say "fetching BouncyCastle into $foreign/libs"
  rm -rf $foreign
  mvn -q -B -Dstyle.color=never -f scripts/foreign/pom.xml dependency:copy-dependencies \
    -DincludeScope=runtime -DoutputDirectory="$PWD/$foreign/libs" >&2
  echo "$foreign_stamp" >$foreign/stamp
fi

# --- Python for the whole-system tests -----------------------------------------------------------------------------
python_stamp=$(stamp_of scripts/requirements.txt)
if ! is_fresh target/venv/stamp "$python_stamp"; then
  say "making target/venv"
  rm -rf target/venv
  python3 -m venv target/venv
  target/venv/bin/pip install -q --disable-pip-version-check --no-deps -r scripts/requirements.txt
  echo "$python_stamp" >target/venv/stamp
fi

# --- cargo-deny, and all sources it reads ----------------------------------------------------------------------------
if ! have cargo-deny && ! [ -x target/tools/bin/cargo-deny ]; then
  say "building cargo-deny (a few minutes, once)"
  cargo install --quiet --locked --root target/tools cargo-deny --version '^0.20'
fi
sources_stamp=$(stamp_of Cargo.lock)
if ! is_fresh target/sources.stamp "$sources_stamp"; then
  say "fetching the sources of all dependencies"
  cargo fetch --quiet --locked
  # What other platforms need is fetched too: cargo-deny looks at the whole tree.
  echo "$sources_stamp" >target/sources.stamp
fi
