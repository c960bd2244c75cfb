//! Probes over TCP through a real kernel: prober, router and responder in network namespaces of their own, which end with the test.
//! Needs root and iproute2; losses by chance need sch_netem, which the kernels of the matrix have.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

mod fabric;

use fabric::*;
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use railwatch_probe::{FlowSpec, Key, Limits, MeshPlan, PER_SOURCE_MAX, Parts, Plan, Transport, run};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{sleep, spawn};
use std::time::Duration;

/// With a time-out longer than a busy machine stands still.
fn plan(count: u64) -> Plan {
    Plan { transport: Transport::Tcp, timeout: Duration::from_secs(5), ..udp_plan(count) }
}

/// Many answers a second, so that a rate limit is no subject of the test.
fn unlimited() -> Limits {
    Limits { per_source_per_s: 100_000, ..Limits::default() }
}

#[test]
fn every_probe_is_answered_and_its_time_has_parts() {
    in_fabric(|fabric| {
        let stop = Arc::default();
        let (counts, connections, _) = fabric.stream_responder(unlimited(), PER_SOURCE_MAX, &stop);
        for size_bytes in [64, 1400, 20_000] {
            let (report, outcomes) = probe(&Plan { size_bytes, flows: 4, ..plan(100) });
            assert_eq!((report.sent, report.answered, report.lost, report.unsent), (100, 100, 0, 0), "{report:?}");
            assert_eq!(outcomes.len(), 100);
            // Of several that were read at once the last alone has its stamp.
            assert!(report.timed >= 50, "{report:?}");
            assert!(report.flows.iter().all(|flow| flow.sent == 25 && flow.lost == 0 && flow.source_port > Some(0)));
            for (round_trip_ns, parts) in
                outcomes.iter().filter_map(|o| Some((o.answer?.round_trip_ns, o.answer?.parts?)))
            {
                let sum_ns = parts.fabric_ns + parts.prober_ns + parts.answerer_ns;
                assert!(sum_ns.abs_diff(round_trip_ns) < 300_000, "{parts:?} are the whole of {round_trip_ns}");
            }
        }
        assert_eq!(
            (counted(&connections.accepted), counted(&connections.proved), counted(&connections.strangers)),
            (12, 12, 0)
        );
        // Whoever has all its answers leaves, and may leave the last one, which closes a flow, behind.
        eventually("each is answered", || {
            counted(&counts.received) == counted(&counts.answered) + counted(&counts.unsent)
        });
        stop.store(true, Relaxed);
    });
}

#[test]
fn probes_and_answers_have_the_flows_class_and_ports() {
    in_fabric(|fabric| {
        let stop = Arc::default();
        fabric.stream_responder(unlimited(), PER_SOURCE_MAX, &stop);
        // The router lets nothing through that is not of the class: there, and back once the flow is connected, because the answer
        // to the first packet of a connection has the class of the listener.
        let only = |from: &str| format!("ip rule add pref 20 from {from} blackhole");
        within(&fabric.router, &format!("ip rule add pref 10 tos 0x10 lookup main; {}", only("10.9.1.2")));
        for turn in 0..3 {
            // The same ports at once again: no connection lingers.
            let (report, _) = probe(&Plan { source_port: 41_000, flows: 2, dscp: 4, ..plan(20) });
            assert_eq!((report.answered, report.lost, report.unsent), (20, 0, 0), "turn {turn}: {report:?}");
            assert_eq!(
                report.flows.iter().map(|flow| flow.source_port).collect::<Vec<_>>(),
                [Some(41_000), Some(41_001)]
            );
        }
        let (report, _) = probe(&Plan { dscp: 0, timeout: Duration::from_millis(50), ..plan(3) });
        assert_eq!((report.answered, report.lost), (0, 3), "another class: {report:?}");
        let (mesh, told) = start();
        mesh.plan(mesh_plan(1, vec![FlowSpec { dscp: 4, ..flow(1, Transport::Tcp) }]));
        eventually("answers", || told.sum(|flow| flow.answered) > 10);
        within(&fabric.router, &only("10.9.2.2"));
        let answered = told.sum(|flow| flow.answered);
        eventually("answers of the class", || told.sum(|flow| flow.answered) > answered + 20);
        assert_eq!(told.sum(|flow| flow.lost), 0);
        mesh.stop();
        stop.store(true, Relaxed);
    });
}

