#!/bin/sh
# Run buildctl with a temporary daemon: buildctl-daemonless.sh build …
#
#   BUILDKITD_FLAGS                flags for the daemon
#   BUILDCTL_CONNECT_RETRIES_MAX   half seconds to wait for the daemon; default: 120
set -eu
directory=$(mktemp -d)
daemon=
end() {
    code=$?
    trap - EXIT
    [ -z "$daemon" ] || { kill "$daemon" && wait "$daemon"; } 2>/dev/null || true
    rm -rf "$directory"
    exit "$code"
}
trap end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

export BUILDKIT_HOST="unix://$directory/buildkitd.sock"
# shellcheck disable=SC2086 # several words
buildkitd-entrypoint --addr "$BUILDKIT_HOST" ${BUILDKITD_FLAGS-} >"$directory/log" 2>&1 &
daemon=$!
left=${BUILDCTL_CONNECT_RETRIES_MAX:-120}
until buildctl debug workers >/dev/null 2>&1; do
    left=$((left - 1))
    if [ "$left" -le 0 ] || ! kill -0 "$daemon" 2>/dev/null; then
        cat "$directory/log" >&2
        echo "error: buildkitd did not answer; what it said is above" >&2
        exit 1
    fi
    sleep 0.5
done
buildctl "$@"
