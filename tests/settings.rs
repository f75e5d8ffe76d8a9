//! Settings: a flag wins over the environment, the environment over the configuration file; and what
//! each of them does to a mount.

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use support::{Backend, Run, Volume, set_mode};

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are text")
}

/// Runs the tool with a configuration file and variables.
fn run(volume: &Volume, arguments: &[&str], config: &str, variables: &[(&str, &str)]) -> Run {
    let file = volume.local("config.toml");
    fs::write(&file, config).expect("written");
    let mut command = volume.command(arguments);
    command.env("STRONGROOM_CONFIG", &file).envs(variables.iter().copied());
    volume.run(&mut command, None)
}

#[test]
fn a_flag_wins_over_the_environment_and_that_over_the_file() {
    let volume = Volume::new(Backend::Minio);
    let minio = volume.minio.as_ref().expect("a server");
    let right = minio
        .environment()
        .into_iter()
        .find(|(name, _)| *name == "AWS_ENDPOINT_URL")
        .expect("set")
        .1;
    let wrong = "http://127.0.0.1:1";
    let ls = |flags: &[&str], variables: &[(&str, &str)], file: &str| {
        let mut arguments = vec!["ls", &volume.url, "--io-timeout", "1s"];
        arguments.extend(flags);
        run(&volume, &arguments, &format!("endpoint = {file:?}\n"), variables)
    };
    let ours = "STRONGROOM_ENDPOINT";
    let theirs = "AWS_ENDPOINT_URL";
    ls(&["--endpoint", &right], &[(ours, wrong)], wrong).succeeded();
    ls(&["--endpoint", wrong], &[(ours, &right)], &right).failed_saying(&[wrong]);
    ls(&[], &[(ours, &right), (theirs, wrong)], wrong).succeeded();
    ls(&[], &[(theirs, &right)], wrong).succeeded();
    ls(&[], &[(theirs, wrong)], &right).failed_saying(&[wrong]);
    // What is set to nothing is not set, as manifests do it with values that may be absent.
    ls(&[], &[(theirs, ""), (ours, "")], &right).succeeded();
    let empty =
        ["STRONGROOM_IO_TIMEOUT", "STRONGROOM_PATH_STYLE", "STRONGROOM_CA_BUNDLE", "AWS_REGION"];
    let empty: Vec<_> = empty.iter().map(|name| (*name, "")).collect();
    run(&volume, &["ls", &volume.url], "", &empty).succeeded();
}

#[test]
fn values_that_cannot_be_are_refused_wherever_they_stand() {
    let volume = Volume::new(Backend::Dir);
    let path = volume.local("mnt");
    fs::create_dir(&path).expect("made");
    let mount = ["mount", &volume.url, text(&path)];
    for (name, value, example) in [
        ("MEMORY_LIMIT", "much", "256MiB"),
        ("ATTRIBUTE_TTL", "soon", "90s"),
        ("IO_TIMEOUT", "bogus", "5m"),
        ("DIR_MODE", "0999", "0755"),
        ("FILE_MODE", "rwx", "0755"),
        ("UMASK", "77777", "0755"),
        ("DURABILITY", "never", "fsync"),
    ] {
        let variable = format!("STRONGROOM_{name}");
        let said = run(&volume, &mount, "", &[(&variable, value)]);
        let said = String::from_utf8_lossy(&said.output.stderr).into_owned();
        assert!(said.contains(value) && said.contains(example), "{name}: {said}");
        let key = name.to_lowercase();
        run(&volume, &mount, &format!("{key} = {value:?}\n"), &[]).failed_saying(&[&key, value]);
    }
    run(&volume, &mount, "exclusive = true\n", &[("STRONGROOM_READ_ONLY", "1")])
        .failed_saying(&["--read-only", "--exclusive"]);
    run(&volume, &["ls", &volume.url], "log = \"a=b=c\"\n", &[]).failed_saying(&["log", "a=b=c"]);
    run(&volume, &["ls", &volume.url], "log_format = \"xml\"\n", &[])
        .failed_saying(&["xml", "json"]);
}

