//! Discovery with the real kernel half: a library's calls are counted from the first one after it is loaded, and what
//! waiting for it costs. Prints its figures (`cargo test -p railwatch-gpu --test discovery_cost -- --nocapture`).
//! Needs root.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

mod discovery_fixtures;

use std::time::{Duration, Instant};

use discovery_fixtures::{Bench, Running, build, options};
use railwatch_gpu::discovery::{Discovery, Event, Probes, Wanted};
use railwatch_gpu::kernel::{self, Kernel};
use railwatch_gpu::symbols::TABLE;

fn thread_cpu() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec to write to.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

#[test]
fn a_library_with_every_traced_function_is_attached_in_time_and_waiting_costs_little() {
    let bench = Bench::new();
    let program = bench.program("trainer", "", &[]);
    let mut probes = Probes::new(Kernel::load(kernel::Options::default()).expect("the kernel half loads"));
    let started = Instant::now();
    let wanted = Wanted::new(TABLE.iter().map(|symbol| symbol.name));
    let mut discovery = Discovery::start(options(), wanted, &mut probes).unwrap();
    let processes = std::fs::read_dir("/proc")
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().parse::<u32>().is_ok())
        .count();
    println!("start: {:?} for {processes} processes, {:?}", started.elapsed(), discovery.counters());

    let mut late_us = Vec::new();
    for number in 0..15 {
        let functions: String = TABLE
            .iter()
            .map(|symbol| format!("int {}(void *a, long b, long c, long d) {{ return 35 + {number}; }}\n", symbol.name))
            .collect();
        let library = bench.path(&format!("lib{number}.so"));
        build(&library, &functions, &["-shared", "-fPIC"]);
        let mut running = Running::new(&program);
        running.load(&library);
        let deadline = Instant::now() + Duration::from_secs(20);
        'found: loop {
            assert!(Instant::now() < deadline, "{} was not attached", library.display());
            for event in discovery.run_once(&mut probes, Duration::from_millis(100)) {
                if let Event::ObjectAttached { path, mapped_to_attached_ns: Some(late_ns), .. } = event
                    && std::path::Path::new(&path) == library
                {
                    late_us.push(late_ns / 1000);
                    break 'found;
                }
            }
        }
        let process = discovery.process(running.pid).unwrap();
        assert_eq!(process.incomplete, None);
        let rows = discovery.coverage();
        let row = rows.iter().find(|row| row.pid == running.pid).unwrap();
        assert_eq!(row.reason, None, "all functions are attached");
    }
    late_us.sort_unstable();
    println!("mapped to attached, {} functions: median {} us, worst {} us", TABLE.len(), late_us[7], late_us[14]);
    assert!(late_us[14] < 500_000);

    let (cpu, wall, before) = (thread_cpu(), Instant::now(), discovery.counters());
    while wall.elapsed() < Duration::from_secs(4) {
        discovery.run_once(&mut probes, Duration::from_secs(1));
    }
    let (cpu, wall) = (thread_cpu() - cpu, wall.elapsed());
    let mappings = discovery.counters().mappings - before.mappings;
    println!(
        "waiting: {:.3} % of a core over {wall:?} in which this host made {mappings} executable mappings",
        cpu.as_secs_f64() / wall.as_secs_f64() * 100.0
    );
}
