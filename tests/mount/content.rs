//! The bytes of files: written in every way, read by every other, after a remount.

use crate::support::{self, Backend, Volume, on_every_backend, random_bytes, seed};
use crate::{check_after_remount, read_write, run};
use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::{Whence, lseek};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

on_every_backend![
    a_large_file_is_the_same_after_a_remount,
    random_overwrites_are_kept,
    appends_and_truncations_are_kept,
    holes_are_found_and_punched,
    memory_maps_see_and_make_changes,
    synchronous_and_direct_writes_are_kept,
    reads_that_end_within_a_chunk_see_later_changes,
    who_reads_on_sees_what_was_changed_ahead,
    copy_file_range_copies,
    cfb_and_plain_volumes_work_alike,
];

fn a_large_file_is_the_same_after_a_remount(backend: Backend) {
    const MIB: u64 = 1024;
    let volume = Volume::new(backend);
    let source = volume.local("source");
    {
        let mut file = File::create(&source).expect("created");
        for index in 0..MIB {
            file.write_all(&random_bytes(index, 1 << 20)).expect("written");
        }
    }
    let expected = checksum(&source);
    let mount = volume.mount();
    let (from, to) =
        (format!("if={}", source.display()), format!("of={}/big", mount.path.display()));
    run("dd", &[&from, &to, "bs=1M", "conv=fsync"].map(OsStr::new));
    fs::remove_file(&source).expect("removed");
    assert_eq!(fs::metadata(mount.join("big")).expect("there").len(), MIB << 20);
    mount.unmount();

    let mount = volume.mount();
    assert_eq!(checksum(&mount.join("big")), expected, "by the mount");
    mount.unmount();
    let back = volume.local("back");
    volume.tool(["pull", &volume.at("big"), back.to_str().expect("text")]).succeeded();
    assert_eq!(checksum(&back), expected, "by the tool");
}

fn checksum(path: &Path) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut file = File::open(path).expect("open");
    std::io::copy(&mut file, &mut hasher).expect("readable");
    hasher.finalize().to_hex().to_string()
}

fn random_overwrites_are_kept(backend: Backend) {
    let mut random = StdRng::seed_from_u64(seed());
    let volume = Volume::new(backend);
    let mut model = random_bytes(1, 20_000_000);
    let mut mount = volume.mount();
    fs::write(mount.join("file"), &model).expect("written");
    for round in 0..3 {
        let file = read_write(&mount.join("file"));
        for step in 0..200 {
            let length = random.random_range(1..=if step % 10 == 0 { 1_000_000 } else { 9_000 });
            let offset = random.random_range(0..model.len() + 50_000);
            let bytes = random_bytes(random.random(), length);
            file.write_all_at(&bytes, offset as u64).expect("written");
            if model.len() < offset + length {
                model.resize(offset + length, 0);
            }
            model[offset..offset + length].copy_from_slice(&bytes);
            // What was just written is read at once, by the same handle, before it is in the store.
            let start = offset.saturating_sub(500);
            let mut found = vec![0; (length + 1000).min(model.len() - start)];
            file.read_exact_at(&mut found, start as u64).expect("read");
            assert!(found == model[start..start + found.len()], "round {round}, step {step}");
            if step % 50 == 49 {
                file.sync_all().expect("stored");
            }
        }
        drop(file);
        mount.unmount();
        check_after_remount(&volume, "file", &model);
        mount = volume.mount();
    }
    mount.unmount();
}

fn appends_and_truncations_are_kept(backend: Backend) {
    let volume = Volume::new(backend);
    let mount = volume.mount();
    let path = mount.join("log");
    let mut model = Vec::new();
    for index in 0..300 {
        let mut file = OpenOptions::new().append(true).create(true).open(&path).expect("open");
        let line = random_bytes(index, 100 + index as usize * 7);
        file.write_all(&line).expect("appended");
        model.extend_from_slice(&line);
    }
    assert!(fs::read(&path).expect("read") == model);
    let file = read_write(&path);
    // Within what is inline, across a segment's middle, to nothing, and beyond the end again.
    for length in [200_000, 70_000, 65_536, 100, 5_000_000, 4_000_000, 0, 12_345] {
        file.set_len(length).expect("truncated");
        model.resize(length as usize, 0);
        assert_eq!(file.metadata().expect("there").len(), length);
        file.write_all_at(b"mark", length / 2).expect("written");
        let end = (length as usize / 2 + 4).max(model.len());
        model.resize(end, 0);
        model[length as usize / 2..length as usize / 2 + 4].copy_from_slice(b"mark");
        file.sync_all().expect("stored");
        assert!(fs::read(&path).expect("read") == model, "after {length}");
    }
    drop(file);
    // By name, without an open handle.
    fs::write(mount.join("other"), random_bytes(9, 10_000_000)).expect("written");
    nix::unistd::truncate(&mount.join("other"), 3_000_001).expect("truncated");
    File::create(mount.join("emptied")).expect("created").write_all(b"text").expect("written");
    File::create(mount.join("emptied")).expect("opened with O_TRUNC");
    mount.unmount();
    check_after_remount(&volume, "log", &model);
    check_after_remount(&volume, "other", &random_bytes(9, 10_000_000)[..3_000_001]);
    check_after_remount(&volume, "emptied", b"");
}

