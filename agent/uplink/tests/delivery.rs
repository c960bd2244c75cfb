//! What the uplink promises about frames, over real mTLS against a collector double.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

mod collector;

use collector::*;
use railwatch_pki::{DevelopmentCa, HostName, LEAF_LIFE, Reason};
use railwatch_uplink::{Refused, Uplink, UplinkOptions};
use railwatch_wire::v1::{LossAccount, PortState, Reject, Snapshot, reject};
use std::time::{Duration, Instant};

/// Deterministic spread for places of faults.
fn spread(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    }
}

#[test]
fn a_collector_killed_at_random_gets_every_frame_once_and_in_order() {
    for seed in 1..=4 {
        let mut random = spread(seed);
        let site = Site::new();
        let mut running = site.listen("127.0.0.1:0");
        let address = running.address.clone();
        let (uplink, thread) = Uplink::start(site.options(&address)).unwrap();
        define(&uplink, 0..20);
        let (mut signals, mut frames, mut refused) = (0, Vec::new(), 0);
        for _ in 0..6 {
            for _ in 0..random(300) {
                if random(3) == 0 {
                    let payload = frames.len() as u64 + refused;
                    match uplink.windows(windows(payload, 0, 20)) {
                        Ok(()) => frames.push(payload),
                        Err(_) => refused += 1,
                    }
                } else {
                    uplink.signal(signal(signals)).unwrap();
                    signals += 1;
                }
                if random(40) == 0 {
                    std::thread::sleep(Duration::from_millis(random(8)));
                }
            }
            if random(2) == 0 {
                site.faults(|faults| faults.cut_after = Some(1));
                std::thread::sleep(Duration::from_millis(random(60)));
                site.faults(|faults| faults.cut_after = None);
            }
            running.kill();
            std::thread::sleep(Duration::from_millis(random(40)));
            running = site.listen(&address);
        }
        eventually("everything is acknowledged", || settled(&uplink.state()));
        site.stored(|stored| {
            assert_eq!(signals_of(stored), (0..signals).collect::<Vec<_>>(), "seed {seed}");
            assert_eq!(windows_of(stored), frames, "seed {seed}");
            assert_eq!(stored.undefined, 0, "seed {seed}: series are defined on every connection before they are used");
            let sequences: Vec<u64> = stored.frames.iter().map(|frame| frame.sequence).collect();
            assert_eq!(
                sequences,
                (1..=signals + frames.len() as u64).collect::<Vec<_>>(),
                "seed {seed}: no gap without loss"
            );
            assert_eq!(stored.frames.iter().map(|frame| frame.skipped_signals).sum::<u64>(), 0, "seed {seed}");
            // What a full queue refused after the last windows has no frame yet to tell it.
            assert!(stored.frames.iter().map(|frame| frame.skipped_windows).sum::<u64>() <= refused, "seed {seed}");
        });
        let state = uplink.state();
        assert_eq!((state.refused_signals, state.refused_windows, state.spool.damaged), (0, refused, 0));
        uplink.stop();
        thread.join().unwrap();
        running.kill();
    }
}

#[test]
fn a_new_signal_goes_before_the_windows_that_wait() {
    let site = Site::new();
    let address = free_address();
    let (uplink, thread) = Uplink::start(site.options(&address)).unwrap();
    for payload in 0..2000 {
        // 200 series: 8 kB a frame, 16 MB in all.
        eventually("there is room for windows", || uplink.windows(windows(payload, 0, 200)).is_ok());
    }
    eventually("all are spooled", || uplink.state().spool.waiting_windows == 2000);
    uplink.signal(signal(1)).unwrap();
    let running = site.listen(&address);
    eventually("some windows came", || site.stored(|stored| stored.frames.len() > 50));
    uplink.signal(signal(2)).unwrap();
    eventually("everything is acknowledged", || settled(&uplink.state()));
    site.stored(|stored| {
        let place = |payload: f64| {
            let is = |body: &Option<railwatch_wire::v1::frame::Body>| {
                matches!(body, Some(railwatch_wire::v1::frame::Body::Signal(signal)) if signal.value == payload)
            };
            stored.frames.iter().position(|frame| is(&frame.body)).unwrap()
        };
        assert_eq!(place(1.0), 0, "the signal that waited goes first");
        assert!(place(2.0) < 1000, "the signal of now overtakes what was not in flight: {}", place(2.0));
        assert_eq!(windows_of(stored), (0..2000).collect::<Vec<_>>());
    });
    let refused = uplink.state().refused_windows;
    site.stored(|stored| {
        let skipped: u64 = stored.frames.iter().map(|frame| frame.skipped_windows).sum();
        assert_eq!(skipped, refused, "what a full queue refused is told to the collector");
    });
    uplink.stop();
    thread.join().unwrap();
    running.kill();
}

