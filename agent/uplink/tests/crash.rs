//! What the spool promises when the agent is killed and when the disk refuses.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

mod collector;

use collector::*;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use railwatch_uplink::Uplink;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const RUN: u64 = 1_000_000;

/// The agent that the next test kills: hands over signals and windows as fast as they are taken, and notes how many
/// signals the spool had.
#[test]
#[ignore = "is the child process of the next test"]
fn child() {
    let site = PathBuf::from(std::env::var("SITE").unwrap());
    let run: u64 = std::env::var("RUN").unwrap().parse().unwrap();
    let (uplink, _thread) = Uplink::start(options(&site, &std::env::var("ADDRESS").unwrap())).unwrap();
    define(&uplink, 0..20);
    eventually("the spool is open", || uplink.state().spool.next_sequence > 0);
    let before = spooled(&uplink);
    let note = site.join(format!("spooled.{run}"));
    for payload in 0.. {
        eventually("a signal is taken", || uplink.signal(signal(run * RUN + payload)).is_ok());
        if payload % 5 == 0 {
            let _ = uplink.windows(windows(run * RUN + payload, 0, 20));
        }
        if payload % 50 == 0 {
            // Counts windows too, so it is below what it may claim.
            let windows_at_most = payload / 5 + 1;
            let known = (spooled(&uplink) - before).saturating_sub(windows_at_most).min(payload);
            std::fs::write(&note, known.to_string()).unwrap();
        }
    }
}

fn spooled(uplink: &railwatch_uplink::UplinkHandle) -> u64 {
    let spool = uplink.state().spool;
    spool.next_sequence + spool.waiting_signals + spool.waiting_windows
}

#[test]
fn an_agent_killed_mid_write_loses_and_doubles_nothing() {
    let site = Site::new();
    let mut running = site.listen("127.0.0.1:0");
    let address = running.address.clone();
    let runs = 12;
    for run in 0..runs {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "child"])
            .env("SITE", site.dir.path())
            .env("RUN", run.to_string())
            .env("ADDRESS", &address)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let note = site.dir.path().join(format!("spooled.{run}"));
        eventually("the child is under way", || note.exists());
        std::thread::sleep(Duration::from_millis(7 * run % 50));
        if run % 3 == 1 {
            // The collector goes first, and some of what it stored is not acknowledged.
            running.kill();
            std::thread::sleep(Duration::from_millis(10));
            running = site.listen(&address);
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let (uplink, thread) = Uplink::start(options(site.dir.path(), &address)).unwrap();
    uplink.signal(signal(runs * RUN)).unwrap();
    eventually("everything is acknowledged", || settled(&uplink.state()));
    uplink.stop();
    thread.join().unwrap();
    let mut by_run: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    site.stored(|stored| {
        for payload in signals_of(stored) {
            by_run.entry(payload / RUN).or_default().push(payload % RUN);
        }
        let sequences: Vec<u64> = stored.frames.iter().map(|frame| frame.sequence).collect();
        assert!(sequences.windows(2).all(|pair| pair[0] < pair[1]), "sequences grow for ever");
        println!("{} frames over {runs} kills, {} replays recognised", sequences.len(), stored.replays);
        let ids: std::collections::HashSet<_> = stored.hellos.iter().map(|hello| hello.stream_id.clone()).collect();
        assert_eq!(ids.len(), 1);
        let mut seen = windows_of(stored);
        let all = seen.len();
        seen.dedup();
        assert_eq!(seen.len(), all, "no windows twice");
    });
    for run in 0..runs {
        let payloads = by_run.remove(&run).unwrap_or_default();
        assert_eq!(
            payloads,
            (0..payloads.len() as u64).collect::<Vec<_>>(),
            "run {run}: each once, none missing before the kill"
        );
        let known: u64 =
            std::fs::read_to_string(site.dir.path().join(format!("spooled.{run}"))).unwrap().parse().unwrap_or(0);
        assert!(payloads.len() as u64 >= known, "run {run}: {} of {known} that were spooled", payloads.len());
    }
    running.kill();
}

struct Tmpfs(PathBuf);

