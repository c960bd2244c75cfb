//! The executor against a server that notes what it is sent.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

use super::halt::{self, Halt};
use super::{Executor, Job, Ledger, WebhookConfig, signature};
use crate::clock::Timeline;
use railwatch_engine::{Element, Order, Outcome, Timestamp};
use railwatch_pki::DevelopmentCa;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const SECRET: &str = "a secret of enough bytes";
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug)]
struct Received {
    headers: Vec<(String, String)>,
    body: String,
}

impl Received {
    fn header(&self, name: &str) -> &str {
        &self.headers.iter().find(|(header, _)| header.eq_ignore_ascii_case(name)).unwrap().1
    }
}

/// A server that gives one answer after another (the last for ever) and hands over what it received. Status 0: hangs up unanswered.
fn server(answers: &[u16]) -> (String, Receiver<Received>) {
    let (port, received) = serve(answers, None);
    (format!("http://127.0.0.1:{port}/orders"), received)
}

fn serve(answers: &[u16], tls: Option<Arc<ServerConfig>>) -> (u16, Receiver<Received>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut answers: VecDeque<u16> = answers.iter().copied().collect();
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            let stream: Box<dyn Connection> = match &tls {
                Some(config) => {
                    let session = ServerConnection::new(config.clone()).unwrap();
                    Box::new(StreamOwned::new(session, stream))
                }
                None => Box::new(stream),
            };
            let mut reader = BufReader::new(stream);
            let mut headers = Vec::new();
            loop {
                let mut line = String::new();
                // A client that does not trust this server ends here.
                if reader.read_line(&mut line).is_err() || line.trim().is_empty() {
                    break;
                }
                if let Some((name, value)) = line.trim().split_once(": ") {
                    headers.push((name.to_owned(), value.to_owned()));
                }
            }
            let length = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
            let Some(length) = length.map(|(_, length)| length.parse().unwrap()) else { continue };
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let status = if answers.len() > 1 { answers.pop_front().unwrap() } else { answers[0] };
            if status != 0 {
                let said = format!("HTTP/1.1 {status} Said\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
                let _ = reader.get_mut().write_all(said.as_bytes());
            }
            drop(reader);
            if sender.send(Received { headers, body: String::from_utf8(body).unwrap() }).is_err() {
                return;
            }
        }
    });
    (port, receiver)
}

trait Connection: Read + Write {}
impl<T: Read + Write> Connection for T {}

/// Where the end of an order is told: attempts, and how it ended.
type Finished = Sender<(u32, Outcome)>;

/// Notes what the executor puts on record.
#[derive(Clone, Default)]
struct Notes {
    sending: Arc<Mutex<Vec<(String, u32)>>>,
    finished: Arc<Mutex<Option<Finished>>>,
    /// How an order ended cannot be recorded.
    ends_are_lost: Arc<Mutex<bool>>,
    /// The first so many records fail.
    failing: Arc<Mutex<u32>>,
    halt_while_recording: Arc<Mutex<Option<std::path::PathBuf>>>,
}

impl Notes {
    fn fails(&self) -> Result<(), String> {
        let mut failing = self.failing.lock().unwrap();
        if *failing > 0 {
            *failing -= 1;
            return Err("disk full".to_owned());
        }
        Ok(())
    }
}

impl Ledger for Notes {
    fn sending(&self, key: &str, attempt: u32) -> Result<(), String> {
        if let Some(state_dir) = self.halt_while_recording.lock().unwrap().take() {
            halt::set(&state_dir, &Halt { actor: "ana".into(), reason: "wait".into() }).unwrap();
        }
        self.fails()?;
        self.sending.lock().unwrap().push((key.to_owned(), attempt));
        Ok(())
    }

    fn finished(&self, _: &str, attempts: u32, outcome: &Outcome) -> Result<(), String> {
        self.fails()?;
        if *self.ends_are_lost.lock().unwrap() {
            return Err("disk full".to_owned());
        }
        if let Some(finished) = &*self.finished.lock().unwrap() {
            let _ = finished.send((attempts, outcome.clone()));
        }
        Ok(())
    }
}

struct Bench {
    directory: tempfile::TempDir,
    notes: Notes,
    ended: Receiver<(u32, Outcome)>,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("secret"), SECRET).unwrap();
        let (sender, ended) = channel();
        let notes = Notes::default();
        *notes.finished.lock().unwrap() = Some(sender);
        Self { directory, notes, ended }
    }

    fn state_dir(&self) -> &Path {
        self.directory.path()
    }

    fn executor(&self, url: &str, epoch: u64) -> Executor {
        let config = WebhookConfig {
            backoff_ms: 20,
            backoff_max_ms: 40,
            timeout_ms: 2_000,
            ..toml::from_str(&format!("url = {url:?}\nsecret_file = {:?}", self.state_dir().join("secret"))).unwrap()
        };
        Executor::spawn(Some(config), self.state_dir().to_owned(), epoch, self.notes.clone()).unwrap()
    }

    fn end(&self) -> (u32, Outcome) {
        self.ended.recv_timeout(PATIENCE).unwrap()
    }
}