#[test]
fn strangers_hear_nothing_are_counted_and_go() {
    in_fabric(|fabric| {
        let stop = Arc::default();
        let (counts, connections, _) = fabric.stream_responder(unlimited(), PER_SOURCE_MAX, &stop);
        // What a connection hears, and how it ends.
        let ends = |said: &[u8]| {
            let mut stream = TcpStream::connect(RESPONDER).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            stream.write_all(said).unwrap();
            let mut heard = Vec::new();
            let end = stream.read_to_end(&mut heard).map_err(|error| error.kind());
            (heard.len(), end)
        };
        let reset = (0, Err(ErrorKind::ConnectionReset));
        assert_eq!(ends(b"GET / HTTP/1.1\r\n\r\n"), reset);
        assert_eq!((counted(&counts.not_probes), counted(&connections.strangers)), (1, 1));
        // One that says nothing, and one that begins a frame and says no more.
        assert_eq!(ends(b""), reset);
        assert_eq!(ends(&[0, 0, 0, 64, b'R', b'W', b'P', b'1', 1]), reset);
        assert_eq!(counted(&connections.strangers), 3);
        // Another cluster's.
        let stranger = Key::new(b"a key of another cluster").unwrap();
        let report = run(&plan(20), &stranger, |_, _| {}).unwrap();
        assert_eq!((report.answered, report.lost), (0, 0), "the fabric lost nothing: {report:?}");
        assert!(report.unsent > 0 && report.unsent_reason.is_some(), "{report:?}");
        assert!(counted(&counts.wrong_code) > 0 && counted(&counts.answered) == 0);
        assert_eq!(counted(&connections.proved), 0);
        // Members are answered beside many that say nothing.
        let _silent: Vec<_> = (0..100).map(|_| TcpStream::connect(RESPONDER).unwrap()).collect();
        let (report, _) = probe(&plan(20));
        assert_eq!((report.answered, report.lost), (20, 0), "{report:?}");
        eventually("all strangers go", || counted(&connections.open) == 0);
        stop.store(true, Relaxed);
    });
}

#[test]
fn one_source_holds_no_more_connections_than_its_share_and_asks_no_more_than_its_rate() {
    in_fabric(|fabric| {
        let stop = Arc::default();
        let (counts, connections, _) = fabric.stream_responder(unlimited(), 3, &stop);
        let (report, _) = probe(&Plan { flows: 5, ..plan(100) });
        assert_eq!((counted(&connections.proved), report.lost), (3, 0), "{report:?}");
        assert!(counted(&connections.over_source) >= 2 && report.answered >= 40, "{report:?}");
        eventually("each is answered", || {
            counted(&counts.received) == counted(&counts.answered) + counted(&counts.unsent)
        });
        stop.store(true, Relaxed);
    });
    in_fabric(|fabric| {
        let stop = Arc::default();
        let limits = Limits { per_source_per_s: 10, checked_per_s: 50_000 };
        let (counts, ..) = fabric.stream_responder(limits, PER_SOURCE_MAX, &stop);
        let (report, _) = probe(&Plan { timeout: Duration::from_millis(500), ..plan(200) });
        assert!(report.answered < 200 && report.answered >= 10, "{report:?}");
        // Whoever leaves may leave the last answers, which close a flow, behind.
        let told = || counted(&counts.answered) + counted(&counts.unsent) + counted(&counts.over_rate);
        eventually("each is answered or counted", || told() == counted(&counts.received));
        stop.store(true, Relaxed);
    });
}

fn flow(id: u64, transport: Transport) -> FlowSpec {
    FlowSpec { transport, ..udp_flow(id) }
}

