//! Incidents as OTLP log records: one for each change, with the hypothesis it rests on.

use opentelemetry_proto::tonic::{
    collector::logs::v1::ExportLogsServiceRequest,
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value},
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber},
    resource::v1::Resource,
};
use railwatch_engine::{Incident, IncidentState, Severity, Timestamp};

/// A text value.
pub fn text(value: &str) -> AnyValue {
    AnyValue { value: Some(Value::StringValue(value.to_owned())) }
}

fn whole(value: u64) -> AnyValue {
    AnyValue { value: Some(Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX))) }
}

/// A value with its key.
pub fn keyed(key: &str, value: AnyValue) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(value), ..KeyValue::default() }
}

/// Records in a request.
pub fn count(request: &ExportLogsServiceRequest) -> u64 {
    request
        .resource_logs
        .iter()
        .flat_map(|resource| &resource.scope_logs)
        .map(|scope| scope.log_records.len() as u64)
        .sum()
}

/// One record per change of an incident.
pub fn request(incidents: &[Incident], now: Timestamp) -> ExportLogsServiceRequest {
    let scope = InstrumentationScope {
        name: "railwatch".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    };
    let attributes = vec![
        keyed("service.name", text("railwatch-collector")),
        keyed("service.version", text(env!("CARGO_PKG_VERSION"))),
    ];
    ExportLogsServiceRequest {
        resource_logs: vec![ResourceLogs {
            resource: Some(Resource { attributes, ..Resource::default() }),
            scope_logs: vec![ScopeLogs {
                scope: Some(scope),
                log_records: incidents.iter().map(|incident| record(incident, now)).collect(),
                ..ScopeLogs::default()
            }],
            ..ResourceLogs::default()
        }],
    }
}

fn record(incident: &Incident, now: Timestamp) -> LogRecord {
    let (severity_number, severity_text) = match incident.severity {
        Severity::Info => (SeverityNumber::Info, "INFO"),
        Severity::Warning => (SeverityNumber::Warn, "WARN"),
        Severity::Error => (SeverityNumber::Error, "ERROR"),
        Severity::Critical => (SeverityNumber::Fatal, "FATAL"),
    };
    let (event_name, state) = match incident.state {
        IncidentState::Resolved => ("railwatch.incident.resolved", "resolved"),
        IncidentState::Open if incident.updated == incident.opened => ("railwatch.incident.opened", "open"),
        IncidentState::Open => ("railwatch.incident.updated", "open"),
    };
    let mut attributes = vec![
        keyed("railwatch.incident.id", whole(incident.id)),
        keyed("railwatch.incident.state", text(state)),
        keyed("railwatch.incident.detector", text(&incident.detector)),
        keyed("railwatch.incident.started_unix_ns", whole(incident.started.0)),
        keyed("railwatch.incident.signal_count", whole(incident.signal_count)),
        keyed("host.name", text(&incident.element.host)),
        keyed("railwatch.entity.kind", text(&incident.element.kind)),
        keyed("railwatch.entity.name", text(&incident.element.name)),
    ];
    if let Some(first) = incident.hypotheses.first() {
        attributes.push(keyed("railwatch.hypothesis.fault_mode", text(&first.fault_mode)));
        attributes.push(keyed(
            "railwatch.hypothesis.posterior",
            AnyValue { value: Some(Value::DoubleValue(first.posterior)) },
        ));
    }
    if let Some(since) = incident.incomplete_since {
        attributes.push(keyed("railwatch.incomplete_since_unix_ns", whole(since.0)));
    }
    LogRecord {
        time_unix_nano: incident.updated.0,
        observed_time_unix_nano: now.0,
        severity_number: severity_number.into(),
        severity_text: severity_text.to_owned(),
        body: Some(text(&incident.title)),
        attributes,
        event_name: event_name.to_owned(),
        ..LogRecord::default()
    }
}
