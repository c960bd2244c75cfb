//! The agent under a service manager, and over its own death.

use crate::agent::{Agent, PROGRAM, arguments};
use crate::collector::{Site, eventually, signals_of};
use crate::gpu::attached;
use crate::group::{Caller, Group};
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

#[test]
fn the_service_manager_hears_of_start_reload_life_and_end() {
    let site = Site::new();
    let path = site.dir.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let hear = |wanted: &str| {
        let mut buffer = [0; 4096];
        loop {
            let length = manager.recv(&mut buffer).unwrap_or_else(|error| panic!("{wanted} was not said: {error}"));
            let said = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if said.lines().any(|line| line == wanted) {
                return said;
            }
        }
    };
    std::fs::write(site.dir.path().join("agent.toml"), "[health]\nenabled = false\n").unwrap();
    let mut command = Command::new(PROGRAM);
    command.arg("run").args(arguments(&site, "127.0.0.1:1"));
    std::fs::write(site.dir.path().join("agent.toml"), "[gpu]\nenabled = false\n").unwrap();
    let agent = Agent::spawn_only(&site, command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "400000"));
    let ready = hear("READY=1");
    assert!(ready.contains("STATUS=watching"), "{ready}");
    hear("WATCHDOG=1");
    hear("WATCHDOG=1");
    agent.signal("HUP");
    let reloading = hear("RELOADING=1");
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    hear("READY=1");
    agent.signal("TERM");
    hear("STOPPING=1");
}

#[test]
fn balances_survive_a_kill_of_the_agent_where_they_are_pinned() {
    let (site, group) = (Site::new(), Group::unified());
    let collector = site.listen("127.0.0.1:0");
    let pins = format!("/sys/fs/bpf/railwatch-test-{}", std::process::id());
    let scope = format!("cgroup:{}", group.0.display());
    let mut arguments: Vec<String> = arguments(&site, &collector.address);
    arguments.retain(|argument| argument != "--no-pin");
    arguments.extend(["--pin-dir".into(), pins.clone(), "--scope".into(), scope]);
    let start = || Agent::spawn(&site, Command::new(PROGRAM).arg("run").args(&arguments));

    let agent = start();
    let other = Site::new();
    let mut second = arguments.clone();
    for (flag, value) in [("--state-dir", "state"), ("--config", "agent.toml")] {
        let at = second.iter().position(|argument| argument == flag).unwrap();
        second[at + 1] = other.dir.path().join(value).display().to_string();
    }
    std::fs::write(other.dir.path().join("agent.toml"), "[health]\nenabled = false\n").unwrap();
    let second = Agent::spawn(&other, Command::new(PROGRAM).arg("run").args(&second));
    assert!(second.log().contains("another agent of this scope holds the pins"), "{}", second.log());
    assert!(!agent.log().contains("another agent"), "{}", agent.log());
    drop(second);
    let keeper = Caller::start(&group, |_| {});
    eventually("the library is attached", || attached(&site, keeper.pid()));
    let mut caller = Caller::start(&group, |_| {});
    eventually("the process is known", || attached(&site, caller.pid()));
    assert_eq!(caller.call("cudaMalloc &0 1000"), 0);
    // A kill -9: nothing is said to anybody, the spool's lock and the sockets go with the process.
    agent.signal("KILL");
    drop(agent);
    assert_eq!(caller.call("cudaMalloc &1 200"), 0, "nobody runs, and the pinned probes count");
    site.stored(|stored| stored.snapshots.clear());
    let agent = start();
    let pid = caller.pid();
    let balance = || {
        site.stored(|stored| {
            let gpu = stored.snapshots.iter().rev().find_map(|snapshot| snapshot.gpu.as_ref())?;
            let process = gpu.processes.iter().find(|process| process.pid == pid)?;
            Some((process.balances.first()?.allocated_bytes, process.incomplete_since_unix_ns))
        })
    };
    eventually("the books go on", || balance().is_some());
    assert_eq!(balance(), Some((1200, None)), "exact, and not marked: nothing was missed");
    agent.end();
    drop((caller, keeper));
    remove_pins(std::path::Path::new(&pins));
}

/// From the inside out, as a bpffs wants it.
fn remove_pins(folder: &std::path::Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { remove_pins(&path) } else { drop(std::fs::remove_file(path)) }
    }
    let _ = std::fs::remove_dir(folder);
}

#[test]
fn a_signal_raised_while_no_collector_is_there_arrives_after_a_kill_of_the_agent() {
    let (site, group) = (Site::new(), Group::unified());
    let scope = format!("cgroup:{}", group.0.display());
    let agent = Agent::start(&site, "127.0.0.1:1", &["--scope", &scope]);
    let mut caller = Caller::start(&group, |_| {});
    eventually("the library is attached", || agent.metric("railwatch_gpu_objects{status=\"attached\"}") == Some(1.0));
    caller.call("fixture_fail_next 2");
    caller.call("cudaMalloc &0 4711");
    eventually("the signal is spooled", || agent.metric("railwatch_agent_spool_waiting{kind=\"signal\"}") == Some(1.0));
    agent.signal("KILL");
    drop(agent);
    let collector = site.listen("127.0.0.1:0");
    let agent = Agent::start(&site, &collector.address, &["--scope", &scope]);
    eventually("it arrives", || site.stored(|stored| signals_of(stored) == [4711]));
    agent.end();
}
