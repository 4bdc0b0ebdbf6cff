//! Many endpoints at once.

use std::collections::BTreeMap;

use tokio::task::JoinSet;

/// Runs `ask` for all endpoints at the same time; the answers come in the order of the endpoints.
pub async fn each<T, F>(endpoints: &[String], ask: impl Fn(String) -> F) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    for (at, endpoint) in endpoints.iter().enumerate() {
        let asked = ask(endpoint.clone());
        tasks.spawn(async move { (at, asked.await) });
    }
    let mut answers = BTreeMap::new();
    while let Some(joined) = tasks.join_next().await {
        answers.extend(joined.ok());
    }
    answers.into_values().collect()
}
