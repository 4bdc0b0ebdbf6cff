//! Seeds of tests: printed when a case fails, replayed with `NEZHA_SEED`.

/// The seeds to run: `NEZHA_SEED` alone if it is set, else the first `count`.
pub(crate) fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("NEZHA_SEED") {
        Ok(seed) => vec![seed.parse().expect("NEZHA_SEED is a decimal number")],
        Err(_) => (0..count).collect(),
    }
}

/// Names the seed when a case panics.
pub(crate) struct Named(pub(crate) u64);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failing seed: NEZHA_SEED={}", self.0);
        }
    }
}
