//! Goal: the client repeats what may be repeated, and nothing else.
//! Method: scripted servers in this process count what reaches them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "shared by several test files")]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use nezha_api::client::{Client, ClientError, ClientOptions, Condition, FailureKind};
use nezha_api::errors::{self, LeaderHint, Reason};
use nezha_api::v1::{Consistency, GetResponse};
use support::{Script, Server, answer, closed_endpoint, hang, header, listen_apart, written};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tonic::Status;

/// Short pauses; a deadline that no passing test reaches unless it says so.
fn options() -> ClientOptions {
    ClientOptions {
        timeout: Duration::from_secs(30),
        attempt_timeout: Duration::from_secs(10),
        backoff_base: Duration::from_millis(1),
        backoff_max: Duration::from_millis(20),
        sync_interval: None,
        ..ClientOptions::default()
    }
}

fn client(endpoints: &[&str]) -> Client {
    Client::connect(endpoints, options()).unwrap()
}

fn not_leader(endpoint: &str) -> Status {
    errors::not_leader(
        "n1",
        2,
        Some(LeaderHint {
            id: 2,
            endpoint: endpoint.to_owned(),
        }),
    )
}

fn value(text: &'static str) -> GetResponse {
    GetResponse {
        header: header(""),
        found: true,
        value: text.into(),
        metadata: None,
    }
}

#[tokio::test]
async fn follows_the_leader_hint_and_remembers_it() {
    let leader = Server::start(Script {
        put: answer(|_, _| Ok(written(""))),
        ..Script::default()
    })
    .await;
    let hint = leader.endpoint.clone();
    let follower = Server::start(Script {
        put: answer(move |_, _| Err(not_leader(&hint))),
        ..Script::default()
    })
    .await;
    let client = client(&[&follower.endpoint]);
    for _ in 0..3 {
        let put = client.put("k", "v", Condition::None).await.unwrap();
        assert!(put.succeeded);
    }
    assert_eq!((follower.puts(), leader.puts()), (1, 3));
}

#[tokio::test]
async fn drifts_to_the_leader_that_answers_name() {
    let leader = Server::start(Script {
        put: answer(|_, _| Ok(written(""))),
        ..Script::default()
    })
    .await;
    let named = leader.endpoint.clone();
    let follower = Server::start(Script {
        put: answer(move |_, _| Ok(written(&named))),
        ..Script::default()
    })
    .await;
    let client = client(&[&follower.endpoint]);
    for _ in 0..3 {
        client.put("k", "v", Condition::None).await.unwrap();
    }
    assert_eq!((follower.puts(), leader.puts()), (1, 2));
}

#[tokio::test]
async fn waits_out_an_election() {
    let put = answer(|nth, _| {
        if nth < 4 {
            Err(errors::not_leader("n1", 2, None))
        } else {
            Ok(written(""))
        }
    });
    let server = Server::start(Script {
        put,
        ..Script::default()
    })
    .await;
    client(&[&server.endpoint])
        .put("k", "v", Condition::None)
        .await
        .unwrap();
    assert_eq!(server.puts(), 4);
}

#[tokio::test]
async fn repeats_a_write_that_was_not_proposed() {
    let put = answer(|nth, _| match nth {
        1 => Err(errors::overloaded(
            "n1",
            "too much in flight",
            Duration::from_millis(1),
        )),
        2 => Err(errors::timed_out("n1", "admission")),
        3 => Err(errors::stopping("n1")),
        _ => Ok(written("")),
    });
    let server = Server::start(Script {
        put,
        ..Script::default()
    })
    .await;
    client(&[&server.endpoint])
        .put("k", "v", Condition::None)
        .await
        .unwrap();
    assert_eq!(server.puts(), 4);
}

#[tokio::test]
async fn never_repeats_a_write_with_an_unknown_outcome() {
    let statuses: [fn() -> Status; 7] = [
        || errors::outcome_unknown("n1", "leadership was lost"),
        || errors::internal("n1", "lost the leader", true),
        || Status::unavailable("a proxy says no"),
        || Status::deadline_exceeded("too late"),
        || Status::cancelled("Timeout expired"),
        || Status::internal("h2 protocol error"),
        || Status::unknown("?"),
    ];
    for status in statuses {
        let failing = Server::start(Script {
            put: answer(move |_, _| Err(status())),
            ..Script::default()
        })
        .await;
        let error = client(&[&failing.endpoint])
            .put("k", "v", Condition::None)
            .await
            .expect_err("no answer is known");
        assert!(
            matches!(error, ClientError::OutcomeUnknown { .. }),
            "{:?}: {error:?}",
            status()
        );
        assert_eq!(failing.puts(), 1, "{:?}", status());
    }
}

