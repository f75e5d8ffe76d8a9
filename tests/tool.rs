//! The tool without a mount: what each command prints, stores and answers with its exit code.

mod support;

use support::{Backend, Volume, on_every_backend, random_bytes};

on_every_backend![push_and_pull];

fn push_and_pull(backend: Backend) {
    let volume = Volume::new(backend);
    let bytes = random_bytes(1, 100_000);
    std::fs::write(volume.local("a"), &bytes).expect("written");
    let (local, back) = (volume.local("a"), volume.local("b"));
    volume.tool(["push", local.to_str().unwrap(), &volume.at("dir/a")]).succeeded();
    volume.tool(["pull", &volume.at("dir/a"), back.to_str().unwrap()]).succeeded();
    assert!(std::fs::read(back).unwrap() == bytes);
}
