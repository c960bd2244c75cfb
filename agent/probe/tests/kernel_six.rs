//! Probes and traces over IPv6 through a real kernel: two hosts, a router at each, and two ways between those, in network namespaces of their own.
//! Needs root and iproute2.
//!
//! ```text
//!          ┌── x ──┐
//!  a ── r1 ┤       ├ r2 ── b      a fd00:1::2, b fd00:2::2; r1-x fd00:11::/64, r1-y fd00:12::/64, x-r2 fd00:21::/64, y-r2 fd00:22::/64
//!          └── y ──┘
//! ```
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

mod fabric;

use fabric::*;
use nix::libc;
use railwatch_probe::{FlowSpec, Limits, Protocol, StampedSocket, TraceOptions, TraceSpec, trace};
use std::collections::BTreeSet;
use std::fs::File;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::spawn;
use std::time::Duration;

/// The namespaces but `a`'s, in which this thread is.
struct Six {
    r1: File,
    r2: File,
    b: File,
    x: File,
    y: File,
}

impl Six {
    fn new() -> Self {
        let six = Self { r1: made(), r2: made(), b: made(), x: made(), y: made() };
        enter_a_new_one();
        shell(&format!(
            "ip link add a0 type veth peer name ra netns {r1}; ip link set a0 up; ip addr add fd00:1::2/64 dev a0 nodad",
            r1 = of(&six.r1)
        ));
        let Self { r1, r2, b, x, y } = &six;
        let router = "echo 1 > /proc/sys/net/ipv6/conf/all/forwarding; echo 0 > /proc/sys/net/ipv6/icmp/ratelimit\n";
        let cable = |near: &str, own: &str, far: &str, to: &File| {
            let to = of(to);
            format!(
                "ip link add {near} type veth peer name {far} netns {to}; ip link set {near} up; ip addr add {own}/64 dev {near} nodad\n"
            )
        };
        let end = |port: &str, own: &str| format!("ip link set {port} up; ip addr add {own}/64 dev {port} nodad\n");
        within(
            r1,
            &[
                router,
                &end("ra", "fd00:1::1"),
                &cable("rx", "fd00:11::1", "x1", x),
                &cable("ry", "fd00:12::1", "y1", y),
                "ip -6 route add fd00:2::/64 nexthop via fd00:11::2 nexthop via fd00:12::2",
            ]
            .concat(),
        );
        for (middle, port, near, far, back) in
            [(x, "x", "fd00:11::2", "fd00:21::2", "fd00:11::1"), (y, "y", "fd00:12::2", "fd00:22::2", "fd00:12::1")]
        {
            let over = if port == "x" { "fd00:21::1" } else { "fd00:22::1" };
            within(
                middle,
                &[
                    router,
                    &end(&format!("{port}1"), near),
                    &cable(&format!("{port}2"), far, &format!("r{port}"), r2),
                    &format!("ip -6 route add fd00:2::/64 via {over}; ip -6 route add fd00:1::/64 via {back}"),
                ]
                .concat(),
            );
        }
        within(
            r2,
            &[
                router,
                &end("rx", "fd00:21::1"),
                &end("ry", "fd00:22::1"),
                &cable("rb", "fd00:2::1", "b0", b),
                "ip -6 route add fd00:1::/64 nexthop via fd00:21::2 nexthop via fd00:22::2",
            ]
            .concat(),
        );
        within(b, &[&end("b0", "fd00:2::2"), "ip -6 route add default via fd00:2::1"].concat());
        shell("ip -6 route add default via fd00:1::1");
        // What each asks of its neighbours first, and what they make of it, is over before anything is counted.
        let echo = at(&six.b, || UdpSocket::bind("[fd00:2::2]:9").unwrap());
        echo.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        for _ in 0..32 {
            let asks = UdpSocket::bind("[fd00:1::2]:0").unwrap();
            asks.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            let from = asks.local_addr().unwrap();
            eventually("a way to b and back", || {
                asks.send_to(&[1], "[fd00:2::2]:9").unwrap();
                // What was asked before may come late.
                while let Ok((_, asked)) = echo.recv_from(&mut [0; 8]) {
                    echo.send_to(&[2], asked).unwrap();
                    if asked == from {
                        return asks.recv(&mut [0; 8]).is_ok();
                    }
                }
                false
            });
        }
        six
    }

