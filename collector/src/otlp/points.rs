//! Live state as OTLP metrics: the newest window of every series, a resource per host.
//!
//! A counter becomes a cumulative monotonic sum since it was first defined here; a gauge becomes its last value. Names
//! and labels are those of the series, which follow OpenTelemetry's semantic conventions where there are any.

use super::records::{keyed, text};
use crate::live::{Host, Live, Series};
use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::InstrumentationScope,
    metrics::v1::{
        AggregationTemporality, Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, metric::Data,
        number_data_point::Value,
    },
    resource::v1::Resource,
};
use railwatch_engine::Timestamp;
use std::collections::BTreeMap;

/// Points in one request: well below the 4 MiB that receivers take by default.
const POINTS_PER_REQUEST_MAX: usize = 4_000;
/// A series whose newest window is older is not exported: it would look alive.
const STALE_AFTER_NS: u64 = 60_000_000_000;

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
    if !resources.is_empty() {
        requests.push(ExportMetricsServiceRequest { resource_metrics: resources });
    }
    requests
}

fn resource(host: &Host, series: &[&Series]) -> ResourceMetrics {
    let mut metrics: BTreeMap<(&str, &str, bool), Vec<NumberDataPoint>> = BTreeMap::new();
    for series in series {
        let definition = &series.definition;
        metrics.entry((&definition.name, &definition.unit, definition.monotonic)).or_default().push(point(series));
    }
    let metrics = metrics.into_iter().map(|((name, unit, monotonic), data_points)| Metric {
        name: name.to_owned(),
        unit: unit.to_owned(),
        data: Some(if monotonic {
            Data::Sum(Sum {
                data_points,
                aggregation_temporality: AggregationTemporality::Cumulative.into(),
                is_monotonic: true,
            })
        } else {
            Data::Gauge(Gauge { data_points })
        }),
        ..Metric::default()
    });
    let attributes = vec![
        keyed("service.name", text("railwatch-agent")),
        keyed("service.version", text(&host.hello.agent_version)),
        keyed("host.name", text(&host.name)),
        keyed("host.arch", text(if host.hello.architecture == "x86_64" { "amd64" } else { &host.hello.architecture })),
    ];
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

fn point(series: &Series) -> NumberDataPoint {
    let definition = &series.definition;
    let entity =
        [("railwatch.entity.kind", &definition.entity_kind), ("railwatch.entity.name", &definition.entity_name)];
    let mut attributes: Vec<_> = definition.labels.iter().map(|(key, value)| keyed(key, text(value))).collect();
    attributes
        .extend(entity.into_iter().filter(|(_, value)| !value.is_empty()).map(|(key, value)| keyed(key, text(value))));
    let value = if definition.monotonic {
        Value::AsInt(i64::try_from(series.total).unwrap_or(i64::MAX))
    } else {
        Value::AsDouble(series.reading.last)
    };
    NumberDataPoint {
        attributes,
        start_time_unix_nano: if definition.monotonic { series.since.0 } else { 0 },
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
    fn requests_are_bounded_and_together_hold_every_fresh_series_once() {
        let live = Live::new(Duration::from_secs(1));
        fill(&live, "large", POINTS_PER_REQUEST_MAX + 10, NOW);
        fill(&live, "small", 5, NOW);
        fill(&live, "stale", 5, Timestamp(1));
        let counts: Vec<_> = requests(&live, NOW).iter().map(count).collect();
        assert_eq!(counts, [POINTS_PER_REQUEST_MAX as u64, 15]);
    }
}
