//! The client against targets of our own, over loopback: with and without TLS, and of all kinds of bad manners.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

mod target;

use railwatch_switches::client::{Event, Limitation, Security, Target, follow};
use railwatch_switches::{SwitchState, gnmi::Encoding};
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use target::{Fake, Tls, json, said, sync};
use tokio::sync::mpsc;
use tonic::{Code, Status};

const WITHIN: Duration = Duration::from_secs(20);

fn clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| u64::try_from(now.as_nanos()).unwrap_or(0))
}

fn plain(fake: &target::Running) -> Target {
    Target {
        address: fake.address.to_string(),
        security: Security::Insecure,
        credentials: None,
        sample: Duration::from_millis(100),
    }
}

fn followed(target: Target) -> mpsc::Receiver<Event> {
    let (sender, receiver) = mpsc::channel(8);
    tokio::spawn(follow(target, clock, sender));
    receiver
}

async fn next(events: &mut mpsc::Receiver<Event>) -> Event {
    tokio::time::timeout(WITHIN, events.recv()).await.unwrap().unwrap()
}

fn whats(limitations: &[Limitation]) -> Vec<&str> {
    limitations.iter().map(|limitation| limitation.what.as_str()).collect()
}

const UP: &str = "/interfaces/interface[name=eth0]/state/oper-status";