    /// Packets that each of a router's two ways has sent.
    fn sent(router: &File) -> [u64; 2] {
        at(router, || ["rx", "ry"].map(left_by))
    }

    fn hash_by(&self, policy: u8) {
        for router in [&self.r1, &self.r2] {
            within(router, &format!("echo {policy} > /proc/sys/net/ipv6/fib_multipath_hash_policy"));
        }
    }
}

fn in_six(test: impl FnOnce(&Six) + Send + 'static) {
    if let Err(panic) = spawn(move || test(&Six::new())).join() {
        std::panic::resume_unwind(panic);
    }
}

fn flow(id: u64, size_bytes: usize) -> FlowSpec {
    FlowSpec {
        source: "fd00:1::2".parse().unwrap(),
        destination: "[fd00:2::2]:7704".parse().unwrap(),
        size_bytes,
        timeout: Duration::from_millis(500),
        ..udp_flow(id)
    }
}

#[test]
fn a_plan_is_carried_out_over_ipv6_with_every_stamp() {
    in_six(|six| {
        let stop = Arc::default();
        let answered = responder_in(&six.b, "[::]:7704", Limits::default(), &stop);
        let (mesh, told) = start();
        let counts = mesh.counts();
        // The largest that fits; one that is a train of three.
        let flows = [flow(1, 64), flow(2, 1452), flow(3, 4000)];
        assert!(mesh.plan(mesh_plan(1, flows.to_vec())));
        eventually("results", || (1..=3).all(|id| told.sum(|flow| if flow.id == id { flow.answered } else { 0 }) > 30));
        assert_eq!(mesh.state().off, []);
        let idle =
            flows.map(|spec| FlowSpec { interval: Duration::from_secs(500), offset: Duration::from_secs(400), ..spec });
        assert!(mesh.plan(mesh_plan(2, idle.to_vec())));
        eventually("all is judged", || counted(&counts.sent) == counted(&counts.answered) + counted(&counts.lost));
        eventually("all is reported", || u64::from(told.sum(|flow| flow.sent)) == counted(&counts.sent));
        let sent = counted(&counts.sent);
        assert_eq!((counted(&counts.lost), counted(&counts.unsent), told.signals().len()), (0, 0, 0));
        assert_eq!((counted(&answered.received), counted(&answered.answered)), (sent, sent));
        let timed = told.sum(|flow| flow.fabric.count);
        assert!(u64::from(timed) * 10 >= sent * 8, "{timed} of {sent} have every stamp");
        mesh.stop();
        stop.store(true, Relaxed);
    });
}

