//! Probes through a real kernel: prober, router and responder in network namespaces of their own, which end with the test.
//! Needs root and iproute2; the delay needs sch_netem, which the kernels of the matrix have.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

mod fabric;

use fabric::*;
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use railwatch_probe::{Key, Limits, Plan, run};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::{sleep, spawn};
use std::time::Duration;

#[test]
fn every_probe_is_answered_and_its_time_has_parts() {
    in_fabric(|fabric| {
        let stop = Arc::default();
        let counts = fabric.responder(Limits::default(), &stop);
        for size_bytes in [64, 1400] {
            let flows = 4;
            let (report, outcomes) = probe(&Plan { size_bytes, flows, ..udp_plan(100) });
            assert_eq!((report.sent, report.answered, report.lost, report.unsent), (100, 100, 0, 0), "{report:?}");
            assert_eq!(outcomes.len(), 100);
            // A stamp may be late; that every one of them is would be no stamps.
            assert!(report.timed >= 90, "{report:?}");
            let mut fabric_ns: Vec<_> =
                outcomes.iter().filter_map(|outcome| Some(outcome.answer?.parts?.fabric_ns)).collect();
            fabric_ns.sort_unstable();
            let (median_us, told) = (fabric_ns[(fabric_ns.len() - 1) / 2] as f64 / 1e3, report.fabric_us.unwrap());
            assert!((told.p50 / median_us - 1.0).abs() < 0.01, "{told:?} of {median_us}");
            assert!(report.flows.iter().all(|flow| flow.sent == 25 && flow.lost == 0), "{report:?}");
            for parts in outcomes.iter().filter_map(|o| Some((o.answer?.round_trip_ns, o.answer?.parts?))) {
                let (round_trip_ns, parts) = parts;
                let sum_ns = parts.fabric_ns + parts.prober_ns + parts.answerer_ns;
                assert!(
                    sum_ns.abs_diff(round_trip_ns) < 300_000,
                    "the parts are the whole: {parts:?} of {round_trip_ns}"
                );
            }
        }
        let all_are_answered = || counts.received.load(Relaxed) == counts.answered.load(Relaxed);
        assert!((0..200).any(|_| all_are_answered() || {
            sleep(Duration::from_millis(10));
            false
        }));
        let (report, _) = probe(&Plan { size_bytes: 1500, ..udp_plan(3) });
        assert_eq!((report.sent, report.unsent), (0, 3), "beyond the MTU nothing is sent in pieces: {report:?}");
        stop.store(true, Relaxed);
    });
}

#[test]
fn loss_on_the_way_is_loss_and_strangers_hear_nothing() {
    in_fabric(|fabric| {
        let stop = Arc::default();
        let counts = fabric.responder(Limits { per_source_per_s: 100_000, ..Limits::default() }, &stop);
        let stranger = Key::new(b"a key of another cluster").unwrap();
        let report = run(&udp_plan(20), &stranger, |_, _| {}).unwrap();
        assert_eq!((report.answered, report.lost), (0, 20));
        assert_eq!((counts.wrong_code.load(Relaxed), counts.answered.load(Relaxed)), (21, 0), "with the closing one");
        // The way there is fine; the way back is gone.
        within(&fabric.router, "ip route add blackhole 10.9.1.2/32");
        let (report, outcomes) = probe(&udp_plan(20));
        assert_eq!((report.sent, report.answered, report.lost), (20, 0, 20));
        assert!(outcomes.iter().all(|outcome| outcome.answer.is_none()));
        eventually("each is counted", || counts.answered.load(Relaxed) == 21);
        stop.store(true, Relaxed);
    });
}

#[test]
fn who_asks_more_than_its_share_is_not_answered() {
    in_fabric(|fabric| {
        let stop = Arc::default();
        let counts = fabric.responder(Limits { per_source_per_s: 10, checked_per_s: 50_000 }, &stop);
        let (report, _) = probe(&udp_plan(200));
        assert!(report.answered < 200 && report.answered >= 10, "{report:?}");
        assert_eq!(report.answered + report.lost, 200);
        let became = || counts.answered.load(Relaxed) + counts.over_rate.load(Relaxed);
        eventually("each is answered or counted", || became() == counts.received.load(Relaxed));
        stop.store(true, Relaxed);
    });
}

#[test]
#[ignore = "not a test: what the others start as a process"]
fn answer_as_a_process() {
    fabric::answer_as_a_process();
}

/// A responder that is a process, and answers.
fn answering(fabric: &Fabric) -> Process {
    let process = Process::start(fabric);
    let answers = || probe(&Plan { timeout: Duration::from_millis(50), ..udp_plan(1) }).0.answered == 1;
    assert!((0..200).any(|_| answers()), "it answers");
    process
}

