//! How the collector's state is put into words.

use nezha_api::v1::{GcJob, GcSpace, GcStatusResponse};

use crate::units::format_bytes;

/// Returns what a node's collector does and has done, in one line that begins with the node's name.
pub fn summary(status: &GcStatusResponse) -> String {
    let mut parts = vec![mode(status)];
    parts.push(match &status.job {
        Some(job) => format!("{}: {}", task(job), progress(job)),
        None => "no job runs".into(),
    });
    if status.bytes_per_second > 0 {
        parts.push(format!("at most {}/s", format_bytes(status.bytes_per_second)));
    }
    parts.push(match space_amplification(status) {
        Some(ratio) => format!(
            "space amplification {ratio:.2} ({} for {} live)",
            format_bytes(status.file_bytes),
            format_bytes(status.live_bytes)
        ),
        None => format!("{} on disk, nothing live", format_bytes(status.file_bytes)),
    });
    parts.extend(status.space.as_ref().and_then(space));
    if let Some(debt) = &status.debt {
        parts.push(format!(
            "to sort: {} of log (limit {}), {} over one key (limit {})",
            format_bytes(debt.l0_bytes),
            format_bytes(debt.l0_bytes_max),
            count(debt.overlap, "file"),
            debt.overlap_max
        ));
    }
    parts.push(done(
        status.jobs_finished,
        status.bytes_copied,
        status.files_removed,
    ));
    if !status.last_error.is_empty() {
        parts.push(format!("last error: {}", status.last_error));
    }
    format!("{}: {}", status.name, parts.join("; "))
}

/// What the space asks for, and how often writes had to wait for it; `None` when there is nothing to say.
fn space(space: &GcSpace) -> Option<String> {
    let mut parts = Vec::new();
    if space.disk_low {
        parts.push(format!(
            "THE DISK IS NEARLY FULL, writes are refused ({} free, {} kept for gc)",
            format_bytes(space.disk_free_bytes),
            format_bytes(space.disk_reserve_bytes)
        ));
    }
    if space.bound_bytes > 0 {
        parts.push(format!(
            "space {}, bound {}",
            space.state,
            format_bytes(space.bound_bytes)
        ));
        if space.held_garbage_bytes > 0 {
            parts.push(format!(
                "{} of garbage held",
                format_bytes(space.held_garbage_bytes)
            ));
        }
    }
    if space.writes_slowed + space.writes_refused > 0 {
        parts.push(format!(
            "{} slowed, {} refused",
            count(space.writes_slowed, "write"),
            space.writes_refused
        ));
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn mode(status: &GcStatusResponse) -> String {
    let mut mode = String::from(if status.automatic {
        "automatic"
    } else {
        "on request only"
    });
    if status.paused {
        mode.push_str(", paused");
    }
    if status.requested {
        mode.push_str(", run requested");
    }
    mode
}

/// Returns what a job does and why.
pub fn task(job: &GcJob) -> String {
    format!(
        "{} job, {} into level {}",
        job.reason,
        count(job.inputs, "file"),
        job.output_level
    )
}

/// Returns how far a job is, and how fast it has been so far.
pub fn progress(job: &GcJob) -> String {
    if job.copy_bytes == 0 {
        return "nothing to copy".into();
    }
    // Rounded down: 100 only when it is done.
    let percent = (job.copied_bytes.min(job.copy_bytes) as f64 / job.copy_bytes as f64 * 100.0).floor();
    let mut text = format!(
        "{} of {} copied, {percent}%",
        format_bytes(job.copied_bytes),
        format_bytes(job.copy_bytes)
    );
    if job.elapsed_ms > 0 {
        let rate = job.copied_bytes as f64 * 1000.0 / job.elapsed_ms as f64;
        text.push_str(&format!(", {}/s", format_bytes(rate as u64)));
    }
    text
}

/// Returns what jobs did.
pub fn done(jobs: u64, bytes_copied: u64, files_removed: u64) -> String {
    format!(
        "{} finished, {} copied, {} removed",
        count(jobs, "job"),
        format_bytes(bytes_copied),
        count(files_removed, "file")
    )
}

/// Returns how many bytes the files take for each byte that is live; `None` if nothing is.
pub fn space_amplification(status: &GcStatusResponse) -> Option<f64> {
    (status.live_bytes > 0).then(|| status.file_bytes as f64 / status.live_bytes as f64)
}

fn count(number: u64, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_of_jobs() {
        let mut job = GcJob {
            reason: "garbage".into(),
            inputs: 3,
            output_level: 1,
            copy_bytes: 40 << 20,
            copied_bytes: 10 << 20,
            elapsed_ms: 2500,
            bytes_per_second: 0,
        };
        assert_eq!(task(&job), "garbage job, 3 files into level 1");
        assert_eq!(progress(&job), "10MiB of 40MiB copied, 25%, 4MiB/s");
        job.elapsed_ms = 0;
        job.copied_bytes = job.copy_bytes - 1;
        assert_eq!(progress(&job), "40MiB of 40MiB copied, 99%");
        // Copies may come to more than was planned: the percentage does not.
        job.copied_bytes = 50 << 20;
        assert_eq!(progress(&job), "50MiB of 40MiB copied, 100%");
        assert_eq!(progress(&GcJob::default()), "nothing to copy");
    }

    #[test]
    fn space_of_nothing() {
        let status = GcStatusResponse {
            name: "n1".into(),
            file_bytes: 1024,
            ..Default::default()
        };
        let expected = "n1: on request only; no job runs; 1KiB on disk, nothing live; \
                        0 jobs finished, 0B copied, 0 files removed";
        assert_eq!(summary(&status), expected);
    }
}
