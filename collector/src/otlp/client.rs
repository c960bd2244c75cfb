//! The endpoint, and the requests that wait for it.
//!
//! One request is under way at a time. What may be tried again is (the codes of the OTLP specification, section
//! "OTLP/gRPC response", and `RESOURCE_EXHAUSTED`), with growing pauses; anything else is dropped and counted.

use crate::{config::Otlp, metrics::Counters};
use anyhow::{Context, Result};
use opentelemetry_proto::tonic::collector::{
    logs::v1::{ExportLogsServiceRequest, logs_service_client::LogsServiceClient},
    metrics::v1::{ExportMetricsServiceRequest, metrics_service_client::MetricsServiceClient},
};
use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::Notify;
use tonic::{
    Code, Request, Status,
    metadata::{AsciiMetadataKey, AsciiMetadataValue},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

/// The system's CAs where none are configured.
const SYSTEM_TRUST: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Between two tries, at first and at most.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_LONGEST: Duration = Duration::from_secs(60);

/// A request.
#[derive(Clone, Debug)]
pub enum Job {
    /// Points.
    Metrics(ExportMetricsServiceRequest),
    /// Log records.
    Logs(ExportLogsServiceRequest),
}

impl Job {
    fn count(&self) -> u64 {
        match self {
            Self::Metrics(request) => super::points::count(request),
            Self::Logs(request) => super::records::count(request),
        }
    }
}

/// Requests that wait.
#[derive(Debug)]
pub struct Queue {
    jobs: Mutex<VecDeque<Job>>,
    come: Notify,
    jobs_max: usize,
    counters: Arc<Counters>,
}

impl Queue {
    fn new(jobs_max: usize, counters: Arc<Counters>) -> Self {
        Self { jobs: Mutex::default(), come: Notify::new(), jobs_max, counters }
    }

    /// Adds a request. Where too many wait, the oldest metrics go, and log records only when there are no metrics.
    pub fn push(&self, job: Job) {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        while jobs.len() >= self.jobs_max {
            let oldest = jobs.iter().position(|job| matches!(job, Job::Metrics(_))).unwrap_or(0);
            if let Some(dropped) = jobs.remove(oldest) {
                self.counters.otlp_drop("queue_full", dropped.count());
            }
        }
        jobs.push_back(job);
        self.come.notify_one();
    }

    async fn pop(&self) -> Job {
        loop {
            if let Some(job) = self.jobs.lock().unwrap_or_else(PoisonError::into_inner).pop_front() {
                return job;
            }
            self.come.notified().await;
        }
    }
}

/// The endpoint.
pub struct Client {
    channel: Channel,
    headers: Vec<(AsciiMetadataKey, AsciiMetadataValue)>,
    queue: Arc<Queue>,
    endpoint: String,
}

impl Client {
    /// A client that connects when it first sends, and the queue it sends from.
    pub fn new(config: &Otlp, counters: Arc<Counters>) -> Result<(Self, Arc<Queue>)> {
        let uri = config.endpoint.clone().context("no endpoint is configured")?;
        let timeout = Duration::from_secs(config.timeout_s);
        let mut endpoint = Endpoint::from_shared(uri.clone())?.timeout(timeout).connect_timeout(timeout);
        if endpoint.uri().scheme_str() == Some("https") {
            let trust = config.tls_trust.clone().unwrap_or_else(|| PathBuf::from(SYSTEM_TRUST));
            endpoint =
                endpoint.tls_config(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(&trust)?)))?;
        }
        let headers = config
            .headers
            .iter()
            .map(|(name, value)| Ok((AsciiMetadataKey::from_bytes(name.as_bytes())?, value.parse()?)));
        let headers = headers.collect::<Result<_>>().context("the headers")?;
        let jobs_max = usize::try_from(config.queue_requests_max).unwrap_or(usize::MAX);
        let queue = Arc::new(Queue::new(jobs_max, counters));
        Ok((Self { channel: endpoint.connect_lazy(), headers, queue: Arc::clone(&queue), endpoint: uri }, queue))
    }

    /// Sends what waits, for ever.
    pub async fn run(self) {
        let counters = Arc::clone(&self.queue.counters);
        let mut away = false;
        loop {
            let job = self.queue.pop().await;
            let count = job.count();
            let mut pause = PAUSE_FIRST;
            loop {
                match self.send(job.clone()).await {
                    Ok(rejected) => {
                        let rejected = rejected.min(count);
                        counters.otlp_delivered.inc_by(count - rejected);
                        counters.otlp_drop("rejected_by_endpoint", rejected);
                        if std::mem::take(&mut away) {
                            tracing::info!(endpoint = self.endpoint, "the OTLP endpoint takes requests again");
                        }
                        break;
                    }
                    Err(status) if may_try_again(status.code()) => {
                        if !std::mem::replace(&mut away, true) {
                            tracing::warn!(endpoint = self.endpoint, %status, "the OTLP endpoint is away; requests wait and the oldest are dropped when too many do");
                        }
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(PAUSE_LONGEST);
                    }
                    Err(status) => {
                        tracing::error!(endpoint = self.endpoint, %status, count, "the OTLP endpoint refuses a request for good; it is dropped");
                        counters.otlp_drop("refused_by_endpoint", count);
                        break;
                    }
                }
            }
        }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        for (name, value) in &self.headers {
            request.metadata_mut().insert(name.clone(), value.clone());
        }
        request
    }

    /// Sends once. Returns how many points or records the endpoint did not take.
    async fn send(&self, job: Job) -> Result<u64, Status> {
        let rejected = match job {
            Job::Metrics(message) => {
                let response = MetricsServiceClient::new(self.channel.clone()).export(self.request(message)).await?;
                response.into_inner().partial_success.map_or(0, |partial| partial.rejected_data_points)
            }
            Job::Logs(message) => {
                let response = LogsServiceClient::new(self.channel.clone()).export(self.request(message)).await?;
                response.into_inner().partial_success.map_or(0, |partial| partial.rejected_log_records)
            }
        };
        Ok(u64::try_from(rejected).unwrap_or(0))
    }
}

fn may_try_again(code: Code) -> bool {
    use Code::{Aborted, Cancelled, DataLoss, DeadlineExceeded, OutOfRange, ResourceExhausted, Unavailable, Unknown};
    // Unknown is what a broken connection shows as.
    matches!(
        code,
        Cancelled | DeadlineExceeded | ResourceExhausted | Aborted | OutOfRange | Unavailable | DataLoss | Unknown
    )
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path)
        .with_context(|| format!("read the CAs for the OTLP endpoint from {}; set otlp.tls_trust", path.display()))
}

#[cfg(test)]
mod tests {
    use super::{ExportLogsServiceRequest, ExportMetricsServiceRequest, Job, Queue};
    use crate::{live::Live, metrics};
    use std::time::Duration;

    #[tokio::test]
    async fn when_too_many_wait_the_oldest_metrics_go_before_any_log_record() {
        let (_, counters) = metrics::registry(Live::new(Duration::from_secs(1)));
        let queue = Queue::new(2, counters);
        queue.push(Job::Logs(ExportLogsServiceRequest::default()));
        queue.push(Job::Metrics(ExportMetricsServiceRequest::default()));
        queue.push(Job::Logs(ExportLogsServiceRequest::default()));
        assert!(matches!(queue.pop().await, Job::Logs(_)));
        assert!(matches!(queue.pop().await, Job::Logs(_)));
    }
}
