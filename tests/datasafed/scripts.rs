//! Scripts as KubeBlocks and its addons have them, with the program under its name in PATH.

use crate::programs::{BOTH, Program};
use crate::worlds::{Place, World};
use std::os::unix::fs::symlink;
use std::process::Stdio;

/// Runs a script with `datasafed` being one of both; returns what it printed.
fn script(world: &World, program: Program, text: &str) -> String {
    let bin = world.local(&format!("bin-{program:?}"));
    std::fs::create_dir_all(&bin).expect("made");
    let command = world.call(program, program, ["unused"]).command();
    let link = bin.join("datasafed");
    if !link.exists() {
        symlink(command.get_program(), &link).expect("linked");
    }
    let path = std::env::var("PATH").expect("PATH is set");
    let mut shell = std::process::Command::new("bash");
    shell.args(["-c", text]).env_clear();
    let kept = ["HOME", "LD_LIBRARY_PATH"];
    shell.envs(std::env::vars_os().filter(|(name, _)| kept.iter().any(|kept| name == kept)));
    shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell.env("PATH", format!("{}:{path}", bin.display()));
    shell.env("CONF", world.local(&format!("{program:?}.conf")));
    let output =
        shell.current_dir(world.temporary.path()).stdin(Stdio::null()).output().expect("bash runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn same(world: &World, text: &str) -> String {
    let [real, ours] = BOTH.map(|program| script(world, program, text));
    assert_eq!(real, ours, "{text}");
    ours
}

/// The check of a repository, a backup with its size, a restore, and the removal of everything, as
/// KubeBlocks' jobs do it.
const LIFE: &str = r#"
set -euo pipefail
d() { datasafed ${1:+"$@"}; }
if [ -z "${DATASAFED_LOCAL_BACKEND_PATH:-}" ]; then d() { datasafed -c "$CONF" "$@"; }; fi
echo "pre-check" | d push - /pre/precheck.txt
d pull /pre/precheck.txt -
d rm /pre/precheck.txt
export DATASAFED_BACKEND_BASE_PATH=/prefix/ns/cluster-uid/mysql/backup-1
seq 1 200000 | d push -z zstd-fastest - base.tar.zst
echo log | d push - "wal/0001.log"
d stat / | grep TotalSize | awk '{print $2 > 0}'
[ "$(d list base.tar.zst)" == "base.tar.zst" ] && echo there
[ "$(d list nothing.tar.zst 2>/dev/null || true)" == "nothing.tar.zst" ] || echo missing
d list -f -r -o json / | tr -d ' \n' | grep -o '"path":"[^"]*"' | sort
d list wal/ -o long | awk '{print $2, $3}'
d pull base.tar.zst -d zstd-fastest - | md5sum
d pull "wal/0001.log" restored/0001.log
cat restored/0001.log
unset DATASAFED_BACKEND_BASE_PATH
path=/prefix/ns/cluster-uid/mysql/backup-1
DATASAFED_KOPIA_MAINTENANCE=true d rm -r "$path"
while [ "$path" != / ]; do
    path=$(dirname "$path")
    [ -z "$(d list "$path" 2>/dev/null || true)" ] || break
    [ "$path" = / ] || d rmdir "$path"
    echo "removed $path"
done
"#;

#[test]
fn a_backups_life_is_the_same_in_a_bucket() {
    let told = same(&World::new(Place::Bucket), LIFE);
    assert!(told.contains("there\nmissing"), "{told}");
}

#[test]
fn a_backups_life_is_the_same_in_a_bucket_encrypted() {
    same(&World::new(Place::Prefix).encrypted("AES-256-CFB"), LIFE);
}

#[test]
fn a_backups_life_is_the_same_in_a_mounted_directory() {
    same(&World::new(Place::Mounted), LIFE);
}

#[test]
fn a_backups_life_is_the_same_in_a_mounted_directory_encrypted() {
    same(&World::new(Place::Mounted).encrypted("AES-256-CFB"), LIFE);
}

#[test]
fn times_are_told_in_the_zone_of_the_process() {
    let world = World::new(Place::Bucket);
    for side in BOTH {
        world.call(side, side, ["push", "-", "x/y"]).run_with(Some(b"1")).good();
    }
    for zone in ["Asia/Shanghai", "America/St_Johns", "UTC", ""] {
        for arguments in [&["list", "-olong", "x/"][..], &["list", "-r", "-o", "json", "/"]] {
            let zones = BOTH.map(|side| {
                let call = world.call(side, side, arguments).envs([("TZ", zone)]);
                let text = String::from_utf8(call.run().good()).expect("text");
                let offsets: Vec<String> = text
                    .split(|c: char| c.is_whitespace() || c == '"')
                    .filter(|word| word.parse::<jiff::Timestamp>().is_ok())
                    .map(|time| time["2026-11-21T20:40:45".len()..].to_owned())
                    .collect();
                assert!(!offsets.is_empty(), "{text}");
                offsets
            });
            assert_eq!(zones[0], zones[1], "{zone} {arguments:?}");
        }
    }
}

#[test]
fn settings_of_the_environment_go_before_the_file() {
    let world = World::new(Place::Bucket);
    let push = |side, variable, value| {
        let call = world.call(side, side, ["push", "-", "x"]).envs([(variable, value)]);
        call.run_with(Some(b"1")).code
    };
    for side in BOTH {
        assert_eq!(push(side, "RCLONE_S3_ACCESS_KEY_ID", "nobody"), Some(1), "{side:?}");
        assert_eq!(
            push(side, "RCLONE_CONFIG_BACKEND_ACCESS_KEY_ID", "nobody"),
            Some(1),
            "{side:?}"
        );
        // Both take the root from the file alone.
        assert_eq!(push(side, "RCLONE_CONFIG_BACKEND_ROOT", "elsewhere"), Some(0), "{side:?}");
        assert_eq!(crate::stored::files(&world, side).len(), 1, "{side:?}");
    }
}

#[test]
fn a_configuration_in_every_dialect_says_the_same_to_both() {
    let world = World::new(Place::Directory);
    let conf = world.local("dialect.conf");
    let text = "\u{feff}# a comment\n; another\nearly = 1\n[storage]\ntype: local\n  root =  /tmp/none  \n\
                [extra]\nplain = a b  c\ncut = before#after\ncut2 = before ; after\n\
                single = 'it is'\ndouble = \"it is\"\nodd = 'it's'\nback = `keeps # and ;`\n\
                triple = \"\"\"keeps ; too\"\"\"\ncontinued = one \\\n   two \\\n three\n\
                several = `first\nsecond # third`\nempty =\nempty2 = \"\"\nequals = a=b:c\n\
                percent = %(plain)s\ndouble = last one counts\n\"quoted key\" = q\n- = first\n- = second\n\
                Case = 1\ncase = 2\nunicode = \u{fc}\n[other] ; comment\nx = y\n";
    std::fs::write(&conf, text).expect("written");
    let keys =
        "early plain cut cut2 single double odd back triple continued several empty empty2 equals \
                percent double|quoted key|- #1 #2 Case case CASE unicode x none"
            .split(['|', ' '])
            .chain(["quoted key"]);
    for key in keys {
        for section in ["extra", "other", "storage", "DEFAULT", "", "none"] {
            let item = format!("{section}.{key}");
            let [real, ours] = BOTH.map(|program| {
                program
                    .call([
                        std::ffi::OsStr::new("-c"),
                        conf.as_os_str(),
                        "getconf".as_ref(),
                        item.as_ref(),
                    ])
                    .run()
            });
            assert_eq!(real, ours, "{item}");
        }
    }
    let obscured = "[storage]\ntype = local\nroot = /tmp\n[x]\npass.need_obscure = secret\n";
    std::fs::write(&conf, obscured).expect("written");
    for program in BOTH {
        let call = program.call([
            std::ffi::OsStr::new("-c"),
            conf.as_os_str(),
            "getconf".as_ref(),
            "x.pass".as_ref(),
        ]);
        let told = String::from_utf8(call.run().good()).expect("text");
        let revealed = strongroom::config::obscure::reveal(told.trim_end());
        assert_eq!(revealed.as_deref(), Some("secret"), "{program:?}");
    }
}
