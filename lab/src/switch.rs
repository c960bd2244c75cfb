//! The gNMI server of a switch: what the kernel and lldpd of its namespace say, under the paths of OpenConfig.
//!
//! In: Subscribe and Capabilities of the collector. Out: interfaces with their state, addresses and counters ([`interfaces`]), LLDP neighbours
//! ([`neighbours`]); on change for neighbours and states, sampled for all. Never: a value that was made up. A veth has neither queues of its own nor optics, so
//! these paths are refused, as a switch refuses what it has not.

mod interfaces;
mod neighbours;

use crate::enter;
use anyhow::{Context, Result};
use railwatch_switches::gnmi::{
    CapabilityRequest, CapabilityResponse, Encoding, ModelData, Notification, Path, SubscribeRequest,
    SubscribeResponse, Subscription, SubscriptionMode, TypedValue, Update,
    g_nmi_server::{GNmi, GNmiServer},
    subscribe_request::Request as Asks,
    subscribe_response::Response,
    typed_value,
};
use railwatch_switches::paths;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddrV4},
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response as Answer, Status, Streaming};

/// Port of gNMI (IANA).
pub const PORT: u16 = 9339;
/// The shortest interval that this switch samples at.
const SAMPLE_MIN: Duration = Duration::from_millis(100);
/// Messages that wait for a slow client.
const MESSAGES_MAX: usize = 16;

/// What the server is told.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Name of the switch
    #[arg(long)]
    name: String,
    /// Address to listen on
    #[arg(long)]
    address: Ipv4Addr,
    /// Folder at which it mounts the sysfs of its namespace
    #[arg(long)]
    sysfs: PathBuf,
}

/// Values by the text of their path.
type Leaves = BTreeMap<String, typed_value::Value>;

fn text(text: impl Into<String>) -> typed_value::Value {
    json(format!("{:?}", text.into()))
}

fn json(text: String) -> typed_value::Value {
    typed_value::Value::JsonIetfVal(text.into_bytes())
}

/// Serves until it is killed.
///
/// # Errors
/// The address cannot be listened on, or the kernel cannot be asked.
pub fn serve(options: &Options) -> Result<()> {
    // Before there is a second thread: the mount is this one's alone.
    enter::mount_privately("sysfs", &options.sysfs)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (heard, neighbours) = watch::channel(Arc::new(Leaves::new()));
        let links = interfaces::changes().context("listen to the kernel's link messages")?;
        tokio::spawn(neighbours::follow(options.name.clone(), links.clone(), heard));
        let service = Service { sysfs: options.sysfs.clone(), links, neighbours };
        let address = SocketAddrV4::new(options.address, PORT);
        let server = tonic::transport::Server::builder().add_service(GNmiServer::new(service));
        server.serve(address.into()).await.with_context(|| format!("serve on {address}"))
    })
}

#[derive(Clone)]
struct Service {
    sysfs: PathBuf,
    /// Changes whenever the kernel says something of a link.
    links: watch::Receiver<u64>,
    neighbours: watch::Receiver<Arc<Leaves>>,
}

impl Service {
    /// All that there is at present.
    fn leaves(&self) -> Result<Leaves> {
        let mut leaves = interfaces::read(&self.sysfs)?;
        leaves.extend(self.neighbours.borrow().iter().map(|(path, value)| (path.clone(), value.clone())));
        Ok(leaves)
    }
}

#[tonic::async_trait]
impl GNmi for Service {
    async fn capabilities(&self, _: Request<CapabilityRequest>) -> Result<Answer<CapabilityResponse>, Status> {
        let model = |name: &str| ModelData { name: name.to_owned(), ..ModelData::default() };
        Ok(Answer::new(CapabilityResponse {
            supported_models: [
                "openconfig-interfaces",
                "openconfig-if-ethernet",
                "openconfig-if-ip",
                "openconfig-lldp",
            ]
            .map(model)
            .into(),
            supported_encodings: vec![Encoding::JsonIetf.into()],
            g_nmi_version: "0.10.0".to_owned(),
        }))
    }

    type SubscribeStream = ReceiverStream<Result<SubscribeResponse, Status>>;

