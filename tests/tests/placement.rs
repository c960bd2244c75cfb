//! Jobs and ranks of real processes, from their environment to the operator's screen.

use anyhow::{Context, Result, ensure};
use railwatch_tests::{
    gpu::Caller,
    installation::{HOST, Installation, Options, eventually},
};
use serde_json::{Value, json};

fn job(installation: &Installation, name: &str) -> Result<Option<Value>> {
    Ok(installation.rows(&["jobs", "--host", HOST])?.into_iter().find(|row| row["job"] == name))
}

#[test]
fn jobs_show_their_ranks_and_how_they_ended() -> Result<()> {
    let installation = Installation::start(&Options::default())?;
    let start = |rank: &str| {
        Caller::start_with(
            &["libcudart.so", "libnccl.so"],
            &[
                ("SLURM_JOB_ID", "4711"),
                ("SLURM_JOB_NAME", "llama"),
                ("RANK", rank),
                ("WORLD_SIZE", "2"),
                ("SECRET_TOKEN", "s3cret"),
            ],
        )
    };
    let mut ranks = [start("0")?, start("1")?];
    for rank in &ranks {
        installation.attached(rank.pid())?;
    }
    for (index, rank) in ranks.iter_mut().enumerate() {
        ensure!(rank.call("cudaMalloc &1 4096")? == 0);
        ensure!(rank.call("id 100 9")? == 0);
        ensure!(rank.call(&format!("big 2 16 100 ncclCommInitRank &0 2 {index}"))? == 0);
        ensure!(rank.call("ncclAllReduce 0 0 4 7 0 @0 0")? == 0);
    }
    let found = eventually("both ranks are in the job, with their communicator", || {
        Ok(job(&installation, "4711")?
            .filter(|job| job["communicators"][0]["ranks_seen"] == 2 && job["communicators"][0]["sequence_min"] == 1))
    })
    .with_context(|| installation.agent.log_text())?;
    assert_eq!(
        (&found["scheduler"], &found["name"], &found["world_size"]),
        (&json!("slurm"), &json!("llama"), &json!(2)),
        "{found:#}"
    );
    assert_eq!(found["hosts"], json!([HOST]));
    let shown: Vec<_> = found["ranks"]
        .as_array()
        .context("ranks")?
        .iter()
        .map(|rank| (rank["rank"].clone(), rank["pid"].clone()))
        .collect();
    assert_eq!(shown, [(json!(0), json!(ranks[0].pid())), (json!(1), json!(ranks[1].pid()))], "{found:#}");
    assert_eq!(found["ranks"][0]["gpus"][0]["ordinal"], 0, "{found:#}");
    assert!(!found.to_string().contains("s3cret"), "{found:#}");
    ranks[1].kill()?;
    let ended =
        eventually(
            "its end",
            || Ok(job(&installation, "4711")?.filter(|job| !job["ranks"][1]["exited_at"].is_null())),
        )?;
    assert_eq!(
        (&ended["ranks"][1]["exit_signal"], &ended["ranks"][1]["oom_killed"]),
        (&json!(9), &json!(false)),
        "{ended:#}"
    );
    assert!(ended["ranks"][0]["exited_at"].is_null(), "{ended:#}");
    let placement = installation.rows(&["placement"])?;
    assert_eq!(placement.len(), 1, "{placement:#?}");
    assert!(placement[0]["devices"].is_array() && placement[0]["paths"].is_array(), "{placement:#?}");
    Ok(())
}