#[tokio::test]
async fn a_write_without_an_answer_in_time_is_unknown() {
    let server = Server::start(Script {
        put: hang(),
        ..Script::default()
    })
    .await;
    let options = ClientOptions {
        timeout: Duration::from_secs(1),
        ..options()
    };
    let client = Client::connect([&server.endpoint], options).unwrap();
    let error = client.put("k", "v", Condition::None).await.unwrap_err();
    assert!(matches!(error, ClientError::OutcomeUnknown { .. }), "{error:?}");
    assert_eq!(server.puts(), 1);
}

/// A write that was refused until now is not sent a last time with no time left for its answer.
#[tokio::test]
async fn no_write_is_sent_shortly_before_the_deadline() {
    let server = Server::start(Script {
        put: answer(|_, _| Err(errors::overloaded("n1", "too much in flight", Duration::ZERO))),
        ..Script::default()
    })
    .await;
    let options = ClientOptions {
        timeout: Duration::from_millis(600),
        ..options()
    };
    let client = Client::connect([&server.endpoint], options).unwrap();
    client.put("k", "v", Condition::None).await.unwrap_err();
    let timeouts = server.counts.put_timeouts.lock().unwrap();
    let shortest = timeouts.iter().min().unwrap();
    assert!(*shortest >= Duration::from_millis(50), "{shortest:?}");
}

