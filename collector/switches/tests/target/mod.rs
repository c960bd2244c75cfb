//! A gNMI target whose manners a test chooses.

use railwatch_switches::gnmi::{
    CapabilityRequest, CapabilityResponse, Encoding, ModelData, Notification, SubscribeRequest, SubscribeResponse,
    SubscriptionList, SubscriptionMode, TypedValue, Update,
    g_nmi_server::{GNmi, GNmiServer},
    subscribe_request::Request as Asks,
    subscribe_response::Response,
    typed_value,
};
use railwatch_switches::paths;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_stream::{Stream, StreamExt};
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response as Answer, Status, Streaming};

/// A leaf in JSON.
pub fn json(text: &str) -> typed_value::Value {
    typed_value::Value::JsonIetfVal(text.as_bytes().to_vec())
}

/// A notification of these updates.
pub fn said(rows: &[(&str, typed_value::Value)]) -> SubscribeResponse {
    let update = |(path, value): &(&str, typed_value::Value)| Update {
        path: Some(paths::parse(path).unwrap()),
        val: Some(TypedValue { value: Some(value.clone()) }),
        ..Update::default()
    };
    let notification = Notification { update: rows.iter().map(update).collect(), ..Notification::default() };
    SubscribeResponse { response: Some(Response::Update(notification)) }
}

/// Everything was said.
pub fn sync() -> SubscribeResponse {
    SubscribeResponse { response: Some(Response::SyncResponse(true)) }
}

/// How it behaves.
#[derive(Clone)]
pub struct Fake {
    /// What each stream is sent.
    pub messages: Vec<SubscribeResponse>,
    /// How it ends after them; it stays open where absent.
    pub ends: Option<Status>,
    /// By path, whether it is asked on change, and the interval in ms: why a subscription is refused.
    pub refuses: fn(&str, bool, u64) -> Option<Status>,
    /// User and password it wants.
    pub password: Option<(String, String)>,
}

impl Default for Fake {
    fn default() -> Self {
        Self { messages: vec![], ends: None, refuses: |_, _, _| None, password: None }
    }
}

/// It runs until this is dropped.
pub struct Running {
    pub address: SocketAddr,
    /// Streams opened so far.
    pub streams: Arc<AtomicUsize>,
    /// Messages given to the transport.
    pub sent: Arc<AtomicUsize>,
    asked: Arc<Mutex<Vec<SubscriptionList>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    /// Everything that was subscribed to, in order.
    pub fn asked(&self) -> Vec<SubscriptionList> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Fake {
    pub async fn start(self, tls: Option<&Tls>) -> Running {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (streams, sent, asked) = (Arc::default(), Arc::default(), Arc::default());
        let service =
            Service { fake: self, streams: Arc::clone(&streams), sent: Arc::clone(&sent), asked: Arc::clone(&asked) };
        let mut server = Server::builder();
        if let Some(tls) = tls {
            let config = ServerTlsConfig::new()
                .identity(Identity::from_pem(&tls.server, &tls.server_key))
                .client_ca_root(Certificate::from_pem(&tls.authority));
            server = server.tls_config(config).unwrap();
        }
        let serving =
            server.add_service(GNmiServer::new(service)).serve_with_incoming(TcpListenerStream::new(listener));
        let task = tokio::spawn(async move { serving.await.unwrap() });
        Running { address, streams, sent, asked, task }
    }
}

struct Service {
    fake: Fake,
    streams: Arc<AtomicUsize>,
    sent: Arc<AtomicUsize>,
    asked: Arc<Mutex<Vec<SubscriptionList>>>,
}

impl Service {
    fn admit<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let Some((user, password)) = &self.fake.password else { return Ok(()) };
        let of = |key: &str| request.metadata().get(key).and_then(|value| value.to_str().ok()).map(str::to_owned);
        if (of("username"), of("password")) == (Some(user.clone()), Some(password.clone())) {
            Ok(())
        } else {
            Err(Status::unauthenticated("who are you?"))
        }
    }
}

#[tonic::async_trait]
impl GNmi for Service {
    async fn capabilities(&self, request: Request<CapabilityRequest>) -> Result<Answer<CapabilityResponse>, Status> {
        self.admit(&request)?;
        Ok(Answer::new(CapabilityResponse {
            supported_models: vec![ModelData { name: "openconfig-interfaces".into(), ..ModelData::default() }],
            supported_encodings: vec![Encoding::Json.into(), Encoding::JsonIetf.into()],
            g_nmi_version: "0.10.0".into(),
        }))
    }

    type SubscribeStream = Pin<Box<dyn Stream<Item = Result<SubscribeResponse, Status>> + Send>>;

    async fn subscribe(
        &self,
        request: Request<Streaming<SubscribeRequest>>,
    ) -> Result<Answer<Self::SubscribeStream>, Status> {
        self.admit(&request)?;
        let first = request.into_inner().message().await?;
        let Some(Asks::Subscribe(list)) = first.and_then(|first| first.request) else {
            return Err(Status::invalid_argument("no subscription"));
        };
        self.streams.fetch_add(1, Ordering::SeqCst);
        self.asked.lock().unwrap().push(list.clone());
        for subscription in &list.subscription {
            let path = paths::text(subscription.path.as_ref().unwrap());
            let on_change = subscription.mode == i32::from(SubscriptionMode::OnChange);
            if let Some(status) = (self.fake.refuses)(&path, on_change, subscription.sample_interval / 1_000_000) {
                return Err(status);
            }
        }
        let sent = Arc::clone(&self.sent);
        let messages = tokio_stream::iter(self.fake.messages.clone()).map(move |message| {
            sent.fetch_add(1, Ordering::SeqCst);
            Ok(message)
        });
        let stream: Self::SubscribeStream = match self.fake.ends.clone() {
            Some(status) => Box::pin(messages.chain(tokio_stream::once(Err(status)))),
            None => Box::pin(messages.chain(tokio_stream::pending())),
        };
        Ok(Answer::new(stream))
    }
}

/// Certificates of one authority.
pub struct Tls {
    pub authority: Vec<u8>,
    pub server: Vec<u8>,
    pub server_key: Vec<u8>,
    pub client: Vec<u8>,
    pub client_key: Vec<u8>,
}

impl Tls {
    pub fn new() -> Self {
        use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = params.self_signed(&key).unwrap().pem().into_bytes();
        let issuer = Issuer::new(params, key);
        let issue = |name: &str| {
            let key = KeyPair::generate().unwrap();
            let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
            (certificate.pem().into_bytes(), key.serialize_pem().into_bytes())
        };
        let ((server, server_key), (client, client_key)) = (issue("switch.test"), issue("collector.test"));
        Self { authority, server, server_key, client, client_key }
    }
}
