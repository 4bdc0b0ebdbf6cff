//! Goal: `kvd local` runs a whole cluster, restarts what dies, and ends it gracefully.
//! Method: the command as the README shows it; a child is killed; the parent is told to stop.

use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::harness::client::Conn;
use crate::harness::process::{Process, kvd};
use crate::harness::{block_on, eventually};

const PATIENCE: Duration = Duration::from_secs(60);

/// Ports that no other test uses: below the range that the kernel hands out.
fn ports() -> (u16, u16) {
    let base = 10_000 + (std::process::id() % 1_500) as u16 * 12;
    (base, base + 6)
}

fn pid_of(dir: &Path, node: &str) -> Result<Pid, String> {
    let path = dir.join(node).join("kvd.pid");
    let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let number: i32 = text
        .trim()
        .parse()
        .map_err(|_| format!("{}: {text:?}", path.display()))?;
    Pid::from_raw(number).ok_or_else(|| "pid 0".to_string())
}

fn start(dir: &Path, log: &Path, extra: &[&str]) -> (Process, Vec<Conn>) {
    let (client, peer) = ports();
    let args = ["local", "--nodes", "3", "--data-dir", dir.to_str().unwrap()];
    let ports = [
        "--client-port",
        &client.to_string(),
        "--peer-port",
        &peer.to_string(),
    ]
    .map(String::from);
    let args: Vec<String> = args
        .map(String::from)
        .into_iter()
        .chain(ports)
        .chain(extra.iter().map(|s| s.to_string()))
        .collect();
    let process = Process::start(&kvd(), &args, &[], log);
    (
        process,
        (0..3)
            .map(|i| Conn::to(&format!("127.0.0.1:{}", client + i)))
            .collect(),
    )
}

async fn serves(conn: &Conn) {
    eventually("a node to serve", PATIENCE, || async {
        conn.get("local/serving")
            .await
            .map(|_| ())
            .map_err(|s| s.to_string())
    })
    .await;
}

#[test]
fn local_cluster_restarts_its_nodes_and_stops_gracefully() {
    let root = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (dir, log) = (root.path().join("cluster"), root.path().join("local.out"));
    block_on(async {
        let (mut process, conns) = start(&dir, &log, &[]);
        for conn in &conns {
            serves(conn).await;
        }
        conns[0].put_surely("local/key", "kept").await;
        let before = pid_of(&dir, "n2").unwrap();
        kill_process(before, Signal::KILL).unwrap();
        eventually("a new process", PATIENCE, || async {
            let now = pid_of(&dir, "n2")?;
            if now != before {
                Ok(())
            } else {
                Err("the old pid".to_string())
            }
        })
        .await;
        serves(&conns[1]).await;
        assert_eq!(conns[1].get("local/key").await.unwrap().value, "kept");
        let children: Vec<Pid> = ["n1", "n2", "n3"].map(|n| pid_of(&dir, n).unwrap()).into();
        process.signal(Signal::TERM);
        assert_eq!(process.exit_code(PATIENCE), 0, "{}", process.log_tail(40));
        for child in children {
            assert!(test_kill_process(child).is_err(), "no child is left behind");
        }
    });
    // Without restarts, on the same data.
    block_on(async {
        let (mut process, conns) = start(&dir, &log, &["--no-restart"]);
        for conn in &conns {
            serves(conn).await;
        }
        let killed = pid_of(&dir, "n3").unwrap();
        kill_process(killed, Signal::KILL).unwrap();
        eventually("word of the end of n3", PATIENCE, || async {
            let said = |line: &str| line.starts_with("n3: ended") && line.contains("not started again");
            if process.log().lines().any(said) {
                Ok(())
            } else {
                Err(process.log_tail(10))
            }
        })
        .await;
        // The one that was killed may have led.
        conns[0].put_surely("local/key", "with two").await;
        serves(&conns[1]).await;
        assert_eq!(conns[1].get("local/key").await.unwrap().value, "with two");
        assert!(pid_of(&dir, "n3").is_err(), "n3 was not started again");
        process.signal(Signal::TERM);
        process.wait(PATIENCE);
    });
}
