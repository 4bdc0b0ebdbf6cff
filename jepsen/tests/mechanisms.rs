//! Goal: every mechanism that hurts a cluster is felt by real `kvd` processes, and the cluster serves again after its
//! undoing, with everything that it had acknowledged.
//! Method: three members; each mechanism once, with writes before and after it; at the end every key is read.
//!
//! The binary is NEZHA_KVD, else target/release/kvd.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use nezha_api::client::{Client, ClientOptions};
use nezha_api::v1::Consistency;
use nezha_jepsen::cluster::{Cluster, Side, Spec};
use rand::SeedableRng;
use rand::rngs::StdRng;

const PATIENCE: Duration = Duration::from_secs(30);
const LOG_FAILED: i32 = 11;

fn kvd() -> PathBuf {
    let built = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/release/kvd");
    let kvd = std::env::var_os("NEZHA_KVD").map_or(built, PathBuf::from);
    assert!(
        kvd.is_file(),
        "{} is missing: run `cargo build --release --bin kvd`, or set NEZHA_KVD",
        kvd.display()
    );
    kvd
}

/// What keeps a member from making anything durable, until power goes.
type Stall = fn(&mut Cluster, usize) -> anyhow::Result<()>;

/// A cluster and the keys that it has acknowledged.
struct Rig {
    cluster: Cluster,
    written: usize,
    // After the cluster, which keeps its disks there.
    _root: tempfile::TempDir,
}

fn value(n: usize) -> Vec<u8> {
    format!("value {n} ").repeat(2_000).into_bytes()
}

impl Rig {
    fn new() -> Rig {
        let root = tempfile::tempdir().expect("the harness does what it is told");
        let mut spec = Spec::new(kvd(), root.path());
        spec.disk_mib = 192;
        spec.options = ["--log-segment-bytes", "1MiB", "--log-level", "info"]
            .map(String::from)
            .into();
        let cluster = Cluster::new(spec).expect("the harness does what it is told");
        let mut rig = Rig {
            cluster,
            written: 0,
            _root: root,
        };
        rig.cluster.start_all().expect("the harness does what it is told");
        rig.serves();
        rig
    }

    fn serves(&mut self) {
        self.cluster
            .start_all()
            .expect("the harness does what it is told");
        self.cluster
            .wait_serving(PATIENCE)
            .expect("the harness does what it is told");
    }

    fn write(&mut self, count: usize) {
        for _ in 0..count {
            let n = self.written;
            // A put of unknown outcome may be repeated: it writes the same.
            let started = Instant::now();
            while let Err(error) = self
                .cluster
                .put(&format!("key {n}"), value(n), Duration::from_secs(5))
            {
                assert!(started.elapsed() < PATIENCE, "{error:#}");
            }
            self.written += 1;
        }
    }

    /// Writes until the member's process has ended by itself.
    fn write_until_ended(&mut self, i: usize) -> nezha_jepsen::cluster::Ended {
        let started = Instant::now();
        loop {
            if let Some(ended) = self.cluster.ended(i).expect("the harness does what it is told") {
                return ended;
            }
            assert!(started.elapsed() < PATIENCE, "the process of member {i} runs on");
            self.write(1);
        }
    }

    fn assert_all_there(&self) {
        let (endpoints, written) = (self.cluster.endpoints(), self.written);
        let read = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("the harness does what it is told");
            runtime.block_on(async {
                let client = Client::connect(&endpoints, ClientOptions::default())
                    .expect("the harness does what it is told");
                for n in 0..written {
                    let got = client
                        .get(format!("key {n}"), Consistency::Linearizable)
                        .await
                        .expect("the harness does what it is told");
                    let found = got
                        .found
                        .unwrap_or_else(|| panic!("key {n} of {written} is lost"));
                    assert!(found.value == value(n), "key {n} has another value");
                }
            });
        };
        self.cluster
            .network()
            .inside(read)
            .expect("the harness does what it is told");
    }
}

