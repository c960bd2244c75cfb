//! Counters and values of switches under the names of the vocabulary: the same as a host's where they mean the same.
//!
//! In: a [`SwitchState`]. Out: [`SeriesRow`]s. Never: a series that the vocabulary lacks.

use crate::state::{Counter, Port, Quantity, SwitchState};
use std::collections::BTreeMap;

/// A counter that is read.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Counted {
    /// Its name in the vocabulary.
    pub series: &'static str,
    /// Direction, as the label `network.io.direction`.
    pub direction: Option<&'static str>,
    /// UCUM.
    pub unit: &'static str,
    /// Label that tells apart what a port has several of.
    pub part: Option<&'static str>,
    group: &'static str,
    leaf: &'static str,
}

const RECEIVE: Option<&str> = Some("receive");
const TRANSMIT: Option<&str> = Some("transmit");
/// Label of a queue.
pub const QUEUE: &str = "network.queue";
/// Label of a priority.
pub const PRIORITY: &str = "network.priority";

const fn row(
    group: &'static str,
    leaf: &'static str,
    series: &'static str,
    unit: &'static str,
    direction: Option<&'static str>,
) -> Counted {
    Counted { series, direction, unit, part: None, group, leaf }
}

const fn by(row: Counted, label: &'static str) -> Counted {
    Counted { part: Some(label), ..row }
}

/// All counters that are read, by where they are.
pub static COUNTED: [Counted; 22] = [
    row("interface", "in-octets", "hw.network.io", "By", RECEIVE),
    row("interface", "out-octets", "hw.network.io", "By", TRANSMIT),
    row("interface", "in-pkts", "hw.network.packets", "{packet}", RECEIVE),
    row("interface", "out-pkts", "hw.network.packets", "{packet}", TRANSMIT),
    // Older models have no sum.
    row("interface", "in-unicast-pkts", "hw.network.packets", "{packet}", RECEIVE),
    row("interface", "in-multicast-pkts", "hw.network.packets", "{packet}", RECEIVE),
    row("interface", "in-broadcast-pkts", "hw.network.packets", "{packet}", RECEIVE),
    row("interface", "out-unicast-pkts", "hw.network.packets", "{packet}", TRANSMIT),
    row("interface", "out-multicast-pkts", "hw.network.packets", "{packet}", TRANSMIT),
    row("interface", "out-broadcast-pkts", "hw.network.packets", "{packet}", TRANSMIT),
    row("interface", "in-discards", "hw.network.dropped", "{packet}", RECEIVE),
    row("interface", "out-discards", "hw.network.dropped", "{packet}", TRANSMIT),
    row("interface", "in-errors", "hw.network.errors", "{error}", RECEIVE),
    row("interface", "out-errors", "hw.network.errors", "{error}", TRANSMIT),
    row("interface", "in-fcs-errors", "hw.network.errors.crc", "{error}", RECEIVE),
    row("ethernet", "in-mac-pause-frames", "hw.network.pause_frames", "{frame}", RECEIVE),
    row("ethernet", "out-mac-pause-frames", "hw.network.pause_frames", "{frame}", TRANSMIT),
    by(row("pfc", "pause-frames-rx", "hw.network.pfc.pause_frames", "{frame}", RECEIVE), PRIORITY),
    by(row("pfc", "pause-frames-tx", "hw.network.pfc.pause_frames", "{frame}", TRANSMIT), PRIORITY),
    by(row("queue", "transmit-octets", "hw.network.queue.io", "By", None), QUEUE),
    by(row("queue", "transmit-pkts", "hw.network.queue.packets", "{packet}", None), QUEUE),
    by(row("queue", "dropped-pkts", "hw.network.queue.dropped", "{packet}", None), QUEUE),
];

/// The counter of a leaf.
#[must_use]
pub fn counted(group: &str, leaf: &str) -> Option<&'static Counted> {
    COUNTED.iter().find(|counted| counted.group == group && counted.leaf == leaf)
}

/// A series and its newest value.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct SeriesRow {
    /// Canonical name.
    pub name: &'static str,
    /// UCUM.
    pub unit: &'static str,
    /// A counter.
    pub monotonic: bool,
    /// `port`, `module` or `lane`.
    pub entity_kind: &'static str,
    /// `eth0`, of a lane `eth0/1`.
    pub entity: String,
    /// Sorted by key.
    pub labels: BTreeMap<&'static str, String>,
    /// Of a counter what it moved by since it was first read here; of any other its value.
    pub value: f64,
    /// Of a counter: per second, between its last two readings.
    pub per_s: Option<f64>,
    /// Of a counter: when it was first read and when last, Unix nanoseconds of the collector.
    #[serde(skip)]
    pub span_ns: Option<(u64, u64)>,
}

