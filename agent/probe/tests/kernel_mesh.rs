//! Plans of probes, and traces, through a real kernel: prober, router and responder in network namespaces of their own.
//! Needs root and iproute2. What is lost is lost by a route that the router is given and taken again.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

mod fabric;

use fabric::*;
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use railwatch_probe::{
    Counts, FlowResult, FlowSpec, Limits, Mesh, MeshPlan, Outlet, ProbeSignal, Protocol, Quiet, TraceOptions,
    TraceSpec, trace,
};
use railwatch_sampling::Severity;
use railwatch_sampling::clock::realtime_ns;
use std::net::{TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

#[test]
fn a_plan_is_carried_out_and_its_counts_are_those_of_the_wire() {
    in_fabric(|fabric| {
        let stop = Arc::default();
        let answered: Arc<Counts> = fabric.responder(Limits::default(), &stop);
        let (mesh, told) = start();
        let counts = mesh.counts();
        // Two share a socket; one is larger than a datagram; one cannot be.
        let shared = FlowSpec { source_port: udp_flow(1).source_port, ..udp_flow(2) };
        let train = FlowSpec { size_bytes: 4000, interval: Duration::from_millis(200), ..udp_flow(3) };
        let bad = FlowSpec { size_bytes: 3, ..udp_flow(4) };
        let elsewhere = FlowSpec { source: [10, 9, 77, 1].into(), ..udp_flow(5) };
        assert!(mesh.plan(mesh_plan(7, vec![udp_flow(1), shared, train, bad, elsewhere])));
        eventually("results", || told.sum(|flow| flow.answered) > 100);
        let state = mesh.state();
        assert_eq!((state.revision, state.flows, state.off_count), (7, 3, 2), "{state:?}");
        assert_eq!(state.off.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [4, 5]);
        assert!(state.off[1].1.contains("10.9.77.1"), "{state:?}");
        // Nothing more is sent, and what is on its way comes back.
        let idle =
            |spec: FlowSpec| FlowSpec { interval: Duration::from_secs(500), offset: Duration::from_secs(400), ..spec };
        let train = FlowSpec { size_bytes: 4000, ..udp_flow(3) };
        let shared = FlowSpec { source_port: udp_flow(1).source_port, ..udp_flow(2) };
        assert!(mesh.plan(mesh_plan(8, vec![idle(udp_flow(1)), idle(shared), idle(train)])));
        eventually("all is judged", || counted(&counts.sent) == counted(&counts.answered));
        eventually("all is reported", || u64::from(told.sum(|flow| flow.answered)) == counted(&counts.sent));
        let sent = counted(&counts.sent);
        assert_eq!((counted(&counts.lost), counted(&counts.unsent), counted(&counts.over_budget)), (0, 0, 0));
        assert_eq!((counted(&answered.received), counted(&answered.answered)), (sent, sent));
        // What a neighbour is asked is on the wire as well.
        let on_wire = left_by("a0");
        assert!((sent..=sent + 20).contains(&on_wire), "{on_wire} packets for {sent} probes");
        let trains = told.0.lock().unwrap().0.iter().filter(|flow| flow.id == 3).map(|flow| flow.sent).sum::<u32>();
        assert!(trains >= 3 && trains % 3 == 0, "{trains} datagrams of trains of three");
        let timed = told.sum(|flow| flow.fabric.count);
        assert!(u64::from(timed) * 10 >= sent * 8, "{timed} of {sent} have every stamp");
        assert_eq!(told.signals(), []);
        mesh.stop();
        stop.store(true, Relaxed);
    });
}

#[test]
fn an_answer_comes_from_the_address_that_was_asked() {
    in_fabric(|fabric| {
        let stop = Arc::new(AtomicBool::new(false));
        within(&fabric.b, "ip addr add 10.9.2.50/24 dev b0");
        fabric.responder_at("0.0.0.0:7704", Limits::default(), &stop);
        // The router lets nothing through but what comes from that address.
        within(&fabric.router, "ip rule add from 10.9.2.2 blackhole");
        let (mesh, told) = start();
        mesh.plan(mesh_plan(1, vec![FlowSpec { destination: "10.9.2.50:7704".parse().unwrap(), ..udp_flow(1) }]));
        eventually("answers", || told.sum(|flow| flow.answered) > 10);
        assert_eq!(told.sum(|flow| flow.lost), 0);
        mesh.stop();
        stop.store(true, Relaxed);
    });
}

#[test]
fn a_plan_that_is_not_renewed_ends_and_an_older_one_is_refused() {
    in_fabric(|fabric| {
        let stop = Arc::default();
        fabric.responder(Limits::default(), &stop);
        let (mesh, told) = start();
        let counts = mesh.counts();
        let short = MeshPlan { lease: Duration::from_millis(700), ..mesh_plan(3, vec![udp_flow(1)]) };
        assert!(mesh.plan(short.clone()));
        for older in [MeshPlan { revision: 2, ..short.clone() }, MeshPlan { epoch: 0, revision: 9, ..short.clone() }] {
            assert!(!mesh.plan(older));
        }
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(1500) {
            sleep(Duration::from_millis(100));
            assert!(mesh.plan(short.clone()), "renewed");
        }
        assert_eq!((counted(&counts.plans_lapsed), mesh.state().revision), (0, 3));
        assert!(counted(&counts.plans_renewed) >= 10 && told.sum(|flow| flow.sent) > 0);
        eventually("it ends", || counted(&counts.plans_lapsed) == 1 && mesh.state().revision == 0);
        let sent = counted(&counts.sent);
        sleep(Duration::from_millis(300));
        assert_eq!((counted(&counts.sent), counted(&counts.plans_refused)), (sent, 2));
        assert!(mesh.plan(short), "and may be taken again");
        eventually("probes go on", || counted(&counts.sent) > sent);
        mesh.forget();
        eventually("all ends", || mesh.state().flows == 0);
        assert!(
            mesh.plan(MeshPlan { epoch: 0, ..mesh_plan(1, vec![udp_flow(1)]) }),
            "another planner's epochs begin anew"
        );
        mesh.stop();
        stop.store(true, Relaxed);
    });
}

#[test]
fn a_nic_keeps_its_budget_and_is_quiet_when_told_whatever_is_planned() {
    in_fabric(|fabric| {
        let stop = Arc::default();
        fabric.responder(Limits::default(), &stop);
        let (mesh, _) = start();
        let counts = mesh.counts();
        let many: Vec<_> = (0..20).map(|id| FlowSpec { interval: Duration::from_millis(2), ..udp_flow(id) }).collect();
        let now = realtime_ns();
        let quiet = vec![Quiet { from_unix_ns: now, to_unix_ns: now + 600_000_000 }];
        mesh.plan(MeshPlan { packets_per_s_per_nic_max: 150, quiet, ..mesh_plan(1, many.clone()) });
        eventually("turns are left out", || counted(&counts.quiet) > 100);
        if realtime_ns() < now + 500_000_000 {
            assert_eq!(counted(&counts.sent), 0, "it is quiet");
        }
        eventually("the quiet is over", || counted(&counts.sent) > 0);
        let (begun, before) = (Instant::now(), counted(&counts.sent));
        sleep(Duration::from_secs(2));
        let sent = counted(&counts.sent) - before;
        let most = 150.0 * begun.elapsed().as_secs_f64() + 31.0;
        assert!(sent as f64 <= most && sent > 0, "{sent} probes, {most} at most");
        assert!(counted(&counts.over_budget) > sent);
        mesh.stop();
        stop.store(true, Relaxed);
    });
}

#[test]
fn losses_are_told_at_once_with_the_way_on_which_they_happened() {
    for (route, way) in [("10.9.2.2/32", "there"), ("10.9.1.2/32", "back")] {
        in_fabric(move |fabric| {
            let stop = Arc::default();
            fabric.responder(Limits::default(), &stop);
            let (mesh, told) = start();
            // Slow, so that even a machine under load is back before so many are lost that nothing seems to be there.
            let slow = |id| FlowSpec { interval: Duration::from_millis(100), ..udp_flow(id) };
            mesh.plan(mesh_plan(1, vec![slow(1), slow(2)]));
            eventually("answers", || told.sum(|flow| flow.answered) > 10);
            within(&fabric.router, &format!("ip route add blackhole {route}"));
            let sent = counted(&mesh.counts().sent);
            eventually("a probe meets it", || counted(&mesh.counts().sent) > sent);
            within(&fabric.router, &format!("ip route del blackhole {route}"));
            eventually("it is told", || told.named("probe.loss"));
            // On a machine so slow that nothing came for long, more than the loss may be told.
            let first = told.signals().into_iter().find(|signal| signal.name == "probe.loss").unwrap();
            let attribute = |key| first.attributes.iter().find(|(of, _)| *of == key).map(|(_, value)| value.clone());
            assert_eq!((first.name, &*first.interface), ("probe.loss", "a0"), "{first:?}");
            assert!(first.severity == Severity::Warning || first.lost >= 3, "{first:?}");
            assert_eq!((attribute("target_host"), attribute("size_bytes")), (Some("b".into()), Some("64".into())));
            // By the first signal, or by another as soon as the flow itself is answered again.
            let ways = || -> Vec<_> {
                let attributes = told.signals().into_iter().flat_map(|signal| signal.attributes);
                attributes.filter(|(key, _)| *key == "direction").map(|(_, value)| value).collect()
            };
            eventually("the way is told", || !ways().is_empty());
            assert!(ways().iter().all(|told| told == way), "{:?}", ways());
            eventually("results say so", || {
                told.sum(|flow| flow.lost_there_back.map_or(0, |(there, back)| there + back)) > 0
            });
            let (there, back) = (
                told.sum(|flow| flow.lost_there_back.map_or(0, |(there, _)| there)),
                told.sum(|flow| flow.lost_there_back.map_or(0, |(_, back)| back)),
            );
            assert_eq!((there > 0, back > 0), (way == "there", way == "back"), "{there} there, {back} back");
            eventually("it is over", || told.named("probe.loss.over"));
            mesh.stop();
            stop.store(true, Relaxed);
        });
    }
}

#[test]
fn a_target_from_which_nothing_comes_is_unreachable_until_it_answers() {
    in_fabric(|fabric| {
        let stop = Arc::default();
        fabric.responder(Limits::default(), &stop);
        let (mesh, told) = start();
        mesh.plan(mesh_plan(1, vec![udp_flow(1)]));
        eventually("answers", || told.sum(|flow| flow.answered) > 10);
        within(&fabric.router, "ip route add blackhole 10.9.2.2/32");
        eventually("it is told", || told.named("probe.unreachable"));
        assert_eq!(told.signals()[0].name, "probe.unreachable", "no loss before it: {:?}", told.signals());
        within(&fabric.router, "ip route del blackhole 10.9.2.2/32");
        eventually("it is back", || told.named("probe.reachable"));
        mesh.stop();
        stop.store(true, Relaxed);
    });
}

#[test]
#[ignore = "not a test: what the others start as a process"]
fn answer_as_a_process() {
    fabric::answer_as_a_process();
}

#[test]
fn a_responder_that_is_stopped_is_its_hosts_time_and_no_loss() {
    in_fabric(|fabric| {
        let process = Process::start(fabric);
        let pid = Pid::from_raw(process.0.id().cast_signed());
        let (mesh, told) = start();
        // The time-out of the plan is shorter than the stop.
        mesh.plan(mesh_plan(1, vec![udp_flow(1)]));
        eventually("answers", || told.sum(|flow| flow.answered) > 20);
        // What there was before the responder did is not of interest.
        let lost_before = told.sum(|flow| flow.lost);
        *told.0.lock().unwrap() = Default::default();
        let begun = Instant::now();
        kill(pid, Signal::SIGSTOP).unwrap();
        sleep(Duration::from_millis(300));
        kill(pid, Signal::SIGCONT).unwrap();
        let stopped = begun.elapsed();
        eventually("its time is told", || told.0.lock().unwrap().0.iter().any(|f| f.answerer.max_ns > 200_000_000));
        let slowest = |of: fn(&FlowResult) -> u64| told.0.lock().unwrap().0.iter().map(of).max().unwrap();
        let (fabric_ns, answerer_ns) = (slowest(|flow| flow.fabric.max_ns), slowest(|flow| flow.answerer.max_ns));
        assert!(fabric_ns * 4 < answerer_ns, "{fabric_ns} of the fabric beside {answerer_ns} of the answerer");
        if stopped < Duration::from_millis(450) {
            assert_eq!(told.sum(|flow| flow.lost), 0, "{lost_before} before");
            assert_eq!(told.signals(), []);
        } else {
            eprintln!(
                "this machine is under such load that a stop of 300 ms lasted {stopped:?}: losses are not looked at"
            );
        }
        mesh.stop();
    });
}

/// Takes results, and once, when told, keeps the mesh's thread from running.
struct Busy(Told, Arc<AtomicBool>, Arc<Mutex<Duration>>);

impl Outlet for Busy {
    fn results(&mut self, revision: u64, from_ns: u64, to_ns: u64, flows: Vec<FlowResult>) {
        if self.1.swap(false, Relaxed) {
            let begun = Instant::now();
            sleep(Duration::from_millis(300));
            *self.2.lock().unwrap() = begun.elapsed();
        }
        self.0.results(revision, from_ns, to_ns, flows);
    }

    fn signal(&mut self, signal: ProbeSignal) {
        self.0.signal(signal);
    }
}

#[test]
fn a_prober_that_is_held_up_is_its_own_hosts_time_and_no_loss() {
    in_fabric(|fabric| {
        let stop = Arc::default();
        fabric.responder(Limits::default(), &stop);
        let (told, busy, stopped) = (Told::default(), Arc::default(), Arc::default());
        let outlet = Busy(told.clone(), Arc::clone(&busy), Arc::clone(&stopped));
        let mesh = Mesh::start(key(), 1000, Box::new(outlet)).unwrap();
        // One is on its way at any time. The time-out is shorter than the stop.
        let spread = |id: u64| FlowSpec { offset: Duration::from_millis(10 * id), ..udp_flow(id) };
        mesh.plan(mesh_plan(1, vec![spread(1), spread(2)]));
        eventually("answers", || told.sum(|flow| flow.answered) > 20);
        *told.0.lock().unwrap() = Default::default();
        busy.store(true, Relaxed);
        eventually("its time is told", || told.0.lock().unwrap().0.iter().any(|flow| flow.prober.max_ns > 200_000_000));
        let slowest = |of: fn(&FlowResult) -> u64| told.0.lock().unwrap().0.iter().map(of).max().unwrap();
        let (fabric_ns, prober_ns) = (slowest(|flow| flow.fabric.max_ns), slowest(|flow| flow.prober.max_ns));
        assert!(fabric_ns * 4 < prober_ns, "{fabric_ns} of the fabric beside {prober_ns} of the prober");
        let stopped = *stopped.lock().unwrap();
        if stopped < Duration::from_millis(450) {
            assert_eq!((told.sum(|flow| flow.lost), told.signals()), (0, vec![]));
        } else {
            eprintln!("this machine is under such load that 300 ms lasted {stopped:?}: losses are not looked at");
        }
        mesh.stop();
        stop.store(true, Relaxed);
    });
}

#[test]
fn a_flow_is_traced_and_its_destinations_socket_hears_nothing() {
    in_fabric(|fabric| {
        within(&fabric.router, "echo 0 > /proc/sys/net/ipv4/icmp_ratelimit");
        let stop = Arc::default();
        fabric.responder(Limits { per_source_per_s: 100_000, ..Limits::default() }, &stop);
        let b = fabric.b.try_clone().unwrap();
        let (udp, tcp) = spawn(move || {
            setns(&b, CloneFlags::CLONE_NEWNET).unwrap();
            (UdpSocket::bind("10.9.2.2:9999").unwrap(), TcpListener::bind("10.9.2.2:9998").unwrap())
        })
        .join()
        .unwrap();
        // A port that is in use here is traced too.
        let _taken = UdpSocket::bind("10.9.1.2:40007").unwrap();
        let spec = |sport: u16, dport: u16, protocol| TraceSpec {
            interface: "a0".into(),
            source: format!("10.9.1.2:{sport}").parse().unwrap(),
            destination: format!("10.9.2.2:{dport}").parse().unwrap(),
            protocol,
            dscp: 26,
        };
        let mut flows: Vec<_> = (40_000..40_020).map(|sport| spec(sport, 9999, Protocol::Udp)).collect();
        flows.push(spec(40_000, 9998, Protocol::Tcp));
        flows.push(TraceSpec { destination: "10.9.1.1:9999".parse().unwrap(), ..spec(40_000, 9999, Protocol::Udp) });
        flows.push(TraceSpec { destination: "10.9.2.77:9999".parse().unwrap(), ..spec(40_000, 9999, Protocol::Udp) });
        let key = key();
        for key in [Some(&key), None] {
            let options = TraceOptions { key, responder_port: 7704, hops_max: 16, timeout: Duration::from_secs(20) };
            let ways = trace(&flows, &options).unwrap();
            let (of_router, rest) = ways.split_at(21);
            for (way, flow) in of_router.iter().zip(&flows) {
                let hops: Vec<_> = way.hops.iter().map(|hop| hop.address.unwrap().to_string()).collect();
                assert_eq!((hops.as_slice(), way.reached), (&["10.9.1.1".to_owned()][..], true), "{flow:?}: {way:?}");
                assert!(way.hops[0].round_trip_ns > 0);
            }
            assert!(rest[0].hops.is_empty() && rest[0].reached, "a neighbour: {:?}", rest[0]);
            assert!(rest[1].failed.as_ref().is_some_and(|why| why.contains("how far")), "nobody: {:?}", rest[1]);
            udp.set_nonblocking(true).unwrap();
            tcp.set_nonblocking(true).unwrap();
            assert!(udp.recv(&mut [0; 64]).is_err(), "the destination's socket heard of it");
            assert!(tcp.accept().is_err(), "the destination's listener heard of it");
        }
        stop.store(true, Relaxed);
    });
}
