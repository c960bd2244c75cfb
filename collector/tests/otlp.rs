//! The OTLP export against a receiver in this process that can be away, refuse, and take.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

mod agent;

use agent::{Collector, definition, signal, windows};
use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse, logs_service_server},
        metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse, metrics_service_server},
    },
    common::v1::{AnyValue, any_value},
    metrics::v1::{metric::Data, number_data_point},
};
use railwatch_wire::v1::{self, agent_message::Body, frame::Body as Frame};
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// Takes what it is sent, unless there are refusals left to give.
#[derive(Clone)]
struct Receiver {
    refusals: Arc<Mutex<Vec<Status>>>,
    metrics: mpsc::UnboundedSender<(Option<String>, ExportMetricsServiceRequest)>,
    logs: mpsc::UnboundedSender<ExportLogsServiceRequest>,
}

#[tonic::async_trait]
impl metrics_service_server::MetricsService for Receiver {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        if let Some(refusal) = self.refusals.lock().unwrap().pop() {
            return Err(refusal);
        }
        let header = request.metadata().get("authorization").map(|value| value.to_str().unwrap().to_owned());
        let _ = self.metrics.send((header, request.into_inner()));
        Ok(Response::new(Default::default()))
    }
}

#[tonic::async_trait]
impl logs_service_server::LogsService for Receiver {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        let _ = self.logs.send(request.into_inner());
        Ok(Response::new(Default::default()))
    }
}

struct Endpoint {
    address: SocketAddr,
    metrics: mpsc::UnboundedReceiver<(Option<String>, ExportMetricsServiceRequest)>,
    logs: mpsc::UnboundedReceiver<ExportLogsServiceRequest>,
}

async fn endpoint(refusals: Vec<Status>) -> Endpoint {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let ((metrics_in, metrics), (logs_in, logs)) = (mpsc::unbounded_channel(), mpsc::unbounded_channel());
    let receiver = Receiver { refusals: Arc::new(Mutex::new(refusals)), metrics: metrics_in, logs: logs_in };
    let server = tonic::transport::Server::builder()
        .add_service(metrics_service_server::MetricsServiceServer::new(receiver.clone()))
        .add_service(logs_service_server::LogsServiceServer::new(receiver))
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(server);
    Endpoint { address, metrics, logs }
}

async fn collector(address: SocketAddr) -> Collector {
    let text = format!(
        "[otlp]\nendpoint = \"http://{address}\"\ninterval_s = 1\nheaders = {{ authorization = \"Bearer x\" }}\n"
    );
    Collector::start_in(Arc::new(tempfile::tempdir().unwrap()), &text).await
}

fn value<'a>(attributes: &'a [opentelemetry_proto::tonic::common::v1::KeyValue], key: &str) -> Option<&'a str> {
    let value = attributes.iter().find(|pair| pair.key == key)?.value.as_ref()?;
    let AnyValue { value: Some(any_value::Value::StringValue(text)) } = value else { return None };
    Some(text)
}

#[tokio::test]
async fn windows_and_incidents_arrive_after_the_endpoint_was_away() {
    let mut endpoint = endpoint(vec![Status::unavailable("starting")]).await;
    let collector = collector(endpoint.address).await;
    let mut agent = collector.agent("a").await;
    collector.until("a", |row| row.clock_uncertainty_us.is_some()).await;
    agent.say(Body::Definitions(v1::Definitions { series: vec![definition(0)] })).await;
    agent.frame(1, Frame::Windows(windows(1, 2.5))).await;
    let Frame::Signal(down) = signal("eth0 went down") else { unreachable!() };
    let down =
        v1::Signal { name: "nic.link.down".into(), severity: v1::Severity::Error.into(), previous: Some(1.0), ..down };
    agent.frame(2, Frame::Signal(down)).await;
    agent.acknowledged(2).await;

    let logs = tokio::time::timeout(agent::PATIENCE, endpoint.logs.recv()).await.unwrap().unwrap();
    let record = &logs.resource_logs[0].scope_logs[0].log_records[0];
    assert_eq!(record.event_name, "railwatch.incident.opened");
    assert_eq!(value(&record.attributes, "host.name"), Some("a"));
    assert_eq!(value(&record.attributes, "railwatch.entity.name"), Some("eth0"));

    let (header, metrics) = tokio::time::timeout(agent::PATIENCE, endpoint.metrics.recv()).await.unwrap().unwrap();
    assert_eq!(header.as_deref(), Some("Bearer x"));
    let resource = &metrics.resource_metrics[0];
    assert_eq!(value(&resource.resource.as_ref().unwrap().attributes, "host.name"), Some("a"));
    let metric = &resource.scope_metrics[0].metrics[0];
    assert_eq!((metric.name.as_str(), metric.unit.as_str()), ("test.series.0", "By"));
    let Some(Data::Sum(sum)) = &metric.data else { panic!("{metric:?}") };
    assert_eq!(sum.data_points[0].value, Some(number_data_point::Value::AsInt(1)));
}

#[tokio::test]
async fn what_the_endpoint_refuses_for_good_is_dropped_and_counted_and_the_next_request_goes() {
    let mut endpoint = endpoint(vec![Status::invalid_argument("no")]).await;
    let collector = collector(endpoint.address).await;
    let mut agent = collector.agent("a").await;
    collector.until("a", |row| row.clock_uncertainty_us.is_some()).await;
    agent.say(Body::Definitions(v1::Definitions { series: vec![definition(0)] })).await;
    agent.frame(1, Frame::Windows(windows(1, 2.5))).await;
    agent.acknowledged(1).await;
    tokio::time::timeout(agent::PATIENCE, endpoint.metrics.recv()).await.unwrap().unwrap();
    let page = collector.metrics().await;
    assert!(page.contains("railwatch_collector_otlp_dropped_total{reason=\"refused_by_endpoint\"} 1\n"), "{page}");
}

#[tokio::test]
async fn export_is_off_unless_configured_and_a_reload_switches_it() {
    let mut endpoint = endpoint(vec![]).await;
    let collector = Collector::start().await;
    let mut agent = collector.agent("a").await;
    agent.say(Body::Definitions(v1::Definitions { series: vec![definition(0)] })).await;
    agent.frame(1, Frame::Windows(windows(1, 2.5))).await;
    agent.acknowledged(1).await;
    assert!(endpoint.metrics.try_recv().is_err());
    let path = collector.directory.path().join("collector.toml");
    std::fs::write(&path, format!("[otlp]\nendpoint = \"http://{}\"\ninterval_s = 1\n", endpoint.address)).unwrap();
    let source = railwatch_collector::daemon::Source {
        path: path.clone(),
        overrides: Collector::overrides(&collector.directory),
    };
    collector.daemon.reload(&source, None).await.unwrap();
    tokio::time::timeout(agent::PATIENCE, endpoint.metrics.recv()).await.unwrap().unwrap();
    std::fs::write(&path, "").unwrap();
    collector.daemon.reload(&source, None).await.unwrap();
    while endpoint.metrics.try_recv().is_ok() {}
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(endpoint.metrics.try_recv().is_err(), "export is off again");
}
