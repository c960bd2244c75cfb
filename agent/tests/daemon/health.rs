//! From a file of the kernel, or a line of its log, to the collector.

use crate::agent::{Agent, PROGRAM, arguments};
use crate::collector::{Site, Stored, eventually};
use railwatch_wire::v1::{Signal, frame};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::process::{Child, Command};

fn signal(stored: &Stored, name: &str) -> Option<Signal> {
    let bodies = stored.frames.iter().filter_map(|frame| frame.body.clone());
    let mut signals =
        bodies.filter_map(|body| if let frame::Body::Signal(signal) = body { Some(signal) } else { None });
    signals.find(|signal| signal.name == name)
}

/// The helper, ended with the value.
struct Helper(Child);

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_memory_error_and_an_xid_reach_the_collector_and_a_source_that_is_off_says_why() {
    let site = Site::new();
    let collector = site.listen("127.0.0.1:0");
    let home = site.dir.path();
    let counter = home.join("sys/devices/system/edac/mc/mc0/ue_count");
    fs::create_dir_all(counter.parent().unwrap()).unwrap();
    fs::create_dir_all(home.join("proc")).unwrap();
    fs::write(&counter, "0\n").unwrap();
    let arguments = arguments(&site, &collector.address);
    let socket = home.join("kmsg.sock");
    let [sys, proc, socket_text] =
        [home.join("sys"), home.join("proc"), socket.clone()].map(|path| path.display().to_string());
    fs::write(
        home.join("agent.toml"),
        format!(
            "[gpu]\nenabled = false\n[sampling]\nsysfs_root = \"{sys}\"\ncadence_ms = {{ edac = 100 }}\n[health]\nprocfs_root = \"{proc}\"\n\
             nvml_library = \"/nonexistent/nvml.so\"\nkmsg_socket = \"{socket_text}\"\n"
        ),
    )
    .unwrap();
    let agent = Agent::spawn(&site, Command::new(PROGRAM).arg("run").args(arguments));
    let reads = |source: &str| agent.metric(&format!("railwatch_source_reads_total{{source=\"{source}\"}}"));
    eventually("the counter is read", || reads("edac").is_some_and(|reads| reads >= 2.0));
    fs::write(&counter, "1\n").unwrap();
    eventually("the memory error", || site.stored(|stored| signal(stored, "host.memory.uncorrected").is_some()));

    let log = home.join("kmsg");
    assert!(Command::new("mkfifo").arg(&log).status().unwrap().success());
    let mut kernel = OpenOptions::new().read(true).write(true).open(&log).unwrap();
    let helper = Command::new(PROGRAM).arg("kmsg-helper").arg("--log").arg(&log).arg("--socket").arg(&socket).spawn();
    let _helper = Helper(helper.unwrap());
    kernel.write_all(b"3,7,1000,-;NVRM: Xid (PCI:0000:3b:00): 31, pid=42, name=python3, MMU Fault\n").unwrap();
    eventually("the XID", || site.stored(|stored| signal(stored, "gpu.xid").is_some()));
    let xid = site.stored(|stored| signal(stored, "gpu.xid")).unwrap();
    assert_eq!(xid.entity.unwrap().name, "0000:3b:00.0");
    assert_eq!(xid.attributes.get("class").map(String::as_str), Some("application"));

    eventually("the state of the sources", || {
        site.stored(|stored| {
            let sources = stored.snapshots.iter().rev().map(|snapshot| &snapshot.sources);
            let of = |name: &str| sources.clone().flatten().find(|source| source.source == name);
            of("gpu.nvml").is_some_and(|source| !source.on && source.reason.contains("/nonexistent/nvml.so"))
                && of("edac").is_some_and(|source| source.on)
        })
    });
    agent.end();
}