#[test]
fn switches_are_on_and_off_by_file_environment_and_flag() {
    let volume = Volume::new(Backend::Dir);
    let config = volume.temporary.path().join(".config/strongroom");
    fs::create_dir_all(&config).expect("made");
    fs::write(config.join("config.toml"), "read_only = true\n").expect("written");
    let mount = volume.mount();
    fs::write(mount.join("file"), "x").expect_err("read-only by the file");
    mount.unmount();
    let mount = volume.mount_with(&["--read-only=false"]);
    fs::write(mount.join("file"), "x").expect("a flag wins");
    mount.unmount();
}

#[test]
fn a_profile_that_is_named_wins_over_keys_in_the_environment() {
    let volume = Volume::new(Backend::Minio);
    let minio = volume.minio.as_ref().expect("a server");
    let value = |wanted: &str| {
        minio.environment().into_iter().find(|(name, _)| *name == wanted).expect("set").1
    };
    let (id, secret) = (value("AWS_ACCESS_KEY_ID"), value("AWS_SECRET_ACCESS_KEY"));
    let credentials = volume.local("credentials");
    let profile = format!("[good]\naws_access_key_id = {id}\naws_secret_access_key = {secret}\n");
    fs::write(&credentials, profile).expect("written");
    set_mode(&credentials, 0o600);
    let wrong = [
        ("AWS_SHARED_CREDENTIALS_FILE", text(&credentials)),
        ("AWS_ACCESS_KEY_ID", "nobody"),
        ("AWS_SECRET_ACCESS_KEY", "nothing at all"),
    ];
    run(&volume, &["ls", &volume.url, "--profile", "good"], "", &wrong).succeeded();
    let ours = [&wrong[..], &[("STRONGROOM_PROFILE", "good")]].concat();
    run(&volume, &["ls", &volume.url], "", &ours).succeeded();
    // As with Amazon's own tools, keys in the environment win over a profile that stands beside them.
    let theirs = [&wrong[..], &[("AWS_PROFILE", "good")]].concat();
    run(&volume, &["ls", &volume.url], "", &theirs).failed_saying(&["InvalidAccessKeyId"]);
    let mut alone = volume.command(["ls", &volume.url]);
    alone.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
    alone.env("AWS_SHARED_CREDENTIALS_FILE", &credentials).env("AWS_PROFILE", "good");
    volume.run(&mut alone, None).succeeded();
    run(&volume, &["ls", &volume.url, "--profile", "none"], "", &wrong)
        .failed_saying(&["no credentials"]);
}

/// What stat(2) shows of a path: permission bits, owner and group.
fn shown(path: PathBuf) -> (u32, u32, u32) {
    let metadata = fs::symlink_metadata(path).expect("there");
    (metadata.mode() & 0o7777, metadata.uid(), metadata.gid())
}

/// As csi-s3's users pass them, for pods that are not root.
#[test]
fn modes_and_owners_are_what_the_flags_say_and_chmod_still_works() {
    let volume = Volume::new(Backend::Dir);
    let flags = ["--dir-mode", "0777", "--file-mode", "0666", "--uid", "1001", "--gid", "1002"];
    let mount = volume.mount_with(&flags);
    assert_eq!(shown(mount.path.clone()), (0o777, 1001, 1002));
    // Somebody else than root, who made the volume.
    let script = "umask 077 && mkdir d && echo x > d/f && echo y > d/g && chmod 640 d/g && cat d/f";
    let made = Command::new("setpriv")
        .args(["--reuid=1001", "--regid=1002", "--clear-groups", "sh", "-ec", script])
        .current_dir(&mount.path)
        .status();
    assert!(made.expect("setpriv runs").success(), "{}", mount.log());
    assert_eq!(shown(mount.join("d")), (0o777, 1001, 1002));
    assert_eq!(shown(mount.join("d/f")), (0o666, 1001, 1002));
    assert_eq!(shown(mount.join("d/g")), (0o640, 1001, 1002));
    chown(mount.join("d/g"), Some(7), Some(8)).expect("root may");
    assert_eq!(shown(mount.join("d/g")), (0o640, 1001, 1002));
    mount.unmount();
    // The volume has the makers, and what chown set.
    let mount = volume.mount_with(&["--umask", "027"]);
    assert_eq!(shown(mount.path.clone()), (0o755, 0, 0));
    assert_eq!(shown(mount.join("d/f")), (0o666, 1001, 1002));
    assert_eq!(shown(mount.join("d/g")), (0o640, 7, 8));
    fs::write(mount.join("mine"), "x").expect("written");
    set_mode(&mount.join("d"), 0o2777);
    fs::create_dir(mount.join("d/inner")).expect("made");
    // A directory whose set-group-id bit is set gives its group and the bit to what is made in it.
    assert_eq!(shown(mount.join("d/inner")), (0o2750, 0, 1002));
    assert_eq!(shown(mount.join("mine")).0 & 0o027, 0);
    let mode = fs::metadata(mount.join("d/inner")).expect("there").permissions().mode();
    assert_eq!(mode & 0o7777, 0o2750);
    mount.unmount();
}

