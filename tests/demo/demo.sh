#!/usr/bin/env bash
# The demo: a control plane and four agents on this machine, a release that works, one that does not, and the way back.
#
#   tests/demo/demo.sh up     build, start, deploy, break, roll back; leaves everything running (DEMO_STOP=1: stops it)
#   tests/demo/demo.sh down   stop what `up` started and remove .demo
#
# Everything listens on 127.0.0.1 and lives in <repository>/.demo. Each claim that is printed is checked; the first one
# that does not hold ends the script with the logs that tell why.
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
state=$repo/.demo
bin=${CARGO_TARGET_DIR:-$repo/target}/debug
ca=$state/orchestrator/pki/root.crt
hosts=(staging-1 staging-2 production-1 production-2)
# How long anything may take that is waited for, in seconds.
patience=60
# How long all of it may take after the build, in seconds, where CI is set: on a machine of somebody's own it takes what it takes.
run_max=120
began=${EPOCHREALTIME/[.,]/}

# === words ===

elapsed() { # in tenths of a second since the start
    local us=$((${EPOCHREALTIME/[.,]/} - began))
    printf '%d.%d' $((us / 1000000)) $((us / 100000 % 10))
}

step() {
    local mark=''
    [[ -t 1 ]] && mark=$'\e[1m'
    printf '\n%s==> [%5s s] %s%s\n' "$mark" "$(elapsed)" "$*" "${mark:+$'\e[0m'}"
}

say() { printf '    %s\n' "$*"; }

fail() {
    printf '\ndemo: %s\n' "$*" >&2
    exit 1
}

# Ends the script when it does not come true in time: what is waited for, then the command that tests it.
wait_for() {
    local what=$1 deadline=$((SECONDS + patience))
    shift
    until "$@"; do
        ((SECONDS < deadline)) || fail "$what did not happen within $patience s"
        sleep 0.1
    done
}

# === processes ===