#[test]
fn a_responder_that_is_stopped_is_its_hosts_delay_not_the_fabrics() {
    in_fabric(|fabric| {
        let process = answering(fabric);
        let pid = Pid::from_raw(process.0.id().cast_signed());
        let stopper = spawn(move || {
            sleep(Duration::from_millis(100));
            kill(pid, Signal::SIGSTOP).unwrap();
            sleep(Duration::from_millis(200));
            kill(pid, Signal::SIGCONT).unwrap();
        });
        let (report, outcomes) = probe(&udp_plan(200));
        stopper.join().unwrap();
        assert_eq!((report.answered, report.lost), (200, 0), "{report:?}");
        // What the prober needed for itself on a slow machine is neither.
        let met: Vec<_> = outcomes
            .iter()
            .filter_map(|outcome| outcome.answer?.parts)
            .filter(|parts| parts.answerer_ns > 50_000_000)
            .collect();
        assert!(met.len() > 10, "probes met the stop: {report:?}");
        for parts in met {
            assert!(parts.fabric_ns * 10 < parts.answerer_ns, "{parts:?}");
        }
    });
}

/// Whether this kernel has netem; the kernels of the matrix must.
fn delay(fabric: &Fabric, delay: &str) -> bool {
    let _ = Command::new("modprobe").arg("sch_netem").status();
    let router = fabric.router.try_clone().unwrap();
    let arguments = format!("qdisc replace dev r2 root netem delay {delay} limit 100000");
    let has = spawn(move || {
        setns(&router, CloneFlags::CLONE_NEWNET).unwrap();
        Command::new("tc").args(arguments.split(' ')).output().unwrap().status.success()
    });
    let has = has.join().unwrap();
    let release = nix::sys::utsname::uname().unwrap().release().to_string_lossy().into_owned();
    assert!(has || !release.contains("-amd64"), "the kernels of the matrix have netem: {release}");
    if !has {
        eprintln!("this kernel ({release}) has no netem: the kernels tier tests the delay");
    }
    has
}

#[test]
fn a_delay_on_the_way_is_the_fabrics_not_the_hosts() {
    in_fabric(|fabric| {
        let stop = Arc::default();
        fabric.responder(Limits::default(), &stop);
        if delay(fabric, "400ms") {
            let (report, outcomes) = probe(&Plan { timeout: Duration::from_secs(5), ..udp_plan(100) });
            assert_eq!((report.answered, report.lost), (100, 0), "{report:?}");
            let parts: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.answer?.parts).collect();
            assert!(parts.len() >= 90, "{report:?}");
            assert!(parts.iter().all(|parts| parts.fabric_ns >= 400_000_000), "{report:?}");
            let by_hosts = parts.iter().filter(|parts| parts.prober_ns + parts.answerer_ns >= 400_000_000).count();
            assert!(by_hosts * 10 < parts.len(), "{parts:?}");
        }
        stop.store(true, Relaxed);
    });
}

#[test]
#[ignore = "of exact time: the kernels tier runs it where processors take none"]
fn exact_a_delay_of_200_us_is_told_within_20_us() {
    in_fabric(|fabric| {
        let stop = Arc::default();
        fabric.responder(Limits::default(), &stop);
        let median_us = || probe(&udp_plan(1000)).0.fabric_us.unwrap().p50;
        assert!(delay(fabric, "0us"), "this needs a kernel with netem");
        let before_us = median_us();
        delay(fabric, "200us");
        let during_us = median_us();
        let told_us = during_us - before_us;
        println!("fabric, median of 1,000 probes: {before_us:.1} µs; with 200 µs more {during_us:.1} µs: {told_us:.1}");
        assert!((told_us - 200.0).abs() <= 20.0);
        stop.store(true, Relaxed);
    });
}

#[test]
#[ignore = "of exact time: the kernels tier runs it where processors take none"]
fn exact_a_responder_stopped_for_5_ms_is_its_hosts_delay_not_the_fabrics() {
    in_fabric(|fabric| {
        let process = answering(fabric);
        let pid = Pid::from_raw(process.0.id().cast_signed());
        let stopper = spawn(move || {
            for _ in 0..20 {
                sleep(Duration::from_millis(45));
                kill(pid, Signal::SIGSTOP).unwrap();
                sleep(Duration::from_millis(5));
                kill(pid, Signal::SIGCONT).unwrap();
            }
        });
        let (report, outcomes) = probe(&udp_plan(500));
        stopper.join().unwrap();
        assert_eq!((report.answered, report.lost), (500, 0), "{report:?}");
        let answers = outcomes.iter().filter_map(|outcome| outcome.answer);
        let slow: Vec<_> = answers.filter(|answer| answer.round_trip_ns > 1_000_000).collect();
        assert!(slow.len() >= 20, "each stop met a probe: {report:?}");
        for answer in slow {
            let parts = answer.parts.expect("every stamp came");
            let of_answerer = parts.answerer_ns * 10 > answer.round_trip_ns * 8;
            assert!(of_answerer && parts.fabric_ns < 100_000, "{parts:?} of {} ns", answer.round_trip_ns);
        }
    });
}
