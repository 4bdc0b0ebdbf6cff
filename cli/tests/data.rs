//! Goal: put, get, del and scan print exactly what their help promises, and exit as listed.
//! Method: the real binary against a fake server.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "shared by several test files")]
mod support;

use support::{Fake, command};

#[test]
fn put_get_del() {
    let server = Fake::one();
    server.run(&["put", "greeting", "hello"]).is(0, "OK\n");
    server.run(&["get", "greeting"]).is(0, "hello");
    server
        .run(&["get", "greeting", "--with-key"])
        .is(0, "greeting\nhello");
    server.run(&["del", "greeting"]).is(0, "1\n");
    server.run(&["del", "greeting"]).is(0, "0\n");
    let missing = server.run(&["get", "greeting"]);
    missing.is(1, "");
    assert_eq!(missing.stderr, "key not found\n");
    server.run(&["get", "greeting", "--allow-missing"]).is(0, "");
}

#[test]
fn values_pass_untouched() {
    let server = Fake::one();
    let directory = tempfile::tempdir().unwrap();
    let bytes: Vec<u8> = (0..=255).cycle().take(5 << 20).collect();
    let source = directory.path().join("in");
    std::fs::write(&source, &bytes).unwrap();
    server
        .run(&["put", "file", &format!("@{}", source.display())])
        .is(0, "OK\n");
    server
        .run_with_input(&["put", "stdin", "-"], &bytes)
        .is(0, "OK\n");
    assert!(server.run(&["get", "file"]).stdout == bytes);
    let target = directory.path().join("out");
    server
        .run(&["get", "stdin", "-o", target.to_str().unwrap()])
        .is(0, "");
    assert!(std::fs::read(&target).unwrap() == bytes);
    assert_eq!(
        std::fs::read_dir(directory.path()).unwrap().count(),
        2,
        "no .partial file stays"
    );
    server.run_with_input(&["put", "empty", "-"], b"").is(0, "OK\n");
    server.run(&["get", "empty"]).is(0, "");
}

#[test]
fn values_that_look_like_options_or_files() {
    let server = Fake::one();
    server.run(&["put", "--", "-k", "-v"]).is(0, "OK\n");
    server.run(&["get", "--", "-k"]).is(0, "-v");
    server.run(&["put", "k", "--literal", "@home"]).is(0, "OK\n");
    server.run(&["get", "k"]).is(0, "@home");
    let missing = server.run(&["put", "k", "@/no/such/file"]);
    missing.is(2, "");
    assert!(missing.stderr.contains("/no/such/file"), "{missing:?}");
}

#[test]
fn conditions() {
    let server = Fake::one();
    server.run(&["put", "k", "1", "--if-absent"]).is(0, "OK\n");
    let lost = server.run(&["put", "k", "2", "--if-absent"]);
    lost.is(1, "");
    assert_eq!(lost.stderr, "condition not met: the key exists, at revision 1\n");
    server.run(&["put", "k", "2", "--if-revision", "1"]).is(0, "OK\n");
    let lost = server.run(&["put", "k", "3", "--if-revision", "1"]);
    lost.is(1, "");
    assert_eq!(
        lost.stderr,
        "condition not met: the key is at revision 2, not 1\n"
    );
    let lost = server.run(&["del", "k", "--if-revision", "9"]);
    lost.is(1, "0\n");
    assert_eq!(
        lost.stderr,
        "condition not met: the key is at revision 2, not 9\n"
    );
    let lost = server.run(&["del", "absent", "--if-revision", "9"]);
    assert_eq!(lost.stderr, "condition not met: the key does not exist\n");
    server
        .run(&["put", "k", "v", "--if-absent", "--if-revision", "1"])
        .is(2, "");
    server.run(&["put", "k", "v", "--if-revision", "0"]).is(2, "");
}

#[test]
fn json_of_single_keys() {
    let server = Fake::one();
    let header = r#""cluster_id":"0000000000000abc","node_id":1,"leader_id":1,"term":3,"revision":1"#;
    let put = format!("{{\"succeeded\":true,\"mod_revision\":1,{header}}}\n");
    server.run(&["-w", "jsonl", "put", "k", "v"]).is(0, &put);
    let get = format!(
        "{{\"found\":true,\"key\":\"k\",\"key_encoding\":\"utf8\",\"value\":\"v\",\"value_encoding\":\"utf8\",\
         \"create_revision\":1,\"mod_revision\":1,\"version\":1,{header}}}\n"
    );
    server.run(&["get", "k", "-w", "jsonl"]).is(0, &get);
    let missing = format!("{{\"found\":false,\"key\":\"x\",\"key_encoding\":\"utf8\",{header}}}\n");
    server.run(&["get", "x", "-w", "jsonl"]).is(1, &missing);
    let pretty = server.run(&["get", "k", "-w", "json"]);
    assert_eq!(pretty.json()["value"], "v");
    assert_eq!(pretty.text().lines().count(), 15);
}

