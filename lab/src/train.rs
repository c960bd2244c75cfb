//! A program shaped like training: what the lab's hosts run, one rank each.
//!
//! In: own rank, everybody's addresses per rail, sizes, a folder of GPU libraries. Out: a line of JSON per iteration on
//! standard output ([`Iteration`]), and what TCP had to send again, per rail, in a file for the emulated NICs. Never: a real
//! GPU, real mathematics: the bytes are zeros, but they really cross the fabric.
//!
//! An iteration computes (sleeps, mostly: eight hosts share a machine), allocates and frees GPU memory, then exchanges a
//! ring all-reduce over all rails at once and an all-to-all, both as NCCL would, over one TCP connection per pair of ranks
//! and rail. SIGUSR1 makes the rank's GPU memory run out, SIGUSR2 gives it back.

pub mod exchange;
mod gpu;
mod mesh;

use anyhow::{Context, Result, ensure};
use exchange::{Transfer, exchange};
use gpu::{Gpu, Libraries};
use mesh::Mesh;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use serde::{Deserialize, Serialize};
use std::{
    fs::File,
    io::Write,
    net::Ipv4Addr,
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// What a rank is told.
#[derive(clap::Args)]
pub struct Options {
    /// Own rank, from 0
    #[arg(long)]
    rank: usize,
    /// Addresses of all ranks: rails are parted by commas, ranks by slashes
    #[arg(long, value_parser = addresses)]
    ranks: Addresses,
    /// Folder of libcudart.so and libnccl.so
    #[arg(long)]
    libraries: PathBuf,
    /// Time of an iteration that is no communication, ms
    #[arg(long, default_value_t = 60)]
    compute_ms: u64,
    /// Bytes that all ranks reduce in an iteration, on each rail
    #[arg(long, default_value_t = 512 * 1024)]
    reduce_bytes: usize,
    /// Bytes that each rank sends to each other one in an iteration, on each rail
    #[arg(long, default_value_t = 8 * 1024)]
    all_to_all_bytes: usize,
    /// Where what TCP sent again is kept, for the emulated NICs
    #[arg(long)]
    losses: Option<PathBuf>,
    /// End after so many iterations; 0: go on
    #[arg(long, default_value_t = 0)]
    iterations: u64,
}

/// Addresses of a rank by rail, of all ranks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses(pub Vec<Vec<Ipv4Addr>>);

/// The words that [`Options::ranks`] is parsed from.
#[must_use]
pub fn addresses_text(ranks: &Addresses) -> String {
    let rails = |rails: &Vec<Ipv4Addr>| rails.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    ranks.0.iter().map(rails).collect::<Vec<_>>().join("/")
}

fn addresses(text: &str) -> Result<Addresses, String> {
    let rank = |rank: &str| rank.split(',').map(|address| address.parse().map_err(|_| address.to_owned())).collect();
    let ranks: Vec<Vec<Ipv4Addr>> = text
        .split('/')
        .map(rank)
        .collect::<Result<_, String>>()
        .map_err(|bad| format!("`{bad}` is no IPv4 address"))?;
    if ranks.iter().any(|rails| rails.len() != ranks[0].len()) {
        return Err("every rank has as many rails as the others".into());
    }
    Ok(Addresses(ranks))
}

/// What a rank says after each iteration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Iteration {
    /// Whose.
    pub rank: usize,
    /// From 0.
    pub iteration: u64,
    /// All of it, ms.
    pub ms: f64,
    /// The all-reduce, ms.
    pub ring_ms: f64,
    /// The all-to-all, ms.
    pub all_to_all_ms: f64,
    /// When it ended, Unix ms.
    pub end_unix_ms: u64,
}

/// Between a library's loading and its first call: a framework takes far longer to start.
const IMPORT: Duration = Duration::from_secs(1);

/// Set by SIGUSR1, cleared by SIGUSR2.
static OUT_OF_MEMORY: AtomicBool = AtomicBool::new(false);

extern "C" fn on_signal(signal: i32) {
    OUT_OF_MEMORY.store(signal == Signal::SIGUSR1 as i32, Ordering::Relaxed);
}

