//! Live state as OTLP metrics: the newest window of every series, a resource per host.
//!
//! A counter becomes a cumulative monotonic sum since it was first defined here, an amount or a state a sum that goes both
//! ways, any other gauge its last value. Names, units and attributes are those of OpenTelemetry's semantic conventions where
//! the vocabulary has one, and the series' own otherwise.

use super::records::{keyed, text};
use crate::live::{Host, Live, Series};
use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::{InstrumentationScope, KeyValue},
    metrics::v1::{
        AggregationTemporality, Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, metric::Data,
        number_data_point::Value,
    },
    resource::v1::Resource,
};
use railwatch_engine::Timestamp;
use railwatch_vocabulary::{Convention, Kind};
use std::collections::BTreeMap;

/// Points in one request: well below the 4 MiB that receivers take by default.
pub(super) const POINTS_PER_REQUEST_MAX: usize = 4_000;
/// A series whose newest window is older is not exported: it would look alive.
pub(super) const STALE_AFTER_NS: u64 = 60_000_000_000;

/// Points in a request.
pub fn count(request: &ExportMetricsServiceRequest) -> u64 {
    let metrics =
        request.resource_metrics.iter().flat_map(|resource| &resource.scope_metrics).flat_map(|scope| &scope.metrics);
    metrics
        .map(|metric| match &metric.data {
            Some(Data::Sum(sum)) => sum.data_points.len(),
            Some(Data::Gauge(gauge)) => gauge.data_points.len(),
            _ => 0,
        } as u64)
        .sum()
}

/// Everything there is to export at `now`.
pub fn requests(live: &Live, now: Timestamp) -> Vec<ExportMetricsServiceRequest> {
    let mut requests = vec![];
    let (mut resources, mut points) = (vec![], 0);
    for cell in live.cells() {
        let host = cell.lock();
        let fresh: Vec<_> =
            host.series.iter().filter(|series| series.reading.end.0.saturating_add(STALE_AFTER_NS) > now.0).collect();
        for chunk in fresh.chunks(POINTS_PER_REQUEST_MAX) {
            if points + chunk.len() > POINTS_PER_REQUEST_MAX {
                requests.push(ExportMetricsServiceRequest { resource_metrics: std::mem::take(&mut resources) });
                points = 0;
            }
            points += chunk.len();
            resources.push(resource(&host, chunk));
        }
    }
    for (count, resource) in super::switches::resources(live.switches(), now) {
        if points + count > POINTS_PER_REQUEST_MAX {
            requests.push(ExportMetricsServiceRequest { resource_metrics: std::mem::take(&mut resources) });
            points = 0;
        }
        points += count;
        resources.push(resource);
    }
    if !resources.is_empty() {
        requests.push(ExportMetricsServiceRequest { resource_metrics: resources });
    }
    requests
}

/// What a metric is to OTLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Shape {
    /// Only grows.
    Count,
    /// Goes both ways, and sums over entities mean something.
    Amount,
    Gauge,
}

impl Shape {
    pub(super) fn data(self, data_points: Vec<NumberDataPoint>) -> Data {
        match self {
            Self::Gauge => Data::Gauge(Gauge { data_points }),
            Self::Count | Self::Amount => Data::Sum(Sum {
                data_points,
                aggregation_temporality: AggregationTemporality::Cumulative.into(),
                is_monotonic: self == Self::Count,
            }),
        }
    }
}

fn resource(host: &Host, series: &[&Series]) -> ResourceMetrics {
    let mut metrics = Metrics::new();
    for series in series {
        let definition = &series.definition;
        // A host of another version may count what this one's table calls a gauge: its own word decides.
        let row = railwatch_vocabulary::find(&definition.name)
            .filter(|row| row.kind.is_counter() == definition.monotonic && row.unit == definition.unit);
        let shape = match row.map(|row| row.kind) {
            _ if definition.monotonic => Shape::Count,
            Some(Kind::Amount | Kind::State) => Shape::Amount,
            _ => Shape::Gauge,
        };
        let convention = row.and_then(|row| row.convention.as_ref());
        let (name, unit) =
            convention.map_or((&*definition.name, &*definition.unit), |convention| (convention.name, convention.unit));
        metrics.entry((name, unit, shape)).or_default().push(point(series, shape, convention));
    }
    let mut attributes = vec![
        keyed("service.name", text("railwatch-agent")),
        keyed("service.version", text(&host.hello.agent_version)),
        keyed("host.name", text(&host.name)),
        keyed("host.arch", text(architecture(&host.hello.architecture))),
        keyed("os.type", text("linux")),
    ];
    if let Some(id) = uuid(&host.hello.stream_id) {
        attributes.push(keyed("service.instance.id", text(&id)));
    }
    said_by(attributes, metrics)
}

