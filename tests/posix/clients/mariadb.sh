#!/usr/bin/env bash
# mariadb-backup: a full and an incremental copy, prepared where they lie; a streamed one; mariadb-dump. Then servers on
# what came back, and one on the mount itself.
. "${BASH_SOURCE%/*}/common.sh"
server() { command -v mariadbd || echo /usr/sbin/mariadbd; }
sql() { mariadb --no-defaults -u root -S "$local/socket" -N -B -e "$1" here; }
answers() { mariadb-admin --no-defaults -u root -S "$local/socket" ping; }

serve() { # DATA
    "$(server)" --no-defaults --user=root --datadir="$1" --socket="$local/socket" --skip-networking \
        --pid-file="$local/pid" --innodb-buffer-pool-size=32M --innodb-log-file-size=8M \
        --log-error="$local/log.err" &
    servers=($!)
    await answers || { tail -20 "$local/log.err"; fail "no server on $1"; }
}
stop() { mariadb-admin --no-defaults -u root -S "$local/socket" shutdown; wait "${servers[0]}"; servers=(); }

work() { # NUMBER
    sql "update small set v = v + $1 where id % 3 = 0; delete from big where i % 50 = $1;
         insert into big select 900000 + $1 * 1000 + seq, 'work $1' from seq_1_to_500"
}
content() {
    sql "select count(*), sum(v), sum(crc32(concat(id, ':', v))) from small;
         select count(*), sum(i), sum(crc32(t)) from big; select count(*), sum(crc32(b)) from blobs"
}
copy() { mariadb-backup --no-defaults --backup -u root -S "$local/socket" --datadir="$local/data" "$@"; }
prepare() { mariadb-backup --no-defaults --prepare "$@"; }

backup() {
    mariadb-install-db --no-defaults --user=root --datadir="$local/data" --auth-root-authentication-method=normal
    serve "$local/data"
    mariadb --no-defaults -u root -S "$local/socket" -e 'create database here'
    sql "create table big (i int, t text, key (i)) as select seq i, repeat(md5(seq), 8) t from seq_1_to_40000;
         create table small (id int primary key, v bigint) as select seq id, 0 v from seq_1_to_2000;
         create table blobs (b longblob) engine = Aria as select repeat(md5(seq), 9999) b from seq_1_to_20"
    copy --target-dir="$repository/full"
    work 1
    copy --target-dir="$repository/later" --incremental-basedir="$repository/full"
    work 2
    copy --stream=mbstream | zstd -q > "$repository/stream.zst"
    mariadb-dump --no-defaults -u root -S "$local/socket" --single-transaction here > "$repository/dump.sql"
    content > "$local/content.last"
    stop
}

# A server on a directory has the content of a file.
holds() { # DATA CONTENT
    serve "$1"
    [ "$(content)" = "$(cat "$2")" ] || fail "$1 holds other content"
    mariadb-check --no-defaults -u root -S "$local/socket" here > /dev/null || fail "a table of $1 is damaged"
}

restore() {
    mkdir "$local/streamed"
    zstd -dcq "$repository/stream.zst" | mbstream -x -C "$local/streamed"
    prepare --target-dir="$local/streamed"
    holds "$local/streamed" "$local/content.last"
    mariadb --no-defaults -u root -S "$local/socket" -e 'drop database here; create database here'
    mariadb --no-defaults -u root -S "$local/socket" here < "$repository/dump.sql"
    [ "$(content)" = "$(cat "$local/content.last")" ] || fail "the dump holds other content"
    stop
    prepare --target-dir="$repository/full"
    prepare --target-dir="$repository/full" --incremental-dir="$repository/later"
    mariadb-backup --no-defaults --copy-back --target-dir="$repository/full" --datadir="$local/back"
    serve "$local/back"; content > "$local/content.later"; stop
    [ "$(sed -n '1s/\t.*//p' "$local/content.later")" = 2000 ] || fail "rows are missing"
    # Served where it was prepared: what the copy holds, and what is done to it there.
    holds "$repository/full" "$local/content.later"
    work 7; content > "$local/content.worked"
    stop
    holds "$repository/full" "$local/content.worked"
    stop
}
"$phase"
