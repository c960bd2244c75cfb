//! From a host's packet drops to the rows people read.
//!
//! In: its flows and totals. Out: a row per flow, and per reason and interface a row of what is in no flow listed, so that
//! the rows add up to the totals.

use super::{
    Host, rfc3339,
    rows::{DropAccountRow, DropRow, LimitationRow},
};
use railwatch_engine::Timestamp;
use railwatch_wire::v1;

pub(super) fn rows(host: &Host) -> Vec<DropRow> {
    let v1::DropState { flows, totals, .. } = &host.drops;
    let mut rest: Vec<_> = totals.iter().map(|total| (total, total.packets, total.bytes)).collect();
    let mut rows: Vec<_> = flows.iter().map(|flow| row(&host.name, flow)).collect();
    for flow in flows {
        // A flow of another namespace is part of the total of all of those; one beyond the host's bound, of the others.
        let elsewhere = if flow.interface.contains('@') { "other_namespaces" } else { "others" };
        let at = [flow.interface.as_str(), elsewhere].into_iter().find_map(|interface| {
            rest.iter().position(|(total, ..)| total.reason == flow.reason && total.interface == interface)
        });
        if let Some(at) = at {
            let (_, packets, bytes) = &mut rest[at];
            *packets = packets.saturating_sub(flow.packets);
            *bytes = bytes.saturating_sub(flow.bytes);
        }
    }
    rest.retain(|(_, packets, _)| *packets > 0);
    rest.sort_by_key(|(_, packets, _)| std::cmp::Reverse(*packets));
    rows.extend(rest.into_iter().map(|(total, packets, bytes)| DropRow {
        host: host.name.clone(),
        reason: total.reason.clone(),
        class: total.class.clone(),
        interface: total.interface.clone(),
        network_namespace: None,
        protocol: None,
        source: None,
        source_port: None,
        destination: None,
        destination_port: None,
        packets,
        bytes,
        first_seen: None,
        last_seen: None,
    }));
    rows
}

fn row(host: &str, flow: &v1::DropFlow) -> DropRow {
    let has_ports = flow.source_port != 0 || flow.destination_port != 0;
    DropRow {
        host: host.to_owned(),
        reason: flow.reason.clone(),
        class: flow.class.clone(),
        interface: flow.interface.clone(),
        network_namespace: (flow.network_namespace != 0).then_some(flow.network_namespace),
        protocol: Some(flow.protocol.clone()),
        source: Some(flow.source.clone()),
        source_port: has_ports.then_some(flow.source_port),
        destination: Some(flow.destination.clone()),
        destination_port: has_ports.then_some(flow.destination_port),
        packets: flow.packets,
        bytes: flow.bytes,
        first_seen: Some(rfc3339(Timestamp(flow.first_seen_unix_ns))),
        last_seen: Some(rfc3339(Timestamp(flow.last_seen_unix_ns))),
    }
}

pub(super) fn account(host: &Host) -> Option<DropAccountRow> {
    let v1::LossAccount { seen, delivered, dropped } = host.drops.account.clone()?;
    let off = host.drops.off.iter();
    Some(DropAccountRow {
        host: host.name.clone(),
        seen,
        delivered,
        dropped: dropped.into_iter().collect(),
        off: off.map(|off| LimitationRow { what: off.what.clone(), why: off.why.clone() }).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::{account, rows};
    use crate::live::Host;
    use railwatch_engine::Timestamp;
    use railwatch_wire::v1;

    fn total(reason: &str, interface: &str, packets: u64) -> v1::DropTotal {
        v1::DropTotal {
            reason: reason.into(),
            class: "loss".into(),
            interface: interface.into(),
            packets,
            bytes: 10 * packets,
        }
    }

    fn flow(reason: &str, interface: &str, packets: u64, port: u32) -> v1::DropFlow {
        v1::DropFlow {
            reason: reason.into(),
            class: "loss".into(),
            interface: interface.into(),
            protocol: "udp".into(),
            source: "10.0.0.1".into(),
            source_port: port,
            destination: "10.0.0.2".into(),
            destination_port: if port == 0 { 0 } else { 4791 },
            packets,
            bytes: 10 * packets,
            ..v1::DropFlow::default()
        }
    }

    #[test]
    fn rows_of_a_reason_add_up_to_its_total_wherever_its_flows_are() {
        let mut host = Host::new("h", Timestamp(1));
        assert_eq!((rows(&host), account(&host)), (vec![], None));
        let drops = v1::DropState {
            flows: vec![
                flow("NO_SOCKET", "eth0", 60, 7),
                flow("NO_SOCKET", "eth0", 40, 0),
                flow("NO_SOCKET", "if4@4026532001", 5, 8),
                flow("SOCKET_RCVBUFF", "eth1", 3, 9),
            ],
            totals: vec![
                total("NO_SOCKET", "eth0", 100),
                total("NO_SOCKET", "other_namespaces", 9),
                total("SOCKET_RCVBUFF", "others", 4),
            ],
            account: Some(v1::LossAccount { seen: 113, delivered: 108, dropped: [("no_flow".to_owned(), 5)].into() }),
            off: Vec::new(),
        };
        host.take(v1::Snapshot { drops: Some(drops), ..v1::Snapshot::default() });
        host.take(v1::Snapshot::default());
        let rows = rows(&host);
        let shown: Vec<_> = rows
            .iter()
            .map(|row| (row.interface.as_str(), row.packets, row.source_port, row.source.is_some()))
            .collect();
        assert_eq!(
            shown,
            [
                ("eth0", 60, Some(7), true),
                ("eth0", 40, None, true),
                ("if4@4026532001", 5, Some(8), true),
                ("eth1", 3, Some(9), true),
                ("other_namespaces", 4, None, false),
                ("others", 1, None, false),
            ]
        );
        assert_eq!(rows.iter().map(|row| row.packets).sum::<u64>(), 113);
        assert_eq!(account(&host).map(|row| (row.seen, row.delivered, row.dropped["no_flow"])), Some((113, 108, 5)));
    }
}