#[test]
fn a_plan_has_flows_of_both_transports_within_one_budget() {
    in_fabric(|fabric| {
        let stop = Arc::default();
        let datagrams = fabric.responder(unlimited(), &stop);
        let (frames, connections, _) = fabric.stream_responder(unlimited(), PER_SOURCE_MAX, &stop);
        let (mesh, told) = start();
        let counts = mesh.counts();
        let both = |id| [flow(id, Transport::Udp), flow(id, Transport::Tcp)];
        let large = FlowSpec { size_bytes: 100_000, ..flow(9, Transport::Tcp) };
        let flows = (0..2).flat_map(both).enumerate();
        let flows = flows.map(|(id, spec)| FlowSpec { id: id as u64, ..spec }).chain([large]).collect();
        assert!(mesh.plan(mesh_plan(3, flows)));
        let answered = |id| told.0.lock().unwrap().0.iter().filter(|f| f.id == id).map(|f| f.answered).sum::<u32>();
        eventually("all flows are answered", || [0, 1, 2, 3, 9].iter().all(|id| answered(*id) > 10));
        eventually("each has its times", || told.sum(|f| u32::from(f.id == 3) * f.fabric.count) > 5);
        assert_eq!(
            (mesh.state().flows, counted(&connections.proved), counted(&counts.connects.established)),
            (5, 3, 3)
        );
        assert!(counted(&datagrams.answered) > 20 && counted(&frames.answered) > 30);
        assert_eq!((counted(&counts.lost), told.signals()), (0, vec![]));
        // A flow keeps its connection while how often changes, and one that is planned no more ends.
        let slower = FlowSpec { interval: Duration::from_millis(30), ..flow(1, Transport::Tcp) };
        let kept = FlowSpec { source_port: flow(0, Transport::Tcp).source_port, ..slower };
        assert!(mesh.plan(mesh_plan(4, vec![kept])));
        eventually("two end", || counted(&connections.open) == 1);
        assert_eq!(counted(&connections.accepted), 3, "and none is made anew");
        // Beyond the budget nothing is sent.
        assert!(mesh.plan(MeshPlan { packets_per_s_per_nic_max: 0, ..mesh_plan(5, vec![flow(1, Transport::Tcp)]) }));
        eventually("turns are left out", || counted(&counts.over_budget) > 3);
        eventually("none is connected", || counted(&connections.open) == 0);
        mesh.stop();
        stop.store(true, Relaxed);
    });
}

#[test]
fn a_probe_is_no_more_packets_than_the_planner_reckons_with() {
    // As `Packets::of_turn` of the collector's planner: segments, and what is acknowledged by itself, of the prober and of the answerer.
    for (size_bytes, prober, answerer) in [(64, 2, 1), (1430, 2, 1), (20_000, 14 + 7, 14 + 7)] {
        in_fabric(move |fabric| {
            let stop = Arc::default();
            fabric.stream_responder(unlimited(), PER_SOURCE_MAX, &stop);
            let others = || at(&fabric.b, || left_by("b0"));
            // One that waits at a time, for longer than acknowledgements are put off.
            let slow = Plan { size_bytes, interval: Duration::from_millis(60), ..plan(30) };
            let (own_before, others_before) = (left_by("a0"), others());
            let (report, _) = probe(&slow);
            assert_eq!((report.answered, report.lost), (30, 0), "{report:?}");
            let (own, others) = (left_by("a0") - own_before, others() - others_before);
            println!("{size_bytes} bytes: {own} packets of the prober, {others} of the answerer for 30 probes");
            // With one of the connection's own, its beginning and its end, and what a neighbour is asked.
            assert!((31..=31 * prober + 10).contains(&own), "{size_bytes} bytes: {own}");
            assert!((31..=31 * answerer + 10).contains(&others), "{size_bytes} bytes: {others}");
            stop.store(true, Relaxed);
        });
    }
}

