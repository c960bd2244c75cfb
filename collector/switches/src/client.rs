//! The client of a gNMI target: one stream that is opened again whenever it ends.
//!
//! In: a [`Target`]. Out: [`Event`]s, through a channel that holds a few: where they are not taken, the stream is not read, and the
//! target waits (HTTP/2 flow control). Never: a Set, a second stream beside the first, a password without TLS.
//!
//! First everything in [`crate::paths::WANTED`] is asked for at once. A target that refuses is asked for each alone: a path that it does not
//! offer becomes a [`Limitation`], one that it does not send on change is sampled, an interval that is too short for it is doubled.
//! Sources: the gNMI specification, sections 3.2 (Capabilities) and 3.5 (Subscribe); openconfig/reference,
//! rpc/gnmi/gnmi-authentication.md (user and password as metadata).

use crate::gnmi::{
    CapabilityRequest, Encoding, Notification, SubscribeRequest, SubscribeResponse, Subscription, SubscriptionList,
    SubscriptionMode, g_nmi_client::GNmiClient, subscribe_request::Request as Asks, subscribe_response::Response,
    subscription_list,
};
use crate::paths::{self, Cadence, WANTED};
use prost::Message;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status, Streaming};

/// Largest message taken, bytes.
pub const MESSAGE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// A target that sends more is read no faster.
const BYTES_PER_S_MAX: usize = 16 * 1024 * 1024;
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// A path that is asked for alone and not refused by then is taken.
const REFUSE_WITHIN: Duration = Duration::from_secs(3);
const KEEP_ALIVE: Duration = Duration::from_secs(10);
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// A stream that lived this long was a good one: the next attempt comes soon.
const GOOD_AFTER: Duration = Duration::from_secs(20);
/// What is wanted seldom.
const SLOW: Duration = Duration::from_secs(10);
/// The longest interval that a target is asked for.
const SAMPLE_MAX: Duration = Duration::from_secs(60);
/// A sampled target that says nothing for so long, or for five intervals, is asked anew.
const SILENCE_MIN: Duration = Duration::from_secs(15);
/// Longest text of a target's refusal that is kept, characters.
const WHY_CHARS_MAX: usize = 200;

/// How the target is reached.
#[derive(Clone)]
pub enum Security {
    /// Without TLS.
    Insecure,
    /// With TLS.
    Tls {
        /// Whom to trust, PEM.
        trust: Vec<u8>,
        /// Own certificate chain and key, PEM.
        identity: Option<(Vec<u8>, Vec<u8>)>,
        /// The name in the target's certificate; that of the address where absent.
        server_name: Option<String>,
    },
}

/// A target.
#[derive(Clone)]
pub struct Target {
    /// `HOST:PORT`.
    pub address: String,
    /// TLS or not.
    pub security: Security,
    /// User and password.
    pub credentials: Option<(String, String)>,
    /// Between samples; zero: as fast as the target can.
    pub sample: Duration,
}

/// Something that the target does not do, and why that is known.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Limitation {
    /// What is not seen, or seen less often.
    pub what: String,
    /// Why.
    pub why: String,
}

/// What the target is, as far as it says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// Version of gNMI.
    pub version: Option<String>,
    /// Number of models.
    pub models: usize,
    /// What it does not do.
    pub limitations: Vec<Limitation>,
    /// Neighbours are sampled so often, and one that leaves is not told.
    pub neighbours_sampled: Option<Duration>,
    /// Between samples of counters, as the target took it.
    pub sample: Option<Duration>,
    /// What it took, by [`Wanted::what`](crate::paths::Wanted::what), with the time between two words; zero: on change, or as fast as it can.
    pub told: Vec<(String, Duration)>,
}

/// What happens to the stream.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// It is open.
    Connected(Offer),
    /// Something was said; it arrived at this time by the caller's clock.
    Said(Box<Notification>, u64),
    /// Everything was said once; of these paths nothing came.
    Synced(Vec<Limitation>),
    /// As above, and fewer now: some of them spoke later.
    Silent(Vec<Limitation>),
    /// It ended.
    Lost {
        /// Why.
        why: String,
        /// When it is tried again.
        again_in: Duration,
    },
}

/// How something is asked for.
#[derive(Clone, Debug, PartialEq)]
struct Asked {
    what: &'static str,
    path: &'static str,
    on_change: bool,
    every: Duration,
}

/// What was learned of a target; it outlives the stream.
#[derive(Clone, Debug)]
struct Learned {
    asked: Vec<Asked>,
    limitations: Vec<Limitation>,
}

impl Learned {
    fn nothing(sample: Duration) -> Self {
        let asked = |wanted: &paths::Wanted| Asked {
            what: wanted.what,
            path: wanted.path,
            on_change: wanted.cadence == Cadence::OnChange,
            every: if wanted.cadence == Cadence::Slow { sample.max(SLOW) } else { sample },
        };
        Self { asked: WANTED.iter().map(asked).collect(), limitations: Vec::new() }
    }