#[tokio::test]
async fn a_stream_over_tls_with_certificate_and_password_is_read_whole() {
    let tls = Tls::new();
    let fake = Fake {
        messages: vec![
            said(&[(UP, json("\"UP\""))]),
            sync(),
            said(&[(UP, json("\"DOWN\""))]),
            said(&[(
                "/qos/interfaces/interface[interface-id=eth0]/output/queues/queue[name=3]/state/dropped-pkts",
                json("1"),
            )]),
        ],
        password: Some(("reader".into(), "secret".into())),
        ..Fake::default()
    };
    let running = fake.start(Some(&tls)).await;
    let security = Security::Tls {
        trust: tls.authority.clone(),
        identity: Some((tls.client.clone(), tls.client_key.clone())),
        server_name: Some("switch.test".into()),
    };
    let target = Target { security, credentials: Some(("reader".into(), "secret".into())), ..plain(&running) };
    let mut events = followed(target.clone());
    let Event::Connected(offer) = next(&mut events).await else { panic!("connected first") };
    assert_eq!((offer.version.as_deref(), offer.models, offer.limitations.len()), (Some("0.10.0"), 1, 0));
    let mut state = SwitchState::new("s");
    state.begin();
    let mut edges = 0;
    for turn in 0..5 {
        match next(&mut events).await {
            Event::Said(notification, at) => edges += state.apply(&notification, at).changes.len(),
            Event::Synced(silent) => {
                assert_eq!(turn, 1);
                assert!(whats(&silent).contains(&"queues") && !whats(&silent).contains(&"link state"), "{silent:?}");
            }
            Event::Silent(silent) => {
                assert_eq!(turn, 3);
                assert!(!whats(&silent).contains(&"queues") && whats(&silent).contains(&"neighbours"), "{silent:?}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((edges, state.ports["eth0"].up), (1, Some(false)));
    assert_eq!(running.asked()[0].encoding, i32::from(Encoding::JsonIetf));

    for (credentials, trust, says) in [
        (Some(("reader".to_owned(), "wrong".to_owned())), tls.authority.clone(), "Unauthenticated"),
        (None, Tls::new().authority, "connect to"),
    ] {
        let security = Security::Tls { trust, identity: None, server_name: Some("switch.test".into()) };
        let security = if says == "Unauthenticated" { target.security.clone() } else { security };
        let Event::Lost { why, .. } = next(&mut followed(Target { security, credentials, ..target.clone() })).await
        else {
            panic!("it must not connect")
        };
        assert!(why.contains(says), "{why}");
    }
}

#[tokio::test]
async fn a_password_never_goes_over_a_plain_connection() {
    let running = Fake::default().start(None).await;
    let mut events = followed(Target { credentials: Some(("a".into(), "b".into())), ..plain(&running) });
    let Event::Lost { why, .. } = next(&mut events).await else { panic!("it must not connect") };
    assert!(why.contains("without TLS"), "{why}");
    assert_eq!(running.streams.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn what_a_target_lacks_is_told_with_its_reason_and_the_rest_is_read() {
    let fake = Fake {
        messages: vec![said(&[(UP, json("\"UP\""))]), sync()],
        refuses: |path, on_change, interval_ms| {
            if path.starts_with("/qos") {
                return Some(Status::unimplemented("no such model"));
            }
            if on_change && path.starts_with("/lldp") {
                return Some(Status::invalid_argument("ON_CHANGE is not supported for this path"));
            }
            (!on_change && interval_ms < 500).then(|| Status::invalid_argument("sample_interval is below 500 ms"))
        },
        ..Fake::default()
    };
    let running = fake.start(None).await;
    let mut events = followed(plain(&running));
    let Event::Connected(offer) = next(&mut events).await else { panic!("connected first") };
    let why = |what: &str| {
        let found = offer.limitations.iter().find(|limitation| limitation.what == what);
        found.map_or(String::new(), |limitation| limitation.why.clone())
    };
    assert!(why("queues").contains("not offered: Unimplemented: no such model"), "{offer:?}");
    assert!(why("ports and their counters").contains("100ms is refused"), "{offer:?}");
    assert!(why("neighbours").contains("refused"), "{offer:?}");
    assert_eq!((why("link state"), why("parts")), (String::new(), String::new()));
    assert_eq!((offer.sample, offer.neighbours_sampled), (Some(Duration::from_secs(1)), Some(Duration::from_secs(1))));
    assert!(matches!(next(&mut events).await, Event::Said(..)));
    let asked = running.asked();
    let last = asked.last().unwrap();
    assert_eq!(last.subscription.len(), railwatch_switches::paths::WANTED.len() - 2);
}

#[tokio::test]
async fn a_target_that_offers_nothing_is_tried_again_later() {
    let fake = Fake { refuses: |_, _, _| Some(Status::unimplemented("no telemetry")), ..Fake::default() };
    let running = fake.start(None).await;
    let Event::Lost { why, .. } = next(&mut followed(plain(&running))).await else { panic!("it must not connect") };
    assert!(why.contains("offers nothing") && why.contains("no telemetry"), "{why}");
}

#[tokio::test]
async fn a_stream_that_ends_is_opened_again_and_says_why_it_ended() {
    let fake = Fake {
        messages: vec![said(&[(UP, json("\"UP\""))]), sync()],
        ends: Some(Status::new(Code::Unavailable, "restarting")),
        ..Fake::default()
    };
    let running = fake.start(None).await;
    let mut events = followed(plain(&running));
    let mut ends = 0;
    while ends < 2 {
        if let Event::Lost { why, again_in } = next(&mut events).await {
            assert!(why.contains("restarting"), "{why}");
            assert!(again_in >= Duration::from_millis(250), "{again_in:?}");
            ends += 1;
        }
    }
    assert!(running.streams.load(Ordering::SeqCst) >= 2);
}

#[tokio::test]
async fn garbage_is_counted_and_what_follows_is_read() {
    let fake = Fake {
        messages: vec![
            said(&[(UP, json("{\"oper")), ("/", json("[]")), ("/interfaces", json("{\"interface\":[{\"x\":{}}]}"))]),
            said(&[(UP, json("\"UP\""))]),
            sync(),
        ],
        ..Fake::default()
    };
    let running = fake.start(None).await;
    let mut events = followed(plain(&running));
    let (mut state, mut malformed) = (SwitchState::new("s"), 0);
    loop {
        match next(&mut events).await {
            Event::Said(notification, at) => malformed += state.apply(&notification, at).malformed,
            Event::Synced(_) => break,
            Event::Connected(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((malformed, state.ports["eth0"].up), (2, Some(true)));
}

#[tokio::test]
async fn a_flood_waits_at_the_target_while_nobody_reads() {
    let message =
        said(&[("/interfaces/interface[name=eth0]/state/description", json(&format!("\"{}\"", "x".repeat(400))))]);
    let running = Fake { messages: vec![message; 20_000], ..Fake::default() }.start(None).await;
    let mut events = followed(plain(&running));
    assert!(matches!(next(&mut events).await, Event::Connected(_)));
    let mut sent = 0;
    // Until it stands still.
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = running.sent.load(Ordering::SeqCst);
        if now == sent && now > 0 {
            break;
        }
        sent = now;
    }
    assert!(sent < 20_000, "all {sent} were taken although nobody read");
    for _ in 0..1_000 {
        assert!(matches!(next(&mut events).await, Event::Said(..)));
    }
}