    async fn subscribe(
        &self,
        request: Request<Streaming<SubscribeRequest>>,
    ) -> Result<Answer<Self::SubscribeStream>, Status> {
        let mut requests = request.into_inner();
        let first = requests.message().await?.and_then(|first| first.request);
        let Some(Asks::Subscribe(list)) = first else {
            return Err(Status::invalid_argument("the first message is no subscription"));
        };
        let wanted = list.subscription.iter().map(Wanted::of).collect::<Result<Vec<_>, _>>()?;
        let (sender, receiver) = mpsc::channel(MESSAGES_MAX);
        let mut stream = Stream { service: self.clone(), wanted, sent: Leaves::new(), sender };
        tokio::spawn(async move {
            // The client's side stays open with it: when that ends, so does the stream.
            tokio::select! {
                ended = stream.run() => {
                    if let Err(error) = ended {
                        let _ = stream.sender.send(Err(Status::internal(format!("{error:#}")))).await;
                    }
                }
                _ = requests.message() => {}
            }
        });
        Ok(Answer::new(ReceiverStream::new(receiver)))
    }
}

/// One path of a subscription.
struct Wanted {
    /// Names of its steps, each with the key that it asks for.
    steps: Vec<(String, Option<String>)>,
    /// Between samples; sent on change where absent.
    every: Option<Duration>,
}

impl Wanted {
    fn of(subscription: &Subscription) -> Result<Self, Status> {
        let path = subscription.path.clone().unwrap_or_default();
        let steps: Vec<_> =
            path.elem.iter().map(|step| (step.name.clone(), step.key.values().next().cloned())).collect();
        let root = steps.first().map(|(name, _)| name.as_str());
        if !matches!(root, Some("interfaces" | "lldp")) {
            return Err(Status::unimplemented(format!("{} is not modelled: veth has none", paths::text(&path))));
        }
        let every = Duration::from_nanos(subscription.sample_interval);
        let every = match SubscriptionMode::try_from(subscription.mode) {
            Ok(SubscriptionMode::OnChange | SubscriptionMode::TargetDefined) => None,
            Ok(SubscriptionMode::Sample) if every.is_zero() => Some(SAMPLE_MIN),
            Ok(SubscriptionMode::Sample) if every >= SAMPLE_MIN => Some(every),
            _ => return Err(Status::invalid_argument(format!("{every:?} is less than {SAMPLE_MIN:?}"))),
        };
        Ok(Self { steps, every })
    }

    fn has(&self, path: &Path) -> bool {
        let same = |step: &railwatch_switches::gnmi::PathElem, (name, key): &(String, Option<String>)| {
            step.name == *name && key.as_ref().is_none_or(|key| key == "*" || step.key.values().any(|own| own == key))
        };
        path.elem.len() >= self.steps.len()
            && path.elem.iter().zip(&self.steps).all(|(step, wanted)| same(step, wanted))
    }
}

/// One subscription as it is served.
struct Stream {
    service: Service,
    wanted: Vec<Wanted>,
    /// What was sent of what is sent on change.
    sent: Leaves,
    sender: mpsc::Sender<Result<SubscribeResponse, Status>>,
}

