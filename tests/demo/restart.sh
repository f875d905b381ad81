#!/bin/sh
# Part of the demo's release: ends the instance that runs, and starts the one that lies beside this script.
#
# It is run in the host root as `web/current/bin/restart PORT`. The command's output is closed to what it leaves behind,
# so the service writes to a file of its own.
set -eu
port=$1
release=$(cd "$(dirname "$0")/.." && pwd -P)
root=${STELLA_HOST_ROOT:-$(pwd)}
pid_file=$root/demo-web.pid

# A pid is believed only if the process is a demo-web of this host root.
is_ours() {
    case $(readlink "/proc/$1/exe" 2>/dev/null) in
    "$root"/*/demo-web*) return 0 ;;
    *) return 1 ;;
    esac
}

if [ -s "$pid_file" ]; then
    old=$(cat "$pid_file")
    if is_ours "$old"; then
        kill "$old" 2>/dev/null || true
        tries=0
        while is_ours "$old"; do
            tries=$((tries + 1))
            if [ "$tries" -gt 100 ]; then
                echo "process $old does not end" >&2
                exit 1
            fi
            sleep 0.05
        done
        echo "stopped process $old"
    fi
fi

setsid "$release/bin/demo-web" "$port" </dev/null >>"$root/demo-web.log" 2>&1 &
echo $! >"$pid_file"
echo "started $(cat "$release/VERSION") on port $port as process $!"
