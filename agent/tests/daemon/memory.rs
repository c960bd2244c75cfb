//! The agent at the limit of its cgroup: it runs, with less, and says so.

use crate::agent::{Agent, PROGRAM, arguments};
use crate::collector::{Site, eventually};
use crate::group::Group;

const MIB: u64 = 1024 * 1024;

fn limited(site: &Site, collector: &str, group: &Group) -> Agent {
    Agent::spawn(site, group.command(PROGRAM).arg("run").args(arguments(site, collector)))
}

#[test]
fn in_ninety_six_mebibytes_everything_is_on() {
    let (site, group) = (Site::new(), Group::with_memory_limit(96 * MIB));
    let collector = site.listen("127.0.0.1:0");
    let mut agent = limited(&site, &collector.address, &group);
    eventually("windows arrive", || site.stored(|stored| stored.frames.len() > 2));
    assert_eq!(agent.metric("railwatch_gpu_probes_loaded"), Some(1.0), "{}", agent.log());
    let tape = agent.metric("railwatch_agent_tape_memory_bytes{of=\"max\"}");
    assert_eq!(tape, Some((24 * MIB) as f64), "a quarter, so that it never grows into the limit");
    assert!(agent.runs());
    agent.end();
}

#[test]
fn in_forty_mebibytes_it_goes_without_probes_and_says_why_instead_of_being_killed() {
    let (site, group) = (Site::new(), Group::with_memory_limit(40 * MIB));
    let collector = site.listen("127.0.0.1:0");
    let mut agent = limited(&site, &collector.address, &group);
    eventually("windows arrive", || site.stored(|stored| stored.frames.len() > 2));
    assert_eq!(agent.metric("railwatch_gpu_probes_loaded"), Some(0.0));
    let told = site.stored(|stored| format!("{:?}", stored.hellos.last().unwrap().limitations));
    assert!(told.contains("40 MiB") && told.contains("MemoryMax="), "{told}");
    // It comes to be known after the stream may have opened.
    assert!(agent.log().contains("the tape is held to"), "{}", agent.log());
    assert!(agent.runs());
    agent.end();
}
