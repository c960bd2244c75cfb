//! The other end of a webhook: takes orders over HTTP and keeps every request as it came.
//!
//! In: requests, and how to answer the first ones. Out: what was asked, with the signature judged apart from the product's own code.

use anyhow::{Context, Result, ensure};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use sha2::Sha256;
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

/// The secret that orders are signed with.
pub const SECRET: &str = "0123456789abcdef0123456789abcdef";
/// Largest order taken, bytes.
const BODY_BYTES_MAX: usize = 1 << 20;

/// What came.
#[derive(Clone, Debug)]
pub struct Request {
    headers: BTreeMap<String, String>,
    body: String,
}

impl Request {
    /// A header, by its name in lower case.
    pub fn header(&self, name: &str) -> Result<&str> {
        self.headers.get(name).map(String::as_str).with_context(|| format!("no header {name} in {:?}", self.headers))
    }

    /// The order, once its signature is found good.
    pub fn order(&self) -> Result<Value> {
        let signature = self.header("railwatch-signature")?;
        let (at, v1) = signature
            .strip_prefix("t=")
            .and_then(|rest| rest.split_once(",v1="))
            .with_context(|| format!("no signature: {signature}"))?;
        let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes())?;
        mac.update(format!("{at}.{}", self.body).as_bytes());
        let wanted: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        ensure!(v1 == wanted, "the signature does not fit: {signature}");
        Ok(serde_json::from_str(&self.body)?)
    }
}

/// Listens until the test ends.
pub struct Receiver {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Receiver {
    /// Starts it. The first `unanswered` requests get no answer: their connections stay open and silent.
    pub fn start(unanswered: usize) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let requests = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&requests);
        thread::spawn(move || {
            let mut silent = Vec::new();
            for mut stream in listener.incoming().flatten() {
                let Ok(request) = read(&stream) else { continue };
                let count = {
                    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                    kept.push(request);
                    kept.len()
                };
                if count <= unanswered {
                    silent.push(stream);
                    continue;
                }
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nqueued");
            }
        });
        Ok(Self { address, requests })
    }

    /// The lines of the collector's configuration that send orders here, signed with the secret in `secret_file`.
    pub fn collector_toml(&self, secret_file: &std::path::Path) -> String {
        format!("[webhook]\nurl = \"http://{}/orders\"\nsecret_file = {secret_file:?}\n", self.address)
    }

    /// Everything that came so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The different idempotency keys that came so far.
    pub fn keys(&self) -> Result<BTreeSet<String>> {
        self.requests().iter().map(|request| Ok(request.header("idempotency-key")?.to_owned())).collect()
    }
}

fn read(stream: &TcpStream) -> Result<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    ensure!(line.starts_with("POST /orders "), "{line:?}");
    let mut headers = BTreeMap::new();
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length: usize = headers.get("content-length").context("a length")?.parse()?;
    ensure!(length <= BODY_BYTES_MAX, "{length} bytes are no order");
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Request { headers, body: String::from_utf8(body)? })
}
