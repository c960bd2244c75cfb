//! Dashboards for Grafana, made from the table: a row for each section, a panel for each title, a query for each metric.
//!
//! In: a board. Out: its JSON, for import or provisioning. A few panels that join metrics stand first and are written here;
//! all others follow from the rows. Never: a panel that nobody can trace to a row.

use railwatch_vocabulary::{Board, Panel, own, prometheus::plain, series};
use serde_json::{Value, json};

/// Grafana's dashboard schema of version 10; newer ones migrate it.
const SCHEMA_VERSION: u32 = 39;
const WIDTH: u32 = 24;
/// Labels that say again which entity a series is of: no legend needs both.
const NAMED_BY_ENTITY: [&str; 5] =
    ["network.interface.name", "rdma.device.name", "rdma.port.number", "gpu.uuid", "hw.optics.lane"];

/// One query.
struct Query {
    /// What tells it apart within its panel.
    name: String,
    expression: String,
    /// The labels of its legend.
    labels: Vec<String>,
}

/// One panel.
struct Drawn {
    title: &'static str,
    unit: &'static str,
    is_stat: bool,
    queries: Vec<Query>,
}

/// A heading and its panels.
struct Group {
    title: &'static str,
    panels: Vec<Drawn>,
}

/// The whole dashboard.
pub fn dashboard(board: Board) -> Value {
    let mut groups = vec![Group { title: "At a glance", panels: lead(board) }];
    for section in series::ALL.iter().filter(|section| section.board == board) {
        for one in section.series {
            let Panel::Titled(title) = section.panel_of(one) else { continue };
            let name = one.prometheus_name();
            // What may be about the host has its interface in that label alone.
            let is_said = |key: &str| NAMED_BY_ENTITY.contains(&key) && !section.entities.contains(&"host");
            let labels = section.labels_of(one).filter(|label| !is_said(label.key)).map(|label| plain(label.key));
            let labels = ["instance".to_owned(), "entity".to_owned()].into_iter().chain(labels).collect();
            let query =
                Query { name: one.name.to_owned(), expression: expression(&name, one.kind.is_counter()), labels };
            add(&mut groups, section.title, title, unit(&name, one.kind.is_counter()), query);
        }
    }
    for section in own::ALL {
        for metric in section.metrics.iter().filter(|metric| section.board_of(metric) == board) {
            let Panel::Titled(title) = metric.panel else { continue };
            let is_fleet = metric.name.starts_with("railwatch_collector_fleet_");
            let own = metric.labels.iter().filter(|key| !is_fleet || **key != "host").map(|key| (*key).to_owned());
            let of = if is_fleet { "host" } else { "instance" };
            let labels: Vec<_> = std::iter::once(of.to_owned()).chain(own).collect();
            let is_counter = metric.kind == own::Kind::Counter;
            let short = metric.name.trim_start_matches("railwatch_").to_owned();
            let queries = match metric.kind {
                own::Kind::Histogram => [("0.5", "median"), ("0.99", "99th percentile")]
                    .map(|(quantile, name)| (name.to_owned(), quantiles(metric.name, quantile), Vec::new()))
                    .to_vec(),
                _ => vec![(short, expression(metric.name, is_counter), labels)],
            };
            for (name, expression, labels) in queries {
                add(
                    &mut groups,
                    section.title,
                    title,
                    unit(metric.name, is_counter),
                    Query { name, expression, labels },
                );
            }
        }
    }
    groups.retain(|group| !group.panels.is_empty());
    render(board, &groups)
}

/// Puts a query into the panel of its title, wherever that is, or into a new one under its heading.
fn add(groups: &mut Vec<Group>, heading: &'static str, title: &'static str, unit: &'static str, query: Query) {
    if let Some(panel) = groups.iter_mut().flat_map(|group| &mut group.panels).find(|panel| panel.title == title) {
        panel.queries.push(query);
        return;
    }
    let panel = Drawn { title, unit, is_stat: false, queries: vec![query] };
    match groups.iter_mut().find(|group| group.title == heading) {
        Some(group) => group.panels.push(panel),
        None => groups.push(Group { title: heading, panels: vec![panel] }),
    }
}

/// Which hosts or collectors a metric is asked of.
fn selector(name: &str) -> &'static str {
    if name.starts_with("railwatch_collector_fleet_switch_") {
        // Of no host, and few enough to be shown all.
        "{switch=~\".+\"}"
    } else if name.starts_with("railwatch_collector_fleet_") {
        "{host=~\"$host\"}"
    } else if name.starts_with("railwatch_collector_") {
        "{instance=~\"$collector\"}"
    } else {
        "{instance=~\"$instance\"}"
    }
}

fn expression(name: &str, is_counter: bool) -> String {
    let selector = selector(name);
    if is_counter {
        format!("rate({name}{selector}[$__rate_interval])")
    } else if name.ends_with("_timestamp_seconds") {
        format!("{name}{selector} - time()")
    } else {
        format!("{name}{selector}")
    }
}