#[test]
fn a_failure_does_not_keep_a_command_from_the_rest() {
    let volume = Volume::new(Backend::Dir);
    for name in ["a", "b"] {
        volume.tool_with_input(["push", "-", &volume.at(name)], name.as_bytes()).succeeded();
    }
    let (a, b, missing) = (volume.at("a"), volume.at("b"), volume.at("missing"));
    let said = volume.tool(["cat", &a, &missing, &b]);
    assert_eq!(said.output.stdout, b"ab");
    said.failed_saying(&["missing"]);
    volume.tool(["rm", &missing, &a, &b]).failed_saying(&["missing"]);
    assert_eq!(volume.tool(["ls", &volume.url]).succeeded(), "");
    volume.tool(["undelete", &missing, &a]).failed_saying(&["missing"]);
    volume.tool(["mkdir", &a, &volume.at("d")]).failed_saying(&["/a: "]);
    volume.tool(["rmdir", &a, &volume.at("d")]).failed_saying(&["/a: "]);
    assert_eq!(volume.tool(["ls", &volume.url]).succeeded(), "a\n");
}

#[test]
fn every_command_has_a_manual_page() {
    let volume = Volume::place(Backend::Dir);
    let pages = volume.local("man1");
    volume.tool(["man", "--directory", text(&pages)]).succeeded();
    let help = volume.tool(["help"]).succeeded();
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands: Vec<&str> = commands
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    assert!(commands.len() > 15, "{commands:?}");
    for command in commands {
        let page = fs::read_to_string(pages.join(format!("strongroom-{command}.1")));
        let page = page.expect("a page");
        assert!(page.contains(".SH OPTIONS") && page.contains("Example"), "{command}");
    }
    let page = volume.tool(["man", "key", "add"]).succeeded();
    assert!(page.contains("new\\-passphrase\\-file"), "{page}");
    volume.tool(["man", "nonsense"]).failed_saying(&["nonsense", "strongroom help"]);
}

#[test]
fn commands_for_clusters_say_which_program_they_need() {
    let volume = Volume::place(Backend::Dir);
    let alone = volume.local("strongroom");
    support::programs::copy(support::STRONGROOM, &alone);
    let output = std::process::Command::new(&alone)
        .args(["backuprepo", "list"])
        .env("PATH", volume.local("nowhere"))
        .output()
        .expect("it starts");
    let said = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.starts_with("strongroom: strongroom-csi: No such file"), "{said}");
    assert!(said.contains("in PATH"), "{said}");
    // What lies beside it is run, with the words as they are.
    support::programs::copy("/bin/echo", volume.local("strongroom-csi"));
    let words = ["backuprepo", "create", "x", "--provider", "s3", "--help"];
    let output = std::process::Command::new(&alone).args(words).output().expect("it starts");
    assert_eq!(String::from_utf8(output.stdout).expect("text"), format!("{}\n", words.join(" ")));
}
