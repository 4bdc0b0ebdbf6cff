//! Goal: no byte of a message is read before the budget has room for it, and none is forgotten. Method: bodies made of
//! frames, polled by hand.

use std::collections::VecDeque;

use nezha_api::errors::{ApiError, Reason};

use super::*;

/// A body of given frames.
struct Frames(VecDeque<Bytes>);

impl HttpBody for Frames {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Poll::Ready(self.0.pop_front().map(|data| Ok(Frame::data(data))))
    }
}

/// A body that never goes on after one frame.
struct One(Option<Frame<Bytes>>);

impl HttpBody for One {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match self.0.take() {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None => Poll::Pending,
        }
    }
}

fn silent_after(bytes: &[u8]) -> Body {
    Body::new(One(Some(Frame::data(Bytes::copy_from_slice(bytes)))))
}

#[expect(clippy::big_endian_bytes, reason = "gRPC's length prefix is big-endian")]
fn message(bytes: usize) -> Vec<u8> {
    let mut out = vec![0];
    out.extend_from_slice(&u32::try_from(bytes).unwrap().to_be_bytes());
    out.extend((0..bytes).map(|i| i as u8));
    out
}

fn body(bytes: &[u8], frame_bytes: usize) -> Body {
    Body::new(Frames(
        bytes.chunks(frame_bytes).map(Bytes::copy_from_slice).collect(),
    ))
}

fn budget(total: u64) -> Budget {
    Budget::new("requests", "n1", total, Duration::from_secs(5))
}

fn limit(budget: &Budget, message_bytes_max: u64) -> MessageLimit {
    MessageLimit {
        messages: Messages::One,
        message_bytes_max,
        too_large: |actual, limit| errors::value_too_large(actual as usize, limit as usize),
        must_arrive: true,
        uncounted_bytes_max: 0,
        budget: budget.clone(),
    }
}

/// A deadline that does not matter.
fn later() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

async fn next(
    body: &mut (impl HttpBody<Data = Bytes, Error = Status> + Unpin),
) -> Option<Result<Bytes, Status>> {
    let frame = std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await?;
    Some(frame.map(|frame| frame.into_data().unwrap()))
}

async fn all(body: &mut (impl HttpBody<Data = Bytes, Error = Status> + Unpin)) -> Result<Vec<u8>, Status> {
    let mut out = Vec::new();
    while let Some(data) = next(body).await {
        out.extend_from_slice(&data?);
    }
    Ok(out)
}

fn reason(status: &Status) -> Option<Reason> {
    ApiError::from_status(status).reason
}

#[tokio::test]
async fn a_message_passes_unchanged_however_it_is_cut() {
    let sent = message(300);
    for frame_bytes in [1, 2, 4, 5, 6, 7, 100, 1000] {
        let (budget, slot) = (budget(10_000), PermitSlot::default());
        let mut admitted = AdmittedBody::new(
            body(&sent, frame_bytes),
            limit(&budget, 1000),
            slot.clone(),
            later(),
        );
        assert_eq!(all(&mut admitted).await.unwrap(), sent, "frames of {frame_bytes}");
        assert_eq!(budget.taken(), 300 + MESSAGE_OVERHEAD_BYTES);
        drop(slot.take());
        assert_eq!(budget.taken(), 0);
    }
}

#[tokio::test]
async fn a_small_message_is_not_counted_where_the_limit_says_so() {
    for (uncounted_bytes_max, counted) in [(299, 300 + MESSAGE_OVERHEAD_BYTES), (300, 0)] {
        let (budget, slot, sent) = (budget(10_000), PermitSlot::default(), message(300));
        let limit = MessageLimit {
            uncounted_bytes_max,
            ..limit(&budget, 1000)
        };
        let mut admitted = AdmittedBody::new(body(&sent, 100), limit, slot.clone(), later());
        assert_eq!(all(&mut admitted).await.unwrap(), sent);
        assert_eq!(budget.taken(), counted);
        drop(slot.take());
    }
}

/// An answer may end with trailers before any message: that is how a status comes.
#[tokio::test]
async fn trailers_pass() {
    let trailers = Frame::trailers(tonic::codegen::http::HeaderMap::new());
    let budget = budget(10_000);
    let mut admitted = AdmittedBody::new(
        Body::new(One(Some(trailers))),
        limit(&budget, 1000),
        PermitSlot::default(),
        later(),
    );
    let frame = std::future::poll_fn(|cx| Pin::new(&mut admitted).poll_frame(cx)).await;
    assert!(frame.unwrap().unwrap().is_trailers());
}

#[tokio::test]
async fn an_empty_body_is_left_to_the_decoder() {
    let budget = budget(10_000);
    let mut admitted = AdmittedBody::new(body(&[], 1), limit(&budget, 1000), PermitSlot::default(), later());
    assert!(next(&mut admitted).await.is_none());
    assert_eq!(budget.taken(), 0);
}

