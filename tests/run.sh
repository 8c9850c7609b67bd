#!/bin/sh
# Format check, lint, types and every test: `make test`. $1 is the Python of an environment with Jiffy and its dev tools.
#
# As root it installs what is missing (servers, an engine, a browser, tools that read images, compilers) through apt, and
# runs a Docker engine for the tests where none answers. Without root, tests that need a missing part skip and say so;
# with CI=true they fail instead.
set -eu
python=$1
[ "$(id -u)" = 0 ] && root=yes || root=no
dockerd_pid=

engine_answers() {
    "$python" -c 'import docker; docker.from_env(timeout=5).ping()' 2>/dev/null
}

install_missing() {
    missing=
    command -v redis-server >/dev/null || missing="$missing redis-server"
    command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing="$missing postgresql"
    command -v chromium >/dev/null || missing="$missing chromium fonts-dejavu-core" # to look at statements
    command -v dockerd >/dev/null || engine_answers || missing="$missing docker.io"
    command -v mosquitto >/dev/null || missing="$missing mosquitto"
    command -v nats-server >/dev/null || missing="$missing nats-server"
    [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || missing="$missing rabbitmq-server"
    command -v ip >/dev/null || missing="$missing iproute2" # other hosts, in network namespaces
    command -v go >/dev/null || missing="$missing golang-go"
    for tool in skopeo umoci docker-registry gcc rustc npm; do
        command -v $tool >/dev/null || missing="$missing $tool"
    done
    command -v iptables >/dev/null || missing="$missing iptables" # to lose packets of hosts
    command -v node >/dev/null || missing="$missing nodejs"
    [ -e /usr/include/stdlib.h ] || missing="$missing libc6-dev"
    [ -d /usr/share/zoneinfo ] || missing="$missing tzdata"
    [ -n "$missing" ] || return 0
    command -v apt-get >/dev/null || { echo "tests/run.sh: not installed:$missing" >&2; return 0; }
    export DEBIAN_FRONTEND=noninteractive
    # shellcheck disable=SC2086 # a list of words
    { apt-get update -qq && apt-get install -qq -y --no-install-recommends $missing; } </dev/null >/dev/null ||
        echo "tests/run.sh: apt could not install:$missing" >&2
}

start_engine() {
    command -v dockerd >/dev/null || return 0
    log=$(mktemp)
    dockerd >"$log" 2>&1 </dev/null &
    dockerd_pid=$!
    for _ in $(seq 120); do
        engine_answers && return 0
        kill -0 "$dockerd_pid" 2>/dev/null || break
        sleep 0.5
    done
    echo "tests/run.sh: dockerd does not start; the end of its log:" >&2
    tail -n 5 "$log" >&2
}

finish() {
    [ -z "$dockerd_pid" ] || { kill "$dockerd_pid" 2>/dev/null && wait "$dockerd_pid"; } || true
    [ -z "${log:-}" ] || rm -f "$log"
}
trap finish EXIT
trap 'exit 130' INT TERM

if [ "$root" = yes ]; then
    install_missing
    engine_answers || start_engine
fi

"$python" -m ruff format --check --quiet .
"$python" -m ruff check --quiet .
"$python" -m mypy
"$python" -m pytest -n 2 --dist loadfile # a file is one worker's: what it starts serves all of its tests