    fn limit(&mut self, what: &str, why: String) {
        self.limitations.retain(|limitation| limitation.what != what);
        self.limitations.push(Limitation { what: what.to_owned(), why });
    }

    /// Asks for less of what was refused. False where nothing less is left.
    fn lower(&mut self, asked: &mut Asked, refusal: &Status) -> bool {
        let why = shortened(refusal);
        if asked.on_change {
            asked.on_change = false;
            self.limit(asked.what, format!("not sent on change ({why}): sampled every {}", interval(asked.every)));
            return true;
        }
        let longer = (asked.every * 2).max(Duration::from_secs(1));
        if matches!(refusal.code(), Code::InvalidArgument | Code::OutOfRange) && longer <= SAMPLE_MAX {
            let refused = std::mem::replace(&mut asked.every, longer);
            let why = format!("{} is refused ({why}): sampled every {}", interval(refused), interval(longer));
            self.limit(asked.what, why);
            return true;
        }
        self.limit(asked.what, format!("not offered: {why}"));
        false
    }
}

fn interval(every: Duration) -> String {
    if every.is_zero() { "the target's shortest interval".to_owned() } else { format!("{every:?}") }
}

fn shortened(status: &Status) -> String {
    let text: String = status.message().chars().filter(|c| !c.is_control()).take(WHY_CHARS_MAX).collect();
    format!("{:?}: {text}", status.code())
}

/// A refusal of what was asked for, not of whoever asks, and no break.
fn is_refusal(status: &Status) -> bool {
    matches!(status.code(), Code::InvalidArgument | Code::Unimplemented | Code::NotFound | Code::OutOfRange)
}

/// Follows a target until nobody takes its events. `clock` is Unix nanoseconds.
pub async fn follow(target: Target, clock: fn() -> u64, events: mpsc::Sender<Event>) {
    let mut learned = Learned::nothing(target.sample);
    let mut retry = RETRY_MIN;
    while !events.is_closed() {
        let began = Instant::now();
        let why = tokio::select! {
            // A receiver that is gone ends a stream that says nothing, too.
            () = events.closed() => return,
            why = session(&target, clock, &mut learned, &events) => why,
        };
        retry = if began.elapsed() >= GOOD_AFTER { RETRY_MIN } else { (retry * 2).min(RETRY_MAX) };
        let again_in = jittered(retry);
        if events.send(Event::Lost { why, again_in }).await.is_err() {
            return;
        }
        tokio::time::sleep(again_in).await;
    }
}

/// Between half of it and all: many targets that were lost together are not asked together.
fn jittered(wait: Duration) -> Duration {
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u8(0);
    #[expect(clippy::cast_precision_loss, reason = "a random fraction")]
    let fraction = hasher.finish() as f64 / u64::MAX as f64;
    wait.mul_f64(0.5 + fraction / 2.0)
}

/// Adds the credentials to each call.
#[derive(Clone)]
struct Credentials(Option<(MetadataValue<Ascii>, MetadataValue<Ascii>)>);

impl tonic::service::Interceptor for Credentials {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some((user, password)) = &self.0 {
            request.metadata_mut().insert("username", user.clone());
            request.metadata_mut().insert("password", password.clone());
        }
        Ok(request)
    }
}

type Client = GNmiClient<tonic::service::interceptor::InterceptedService<Channel, Credentials>>;

async fn connect(target: &Target) -> Result<Client, String> {
    let scheme = if matches!(target.security, Security::Insecure) { "http" } else { "https" };
    let mut endpoint = Endpoint::from_shared(format!("{scheme}://{}", target.address))
        .map_err(|error| format!("{} is no address: {error}", target.address))?
        .connect_timeout(CONNECT_WITHIN)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true);
    let credentials = match (&target.security, &target.credentials) {
        (Security::Insecure, Some(_)) => return Err("a password is not sent without TLS".to_owned()),
        (Security::Insecure, None) => None,
        (Security::Tls { trust, identity, server_name }, credentials) => {
            let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(trust));
            if let Some((chain, key)) = identity {
                tls = tls.identity(Identity::from_pem(chain, key));
            }
            if let Some(name) = server_name {
                tls = tls.domain_name(name);
            }
            endpoint = endpoint.tls_config(tls).map_err(|error| format!("TLS: {}", sources(&error)))?;
            let value =
                |text: &str| MetadataValue::try_from(text).map_err(|_| "a password must be visible ASCII".to_owned());
            match credentials {
                Some((user, password)) => Some((value(user)?, value(password)?)),
                None => None,
            }
        }
    };
    let connecting = tokio::time::timeout(CONNECT_WITHIN * 2, endpoint.connect()).await;
    let channel = connecting
        .map_err(|_| format!("{} does not answer", target.address))?
        .map_err(|error| format!("connect to {}: {}", target.address, sources(&error)))?;
    Ok(GNmiClient::with_interceptor(channel, Credentials(credentials)).max_decoding_message_size(MESSAGE_BYTES_MAX))
}