fn holes_are_found_and_punched(backend: Backend) {
    const MIB: u64 = 1 << 20;
    let volume = Volume::new(backend);
    let mount = volume.mount();
    let file = read_write(&mount.join("sparse"));
    file.set_len(64 * MIB).expect("grown");
    file.write_all_at(&random_bytes(1, MIB as usize), 16 * MIB).expect("written");
    file.write_all_at(&random_bytes(2, MIB as usize), 40 * MIB).expect("written");
    file.sync_all().expect("stored");
    check_holes(&file, &[(16 * MIB, 17 * MIB), (40 * MIB, 41 * MIB)], 64 * MIB);
    fallocate(
        &file,
        FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE,
        16 * MIB as i64,
        MIB as i64 / 2,
    )
    .expect("punched");
    file.sync_all().expect("stored");
    check_holes(&file, &[(16 * MIB + MIB / 2, 17 * MIB), (40 * MIB, 41 * MIB)], 64 * MIB);
    fallocate(&file, FallocateFlags::empty(), 0, 70 * MIB as i64).expect("reserved");
    assert_eq!(file.metadata().expect("there").len(), 70 * MIB);
    drop(file);
    mount.unmount();

    let mut model = vec![0; 70 * MIB as usize];
    let first = random_bytes(1, MIB as usize);
    let half = MIB as usize / 2;
    model[16 * MIB as usize + half..17 * MIB as usize].copy_from_slice(&first[half..]);
    model[40 * MIB as usize..41 * MIB as usize].copy_from_slice(&random_bytes(2, MIB as usize));
    check_after_remount(&volume, "sparse", &model);
    if backend == Backend::Dir {
        let stored: u64 = support::files_below(&volume.store())
            .iter()
            .map(|path| path.metadata().expect("there").len())
            .sum();
        assert!(stored < 6 * MIB, "holes take room in the store: {stored} bytes");
    }
}

/// SEEK_DATA and SEEK_HOLE find exactly these ranges of data.
fn check_holes(file: &File, data: &[(u64, u64)], size: u64) {
    let mut found = Vec::new();
    let mut at = 0;
    while let Ok(start) = lseek(file, at, Whence::SeekData) {
        let end = lseek(file, start, Whence::SeekHole).expect("a hole or the end");
        found.push((start as u64, end as u64));
        at = end;
    }
    assert_eq!(found, data);
    assert_eq!(lseek(file, size as i64, Whence::SeekData), Err(nix::errno::Errno::ENXIO));
}

fn memory_maps_see_and_make_changes(backend: Backend) {
    use nix::sys::mman::{MapFlags, MmapAdvise, MsFlags, ProtFlags, madvise, mmap, msync, munmap};
    const LENGTH: usize = 1 << 20;
    let volume = Volume::new(backend);
    let mount = volume.mount();
    let path = mount.join("mapped");
    let mut model = random_bytes(1, LENGTH);
    fs::write(&path, &model).expect("written");
    let file = read_write(&path);
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    let length = std::num::NonZeroUsize::new(LENGTH).expect("not zero");
    // SAFETY: the address is the kernel's choice and the file is LENGTH bytes long as long as it is mapped.
    let map =
        unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, &file, 0) }.expect("mapped");
    // SAFETY: the mapping is LENGTH readable and writable bytes, used here alone until munmap.
    let bytes = unsafe { std::slice::from_raw_parts_mut(map.cast::<u8>().as_ptr(), LENGTH) };
    assert!(bytes == model.as_slice(), "the map shows what was written");
    for at in [0, 4095, 4096, 123_456, LENGTH - 5] {
        bytes[at..at + 5].copy_from_slice(b"magic");
        model[at..at + 5].copy_from_slice(b"magic");
    }
    // SAFETY: the range is the mapping's own.
    unsafe { madvise(map, LENGTH, MmapAdvise::MADV_SEQUENTIAL) }.expect("advised");
    // SAFETY: the same.
    unsafe { msync(map, LENGTH, MsFlags::MS_SYNC) }.expect("stored");
    assert!(fs::read(&path).expect("read") == model, "another handle sees the map's changes");
    // SAFETY: `bytes` is not used after this.
    unsafe { munmap(map, LENGTH) }.expect("unmapped");
    drop(file);
    mount.unmount();
    check_after_remount(&volume, "mapped", &model);
}

