//! The README names the tests that prove each guarantee: they have to be there, where it says.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::{fs, path::Path};

/// Every Rust source below a folder.
fn sources(folder: &Path, all: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") {
            sources(&path, all);
        } else if path.extension().is_some_and(|e| e == "rs") {
            all.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn every_test_that_the_readme_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    let start = readme.find("## What is guaranteed").unwrap();
    let table = &readme[start..readme[start..].find("What is not claimed").unwrap() + start];
    let mut all = String::new();
    ["schemas", "runtime", "producers", "processors", "sinks", "src", "tests"]
        .iter()
        .for_each(|folder| sources(&root.join(folder), &mut all));
    let named: Vec<_> = table.split('`').skip(1).step_by(2).filter(|n| n.matches('_').count() > 2).collect();
    assert!(named.len() > 25, "{named:?}");
    for name in named {
        assert!(all.contains(&format!("fn {name}(")), "there is no test {name}");
    }
    for file in table.split(['(', ')']).filter(|f| f.ends_with(".rs") && f.contains('/')) {
        assert!(root.join(file).is_file(), "there is no {file}");
    }
}
