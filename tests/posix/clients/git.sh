#!/usr/bin/env bash
# git: a bare repository that is pushed to and packed, and a working tree, both on the mount.
. "${BASH_SOURCE%/*}/common.sh"
export GIT_CONFIG_NOSYSTEM=1

backup() {
    git config --global user.name tester; git config --global user.email tester@example.invalid
    git config --global init.defaultBranch main; git config --global safe.directory '*'
    git init --bare "$repository/bare"
    git clone "$repository/bare" "$repository/tree"
    sample "$repository/tree/files"
    rmdir "$repository/tree/files/empty" # git keeps none
    cd "$repository/tree"
    git add .; git commit -q -m first
    change files; rm files/holes
    git add -A; git commit -q -m second; git tag -a -m tagged v1
    git branch other HEAD~1
    git push --all; git push --tags
    git gc; git fsck --full --strict
    git -C "$repository/bare" repack -adf
    [ -z "$(git status --porcelain)" ] || fail "the tree is not clean"
    git rev-parse HEAD > "$local/head"
}

restore() {
    git -C "$repository/bare" fsck --full --strict
    git -C "$repository/tree" fsck --full --strict
    [ -z "$(git -C "$repository/tree" status --porcelain)" ] || fail "the tree is not clean"
    git clone --no-hardlinks "$repository/bare" "$local/clone"
    [ "$(git -C "$local/clone" rev-parse HEAD)" = "$(cat "$local/head")" ] || fail "another head"
    diff -r --no-dereference "$repository/tree/files" "$local/clone/files"
    cd "$repository/tree"
    git checkout -q other; [ -e files/holes ] || fail "checkout of the first commit"
    git checkout -q main; git stash list; git worktree add ../second other
    git worktree remove ../second
}
"$phase"
