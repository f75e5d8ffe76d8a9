//! Thousands of inputs that are almost valid, for every parser of outside bytes: none may panic, ask for
//! an absurd amount of memory, or accept what makes no sense. The functions are the fuzz targets' own;
//! `make fuzz` goes on where this ends.
#![allow(clippy::print_stderr, reason = "a failing run says how to repeat it")]

#[path = "fuzz/parsers/mod.rs"]
mod parsers;

use parsers::{PARSERS, parser};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// Inputs for each parser.
const INPUTS: usize = 20_000;
/// The largest piece of memory that a parser may ask for at once, beside what its input justifies.
const ALLOCATION: usize = 4 << 20;

thread_local! {
    /// The largest allocation of this thread since it was reset.
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, which notes what it is asked for.
struct Noting;

impl Noting {
    fn note(size: usize) {
        // A thread that ends has none any more.
        let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(size)));
    }
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Noting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::note(layout.size());
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::note(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::note(size);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Noting = Noting;

/// One input changed in one to eight places, sometimes with a part of another one.
fn mutated(seeds: &[Vec<u8>], random: &mut StdRng) -> Vec<u8> {
    let mut input = seeds[random.random_range(0..seeds.len())].clone();
    for _ in 0..random.random_range(1..=8) {
        let length = input.len();
        let at = random.random_range(0..=length);
        let end = at + random.random_range(0..=(length - at).min(64));
        match random.random_range(0..9) {
            0 if at < length => input[at] ^= 1 << random.random_range(0..8),
            1 if at < length => input[at] = random.random(),
            // Numbers at the ends of their ranges, of one to eight bytes.
            2 => {
                let width = 1 << random.random_range(0..4);
                let number = [0, 1, 0x7f, 0x80, 0xff][random.random_range(0..5)];
                input[at..].iter_mut().take(width).for_each(|byte| *byte = number);
            }
            3 => input.truncate(at),
            4 => drop(input.drain(at..end)),
            5 => {
                let copy = input[at..end].to_vec();
                input.splice(at..at, copy);
            }
            6 => {
                let mut bytes = vec![0; random.random_range(1..=16)];
                random.fill_bytes(&mut bytes);
                input.splice(at..at, bytes);
            }
            7 => {
                let other = &seeds[random.random_range(0..seeds.len())];
                let from = random.random_range(0..=other.len());
                input.splice(at..end, other[from..].iter().copied());
            }
            // A varint without an end, a brace, an escape: what parsers trip over.
            _ => {
                let pieces: [&[u8]; 8] = [
                    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
                    b"{",
                    b"\"",
                    b"%",
                    b"/",
                    b"\n",
                    b"\0",
                    b"[[",
                ];
                input.splice(at..at, pieces[random.random_range(0..8)].iter().copied());
            }
        }
    }
    input
}

fn survives(name: &str) {
    let parser = parser(name);
    let seeds = (parser.seeds)();
    let fresh = || {
        let mut bytes = [0; 8];
        aws_lc_rs::rand::fill(&mut bytes).expect("the system's random source works");
        u64::from_le_bytes(bytes)
    };
    let given = std::env::var("STRONGROOM_SEED").ok();
    let seed = given.map_or_else(fresh, |text| text.parse().expect("a number"));
    let mut random = StdRng::seed_from_u64(seed);
    let mutations = (0..INPUTS).map(|_| mutated(&seeds, &mut random)).collect::<Vec<_>>();
    for input in seeds.iter().chain(&mutations) {
        LARGEST.set(0);
        let outcome = std::panic::catch_unwind(|| (parser.check)(input));
        let hex = || input.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert!(outcome.is_ok(), "STRONGROOM_SEED={seed}, {name} panics on {}", hex());
        let largest = LARGEST.get();
        let allowed = ALLOCATION + 256 * input.len();
        assert!(largest <= allowed, "STRONGROOM_SEED={seed}, {name} wants {largest} B: {}", hex());
    }
}

/// One test for each row of the table.
macro_rules! survive {
    ($($name:ident),+ $(,)?) => {
        $(#[test] fn $name() { survives(stringify!($name)) })+
        const TESTED: &[&str] = &[$(stringify!($name)),+];
    };
}

survive!(
    record_open,
    segment_open,
    datasafed,
    keyring_json,
    descriptor,
    record_decode,
    page_decode,
    session,
    manifest,
    object_keys,
    store_names,
    url,
    config_file,
    ledger,
    state_entry,
    files_entry,
    attach_message,
    template,
    object_headers,
    ftp_line,
    passphrase,
);

#[test]
fn every_parser_is_tested_and_has_a_fuzz_target() {
    let names: Vec<&str> = PARSERS.iter().map(|parser| parser.name).collect();
    assert_eq!(names, TESTED);
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fuzz");
    let package = std::fs::read_to_string(format!("{folder}/Cargo.toml")).expect("readable");
    for name in names {
        let target = std::fs::read_to_string(format!("{folder}/fuzz_targets/{name}.rs"));
        assert!(target.is_ok_and(|text| text.contains(&format!("parser(\"{name}\")"))), "{name}");
        assert!(package.contains(&format!("name = \"{name}\"")), "{name}");
    }
}

#[test]
fn the_allocator_sees_a_large_allocation() {
    LARGEST.set(0);
    std::hint::black_box(vec![0_u8; ALLOCATION + 1]);
    assert!(LARGEST.get() > ALLOCATION);
}
