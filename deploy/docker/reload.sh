#!/bin/sh
# Lets a live update take effect without a new container, which would start from the image again
# and so lose the update. For the `dev` stage alone.
#
#   setpoint-reload run        run the service; run it again after each `restart`
#   setpoint-reload restart    end the running service, gracefully, so that `run` starts the new code
set -eu

state="${RELOAD_STATE:-/tmp}"

run() {
    stopping=""
    # Kubernetes stops the container: hand the signal on and end with the service.
    trap 'stopping=1; kill -TERM "$child" 2>/dev/null || true' TERM INT
    while :; do
        rm -f "$state/reload.wanted"
        python -m "setpoint_${SERVICE}" &
        child=$!
        echo "$child" >"$state/reload.pid"
        status=0
        # A signal ends `wait` early; the service is then still draining.
        while kill -0 "$child" 2>/dev/null; do
            status=0
            wait "$child" || status=$?
        done
        # A crash is Kubernetes' to handle and to count.
        if [ -n "$stopping" ] || [ ! -e "$state/reload.wanted" ]; then
            exit "$status"
        fi
    done
}

restart() {
    touch "$state/reload.wanted"
    kill -TERM "$(cat "$state/reload.pid")"
}

"$1"
