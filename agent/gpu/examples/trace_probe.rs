//! Traces one library until standard input ends, then prints how many calls were counted: what
//! `cargo xtask bench probe` compares with bpftrace. Prints "attached" when the measuring may begin.
//!
//! usage: trace_probe LIBRARY

use railwatch_gpu::{
    accounts::Accounts,
    discovery::{Wanted, index},
    kernel::{Kernel, Options},
    symbols::{TABLE, by_name},
};
use std::{error::Error, fs::File, io::Read, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let library = PathBuf::from(std::env::args_os().nth(1).ok_or("usage: trace_probe LIBRARY")?);
    let wanted = Wanted::new(TABLE.iter().map(|symbol| symbol.name));
    let points: Vec<_> = index(&File::open(&library)?, &wanted)?
        .found
        .iter()
        .filter_map(|found| Some((by_name(wanted.name(found.symbol)?)?.0, found.file_offset)))
        .collect();
    let mut kernel = Kernel::load(Options::default())?;
    kernel.attach(&library, &points)?;
    println!("attached");
    std::io::stdin().read_to_end(&mut Vec::new())?;

    kernel.drain(|_| {});
    let snapshot = Accounts::default().refresh(&kernel)?;
    let rows = snapshot.processes.iter().flat_map(|process| process.memory.values());
    let counted: u64 = rows.map(|row| row.allocs + row.frees + row.failed_allocs()).sum();
    let loss = kernel.loss();
    // Events beyond the cap are left out on purpose, and the calls behind them are counted.
    let lost = loss.by_reason.values().sum::<u64>() - loss.events_dropped();
    println!("{}", serde_json::json!({ "counted": counted, "lost": lost }));
    Ok(())
}
