//! Runs every kept input of every fuzz target through its body, so that fixed findings stay fixed.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;
use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};

use fuzz_bodies::TARGETS;

fn fuzz_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

/// The paths in a folder, in the order of their names.
fn paths_in(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// The names of the files in a folder, without endings.
fn names_in(folder: &Path) -> BTreeSet<String> {
    paths_in(folder).iter().map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
}

#[test]
fn kept_inputs_still_pass() {
    let mut count = 0;
    let mut failed = Vec::new();
    for (name, run) in TARGETS {
        let inputs = paths_in(&fuzz_folder().join("corpus").join(name));
        assert!(!inputs.is_empty(), "{name} has no inputs");
        for path in &inputs {
            let input = fs::read(path).unwrap();
            if panic::catch_unwind(AssertUnwindSafe(|| run(&input))).is_err() {
                failed.push(path.display().to_string());
            }
        }
        count += inputs.len();
    }
    assert!(failed.is_empty(), "{} of {count} kept fuzz inputs fail:\n{}", failed.len(), failed.join("\n"));
    println!("{count} kept fuzz inputs of {} targets pass", TARGETS.len());
}

#[test]
fn targets_bodies_and_folders_of_inputs_go_by_the_same_names() {
    let bodies: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names_in(&fuzz_folder().join("fuzz_targets")), bodies);
    assert_eq!(names_in(&fuzz_folder().join("corpus")), bodies);
}