#[tokio::test]
async fn a_message_that_states_too_much_is_refused_by_its_first_bytes() {
    let budget = budget(10_000);
    let stated = &message(1001)[..PREFIX_BYTES];
    let mut admitted = AdmittedBody::new(
        body(stated, 5),
        limit(&budget, 1000),
        PermitSlot::default(),
        later(),
    );
    let status = next(&mut admitted).await.unwrap().unwrap_err();
    assert_eq!(reason(&status), Some(Reason::ValueTooLarge));
    assert!(
        status.message().contains("1001") && status.message().contains("1000"),
        "{}",
        status.message()
    );
    assert_eq!(budget.taken(), 0);
}

#[tokio::test]
async fn bytes_beyond_the_stated_length_are_refused() {
    let mut sent = message(10);
    sent.extend([0; 50]);
    let budget = budget(10_000);
    let mut admitted = AdmittedBody::new(
        body(&sent, 20),
        limit(&budget, 1000),
        PermitSlot::default(),
        later(),
    );
    let status = all(&mut admitted).await.unwrap_err();
    assert_eq!(reason(&status), Some(Reason::InvalidRequest));
}

/// Nothing at all, half a prefix, half a message, or all of it on a stream that stays open: each held the budget, or a
/// slot, for a minute or for ever.
#[tokio::test]
async fn a_sender_that_sleeps_is_given_up() {
    let whole = message(300);
    for sent in [0, 3, 100, whole.len()] {
        let (budget, until) = (budget(10_000), Instant::now() + Duration::from_millis(20));
        let mut admitted = AdmittedBody::new(
            silent_after(&whole[..sent]),
            limit(&budget, 1000),
            PermitSlot::default(),
            until,
        );
        let status = all(&mut admitted).await.unwrap_err();
        assert_eq!(reason(&status), Some(Reason::TimedOut), "{sent} bytes");
    }
}

#[tokio::test]
async fn an_admitted_message_has_time_by_its_length() {
    assert_eq!(arrival_wait(0), Duration::from_secs(5));
    assert_eq!(arrival_wait(16 << 20), Duration::from_secs(21));
    let budget = budget(8 << 20);
    let mut admitted = AdmittedBody::new(
        silent_after(&message(4 << 20)[..PREFIX_BYTES]),
        limit(&budget, 8 << 20),
        PermitSlot::default(),
        later(),
    );
    next(&mut admitted).await.unwrap().unwrap();
    assert!(budget.taken() > 4 << 20);
    let wait = admitted.due.saturating_duration_since(Instant::now());
    assert!(
        wait > Duration::from_secs(5) && wait <= Duration::from_secs(9),
        "{wait:?}"
    );
}

#[tokio::test]
async fn a_full_budget_lets_nothing_in_and_refuses_after_its_wait() {
    let budget = Budget::new("requests", "n1", 4000, Duration::from_millis(20));
    let held = budget.try_take(3000).unwrap();
    let sent = message(500);
    let mut admitted = AdmittedBody::new(
        body(&sent, 100),
        limit(&budget, 1000),
        PermitSlot::default(),
        later(),
    );
    let status = next(&mut admitted).await.unwrap().unwrap_err();
    assert_eq!(reason(&status), Some(Reason::Overloaded));
    let error = ApiError::from_status(&status);
    assert_eq!(error.retry_after, Some(RETRY_AFTER));
    assert_eq!(error.proposed, Some(false));
    drop(held);
    assert_eq!(budget.taken(), 0);
}

/// What waits unread is bounded by their number: one more is refused at once.
#[tokio::test]
async fn so_many_messages_wait_unread_and_no_more() {
    let budget = budget(2000);
    let held = budget.try_take(2000).unwrap();
    let begin = || {
        AdmittedBody::new(
            body(&message(900), 100),
            limit(&budget, 1000),
            PermitSlot::default(),
            later(),
        )
    };
    let mut waiting: Vec<AdmittedBody> = (0..UNREAD_MAX).map(|_| begin()).collect();
    for body in &mut waiting {
        assert!(futures::poll!(Box::pin(next(body))).is_pending());
    }
    let refused = futures::poll!(Box::pin(next(&mut begin())));
    let Poll::Ready(Some(Err(status))) = refused else {
        panic!("{refused:?}")
    };
    let error = ApiError::from_status(&status);
    assert_eq!(
        (error.reason, error.proposed),
        (Some(Reason::Overloaded), Some(false))
    );
    drop((held, waiting));
    assert!(next(&mut begin()).await.unwrap().is_ok());
}