#[test]
fn the_quota_cuts_the_oldest_windows_first_and_says_how_many() {
    let site = Site::new();
    let address = free_address();
    let mut options = site.options(&address);
    options.spool.disk_bytes_max = 1 << 20;
    let (uplink, thread) = Uplink::start(options).unwrap();
    for payload in 0..1000 {
        eventually("a signal is taken", || uplink.signal(signal(payload)).is_ok());
        eventually("windows are taken", || uplink.windows(windows(payload, 0, 100)).is_ok());
        let spool = uplink.state().spool;
        assert!(spool.disk_bytes <= 1 << 20, "{spool:?}");
    }
    eventually("all went through the queue", || {
        let spool = uplink.state().spool;
        spool.waiting_windows + spool.cut_windows == 1000 && spool.waiting_signals == 1000
    });
    let cut = uplink.state().spool.cut_windows;
    assert!(cut > 500 && uplink.state().spool.cut_signals == 0, "{cut}");
    let running = site.listen(&address);
    eventually("everything is acknowledged", || settled(&uplink.state()));
    site.stored(|stored| {
        assert_eq!(signals_of(stored), (0..1000).collect::<Vec<_>>());
        assert_eq!(windows_of(stored), (cut..1000).collect::<Vec<_>>());
        let skipped: u64 = stored.frames.iter().map(|frame| frame.skipped_windows).sum();
        assert_eq!(skipped, cut + uplink.state().refused_windows);
    });
    uplink.stop();
    thread.join().unwrap();
    running.kill();
}

#[test]
fn a_restart_sends_what_the_former_run_left_and_defines_its_series() {
    let site = Site::new();
    let running = site.listen("127.0.0.1:0");
    let address = running.address.clone();
    site.faults(|faults| faults.mute = true);
    let run = |first: u64, last: u64, defines: bool| {
        let (uplink, thread) = Uplink::start(site.options(&address)).unwrap();
        if defines {
            define(&uplink, 0..50);
        }
        for payload in first..last {
            uplink.signal(signal(payload)).unwrap();
            uplink.windows(windows(payload, 0, 50)).unwrap();
        }
        (uplink, thread)
    };
    let (uplink, thread) = run(0, 20, true);
    eventually("some came without an acknowledgement", || site.stored(|stored| stored.frames.len() >= 30));
    running.kill();
    uplink.stop();
    thread.join().unwrap();
    site.faults(|faults| faults.mute = false);
    let running = site.listen(&address);
    let (uplink, thread) = run(20, 25, false);
    eventually("everything is acknowledged", || settled(&uplink.state()));
    site.stored(|stored| {
        assert_eq!(signals_of(stored), (0..25).collect::<Vec<_>>());
        assert_eq!(windows_of(stored), (0..25).collect::<Vec<_>>());
        assert_eq!(stored.undefined, 0);
        let ids: std::collections::HashSet<_> = stored.hellos.iter().map(|hello| hello.stream_id.clone()).collect();
        assert_eq!(ids.len(), 1, "the stream outlives the run");
        assert_eq!(stored.goodbyes, 0);
    });
    uplink.stop();
    thread.join().unwrap();
    assert_eq!(site.stored(|stored| (stored.goodbyes, stored.broken)), (1, 0), "the last stream ended with a goodbye");
    running.kill();
}

