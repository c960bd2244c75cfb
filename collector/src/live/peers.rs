//! From a host's peers to the rows people read.
//!
//! In: what its agent told last. Out: a row per neighbour, queue pair and flow, and one per host of what is not listed. What the
//! wire leaves out is null here, never zero.

use super::rows::{FlowRow, LimitationRow, NeighbourRow, PeerAccountRow, QueuePairRow};
use super::{Host, rfc3339};
use railwatch_engine::Timestamp;
use railwatch_wire::v1;

pub(super) fn neighbours(host: &Host) -> Vec<NeighbourRow> {
    let row = |neighbour: &v1::Neighbour| NeighbourRow {
        host: host.name.clone(),
        interface: neighbour.interface.clone(),
        system_name: text(&neighbour.system_name),
        chassis_id: neighbour.chassis_id.clone(),
        chassis_id_subtype: neighbour.chassis_id_subtype.clone(),
        port_id: neighbour.port_id.clone(),
        port_id_subtype: neighbour.port_id_subtype.clone(),
        port_description: text(&neighbour.port_description),
        system_description: text(&neighbour.system_description),
        management_addresses: neighbour.management_addresses.clone(),
        ttl_s: neighbour.ttl_s,
        first_heard: rfc3339(Timestamp(neighbour.first_heard_unix_ns)),
        last_heard: rfc3339(Timestamp(neighbour.last_heard_unix_ns)),
    };
    let mut rows: Vec<_> = host.peers.neighbours.iter().map(row).collect();
    rows.sort_by(|a, b| a.interface.cmp(&b.interface));
    rows
}

pub(super) fn queue_pairs(host: &Host) -> Vec<QueuePairRow> {
    let row = |pair: &v1::QueuePair| {
        let (source, source_port) = end(&pair.source, pair.source_port);
        let (destination, destination_port) = end(&pair.destination, pair.destination_port);
        QueuePairRow {
            host: host.name.clone(),
            device: pair.device.clone(),
            port: (pair.port != 0).then_some(pair.port),
            number: pair.number,
            remote_number: pair.remote_number,
            kind: pair.r#type.clone(),
            state: pair.state.clone(),
            pid: (pair.pid != 0).then_some(pair.pid),
            comm: text(&pair.comm),
            source,
            source_port,
            destination,
            destination_port,
        }
    };
    host.peers.queue_pairs.iter().map(row).collect()
}

pub(super) fn flows(host: &Host) -> Vec<FlowRow> {
    let row = |flow: &v1::Flow| FlowRow {
        host: host.name.clone(),
        pid: flow.pid,
        comm: flow.comm.clone(),
        protocol: flow.protocol.clone(),
        source: flow.source.clone(),
        source_port: flow.source_port,
        destination: flow.destination.clone(),
        destination_port: flow.destination_port,
        interface: text(&flow.interface),
        state: flow.state.clone(),
        sent_bytes: flow.sent_bytes,
        received_bytes: flow.received_bytes,
        retransmits: flow.retransmits,
        rtt_ns: flow.rtt_ns,
    };
    host.peers.flows.iter().map(row).collect()
}

pub(super) fn account(host: &Host) -> PeerAccountRow {
    let v1::PeerState { neighbours, queue_pairs, flows, off, beyond, routes: _ } = &host.peers;
    PeerAccountRow {
        host: host.name.clone(),
        neighbours: neighbours.len() as u64,
        queue_pairs: queue_pairs.len() as u64,
        flows: flows.len() as u64,
        beyond: beyond.iter().map(|(what, count)| (what.clone(), *count)).collect(),
        off: off.iter().map(|off| LimitationRow { what: off.what.clone(), why: off.why.clone() }).collect(),
    }
}

fn text(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn end(address: &str, port: u32) -> (Option<String>, Option<u32>) {
    (text(address), (!address.is_empty()).then_some(port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_host_does_not_say_of_its_peers_is_null_and_a_later_state_replaces_the_whole() {
        let mut host = Host::new("h", Timestamp(1));
        let neighbour = |interface: &str| v1::Neighbour {
            interface: interface.into(),
            chassis_id: "02:00:00:00:00:01".into(),
            port_id: "swp1".into(),
            first_heard_unix_ns: 1_000_000_000,
            ..v1::Neighbour::default()
        };
        let of_a_process =
            v1::QueuePair { port: 1, number: 17, remote_number: Some(18), pid: 9, ..v1::QueuePair::default() };
        let of_the_kernel = v1::QueuePair { number: 1, comm: "ib_core".into(), ..v1::QueuePair::default() };
        let peers = v1::PeerState {
            routes: vec![],
            neighbours: vec![neighbour("eth1"), neighbour("eth0")],
            queue_pairs: vec![of_a_process, of_the_kernel],
            flows: vec![v1::Flow { pid: 9, sent_bytes: Some(0), ..v1::Flow::default() }],
            off: vec![v1::Limitation { what: "a".into(), why: "b".into() }],
            beyond: [("flows".to_owned(), 7)].into(),
        };
        host.take(v1::Snapshot { peers: Some(peers), ..v1::Snapshot::default() });
        host.take(v1::Snapshot::default());
        let rows = neighbours(&host);
        assert_eq!(rows.iter().map(|row| row.interface.as_str()).collect::<Vec<_>>(), ["eth0", "eth1"]);
        assert_eq!(
            (rows[0].system_name.as_ref(), rows[0].first_heard.starts_with("1970-01-01T00:00:01")),
            (None, true)
        );
        let pairs: Vec<_> = queue_pairs(&host)
            .into_iter()
            .map(|row| (row.port, row.number, row.remote_number, row.pid, row.comm, row.source_port))
            .collect();
        assert_eq!(
            pairs,
            [(Some(1), 17, Some(18), Some(9), None, None), (None, 1, None, None, Some("ib_core".to_owned()), None)]
        );
        let flow = &flows(&host)[0];
        assert_eq!((flow.sent_bytes, flow.received_bytes, flow.interface.as_ref()), (Some(0), None, None));
        let account_of = |host: &Host| {
            let row = account(host);
            (row.neighbours, row.queue_pairs, row.flows, row.beyond.get("flows").copied(), row.off.len())
        };
        assert_eq!(account_of(&host), (2, 2, 1, Some(7), 1));
        host.take(v1::Snapshot { peers: Some(v1::PeerState::default()), ..v1::Snapshot::default() });
        assert_eq!(account_of(&host), (0, 0, 0, None, 0));
    }
}
