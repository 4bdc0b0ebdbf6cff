//! Goal: kvctl does what the README shows, byte for byte, with the exit codes it documents.
//! Method: the real binary against a real cluster; stdout, stderr and code are compared.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::harness::cluster::Cluster;
use crate::harness::process::{beside_kvd, run};
use crate::harness::seed::value_of;

struct Ctl {
    endpoints: String,
}

impl Ctl {
    fn of(cluster: &Cluster) -> Ctl {
        let endpoints: Vec<&str> = cluster.nodes.iter().map(|n| n.client.as_str()).collect();
        Ctl {
            endpoints: endpoints.join(","),
        }
    }

    fn call(&self, args: &[&str]) -> (i32, String, String) {
        let args: Vec<&str> = ["--endpoints", &self.endpoints]
            .into_iter()
            .chain(args.iter().copied())
            .collect();
        run(&beside_kvd("kvctl"), &args, Duration::from_secs(60))
    }

    /// Runs with bytes on stdin; answers code and stdout bytes.
    fn pipe(&self, args: &[&str], input: &[u8]) -> (i32, Vec<u8>) {
        let mut child = Command::new(beside_kvd("kvctl"))
            .env("KVCTL_ENDPOINTS", &self.endpoints)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let writer = std::thread::spawn(move || stdin.write_all(&input));
        let output = child.wait_with_output().unwrap();
        let _ = writer.join().unwrap();
        (output.status.code().unwrap_or(-1), output.stdout)
    }
}

#[test]
fn commands_of_the_readme() {
    let mut cluster = Cluster::serving(3);
    let ctl = Ctl::of(&cluster);
    let said = |args: &[&str]| {
        let (code, out, err) = ctl.call(args);
        assert_eq!(code, 0, "kvctl {args:?}: {out}{err}");
        out
    };
    assert_eq!(said(&["put", "greeting", "hello, world"]), "OK\n");
    assert_eq!(
        said(&["get", "greeting"]),
        "hello, world",
        "the value and nothing else"
    );
    let (code, out, err) = ctl.call(&["get", "nobody"]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains("not found"), "{err}");

    // Bytes are untouched on their way in and out, whatever they are.
    let value = value_of(13, b"binary", 3 << 20);
    assert_eq!(ctl.pipe(&["put", "binary", "-"], &value).0, 0);
    let (code, out) = ctl.pipe(&["get", "binary"], b"");
    assert!(code == 0 && out == value);
    let file = cluster.root().join("value");
    std::fs::write(&file, &value).unwrap();
    said(&["put", "from-file", &format!("@{}", file.display())]);
    assert!(ctl.pipe(&["get", "from-file"], b"").1 == value);

    for n in 0..5 {
        said(&["put", &format!("list/{n}"), &format!("value {n}")]);
    }
    let listed = said(&["scan", "list/", "--keys-only"]);
    assert_eq!(
        listed.lines().collect::<Vec<_>>(),
        ["list/0", "list/1", "list/2", "list/3", "list/4"]
    );
    let listed = said(&["scan", "list/", "--keys-only", "--reverse", "--limit", "2"]);
    assert_eq!(listed.lines().take(2).collect::<Vec<_>>(), ["list/4", "list/3"]);
    assert_eq!(said(&["del", "greeting"]).trim(), "1");
    assert_eq!(ctl.call(&["get", "greeting"]).0, 1);

    let (code, _, err) = ctl.call(&["put", "", "x"]);
    assert_eq!(code, 4, "refused by the server: {err}");
    assert_eq!(ctl.call(&["put"]).0, 2, "usage");

    let table = said(&["status"]);
    for node in &cluster.nodes {
        assert!(
            table.contains(&node.name) && table.contains(&node.client),
            "{table}"
        );
    }
    let lines = said(&["status", "-w", "jsonl"]);
    let nodes = lines
        .lines()
        .filter(|l| serde_json::from_str::<serde_json::Value>(l).is_ok())
        .count();
    assert!(nodes >= 3, "{lines}");
    let members = said(&["member", "list"]);
    assert!(
        ["n1", "n2", "n3"].iter().all(|n| members.contains(n)),
        "{members}"
    );

    // An unreachable node stays in the table, and the others still answer.
    cluster.nodes[2].kill();
    let (_, table, err) = ctl.call(&["status"]);
    assert!(table.contains(&cluster.nodes[2].client), "{table}{err}");
    assert_eq!(said(&["get", "list/0"]), "value 0");
    cluster.kill_all();
    assert_eq!(
        ctl.call(&["--timeout", "2s", "get", "list/0"]).0,
        3,
        "nobody to connect to"
    );
}
