//! Commands that write, told not to or kept from it: nothing is left that should not be there.
//!
//! Failures: a file system that takes no byte; a registry that has nothing.
//! Not here: what the written files are good for (tests of the command itself).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    process::Command,
    sync::mpsc,
};

use keyferry_tests::{operator::keyferry, program};

#[test]
fn no_part_of_a_key_is_left_behind() {
    let folder = tempfile::tempdir().unwrap();
    let is_empty = || std::fs::read_dir(folder.path()).unwrap().next().is_none();
    for kind in ["signing", "fingerprint"] {
        let out = folder.path().join(kind);
        let generate = format!("keys generate --kind {kind} --out {}", out.display());
        let dry = keyferry(&format!("{generate} --dry-run"));
        assert!(dry.code == Some(0) && dry.out.starts_with("would write") && is_empty(), "{dry:?}");
        // No file may grow: as on a disk that is full.
        let full = "trap '' XFSZ; ulimit -f 0; exec \"$0\" \"$@\"";
        let run = Command::new("sh")
            .args(["-c", full])
            .arg(program::path().unwrap())
            .args(generate.split(' '))
            .output()
            .unwrap();
        let said = String::from_utf8(run.stderr).unwrap();
        assert_eq!((run.status.code(), said.lines().count()), (Some(1), 1), "{said}");
        assert!(said.contains("can not be written"), "{said}");
        assert!(is_empty(), "a partial file is left");
    }
}

/// A registry without any schema, which tells what it was asked.
fn empty_registry() -> (String, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") && stream.read_until(b'\n', &mut head).unwrap() > 0 {}
            let head = String::from_utf8(head).unwrap().to_lowercase();
            let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")?.parse().ok());
            stream.read_exact(&mut vec![0; length.unwrap_or(0)]).unwrap();
            if tell.send(head.lines().next().unwrap().to_owned()).is_err() {
                return;
            }
            let body = r#"{"error_code":40401,"message":"not found"}"#;
            let answer = format!(
                "HTTP/1.1 404 Not Found\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            );
            stream.get_mut().write_all(answer.as_bytes()).unwrap();
        }
    });
    (format!("http://{address}"), told)
}

#[test]
fn a_dry_run_registers_no_schema() {
    let (registry, asked) = empty_registry();
    let dry = keyferry(&format!("schemas register --registry {registry} --dry-run"));
    assert_eq!((dry.code, dry.err.as_str()), (Some(0), ""), "{dry:?}");
    assert!(dry.out.contains("would register keyferry.v1.Upload"), "{}", dry.out);
    let asked: Vec<_> = asked.try_iter().collect();
    assert!(asked.len() > 6, "{asked:?}");
    let writes = |line: &str| {
        line.starts_with("put ") || (line.starts_with("post /subjects/") && line.contains("/versions"))
    };
    assert!(!asked.iter().any(|line| writes(line)), "{asked:?}");
}