#[test]
fn what_is_lost_is_told_with_its_way_though_tcp_mends_it() {
    for (interface, is_there) in [("r2", true), ("r1", false)] {
        in_fabric(move |fabric| {
            let stop = Arc::default();
            fabric.stream_responder(unlimited(), PER_SOURCE_MAX, &stop);
            if netem(fabric, interface, "loss 0%") {
                let (mesh, told) = start();
                // A retransmission may be lost, too, and processors may be slow: time enough for both.
                let patient = FlowSpec { timeout: Duration::from_secs(5), ..flow(1, Transport::Tcp) };
                mesh.plan(mesh_plan(1, vec![patient]));
                eventually("answers", || told.sum(|flow| flow.answered) > 20);
                assert_eq!((told.sum(|flow| flow.lost), told.signals()), (0, vec![]));
                netem(fabric, interface, "loss 10%");
                let there = || told.sum(|flow| flow.lost_there_back.map_or(0, |(there, _)| there));
                let back = || told.sum(|flow| flow.lost_there_back.map_or(0, |(_, back)| back));
                eventually("ten are lost on a way that is known", || there() + back() >= 10);
                assert!(told.named("probe.loss"));
                // Of acknowledgements that are lost, too, the few that no later one makes up for let a kernel send again what had come.
                let (there, back) = (there(), back());
                let (own, other) = if is_there { (there, back) } else { (back, there) };
                println!("loss by {interface}: {there} there, {back} back, of {}", told.sum(|flow| flow.sent));
                assert!(own > 2 * other, "{there} there, {back} back");
                mesh.stop();
            }
            stop.store(true, Relaxed);
        });
    }
}

#[test]
fn a_target_that_is_cut_off_is_unreachable_and_its_flow_comes_back() {
    in_fabric(|fabric| {
        let stop = Arc::default();
        fabric.stream_responder(unlimited(), PER_SOURCE_MAX, &stop);
        let (mesh, told) = start();
        let counts = mesh.counts();
        mesh.plan(mesh_plan(1, vec![flow(1, Transport::Tcp)]));
        eventually("answers", || told.sum(|flow| flow.answered) > 10);
        within(&fabric.router, "ip route add blackhole 10.9.2.2/32");
        eventually("it is told", || told.named("probe.unreachable"));
        eventually("new connections are tried", || counted(&counts.connects.unanswered) > 2);
        within(&fabric.router, "ip route del blackhole 10.9.2.2/32");
        eventually("it is back", || told.named("probe.reachable"));
        assert!(counted(&counts.connects.given_up) >= 1);
        mesh.stop();
        stop.store(true, Relaxed);
    });
}

