//! Figures of the uplink: frames per second through spool, TLS and acknowledgement, and bytes per sample.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

mod collector;

use collector::*;
use prost::Message;
use railwatch_uplink::Uplink;
use std::time::{Duration, Instant};

#[test]
fn a_sample_costs_at_most_50_bytes_and_a_signal_is_stored_within_50_ms() {
    let frame = windows(1, 0xcbf2_9ce4_8422_2325, 200).encoded_len();
    println!("bytes per sample, 200 series in a window: {:.1}", frame as f64 / 200.0);
    assert!(frame <= 200 * 50, "{frame}");

    let site = Site::new();
    let running = site.listen("127.0.0.1:0");
    let (uplink, thread) = Uplink::start(site.options(&running.address)).unwrap();
    define(&uplink, 0..200);
    eventually("it is connected", || uplink.state().connected);
    let mut delays = Vec::new();
    for payload in 0..100 {
        let handed_over = Instant::now();
        uplink.signal(signal(payload)).unwrap();
        eventually("the signal is stored", || site.stored(|stored| stored.frames.len() as u64 == payload + 1));
        delays.push(handed_over.elapsed());
        std::thread::sleep(Duration::from_millis(3));
    }
    delays.sort_unstable();
    println!("from hand-over to stored: median {:?}, worst of 100 {:?} (read every 2 ms)", delays[50], delays[99]);

    // As on a host: a window of 200 series a second, and signs of life between.
    let (begun, busy) = (Instant::now(), uplink_cpu());
    for payload in 0..5 {
        uplink.windows(windows(payload, 0, 200)).unwrap();
        std::thread::sleep(Duration::from_secs(1));
    }
    let share = (uplink_cpu() - busy).as_secs_f64() / begun.elapsed().as_secs_f64();
    println!("the uplink's threads at one window of 200 series a second: {:.2} % of a core", share * 100.0);
    assert!(share < 0.02, "{share}");

    for (what, count) in [("signals", 20_000u64), ("windows of 200 series", 5_000)] {
        let begun = Instant::now();
        let already = site.stored(|stored| stored.frames.len());
        for payload in 0..count {
            match what {
                "signals" => {
                    while uplink.signal(signal(payload)).is_err() {
                        std::thread::sleep(Duration::from_micros(200))
                    }
                }
                _ => {
                    while uplink.windows(windows(payload, 0, 200)).is_err() {
                        std::thread::sleep(Duration::from_micros(200))
                    }
                }
            }
        }
        eventually("all are stored", || site.stored(|stored| stored.frames.len() - already) as u64 == count);
        println!("{what}: {:.0} frames/s through", count as f64 / begun.elapsed().as_secs_f64());
    }
    uplink.stop();
    thread.join().unwrap();
    running.kill();
}

/// Time on a processor of this process's uplink threads (proc(5): schedstat, nanoseconds).
fn uplink_cpu() -> Duration {
    let threads = std::fs::read_dir("/proc/self/task").unwrap().map(|entry| entry.unwrap().path());
    let of_uplink = |path: &std::path::PathBuf| {
        std::fs::read_to_string(path.join("comm")).is_ok_and(|name| name.starts_with("railwatch-"))
    };
    let on_cpu = |path: std::path::PathBuf| {
        let text = std::fs::read_to_string(path.join("schedstat")).unwrap();
        text.split(' ').next().unwrap().parse::<u64>().unwrap()
    };
    Duration::from_nanos(threads.filter(of_uplink).map(on_cpu).sum())
}
