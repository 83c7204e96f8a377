//! The inputs that fuzzing found, or began with, as an ordinary test: what was put right stays so.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::{collections::BTreeSet, fs, panic, path::Path};

use keyferry_tests::fuzz::TARGETS;

/// The corpus is read by people and kept by the repository.
const MOST_BYTES: usize = 200_000;

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz"))
}

/// What is in a folder, by name without extension.
fn names(folder: &Path) -> BTreeSet<String> {
    let stem = |e: fs::DirEntry| e.path().file_stem().unwrap().to_str().unwrap().to_owned();
    fs::read_dir(folder).unwrap().map(|e| stem(e.unwrap())).collect()
}

#[test]
fn every_target_has_its_program_and_its_corpus() {
    let targets: BTreeSet<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(targets.len(), TARGETS.len());
    assert_eq!(names(&folder().join("fuzz_targets")), targets);
    assert_eq!(names(&folder().join("corpus")), targets);
    let manifest = fs::read_to_string(folder().join("Cargo.toml")).unwrap();
    let programs =
        manifest.lines().filter_map(|l| l.strip_prefix("path = \"fuzz_targets/")?.strip_suffix(".rs\""));
    assert_eq!(programs.map(str::to_owned).collect::<BTreeSet<_>>(), targets);
    for target in &targets {
        let program = fs::read_to_string(folder().join(format!("fuzz_targets/{target}.rs"))).unwrap();
        assert!(program.contains(&format!("fuzz::{target}(data)")), "{target} runs another target");
    }
}

#[test]
fn what_fuzzing_found_holds() {
    let (mut failed, mut bytes) = (Vec::new(), 0);
    for (name, target) in TARGETS {
        let inputs: Vec<_> = fs::read_dir(folder().join("corpus").join(name)).unwrap().collect();
        assert!(!inputs.is_empty(), "the corpus of {name} is empty");
        for input in inputs {
            let path = input.unwrap().path();
            let data = fs::read(&path).unwrap();
            bytes += data.len();
            // The panic says what failed; this says with which bytes.
            if panic::catch_unwind(|| target(&data)).is_err() {
                failed.push(path);
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(bytes < MOST_BYTES, "the corpus has {bytes} bytes: `cargo fuzz cmin`");
}