#[test]
fn a_datagram_has_its_class_and_is_never_a_fragment() {
    in_six(|six| {
        let to: SocketAddr = "[fd00:2::2]:9000".parse().unwrap();
        let mut answerer = at(&six.b, move || StampedSocket::bind(to, 0).unwrap());
        let mut socket = StampedSocket::bind("[fd00:1::2]:41000".parse().unwrap(), 0).unwrap();
        // Where no socket asked for stamps before, the kernel switches them on a moment later (net_enable_timestamp of net/core/dev.c).
        let before: SocketAddr = "[fd00:2::2]:9001".parse().unwrap();
        let mut earlier = at(&six.b, move || StampedSocket::bind(before, 0).unwrap());
        eventually("the kernel stamps what comes", || {
            socket.send_to(&[7; 64], before, 0).unwrap();
            matches!(earlier.receive(&mut [0; 64]), Ok(Some(received)) if received.stamp_unix_ns.is_some())
        });
        assert_eq!(socket.payload_max(to).unwrap(), 1452);
        socket.send_to(&[7; 1452], to, 26 << 2).unwrap();
        let mut buffer = [0; 2048];
        let mut received = None;
        eventually("it comes", || {
            received = answerer.receive(&mut buffer).unwrap();
            received.is_some()
        });
        let received = received.unwrap();
        assert_eq!((received.length, received.tos, received.from), (1452, 26 << 2, socket.local().unwrap()));
        assert!(received.stamp_unix_ns.is_some());
        let error = |result: std::io::Result<u32>| result.err().and_then(|error| error.raw_os_error());
        assert_eq!(error(socket.send_to(&[7; 1453], to, 0)), Some(libc::EMSGSIZE));
        // A narrower link on the way: the first one is lost, and says so.
        within(&six.r2, "ip link set rb mtu 1400");
        let _ = socket.send_to(&[7; 1452], to, 0);
        eventually("the path's MTU is known", || socket.payload_max(to).unwrap() == 1352);
        assert_eq!(error(socket.send_to(&[7; 1353], to, 0)), Some(libc::EMSGSIZE));
        assert!(answerer.receive(&mut buffer).unwrap().is_none());
        socket.send_to(&[7; 1352], to, 0).unwrap();
        eventually(
            "what fits comes",
            || matches!(answerer.receive(&mut buffer), Ok(Some(received)) if received.length == 1352),
        );
    });
}

const PACKETS: u64 = 40;

#[test]
fn a_flow_is_traced_on_the_very_way_of_its_probes_and_of_their_answers() {
    in_six(|six| {
        let stop = Arc::default();
        responder_in(&six.b, "[::]:7704", Limits { per_source_per_s: 100_000, ..Limits::default() }, &stop);
        // 0: by addresses and flow label, as Linux does by default; 1: by ports.
        for policy in [0, 1] {
            six.hash_by(policy);
            let spec = |sport: u16| TraceSpec {
                interface: "a0".into(),
                source: format!("[fd00:1::2]:{sport}").parse().unwrap(),
                destination: "[fd00:2::2]:7704".parse().unwrap(),
                protocol: Protocol::Udp,
                dscp: 26,
            };
            let flows: Vec<_> = (41_000..41_012).map(spec).collect();
            let back: Vec<_> = flows
                .iter()
                .map(|flow| TraceSpec {
                    interface: "b0".into(),
                    source: flow.destination,
                    destination: flow.source,
                    ..flow.clone()
                })
                .collect();
            let traced = |flows: &[TraceSpec], key: Option<&railwatch_probe::Key>| -> Vec<Vec<IpAddr>> {
                let options = TraceOptions { key, responder_port: 7704, hops_max: 8, timeout: Duration::from_secs(20) };
                let ways = trace(flows, &options).unwrap();
                assert!(ways.iter().all(|way| way.reached), "{ways:?}");
                ways.iter().map(|way| way.hops.iter().map(|hop| hop.address.unwrap()).collect()).collect()
            };
            let key = key();
            let there = traced(&flows, Some(&key));
            // A closed port of a host without a responder tells how far it is.
            let here = at(&six.b, {
                let back = back.clone();
                move || {
                    let options =
                        TraceOptions { key: None, responder_port: 7704, hops_max: 8, timeout: Duration::from_secs(20) };
                    trace(&back, &options).unwrap()
                }
            });
            let mut taken = BTreeSet::new();
            for ((flow, there), here) in flows.iter().zip(&there).zip(&here) {
                assert_eq!((there.len(), here.hops.len(), here.reached), (3, 3, true), "{flow:?}: {there:?} {here:?}");
                assert_eq!(there[0].to_string(), "fd00:1::1");
                assert_eq!(here.hops[0].address.unwrap().to_string(), "fd00:2::1");
                let by = |hop: IpAddr, x: &str, y: &str| match hop.to_string() {
                    hop if hop == x => 0,
                    hop if hop == y => 1,
                    hop => panic!("{hop} is neither {x} nor {y}"),
                };
                let expected = (
                    by(there[1], "fd00:11::2", "fd00:12::2"),
                    by(here.hops[1].address.unwrap(), "fd00:21::2", "fd00:22::2"),
                );
                let before = (Six::sent(&six.r1), Six::sent(&six.r2));
                assert_eq!(probed(flow, &key), PACKETS, "{flow:?}");
                let after = (Six::sent(&six.r1), Six::sent(&six.r2));
                let took = |before: [u64; 2], after: [u64; 2]| usize::from(after[1] - before[1] > after[0] - before[0]);
                assert_eq!((took(before.0, after.0), took(before.1, after.1)), expected, "policy {policy}: {flow:?}");
                taken.insert(expected);
            }
            assert!(taken.len() > 1, "all flows take one way by policy {policy}: {taken:?}");
        }
        stop.store(true, Relaxed);
    });
}

