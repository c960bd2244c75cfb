//! A real Prometheus reads both daemons, and promtool finds nothing to complain about.

use anyhow::{Context, Result, ensure};
use railwatch_tests::{
    installation::{Installation, Options},
    prometheus::{Prometheus, get, program, targets},
};
use std::{
    io::Write,
    process::{Command, Stdio},
};

#[test]
fn prometheus_scrapes_both_daemons_and_promtool_is_content() -> Result<()> {
    let installation = Installation::start(&Options::default())?;
    for address in targets(&installation) {
        let text = get(&format!("http://{address}/metrics"), "text/plain;version=0.0.4")?;
        ensure!(text.contains("# TYPE railwatch_"), "{address} shows no metric of ours:\n{text}");
        let mut promtool = Command::new(program("promtool")?)
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
    let prometheus = Prometheus::start(&installation)?;
    ensure!(
        !prometheus.query("count({__name__=~\"railwatch_.*\"})")?.is_empty(),
        "Prometheus stored no series of ours"
    );
    Ok(())
}