#[test]
fn state_is_sent_whole_on_each_connection_and_silence_is_short() {
    let site = Site::new();
    let running = site.listen("127.0.0.1:0");
    let address = running.address.clone();
    let (uplink, thread) = Uplink::start(site.options(&address)).unwrap();
    eventually("it is connected", || uplink.state().connected);
    let port = PortState { name: "eth0".into(), state: "up".into(), ..Default::default() };
    uplink.snapshot(Snapshot { taken_mono_ns: 1, ports: vec![port.clone()], ..Default::default() }).unwrap();
    let loss = LossAccount { seen: 7, delivered: 7, ..Default::default() };
    uplink.snapshot(Snapshot { taken_mono_ns: 2, loss: Some(loss.clone()), ..Default::default() }).unwrap();
    eventually("both parts came", || {
        site.stored(|stored| {
            stored.snapshots.iter().any(|s| s.loss.as_ref() == Some(&loss))
                && stored.snapshots.iter().any(|s| s.ports == [port.clone()])
        })
    });
    running.kill();
    site.stored(|stored| stored.snapshots.clear());
    let second = site.listen(&address);
    eventually("all parts come in one", || {
        site.stored(|stored| {
            stored.snapshots.first().is_some_and(|s| s.loss.as_ref() == Some(&loss) && s.ports == [port.clone()])
        })
    });
    uplink.snapshot(Snapshot { taken_mono_ns: 3, no_ports: true, ..Default::default() }).unwrap();
    eventually("the last port is gone", || site.stored(|stored| stored.snapshots.iter().any(|s| s.no_ports)));
    second.kill();
    site.stored(|stored| stored.snapshots.clear());
    let running = site.listen(&address);
    eventually("and a new connection says so too", || {
        site.stored(|stored| {
            stored.snapshots.first().is_some_and(|s| s.no_ports && s.ports.is_empty() && s.loss.is_some())
        })
    });
    site.stored(|stored| stored.snapshots.clear());
    std::thread::sleep(Duration::from_millis(1500));
    site.stored(|stored| {
        assert!(stored.snapshots.len() >= 2, "signs of life, one in 400 ms: {}", stored.snapshots.len());
    });
    uplink.stop();
    thread.join().unwrap();
    running.kill();
}

#[test]
fn clock_probes_are_answered_with_stamps_in_order_even_under_load() {
    let site = Site::new();
    site.faults(|faults| faults.probe_every = Some(Duration::from_millis(5)));
    let running = site.listen("127.0.0.1:0");
    let (uplink, thread) = Uplink::start(site.options(&running.address)).unwrap();
    let mut payload = 0;
    eventually("there are 100 answers", || {
        let _ = uplink.windows(windows(payload, 0, 200));
        payload += 1;
        site.stored(|stored| stored.replies.len() >= 100)
    });
    site.stored(|stored| {
        let mut last = 0;
        for (reply, _) in &stored.replies {
            assert!(reply.received_mono_ns >= last && reply.sent_mono_ns >= reply.received_mono_ns, "{reply:?}");
            assert!(reply.sent_unix_ns > 1_600_000_000_000_000_000);
            last = reply.received_mono_ns;
        }
        let mut inside: Vec<u64> = stored.replies.iter().map(|(r, _)| r.sent_mono_ns - r.received_mono_ns).collect();
        inside.sort_unstable();
        println!("inside the agent, from probe to answer: median {} µs", inside[inside.len() / 2] / 1000);
    });
    uplink.stop();
    thread.join().unwrap();
    running.kill();
}

#[test]
fn refusals_are_honoured_and_told() {
    for (reason, retry_after_ms) in [(reject::Reason::Revoked, 0), (reject::Reason::Overloaded, 400)] {
        let site = Site::new();
        let reject = Reject { reason: reason as i32, message: "because".into(), retry_after_ms };
        site.faults(|faults| faults.reject = Some(reject));
        let running = site.listen("127.0.0.1:0");
        let (uplink, thread) = Uplink::start(site.options(&running.address)).unwrap();
        uplink.signal(signal(0)).unwrap();
        eventually("the reason shows", || uplink.state().last_error.is_some_and(|error| error.contains("because")));
        let since = Instant::now();
        site.faults(|faults| faults.reject = None);
        if retry_after_ms == 0 {
            std::thread::sleep(Duration::from_millis(800));
            assert_eq!(site.stored(|stored| stored.hellos.len()), 1, "a permanent refusal is not hammered");
        } else {
            eventually("it comes back", || settled(&uplink.state()));
            assert!(since.elapsed() >= Duration::from_millis(350), "{:?}", since.elapsed());
        }
        uplink.stop();
        thread.join().unwrap();
        running.kill();
    }
}

#[test]
fn a_version_this_agent_does_not_speak_and_a_lying_acknowledgement_lose_nothing() {
    let site = Site::new();
    site.faults(|faults| faults.acknowledge_too_far = true);
    let running = site.listen("127.0.0.1:0");
    let (uplink, thread) = Uplink::start(site.options(&running.address)).unwrap();
    uplink.signal(signal(0)).unwrap();
    eventually("the lie is noticed", || uplink.state().last_error.is_some_and(|error| error.contains("never sent")));
    site.faults(|faults| (faults.acknowledge_too_far, faults.version) = (false, Some(9)));
    eventually("the version is told", || uplink.state().last_error.is_some_and(|error| error.contains("version 9")));
    site.faults(|faults| faults.version = None);
    // Pointing it anew is what a person does after an upgrade; it does not wait for the slow retry.
    let mut target = site.options(&running.address).target;
    target.server_name = "127.0.0.1".into();
    target.address = target.address.replace("127.0.0.1", "localhost");
    uplink.point_at(target);
    eventually("everything is acknowledged", || settled(&uplink.state()));
    assert_eq!(site.stored(|stored| signals_of(stored)), [0]);
    uplink.stop();
    thread.join().unwrap();
    running.kill();
}

