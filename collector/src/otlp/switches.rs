//! Switches as OTLP metrics: a resource per switch, the same names, units and shapes as a host's.
//!
//! In: what connected switches said last. Out: resources of at most [`POINTS_PER_REQUEST_MAX`] points. Never: what a switch said before it
//! was lost: it would look alive.

use super::points::{Metrics, POINTS_PER_REQUEST_MAX, STALE_AFTER_NS, Shape, said_by};
use super::records::{keyed, text};
use crate::switches::Table;
use opentelemetry_proto::tonic::{
    common::v1::KeyValue,
    metrics::v1::{NumberDataPoint, ResourceMetrics, number_data_point::Value},
};
use railwatch_engine::Timestamp;
use railwatch_switches::series::{SeriesRow, rows};
use railwatch_vocabulary::{Convention, Kind};

/// Number of points, and the resource that has them.
pub(super) fn resources(switches: &Table, now: Timestamp) -> Vec<(usize, ResourceMetrics)> {
    let mut resources = Vec::new();
    for cell in switches.cells() {
        let (name, address, rows) = {
            let switch = cell.lock();
            if switch.connected_since.is_none() && switch.sflow.is_none() {
                continue;
            }
            (switch.state.name.clone(), switch.address.clone(), rows(&switch.state))
        };
        let is_fresh = |row: &&SeriesRow| row.span_ns.is_none_or(|(_, at)| at.saturating_add(STALE_AFTER_NS) > now.0);
        let fresh: Vec<_> = rows.iter().filter(is_fresh).collect();
        for chunk in fresh.chunks(POINTS_PER_REQUEST_MAX) {
            resources.push((chunk.len(), resource(&name, address.as_deref(), chunk, now)));
        }
    }
    resources
}

fn resource(name: &str, address: Option<&str>, rows: &[&SeriesRow], now: Timestamp) -> ResourceMetrics {
    let mut metrics = Metrics::new();
    for row in rows {
        let known = railwatch_vocabulary::find(row.name);
        let shape = match known.map(|known| known.kind) {
            _ if row.monotonic => Shape::Count,
            Some(Kind::Amount | Kind::State) => Shape::Amount,
            _ => Shape::Gauge,
        };
        let convention = known.and_then(|known| known.convention.as_ref());
        let (name, unit) = convention.map_or((row.name, row.unit), |convention| (convention.name, convention.unit));
        metrics.entry((name, unit, shape)).or_default().push(point(row, shape, convention, now));
    }
    let mut attributes = vec![
        keyed("service.name", text("railwatch-collector")),
        keyed("service.version", text(env!("CARGO_PKG_VERSION"))),
        keyed("host.name", text(name)),
        keyed("host.type", text("switch")),
    ];
    attributes.extend(address.map(|address| keyed("server.address", text(address))));
    said_by(attributes, metrics)
}

fn point(row: &SeriesRow, shape: Shape, convention: Option<&Convention>, now: Timestamp) -> NumberDataPoint {
    let mut attributes: Vec<KeyValue> = row.labels.iter().map(|(key, value)| keyed(key, text(value))).collect();
    attributes.push(keyed("railwatch.entity.kind", text(row.entity_kind)));
    attributes.push(keyed("railwatch.entity.name", text(&row.entity)));
    if let Some(convention) = convention {
        attributes.extend(convention.attributes.iter().map(|(key, value)| keyed(key, text(value))));
        attributes.extend(convention.entity_attribute().map(|key| keyed(key, text(&row.entity))));
    }
    let (since_ns, at_ns) = row.span_ns.unwrap_or((now.0, now.0));
    NumberDataPoint {
        attributes,
        start_time_unix_nano: if shape == Shape::Gauge { 0 } else { since_ns },
        time_unix_nano: at_ns,
        value: Some(Value::AsDouble(row.value * convention.map_or(1.0, |convention| convention.factor))),
        ..NumberDataPoint::default()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::super::points::requests;
    use crate::live::Live;
    use crate::switches::SwitchConfig;
    use opentelemetry_proto::tonic::metrics::v1::{metric::Data, number_data_point::Value};
    use railwatch_engine::Timestamp;
    use railwatch_switches::sflow::InterfaceCounters;
    use std::time::Duration;

    #[test]
    fn a_switch_is_a_resource_whose_counters_begin_where_they_were_first_read() {
        let live = Live::new(Duration::from_secs(60));
        let config: SwitchConfig = toml::from_str("name = \"leaf0\"\nsflow_agents = [\"::1\"]").unwrap();
        let cell = live.switches().add(&config);
        let s = 1_000_000_000;
        for n in 1..3_u32 {
            let counters =
                InterfaceCounters { index: 3, in_octets: u64::from(n) * 100, ..InterfaceCounters::default() };
            cell.lock().said(&counters.notification("if3"), Timestamp(u64::from(n) * s), 1);
        }
        let of = |now: u64| requests(&live, Timestamp(now));
        let resource = &of(3 * s)[0].resource_metrics[0];
        assert!(resource.resource.as_ref().unwrap().attributes.iter().any(|attribute| attribute.key == "host.name"));
        let metric = resource.scope_metrics[0].metrics.iter().find(|metric| metric.name == "hw.network.io").unwrap();
        let Some(Data::Sum(sum)) = &metric.data else { panic!("a sum") };
        let point = sum.data_points.iter().find(|point| point.value == Some(Value::AsDouble(100.0))).unwrap();
        assert_eq!((sum.is_monotonic, point.start_time_unix_nano, point.time_unix_nano), (true, s, 2 * s));
        let late = &of(100 * s)[0].resource_metrics[0].scope_metrics[0];
        assert!(late.metrics.iter().all(|metric| metric.name != "hw.network.io"), "what is old is not told");
    }
}
