//! What is made from the table of metrics and kept in the repository: docs/metrics.md and the dashboards of deploy/grafana.
//! `check` fails when one of them is stale.

mod dashboards;

use anyhow::{Result, ensure};
use railwatch_vocabulary::{Board, page};
use std::{fs, path::PathBuf};

fn files() -> Result<Vec<(PathBuf, String)>> {
    let mut files = vec![(PathBuf::from("docs/metrics.md"), page::metrics()?)];
    for board in Board::ALL {
        let path = format!("deploy/grafana/railwatch-{}.json", board.name());
        files.push((path.into(), serde_json::to_string_pretty(&dashboards::dashboard(board))? + "\n"));
    }
    Ok(files)
}

/// Writes them.
pub fn build() -> Result<()> {
    for (path, text) in files()? {
        fs::write(path, text)?;
    }
    Ok(())
}

/// Fails when one is not what the table gives now.
pub fn check() -> Result<()> {
    for (path, fresh) in files()? {
        let kept = fs::read_to_string(&path).unwrap_or_default();
        ensure!(fresh == kept, "{} is stale: run `cargo xtask vocabulary build` and commit the result", path.display());
    }
    Ok(())
}
