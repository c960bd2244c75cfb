//! Jobs, ranks and ends of processes, and collectives that stand still: from real processes in real control groups to the
//! collector. Needs root and BPF.

use crate::agent::Agent;
use crate::collector::{Site, Stored, eventually};
use crate::group::{Caller, Group, fixtures};
use railwatch_wire::v1::{PlacementState, Severity, Signal, Task, frame};
use std::io::Write;

/// A control group as Slurm makes it below `root`; the innermost first, so that they can be removed in order.
fn slurm_groups(root: &Group) -> Vec<Group> {
    let mut folder = root.0.clone();
    let mut groups = Vec::new();
    for name in ["slurmstepd.scope", "job_42", "step_0", "user", "task_3"] {
        folder = folder.join(name);
        std::fs::create_dir(&folder).unwrap();
        groups.insert(0, Group(folder.clone()));
    }
    groups
}

fn scoped(site: &Site, collector: &str, group: &Group) -> Agent {
    let agent = Agent::start(site, collector, &["--scope", &format!("cgroup:{}", group.0.display())]);
    assert_eq!(agent.metric("railwatch_gpu_probes_loaded"), Some(1.0), "needs root and BPF");
    agent
}

fn placement(stored: &Stored) -> Option<PlacementState> {
    stored.snapshots.iter().rev().find_map(|snapshot| snapshot.placement.clone())
}

fn task(site: &Site, pid: u32) -> Option<Task> {
    site.stored(|stored| placement(stored)?.tasks.into_iter().find(|task| task.pid == pid))
}

fn signals(site: &Site, name: &str, pid: u32) -> Vec<Signal> {
    site.stored(|stored| {
        let bodies = stored.frames.iter().filter_map(|frame| frame.body.clone());
        let signals =
            bodies.filter_map(|body| if let frame::Body::Signal(signal) = body { Some(signal) } else { None });
        let of_process = |signal: &Signal| {
            let pid = pid.to_string();
            signal.entity.as_ref().is_some_and(|entity| entity.name == pid)
                || signal.attributes.get("pid") == Some(&pid)
        };
        signals.filter(|signal| signal.name == name && of_process(signal)).collect()
    })
}

