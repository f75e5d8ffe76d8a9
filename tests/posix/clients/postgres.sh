#!/usr/bin/env bash
# PostgreSQL's own tools: pg_basebackup plain and as tar, pg_receivewal, pg_dump; then a cluster that runs
# on the restored files, and one that runs on the mount itself.
. "${BASH_SOURCE%/*}/common.sh"
. "${BASH_SOURCE%/*}/cluster.sh"

# Whether the receiver has stored everything up to a place in the log.
received() { [ "$(sql "select bool_and(flush_lsn >= '$1') from pg_stat_replication")" = t ]; }

backup() {
    install -d -o postgres "$repository/wal"; chown postgres "$repository"
    make_cluster "$local/data" <<< "wal_keep_size = 512MB"
    start_cluster "$local/data"
    as_postgres "$programs/pg_receivewal" -D "$repository/wal" --synchronous &
    receiver=$!; servers+=("$receiver")
    fill
    as_postgres "$programs/pg_basebackup" -D "$repository/plain" -Fp -c fast -X stream
    as_postgres "$programs/pg_basebackup" -D "$repository/tar" -Ft -z -c fast -X fetch
    work 1
    as_postgres "$programs/pg_dump" -Fd -j 2 -f "$repository/dump"
    as_postgres "$programs/pg_dump" -Fc -f "$repository/dump.custom"
    content > "$local/content"
    written=$(sql "select pg_switch_wal()")
    await received "$written"
    # runuser stands between; the program itself ends at the signal with what it has.
    kill -INT "$(pgrep -u postgres -f "pg_receivewal -D $repository/wal")"; wait "$receiver" || true
    stop_cluster "$local/data"
}

restore() {
    as_postgres "$programs/pg_verifybackup" "$repository/plain"
    rm -r "$local/data"; cp -a "$repository/plain" "$local/data"
    # The base backup, and all that was received since.
    printf "restore_command = 'cp %s/wal/%%f %%p || cp %s/wal/%%f.partial %%p'\n" \
        "$repository" "$repository" >> "$local/data/postgresql.conf"
    as_postgres touch "$local/data/recovery.signal"
    start_cluster "$local/data"
    [ "$(content)" = "$(cat "$local/content")" ] || fail "the cluster has other content"
    sql "create database again"
    "$programs/pg_restore" -d again -j 2 "$repository/dump"
    [ "$(PGDATABASE=again content)" = "$(cat "$local/content")" ] || fail "the dump has other content"
    "$programs/pg_restore" -l "$repository/dump.custom" > /dev/null
    stop_cluster "$local/data"
    start_cluster "$repository/plain"
    work 5; content > "$local/content"
    stop_cluster "$repository/plain"; start_cluster "$repository/plain"
    [ "$(content)" = "$(cat "$local/content")" ] || fail "the cluster on the mount lost something"
    "$programs/pg_amcheck" -a --install-missing > /dev/null || fail "damaged index or table"
    stop_cluster "$repository/plain"
    zcat "$repository/tar/base.tar.gz" | tar -tf - > /dev/null
}
"$phase"
