//! What a run ran on.

use std::time::Duration;

use nezha_api::{Client, ClientOptions};
use tokio::runtime::Handle;

/// Facts about this machine, for people.
pub fn facts() -> Vec<(String, String)> {
    let name = rustix::system::uname();
    let kernel = format!(
        "{} {}",
        name.sysname().to_string_lossy(),
        name.release().to_string_lossy()
    );
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    vec![
        ("kernel".to_owned(), kernel),
        (
            "machine".to_owned(),
            name.machine().to_string_lossy().into_owned(),
        ),
        ("processors".to_owned(), cores.to_string()),
        ("memory".to_owned(), memory()),
    ]
}

fn memory() -> String {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    total.map_or_else(|| "not known".to_owned(), |total| total.trim().to_owned())
}

/// What the member at `endpoint` says that it is.
pub fn version_of(runtime: &Handle, endpoint: &str) -> String {
    let asked = async {
        let options = ClientOptions {
            timeout: Duration::from_secs(2),
            sync_interval: None,
            ..ClientOptions::default()
        };
        let client = Client::connect([endpoint], options)?;
        client.status(endpoint).await
    };
    match runtime.block_on(asked) {
        Ok((_, status)) => format!("kvd {}", status.version),
        Err(_) => "kvd, version not known".to_owned(),
    }
}