#[test]
fn missing_certificates_and_a_missing_disk_are_states_and_not_ends() {
    let site = Site::new();
    let running = site.listen("127.0.0.1:0");
    let mut options = site.options(&running.address);
    let good = options.target.clone();
    options.target.credentials.key = site.dir.path().join("absent.key");
    // A directory that cannot be made, for root too: below a file.
    std::fs::write(site.dir.path().join("file"), b"").unwrap();
    options.spool.directory = site.dir.path().join("file/spool");
    let (uplink, thread) = Uplink::start(UplinkOptions { ..options }).unwrap();
    uplink.signal(signal(0)).unwrap();
    eventually("the missing key is told", || {
        uplink.state().last_error.is_some_and(|error| error.contains("absent.key"))
    });
    uplink.point_at(good);
    eventually("everything is acknowledged", || settled(&uplink.state()));
    site.stored(|stored| {
        assert_eq!(signals_of(stored), [0]);
        let limits = &stored.hellos[0].limitations;
        assert!(limits.iter().any(|limit| limit.what == "spool" && limit.why.contains("file/spool")), "{limits:?}");
    });
    assert_eq!(
        uplink.signal(railwatch_wire::v1::Signal { summary: "x".repeat(5 << 20), ..Default::default() }),
        Err(Refused::TooLarge)
    );
    uplink.stop();
    thread.join().unwrap();
    running.kill();
}

#[test]
fn two_agents_never_share_a_spool() {
    let site = Site::new();
    let running = site.listen("127.0.0.1:0");
    let (first, first_thread) = Uplink::start(site.options(&running.address)).unwrap();
    eventually("the first is connected", || first.state().connected);
    let (second, second_thread) = Uplink::start(site.options(&running.address)).unwrap();
    eventually("the second says why it keeps to memory", || {
        second.state().limitations.iter().any(|limit| limit.why.contains("another agent uses it"))
    });
    for (uplink, thread) in [(first, first_thread), (second, second_thread)] {
        uplink.stop();
        thread.join().unwrap();
    }
    running.kill();
}

#[test]
fn a_collector_that_falls_silent_is_noticed_and_dialled_again() {
    let site = Site::new();
    let running = site.listen("127.0.0.1:0");
    let proxy = Proxy::to(&running.address);
    let (uplink, thread) = Uplink::start(site.options(&proxy.address)).unwrap();
    uplink.signal(signal(0)).unwrap();
    eventually("everything is acknowledged", || settled(&uplink.state()));
    proxy.freeze();
    let since = Instant::now();
    uplink.signal(signal(1)).unwrap();
    eventually("the signal came by another connection", || site.stored(|stored| signals_of(stored) == [0, 1]));
    println!("silence noticed and signal delivered within {:?}", since.elapsed());
    uplink.stop();
    thread.join().unwrap();
    running.kill();
}

#[test]
fn new_certificates_are_used_at_the_next_dial_and_a_revoked_one_is_told() {
    let site = Site::new();
    let ca = DevelopmentCa::open_or_create(site.dir.path()).unwrap();
    let host = HostName::parse(HOST).unwrap();
    let running = site.listen_with("127.0.0.1:0", Some(ca.revocation_list()));
    let address = running.address.clone();
    let (uplink, thread) = Uplink::start(site.options(&address)).unwrap();
    eventually("it is connected", || uplink.state().connected);
    running.kill();
    ca.revoke_host(&host, Reason::Superseded).unwrap();
    let running = site.listen_with(&address, Some(ca.revocation_list()));
    uplink.signal(signal(0)).unwrap();
    eventually("the revocation shows", || uplink.state().last_error.is_some_and(|error| error.contains("revoked")));
    ca.issue_agent(&host, LEAF_LIFE).unwrap().write(site.dir.path(), HOST).unwrap();
    eventually("everything is acknowledged", || settled(&uplink.state()));
    site.stored(|stored| {
        assert_ne!(stored.peers[0].serial, stored.peers.last().unwrap().serial);
        assert_eq!(signals_of(stored), [0]);
    });
    uplink.stop();
    thread.join().unwrap();
    running.kill();
}