/// All series of a switch.
#[must_use]
pub fn rows(state: &SwitchState) -> Vec<SeriesRow> {
    let mut rows = Vec::new();
    for (name, port) in &state.ports {
        rows.extend(port_rows(name, port));
    }
    for (component, module) in &state.modules {
        let port = state.port_of_module(component).unwrap_or(component);
        for ((lane, quantity), value) in &module.values {
            rows.push(module_row(port, *lane, *quantity, *value));
        }
    }
    rows
}

fn of_port(port: &str, name: &'static str, unit: &'static str) -> SeriesRow {
    SeriesRow {
        name,
        unit,
        monotonic: false,
        entity_kind: "port",
        entity: port.to_owned(),
        labels: BTreeMap::from([("network.interface.name", port.to_owned())]),
        value: 0.0,
        per_s: None,
        span_ns: None,
    }
}

#[expect(clippy::cast_precision_loss, reason = "for tables and rates; the exact counter is in the state")]
fn port_rows(name: &str, port: &Port) -> Vec<SeriesRow> {
    let mut rows = Vec::new();
    rows.extend(port.up.map(|up| SeriesRow { value: f64::from(u8::from(up)), ..of_port(name, "hw.network.up", "1") }));
    rows.extend(
        port.speed_bits_per_s
            .map(|speed| SeriesRow { value: speed as f64, ..of_port(name, "hw.network.speed", "bit/s") }),
    );
    for (queue, bytes) in &port.queue_depth {
        let mut row = SeriesRow { value: *bytes as f64, ..of_port(name, "hw.network.queue.depth", "By") };
        row.labels.insert(QUEUE, queue.clone());
        rows.push(row);
    }
    let mut sums: BTreeMap<(&'static str, Option<&'static str>, &str), SeriesRow> = BTreeMap::new();
    for ((counted, part), counter) in &port.counters {
        // A switch that says the sum says its parts too.
        let is_part = counted.leaf.ends_with("cast-pkts") && has_sum(port, counted);
        if is_part {
            continue;
        }
        let row = sums.entry((counted.series, counted.direction, part)).or_insert_with(|| {
            let mut row = SeriesRow { monotonic: true, ..of_port(name, counted.series, counted.unit) };
            row.labels.extend(counted.direction.map(|direction| ("network.io.direction", direction.to_owned())));
            row.labels.extend(counted.part.map(|label| (label, part.clone())));
            row
        });
        add(row, counter);
    }
    rows.extend(sums.into_values());
    rows
}

#[expect(clippy::cast_precision_loss, reason = "as above")]
fn add(row: &mut SeriesRow, counter: &Counter) {
    row.value += counter.total as f64;
    let (since_ns, until_ns) = row.span_ns.unwrap_or((counter.since_ns, 0));
    row.span_ns = Some((since_ns.max(counter.since_ns), until_ns.max(counter.received_ns)));
    if let Some(growth) = counter.growth {
        row.per_s = Some(row.per_s.unwrap_or(0.0) + growth.per_s());
    }
}

fn has_sum(port: &Port, part: &Counted) -> bool {
    let sum = if part.direction == RECEIVE { "in-pkts" } else { "out-pkts" };
    counted("interface", sum).is_some_and(|sum| port.counters.contains_key(&(sum, String::new())))
}