fn job(attempts: u32) -> Job {
    let order = Order {
        idempotency_key: "rwtest-1".into(),
        epoch: 3,
        decision: 1,
        action: "ticket".into(),
        target: Element { host: "h1".into(), kind: "nic".into(), name: "eth0".into() },
        expires: Timestamp(Timeline::now().0 + 60_000_000_000),
    };
    Job { order, incident: None, decision: None, attempts }
}

fn words(outcome: &Outcome) -> (&'static str, &str) {
    match outcome {
        Outcome::Done { detail } => ("done", detail),
        Outcome::Failed { detail } => ("failed", detail),
        Outcome::Withheld { detail } => ("withheld", detail),
    }
}

#[test]
fn an_order_goes_out_once_signed_with_its_key_and_epoch() {
    let bench = Bench::new();
    let (url, requests) = server(&[200]);
    let executor = bench.executor(&url, 3);
    assert!(executor.carry(job(0)));
    let (attempts, outcome) = bench.end();
    assert_eq!((attempts, words(&outcome)), (1, ("done", "HTTP 200: ok")));
    let received = requests.recv_timeout(PATIENCE).unwrap();
    assert_eq!((received.header("Idempotency-Key"), received.header("Railwatch-Epoch")), ("rwtest-1", "3"));
    let (at, hex) = received.header("Railwatch-Signature").split_once(",v1=").unwrap();
    let at = at.strip_prefix("t=").unwrap().parse().unwrap();
    assert_eq!(signature(SECRET.as_bytes(), at, &received.body), hex);
    assert_ne!(signature(b"another secret of bytes", at, &received.body), hex);
    let body: serde_json::Value = serde_json::from_str(&received.body).unwrap();
    assert_eq!(body["order"]["action"], "ticket");
    assert_eq!(*bench.notes.sending.lock().unwrap(), [("rwtest-1".to_owned(), 1)], "on record before it was sent");
    assert!(requests.try_recv().is_err(), "and no second time");
}

#[test]
fn answers_decide_how_often_it_is_tried_and_how_it_ends() {
    for (answers, requests_made, ends) in [
        (&[503, 0, 429, 200][..], 4, "done"),
        (&[500, 409], 2, "done"),
        (&[409], 1, "done"),
        (&[400], 1, "failed"),
        (&[500, 403], 2, "failed"),
        (&[302], 1, "failed"),
    ] {
        let bench = Bench::new();
        let (url, requests) = server(answers);
        let executor = bench.executor(&url, 3);
        assert!(executor.carry(job(0)));
        let (attempts, outcome) = bench.end();
        assert_eq!((attempts, words(&outcome).0), (requests_made, ends), "{answers:?}: {outcome:?}");
        let keys: Vec<_> =
            requests.iter().take(answers.len()).map(|request| request.header("Idempotency-Key").to_owned()).collect();
        assert!(keys.iter().all(|key| key == "rwtest-1"), "every retry has the same key");
    }
}

#[test]
fn a_crash_between_sending_and_recording_sends_the_same_key_again() {
    let bench = Bench::new();
    let (url, requests) = server(&[200, 409]);
    {
        // As if the collector died right after sending.
        *bench.notes.ends_are_lost.lock().unwrap() = true;
        let executor = bench.executor(&url, 3);
        assert!(executor.carry(job(0)));
        requests.recv_timeout(PATIENCE).unwrap();
    }
    assert!(bench.ended.try_recv().is_err());
    *bench.notes.ends_are_lost.lock().unwrap() = false;
    // The store knows one attempt and no end: the next start takes it up, in its own epoch.
    let resumed = Job { order: Order { epoch: 4, ..job(1).order }, ..job(1) };
    let executor = bench.executor(&url, 4);
    assert!(executor.carry(resumed));
    let second = requests.recv_timeout(PATIENCE).unwrap();
    assert_eq!((second.header("Idempotency-Key"), second.header("Railwatch-Epoch")), ("rwtest-1", "4"));
    let (attempts, outcome) = bench.end();
    assert_eq!((attempts, words(&outcome).0), (2, "done"), "who has seen the key says 409, and that is done");
}

#[test]
fn halting_stops_a_retry_and_what_was_tried_is_told() {
    let bench = Bench::new();
    let (url, requests) = server(&[503]);
    let executor = bench.executor(&url, 3);
    assert!(executor.carry(job(0)));
    requests.recv_timeout(PATIENCE).unwrap();
    halt::set(bench.state_dir(), &Halt { actor: "ana".into(), reason: "storm".into() }).unwrap();
    let (_, outcome) = bench.end();
    let (how, why) = words(&outcome);
    assert!(how == "withheld" && why.contains("halted by ana: storm") && why.contains("503"), "{why}");
    let after_halt = requests.try_iter().count();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(requests.try_iter().count(), 0, "nothing was sent after the end (up to it: {after_halt})");
}