#[test]
fn a_responder_that_starts_again_is_connected_to_again_and_lost_nothing() {
    in_fabric(|fabric| {
        let stop: Arc<AtomicBool> = Arc::default();
        let (.., thread) = fabric.stream_responder(unlimited(), PER_SOURCE_MAX, &stop);
        let (mesh, told) = start();
        let counts = mesh.counts();
        mesh.plan(mesh_plan(1, vec![flow(1, Transport::Tcp)]));
        eventually("answers", || told.sum(|flow| flow.answered) > 10);
        stop.store(true, Relaxed);
        thread.join().unwrap();
        eventually("it is refused", || counted(&counts.connects.refused) > 0);
        let stop: Arc<AtomicBool> = Arc::default();
        fabric.stream_responder(unlimited(), PER_SOURCE_MAX, &stop);
        let answered = told.sum(|flow| flow.answered);
        eventually("answers again", || told.sum(|flow| flow.answered) > answered + 10);
        assert!(counted(&counts.connects.ended) >= 1 && counted(&counts.connects.established) >= 2);
        assert_eq!((counted(&counts.lost), told.signals()), (0, vec![]), "a host that refuses has lost nothing");
        assert!(counted(&counts.unsent) > 0);
        mesh.stop();
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
    let answers = || probe(&Plan { timeout: Duration::from_millis(50), ..plan(1) }).0.answered == 1;
    assert!((0..200).any(|_| answers()), "it answers");
    process
}

/// Stops it for so long, so often.
fn stopping(process: &Process, times: u32, between: Duration, stop: Duration) -> std::thread::JoinHandle<()> {
    let pid = Pid::from_raw(process.0.id().cast_signed());
    spawn(move || {
        for _ in 0..times {
            sleep(between);
            kill(pid, Signal::SIGSTOP).unwrap();
            sleep(stop);
            kill(pid, Signal::SIGCONT).unwrap();
        }
    })
}

#[test]
fn a_responder_that_is_stopped_is_its_hosts_delay_and_no_loss() {
    in_fabric(|fabric| {
        let process = answering(fabric);
        let stopper = stopping(&process, 1, Duration::from_millis(100), Duration::from_millis(200));
        // One that waits at a time has its own stamp.
        let (report, outcomes) = probe(&Plan { flows: 40, timeout: Duration::from_secs(5), ..plan(200) });
        stopper.join().unwrap();
        assert_eq!((report.answered, report.lost), (200, 0), "{report:?}");
        let answers = outcomes.iter().filter_map(|outcome| outcome.answer);
        let slow: Vec<_> = answers.filter(|answer| answer.round_trip_ns > 50_000_000).collect();
        let timed: Vec<_> = slow.iter().filter_map(|answer| Some((answer.round_trip_ns, answer.parts?))).collect();
        assert!(timed.len() > 5, "probes met the stop: {} of {} have parts", timed.len(), slow.len());
        // Processors may be slow, and a stamp late: what is told is of all together.
        let sum = |of: fn(&Parts) -> u64| timed.iter().map(|(_, parts)| of(parts)).sum::<u64>();
        let (fabric_ns, answerer_ns) = (sum(|parts| parts.fabric_ns), sum(|parts| parts.answerer_ns));
        assert!(answerer_ns > 5 * fabric_ns, "{timed:?}");
        let round_trip_ns = timed.iter().map(|(round_trip_ns, _)| round_trip_ns).sum::<u64>();
        assert!(answerer_ns * 2 > round_trip_ns, "most of their time: {timed:?}");
    });
}

#[test]
#[ignore = "of exact time: the kernels tier runs it where processors take none"]
fn exact_a_responder_stopped_for_5_ms_is_its_hosts_delay_not_the_fabrics() {
    in_fabric(|fabric| {
        let process = answering(fabric);
        let stopper = stopping(&process, 20, Duration::from_millis(45), Duration::from_millis(5));
        let (report, outcomes) = probe(&Plan { flows: 4, ..plan(500) });
        stopper.join().unwrap();
        assert_eq!((report.answered, report.lost), (500, 0), "{report:?}");
        let answers = outcomes.iter().filter_map(|outcome| outcome.answer);
        let slow: Vec<_> = answers.filter(|answer| answer.round_trip_ns > 2_500_000).collect();
        assert!(slow.len() >= 20, "each stop met a probe: {report:?}");
        let timed: Vec<_> = slow.iter().filter_map(|answer| Some((answer.round_trip_ns, answer.parts?))).collect();
        assert!(timed.len() * 2 > slow.len(), "{} of {}: {report:?}", timed.len(), slow.len());
        for (round_trip_ns, parts) in timed {
            let of_answerer = parts.answerer_ns * 2 > round_trip_ns;
            assert!(of_answerer && parts.fabric_ns < 200_000, "{parts:?} of {round_trip_ns} ns");
        }
    });
}

/// Whether this kernel has netem; the kernels of the matrix must.
fn netem(fabric: &Fabric, interface: &str, what: &str) -> bool {
    let _ = Command::new("modprobe").arg("sch_netem").status();
    let router = fabric.router.try_clone().unwrap();
    let arguments = format!("qdisc replace dev {interface} root netem {what} limit 100000");
    let has = spawn(move || {
        setns(&router, CloneFlags::CLONE_NEWNET).unwrap();
        Command::new("tc").args(arguments.split(' ')).output().unwrap().status.success()
    });
    let has = has.join().unwrap();
    let release = nix::sys::utsname::uname().unwrap().release().to_string_lossy().into_owned();
    assert!(has || !release.contains("-amd64"), "the kernels of the matrix have netem: {release}");
    if !has {
        eprintln!("this kernel ({release}) has no netem: the kernels tier tests it");
    }
    has
}

#[test]
fn losses_by_chance_are_counted_on_the_way_on_which_they_are() {
    for (interface, is_there) in [("r2", true), ("r1", false)] {
        in_fabric(move |fabric| {
            let stop = Arc::default();
            fabric.stream_responder(unlimited(), PER_SOURCE_MAX, &stop);
            if netem(fabric, interface, "loss 5%") {
                // A retransmission may be lost, too: time enough for a second.
                let timeout = Duration::from_secs(5);
                let plan = Plan { flows: 16, interval: Duration::from_millis(1), timeout, ..plan(2000) };
                let (report, _) = probe(&plan);
                let (there, back) = (report.lost_there.unwrap(), report.lost_back.unwrap());
                println!("loss by {interface}: {report:?}");
                assert_eq!(report.answered + report.lost, report.sent, "{report:?}");
                // Five of a hundred of 2,000, each binomial: 100 ± 10. What the kernel repeats of what had arrived is undone.
                let (own, other) = if is_there { (there, back) } else { (back, there) };
                assert!((50..=170).contains(&own), "{report:?}");
                assert!(other * 10 <= own, "{report:?}");
            }
            stop.store(true, Relaxed);
        });
    }
}

#[test]
fn a_delay_on_the_way_is_the_fabrics_and_what_is_sent_again_for_it_no_loss() {
    in_fabric(|fabric| {
        let stop = Arc::default();
        fabric.stream_responder(unlimited(), PER_SOURCE_MAX, &stop);
        if netem(fabric, "r2", "delay 0ms") {
            let router = fabric.router.try_clone().unwrap();
            // Beyond the least time-out of TCP, 200 ms: the kernel sends again what only takes long.
            let delayer = spawn(move || {
                sleep(Duration::from_millis(500));
                within(&router, "tc qdisc replace dev r2 root netem delay 400ms limit 100000");
            });
            let slow = Plan { interval: Duration::from_millis(20), timeout: Duration::from_secs(5), ..plan(150) };
            let (report, outcomes) = probe(&slow);
            delayer.join().unwrap();
            assert_eq!((report.answered, report.lost), (150, 0), "{report:?}");
            let parts: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.answer?.parts).collect();
            let delayed: Vec<_> = parts.iter().filter(|parts| parts.fabric_ns >= 400_000_000).collect();
            assert!(delayed.len() > 50, "{} of {}: {report:?}", delayed.len(), parts.len());
            assert!(delayed.iter().all(|parts| parts.prober_ns + parts.answerer_ns < 400_000_000), "{report:?}");
        }
        stop.store(true, Relaxed);
    });
}

#[test]
#[ignore = "of exact time: the kernels tier runs it where processors take none"]
fn exact_a_delay_of_200_us_is_told_within_20_us() {
    in_fabric(|fabric| {
        let stop = Arc::default();
        fabric.stream_responder(unlimited(), PER_SOURCE_MAX, &stop);
        let median_us = || probe(&plan(1000)).0.fabric_us.unwrap().p50;
        assert!(netem(fabric, "r2", "delay 0us"), "this needs a kernel with netem");
        let before_us = median_us();
        netem(fabric, "r2", "delay 200us");
        let during_us = median_us();
        let told_us = during_us - before_us;
        println!(
            "fabric over TCP, median of 1,000: {before_us:.1} µs; with 200 µs more {during_us:.1} µs: {told_us:.1}"
        );
        assert!((told_us - 200.0).abs() <= 20.0);
        stop.store(true, Relaxed);
    });
}

#[test]
fn a_refused_connection_is_no_loss_and_an_unanswered_one_is() {
    in_fabric(|fabric| {
        // Nobody listens: refused, and so no loss. Links that have just been made may lose a first packet, which is sent again after 1 s.
        let (report, _) = probe(&Plan { timeout: Duration::from_secs(5), ..plan(5) });
        assert_eq!((report.sent, report.answered, report.lost, report.unsent), (0, 0, 0, 5), "{report:?}");
        assert!(report.unsent_reason.as_deref().is_some_and(|why| why.contains("refused")), "{report:?}");
        // No way there: the first packet of the connection is the probe that is lost.
        within(&fabric.router, "ip route add blackhole 10.9.2.2/32");
        let target: SocketAddr = RESPONDER.parse().unwrap();
        let (report, _) = probe(&Plan { target, timeout: Duration::from_millis(50), ..plan(5) });
        assert_eq!((report.sent, report.answered, report.lost, report.unsent), (5, 0, 5, 0), "{report:?}");
        assert_eq!((report.lost_there, report.lost_back), (Some(0), Some(0)), "the way is not known");
    });
}
