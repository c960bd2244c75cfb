//! How processes end, as the kernel half tells it, against what wait(2) tells their parent. Needs root and BPF.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

mod support;

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};

use railwatch_abi::event::{EventKind, ExitStatus};
use railwatch_gpu::kernel::Kernel;
use support::{Caller, traced};

/// The statuses with which the process `pid` was told to be gone.
fn ends(kernel: &mut Kernel, pid: u32) -> Vec<ExitStatus> {
    let mut found = Vec::new();
    kernel.drain(|event| found.extend(event.exit().filter(|_| event.pid() == pid)));
    found
}

#[test]
fn every_end_is_told_once_and_as_the_parent_hears_it() {
    let mut kernel = traced(&["libcudart.so"]);
    assert_eq!(kernel.off(), [], "this kernel tells how processes end");
    // (what it does, exit code, signal)
    for (line, exit_code, signal) in [
        ("exit 0", Some(0), None),
        ("exit 3", Some(3), None),
        ("exit 255", Some(255), None),
        ("on 1 exit 5", Some(5), None),
        ("crash", None, Some(11)),
        ("on 2 crash", None, Some(11)),
        ("raise 9", None, Some(9)),
        ("raise 15", None, Some(15)),
        ("raise 6", None, Some(6)),
        ("leave 7", Some(7), None),
        ("leave -1", Some(0), None),
    ] {
        let mut caller = Caller::start(&["libcudart.so"]);
        caller.ok(&["cudaMalloc &0 100"]);
        // A thread of the fixture never ends by itself.
        if line != "leave -1" {
            caller.ok(&["on 3 cudaMalloc &1 100"]);
        }
        let pid = caller.pid();
        caller.send(line);
        let heard = caller.wait();
        let told = ends(&mut kernel, pid);
        assert_eq!(told.len(), 1, "{line}: once, and not for each thread: {told:?}");
        let told = told[0];
        assert_eq!((told.exit_code().map(i32::from), told.signal().map(i32::from)), (exit_code, signal), "{line}");
        assert_eq!(
            (told.exit_code().map(i32::from), told.signal().map(i32::from), told.core_dumped()),
            (heard.code(), heard.signal(), heard.core_dumped()),
            "{line}: as wait(2) says"
        );
        assert_eq!(told.oom_killed(), Some(false), "{line}");
    }
}

#[test]
fn a_child_that_never_called_a_gpu_library_is_not_told_of() {
    let mut kernel = traced(&["libcudart.so"]);
    let mut caller = Caller::start(&["libcudart.so"]);
    caller.ok(&["cudaMalloc &0 100"]);
    assert_eq!(caller.call("fork").0, -2, "the child answers");
    caller.send("exit 5");
    assert_eq!(caller.answer("the parent, after its child").0, 5);
    let mut gone = 0;
    kernel.drain(|event| gone += u32::from(event.kind == EventKind::ProcessGone));
    assert_eq!(gone, 0, "the child shares the parent's libraries and made no call");

    assert_eq!(caller.call("fork").0, -2);
    caller.ok(&["cudaMalloc &1 100"]);
    caller.send("exit 6");
    assert_eq!(caller.answer("the parent, after its child").0, 6);
    let mut told = Vec::new();
    kernel.drain(|event| told.extend(event.exit().map(|status| (event.pid(), status.exit_code()))));
    assert_eq!(told.len(), 1, "a child that did is a process of its own: {told:?}");
    assert!(told[0].0 != caller.pid() && told[0].1 == Some(6), "{told:?}");
}

#[test]
fn becoming_another_program_is_no_end() {
    let mut kernel = traced(&["libcudart.so"]);
    let mut caller = Caller::start(&["libcudart.so"]);
    caller.ok(&["cudaMalloc &0 100"]);
    caller.send("exec /bin/sh -c true");
    assert!(caller.wait().success());
    let pid = caller.pid();
    let mut gone = Vec::new();
    kernel.drain(|event| {
        if event.pid() == pid && event.kind == EventKind::ProcessGone {
            gone.push((event.code, event.exit()));
        }
    });
    assert_eq!(gone, [(1, None)]);
}

/// A group with a limit of memory; removed with the value. `None` where no hierarchy accounts memory.
struct Limited(PathBuf);

impl Limited {
    fn new(bytes: u64) -> Option<Self> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mount = |kind: &str, option: &str| {
            let mut lines = mounts.lines().filter_map(|line| line.split_once(" - "));
            let (left, _) = lines.find(|(_, right)| {
                right.starts_with(kind) && (option.is_empty() || right.split([' ', ',']).any(|word| word == option))
            })?;
            left.split(' ').nth(4).map(PathBuf::from)
        };
        let make = |root: &Path, file: &str| {
            let folder = root.join(format!("railwatch-exit-{}", std::process::id()));
            std::fs::create_dir(&folder).ok()?;
            let group = Self(folder);
            std::fs::write(group.0.join(file), bytes.to_string()).ok().map(|()| group)
        };
        if let Some(root) = mount("cgroup ", "memory") {
            return make(&root, "memory.limit_in_bytes");
        }
        let root = mount("cgroup2 ", "")?;
        // There already under systemd.
        let _ = std::fs::write(root.join("cgroup.subtree_control"), "+memory");
        make(&root, "memory.max")
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        for _ in 0..200 {
            if std::fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

#[test]
fn a_process_that_the_kernel_killed_for_its_memory_is_told_apart_from_one_that_was_killed() {
    let Some(group) = Limited::new(64 << 20) else {
        eprintln!("SKIPPED: no control group hierarchy on this host accounts memory");
        return;
    };
    let mut kernel = traced(&["libcudart.so"]);
    let mut caller = Caller::start(&["libcudart.so"]);
    caller.ok(&["cudaMalloc &0 100"]);
    let pid = caller.pid();
    std::fs::write(group.0.join("cgroup.procs"), pid.to_string()).unwrap();
    caller.send("touch 4096");
    assert_eq!(caller.wait().signal(), Some(9));
    let told = ends(&mut kernel, pid);
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].signal(), told[0].oom_killed()), (Some(9), Some(true)));
}