#[test]
fn halting_while_the_attempt_is_put_on_record_stops_it() {
    let bench = Bench::new();
    let (url, requests) = server(&[200]);
    *bench.notes.halt_while_recording.lock().unwrap() = Some(bench.state_dir().to_owned());
    let executor = bench.executor(&url, 3);
    assert!(executor.carry(job(0)));
    assert_eq!(words(&bench.end().1).0, "withheld");
    assert!(requests.try_recv().is_err());
}

#[test]
fn nothing_is_sent_that_must_not_be() {
    let (url, requests) = server(&[200]);
    let base = job(0);
    let order = |order: Order| Job { order, ..job(0) };
    for (job, epoch, ends, why) in [
        (order(Order { epoch: 2, ..base.order.clone() }), 3, "withheld", "epoch 3 has begun"),
        (order(Order { expires: Timeline::now(), ..base.order.clone() }), 3, "withheld", "expired"),
        (
            Job { attempts: 2, ..order(Order { expires: Timeline::now(), ..base.order.clone() }) },
            3,
            "failed",
            "2 attempts",
        ),
        (order(Order { action: "reboot".into(), ..base.order.clone() }), 3, "withheld", "webhook.actions"),
    ] {
        let bench = Bench::new();
        let executor = bench.executor(&url, epoch);
        assert!(executor.carry(job));
        let (_, outcome) = bench.end();
        let (how, said) = words(&outcome);
        assert!(how == ends && said.contains(why), "{said}");
    }
    let bench = Bench::new();
    let executor = Executor::spawn(None, bench.state_dir().to_owned(), 3, bench.notes.clone()).unwrap();
    assert!(executor.carry(job(0)));
    assert!(words(&bench.end().1).1.contains("no webhook is configured"));
    assert!(requests.try_recv().is_err(), "none of these reached the server");
}

#[test]
fn a_cancelled_order_is_not_tried_again_and_one_that_cannot_be_recorded_is_not_sent() {
    let bench = Bench::new();
    let (url, requests) = server(&[503]);
    *bench.notes.failing.lock().unwrap() = 2;
    let executor = bench.executor(&url, 3);
    assert!(executor.carry(job(0)));
    requests.recv_timeout(PATIENCE).unwrap();
    assert_eq!(bench.notes.sending.lock().unwrap()[0], ("rwtest-1".to_owned(), 1));
    assert!(executor.cancel("rwtest-1".into(), "the incident resolved".into()));
    let (_, outcome) = bench.end();
    let (how, why) = words(&outcome);
    assert!(how == "withheld" && why.contains("the incident resolved"), "{why}");
}

#[test]
fn over_https_only_the_named_authority_is_trusted() {
    let authorities = tempfile::tempdir().unwrap();
    let authority = |name: &str| DevelopmentCa::open_or_create(&authorities.path().join(name)).unwrap();
    let (ours, theirs) = (authority("ours"), authority("theirs"));
    let issued = ours.issue_server(&["localhost"], Duration::from_secs(3600)).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            CertificateDer::pem_slice_iter(issued.certificate_pem.as_bytes()).map(Result::unwrap).collect(),
            PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap(),
        )
        .unwrap();
    let (port, requests) = serve(&[200], Some(Arc::new(config)));
    let url = format!("https://localhost:{port}/orders");
    let trusting = |bench: &Bench, ca: &DevelopmentCa| {
        let text = format!(
            "url = {url:?}\nsecret_file = {:?}\nca_file = {:?}\nbackoff_ms = 20",
            bench.state_dir().join("secret"),
            ca.trust()
        );
        let config = toml::from_str(&text).unwrap();
        Executor::spawn(Some(config), bench.state_dir().to_owned(), 3, bench.notes.clone()).unwrap()
    };

    let bench = Bench::new();
    let executor = trusting(&bench, &theirs);
    let soon = Timestamp(Timeline::now().0 + 300_000_000);
    assert!(executor.carry(Job { order: Order { expires: soon, ..job(0).order }, ..job(0) }));
    let (_, outcome) = bench.end();
    let (how, why) = words(&outcome);
    assert!(how == "failed" && why.to_lowercase().contains("certificate"), "{why}");
    assert!(requests.try_recv().is_err(), "an order is not told to a stranger");

    let bench = Bench::new();
    let executor = trusting(&bench, &ours);
    assert!(executor.carry(job(0)));
    assert_eq!(words(&bench.end().1).0, "done");
    assert_eq!(requests.recv_timeout(PATIENCE).unwrap().header("Idempotency-Key"), "rwtest-1");
}