fn quantiles(name: &str, quantile: &str) -> String {
    let selector = selector(name);
    format!("histogram_quantile({quantile}, sum by (le) (rate({name}_bucket{selector}[$__rate_interval])))")
}

/// Grafana's unit, by the unit in the name.
fn unit(name: &str, is_counter: bool) -> &'static str {
    let stem = name.trim_end_matches("_total");
    let units = [
        ("_bytes_per_second", "Bps", "Bps"),
        ("_bytes", "Bps", "bytes"),
        // A second of it in each second: a share of time.
        ("_seconds", "percentunit", "s"),
        ("_ratio", "percentunit", "percentunit"),
        ("_celsius", "celsius", "celsius"),
        ("_volts", "volt", "volt"),
        ("_amperes", "amp", "amp"),
        ("_watts", "watt", "watt"),
        ("_joules", "watt", "joule"),
        ("_decibels", "dB", "dB"),
        ("_hertz", "hertz", "hertz"),
        ("_per_second", "cps", "cps"),
    ];
    match units.iter().find(|(suffix, ..)| stem.ends_with(suffix)) {
        Some((_, rate, value)) => {
            if is_counter {
                rate
            } else {
                value
            }
        }
        None if is_counter => "cps",
        None => "short",
    }
}

/// Panels that join metrics: written by hand, the first of their board.
fn lead(board: Board) -> Vec<Drawn> {
    let stat = |title, unit, expression: &str| Drawn {
        title,
        unit,
        is_stat: true,
        queries: vec![Query { name: title.to_owned(), expression: expression.to_owned(), labels: Vec::new() }],
    };
    let graph = |title, unit, expression: &str, labels: &[&str]| Drawn {
        title,
        unit,
        is_stat: false,
        queries: vec![Query {
            name: title.to_owned(),
            expression: expression.to_owned(),
            labels: labels.iter().map(|label| (*label).to_owned()).collect(),
        }],
    };
    match board {
        Board::Fleet => vec![
            stat(
                "Hosts that should be heard and are not",
                "short",
                "sum(railwatch_collector_hosts_watched) - sum(railwatch_collector_hosts_connected)",
            ),
            stat("Critical incidents", "short", "sum(railwatch_collector_incidents_open{severity=\"critical\"})"),
            stat("Ports down", "short", "count(railwatch_collector_fleet_nic_up{host=~\"$host\"} == 0) or vector(0)"),
            stat("Acting halted", "short", "max(railwatch_collector_halted)"),
        ],
        Board::Host => vec![
            stat(
                "Devices gone from the bus",
                "short",
                "count(railwatch_pcie_device_present{instance=~\"$instance\"} == 0) or vector(0)",
            ),
            stat(
                "Uncorrected memory errors in an hour",
                "short",
                "sum(increase(railwatch_host_memory_errors_uncorrected_total{instance=~\"$instance\"}[1h])) or vector(0)",
            ),
            stat("Sources off", "short", "count(railwatch_source_on{instance=~\"$instance\"} == 0) or vector(0)"),
        ],
        Board::Nic => vec![graph(
            "Share of the link in use",
            "percentunit",
            "rate(railwatch_hw_network_io_bytes_total{instance=~\"$instance\"}[$__rate_interval]) / on (instance, entity) group_left () railwatch_hw_network_speed_bytes_per_second",
            &["instance", "entity", "network_io_direction"],
        )],
        Board::Gpu => vec![
            stat("GPUs lost", "short", "count(railwatch_gpu_reachable{instance=~\"$instance\"} == 0) or vector(0)"),
            graph(
                "Share of memory in use",
                "percentunit",
                "railwatch_gpu_memory_used_bytes{instance=~\"$instance\"} / railwatch_gpu_memory_total_bytes{instance=~\"$instance\"}",
                &["instance", "entity"],
            ),
        ],
        Board::Optics => vec![graph(
            "Weakest lane of each module",
            "watt",
            "min by (instance, network_interface_name) (railwatch_hw_optics_rx_power_watts{instance=~\"$instance\"})",
            &["instance", "network_interface_name"],
        )],
        Board::Own => vec![
            stat(
                "Agents not connected",
                "short",
                "count(railwatch_agent_uplink_connected{instance=~\"$instance\"} == 0) or vector(0)",
            ),
            stat("Sources off", "short", "count(railwatch_source_on{instance=~\"$instance\"} == 0) or vector(0)"),
        ],
    }
}

/// What all names of a panel begin with, in whole words.
fn common(names: &[&str]) -> usize {
    let Some((first, rest)) = names.split_first().filter(|(_, rest)| !rest.is_empty()) else {
        // One query needs no name.
        return names.first().map_or(0, |name| name.len());
    };
    let same = rest
        .iter()
        .fold(first.len(), |same, name| first.bytes().zip(name.bytes()).take(same).take_while(|(a, b)| a == b).count());
    first[..same].rfind(['.', '_']).map_or(0, |at| at + 1)
}

