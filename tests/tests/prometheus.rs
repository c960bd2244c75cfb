//! A real Prometheus reads both daemons, and promtool finds nothing to complain about.

use anyhow::{Context, Result, ensure};
use railwatch_tests::installation::{Installation, Options, eventually};
use serde_json::Value;
use std::{
    fs,
    io::Write,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

fn prometheus(program: &str) -> Result<PathBuf> {
    let folder = std::env::var_os("RAILWATCH_PROMETHEUS_BIN")
        .context("run this through `cargo xtask test`: it fetches Prometheus")?;
    Ok(PathBuf::from(folder).join(program))
}

/// The body of a GET, with the media type asked for.
fn get(url: &str, accept: &str) -> Result<String> {
    Ok(ureq::get(url).header("Accept", accept).call()?.body_mut().read_to_string()?)
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn prometheus_scrapes_both_daemons_and_promtool_is_content() -> Result<()> {
    let installation = Installation::start(&Options::default())?;
    let targets = [installation.address("metrics"), installation.agent_metrics()];
    for target in &targets {
        let address = target.trim_start_matches("http://").trim_end_matches("/metrics");
        let text = get(&format!("http://{address}/metrics"), "text/plain;version=0.0.4")?;
        ensure!(text.contains("# TYPE railwatch_"), "{address} shows no metric of ours:\n{text}");
        let mut promtool = Command::new(prometheus("promtool")?)
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        promtool.stdin.take().context("promtool reads")?.write_all(text.as_bytes())?;
        let output = promtool.wait_with_output()?;
        let said = [output.stdout, output.stderr].concat();
        ensure!(
            output.status.success() && said.is_empty(),
            "promtool on {address}: {}\n{text}",
            String::from_utf8_lossy(&said)
        );
        let open = get(&format!("http://{address}/metrics"), "application/openmetrics-text;version=1.0.0")?;
        ensure!(open.ends_with("# EOF\n"), "{address}: OpenMetrics must end with # EOF");
    }

    let addresses: Vec<_> = targets
        .iter()
        .map(|target| format!("'{}'", target.trim_start_matches("http://").trim_end_matches("/metrics")))
        .collect();
    let config = installation.path("prometheus.yml");
    fs::write(
        &config,
        format!(
            "global: {{scrape_interval: 1s}}\nscrape_configs:\n- job_name: railwatch\n  static_configs:\n  - targets: [{}]\n",
            addresses.join(", ")
        ),
    )?;
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let _server = Server(
        Command::new(prometheus("prometheus")?)
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", installation.path("tsdb").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?,
    );
    let query = |expression: &str| -> Result<Vec<Value>> {
        let text = get(&format!("http://127.0.0.1:{port}/api/v1/query?query={expression}"), "application/json")?;
        let answer: Value = serde_json::from_str(&text)?;
        Ok(answer["data"]["result"].as_array().cloned().unwrap_or_default())
    };
    eventually("both targets up in Prometheus", || {
        let up = query("up%3D%3D1").unwrap_or_default();
        Ok((up.len() == 2).then_some(()))
    })?;
    ensure!(
        !query(
            "count({__name__=~\"railwatch_.*\"})".replace('{', "%7B").replace('}', "%7D").replace('"', "%22").as_str()
        )?
        .is_empty(),
        "Prometheus stored no series of ours"
    );
    Ok(())
}