fn synchronous_and_direct_writes_are_kept(backend: Backend) {
    let volume = Volume::new(backend);
    let mount = volume.mount();
    let synchronous = |name: &str, flag| {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .custom_flags(flag)
            .open(mount.join(name))
            .expect("open")
    };
    let mut file = synchronous("sync", libc::O_SYNC);
    let mut model = Vec::new();
    for index in 0..20 {
        let bytes = random_bytes(index, 5000);
        file.write_all(&bytes).expect("written");
        model.extend_from_slice(&bytes);
    }
    let direct_bytes = random_bytes(99, 8 << 20);
    // Direct reads and writes want aligned memory on disks; the mount takes any.
    let direct = synchronous("direct", libc::O_DIRECT);
    for (index, block) in direct_bytes.chunks(1 << 19).enumerate() {
        direct.write_all_at(block, (index << 19) as u64).expect("written");
    }
    direct.write_all_at(b"over", 4096).expect("written");
    let mut expected = direct_bytes;
    expected[4096..4100].copy_from_slice(b"over");
    let mut found = vec![0; expected.len()];
    direct.read_exact_at(&mut found, 0).expect("read");
    assert!(found == expected);
    drop(direct);
    // O_SYNC needs no close: the server is killed while the file is open.
    let path = mount.kill9();
    drop(file);
    fs::remove_dir(path).expect("the mount point is empty");
    check_after_remount(&volume, "sync", &model);
    check_after_remount(&volume, "direct", &expected);
}

/// What was read beyond a request is not what a later one gets if the bytes have changed since.
fn reads_that_end_within_a_chunk_see_later_changes(backend: Backend) {
    let volume = Volume::new(backend);
    let mount = volume.mount();
    let path = mount.join("file");
    // Large enough for direct reads.
    let mut content = random_bytes(31, 9_000_000);
    fs::write(&path, &content).expect("written");
    let reader = File::open(&path).expect("opened");
    let writer = read_write(&path);
    let check = |content: &[u8], offset: usize, length: usize| {
        let mut bytes = vec![0; length];
        let expected = &content[offset..content.len().min(offset + length)];
        let read = reader.read_at(&mut bytes, offset as u64).expect("read");
        assert!(bytes[..read] == *expected, "{length} bytes at {offset}");
    };
    for (round, at) in [100_000, 1_000_000, 2_345_678, 8_900_000].into_iter().enumerate() {
        check(&content, at, 70_000);
        check(&content, at + 70_000, 20);
        check(&content, at, 70_000);
        content[at + 70_000] ^= 1 + round as u8;
        let changed = at + 70_000;
        writer.write_all_at(&content[changed..=changed], changed as u64).expect("written");
        check(&content, changed, 20);
        check(&content, at, 70_000);
        writer.sync_all().expect("stored");
        check(&content, changed, 20);
    }
    check(&content, 8_900_000, 80_000);
    content.truncate(8_980_010);
    writer.set_len(8_980_010).expect("cut");
    check(&content, 8_980_000, 20);
    content.resize(9_000_000, 0);
    writer.set_len(9_000_000).expect("grown");
    check(&content, 8_980_000, 20);
    drop((reader, writer));
    mount.unmount();
}

