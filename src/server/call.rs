//! What a call brings besides its message: deadline, forwarding wishes, admission.

use std::time::Duration;

use tokio::time::Instant;
use tonic::Request;
use tonic::metadata::MetadataMap;

use super::admission::{Permit, PermitSlot};

/// Set by a member on a call that it passes on: it may not be passed on again.
pub const FORWARDED: &str = "nezha-forwarded";
/// Set by a client that wants NOT_LEADER instead of having its call passed on.
pub const NO_FORWARD: &str = "nezha-no-forward";
/// Where gRPC states how long the caller waits.
pub const TIMEOUT: &str = "grpc-timeout";
/// Deadline of a call that states none.
const DEADLINE_DEFAULT: Duration = Duration::from_secs(60);
/// Longest deadline; a longer one is cut.
const DEADLINE_MAX: Duration = Duration::from_secs(3600);

/// When the head of a request came in, in the request's extensions. Deadlines count from there: by the time that a
/// handler runs, the message may have waited for admission and travelled for long.
#[derive(Debug, Clone, Copy)]
pub struct Arrival(pub Instant);

/// The circumstances of one call.
#[derive(Debug)]
pub struct Call {
    /// The caller is a member that passed the call on.
    pub forwarded: bool,
    /// When the caller stops waiting, a little early, so that the answer says more than its own timer can.
    pub deadline: Instant,
    /// The caller stated that deadline.
    pub deadline_stated: bool,
    /// The bytes of the request; held as long as they may be in memory.
    pub permit: Option<Permit>,
    no_forward: bool,
}

impl Call {
    /// Reads the circumstances of `request` and takes its permit.
    pub fn of<T>(request: &Request<T>) -> Self {
        let extensions = request.extensions();
        let arrived = extensions.get::<Arrival>().map(|arrival| arrival.0);
        let mut call = Self::from_metadata(request.metadata(), arrived.unwrap_or_else(Instant::now));
        call.permit = extensions.get::<PermitSlot>().and_then(PermitSlot::take);
        call
    }

    fn from_metadata(metadata: &MetadataMap, arrived: Instant) -> Self {
        let set = |name| metadata.get(name).is_some_and(|value| value.as_bytes() == b"1");
        let stated = metadata.get(TIMEOUT).and_then(|value| value.to_str().ok());
        let stated = stated.and_then(|text| stated_deadline(text, arrived));
        Self {
            forwarded: set(FORWARDED),
            no_forward: set(NO_FORWARD),
            deadline: stated.unwrap_or(arrived + DEADLINE_DEFAULT),
            deadline_stated: stated.is_some(),
            permit: None,
        }
    }

    /// Reads the circumstances of a stream of operations. Its permits are those of its messages.
    pub fn of_stream<T>(request: &Request<T>) -> Self {
        Self::from_metadata(request.metadata(), Instant::now())
    }

    /// The circumstances of an operation that came just now on the stream of this call. `timeout`: how long its caller
    /// waits; zero if it did not say.
    pub fn operation(&self, timeout: Duration, permit: Option<Permit>) -> Call {
        let stated = !timeout.is_zero();
        let arrived = Instant::now();
        Call {
            forwarded: self.forwarded,
            no_forward: self.no_forward,
            deadline: match stated {
                true => a_little_early(timeout, arrived),
                false => arrived + DEADLINE_DEFAULT,
            },
            deadline_stated: stated,
            permit,
        }
    }

    /// Whether the call may be passed on to the leader: one hop only.
    pub fn may_forward(&self) -> bool {
        !self.forwarded && !self.no_forward
    }
}

/// When the caller of a request that came in at `arrived` stops waiting, a little early; `timeout` is what it stated.
pub fn deadline(timeout: Option<&str>, arrived: Instant) -> Instant {
    let stated = timeout.and_then(|text| stated_deadline(text, arrived));
    stated.unwrap_or(arrived + DEADLINE_DEFAULT)
}

fn stated_deadline(text: &str, arrived: Instant) -> Option<Instant> {
    Some(a_little_early(parse_timeout(text)?, arrived))
}

/// When an answer must be on its way to a caller that waits for `timeout`.
fn a_little_early(timeout: Duration, arrived: Instant) -> Instant {
    let timeout = timeout.min(DEADLINE_MAX);
    let early = (timeout / 20).clamp(Duration::from_millis(1), Duration::from_millis(50));
    arrived + timeout.saturating_sub(early)
}

/// Parses gRPC's time-out: up to eight digits and a unit.
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(pairs: &[(&'static str, &'static str)]) -> Call {
        let mut metadata = MetadataMap::new();
        for (name, value) in pairs {
            metadata.insert(*name, value.parse().unwrap());
        }
        Call::from_metadata(&metadata, Instant::now())
    }

    /// A call is passed on at most once, and not at all if the client objects.
    #[test]
    fn forwarding_guard() {
        assert!(call(&[]).may_forward());
        assert!(!call(&[(FORWARDED, "1")]).may_forward());
        assert!(!call(&[(NO_FORWARD, "1")]).may_forward());
        assert!(call(&[(NO_FORWARD, "0")]).may_forward());
    }

    #[test]
    fn timeouts_are_parsed_as_grpc_states_them() {
        assert_eq!(parse_timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(parse_timeout("2S"), Some(Duration::from_secs(2)));
        assert_eq!(
            parse_timeout("99999999H"),
            Some(Duration::from_secs(99_999_999 * 3600))
        );
        for bad in ["", "S", "5", "1234567890S", "-1S", "1s", "5\u{fc}"] {
            assert_eq!(parse_timeout(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_deadline_is_a_little_before_the_callers() {
        let now = Instant::now();
        let after = |text| stated_deadline(text, now).map(|deadline| deadline - now);
        // A twentieth, within 1 ms and 50 ms.
        assert_eq!(after("2S"), Some(Duration::from_millis(1950)));
        assert_eq!(after("400m"), Some(Duration::from_millis(380)));
        assert_eq!(after("10m"), Some(Duration::from_millis(9)));
        assert_eq!(after("1u"), Some(Duration::ZERO));
        assert_eq!(after("9H"), Some(Duration::from_millis(3_599_950)), "the longest");
        assert_eq!(after("soon"), None);
        assert!(call(&[("grpc-timeout", "2S")]).deadline_stated);
        assert!(!call(&[]).deadline_stated);
    }

    /// Once, a call that had waited for admission got its whole time again when its handler began.
    #[test]
    fn the_deadline_counts_from_the_arrival() {
        let arrived = Instant::now() - Duration::from_secs(1);
        for timeout in [Some("2S"), None, Some("nonsense")] {
            let mut request = Request::new(());
            request.extensions_mut().insert(Arrival(arrived));
            if let Some(text) = timeout {
                request.metadata_mut().insert(TIMEOUT, text.parse().unwrap());
            }
            assert_eq!(Call::of(&request).deadline, deadline(timeout, arrived));
        }
        assert!(deadline(Some("2S"), arrived) < arrived + Duration::from_secs(2));
        assert_eq!(deadline(None, arrived), arrived + DEADLINE_DEFAULT);
    }
}