fn sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// One connection. Returns why it ended.
async fn session(target: &Target, clock: fn() -> u64, learned: &mut Learned, events: &mpsc::Sender<Event>) -> String {
    let mut client = match connect(target).await {
        Ok(client) => client,
        Err(why) => return why,
    };
    let mut offer = Offer::default();
    let answer = tokio::time::timeout(ANSWER_WITHIN, client.capabilities(CapabilityRequest {})).await;
    let encoding = match answer {
        Err(_) => return format!("Capabilities is not answered within {ANSWER_WITHIN:?}"),
        Ok(Ok(answer)) => {
            let answer = answer.into_inner();
            offer.version = Some(answer.g_nmi_version.chars().take(32).collect());
            offer.models = answer.supported_models.len();
            best(&answer.supported_encodings)
        }
        Ok(Err(status)) if is_refusal(&status) => {
            learned.limit("capabilities", format!("not offered: {}", shortened(&status)));
            Encoding::JsonIetf
        }
        Ok(Err(status)) => return format!("Capabilities: {}", shortened(&status)),
    };
    let mut stream = match agreed(&mut client, encoding, learned).await {
        Ok(stream) => stream,
        Err(why) => return why,
    };
    offer.limitations.clone_from(&learned.limitations);
    let of = |path: &str| learned.asked.iter().find(|asked| asked.path == path && !asked.on_change);
    offer.neighbours_sampled = of(WANTED[1].path).map(|asked| asked.every);
    offer.sample = of(WANTED[4].path).map(|asked| asked.every);
    let every = |asked: &Asked| if asked.on_change { Duration::ZERO } else { asked.every };
    offer.told = learned.asked.iter().map(|asked| (asked.what.to_owned(), every(asked))).collect();
    if events.send(Event::Connected(offer)).await.is_err() {
        return "nobody listens".to_owned();
    }
    let sampled = learned.asked.iter().filter(|asked| !asked.on_change).map(|asked| asked.every).min();
    let silence = sampled.map(|every| (every * 5).max(SILENCE_MIN));
    read(&mut stream, silence, &learned.asked, clock, events).await
}

/// RFC 7951 where there is a choice: its numbers are exact.
fn best(offered: &[i32]) -> Encoding {
    let wanted = [Encoding::JsonIetf, Encoding::Proto, Encoding::Json];
    wanted.into_iter().find(|encoding| offered.contains(&i32::from(*encoding))).unwrap_or(Encoding::JsonIetf)
}

/// A stream of as much as the target takes.
async fn agreed(client: &mut Client, encoding: Encoding, learned: &mut Learned) -> Result<Opened, String> {
    let broken = |status: Status| format!("Subscribe: {}", shortened(&status));
    let mut is_each_asked = false;
    loop {
        if learned.asked.is_empty() {
            let whys: Vec<_> = learned.limitations.iter().map(|limitation| limitation.why.as_str()).collect();
            return Err(format!("the target offers nothing of what is asked: {}", whys.join("; ")));
        }
        match open(client, encoding, &learned.asked).await {
            Ok(opened) => return Ok(opened),
            Err(status) if !is_refusal(&status) => return Err(broken(status)),
            Err(_) if !is_each_asked => {
                is_each_asked = true;
                let mut taken = Vec::new();
                for mut asked in std::mem::take(&mut learned.asked) {
                    loop {
                        match open(client, encoding, std::slice::from_ref(&asked)).await {
                            Ok(_) => break taken.push(asked),
                            Err(status) if !is_refusal(&status) => {
                                // What was learned so far is not lost with the connection.
                                taken.push(asked);
                                learned.asked.append(&mut taken);
                                return Err(broken(status));
                            }
                            Err(status) => {
                                if !learned.lower(&mut asked, &status) {
                                    break;
                                }
                            }
                        }
                    }
                }
                learned.asked = taken;
            }
            // Each alone is taken, and all together are not: less of everything.
            Err(status) => {
                let mut less = Vec::new();
                for mut asked in std::mem::take(&mut learned.asked) {
                    if asked.on_change || learned.lower(&mut asked, &status) {
                        less.push(asked);
                    }
                }
                learned.asked = less;
                if learned.asked.iter().all(|asked| asked.on_change) {
                    return Err(broken(status));
                }
            }
        }
    }
}

/// A stream that was not refused, and what it said until that was clear.
struct Opened {
    first: Option<SubscribeResponse>,
    stream: Streaming<SubscribeResponse>,
}

