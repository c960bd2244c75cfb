//! The load of `cargo xtask bench uplink`: hosts that send windows as fast as the collector acknowledges them, then
//! signals one by one, each timed until the API shows its incident. Or, with `--processes`, real processes whose
//! allocation fails under the real agent, timed from the call. Prints one JSON object.

use anyhow::{Context, Result, ensure};
use clap::Parser;
use prost::Message;
use railwatch_tests::{gpu::Caller, uplink::Host};
use railwatch_wire::{
    series,
    v1::{Definitions, Entity, Frame, SeriesDefinition, Severity, Signal, Windows, agent_message::Body, frame},
};
use serde_json::json;
use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    sync::mpsc,
    time::{Duration, Instant},
};

/// Frames of one host that may wait for acknowledgement: the agent's own bound.
const IN_FLIGHT: u64 = 64;
/// Longest wait for one incident.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Parser)]
struct Options {
    /// The collector's uplink, HOST:PORT
    #[arg(long)]
    uplink: String,
    /// The collector's API, a base URL
    #[arg(long)]
    api: String,
    /// A file with a token that may read
    #[arg(long)]
    token_file: PathBuf,
    /// A folder with one folder per host, named as the host, holding its certificate
    #[arg(long)]
    pki: PathBuf,
    /// Series of each host
    #[arg(long, default_value_t = 400)]
    series: usize,
    /// How long windows are sent, seconds
    #[arg(long, default_value_t = 15)]
    seconds: u64,
    /// How many signals are timed
    #[arg(long, default_value_t = 300)]
    signals: u64,
    /// Send nothing: time this many processes whose allocation fails on this host, which an agent watches
    #[arg(long)]
    processes: Option<u64>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let options = Options::parse();
    if let Some(processes) = options.processes {
        println!("{}", json!({ "event_to_incident_ms": failing_processes(&options, processes)? }));
        return Ok(());
    }
    let start = Instant::now();
    let mut names: Vec<_> = std::fs::read_dir(&options.pki)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    names.sort();
    let mut hosts = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let stream_id = u128::try_from(index)?.wrapping_add(u128::from(std::process::id()) << 64).to_be_bytes();
        let host = Host::connect(&options.uplink, &options.pki.join(name), name, stream_id, start).await?;
        host.send(Body::Definitions(Definitions { series: (0..options.series).map(definition).collect() })).await?;
        hosts.push(host);
    }

    let begun = Instant::now();
    let end = begun + Duration::from_secs(options.seconds);
    let loads = hosts.iter().map(|host| windows(host, options.series, start, end));
    let sent = futures_join(loads).await?;
    let seconds = begun.elapsed().as_secs_f64();
    let frames: u64 = sent.iter().map(|sent| sent.frames).sum();
    let bytes: u64 = sent.iter().map(|sent| sent.bytes).sum();
    let samples = frames * u64::try_from(options.series)?;

    let host = hosts.first().context("at least one host")?;
    let next = sent.first().map_or(1, |sent| sent.frames + 1);
    let latencies = incidents(&options, host, next, start).await?;
    println!(
        "{}",
        json!({
            "samples": samples,
            "seconds": seconds,
            "bytes_per_sample": bytes as f64 / samples as f64,
            "event_to_incident_ms": latencies,
        })
    );
    Ok(())
}

/// All of them at once, on this thread.
async fn futures_join<T>(futures: impl Iterator<Item = impl Future<Output = Result<T>>>) -> Result<Vec<T>> {
    let mut running: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        for (future, done) in &mut running {
            if done.is_none()
                && let std::task::Poll::Ready(output) = future.as_mut().poll(context)
            {
                *done = Some(output);
            }
        }
        if running.iter().all(|(_, done)| done.is_some()) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    running.into_iter().filter_map(|(_, done)| done).collect()
}

struct Sent {
    frames: u64,
    bytes: u64,
}

fn definition(index: usize) -> SeriesDefinition {
    let entity = format!("mlx5_{}/1", index % 8);
    let name = format!("rdma.port.bench_{}", index / 8);
    SeriesDefinition {
        id: series::id(&name, "port", &entity, []),
        name,
        unit: "By".into(),
        monotonic: true,
        entity: Some(Entity { kind: "port".into(), name: entity }),
        labels: Default::default(),
    }
}