/// Sends probes of a flow as a mesh does; returns how many were answered.
fn probed(flow: &TraceSpec, key: &railwatch_probe::Key) -> u64 {
    let plan = railwatch_probe::Plan {
        target: flow.destination,
        source: Some(flow.source.ip()),
        source_port: flow.source.port(),
        interval: Duration::from_millis(1),
        timeout: Duration::from_secs(5),
        dscp: flow.dscp,
        ..udp_plan(PACKETS)
    };
    railwatch_probe::run(&plan, key, |_, _| {}).unwrap().answered
}

#[test]
fn no_socket_hears_of_a_trace_over_ipv6_and_what_cannot_be_traced_says_why() {
    in_six(|six| {
        let (udp, tcp) = at(&six.b, || {
            (UdpSocket::bind("[fd00:2::2]:9999").unwrap(), TcpListener::bind("[fd00:2::2]:9998").unwrap())
        });
        // A port that is in use here is traced too.
        let _taken = UdpSocket::bind("[fd00:1::2]:40007").unwrap();
        let spec = |sport: u16, destination: &str, protocol| TraceSpec {
            interface: "a0".into(),
            source: format!("[fd00:1::2]:{sport}").parse().unwrap(),
            destination: destination.parse().unwrap(),
            protocol,
            dscp: 26,
        };
        let mut flows: Vec<_> = (40_000..40_010).map(|sport| spec(sport, "[fd00:2::2]:9999", Protocol::Udp)).collect();
        flows.push(spec(40_000, "[fd00:2::2]:9998", Protocol::Tcp));
        flows.push(spec(40_000, "[fd00:1::1]:9999", Protocol::Udp));
        flows.push(spec(40_000, "[fd00:2::77]:9999", Protocol::Udp));
        let options = TraceOptions { key: None, responder_port: 7704, hops_max: 8, timeout: Duration::from_secs(20) };
        let ways = trace(&flows, &options).unwrap();
        let (through, rest) = ways.split_at(11);
        for (way, flow) in through.iter().zip(&flows) {
            assert!(way.reached && way.hops.len() == 3, "{flow:?}: {way:?}");
            assert!(way.hops.iter().all(|hop| hop.address.is_some() && hop.round_trip_ns > 0), "{flow:?}: {way:?}");
        }
        assert!(rest[0].hops.is_empty() && rest[0].reached, "a neighbour: {:?}", rest[0]);
        assert!(rest[1].failed.as_ref().is_some_and(|why| why.contains("how far")), "nobody: {:?}", rest[1]);
        udp.set_nonblocking(true).unwrap();
        tcp.set_nonblocking(true).unwrap();
        assert!(udp.recv(&mut [0; 64]).is_err(), "the destination's socket heard of it");
        assert!(tcp.accept().is_err(), "the destination's listener heard of it");
    });
}