/// Runs until it is killed, a peer ends, or the iterations are done.
///
/// # Errors
/// A library that cannot be loaded, a peer that is gone.
pub fn train(options: &Options) -> Result<()> {
    let Options { rank, ranks: Addresses(ranks), .. } = options;
    ensure!(*rank < ranks.len(), "rank {rank} of {} ranks", ranks.len());
    for signal in [Signal::SIGUSR1, Signal::SIGUSR2] {
        let action = SigAction::new(SigHandler::Handler(on_signal), SaFlags::SA_RESTART, SigSet::empty());
        // SAFETY: the handler stores into an atomic and nothing else.
        unsafe { sigaction(signal, &action) }?;
    }
    let libraries = Libraries::load(&options.libraries)?;
    let mesh = Mesh::connect(*rank, ranks)?;
    thread::sleep(IMPORT);
    let gpu = Gpu::open(&libraries, *rank, ranks.len())?;
    let losses =
        options.losses.as_ref().map(|path| File::create(path).with_context(|| format!("make {}", path.display())));
    let losses = losses.transpose()?;
    let mut rank_loop = Rank { options, gpu, mesh, losses, buffer: vec![0; 64 * 1024] };
    let mut iteration = 0;
    while options.iterations == 0 || iteration < options.iterations {
        rank_loop.iterate(iteration)?;
        iteration += 1;
    }
    Ok(())
}

struct Rank<'a> {
    options: &'a Options,
    gpu: Gpu,
    mesh: Mesh,
    losses: Option<File>,
    buffer: Vec<u8>,
}

impl Rank<'_> {
    fn iterate(&mut self, iteration: u64) -> Result<()> {
        let start = Instant::now();
        // A rank whose allocation fails cannot go on, and everybody waits for it.
        while !self.gpu.step(OUT_OF_MEMORY.load(Ordering::Relaxed)) {
            thread::sleep(Duration::from_millis(100));
        }
        // Most of the time is waited, a tenth is spent.
        thread::sleep(Duration::from_millis(self.options.compute_ms * 9 / 10));
        let end = start + Duration::from_millis(self.options.compute_ms);
        while Instant::now() < end {
            std::hint::spin_loop();
        }
        let ring = Instant::now();
        self.gpu.all_reduce(self.options.reduce_bytes);
        self.ring()?;
        let all_to_all = Instant::now();
        self.gpu.all_to_all(self.options.all_to_all_bytes);
        self.all_to_all()?;
        let done = Instant::now();
        self.write_losses()?;
        let ms = |span: Duration| (span.as_secs_f64() * 1e6).round() / 1e3;
        let said = Iteration {
            rank: self.options.rank,
            iteration,
            ms: ms(done - start),
            ring_ms: ms(all_to_all - ring),
            all_to_all_ms: ms(done - all_to_all),
            end_unix_ms: u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?,
        };
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}", serde_json::to_string(&said)?)?;
        Ok(out.flush()?)
    }

    /// Reduce-scatter, then all-gather: each of `2 (n - 1)` steps passes the n-th part on to the next rank.
    fn ring(&mut self) -> Result<()> {
        let (n, rank) = (self.options.ranks.0.len(), self.options.rank);
        let part = self.options.reduce_bytes.div_ceil(n);
        for _ in 0..2 * (n - 1) {
            self.all_rails(|mesh, rail, transfers| {
                transfers.push(Transfer::send(mesh.peer(rail, (rank + 1) % n), part));
                transfers.push(Transfer::receive(mesh.peer(rail, (rank + n - 1) % n), part));
            })?;
        }
        Ok(())
    }

    /// Each rank with each other one at once.
    fn all_to_all(&mut self) -> Result<()> {
        let (n, rank, bytes) = (self.options.ranks.0.len(), self.options.rank, self.options.all_to_all_bytes);
        self.all_rails(|mesh, rail, transfers| {
            for peer in (0..n).filter(|peer| *peer != rank) {
                transfers.push(Transfer::send(mesh.peer(rail, peer), bytes));
                transfers.push(Transfer::receive(mesh.peer(rail, peer), bytes));
            }
        })
    }

    fn all_rails<'a>(&'a mut self, mut of_rail: impl FnMut(&'a Mesh, usize, &mut Vec<Transfer<'a>>)) -> Result<()> {
        let mut transfers = Vec::new();
        for rail in 0..self.options.ranks.0[0].len() {
            of_rail(&self.mesh, rail, &mut transfers);
        }
        exchange(&mut transfers, &mut self.buffer)
    }

    fn write_losses(&mut self) -> Result<()> {
        let Some(file) = &self.losses else { return Ok(()) };
        let lines: Vec<_> = self
            .mesh
            .losses()?
            .iter()
            .map(|loss| format!("{:010} {:010}\n", loss.sent_again, loss.out_of_sequence))
            .collect();
        Ok(file.write_all_at(lines.concat().as_bytes(), 0)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_command_line() {
        let address = |last| Ipv4Addr::new(10, 0, 0, last);
        let ranks = Addresses(vec![vec![address(1), address(2)], vec![address(3), address(4)]]);
        assert_eq!(addresses(&addresses_text(&ranks)), Ok(ranks));
        for bad in ["", "10.0.0.1,10.1.0.1/10.0.0.3", "10.0.0.x"] {
            assert!(addresses(bad).is_err(), "{bad}");
        }
    }
}
