#!/usr/bin/env bash
# sqlite: a database in each journal mode, with a shared map, two writers at once, backup and vacuum.
. "${BASH_SOURCE%/*}/common.sh"
sql() { sqlite3 -batch -bail -cmd '.timeout 20000' "$@"; }
checked() { [ "$(sql "$1" 'pragma integrity_check')" = ok ] || fail "$1 is damaged"; }
content() { sql "$1" 'select count(*), sum(n), sum(length(data)) from t'; }

backup() {
    for mode in wal delete truncate persist; do
        db="$repository/$mode.db"
        sql "$db" "pragma journal_mode=$mode; pragma mmap_size=100000000;
            create table t(n integer primary key, data blob);
            with recursive c(n) as (select 1 union all select n + 1 from c where n < 4000)
            insert into t select n, randomblob(300) from c;"
        for writer in 1 2; do
            for i in 1 2 3 4 5 6; do
                echo "begin immediate; insert into t select 10000 * $writer + 100 * $i + n, randomblob(99)
                    from t where n <= 50; commit;"
            done | sql "$db" &
            servers+=($!)
        done
        wait "${servers[@]}"; servers=()
        sql "$db" "begin; delete from t where n % 7 = 0; rollback; delete from t where n % 5 = 0;"
        checked "$db"
        sql "$db" ".backup '$repository/$mode.copy'"
        sql "$db" "vacuum into '$repository/$mode.vacuumed'"
        content "$db" > "$local/$mode"
    done
}

restore() {
    for mode in wal delete truncate persist; do
        for db in "$repository/$mode.db" "$repository/$mode.copy" "$repository/$mode.vacuumed"; do
            checked "$db"
            [ "$(content "$db")" = "$(cat "$local/$mode")" ] || fail "$db has other content"
        done
        sql "$repository/$mode.db" "insert into t values(-1, 'after'); vacuum;"
        checked "$repository/$mode.db"
    done
}
"$phase"