/// What is opened ahead of a reader must not be what it reads if it was changed meanwhile.
fn who_reads_on_sees_what_was_changed_ahead(backend: Backend) {
    const SIZE: usize = 24 << 20;
    let mut random = StdRng::seed_from_u64(seed());
    let volume = Volume::new(backend);
    let mount = volume.mount();
    let path = mount.join("file");
    for piece in [4096_usize, 100_000, 128 << 10, 1 << 20] {
        let mut expected = random_bytes(piece as u64, SIZE);
        fs::write(&path, &expected).expect("written");
        // One by the page cache, one past it.
        for flags in [0, libc::O_DIRECT] {
            if flags != 0 && !piece.is_multiple_of(4096) {
                continue;
            }
            let reader = OpenOptions::new().read(true).custom_flags(flags).open(&path);
            let reader = reader.expect("opened");
            let writer = OpenOptions::new().write(true).open(&path).expect("opened");
            let mut memory = vec![0; piece + 4096];
            let start = memory.as_ptr().align_offset(4096);
            let (mut at, mut reads) = (0, 0);
            loop {
                let buffer = &mut memory[start..start + piece];
                let count = reader.read_at(buffer, at as u64).expect("read");
                let end = (at + piece).min(expected.len());
                assert!(buffer[..count] == expected[at..end], "{piece} bytes at {at}, {flags}");
                if count == 0 {
                    break;
                }
                at += count;
                reads += 1;
                match reads * piece % (1 << 20) {
                    // Where the reader comes next, a little after that, and a shorter file.
                    rest if rest < piece && random.random_bool(0.5) => {
                        let ahead = at + random.random_range(0..3 << 20);
                        let bytes = random_bytes(at as u64, random.random_range(1..9000));
                        let end = (ahead + bytes.len()).min(expected.len());
                        if ahead < end {
                            let bytes = &bytes[..end - ahead];
                            writer.write_all_at(bytes, ahead as u64).expect("written");
                            expected[ahead..end].copy_from_slice(bytes);
                        }
                        if random.random_bool(0.3) {
                            writer.sync_all().expect("stored");
                        }
                        if random.random_bool(0.1) && expected.len() > at + 9000 {
                            let size = expected.len() - 4096;
                            writer.set_len(size as u64).expect("cut");
                            expected.truncate(size);
                        }
                    }
                    _ => {}
                }
            }
            assert_eq!(at, expected.len());
        }
    }
    mount.unmount();
}

fn copy_file_range_copies(backend: Backend) {
    let volume = Volume::new(backend);
    let mount = volume.mount();
    let source = random_bytes(5, 10_000_000);
    fs::write(mount.join("from"), &source).expect("written");
    let (from, to) = (File::open(mount.join("from")).unwrap(), read_write(&mount.join("to")));
    copy_range(&from, 1_000, &to, 500, 9_000_000);
    // What is changed later in one is not changed in the other.
    drop(from);
    read_write(&mount.join("from")).write_all_at(&[0; 100_000], 2_000_000).expect("written");
    drop(to);
    let mut expected = vec![0; 500];
    expected.extend_from_slice(&source[1_000..9_001_000]);
    assert!(fs::read(mount.join("to")).expect("read") == expected);
    fs::remove_file(mount.join("from")).expect("removed");
    run(
        "cp",
        &["--reflink=auto".as_ref(), mount.join("to").as_os_str(), mount.join("cp").as_os_str()],
    );
    mount.unmount();
    check_after_remount(&volume, "to", &expected);
    check_after_remount(&volume, "cp", &expected);
}

/// copy_file_range(2) until all is copied.
fn copy_range(from: &File, mut read_at: i64, to: &File, mut write_at: i64, mut left: usize) {
    while left > 0 {
        let (from, to) = (from.as_raw_fd(), to.as_raw_fd());
        // SAFETY: both descriptors are open for the call and both offsets outlive it.
        let copied = unsafe {
            libc::copy_file_range(from, &raw mut read_at, to, &raw mut write_at, left, 0)
        };
        assert!(copied > 0, "{copied}: {}", std::io::Error::last_os_error());
        left -= copied as usize;
    }
}

fn cfb_and_plain_volumes_work_alike(backend: Backend) {
    for suite in ["AES-256-CFB", "AES-192-CFB", "AES-128-CFB", "none"] {
        let volume = Volume::with_suite(backend, suite);
        let mount = volume.mount();
        fs::create_dir(mount.join("dir")).expect("made");
        let (small, large) = (random_bytes(1, 3000), random_bytes(2, 20_000_001));
        fs::write(mount.join("dir/small"), &small).expect("written");
        fs::write(mount.join("dir/large"), &large).expect("written");
        let mut file = read_write(&mount.join("dir/large"));
        file.seek(SeekFrom::Start(9_999_999)).expect("sought");
        file.write_all(b"in the middle").expect("written");
        drop(file);
        let missing = fs::metadata(mount.join("missing")).expect_err("missing");
        assert_eq!(missing.kind(), ErrorKind::NotFound);
        mount.unmount();
        let mut expected = large;
        expected[9_999_999..9_999_999 + 13].copy_from_slice(b"in the middle");
        check_after_remount(&volume, "dir/small", &small);
        check_after_remount(&volume, "dir/large", &expected);
    }
}