/// A server that takes the whole request and then closes the connection without an answer.
#[tokio::test]
async fn a_connection_lost_after_sending_is_unknown() {
    const VALUE_BYTES: usize = 10_000;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = listener.local_addr().unwrap().to_string();
    let requests = Arc::new(AtomicU32::new(0));
    let seen = requests.clone();
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let empty_settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
            socket.write_all(&empty_settings).await.unwrap();
            let mut received = 0;
            let mut buffer = [0; 4096];
            while received < VALUE_BYTES {
                match socket.read(&mut buffer).await {
                    Ok(0) | Err(_) => break,
                    Ok(count) => received += count,
                }
            }
            if received >= VALUE_BYTES {
                seen.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    let error = client(&[&endpoint])
        .put("k", vec![1; VALUE_BYTES], Condition::None)
        .await
        .unwrap_err();
    assert!(matches!(error, ClientError::OutcomeUnknown { .. }), "{error:?}");
    assert!(error.to_string().contains("connection lost"), "{error}");
    assert_eq!(requests.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_refusal_is_final() {
    let put = answer(|_, _| Err(errors::value_too_large(20, 16)));
    let server = Server::start(Script {
        put,
        ..Script::default()
    })
    .await;
    let error = client(&[&server.endpoint])
        .put("k", "v", Condition::None)
        .await
        .unwrap_err();
    assert_eq!(error.reason(), Some(Reason::ValueTooLarge));
    assert_eq!(error.api_error().unwrap().limit, Some(16));
    assert_eq!(server.puts(), 1);
}

#[tokio::test]
async fn a_refused_connection_is_tried_elsewhere() {
    let closed = closed_endpoint().await;
    let server = Server::start(Script {
        put: answer(|_, _| Ok(written(""))),
        ..Script::default()
    })
    .await;
    // Clients begin at a random endpoint: both orders, several clients.
    for _ in 0..8 {
        client(&[&closed, &server.endpoint])
            .put("k", "v", Condition::None)
            .await
            .unwrap();
    }
    assert_eq!(server.puts(), 8);
}

#[tokio::test]
async fn waits_for_a_server_that_starts_late() {
    let endpoint = closed_endpoint().await;
    let client = client(&[&endpoint]);
    let writing = tokio::spawn(async move { client.put("k", "v", Condition::None).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    let listener = TcpListener::bind(&endpoint).await.unwrap();
    let script = Script {
        put: answer(|_, _| Ok(written(""))),
        ..Script::default()
    };
    let server = Server::start_on(listener, script);
    writing.await.unwrap().unwrap();
    assert_eq!(server.puts(), 1);
}

#[tokio::test]
async fn survives_a_restart_of_an_idle_server() {
    let script = || Script {
        put: answer(|_, _| Ok(written(""))),
        ..Script::default()
    };
    let first = Server::start_on(listen_apart().await, script());
    let endpoint = first.endpoint.clone();
    let client = client(&[&endpoint]);
    client.put("k", "1", Condition::None).await.unwrap();
    drop(first);
    // The port is free once the old listener is gone.
    let listener = loop {
        match TcpListener::bind(&endpoint).await {
            Ok(listener) => break listener,
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    let second = Server::start_on(listener, script());
    let read = client.get("k", Consistency::Linearizable).await;
    assert!(
        matches!(read, Err(ClientError::Refused { .. })),
        "the second server answers: {read:?}"
    );
    client.put("k", "2", Condition::None).await.unwrap();
    assert_eq!(second.puts(), 1);
}

#[tokio::test]
async fn a_read_leaves_an_endpoint_that_does_not_answer() {
    let hanging = Server::start(Script {
        get: hang(),
        ..Script::default()
    })
    .await;
    let named = hanging.endpoint.clone();
    let get = answer(move |_, _| {
        Ok(GetResponse {
            header: header(&named),
            ..value("v")
        })
    });
    let healthy = Server::start(Script {
        get,
        ..Script::default()
    })
    .await;
    let options = ClientOptions {
        attempt_timeout: Duration::from_secs(1),
        ..options()
    };
    let client = Client::connect([&healthy.endpoint], options).unwrap();
    // The first answer names the hanging server as the leader, so the second read goes there first.
    client.get("k", Consistency::Linearizable).await.unwrap();
    let get = client.get("k", Consistency::Linearizable).await.unwrap();
    assert_eq!(get.found.unwrap().value, "v");
    assert_eq!((hanging.gets(), healthy.gets()), (1, 2));
}

#[tokio::test]
async fn stale_reads_stay_with_the_given_endpoints() {
    let leader = Server::start(Script {
        get: answer(|_, _| Ok(value("new"))),
        ..Script::default()
    })
    .await;
    let named = leader.endpoint.clone();
    let get = answer(move |_, _| {
        Ok(GetResponse {
            header: header(&named),
            ..value("old")
        })
    });
    let given = Server::start(Script {
        get,
        ..Script::default()
    })
    .await;
    let client = client(&[&given.endpoint]);
    for _ in 0..2 {
        let get = client.get("k", Consistency::Stale).await.unwrap();
        assert_eq!(get.found.unwrap().value, "old");
    }
    assert_eq!((leader.gets(), given.gets()), (0, 2));
}

#[tokio::test]
async fn says_the_cause_for_each_endpoint() {
    let closed = [closed_endpoint().await, closed_endpoint().await];
    let options = ClientOptions {
        timeout: Duration::from_secs(1),
        ..options()
    };
    let client = Client::connect(&closed, options).unwrap();
    let error = client.put("k", "v", Condition::None).await.unwrap_err();
    let ClientError::Unavailable { failures } = &error else {
        panic!("{error:?}")
    };
    for endpoint in &closed {
        let failure = failures
            .iter()
            .find(|failure| &failure.endpoint == endpoint)
            .unwrap();
        assert_eq!(failure.kind, FailureKind::Unreachable);
        assert!(failure.cause.contains("refused"), "{failure:?}");
        assert!(error.to_string().contains(endpoint), "{error}");
    }
}

#[tokio::test]
async fn values_above_the_default_transport_limit_pass_both_ways() {
    let big = Bytes::from(vec![7; 20 << 20]);
    let stored = big.clone();
    let script = Script {
        put: answer(|_, request: nezha_api::v1::PutRequest| {
            assert_eq!(request.value.len(), 20 << 20);
            Ok(written(""))
        }),
        get: answer(move |_, _| {
            Ok(GetResponse {
                value: stored.clone(),
                ..value("")
            })
        }),
        ..Script::default()
    };
    let server = Server::start(script).await;
    let client = client(&[&server.endpoint]);
    client.put("k", big.clone(), Condition::None).await.unwrap();
    let get = client.get("k", Consistency::Linearizable).await.unwrap();
    assert!(get.found.unwrap().value == big);
}

#[tokio::test]
async fn endpoints_that_cannot_be_used_are_refused() {
    for wrong in [
        "",
        "host",
        "host:",
        "host:0",
        "host:99999",
        ":7379",
        "https://host:1",
        "a/b:1",
    ] {
        let error = Client::connect([wrong], options()).err().expect(wrong);
        assert!(
            matches!(error, ClientError::InvalidEndpoint { .. }),
            "{wrong}: {error:?}"
        );
    }
    let none: [&str; 0] = [];
    assert!(Client::connect(none, options()).is_err());
    assert!(Client::connect(["http://127.0.0.1:1/", "[::1]:2", "localhost:3"], options()).is_ok());
}