async fn open(client: &mut Client, encoding: Encoding, asked: &[Asked]) -> Result<Opened, Status> {
    let subscription = asked.iter().map(|asked| Subscription {
        path: paths::parse(asked.path).ok(),
        mode: if asked.on_change { SubscriptionMode::OnChange } else { SubscriptionMode::Sample }.into(),
        sample_interval: if asked.on_change { 0 } else { u64::try_from(asked.every.as_nanos()).unwrap_or(u64::MAX) },
        ..Subscription::default()
    });
    let list = SubscriptionList {
        subscription: subscription.collect(),
        mode: subscription_list::Mode::Stream.into(),
        encoding: encoding.into(),
        ..SubscriptionList::default()
    };
    let request = SubscribeRequest { request: Some(Asks::Subscribe(list)) };
    // The request's side stays open: some targets end the stream with it.
    let requests = tokio_stream::once(request).chain(tokio_stream::pending());
    let opening = async {
        let mut stream = client.subscribe(requests).await?.into_inner();
        match tokio::time::timeout(REFUSE_WITHIN, stream.message()).await {
            Ok(Ok(Some(first))) => Ok(Opened { first: Some(first), stream }),
            Ok(Ok(None)) => Err(Status::unavailable("the target ended the stream at once")),
            Ok(Err(status)) => Err(status),
            Err(_) => Ok(Opened { first: None, stream }),
        }
    };
    let late = |_| Status::deadline_exceeded(format!("no answer within {ANSWER_WITHIN:?}"));
    tokio::time::timeout(ANSWER_WITHIN, opening).await.map_err(late)?
}

/// Reads until the stream ends. Returns why.
async fn read(
    opened: &mut Opened,
    silence: Option<Duration>,
    asked: &[Asked],
    clock: fn() -> u64,
    events: &mpsc::Sender<Event>,
) -> String {
    let mut silent: Vec<_> = asked.iter().collect();
    let mut is_synced = false;
    let nothing = |silent: &[&Asked]| {
        let limitation = |asked: &&Asked| Limitation {
            what: asked.what.to_owned(),
            why: format!("nothing is said at {}", asked.path),
        };
        silent.iter().map(limitation).collect::<Vec<_>>()
    };
    let mut pace = Pace { since: Instant::now(), bytes: 0 };
    loop {
        let message = match opened.first.take() {
            Some(first) => Ok(Ok(Some(first))),
            None => tokio::time::timeout(silence.unwrap_or(Duration::MAX), opened.stream.message()).await,
        };
        let message = match message {
            Err(_) => return format!("nothing was said for {:?}", silence.unwrap_or_default()),
            Ok(Ok(None)) => return "the target ended the stream".to_owned(),
            Ok(Err(status)) => return shortened(&status),
            Ok(Ok(Some(message))) => message,
        };
        let received = clock();
        pace.keep(message.encoded_len()).await;
        let event = match message.response {
            Some(Response::Update(notification)) => {
                let count = silent.len();
                silent.retain(|asked| !speaks_of(&notification, asked.path));
                let fewer = is_synced && silent.len() < count;
                if fewer && events.send(Event::Silent(nothing(&silent))).await.is_err() {
                    return "nobody listens".to_owned();
                }
                Event::Said(Box::new(notification), received)
            }
            Some(Response::SyncResponse(true)) => {
                is_synced = true;
                Event::Synced(nothing(&silent))
            }
            _ => continue,
        };
        if events.send(event).await.is_err() {
            return "nobody listens".to_owned();
        }
    }
}

/// Whether a notification has an update at or above the path, or below it.
fn speaks_of(notification: &Notification, path: &str) -> bool {
    let prefix = notification.prefix.iter().flat_map(|prefix| &prefix.elem);
    let prefix: Vec<_> = prefix.map(|step| plain(&step.name)).collect();
    let wanted: Vec<_> = path.split('/').filter(|step| !step.is_empty()).collect();
    notification.update.iter().any(|update| {
        let below = update.path.iter().flat_map(|path| &path.elem).map(|step| plain(&step.name));
        prefix.iter().copied().chain(below).zip(&wanted).all(|(step, wanted)| step == *wanted)
    })
}

fn plain(name: &str) -> &str {
    name.rsplit_once(':').map_or(name, |(_, name)| name)
}

/// Bytes read in this second.
struct Pace {
    since: Instant,
    bytes: usize,
}

impl Pace {
    async fn keep(&mut self, bytes: usize) {
        let second = Duration::from_secs(1);
        if self.since.elapsed() >= second {
            *self = Self { since: Instant::now(), bytes: 0 };
        }
        self.bytes += bytes;
        if self.bytes > BYTES_PER_S_MAX {
            tokio::time::sleep(second.saturating_sub(self.since.elapsed())).await;
        }
    }
}