impl Stream {
    async fn run(&mut self) -> Result<()> {
        self.send_changes().await?;
        self.send_samples(|_| true).await?;
        self.send(Response::SyncResponse(true)).await;
        let start = tokio::time::Instant::now();
        let intervals: BTreeSet<_> = self.wanted.iter().filter_map(|wanted| wanted.every).collect();
        let mut due: BTreeMap<Duration, tokio::time::Instant> =
            intervals.into_iter().map(|every| (every, start + every)).collect();
        let (mut links, mut neighbours) = (self.service.links.clone(), self.service.neighbours.clone());
        links.mark_unchanged();
        loop {
            let next = due.values().min().copied();
            let sleep = async {
                match next {
                    Some(next) => tokio::time::sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = links.changed() => {
                    changed.context("the kernel's messages ended")?;
                    self.send_changes().await?;
                }
                changed = neighbours.changed() => {
                    changed.context("nobody listens to lldpd any more")?;
                    self.send_changes().await?;
                }
                () = sleep => {
                    let now = tokio::time::Instant::now();
                    let of_now: BTreeSet<_> =
                        due.iter().filter(|(_, at)| **at <= now).map(|(every, _)| *every).collect();
                    self.send_samples(|every| of_now.contains(&every)).await?;
                    for every in of_now {
                        // A reading that came late is not made up for.
                        due.insert(every, now.max(due[&every] + every));
                    }
                }
                () = self.sender.closed() => return Ok(()),
            }
        }
    }

    /// What is other than it was sent, of what is sent on change.
    async fn send_changes(&mut self) -> Result<()> {
        let on_change: Vec<_> = self.wanted.iter().filter(|wanted| wanted.every.is_none()).collect();
        let now = chosen(self.service.leaves()?, &on_change)?;
        let update = now.iter().filter(|(path, value)| self.sent.get(*path) != Some(value));
        let update: Leaves = update.map(|(path, value)| (path.clone(), value.clone())).collect();
        let gone: Vec<_> = self.sent.keys().filter(|path| !now.contains_key(*path)).cloned().collect();
        self.sent = now;
        if update.is_empty() && gone.is_empty() {
            return Ok(());
        }
        // Of a neighbour that left, the neighbour and not each of its values.
        let gone: BTreeSet<_> =
            gone.iter().map(|path| path.rsplit_once("/state/").map_or(&**path, |(of, _)| of)).collect();
        let delete = gone.into_iter().map(parsed).collect::<Result<_>>()?;
        self.send(Response::Update(Notification { delete, ..notification(update)? })).await;
        Ok(())
    }

    async fn send_samples(&self, is_due: impl Fn(Duration) -> bool) -> Result<()> {
        let due: Vec<_> = self.wanted.iter().filter(|wanted| wanted.every.is_some_and(&is_due)).collect();
        if due.is_empty() {
            return Ok(());
        }
        let update = chosen(self.service.leaves()?, &due)?;
        self.send(Response::Update(notification(update)?)).await;
        Ok(())
    }

    async fn send(&self, response: Response) {
        // A client that is gone ends the stream elsewhere.
        let _ = self.sender.send(Ok(SubscribeResponse { response: Some(response) })).await;
    }
}

fn parsed(path: &str) -> Result<Path> {
    paths::parse(path).map_err(anyhow::Error::msg)
}

fn chosen(leaves: Leaves, wanted: &[&Wanted]) -> Result<Leaves> {
    let mut chosen = Leaves::new();
    for (path, value) in leaves {
        let whole = parsed(&path)?;
        if wanted.iter().any(|wanted| wanted.has(&whole)) {
            chosen.insert(path, value);
        }
    }
    Ok(chosen)
}

fn notification(leaves: Leaves) -> Result<Notification> {
    let update = |(path, value): (String, typed_value::Value)| {
        let val = Some(TypedValue { value: Some(value) });
        Ok(Update { path: Some(parsed(&path)?), val, ..Update::default() })
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(Notification {
        timestamp: i64::try_from(now.as_nanos())?,
        update: leaves.into_iter().map(update).collect::<Result<_>>()?,
        ..Notification::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(path: &str, mode: SubscriptionMode, every: Duration) -> Result<Wanted, Status> {
        Wanted::of(&Subscription {
            path: paths::parse(path).ok(),
            mode: mode.into(),
            sample_interval: u64::try_from(every.as_nanos()).unwrap_or(u64::MAX),
            ..Subscription::default()
        })
    }

    #[test]
    fn everything_that_the_collector_wants_of_interfaces_and_lldp_is_taken_and_the_rest_refused() {
        for one in paths::WANTED {
            let is_there = ["/interfaces", "/lldp"].iter().any(|root| one.path.starts_with(root));
            let answer = wanted(one.path, SubscriptionMode::Sample, Duration::from_secs(1));
            assert_eq!(answer.is_ok(), is_there, "{}", one.path);
            assert_eq!(wanted(one.path, SubscriptionMode::OnChange, Duration::ZERO).is_ok(), is_there, "{}", one.path);
        }
        assert!(wanted("/lldp", SubscriptionMode::Sample, Duration::from_millis(99)).is_err());
    }

    #[test]
    fn a_path_without_keys_means_every_entry_and_one_with_a_key_its_own() -> Result<()> {
        let leaf = parsed("/interfaces/interface[name=eth0]/state/oper-status")?;
        for (path, has) in [
            ("/interfaces", true),
            ("/interfaces/interface/state", true),
            ("/interfaces/interface[name=eth0]/state/oper-status", true),
            ("/interfaces/interface[name=*]", true),
            ("/interfaces/interface[name=eth1]", false),
            ("/interfaces/interface/state/oper-status/more", false),
            ("/interfaces/interface/ethernet", false),
        ] {
            let wanted = wanted(path, SubscriptionMode::OnChange, Duration::ZERO)
                .map_err(|status| anyhow::anyhow!("{status}"))?;
            assert_eq!(wanted.has(&leaf), has, "{path}");
        }
        Ok(())
    }
}
