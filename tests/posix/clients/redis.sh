#!/usr/bin/env bash
# redis: snapshot and append-only file in the repository, rewritten while it serves; then served again.
. "${BASH_SOURCE%/*}/common.sh"
socket="$local/redis.sock"
ask() { redis-cli -s "$socket" "$@"; }

serve() { # DIRECTORY
    redis-server --port 0 --unixsocket "$socket" --dir "$1" --appendonly yes --appendfsync everysec \
        --save '' --daemonize no --enable-debug-command yes --logfile "$local/redis.log" &
    servers=($!)
    await ask ping
}
# A shutdown that saves nothing: what the log has must be enough.
stop() { ask shutdown nosave > /dev/null 2>&1 || true; wait "${servers[0]}" || true; servers=(); }
idle() { ask info persistence | tr -d '\r' | grep "^$1:0"; }

backup() {
    serve "$repository"
    ask debug populate 20000 key 300
    ask bgsave; await idle rdb_bgsave_in_progress
    for i in $(seq 1 500); do echo "set named:$i value-$i"; done | ask > /dev/null
    ask bgrewriteaof; sleep 0.3; await idle aof_rewrite_in_progress
    for i in $(seq 1 500); do echo "incr counter"; done | ask > /dev/null
    ask info persistence | tr -d '\r' > "$local/state"
    for what in rdb_last_bgsave_status aof_last_bgrewrite_status aof_last_write_status; do
        grep -q "^$what:ok" "$local/state" || fail "$what is not ok: $(tail -5 "$local/redis.log")"
    done
    sleep 1.5 # Longer than the second after which it is synchronised.
    ask debug digest > "$local/digest"
    stop
    redis-check-rdb "$repository/dump.rdb"
}

restore() {
    redis-check-aof "$repository"/appendonlydir/*.manifest
    serve "$repository"
    [ "$(ask debug digest)" = "$(cat "$local/digest")" ] || fail "another data set"
    [ "$(ask get counter)" = 500 ] || fail "counter"
    stop
    cp -a "$repository" "$local/copy"
    serve "$local/copy"
    [ "$(ask debug digest)" = "$(cat "$local/digest")" ] || fail "another data set in the copy"
    stop
}
"$phase"
