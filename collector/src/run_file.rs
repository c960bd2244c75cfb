//! `collector.json`: how the operator's command on this host finds the collector.
//!
//! Written whole or not at all, once everything listens; removed at the end, unless another collector's is there by then.

use serde::Serialize;
use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

#[derive(Serialize)]
struct Content<'a> {
    api: String,
    token_file: &'a Path,
    state_dir: &'a Path,
    pid: u32,
    uplink: String,
    metrics: String,
}

/// Where a collector really listens.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// The uplink.
    pub uplink: SocketAddr,
    /// The API.
    pub api: SocketAddr,
    /// The API speaks TLS.
    pub api_tls: bool,
    /// The page for Prometheus.
    pub metrics: SocketAddr,
}

/// The file. Dropping it removes the file.
#[derive(Debug)]
pub struct RunFile {
    path: PathBuf,
    text: String,
}

impl RunFile {
    /// Writes it into `directory`, which is made if it is not there.
    pub fn write(directory: &Path, state_dir: &Path, addresses: &Addresses) -> io::Result<Self> {
        let scheme = if addresses.api_tls { "https" } else { "http" };
        let content = Content {
            api: format!("{scheme}://{}", reachable(addresses.api)),
            token_file: &state_dir.join("token-approve"),
            state_dir,
            pid: std::process::id(),
            uplink: reachable(addresses.uplink).to_string(),
            metrics: format!("http://{}/metrics", reachable(addresses.metrics)),
        };
        let text = serde_json::to_string_pretty(&content).map_err(io::Error::other)? + "\n";
        fs::create_dir_all(directory)?;
        let (path, temporary) =
            (directory.join("collector.json"), directory.join(format!(".collector.json.{}", std::process::id())));
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        fs::rename(&temporary, &path)?;
        Ok(Self { path, text })
    }
}

/// How a program on this host reaches a listener that may listen everywhere.
fn reachable(mut listener: SocketAddr) -> SocketAddr {
    if listener.ip().is_unspecified() {
        listener.set_ip(if listener.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() });
    }
    listener
}

impl Drop for RunFile {
    fn drop(&mut self) {
        if fs::read_to_string(&self.path).is_ok_and(|text| text == self.text)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(file = %self.path.display(), %error, "cannot remove the run file");
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::{Addresses, RunFile};
    use std::{fs, path::Path};

    #[test]
    fn the_file_names_addresses_that_can_be_reached_and_leaves_with_its_collector_only() {
        let directory = tempfile::tempdir().unwrap();
        let run_dir = directory.path().join("run");
        let addresses = |port| Addresses {
            uplink: ([0, 0, 0, 0], port).into(),
            api: ([127, 0, 0, 1], port).into(),
            api_tls: false,
            metrics: (std::net::Ipv6Addr::UNSPECIFIED, port).into(),
        };
        let first = RunFile::write(&run_dir, Path::new("/state"), &addresses(1)).unwrap();
        let path = run_dir.join("collector.json");
        let json: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(json["uplink"], "127.0.0.1:1");
        assert_eq!(json["api"], "http://127.0.0.1:1");
        assert_eq!(json["metrics"], "http://[::1]:1/metrics");
        assert_eq!(json["token_file"], "/state/token-approve");
        let second = RunFile::write(&run_dir, Path::new("/state"), &addresses(2)).unwrap();
        drop(first);
        assert!(path.exists(), "the second collector's file stays");
        drop(second);
        assert!(!path.exists());
    }
}
