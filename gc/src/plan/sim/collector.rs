//! Gc beside the writes.

use nezha_vlog::SegmentId;
use rand::RngExt;
use rand::seq::SliceRandom;

use super::super::{Job, SpaceState, plan};
use super::files::{Record, Running};
use super::{RECORD_BYTES, SEGMENT_BYTES, Sim, check_job};

impl Sim {
    /// Lets gc do its share, then admits a write, as the node would by `pressure`.
    pub(super) fn admit(&mut self, bytes: u64) {
        let now = self.pressure();
        let pace = match now.state {
            SpaceState::Calm => self.pace,
            _ => self.pace * 2.0,
        };
        self.figures.slowed += u64::from(now.state == SpaceState::Slow);
        self.credit += bytes as f64 * pace * 1000.0 / now.write_per_mille.max(1) as f64;
        self.collect();
        let mut waited = 0;
        while self.pressure().state == SpaceState::Refuse {
            let before = (self.figures.copied_bytes, self.segments.len());
            self.credit = SEGMENT_BYTES as f64;
            self.fresh = true;
            self.collect();
            self.figures.refused += u64::from(waited == 0);
            waited += 1;
            if self.running.is_none() && before == (self.figures.copied_bytes, self.segments.len()) {
                // Only what may not be collected can stop gc below the bound.
                assert!(self.held(), "gc is stuck: {}", self.pressure());
                break;
            }
        }
    }

    fn held(&self) -> bool {
        self.follower.is_some() || self.segments.values().any(|segment| segment.pinned)
    }

    /// Spends the credit on the running job and on the next ones.
    fn collect(&mut self) {
        loop {
            if self.running.is_none() {
                if !self.fresh {
                    self.credit = self.credit.min(RECORD_BYTES as f64);
                    return;
                }
                self.fresh = false;
                let stats = self.stats();
                let usage = self.usage();
                let Some(job) = plan(&stats, usage, &self.limits) else {
                    continue;
                };
                check_job(&job, &stats, usage, &self.limits);
                let mut shuffled = stats;
                shuffled.shuffle(&mut self.rng);
                assert_eq!(
                    plan(&shuffled, usage, &self.limits).as_ref(),
                    Some(&job),
                    "order decides"
                );
                self.start(job);
            }
            while let Some(running) = &mut self.running {
                let Some(record) = running.rest.last().copied() else {
                    self.finish();
                    break;
                };
                if self.credit < record.bytes as f64 {
                    return;
                }
                running.rest.pop();
                let live = self.index.get(&record.key);
                if live.is_some_and(|place| place.revision == record.revision) {
                    self.credit -= record.bytes as f64;
                    self.figures.copied_bytes += record.bytes;
                    running.append(record);
                }
            }
        }
    }

    fn start(&mut self, job: Job) {
        *self.figures.jobs.entry(job.reason).or_default() += 1;
        let mut rest = Vec::new();
        for id in &job.inputs {
            rest.extend(self.live_records(*id));
        }
        rest.sort_by_key(|record| std::cmp::Reverse(record.key));
        let total: u64 = rest.iter().map(|record| record.bytes).sum();
        assert_eq!(total, job.copy_bytes, "{job:?}");
        let reserved = job.copy_bytes;
        self.file_bytes += reserved;
        let cuts = job.cuts.iter().rev().cloned().collect();
        self.running = Some(Running {
            job,
            rest,
            outputs: Vec::new(),
            reserved,
            cuts,
        });
    }

    pub(super) fn live_records(&self, id: SegmentId) -> impl Iterator<Item = Record> + '_ {
        let live = move |record: &&Record| {
            self.index
                .get(&record.key)
                .is_some_and(|place| place.segment == id && place.revision == record.revision)
        };
        self.segments[&id].records.iter().filter(live).copied()
    }

    fn finish(&mut self) {
        let running = self.running.take().unwrap();
        let inputs = running.job.inputs.clone();
        self.install(running, 1000);
        for id in inputs {
            assert_eq!(self.segments[&id].live, 0, "{id} is an input");
            // Pinned while the job ran: stays until a later plan finds it empty.
            if !self.segments[&id].pinned {
                self.file_bytes -= self.segments.remove(&id).unwrap().bytes;
            }
        }
        self.assert_bottom_is_partitioned();
    }

    /// Kills the process: of a running job some outputs are there, and some of their records are relocated.
    pub(in crate::plan) fn crash(&mut self) {
        if let Some(running) = self.running.take() {
            let relocated = self.rng.random_range(0..=1000);
            self.install(running, relocated);
            self.crashed = true;
        }
    }

    /// Adds the outputs of a job and relocates a share of their records, in key order.
    fn install(&mut self, running: Running, per_mille: u64) {
        self.file_bytes -= running.reserved;
        let records: usize = running.outputs.iter().map(|output| output.records.len()).sum();
        let mut rest = records as u64 * per_mille / 1000;
        for mut output in running.outputs {
            self.sorted += 1;
            let id = SegmentId::sorted(self.sorted);
            self.file_bytes += output.bytes;
            for record in &output.records {
                let place = self.index.get_mut(&record.key);
                let place = place.filter(|place| place.revision == record.revision && rest > 0);
                rest = rest.saturating_sub(1);
                if let Some(place) = place {
                    self.segments.get_mut(&place.segment).unwrap().live -= record.bytes;
                    place.segment = id;
                    output.live += record.bytes;
                }
            }
            self.segments.insert(id, output);
        }
        self.fresh = true;
    }

    /// Stops writing and lets gc run until it has nothing to do; returns the number of jobs.
    pub(in crate::plan) fn drain(&mut self) -> u64 {
        let jobs = |sim: &Sim| sim.figures.jobs.values().sum::<u64>();
        let before = jobs(self);
        self.fresh = true;
        while self.running.is_some() || self.fresh {
            self.credit = SEGMENT_BYTES as f64;
            self.collect();
            let most = 20 * self.segments.len() as u64 + 100;
            assert!(
                jobs(self) - before < most,
                "gc does not end: {:?}",
                self.figures.jobs
            );
        }
        self.crashed &= self.held();
        self.assert_bottom_is_partitioned();
        jobs(self) - before
    }
}