# The ids of the demo's processes of one program, however they were started: a service runs from a file in the state
# folder, and the others have something in there open.
ours() { # stella-orchestrator | stella-agent | demo-web
    local process exe
    for process in /proc/[0-9]*; do
        exe=$(readlink "$process/exe" 2>/dev/null) || continue
        [[ ${exe% (deleted)} == */"$1" ]] || continue
        if [[ $exe == "$state"/* ]] || [[ -n $(find "$process/fd" -lname "$state/*" -print -quit 2>/dev/null) ]]; then
            printf '%s\n' "${process#/proc/}"
        fi
    done
}

# Ends them: TERM, then KILL for those that do not listen.
stop() { # PROGRAM
    local signal=TERM deadline=$((SECONDS + 20)) pids
    while mapfile -t pids < <(ours "$1") && ((${#pids[@]})); do
        ((SECONDS < deadline)) || signal=KILL
        [[ $signal == sent ]] || kill "-$signal" "${pids[@]}" 2>/dev/null || true
        signal=sent
        sleep 0.1
    done
}

stop_all() {
    stop stella-agent
    # After the agents: what they still did may have started a service.
    stop demo-web
    stop stella-orchestrator
}

down() {
    [[ -d $state ]] || return 0
    stop_all
    rm -rf "$state"
}

# What to do when the script ends early: leave no process, but the logs.
on_exit() {
    local status=$?
    ((status == 0)) && return
    if [[ -d $state ]]; then
        {
            printf '\nThe last lines of the logs (all of them: %s)\n' "$state"
            tail -n 15 "$state"/*.log "$state"/agents/*/*.log 2>/dev/null || true
        } >&2
        stop_all
    fi
    exit "$status"
}

# === ports ===

# The ports that somebody listens on, one a line, in hexadecimal as the kernel writes them.
ports_in_use() {
    local file address state
    for file in /proc/net/{tcp,tcp6,udp,udp6}; do
        [[ -r $file ]] || continue
        while read -r _ address _ state _; do
            # 0A is a listening TCP socket, 07 a UDP socket without a peer.
            if [[ $state == 0A || $state == 07 ]]; then
                printf '%s\n' "${address##*:}"
            fi
        done <"$file"
    done
}

# The first free port from a number on, as REPLY. Below the range that the kernel gives out by itself.
free_port() {
    local used port hex
    used=" $(ports_in_use | tr '\n' ' ') "
    for ((port = $1; port < $1 + 500; port++)); do
        printf -v hex '%04X' "$port"
        if [[ $used != *" $hex "* ]]; then
            REPLY=$port
            return
        fi
    done
    fail "no port is free between $1 and $port"
}

choose_ports() {
    local number host
    free_port 18443 && api_port=$REPLY
    free_port 17443 && agent_port=$REPLY
    free_port 19090 && metrics_port=$REPLY
    declare -gA web_port=()
    number=18080
    for host in "${hosts[@]}"; do
        free_port $((number + 1)) && number=$REPLY
        web_port[$host]=$number
    done
}

# === the parts ===

build() {
    step "Building (development profile)"
    (cd "$repo" && cargo build --locked -p stella-server -p stella-agent -p stella-cli -p stella-demo-web)
}

start_orchestrator() {
    step "Starting a control plane"
    mkdir -p "$state/orchestrator"
    cat >"$state/orchestrator.toml" <<TOML
state_dir = "$state/orchestrator"

[api]
listen = "127.0.0.1:$api_port"

[agents]
listen = "127.0.0.1:$agent_port"
advertise = "127.0.0.1:$agent_port"
heartbeat_interval_ms = 1000

[metrics]
listen = "127.0.0.1:$metrics_port"

[log]
format = "json"
TOML
    setsid "$bin/stella-orchestrator" run --config "$state/orchestrator.toml" \
        </dev/null >"$state/orchestrator.log" 2>&1 &
    echo $! >"$state/orchestrator.pid"
    wait_for "the control plane's start" is_ready
    export STELLA_URL=https://127.0.0.1:$api_port STELLA_CA=$ca STELLA_TENANT=demo
    export STELLA_TOKEN_FILE=$state/orchestrator/admin-token
    cat >"$state/env" <<ENV
export STELLA_URL=$STELLA_URL
export STELLA_CA=$STELLA_CA
export STELLA_TOKEN_FILE=$STELLA_TOKEN_FILE
export STELLA_TENANT=$STELLA_TENANT
export PATH="$bin:\$PATH"
ENV
    say "API https://127.0.0.1:$api_port, agents udp 127.0.0.1:$agent_port, metrics https://127.0.0.1:$metrics_port/metrics"
}

is_ready() {
    kill -0 "$(<"$state/orchestrator.pid")" 2>/dev/null || fail "the control plane has stopped; see its log"
    curl --silent --fail --max-time 5 --cacert "$ca" "https://127.0.0.1:$api_port/health/ready" >/dev/null 2>&1
}

stella() { "$bin/stella" "$@"; }

start_agents() {
    step "Creating a tenant and enrolling four agents"
    stella tenant create demo | sed 's/^/    /'
    stella env create staging | sed 's/^/    /'
    stella env create production | sed 's/^/    /'
    local host
    for host in "${hosts[@]}"; do
        start_agent "$host"
    done
    wait_for "the connection of four agents" are_online 4
    stella agent list | sed 's/^/    /'
    for host in "${hosts[@]}"; do
        stella target create "$host" --env "${host%-*}" --agent "$host" --var "port=${web_port[$host]}" | sed 's/^/    /'
    done
}

start_agent() { # HOST
    local home=$state/agents/$1
    mkdir -p "$home"
    cat >"$home/agent.toml" <<TOML
state_dir = "$home/state"
host_root = "$home/root"

[log]
format = "json"
TOML
    # The agents run as whoever runs this.
    local profile=confined
    [[ $(id -u) != 0 ]] || profile=full
    stella agent token --name "$1" --profile "$profile" --quiet >"$home/enrolment-token"
    "$bin/stella-agent" enrol --config "$home/agent.toml" --server "127.0.0.1:$agent_port" \
        --token "@$home/enrolment-token" >"$home/enrol.log" 2>&1 || fail "$1 could not be enrolled"
    rm "$home/enrolment-token"
    setsid "$bin/stella-agent" run --config "$home/agent.toml" </dev/null >"$home/agent.log" 2>&1 &
    echo $! >"$home/agent.pid"
}

are_online() { (($(stella agent list | awk '$2 == "online"' | wc -l) == $1)); }

# An archive of the web service: program, restart script, version, and what makes it sick if that is asked for.
build_release() { # VERSION [broken]
    local folder=$state/build/web-$1
    mkdir -p "$folder/bin"
    cp "$bin/stella-demo-web" "$folder/bin/demo-web"
    install -m 0755 "$repo/tests/demo/restart.sh" "$folder/bin/restart"
    echo "$1" >"$folder/VERSION"
    if [[ ${2-} == broken ]]; then
        touch "$folder/BROKEN"
    fi
    (cd "$folder" && tar --owner=0 --group=0 -czf "../web-$1.tar.gz" -- *)
    stella release create web "$1" --component "web=$state/build/web-$1.tar.gz" --steps "$repo/tests/demo/steps.json" |
        sed 's/^/    /'
}

# What a host's service says, checked against what it should say.
serves() { # HOST VERSION
    local answer
    answer=$(curl --silent --fail --max-time 5 "http://127.0.0.1:${web_port[$1]}/") || answer='nothing'
    say "$1 (http://127.0.0.1:${web_port[$1]}/) serves: $answer"
    [[ $answer == "demo-web $2" ]] || fail "$1 should serve demo-web $2"
}

deploy() { # VERSION ENVIRONMENT
    step "Deploying web:$1 to $2, one target at a time"
    stella deploy "web:$1" "$2" --batch 1 --wait || fail "the deployment of web:$1 to $2 should have succeeded"
    serves "$2-1" "$1"
    serves "$2-2" "$1"
}

deploy_broken() { # VERSION BEFORE
    local status=0 untouched id rollback task
    untouched=$(<"$state/agents/production-2/root/demo-web.pid")
    step "Deploying the broken web:$1 to production: it must fail and take itself back"
    stella deploy "web:$1" production --batch 1 --wait || status=$?
    ((status == 1)) || fail "a failed deployment should exit with 1, not with $status"

    step "What happened"
    id=$(stella deployment list --env production | awk '$4 == "failed" { print $1 }')
    [[ -n $id ]] || fail "no deployment to production has failed"
    stella deployment show "$id" | sed 's/^/    /'
    rollback=$(stella deployment list --env production | awk '$4 == "succeeded" && $5 == "(rollback)" { print $1 }')
    [[ -n $rollback ]] || fail "there is no rollback that succeeded"
    task=$(stella task list "$id" | awk '$2 == "health" && $4 == "failed" { print $NF }')
    [[ -n $task ]] || fail "the health check should be what failed"
    say ""
    say "The failed check said:"
    stella task logs "$task" | sed 's/^/      /'

    step "The services after the rollback"
    serves production-1 "$2"
    serves production-2 "$2"
    [[ $(<"$state/agents/production-2/root/demo-web.pid") == "$untouched" ]] ||
        fail "production-2 should never have been touched"
    say "production-2 is still the same process ($untouched): its turn never came"
}

check_observability() {
    step "Metrics and events"
    local metrics events
    metrics=$(curl --silent --fail --max-time 5 --cacert "$ca" "https://127.0.0.1:$metrics_port/metrics")
    grep -E '^stella_(agents_connected|deployments_total|rollbacks_total)' <<<"$metrics" | grep -v ' 0$' | sort | sed 's/^/    /'
    grep -q '^stella_agents_connected{tenant="demo"} 4$' <<<"$metrics" || fail "the metrics should show four agents"
    grep -q '^stella_rollbacks_total{.*reason="deployment_failed".*} 1$' <<<"$metrics" ||
        fail "the metrics should show one rollback"
    events=$(stella events --limit 300)
    tail -n 5 <<<"$events" | cut -c 1-140 | sed 's/^/    /'
    grep -qw deployment_failed <<<"$events" || fail "the events should tell of the failed deployment"
}

where_next() {
    step "Done. It is all still running; where to look next"
    cat <<NEXT

    Command line    source .demo/env
                    stella status; stella target list; stella deployment list; stella events --follow
    API             curl --cacert $ca \\
                      -H "Authorization: Bearer \$(cat $state/orchestrator/admin-token)" \\
                      https://127.0.0.1:$api_port/api/v1/tenants/demo/deployments
    API description https://127.0.0.1:$api_port/api/v1/openapi.json
    Metrics         curl --cacert $ca https://127.0.0.1:$metrics_port/metrics
    Logs            tail -f .demo/orchestrator.log .demo/agents/*/agent.log
    Hosts           ls -l .demo/agents/production-1/root/web
    Journal         kill \$(cat .demo/orchestrator.pid)    # it must not be in use
                    $bin/stella-orchestrator journal verify --config .demo/orchestrator.toml
    Stop            make demo-down

NEXT
}

in_time() {
    local took
    took=$(elapsed)
    [[ -z ${CI:-} ]] || ((${took%.*} < run_max)) || fail "the run took $took s after the build, and $run_max s are promised"
}

up() {
    command -v curl >/dev/null || fail "curl is needed; install it first"
    down
    build
    began=${EPOCHREALTIME/[.,]/}
    mkdir -p "$state/build"
    chmod 0700 "$state"
    trap on_exit EXIT
    trap 'exit 130' INT TERM
    choose_ports
    start_orchestrator
    start_agents

    step "Registering releases"
    build_release 1.0.0
    build_release 1.1.0
    build_release 2.0.0 broken

    deploy 1.0.0 staging
    deploy 1.0.0 production
    deploy 1.1.0 staging
    deploy 1.1.0 production
    deploy_broken 2.0.0 1.1.0
    check_observability
    in_time

    if [[ ${DEMO_STOP:-0} == 1 ]]; then
        step "Stopping, as DEMO_STOP=1 asks for"
        down
    else
        where_next
    fi
}

case ${1-} in
up) up ;;
down) down ;;
*)
    echo "usage: $0 up|down" >&2
    exit 2
    ;;
esac
