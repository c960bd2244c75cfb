//! A real Prometheus and its promtool, and what they see of the daemons: pages, families, answers to queries.

use crate::installation::{Installation, eventually};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

/// A program of Prometheus: "prometheus", "promtool".
pub fn program(name: &str) -> Result<PathBuf> {
    let folder = std::env::var_os("RAILWATCH_PROMETHEUS_BIN")
        .context("run this through `cargo xtask test`: it fetches Prometheus")?;
    Ok(PathBuf::from(folder).join(name))
}

/// The body of a GET, with the media type asked for.
pub fn get(url: &str, accept: &str) -> Result<String> {
    Ok(ureq::get(url).header("Accept", accept).call()?.body_mut().read_to_string()?)
}

/// Both daemons' pages, as HOST:PORT: the collector's, the agent's.
pub fn targets(installation: &Installation) -> [String; 2] {
    [installation.address("metrics"), installation.agent_metrics()]
        .map(|target| target.trim_start_matches("http://").trim_end_matches("/metrics").to_owned())
}

/// A metric on a page in the older text format.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Family {
    /// "counter", "gauge", "histogram".
    pub kind: String,
    /// Its HELP text.
    pub help: String,
    /// Keys of the labels of all its samples, without a histogram's `le`.
    pub labels: BTreeSet<String>,
}

/// The metrics of a page in the older text format, by name.
pub fn families(page: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    for line in page.lines() {
        let words = |rest: &str| rest.split_once(' ').map(|(name, text)| (name.to_owned(), text.to_owned()));
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(words) {
            families.entry(name).or_default().help = help;
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(words) {
            families.entry(name).or_default().kind = kind;
        } else if let Some((name, rest)) = line.split_once('{') {
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
            let found = if families.contains_key(name) { name } else { base };
            if let Some(family) = families.get_mut(found) {
                // A key stands before `="`, after `,` or at the start; values hold no `="` here.
                let keys = rest.split("=\"").filter_map(|part| part.rsplit([',', '{', '"']).next());
                let is_key =
                    |key: &&str| !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
                family.labels.extend(keys.filter(is_key).filter(|key| *key != "le").map(str::to_owned));
            }
        }
    }
    families
}

/// A Prometheus that scrapes each second, ended with the value.
pub struct Prometheus {
    process: Child,
    port: u16,
}

impl Prometheus {
    /// Starts one in the installation's folder and waits until both daemons were scraped.
    pub fn start(installation: &Installation) -> Result<Self> {
        let targets = targets(installation);
        let config = installation.path("prometheus.yml");
        let addresses = targets.each_ref().map(|target| format!("'{target}'")).join(", ");
        fs::write(
            &config,
            format!(
                "global: {{scrape_interval: 1s}}\nscrape_configs:\n- job_name: railwatch\n  static_configs:\n  - targets: \
                 [{addresses}]\n"
            ),
        )?;
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let process = Command::new(program("prometheus")?)
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", installation.path("tsdb").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let server = Self { process, port };
        eventually("both targets up in Prometheus", || {
            let up = server.query("up==1").unwrap_or_default();
            Ok((up.len() == targets.len()).then_some(()))
        })?;
        Ok(server)
    }

    /// The samples of an instant query.
    ///
    /// # Errors
    /// What Prometheus has against the expression.
    pub fn query(&self, expression: &str) -> Result<Vec<Value>> {
        let encoded: String = expression.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let url = format!("http://127.0.0.1:{}/api/v1/query?query={encoded}", self.port);
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let text = agent.get(&url).call()?.body_mut().read_to_string()?;
        let answer: Value = serde_json::from_str(&text)?;
        if answer["status"] != "success" {
            bail!("{expression}: {}", answer["error"]);
        }
        Ok(answer["data"]["result"].as_array().cloned().unwrap_or_default())
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // Ended already, or ends now.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// promtool with these arguments, in `folder`; an error with all it says when it is not content.
pub fn promtool(folder: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program("promtool")?).args(arguments).current_dir(folder).output()?;
    let said = [output.stdout, output.stderr].concat();
    ensure!(output.status.success(), "promtool {arguments:?}: {}", String::from_utf8_lossy(&said));
    Ok(())
}
