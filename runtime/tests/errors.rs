//! `docs/errors.md` has every code that is sent, with its status, and no other.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::{collections::BTreeSet, fs};

use keyferry_runtime::{
    exit::{EXIT_IMPATIENT, Exit},
    http::Code,
};
use keyferry_schemas::rejection::Rejection;

/// First and second column of all tables whose header begins with `header`.
fn rows(header: &str) -> Vec<(String, String)> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/errors.md");
    let text = fs::read_to_string(path).unwrap();
    let mut rows = Vec::new();
    let mut within = false;
    for line in text.lines() {
        let cells: Vec<_> = line.trim_matches('|').split(" | ").map(|c| c.trim().trim_matches('`')).collect();
        match line.starts_with('|') {
            false => within = false,
            true if cells[0] == "code" || cells[0] == "exit code" => within = cells[0] == header,
            true if line.starts_with("|---") => (),
            true => {
                assert!(cells.len() == 4 && !cells[2].is_empty(), "{line}");
                if within {
                    rows.push((cells[0].to_owned(), cells[1].to_owned()));
                }
            }
        }
    }
    rows
}

/// That the rows are exactly these, in whatever order.
fn assert_listed(header: &str, expected: &[(String, String)]) {
    let listed = rows(header);
    let mut once = BTreeSet::new();
    let surplus: Vec<_> = listed.iter().filter(|row| !expected.contains(row) || !once.insert(*row)).collect();
    let missing: Vec<_> = expected.iter().filter(|row| !listed.contains(row)).collect();
    assert!(missing.is_empty() && surplus.is_empty(), "missing: {missing:?}, surplus: {surplus:?}");
}

#[test]
fn every_code_is_explained() {
    let own = Code::ALL.iter().map(|c| (c.to_string(), c.status().as_str().to_owned()));
    let rejections = Rejection::ALL.iter().map(|r| (r.code().to_owned(), r.status().to_string()));
    assert_listed("code", &own.chain(rejections).collect::<Vec<_>>());
}

#[test]
fn every_exit_code_is_explained() {
    let own = Exit::ALL.iter().map(|e| (e.code().to_string(), format!("{e:?}").to_lowercase()));
    let all: Vec<_> = own.chain([(EXIT_IMPATIENT.to_string(), "impatient".into())]).collect();
    assert_listed("exit code", &all);
}
