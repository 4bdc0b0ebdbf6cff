//! Who is told what became of a proposal: a callback, so that many callers can share one channel of answers.

use openraft::OptionalSend;
use openraft::raft::responder::Responder;

use super::types::{LogId, TypeConfig};

/// Called once, with the result of a proposal; with `None` when Raft dropped the proposal without a word, because it
/// stopped.
///
/// Runs on one of Raft's tasks: it must neither block nor wait.
pub struct OnDone<T>(Option<Box<dyn FnOnce(Option<T>) + Send>>);

impl<T> OnDone<T> {
    pub(crate) fn new(done: impl FnOnce(Option<T>) + Send + 'static) -> Self {
        Self(Some(Box::new(done)))
    }

    fn call(&mut self, result: Option<T>) {
        if let Some(done) = self.0.take() {
            done(result);
        }
    }
}

impl<T> Drop for OnDone<T> {
    fn drop(&mut self) {
        self.call(None);
    }
}

impl<T: OptionalSend + 'static> Responder<TypeConfig, T> for OnDone<T> {
    fn on_commit(&mut self, _: LogId) {}

    fn on_complete(mut self, result: T) {
        self.call(Some(result));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn the_callback_runs_once_also_when_nobody_answers() {
        let (told, tells) = mpsc::channel();
        let make = || {
            let told = told.clone();
            OnDone::new(move |result| told.send(result).unwrap())
        };
        make().on_complete(7);
        drop(make());
        assert_eq!(tells.try_iter().collect::<Vec<Option<u32>>>(), [Some(7), None]);
    }
}