fn module_row(port: &str, lane: Option<u16>, quantity: Quantity, value: f64) -> SeriesRow {
    // A host's modules say milliwatts: so do these. The lanes of a host's tables count from 1.
    let (name, unit, value) = match quantity {
        Quantity::RxPower => ("hw.optics.rx_power", "mW", 10_f64.powf(value / 10.0)),
        Quantity::TxPower => ("hw.optics.tx_power", "mW", 10_f64.powf(value / 10.0)),
        Quantity::TxBias => ("hw.optics.tx_bias", "mA", value),
        Quantity::Temperature => ("hw.optics.temperature", "Cel", value),
        Quantity::Voltage => ("hw.optics.voltage", "V", value),
    };
    let mut row = SeriesRow { entity_kind: "module", value, ..of_port(port, name, unit) };
    if let Some(lane) = lane {
        let lane = (lane + 1).to_string();
        (row.entity_kind, row.entity) = ("lane", format!("{port}/{lane}"));
        row.labels.insert("hw.optics.lane", lane);
    }
    row
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;
    use crate::gnmi::{Notification, TypedValue, Update, typed_value};
    use crate::paths;
    use railwatch_vocabulary::{Declared, check_all};

    /// A switch that says everything, twice.
    fn all() -> SwitchState {
        let mut state = SwitchState::new("s");
        for n in 1..3_u64 {
            let mut said = vec![
                ("/interfaces/interface[name=eth0]/state/oper-status".to_owned(), "\"UP\"".to_owned()),
                ("/interfaces/interface[name=eth0]/state/transceiver".to_owned(), "\"x0\"".to_owned()),
                ("/interfaces/interface[name=eth0]/ethernet/state/port-speed".to_owned(), "\"SPEED_400GB\"".to_owned()),
                (
                    "/qos/interfaces/interface[interface-id=eth0]/output/queues/queue[name=q3]/state/avg-queue-len"
                        .to_owned(),
                    n.to_string(),
                ),
                (
                    "/components/component[name=x0]/transceiver/state/supply-voltage/instant".to_owned(),
                    "3.3".to_owned(),
                ),
                ("/components/component[name=x0]/state/temperature/instant".to_owned(), "40".to_owned()),
            ];
            for quantity in ["input-power", "output-power", "laser-bias-current"] {
                said.push((
                    format!("/components/component[name=x0]/transceiver/physical-channels/channel[index=0]/state/{quantity}/instant"),
                    "0".to_owned(),
                ));
            }
            for counted in &COUNTED {
                let path = match counted.group {
                    "interface" => format!("/interfaces/interface[name=eth0]/state/counters/{}", counted.leaf),
                    "ethernet" => format!("/interfaces/interface[name=eth0]/ethernet/state/counters/{}", counted.leaf),
                    "pfc" => format!(
                        "/qos/interfaces/interface[interface-id=eth0]/pfc/pfc-priorities/pfc-priority[dot1p=3]/state/statistics/{}",
                        counted.leaf
                    ),
                    _ => format!(
                        "/qos/interfaces/interface[interface-id=eth0]/output/queues/queue[name=q3]/state/{}",
                        counted.leaf
                    ),
                };
                said.push((path, (n * 10).to_string()));
            }
            let update = |(path, json): &(String, String)| Update {
                path: Some(paths::parse(path).unwrap()),
                val: Some(TypedValue { value: Some(typed_value::Value::JsonIetfVal(json.clone().into_bytes())) }),
                ..Update::default()
            };
            let notification = Notification { update: said.iter().map(update).collect(), ..Notification::default() };
            let applied = state.apply(&notification, n * 2_000_000_000);
            assert_eq!((applied.malformed, applied.refused, applied.unread), (0, 0, 0));
        }
        state
    }

    #[test]
    fn every_series_is_in_the_vocabulary_as_it_is_declared() {
        let rows = rows(&all());
        let declared = rows.iter().map(|row| Declared {
            name: row.name,
            unit: row.unit,
            is_counter: row.monotonic,
            entity: row.entity_kind,
            labels: row.labels.iter().map(|(key, value)| (*key, value.as_str())).collect(),
        });
        assert_eq!(check_all(declared), "");
        let names: std::collections::BTreeSet<_> = rows.iter().map(|row| row.name).collect();
        for name in
            ["hw.network.queue.io", "hw.network.queue.packets", "hw.network.queue.dropped", "hw.network.queue.depth"]
        {
            assert!(names.contains(name), "{name}");
        }
        assert!(COUNTED.iter().all(|counted| names.contains(counted.series)));
    }

    #[test]
    fn packets_are_counted_once_and_light_is_told_in_milliwatts() {
        let rows = rows(&all());
        let packets: Vec<_> =
            rows.iter().filter(|row| row.name == "hw.network.packets").map(|row| (row.value, row.per_s)).collect();
        assert_eq!(packets, [(10.0, Some(5.0)), (10.0, Some(5.0))]);
        let light = rows.iter().find(|row| row.name == "hw.optics.rx_power").unwrap();
        assert_eq!((light.entity.as_str(), light.value), ("eth0/1", 1.0));
    }
}
