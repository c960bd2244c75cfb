//! One source, probed and read by hand; and namespaces of a test's own.
#![allow(dead_code, reason = "each test binary uses its part")]

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use railwatch_sampling::clock::monotonic_ns;
use railwatch_sampling::{Batch, Catalog, Output, Recorder, Signal, Source, Unavailable};
use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

/// One source, driven by hand.
pub struct Driven {
    pub source: Box<dyn Source>,
    pub told: Vec<Signal>,
    recorder: Recorder,
    catalog: Arc<Catalog>,
    batch: Batch,
    out: Output,
}

impl Driven {
    pub fn new(source: impl Source + 'static) -> Self {
        let catalog = Arc::new(Catalog::default());
        let recorder = Recorder::new(source.name(), Duration::from_secs(1), &[], Arc::clone(&catalog));
        let batch = Batch::with_capacity(1024);
        Self { source: Box::new(source), told: Vec::new(), recorder, catalog, batch, out: Output::default() }
    }

    pub fn probe(&mut self) -> Result<(), Unavailable> {
        let Self { source, recorder, catalog, out, .. } = self;
        let outcome = recorder.probe(monotonic_ns(), out, |declare| source.probe(declare));
        assert_eq!(catalog.outside_vocabulary(), "");
        outcome
    }

    /// Names of the series that are declared now.
    pub fn declared(&self) -> BTreeSet<String> {
        self.catalog.all().iter().map(|def| def.name().to_owned()).collect()
    }

    /// Takes what the source's descriptor holds, then reads once.
    pub fn read(&mut self) {
        self.batch.clear();
        let has_event = self.source.event_fd().is_some_and(|fd| {
            let mut fds = [nix::poll::PollFd::new(fd.as_fd(), nix::poll::PollFlags::POLLIN)];
            nix::poll::poll(&mut fds, nix::poll::PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
        });
        if has_event {
            self.source.on_event(&mut self.batch).expect("as the test arranged");
        }
        self.source.read(&mut self.batch).expect("as the test arranged");
        self.told.extend_from_slice(self.batch.signals());
    }

    /// Name, entity and cause of every signal so far.
    pub fn told(&self) -> Vec<(&'static str, String, String)> {
        let cause = |signal: &Signal| {
            let found = signal.attributes.iter().find(|(key, _)| *key == "cause");
            found.map(|(_, cause)| cause.clone()).unwrap_or_default()
        };
        self.told.iter().map(|signal| (signal.name, signal.entity.name.clone(), cause(signal))).collect()
    }
}

/// Runs a test on a thread of its own, in network and mount namespaces of its own, which end with it.
pub fn in_own_namespaces(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
            .expect("namespaces of its own: this test needs root (CAP_SYS_ADMIN)");
        // sysfs shows the network namespace of whoever mounted it.
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("mounts of its own");
        mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none).expect("sysfs of its own");
        // Where these are modules they are loaded; where they are built in, there may be no modprobe.
        for module in ["veth", "tcp_diag", "af_packet"] {
            let _ = Command::new("modprobe").args(["-q", module]).status();
        }
        ip("link set lo up");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

pub fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("the command `ip` (package iproute2)");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Looks for a minute at most.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..6000 {
        if condition() {
            return;
        }
        sleep(Duration::from_millis(10));
    }
    panic!("waited a minute for {what}");
}