fn render(board: Board, groups: &[Group]) -> Value {
    let mut panels = Vec::new();
    let mut y = 0;
    let mut id = 1;
    for Group { title, panels: drawn } in groups {
        panels.push(json!({
            "type": "row", "id": id, "title": title, "collapsed": false, "panels": [],
            "gridPos": {"x": 0, "y": y, "w": WIDTH, "h": 1},
        }));
        id += 1;
        y += 1;
        let (mut x, mut height) = (0, 0);
        for panel in drawn {
            let (w, h) = if panel.is_stat { (6, 4) } else { (12, 8) };
            if x + w > WIDTH || (height > 0 && h != height) {
                y += height;
                x = 0;
            }
            height = h;
            panels.push(panel_json(panel, id, json!({"x": x, "y": y, "w": w, "h": h})));
            id += 1;
            x += w;
        }
        y += height;
    }
    json!({
        "uid": format!("railwatch-{}", board.name()),
        "title": board.title(),
        "tags": ["railwatch"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": true,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "links": [{
            "type": "dashboards", "tags": ["railwatch"], "asDropdown": true, "title": "Railwatch", "includeVars": true,
            "keepTime": true,
        }],
        "templating": {"list": variables(board)},
        "panels": panels,
    })
}

fn variables(board: Board) -> Vec<Value> {
    let mut list = vec![json!({
        "name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "current": {}, "hide": 0,
    })];
    let chosen: &[(&str, &str, &str)] = match board {
        Board::Fleet => &[
            ("collector", "Collector", "label_values(railwatch_collector_build_info, instance)"),
            ("host", "Host", "label_values(railwatch_collector_fleet_host_up, host)"),
        ],
        Board::Own => &[
            ("collector", "Collector", "label_values(railwatch_collector_build_info, instance)"),
            ("instance", "Host", "label_values(railwatch_agent_build_info, instance)"),
        ],
        Board::Host | Board::Nic | Board::Optics | Board::Gpu => {
            &[("instance", "Host", "label_values(railwatch_agent_build_info, instance)")]
        }
    };
    list.extend(chosen.iter().map(|(name, label, query)| {
        json!({
            "name": name, "label": label, "type": "query", "datasource": datasource(), "query": query, "definition": query,
            "refresh": 2, "sort": 1, "multi": true, "includeAll": true, "allValue": ".*", "hide": 0,
            "current": {"text": "All", "value": "$__all"},
        })
    }));
    list
}

fn datasource() -> Value {
    json!({"type": "prometheus", "uid": "${datasource}"})
}

fn panel_json(panel: &Drawn, id: u32, place: Value) -> Value {
    let names: Vec<_> = panel.queries.iter().map(|query| query.name.as_str()).collect();
    let skip = common(&names);
    let targets: Vec<_> = panel
        .queries
        .iter()
        .enumerate()
        .map(|(at, query)| {
            let name = &query.name[skip.min(query.name.len())..];
            let labels = query.labels.iter().map(|label| format!("{{{{{label}}}}}"));
            let legend: Vec<_> =
                std::iter::once(name.to_owned()).filter(|name| !name.is_empty()).chain(labels).collect();
            json!({
                "refId": reference(at), "datasource": datasource(), "expr": query.expression,
                "legendFormat": legend.join(" "), "range": !panel.is_stat, "instant": panel.is_stat,
            })
        })
        .collect();
    let options = if panel.is_stat {
        json!({"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": false}, "colorMode": "value", "graphMode": "none"})
    } else {
        json!({
            "legend": {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "max"]},
            "tooltip": {"mode": "multi", "sort": "desc"},
        })
    };
    let thresholds =
        json!({"mode": "absolute", "steps": [{"color": "green", "value": null}, {"color": "red", "value": 1}]});
    let defaults = if panel.is_stat {
        json!({"unit": panel.unit, "thresholds": thresholds})
    } else {
        json!({"unit": panel.unit, "min": null, "custom": {"lineWidth": 1, "fillOpacity": 0, "showPoints": "never"}})
    };
    json!({
        "type": if panel.is_stat { "stat" } else { "timeseries" },
        "id": id, "title": panel.title, "gridPos": place, "datasource": datasource(), "targets": targets, "options": options,
        "fieldConfig": {"defaults": defaults, "overrides": []},
    })
}

/// A, B, … Z, AA, AB, …
fn reference(at: usize) -> String {
    let letter = |at: usize| char::from(b'A' + u8::try_from(at % 26).unwrap_or_default());
    if at < 26 { letter(at).to_string() } else { format!("{}{}", letter(at / 26 - 1), letter(at)) }
}
