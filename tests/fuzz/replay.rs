//! The run itself.

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use fuzz::{TARGETS, Target};

use crate::corpus;

fn folder(target: &Target) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target.name)
}

fn cases(target: &Target) -> Vec<(String, Vec<u8>)> {
    let mut cases = Vec::new();
    for entry in fs::read_dir(folder(target)).expect("every target has a corpus") {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        cases.push((name, fs::read(path).unwrap()));
    }
    cases.sort();
    assert!(!cases.is_empty(), "{} has no case", target.name);
    cases
}

fn number(name: &str, otherwise: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.map_or(otherwise, |text| text.parse().expect("a number"))
}

/// Runs a body; a panic tells the case that made it, ready for the corpus.
fn run(target: &Target, what: &str, data: &[u8]) {
    if catch_unwind(AssertUnwindSafe(|| (target.body)(data))).is_err() {
        let aside = std::env::temp_dir().join(format!("fuzz-{}-{}", target.name, data.len()));
        fs::write(&aside, data).unwrap();
        panic!(
            "{} fails at {what}; the case is {}",
            target.name,
            aside.display()
        );
    }
}

/// SplitMix64, as in the simulation.
struct Chance(u64);

impl Chance {
    fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound.max(1)).unwrap();
        usize::try_from(self.number() % bound).unwrap()
    }
}

/// Numbers at which lengths and counts go wrong.
const EDGES: [u64; 9] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    u64::MAX,
];

/// Changes a case in one way.
fn mutate(data: &mut Vec<u8>, other: &[u8], chance: &mut Chance) {
    let at = chance.below(data.len() + 1);
    let to = at + chance.below(data.len() + 1 - at);
    match chance.below(9) {
        0 if at < data.len() => data[at] ^= 1 << chance.below(8),
        1 if at < data.len() => data[at] = u8::try_from(chance.below(256)).unwrap(),
        2 => data.truncate(at),
        3 => drop(data.drain(at..to.min(at + 40))),
        4 => {
            let again = data[at..to.min(at + 200)].to_vec();
            data.splice(at..at, again);
        }
        5 => {
            let edge = EDGES[chance.below(EDGES.len())].to_le_bytes();
            let length = [1, 2, 4, 8][chance.below(4)].min(data.len() - at);
            data[at..at + length].copy_from_slice(&edge[..length]);
        }
        6 => {
            let from = chance.below(other.len() + 1);
            data.truncate(at);
            data.extend_from_slice(&other[from..]);
        }
        7 => {
            let random: Vec<u8> = (0..chance.below(9))
                .map(|_| chance.number().to_le_bytes()[0])
                .collect();
            data.splice(at..at, random);
        }
        _ => {
            let from = chance.below(other.len() + 1);
            let piece = other[from..other.len().min(from + 30)].to_vec();
            data.splice(at..at, piece);
        }
    }
    data.truncate(64 << 10);
}

#[test]
fn no_decoder_panics_or_breaks_its_bounds_on_the_corpus_and_its_mutations() {
    if std::env::var_os("WRITE_CORPUS").is_some() {
        for target in TARGETS {
            fs::create_dir_all(folder(target)).unwrap();
        }
        for (target, name, data) in corpus::made() {
            let target = TARGETS.iter().find(|one| one.name == target).unwrap();
            fs::write(folder(target).join(name), data).unwrap();
        }
    }
    let only = std::env::var("TARGET").ok();
    let (times, seed) = (number("MUTATIONS", 1), number("MUTATION_SEED", 1));
    for target in TARGETS {
        if only.as_deref().is_some_and(|only| only != target.name) {
            continue;
        }
        let cases = cases(target);
        for (name, data) in &cases {
            run(target, name, data);
        }
        let mut chance = Chance(seed);
        for mutation in 0..target.mutations * times {
            let mut data = cases[chance.below(cases.len())].1.clone();
            for _ in 0..=chance.below(4) {
                let other = &cases[chance.below(cases.len())].1;
                mutate(&mut data, other, &mut chance);
            }
            run(
                target,
                &format!("mutation {mutation} of seed {seed}"),
                &data,
            );
        }
    }
}

#[test]
fn every_target_has_its_program_and_its_corpus_is_small() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let mut bytes = 0;
    for target in TARGETS {
        let program = root
            .join("fuzz_targets")
            .join(format!("{}.rs", target.name));
        let text = fs::read_to_string(&program).expect("a program for every target");
        assert!(
            text.contains(&format!("fuzz::{}(data)", target.name)),
            "{}",
            program.display()
        );
        assert!(
            manifest.contains(&format!("name = \"{}\"", target.name)),
            "{}",
            target.name
        );
        bytes += cases(target)
            .iter()
            .map(|(_, data)| data.len())
            .sum::<usize>();
    }
    let names: BTreeSet<&str> = TARGETS.iter().map(|target| target.name).collect();
    for folder in ["fuzz_targets", "corpus"] {
        for entry in fs::read_dir(root.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
            assert!(
                names.contains(stem.as_str()),
                "{} has no target",
                path.display()
            );
        }
    }
    assert!(bytes < 200_000, "the corpus has {bytes} bytes");
}
