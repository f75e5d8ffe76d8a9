#!/usr/bin/env bash
# As kubelet and a pod have it: a directory of a group with setgid, written by users that no file of this machine names.
. "${BASH_SOURCE%/*}/common.sh"
group=2345
as() { setpriv --reuid "$1" --regid "$1" --groups "$group" --inh-caps=-all -- "${@:2}"; }
told() { stat -c '%u %g %a' "$1"; }

backup() {
    chmod 755 "$local"
    chown ":$group" "$repository"; chmod 2775 "$repository"
    as 100123 bash -c "umask 007 && mkdir -p '$repository/of/one' && echo one > '$repository/of/one/file'"
    [ "$(told "$repository/of")" = "100123 $group 2770" ] || fail "directory: $(told "$repository/of")"
    [ "$(told "$repository/of/one/file")" = "100123 $group 660" ] || fail "file: $(told "$repository/of/one/file")"
    # The other one is of the group; a third is not.
    as 100777 bash -c "umask 007 && echo two >> '$repository/of/one/file' && echo other > '$repository/of/other'"
    if setpriv --reuid 5 --regid 5 --clear-groups cat "$repository/of/other" 2> /dev/null; then
        fail "read by whoever is not of the group"
    fi
    if as 100777 chmod 600 "$repository/of/one/file" 2> /dev/null; then fail "chmod by who does not own it"; fi
    as 100777 mv "$repository/of/one/file" "$repository/of/moved"
    chmod 1777 "$repository/of/one"
    as 100123 touch "$repository/of/one/mine"
    if as 100777 rm -f "$repository/of/one/mine" 2> /dev/null; then fail "removed in spite of the sticky bit"; fi
    # What kubelet does to a volume that comes to have a group.
    find "$repository" -exec chown -h ":$group" {} + -exec chmod g+rwX {} +
    chown 100123 "$repository/of/other"
}

restore() {
    [ "$(told "$repository")" = "0 $group 2775" ] || fail "the root: $(told "$repository")"
    [ "$(told "$repository/of")" = "100123 $group 2770" ] || fail "directory: $(told "$repository/of")"
    [ "$(told "$repository/of/other")" = "100123 $group 660" ] || fail "owner: $(told "$repository/of/other")"
    # chmod(1) leaves a directory its setgid unless told otherwise.
    [ "$(told "$repository/of/one")" = "100123 $group 3777" ] || fail "sticky: $(told "$repository/of/one")"
    [ "$(as 100777 cat "$repository/of/moved")" = "$(printf 'one\ntwo')" ] || fail "content"
    as 100777 bash -c "echo three >> '$repository/of/moved'"
    as 100123 rm -r "$repository/of/one"
}
"$phase"
