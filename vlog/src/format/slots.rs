//! Reading and writing of small fields.

use bytes::{Buf, BufMut};

use super::{Fault, INDEX_MAX, forbid};
use crate::ids::{LogId, Vote};
use crate::state::State;

/// Reads little-endian fields off the front of a slice; every read is bounds-checked.
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Fields<'a> {
        Fields { rest: bytes }
    }

    fn short(&self, needed: usize) -> Fault {
        Fault::Short {
            needed: needed as u64,
            got: self.rest.len() as u64,
        }
    }

    pub(super) fn u8(&mut self) -> Result<u8, Fault> {
        self.rest.try_get_u8().map_err(|_| self.short(1))
    }

    pub(super) fn u16(&mut self) -> Result<u16, Fault> {
        self.rest.try_get_u16_le().map_err(|_| self.short(2))
    }

    pub(super) fn u32(&mut self) -> Result<u32, Fault> {
        self.rest.try_get_u32_le().map_err(|_| self.short(4))
    }

    pub(super) fn u64(&mut self) -> Result<u64, Fault> {
        self.rest.try_get_u64_le().map_err(|_| self.short(8))
    }

    pub(super) fn magic<const N: usize>(
        &mut self,
        expected: [u8; N],
        name: &'static str,
    ) -> Result<(), Fault> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or_else(|| self.short(N))?;
        if *head != expected {
            return Err(Fault::Magic(name));
        }
        self.rest = rest;
        Ok(())
    }

    pub(super) fn log_id(&mut self) -> Result<Option<LogId>, Fault> {
        let present = self.u64()?;
        let log_id = LogId {
            term: self.u64()?,
            node: self.u64()?,
            index: self.u64()?,
        };
        forbid("log id present", present, present > 1)?;
        forbid("log index", log_id.index, log_id.index > INDEX_MAX)?;
        forbid("absent log id", 1u64, present == 0 && log_id != LogId::default())?;
        Ok(Some(log_id).filter(|_| present == 1))
    }

    pub(super) fn state(&mut self) -> Result<State, Fault> {
        let flags = self.u64()?;
        let vote = Vote {
            term: self.u64()?,
            node: self.u64()?,
            committed: flags == 3,
        };
        forbid("vote flags", flags, !matches!(flags, 0 | 1 | 3))?;
        forbid("absent vote", 1u64, flags == 0 && vote != Vote::default())?;
        Ok(State {
            vote: Some(vote).filter(|_| flags != 0),
            purged: self.log_id()?,
            committed: self.log_id()?,
            last: self.log_id()?,
        })
    }
}

pub(super) fn put_log_id(out: &mut Vec<u8>, log_id: Option<LogId>) {
    let LogId { term, node, index } = log_id.unwrap_or_default();
    for field in [u64::from(log_id.is_some()), term, node, index] {
        out.put_u64_le(field);
    }
}

pub(super) fn put_state(out: &mut Vec<u8>, state: &State) {
    let vote = state.vote.unwrap_or_default();
    out.put_u64_le(match state.vote {
        None => 0,
        Some(Vote { committed: false, .. }) => 1,
        Some(Vote { committed: true, .. }) => 3,
    });
    out.put_u64_le(vote.term);
    out.put_u64_le(vote.node);
    put_log_id(out, state.purged);
    put_log_id(out, state.committed);
    put_log_id(out, state.last);
}
