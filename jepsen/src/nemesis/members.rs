//! Members that come, go and are replaced, as faults.

use super::Kind;
use super::begin::Begun;
use super::executor::{Executor, Hindrance};
use super::schedule::Planned;
use super::undo::Undo;
use super::victim::{Api, Refused, Victim};

impl<V: Victim, A: Api> Executor<V, A> {
    pub(super) fn change_members(&mut self, planned: &Planned) -> Result<Begun, Hindrance> {
        if planned.kind == Kind::Grow {
            let number = self.note(planned.kind, &[], "a member joins".to_owned());
            let Some(member) = self.try_join(number)? else {
                return Ok(Begun::over(number));
            };
            let name = self.name(member);
            self.recorder
                .change_fault(number, |fault| fault.members.push(name));
            return Ok(Begun {
                number,
                undo: Undo::Remove(member),
                holds: vec![member],
            });
        }
        let target = self.free_targets(planned)?[0];
        let number = self.note(planned.kind, &[target], "removed".to_owned());
        if let Err(error) = self.remove(target) {
            self.refused(number, error)?;
            // It may have been done, or be done later: then it goes, and another one comes.
            return Ok(Begun {
                number,
                undo: Undo::Replace(target),
                holds: vec![target],
            });
        }
        if planned.kind == Kind::Replace
            && let Some(member) = self.try_join(number)?
        {
            let name = self.name(member);
            self.recorder.change_fault(number, |fault| {
                fault.detail = format!("removed, {name} joined in its place");
                fault.members.push(name);
            });
            return Ok(Begun::over(number));
        }
        Ok(Begun {
            number,
            undo: Undo::Join,
            holds: Vec::new(),
        })
    }

    /// Has a member join; `None` if the cluster did not do it in time.
    fn try_join(&mut self, number: usize) -> Result<Option<usize>, Hindrance> {
        match self.join() {
            Ok(member) => Ok(Some(member)),
            Err(error) => {
                self.refused(number, error)?;
                Ok(None)
            }
        }
    }

    /// Notes a change that the cluster did not do; whatever else went wrong is a failure of the harness.
    fn refused(&mut self, number: usize, error: anyhow::Error) -> Result<(), Hindrance> {
        if error.downcast_ref::<Refused>().is_none() {
            return Err(error.into());
        }
        let text = format!("; not done: {error:#}");
        self.recorder
            .change_fault(number, |fault| fault.detail.push_str(&text));
        Ok(())
    }
}