#[test]
fn processes_are_killed_paused_and_stopped() {
    let mut rig = Rig::new();
    rig.write(5);
    assert!(
        rig.cluster.kill(0).expect("the harness does what it is told") && !rig.cluster.is_running(0).unwrap()
    );
    assert!(
        !rig.cluster.kill(0).expect("the harness does what it is told") && !rig.cluster.resume(0).unwrap()
    );
    rig.write(5);
    rig.serves();
    assert_eq!(
        rig.cluster
            .terminate(1)
            .expect("the harness does what it is told"),
        Some(0)
    );
    rig.write(5);
    rig.serves();
    assert!(rig.cluster.pause(2).expect("the harness does what it is told"));
    rig.write(5);
    let status = |rig: &Rig| {
        let pid = rig
            .cluster
            .pid(2)
            .expect("the harness does what it is told")
            .unwrap();
        std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the harness does what it is told")
    };
    assert!(status(&rig).contains("T (stopped)"));
    assert!(rig.cluster.resume(2).expect("the harness does what it is told"));
    assert!(!status(&rig).contains("T (stopped)"));
    assert!(rig.cluster.pause(2).expect("the harness does what it is told"));
    assert!(
        rig.cluster.kill(2).expect("the harness does what it is told"),
        "a paused one can be killed"
    );
    rig.serves();
    for i in 0..3 {
        assert_eq!(
            rig.cluster.ended(i).expect("the harness does what it is told"),
            None,
            "none has ended by itself"
        );
    }
    rig.assert_all_there();
}

#[test]
fn links_are_cut_and_slowed() {
    let mut rig = Rig::new();
    rig.write(5);
    let all = [0, 1, 2];
    let others = |i: usize| all.into_iter().filter(move |other| *other != i);
    for i in all {
        let network = rig.cluster.network();
        for other in others(i) {
            network.cut(i, other).expect("the harness does what it is told");
            network.cut(other, i).expect("the harness does what it is told");
        }
        network
            .cut(Side::Clients, i)
            .expect("the harness does what it is told");
        rig.write(3);
        rig.cluster
            .network()
            .heal_all()
            .expect("the harness does what it is told");
    }
    rig.serves();
    let network = rig.cluster.network();
    for i in all {
        for other in others(i) {
            network
                .loss(i, other, 5)
                .expect("the harness does what it is told");
            network
                .delay(i, other, Duration::from_millis(60), Duration::from_millis(20))
                .expect("the harness does what it is told");
        }
    }
    let started = Instant::now();
    rig.write(3);
    let slow = started.elapsed();
    assert!(
        slow > Duration::from_millis(3 * 120),
        "three round trips: {slow:?}"
    );
    rig.cluster
        .network()
        .heal_all()
        .expect("the harness does what it is told");
    rig.cluster
        .network()
        .half_open(0, 1)
        .expect("the harness does what it is told");
    rig.write(3);
    rig.cluster
        .network()
        .half_close(0, 1)
        .expect("the harness does what it is told");
    rig.serves();
    rig.write(3);
    rig.assert_all_there();
}