async fn windows(host: &Host, count: usize, start: Instant, end: Instant) -> Result<Sent> {
    let ids: Vec<_> = (0..count).map(|index| definition(index).id).collect();
    let mut sent = Sent { frames: 0, bytes: 0 };
    let mut at_ns = u64::try_from(start.elapsed().as_nanos())?;
    while Instant::now() < end {
        let sequence = sent.frames + 1;
        host.acknowledged_through(sequence.saturating_sub(IN_FLIGHT)).await;
        // Values as counters give them: no two alike, none round.
        let rate = |index: usize| 1.25e10 + (sequence as f64 * 977.0 + index as f64 * 131.0).sin() * 3.1e7;
        let rates: Vec<f64> = (0..count).map(rate).collect();
        let columns = Windows {
            start_mono_ns: at_ns,
            end_mono_ns: at_ns + 1_000_000,
            series: ids.clone(),
            count: vec![100; count],
            sum: rates.iter().map(|rate| rate * 100.0).collect(),
            min: rates.iter().map(|rate| rate * 0.93).collect(),
            max: rates.iter().map(|rate| rate * 1.07).collect(),
            last: rates.clone(),
            delta: rates.iter().map(|rate| *rate as u64).collect(),
            resets: vec![0; count],
            incomplete_since_mono_ns: None,
            flags: vec![],
        };
        at_ns += 1_000_000;
        let frame = Frame { sequence, body: Some(frame::Body::Windows(columns)), ..Frame::default() };
        sent.bytes += u64::try_from(frame.encoded_len())?;
        sent.frames = sequence;
        host.frame(frame).await?;
    }
    host.acknowledged_through(sent.frames).await;
    Ok(sent)
}

/// The lines of the API's event stream from now on.
fn watch(options: &Options) -> Result<mpsc::Receiver<String>> {
    let (sender, seen) = mpsc::channel::<String>();
    let token = std::fs::read_to_string(&options.token_file)?;
    let answer = ureq::get(format!("{}/v1/watch", options.api))
        .header("Authorization", format!("Bearer {}", token.trim()))
        .call()
        .context("watch the API")?;
    std::thread::spawn(move || {
        for line in BufReader::new(answer.into_body().into_reader()).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    Ok(seen)
}

/// Time from the call that fails, in a process never seen before, until an incident names the process.
fn failing_processes(options: &Options, processes: u64) -> Result<Vec<f64>> {
    let seen = watch(options)?;
    // The library is traced from its first user on; the figures are of processes that come after.
    let _first = Caller::start(&["libcudart.so"])?;
    std::thread::sleep(Duration::from_secs(1));
    let mut latencies = Vec::new();
    for _ in 0..processes {
        let mut caller = Caller::start(&["libcudart.so"])?;
        caller.call("fixture_fail_next 2")?;
        let wanted = format!("\"{}\"", caller.pid());
        let begun = Instant::now();
        caller.call("cudaMalloc &0 1073741824")?;
        loop {
            let left = PATIENCE.saturating_sub(begun.elapsed());
            let line = seen.recv_timeout(left).with_context(|| format!("no incident named process {wanted}"))?;
            if line.contains(&wanted) {
                break;
            }
        }
        latencies.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    Ok(latencies)
}

/// Each signal fails an allocation of a process that was never seen; the time until an incident names that process.
async fn incidents(options: &Options, host: &Host, first: u64, start: Instant) -> Result<Vec<f64>> {
    let seen = watch(options)?;
    let mut latencies = Vec::new();
    for index in 0..options.signals {
        let process = format!("{}", 1_000_000 + index);
        let begun = Instant::now();
        let signal = Signal {
            name: "gpu.alloc.failed".into(),
            entity: Some(Entity { kind: "process".into(), name: process.clone() }),
            severity: Severity::Error.into(),
            observed_mono_ns: u64::try_from(start.elapsed().as_nanos())?,
            half_width_ns: 1_000,
            value: 1.0,
            unit: "1".into(),
            summary: "cudaMalloc failed".into(),
            attributes: [("code".to_owned(), "2".to_owned())].into(),
            ..Signal::default()
        };
        host.frame(Frame { sequence: first + index, body: Some(frame::Body::Signal(signal)), ..Frame::default() })
            .await?;
        let wanted = format!("\"{process}\"");
        loop {
            // The stream must go on while this waits.
            tokio::time::sleep(Duration::from_micros(200)).await;
            if seen.try_iter().any(|line| line.contains(&wanted)) {
                break;
            }
            ensure!(begun.elapsed() < PATIENCE, "no incident named process {process} within {PATIENCE:?}");
        }
        latencies.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    Ok(latencies)
}