/// Metrics by name, unit and shape.
pub(super) type Metrics<'n> = BTreeMap<(&'n str, &'n str, Shape), Vec<NumberDataPoint>>;

/// What one resource says.
pub(super) fn said_by(attributes: Vec<KeyValue>, metrics: Metrics<'_>) -> ResourceMetrics {
    let metrics = metrics.into_iter().map(|((name, unit, shape), data_points)| Metric {
        name: name.to_owned(),
        unit: unit.to_owned(),
        data: Some(shape.data(data_points)),
        ..Metric::default()
    });
    ResourceMetrics {
        resource: Some(Resource { attributes, ..Resource::default() }),
        scope_metrics: vec![ScopeMetrics {
            scope: Some(InstrumentationScope {
                name: "railwatch".to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                ..InstrumentationScope::default()
            }),
            metrics: metrics.collect(),
            ..ScopeMetrics::default()
        }],
        ..ResourceMetrics::default()
    }
}

/// As `host.arch` of the conventions names it.
fn architecture(machine: &str) -> &str {
    match machine {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Sixteen random bytes as a UUID is written.
fn uuid(bytes: &[u8]) -> Option<String> {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    (bytes.len() == 16)
        .then(|| format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]))
}

fn point(series: &Series, shape: Shape, convention: Option<&Convention>) -> NumberDataPoint {
    let definition = &series.definition;
    let entity =
        [("railwatch.entity.kind", &definition.entity_kind), ("railwatch.entity.name", &definition.entity_name)];
    let mut attributes: Vec<_> = definition.labels.iter().map(|(key, value)| keyed(key, text(value))).collect();
    attributes
        .extend(entity.into_iter().filter(|(_, value)| !value.is_empty()).map(|(key, value)| keyed(key, text(value))));
    if let Some(convention) = convention {
        attributes.extend(convention.attributes.iter().map(|(key, value)| keyed(key, text(value))));
        attributes.extend(convention.entity_attribute().map(|key| keyed(key, text(&definition.entity_name))));
    }
    let factor = convention.map_or(1.0, |convention| convention.factor);
    let value = if !definition.monotonic {
        Value::AsDouble(series.reading.last * factor)
    } else if factor == 1.0 {
        Value::AsInt(i64::try_from(series.total).unwrap_or(i64::MAX))
    } else {
        Value::AsDouble(series.total as f64 * factor)
    };
    NumberDataPoint {
        attributes,
        start_time_unix_nano: if shape == Shape::Gauge { 0 } else { series.since.0 },
        time_unix_nano: series.reading.end.0.max(series.since.0),
        value: Some(value),
        ..NumberDataPoint::default()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::{Data, POINTS_PER_REQUEST_MAX, count, requests};
    use crate::live::Live;
    use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
    use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
    use railwatch_engine::Timestamp;
    use railwatch_wire::v1;
    use std::time::Duration;

    const NOW: Timestamp = Timestamp(1_000_000_000_000);

    fn fill(live: &Live, host: &str, series: usize, end: Timestamp) {
        let ids: Vec<u64> = (0..series as u64).collect();
        let cell = live.host(host);
        for id in &ids {
            let wire = v1::SeriesDefinition {
                id: *id,
                name: format!("s{}", id % 2),
                monotonic: id % 2 == 0,
                ..v1::SeriesDefinition::default()
            };
            cell.lock().series.define(*id, Timestamp(5), || live.definitions().share(wire)).unwrap();
        }
        let column = vec![1.5; series];
        let windows = v1::Windows {
            count: vec![1; series],
            sum: column.clone(),
            min: column.clone(),
            max: column.clone(),
            last: column,
            delta: vec![7; series],
            resets: vec![0; series],
            series: ids,
            ..v1::Windows::default()
        };
        cell.lock().series.apply(&windows, end, Timestamp(0));
    }

    #[test]
    fn a_counter_is_a_sum_since_its_definition_and_a_gauge_its_last_value() {
        let live = Live::new(Duration::from_secs(1));
        fill(&live, "h", 2, NOW);
        let all = requests(&live, NOW);
        let metrics = &all[0].resource_metrics[0].scope_metrics[0].metrics;
        let Some(Data::Sum(sum)) = &metrics[0].data else { panic!("{metrics:?}") };
        let point = &sum.data_points[0];
        assert!(sum.is_monotonic);
        assert_eq!(
            (point.start_time_unix_nano, point.time_unix_nano, &point.value),
            (5, NOW.0, &Some(Value::AsInt(7)))
        );
        let Some(Data::Gauge(gauge)) = &metrics[1].data else { panic!("{metrics:?}") };
        assert_eq!(gauge.data_points[0].value, Some(Value::AsDouble(1.5)));
    }

    #[test]
    fn a_series_with_a_convention_is_exported_under_it_and_another_under_its_own_name() {
        let live = Live::new(Duration::from_secs(1));
        let cell = live.host("h");
        cell.lock().hello.stream_id = (0..16).collect();
        let series = [
            ("hw.network.errors.crc", "{error}", true, "port", "eth0"),
            ("disk.busy_time", "ms", true, "disk", "nvme0n1"),
            ("hw.network.speed", "bit/s", false, "port", "eth0"),
            ("gpu.temperature", "Cel", false, "gpu", "0000:10:00.0"),
            ("rdma.port.cnp", "{packet}", true, "port", "mlx5_0/1"),
        ];
        let ids: Vec<u64> = (0..series.len() as u64).collect();
        for (id, (name, unit, monotonic, kind, entity)) in (0..).zip(series) {
            let entity = v1::Entity { kind: kind.into(), name: entity.into() };
            let wire = v1::SeriesDefinition {
                id,
                name: name.into(),
                unit: unit.into(),
                monotonic,
                entity: Some(entity),
                ..v1::SeriesDefinition::default()
            };
            cell.lock().series.define(id, Timestamp(5), || live.definitions().share(wire)).unwrap();
        }
        let column = vec![80.0; series.len()];
        let windows = v1::Windows {
            count: vec![1; series.len()],
            sum: column.clone(),
            min: column.clone(),
            max: column.clone(),
            last: column,
            delta: vec![7_000; series.len()],
            resets: vec![0; series.len()],
            series: ids,
            ..v1::Windows::default()
        };
        cell.lock().series.apply(&windows, NOW, Timestamp(0));
        let all = requests(&live, NOW);
        let resource = &all[0].resource_metrics[0];
        let of = |attributes: &[KeyValue], key: &str| {
            let value = attributes.iter().find(|pair| pair.key == key)?.value.as_ref()?.value.as_ref()?;
            if let any_value::Value::StringValue(text) = value { Some(text.clone()) } else { None }
        };
        let attributes = &resource.resource.as_ref().unwrap().attributes;
        for (key, expected) in [
            ("host.name", "h"),
            ("service.name", "railwatch-agent"),
            ("service.instance.id", "00010203-0405-0607-0809-0a0b0c0d0e0f"),
            ("os.type", "linux"),
        ] {
            assert_eq!(of(attributes, key).as_deref(), Some(expected), "{key}");
        }
        let metrics = &resource.scope_metrics[0].metrics;
        for (name, unit, value, own) in [
            (
                "hw.errors",
                "{error}",
                Value::AsInt(7_000),
                &[("error.type", "crc"), ("hw.id", "eth0"), ("hw.type", "network")][..],
            ),
            ("system.disk.io_time", "s", Value::AsDouble(7.0), &[("system.device", "nvme0n1")]),
            ("hw.network.bandwidth.limit", "By/s", Value::AsDouble(10.0), &[("hw.type", "network")]),
            (
                "hw.temperature",
                "Cel",
                Value::AsDouble(80.0),
                &[("hw.id", "0000:10:00.0"), ("railwatch.entity.kind", "gpu")],
            ),
            ("rdma.port.cnp", "{packet}", Value::AsInt(7_000), &[("railwatch.entity.name", "mlx5_0/1")]),
        ] {
            let metric = metrics.iter().find(|metric| metric.name == name).unwrap_or_else(|| panic!("no {name}"));
            let points = match metric.data.as_ref().unwrap() {
                Data::Sum(sum) => &sum.data_points,
                Data::Gauge(gauge) => &gauge.data_points,
                other => panic!("{other:?}"),
            };
            assert_eq!((metric.unit.as_str(), points[0].value), (unit, Some(value)), "{name}");
            for (key, expected) in own {
                assert_eq!(of(&points[0].attributes, key).as_deref(), Some(*expected), "{name} {key}");
            }
        }
        assert_eq!(metrics.len(), series.len(), "nothing under two names");
    }

    #[test]
    fn requests_are_bounded_and_together_hold_every_fresh_series_once() {
        let live = Live::new(Duration::from_secs(1));
        fill(&live, "large", POINTS_PER_REQUEST_MAX + 10, NOW);
        fill(&live, "small", 5, NOW);
        fill(&live, "stale", 5, Timestamp(1));
        let counts: Vec<_> = requests(&live, NOW).iter().map(count).collect();
        assert_eq!(counts, [POINTS_PER_REQUEST_MAX as u64, 15]);
    }
}