/// A scan waits for room as long as it lives, whatever others wait.
#[tokio::test]
async fn a_wait_may_be_longer_than_the_budgets_own() {
    let budget = Budget::new("answers", "n1", 4000, Duration::ZERO);
    let held = budget.try_take(4000).unwrap();
    assert!(budget.take(1, later()).await.is_err());
    let soon = Instant::now() + Duration::from_millis(5);
    assert!(budget.take_by(1, soon).await.is_none());
    let waiting = tokio::spawn({
        let budget = budget.clone();
        async move { budget.take_by(4000, later()).await }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    drop(held);
    assert!(waiting.await.unwrap().is_some());
    assert_eq!(budget.taken(), 0);
}

#[tokio::test]
async fn a_waiting_message_goes_on_when_there_is_room() {
    let budget = budget(4000);
    let held = budget.try_take(3000).unwrap();
    let sent = message(500);
    let slot = PermitSlot::default();
    let mut admitted = AdmittedBody::new(body(&sent, 100), limit(&budget, 1000), slot.clone(), later());
    let reading = tokio::spawn(async move { all(&mut admitted).await });
    tokio::task::yield_now().await;
    assert!(!reading.is_finished());
    drop(held);
    assert_eq!(reading.await.unwrap().unwrap(), sent);
    assert_eq!(budget.taken(), 500 + MESSAGE_OVERHEAD_BYTES);
}

#[tokio::test]
async fn a_large_answer_leaves_in_pieces_and_gives_its_bytes_back_at_the_end() {
    let budget = budget(1 << 20);
    let permit = AnswerPermit::new(budget.try_take(300 << 10).unwrap());
    let sent = vec![7; 300 << 10];
    let mut pieced = PiecedBody::new(body(&sent, sent.len()), Some(permit));
    let mut got = Vec::new();
    while let Some(piece) = next(&mut pieced).await {
        let piece = piece.unwrap();
        assert!(piece.len() <= PIECE_BYTES);
        assert_eq!(budget.taken(), 300 << 10);
        got.extend_from_slice(&piece);
    }
    assert_eq!(got, sent);
    drop(pieced);
    assert_eq!(budget.taken(), 0);
}

#[tokio::test]
async fn drained_means_that_nothing_is_taken() {
    let budget = budget(4000);
    assert!(budget.drained(Duration::from_millis(1)).await);
    let held = budget.try_take(1).unwrap();
    assert!(!budget.drained(Duration::from_millis(1)).await);
    drop(held);
    assert!(budget.drained(Duration::from_millis(1)).await);
    // More than there is: all of it, so that the largest message is admitted on its own.
    let whole = budget.try_take(1 << 40).unwrap();
    assert_eq!(budget.taken(), 4000);
    drop(whole);
}

fn many(budget: &Budget) -> MessageLimit {
    MessageLimit {
        messages: Messages::Many,
        ..limit(budget, 1000)
    }
}

#[tokio::test]
async fn messages_of_a_stream_pass_unchanged_and_are_counted_one_by_one() {
    let lengths = [300, 0, 1, 999, 1000, 5];
    let sent: Vec<u8> = lengths.iter().flat_map(|bytes| message(*bytes)).collect();
    for frame_bytes in [1, 3, 5, 7, 306, 1000, 10_000] {
        let (budget, slot) = (budget(100_000), PermitSlot::default());
        let mut admitted = AdmittedBody::new(body(&sent, frame_bytes), many(&budget), slot.clone(), later());
        assert_eq!(all(&mut admitted).await.unwrap(), sent, "frames of {frame_bytes}");
        for bytes in lengths {
            let before = budget.taken();
            drop(slot.take().unwrap());
            assert_eq!(before - budget.taken(), bytes as u64 + MESSAGE_OVERHEAD_BYTES);
        }
        assert_eq!((budget.taken(), slot.take().is_none()), (0, true));
    }
}

/// Nothing of the second message is read before there is room, however long that takes; then it goes on.
#[tokio::test]
async fn a_message_of_a_stream_waits_for_room_as_long_as_it_takes() {
    let budget = Budget::new("requests", "n1", 2000, Duration::ZERO);
    let slot = PermitSlot::default();
    let sent = [message(500), message(600)].concat();
    let mut admitted = AdmittedBody::new(body(&sent, 10_000), many(&budget), slot.clone(), later());
    assert_eq!(next(&mut admitted).await.unwrap().unwrap(), message(500));
    let reading = tokio::spawn(async move { next(&mut admitted).await.unwrap().unwrap() });
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(!reading.is_finished());
    drop(slot.take());
    assert_eq!(reading.await.unwrap(), message(600));
}

/// Between messages a sender may be silent; within one it may not.
#[tokio::test]
async fn a_stream_may_be_silent_between_messages_only() {
    for (sent, given_up) in [(message(300), false), (message(300)[..200].to_vec(), true)] {
        let (budget, until) = (budget(10_000), Instant::now() + Duration::from_millis(20));
        let silent = silent_after(&sent);
        let mut admitted = AdmittedBody::new(silent, many(&budget), PermitSlot::default(), until);
        let read = tokio::time::timeout(Duration::from_millis(200), all(&mut admitted)).await;
        let reason = read.ok().map(|read| reason(&read.unwrap_err()));
        assert_eq!(reason, given_up.then_some(Some(Reason::TimedOut)));
    }
}