#[test]
fn every_process_has_its_job_and_rank_and_its_end_is_told_once() {
    let (site, group) = (Site::new(), Group::unified());
    let groups = slurm_groups(&group);
    let collector = site.listen("127.0.0.1:0");
    let agent = scoped(&site, &collector.address, &group);
    // The library is traced before the others begin.
    let keeper = Caller::start(&group, |_| {});
    eventually("the library is attached", || crate::gpu::attached(&site, keeper.pid()));
    // (what it does at its end, severity, an attribute of it)
    for (index, (line, severity, key, value)) in [
        ("exit 0", Severity::Info, "exit_code", "0"),
        ("exit 3", Severity::Error, "exit_code", "3"),
        ("on 1 exit 4", Severity::Error, "exit_code", "4"),
        ("crash", Severity::Error, "signal_name", "SIGSEGV"),
        ("raise 9", Severity::Error, "signal_name", "SIGKILL"),
        ("raise 15", Severity::Warning, "signal_name", "SIGTERM"),
    ]
    .into_iter()
    .enumerate()
    {
        let rank = index.to_string();
        let mut caller = Caller::start(&groups[0], |command| {
            command.envs([("RANK", rank.as_str()), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1"), ("SLURM_JOB_ID", "41")]);
            command.env("MASTER_ADDR", "10.0.0.1").env("AWS_SECRET_ACCESS_KEY", "s3cret");
        });
        let pid = caller.pid();
        eventually("the process is traced", || crate::gpu::attached(&site, pid));
        assert_eq!(caller.call("cudaMalloc &0 4096"), 0);
        eventually("its job is known", || task(&site, pid).is_some());
        let found = task(&site, pid).unwrap();
        assert_eq!(
            (
                found.scheduler.as_str(),
                found.job.as_str(),
                found.step.as_str(),
                found.rank,
                found.world_size,
                found.local_rank
            ),
            ("slurm", "42", "0", Some(index as u32), Some(8), Some(1)),
            "{found:?}"
        );
        assert_eq!(found.environment["MASTER_ADDR"], "10.0.0.1");
        assert!(!found.environment.contains_key("AWS_SECRET_ACCESS_KEY"));
        assert_eq!(found.contradictions, ["SLURM_JOB_ID is 41, and the control group is of job 42"]);
        caller.send(line);
        caller.process.wait().unwrap();
        eventually("its end is told", || !signals(&site, "process.exit", pid).is_empty());
        eventually("its end is in the state", || task(&site, pid).is_some_and(|task| task.exited_unix_ns.is_some()));
        let told = signals(&site, "process.exit", pid);
        assert_eq!(told.len(), 1, "{line}: {told:?}");
        let (signal, attributes) = (&told[0], &told[0].attributes);
        assert_eq!((signal.severity(), attributes[key].as_str()), (severity, value), "{line}: {signal:?}");
        assert_eq!((attributes["rank"].as_str(), attributes["job"].as_str()), (rank.as_str(), "42"), "{signal:?}");
        assert_eq!(attributes["oom_killed"], "false");
        let ended = task(&site, pid).unwrap();
        assert_eq!(
            ended.exit_code.map(|code| code.to_string()).as_deref(),
            attributes.get("exit_code").map(String::as_str)
        );
        assert_eq!(
            ended.exit_signal.map(|signal| signal.to_string()).as_deref(),
            attributes.get("signal").map(String::as_str)
        );
    }
    agent.end();
    drop(groups);
}

#[test]
fn a_rank_that_stands_still_while_another_goes_on_is_told() {
    let (site, group) = (Site::new(), Group::unified());
    let collector = site.listen("127.0.0.1:0");
    let agent = scoped(&site, &collector.address, &group);
    let start = |rank: u32| {
        let mut caller = Caller::start(&group, |command| {
            command.arg(fixtures().join("libnccl.so"));
        });
        eventually("its libraries are attached", || {
            let row = |row: &railwatch_wire::v1::GpuCoverage| {
                row.pid == caller.pid() && row.status == "attached" && row.object.contains("nccl")
            };
            site.stored(|stored| {
                stored
                    .snapshots
                    .iter()
                    .filter_map(|snapshot| snapshot.gpu.as_ref())
                    .any(|gpu| gpu.coverage.iter().any(row))
            })
        });
        assert_eq!(caller.call("id 100 7"), 0);
        assert_eq!(caller.call(&format!("big 2 16 100 ncclCommInitRank &0 2 {rank}")), 0);
        caller
    };
    // The first one has the library traced before the others begin.
    let _keeper = start(0);
    let (mut steady, mut stuck) = (start(0), start(1));
    let step = |caller: &mut Caller| assert_eq!(caller.call("ncclAllReduce 0 0 4 7 0 @0 0"), 0);
    // A busy host looks at its ranks less often, and learns their pace by what it sees.
    let moves_seen = |pid: u32| {
        site.stored(|stored| {
            let processes =
                stored.snapshots.iter().filter_map(|snapshot| snapshot.gpu.as_ref()).flat_map(|gpu| &gpu.processes);
            let sequences = processes.filter(|process| process.pid == pid).flat_map(|process| &process.communicators);
            sequences.map(|communicator| communicator.last_sequence).collect::<std::collections::BTreeSet<_>>().len()
        })
    };
    for _ in 0..240 {
        step(&mut steady);
        if moves_seen(stuck.pid()) < 22 {
            step(&mut stuck);
        }
        if !signals(&site, "collective.stalled", stuck.pid()).is_empty() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
    let told = signals(&site, "collective.stalled", stuck.pid());
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].attributes["cause"], "behind");
    assert_eq!(
        (told[0].attributes["rank"].as_str(), told[0].attributes["ahead_pid"].as_str()),
        ("1", steady.pid().to_string().as_str())
    );
    assert!(signals(&site, "collective.stalled", steady.pid()).is_empty());
    step(&mut stuck);
    eventually("it goes on", || !signals(&site, "collective.resumed", stuck.pid()).is_empty());
    agent.end();
}

#[test]
fn devices_are_those_of_the_sysfs_that_the_agent_is_told_of() {
    let site = Site::new();
    let sysfs = site.dir.path().join("sys");
    let (place, bus) = (sysfs.join("devices/pci0000:15/0000:15:01.0/0000:18:00.0"), sysfs.join("bus/pci/devices"));
    std::fs::create_dir_all(place.join("net/eth7")).unwrap();
    std::fs::create_dir_all(&bus).unwrap();
    for (file, text) in [("class", "0x020000\n"), ("vendor", "0x15b3\n"), ("numa_node", "1\n")] {
        std::fs::File::create(place.join(file)).unwrap().write_all(text.as_bytes()).unwrap();
    }
    std::os::unix::fs::symlink(&place, bus.join("0000:18:00.0")).unwrap();
    let collector = site.listen("127.0.0.1:0");
    let mut command = std::process::Command::new(crate::agent::PROGRAM);
    command.arg("run").args(crate::agent::arguments(&site, &collector.address));
    let toml = format!(
        "[health]\nenabled = false\n[gpu]\nenabled = false\n[sampling]\nsysfs_root = \"{}\"\n",
        sysfs.display()
    );
    std::fs::write(site.dir.path().join("agent.toml"), toml).unwrap();
    let agent = Agent::spawn(&site, &mut command);
    eventually("the devices are sent", || {
        site.stored(|stored| placement(stored).is_some_and(|state| !state.devices.is_empty()))
    });
    let state = site.stored(|stored| placement(stored).unwrap());
    let [device] = &state.devices[..] else { panic!("{state:?}") };
    assert_eq!(
        (device.kind.as_str(), device.name.as_str(), device.pci_address.as_str(), device.numa_node),
        ("nic", "eth7", "0000:18:00.0", Some(1))
    );
    assert_eq!(device.upstream, ["0000:15:01.0"]);
    assert!(state.off.is_empty(), "{state:?}");
    agent.end();
}
