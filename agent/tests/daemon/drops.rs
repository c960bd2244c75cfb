//! From a packet that the kernel drops to the collector.

use crate::agent::Agent;
use crate::collector::{Site, eventually};
use railwatch_wire::v1::{DropFlow, DropState};
use std::io::ErrorKind;
use std::net::UdpSocket;

fn latest(site: &Site) -> Option<DropState> {
    site.stored(|stored| stored.snapshots.iter().rev().find_map(|snapshot| snapshot.drops.clone()))
}

#[test]
fn datagrams_for_a_closed_port_reach_the_collector_with_their_flow_and_an_account_that_adds_up() {
    // Too few for a signal: other agents of this host count them too.
    const SENT: u64 = 900;
    let site = Site::new();
    let collector = site.listen("127.0.0.1:0");
    let agent = Agent::start(&site, &collector.address, &[]);
    eventually("drops are counted (needs root and BPF)", || {
        agent.page("text/plain").contains(r#"railwatch_source_on{source="drops"} 1"#)
    });
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = u32::from(socket.local_addr().unwrap().port());
    for _ in 0..SENT {
        while let Err(error) = socket.send_to(b"x", "127.0.0.1:9") {
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
        }
    }
    let own = |flow: &DropFlow| flow.source_port == port && flow.destination_port == 9;
    let lost = |state: &DropState| {
        state.account.as_ref().map_or(0, |account| account.dropped.get("missed").copied().unwrap_or(0))
    };
    eventually("the flow has all of them", || {
        let Some(state) = latest(&site) else { return false };
        let flow = state.flows.iter().find(|flow| own(flow)).map_or(0, |flow| flow.packets);
        // What the kernel left out on this host may or may not have been of this flow.
        flow <= SENT && flow + lost(&state) >= SENT
    });
    let state = latest(&site).unwrap();
    let flow = state.flows.iter().find(|flow| own(flow)).unwrap();
    assert_eq!((flow.reason.as_str(), flow.class.as_str(), flow.interface.as_str()), ("NO_SOCKET", "loss", "lo"));
    assert_eq!(
        (flow.protocol.as_str(), flow.source.as_str(), flow.destination.as_str()),
        ("udp", "127.0.0.1", "127.0.0.1")
    );
    assert!(flow.first_seen_unix_ns <= flow.last_seen_unix_ns);
    let total = state.totals.iter().find(|total| total.reason == "NO_SOCKET" && total.interface == "lo").unwrap();
    assert!(total.packets >= flow.packets, "{total:?} {flow:?}");
    let account = state.account.unwrap();
    assert_eq!(account.seen, account.delivered + account.dropped.values().sum::<u64>(), "{account:?}");
    agent.end();
}

#[test]
fn an_agent_told_not_to_counts_none() {
    let site = Site::new();
    let collector = site.listen("127.0.0.1:0");
    let mut command = std::process::Command::new(crate::agent::PROGRAM);
    command.arg("run").args(crate::agent::arguments(&site, &collector.address));
    std::fs::write(site.dir.path().join("agent.toml"), "[drops]\nenabled = false\n").unwrap();
    let agent = Agent::spawn(&site, &mut command);
    eventually("a snapshot says that there is nothing", || latest(&site) == Some(DropState::default()));
    assert!(!agent.page("text/plain").contains(r#"source="drops""#));
    agent.end();
}
