//! An agent in a folder of its own, on a port of its own, ended with the value.

use crate::collector::{HOST, Site, eventually};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_railwatch-agent");

pub struct Agent {
    process: Child,
    log: PathBuf,
    pub home: PathBuf,
}

/// The arguments of an agent of `site` that talks to `collector`, pins nothing and leaves the host's health alone, whose signals
/// would depend on what else this host does.
pub fn arguments(site: &Site, collector: &str) -> Vec<String> {
    let home = site.dir.path();
    let file = |name: &str| home.join(name).display().to_string();
    fs::write(home.join("agent.toml"), "[health]\nenabled = false\n").unwrap();
    let certificate = file(&format!("{HOST}.pem"));
    let key = file(&format!("{HOST}.key"));
    let (config, state, trust) = (file("agent.toml"), file("state"), file("ca.pem"));
    [
        ["--config", &config],
        ["--state-dir", &state],
        ["--collector", collector],
        ["--host-name", HOST],
        ["--tls-trust", &trust],
        ["--tls-certificate", &certificate],
        ["--tls-key", &key],
        ["--metrics-listen", "127.0.0.1:0"],
    ]
    .concat()
    .into_iter()
    .chain(["--no-pin"])
    .map(str::to_owned)
    .collect()
}

impl Agent {
    /// Starts it and waits until it serves its page.
    pub fn start(site: &Site, collector: &str, more: &[&str]) -> Self {
        let mut command = Command::new(PROGRAM);
        command.arg("run").args(arguments(site, collector)).args(more);
        Self::spawn(site, &mut command)
    }

    /// As [`Self::start`], by any command.
    pub fn spawn(site: &Site, command: &mut Command) -> Self {
        let agent = Self::spawn_only(site, command);
        eventually("the agent serves its page", || agent.address().is_some());
        agent
    }

    /// Starts it and waits for nothing.
    pub fn spawn_only(site: &Site, command: &mut Command) -> Self {
        let home = site.dir.path().to_owned();
        let log = home.join("agent.log");
        let file = File::create(&log).unwrap();
        let process = command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
        Self { process, log, home }
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn runs(&mut self) -> bool {
        self.process.try_wait().unwrap().is_none()
    }

    pub fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status().unwrap().success());
    }

    /// SIGTERM; it must end well.
    pub fn end(mut self) {
        self.signal("TERM");
        let status = self.process.wait().unwrap();
        assert!(status.success(), "{status}: {}", self.log());
    }

    fn address(&self) -> Option<String> {
        let log = self.log();
        let (_, rest) = log.split_once("metrics at http://")?;
        Some(rest.split_once('/')?.0.to_owned())
    }

    /// The page, in the format that `accept` asks for.
    pub fn page(&self, accept: &str) -> String {
        let mut stream = TcpStream::connect(self.address().unwrap()).unwrap();
        write!(stream, "GET /metrics HTTP/1.1\r\nhost: a\r\naccept: {accept}\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        if head.to_lowercase().contains("transfer-encoding: chunked") { dechunked(body) } else { body.to_owned() }
    }

    /// The value of the sample that begins with `name`, labels included.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let page = self.page("text/plain");
        let line =
            page.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])))?;
        line.rsplit_once(' ')?.1.parse().ok()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("---- the agent's log\n{}", self.log());
        }
    }
}

fn dechunked(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        if size == 0 {
            break;
        }
        whole.push_str(&rest[..size]);
        body = &rest[size + 2..];
    }
    whole
}

/// Every byte of every file below `folder`.
pub fn all_bytes(folder: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            bytes.extend(all_bytes(&path));
        } else {
            bytes.extend(fs::read(path).unwrap());
        }
    }
    bytes
}