const ROWS: [(&str, &str); 5] = [
    ("a/1", "one"),
    ("a/2", "two\tlines\n"),
    ("b/1", "three"),
    ("b/2", "four"),
    ("c", "five"),
];

#[test]
fn scan_ranges() {
    let server = Fake::one();
    server.insert(&ROWS);
    server.run(&["scan"]).is(
        0,
        "a/1\tone\na/2\ttwo\\tlines\\n\nb/1\tthree\nb/2\tfour\nc\tfive\n",
    );
    server
        .run(&["scan", "a/"])
        .is(0, "a/1\tone\na/2\ttwo\\tlines\\n\n");
    server
        .run(&["scan", "--keys-only"])
        .is(0, "a/1\na/2\nb/1\nb/2\nc\n");
    server
        .run(&["scan", "--keys-only", "--from", "a/2", "--to", "b/2"])
        .is(0, "a/2\nb/1\n");
    server
        .run(&["scan", "--keys-only", "--reverse"])
        .is(0, "c\nb/2\nb/1\na/2\na/1\n");
    server.run(&["scan", "nothing"]).is(0, "");
    server
        .run(&["scan", "--consistency", "stale", "c"])
        .is(0, "c\tfive\n");
}

/// Goal: what follows "more:" continues exactly behind the last row, in both directions.
#[test]
fn scan_limits_say_how_to_continue() {
    let server = Fake::one();
    server.insert(&ROWS);
    let first = server.run(&["scan", "--keys-only", "--limit", "2"]);
    assert_eq!(first.text(), "a/1\na/2\n");
    assert_eq!(first.stderr, "more: --encoding escape --from 'a/2\\x00'\n");
    server
        .run(&[
            "scan",
            "--keys-only",
            "--encoding",
            "escape",
            "--from",
            "a/2\\x00",
        ])
        .is(0, "b/1\nb/2\nc\n");
    let reverse = server.run(&["scan", "--keys-only", "--limit", "2", "--reverse"]);
    assert_eq!(reverse.text(), "c\nb/2\n");
    assert_eq!(reverse.stderr, "more: --to 'b/2'\n");
    server
        .run(&["scan", "--keys-only", "--reverse", "--to", "b/2"])
        .is(0, "b/1\na/2\na/1\n");
    server
        .run(&["scan", "--keys-only", "--limit", "5"])
        .is(0, "a/1\na/2\nb/1\nb/2\nc\n");
}

#[test]
fn scan_formats() {
    let server = Fake::one();
    server.insert(&ROWS[..1]);
    server.state.lock().unwrap().insert(b"\xff", b"\x00\xfe");
    let first = r#"{"key":"a/1","key_encoding":"utf8","value":"one","value_encoding":"utf8","create_revision":1,"mod_revision":1,"version":1}"#;
    let second = r#"{"key":"/w==","key_encoding":"base64","value":"AP4=","value_encoding":"base64","create_revision":2,"mod_revision":2,"version":1}"#;
    server
        .run(&["scan", "-w", "jsonl"])
        .is(0, &format!("{first}\n{second}\n"));
    server
        .run(&["scan", "-w", "json"])
        .is(0, &format!("[\n{first},\n{second}\n]\n"));
    server.run(&["scan", "-w", "json", "nothing"]).is(0, "[]\n");
    let keys = r#"{"key":"a/1","key_encoding":"utf8","create_revision":1,"mod_revision":1,"version":1}"#;
    server
        .run(&["scan", "-w", "jsonl", "--keys-only", "a"])
        .is(0, &format!("{keys}\n"));
    let table = "\
KEY                                  REVISION  VERSION      SIZE  VALUE
a/1                                         1        1        3B  one
";
    server.run(&["scan", "-w", "table", "a"]).is(0, table);
}

#[test]
fn binary_keys() {
    let server = Fake::one();
    server
        .run(&["--encoding", "hex", "put", "00ff", "v"])
        .is(0, "OK\n");
    server
        .run(&["--encoding", "escape", "get", "\\x00\\xff"])
        .is(0, "v");
    server.run(&["get", "--encoding", "base64", "AP8="]).is(0, "v");
    for (encoding, text) in [
        ("auto", "\\x00\\xff"),
        ("hex", "00ff"),
        ("base64", "AP8="),
        ("escape", "\\x00\\xff"),
    ] {
        server
            .run(&["scan", "--keys-only", "--encoding", encoding])
            .is(0, &format!("{text}\n"));
    }
    let wrong = server.run(&["--encoding", "hex", "get", "xyz"]);
    wrong.is(2, "");
    assert!(wrong.stderr.contains("not valid hex"), "{wrong:?}");
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let server = Fake::one();
    for at in 0..2000 {
        server
            .state
            .lock()
            .unwrap()
            .insert(format!("{at:04}").as_bytes(), &[b'v'; 1000]);
    }
    let mut child = command(&["--endpoints", &server.endpoint, "scan"], &[])
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        (output.status.code(), output.stderr.as_slice()),
        (Some(0), b"".as_slice())
    );
}
