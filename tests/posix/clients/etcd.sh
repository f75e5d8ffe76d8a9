#!/usr/bin/env bash
# etcdctl: snapshots of a running server, their state asked for; restored on the mount, and served from there.
. "${BASH_SOURCE%/*}/common.sh"
export ETCDCTL_API=3 ETCDCTL_ENDPOINTS=unix://localhost:1
cd "$local"
ask() { (cd "$local" && etcdctl "$@"); }
serve() { # DATA
    etcd --name here --data-dir "$1" --listen-client-urls unix://localhost:1 --advertise-client-urls http://localhost:1 \
        --listen-peer-urls unix://localhost:2 --initial-advertise-peer-urls http://localhost:2 \
        --initial-cluster here=http://localhost:2 --snapshot-count 500 > "$local/log" 2>&1 &
    servers=($!)
    await ask endpoint health
}
stop() { kill "${servers[0]}"; wait "${servers[0]}" || true; servers=(); }
fill() { # FIRST LAST
    local i; for i in $(seq "$1" "$2"); do printf 'put /keys/%d "%s"\n\n' "$i" "$(head -c 600 /dev/zero | tr '\0' "$((i % 10))")"; done \
        | while read -r line; do [ -z "$line" ] || echo "$line"; done > "$local/puts"
    # Many in one process, a transaction for every hundred of them.
    split -l 100 "$local/puts" "$local/puts."
    local part; for part in "$local"/puts.*; do printf '\n%s\n\n\n' "$(cat "$part")" | ask txn > /dev/null; done
    rm "$local"/puts.*
}
content() { ask get /keys/ --prefix | sha256sum; }

backup() {
    serve "$local/data"
    fill 1 2000
    content > "$local/content.first"
    ask snapshot save "$repository/first.db"
    fill 1500 4000; ask del /keys/10 > /dev/null
    content > "$local/content"
    ask snapshot save "$repository/second.db"
    ask snapshot status "$repository/second.db" > "$local/status"
    ask snapshot save "$repository/second.db" # Over the one that is there.
    stop
}

restored() { # SNAPSHOT DATA CONTENT
    ask snapshot restore "$1" --name here --data-dir "$2" --initial-cluster here=http://localhost:2 \
        --initial-advertise-peer-urls http://localhost:2
    serve "$2"
    [ "$(content)" = "$(cat "$3")" ] || fail "$2 holds other keys"
}

restore() {
    ask snapshot status "$repository/second.db" | cmp - "$local/status"
    restored "$repository/first.db" "$local/first" "$local/content.first"; stop
    restored "$repository/second.db" "$repository/member" "$local/content"
    fill 5000 6500; ask compact 5 > /dev/null; ask defrag
    content > "$local/content.worked"
    stop
    serve "$repository/member"
    [ "$(content)" = "$(cat "$local/content.worked")" ] || fail "the server on the mount lost something"
    stop
}
"$phase"