impl Tmpfs {
    /// A small filesystem of its own; `None` only where skipping was allowed.
    fn mount(path: &Path, options: &str) -> Option<Self> {
        std::fs::create_dir(path).unwrap();
        match mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some(options)) {
            Ok(()) => Some(Self(path.to_owned())),
            Err(error) if std::env::var_os("RAILWATCH_ALLOW_SKIP").is_some() => {
                println!("SKIPPED: cannot mount a tmpfs: {error}");
                None
            }
            Err(error) => {
                panic!("this test needs to mount a tmpfs (run it as root, or set RAILWATCH_ALLOW_SKIP=1): {error}")
            }
        }
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_full_disk_is_said_and_survived_and_used_again() {
    let site = Site::new();
    let Some(_disk) = Tmpfs::mount(&site.spool(), "size=1m") else { return };
    let address = free_address();
    let (uplink, thread) = Uplink::start(site.options(&address)).unwrap();
    let count = 8000;
    for payload in 0..count {
        eventually("a signal is taken", || uplink.signal(signal(payload)).is_ok());
    }
    eventually("all are spooled", || uplink.state().spool.waiting_signals == count);
    let state = uplink.state();
    assert!(state.spool.memory_bytes > 0 && state.spool.disk_errors > 0, "{:?}", state.spool);
    assert!(state.limitations.iter().any(|limit| limit.why.contains("No space left")), "{:?}", state.limitations);
    let failures = state.failures;
    eventually("a dial began after the disk was full", || uplink.state().failures >= failures + 2);
    let running = site.listen(&address);
    eventually("everything is acknowledged", || settled(&uplink.state()));
    site.stored(|stored| {
        let limits = &stored.hellos.last().unwrap().limitations;
        assert!(
            limits.iter().any(|limit| limit.what == "spool"),
            "{} hellos, {limits:?} {state:?} {:?}",
            stored.hellos.len(),
            uplink.state()
        );
    });
    let mut payload = count;
    let deadline = Instant::now() + Duration::from_secs(20);
    while !uplink.state().limitations.is_empty() {
        assert!(Instant::now() < deadline, "the disk has room again: {:?}", uplink.state());
        uplink.signal(signal(payload)).unwrap();
        payload += 1;
        std::thread::sleep(Duration::from_millis(100));
    }
    eventually("everything is acknowledged", || settled(&uplink.state()));
    assert_eq!(site.stored(|stored| signals_of(stored)), (0..payload).collect::<Vec<_>>());
    uplink.stop();
    thread.join().unwrap();
    running.kill();
}

#[test]
fn a_hanging_disk_does_not_make_the_host_look_dead() {
    let site = Site::new();
    let address = free_address();
    let (uplink, thread) = Uplink::start(site.options(&address)).unwrap();
    uplink.signal(signal(0)).unwrap();
    eventually("it is spooled", || uplink.state().spool.waiting_signals == 1);
    // A FIFO hangs whoever opens it for reading, as a dead disk does, until the other end is opened.
    let segment = std::fs::read_dir(site.spool().join("signals")).unwrap().next().unwrap().unwrap().path();
    let (aside, fifo) = (site.dir.path().join("aside"), site.dir.path().join("fifo"));
    std::fs::rename(&segment, &aside).unwrap();
    nix::unistd::mkfifo(&segment, nix::sys::stat::Mode::S_IRWXU).unwrap();
    site.faults(|faults| faults.probe_every = Some(Duration::from_millis(50)));
    let running = site.listen(&address);
    eventually("clock probes are answered", || site.stored(|stored| stored.replies.len() > 20));
    assert!(site.stored(|stored| stored.frames.is_empty()), "the driver hangs");
    std::fs::rename(&segment, &fifo).unwrap();
    std::fs::rename(&aside, &segment).unwrap();
    drop(std::fs::OpenOptions::new().write(true).open(&fifo).unwrap());
    uplink.signal(signal(1)).unwrap();
    eventually("everything came once the disk did", || site.stored(|stored| signals_of(stored) == [0, 1]));
    uplink.stop();
    thread.join().unwrap();
    running.kill();
}

#[test]
fn a_read_only_disk_is_said_and_survived() {
    let site = Site::new();
    let Some(_disk) = Tmpfs::mount(&site.spool(), "size=1m,ro") else { return };
    let running = site.listen("127.0.0.1:0");
    let (uplink, thread) = Uplink::start(site.options(&running.address)).unwrap();
    uplink.signal(signal(0)).unwrap();
    eventually("everything is acknowledged", || settled(&uplink.state()));
    assert!(
        uplink.state().limitations.iter().any(|limit| limit.why.contains("Read-only")),
        "{:?}",
        uplink.state().limitations
    );
    assert_eq!(site.stored(|stored| signals_of(stored)), [0]);
    uplink.stop();
    thread.join().unwrap();
    running.kill();
}