#[test]
fn disks_lose_power_fill_fail_slow_down_and_rot() {
    let mut rig = Rig::new();
    rig.write(20);
    let stalls: [Option<Stall>; 3] = [None, Some(Cluster::stall_disk), Some(Cluster::stall_log)];
    for stall in stalls {
        if let Some(stall) = stall {
            stall(&mut rig.cluster, 2).expect("the harness does what it is told");
            // Whether it is acknowledged depends on who leads: a leader goes on leading while its disk hangs.
            let _ = rig.cluster.put("stalled", value(0), Duration::from_secs(2));
        }
        rig.cluster
            .power_cut(&[0, 1, 2])
            .expect("the harness does what it is told");
        rig.serves();
        rig.assert_all_there();
    }

    rig.cluster
        .disk_full(1)
        .expect("the harness does what it is told");
    rig.write(5);
    rig.cluster
        .disk_free(1)
        .expect("the harness does what it is told");
    rig.serves();

    rig.cluster
        .disk_errors(2)
        .expect("the harness does what it is told");
    rig.cluster
        .wait_serving(PATIENCE)
        .expect("the harness does what it is told");
    let ended = rig.write_until_ended(2);
    assert_eq!(ended.code, Some(LOG_FAILED), "{}", ended.log_tail);
    assert!(
        rig.cluster
            .disk_sound(2)
            .expect("the harness does what it is told")
            && !rig.cluster.disk_sound(2).unwrap()
    );
    rig.serves();

    // A quorum of slow disks holds up every write.
    for i in 0..3 {
        rig.cluster
            .slow_disk(i, 200_000)
            .expect("the harness does what it is told");
    }
    let started = Instant::now();
    rig.write(30);
    let slow = started.elapsed();
    for i in 0..3 {
        rig.cluster
            .normal_disk(i)
            .expect("the harness does what it is told");
    }
    let started = Instant::now();
    rig.write(30);
    let normal = started.elapsed();
    // 600 KB at 200 KB/s.
    assert!(
        slow > Duration::from_millis(1_500),
        "slow {slow:?}, normal {normal:?}"
    );

    rig.write(60);
    let mut rng = StdRng::seed_from_u64(1);
    let told = rig
        .cluster
        .rot(1, &mut rng)
        .expect("the harness does what it is told");
    assert!(
        told.as_ref().is_some_and(|told| told.contains("of log/")),
        "{told:?}"
    );
    rig.write(5);
    rig.cluster.replace(1).expect("the harness does what it is told");
    rig.serves();
    rig.assert_all_there();
}

#[test]
fn system_calls_fail_or_kill() {
    let mut rig = Rig::new();
    rig.write(5);
    assert!(
        rig.cluster
            .inject(0, "fdatasync,fsync:error=EIO:when=3+")
            .expect("the harness does what it is told")
    );
    let ended = rig.write_until_ended(0);
    assert_eq!(ended.code, Some(LOG_FAILED), "{}", ended.log_tail);
    rig.serves();
    assert!(
        rig.cluster
            .inject(1, "pwritev,pwrite64:signal=KILL:when=5")
            .expect("the harness does what it is told")
    );
    let ended = rig.write_until_ended(1);
    assert_eq!((ended.code, ended.signal), (None, Some(9)));
    rig.cluster
        .start_injected(1, "pwritev,pwrite64:signal=KILL:when=20")
        .expect("the harness does what it is told");
    let ended = rig.write_until_ended(1);
    assert_eq!(ended.signal, Some(9));
    rig.serves();
    // One that is ended in time does nothing.
    assert!(
        rig.cluster
            .inject(2, "fdatasync,fsync:error=EIO:when=60000+")
            .expect("the harness does what it is told")
    );
    rig.write(5);
    assert!(
        rig.cluster
            .stop_injecting(2)
            .expect("the harness does what it is told")
            && !rig.cluster.stop_injecting(2).unwrap()
    );
    rig.write(5);
    assert!(
        rig.cluster
            .is_running(2)
            .expect("the harness does what it is told")
    );
    assert!(rig.cluster.inject(2, "no injection").is_err());
    rig.assert_all_there();
}

#[test]
fn members_come_and_go() {
    let mut rig = Rig::new();
    rig.write(20);
    assert_eq!(rig.cluster.join().expect("the harness does what it is told"), 3);
    assert_eq!(rig.cluster.names(), ["n1", "n2", "n3", "n4"]);
    rig.write(5);
    rig.cluster.remove(0).expect("the harness does what it is told");
    assert!(
        !rig.cluster.belongs(0)
            && !rig
                .cluster
                .is_running(0)
                .expect("the harness does what it is told")
    );
    rig.write(5);
    assert_eq!(
        rig.cluster.join().expect("the harness does what it is told"),
        0,
        "its position is taken again"
    );
    rig.cluster.replace(1).expect("the harness does what it is told");
    assert_eq!(rig.cluster.names(), ["n5", "n6", "n3", "n4"]);
    rig.cluster
        .remove_strangers()
        .expect("the harness does what it is told");
    rig.serves();
    rig.assert_all_there();
}
