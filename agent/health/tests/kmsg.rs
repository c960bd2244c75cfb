//! The helper and the source of the kernel's log, over the socket between them.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

mod driven;

use driven::{Driven, Tree};
use nix::sys::stat::Mode;
use railwatch_health::kmsg::helper::{Options, run};
use railwatch_sampling::{ErrorReason, Severity};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

const XID: &str =
    "3,11,2000,-;NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.\n";

/// Waits for what another thread does.
fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < end, "waited for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A pipe in place of `/dev/kmsg`: the kernel alone can write what it is believed.
fn log(tree: &Tree) -> (Options, File) {
    let config = tree.config();
    let options = Options { log: tree.0.path().join("kmsg"), socket: config.kmsg_socket.unwrap() };
    nix::unistd::mkfifo(&options.log, Mode::S_IRWXU).unwrap();
    let writer = OpenOptions::new().read(true).write(true).open(&options.log).unwrap();
    (options, writer)
}

#[test]
fn a_line_of_the_kernel_becomes_a_signal_and_everything_is_counted() {
    let tree = Tree::new();
    let mut source = Driven::new(&tree.config(), "kmsg");
    assert_eq!(source.off().0, ErrorReason::TimedOut, "no helper yet");
    let socket = tree.config().kmsg_socket.unwrap();
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);

    let (options, mut kernel) = log(&tree);
    let helper = std::thread::spawn(move || run(&options));
    eventually("the helper's sign of life", || source.probe().is_ok());
    source.read();
    kernel.write_all(b"6,10,1000,-;usb 1-1: new device\n").unwrap();
    kernel.write_all(XID.as_bytes()).unwrap();
    let mut told = Vec::new();
    eventually("the signal", || {
        source.on_event();
        told.extend(source.whole_signals());
        !told.is_empty()
    });
    let signal = &told[0];
    assert_eq!((signal.name, signal.entity.kind, signal.entity.name.as_str()), ("gpu.xid", "gpu", "0000:3b:00.0"));
    assert_eq!(signal.severity, Severity::Critical);
    let mut kernel_again = kernel.try_clone().unwrap();
    kernel_again.write_all(b"6,20,3000,-;8 records were overwritten before this one\n").unwrap();
    kernel_again.write_all(b"4,21,4000,-;INFO: task python:42 blocked for more than 120 seconds.\n").unwrap();
    let mut counted = std::collections::BTreeMap::new();
    eventually("the gap and the hung task", || {
        for (series, moved) in source.read() {
            *counted.entry(series).or_insert(0.0) += moved;
        }
        counted.get("kmsg host.kmsg.lost") == Some(&8.0)
    });
    assert_eq!(counted["kmsg host.kmsg.records gpu.xid"], 1.0);
    assert_eq!(counted["kmsg host.kmsg.records host.hung_task"], 1.0);
    let names: Vec<_> = source.signals().into_iter().map(|(name, ..)| name).collect();
    assert!(names.contains(&"host.hung_task") && names.contains(&"host.kmsg.lost"), "{names:?}");
    drop((kernel, kernel_again));
    helper.join().unwrap().unwrap();
}

#[test]
fn while_nobody_listens_the_log_waits_and_nothing_is_lost() {
    let tree = Tree::new();
    let (options, mut kernel) = log(&tree);
    let helper = std::thread::spawn(move || run(&options));
    for seq in 1..=5 {
        let line = format!("3,{seq},1,-;NVRM: Xid (PCI:0000:0{seq}:00): 48, late\n");
        kernel.write_all(line.as_bytes()).unwrap();
    }
    // The agent comes only now.
    let mut source = Driven::new(&tree.config(), "kmsg");
    let mut told = Vec::new();
    eventually("all five", || {
        if source.probe().is_ok() {
            source.read();
        }
        told.extend(source.signals());
        told.len() == 5
    });
    drop(kernel);
    helper.join().unwrap().unwrap();
}

#[test]
fn a_flood_of_one_kind_is_one_signal_and_other_elements_are_not_held_back() {
    let tree = Tree::new();
    let mut source = Driven::new(&tree.config(), "kmsg");
    source.off();
    let sender = UnixDatagram::unbound().unwrap();
    let send = |device: &str, code: u32| {
        let text = format!(
            r#"{{"lines":1,"lost":0,"record":{{"kind":"gpu.xid","seq":1,"at_us":1,"read_ns":1,"fields":{{"device":"{device}","code":"{code}"}}}}}}"#
        );
        sender.send_to(text.as_bytes(), tree.config().kmsg_socket.unwrap()).unwrap();
    };
    send("0000:01:00", 31);
    source.probe().unwrap();
    source.read();
    for _ in 0..5 {
        send("0000:01:00", 31);
    }
    send("0000:02:00", 31);
    send("0000:01:00", 79);
    let read = source.read();
    assert_eq!(read["kmsg host.kmsg.records gpu.xid"], 7.0, "all are counted");
    let told: Vec<_> = source.whole_signals().into_iter().map(|s| (s.entity.name, s.value)).collect();
    let gpu = |number: u32| format!("0000:0{number}:00.0");
    assert_eq!(told, [(gpu(1), 31.0), (gpu(2), 31.0), (gpu(1), 79.0)]);
}

#[test]
fn what_no_helper_would_send_is_a_counted_fault() {
    let tree = Tree::new();
    let mut source = Driven::new(&tree.config(), "kmsg");
    source.off();
    let sender = UnixDatagram::unbound().unwrap();
    for text in [
        "",
        "no json",
        r#"{"lines":1,"lost":0,"command":"reboot"}"#,
        r#"{"lines":-1,"lost":0}"#,
        r#"{"lines":1,"lost":0,"record":{"kind":"unheard.of","seq":1,"at_us":1,"read_ns":1,"fields":{}}}"#,
        &format!(r#"{{"lines":1,"lost":0,"record":{{"kind":"{}"}}}}"#, "x".repeat(20_000)),
    ] {
        sender.send_to(text.as_bytes(), tree.config().kmsg_socket.unwrap()).unwrap();
    }
    source.probe().unwrap();
    source.read();
    assert_eq!(source.signals(), []);
}

#[test]
fn a_helper_that_may_not_read_says_what_it_lacks() {
    let options = Options { log: "/nonexistent/kmsg".into(), socket: "/nonexistent/socket".into() };
    let error = run(&options).unwrap_err().to_string();
    assert!(error.contains("/nonexistent/kmsg"), "{error}");
}

#[test]
fn corrected_errors_in_one_row_of_a_module_are_told_as_that() {
    let tree = Tree::new();
    let mut source = Driven::new(&tree.config(), "kmsg");
    source.off();
    let (options, mut kernel) = log(&tree);
    std::thread::spawn(move || run(&options));
    eventually("the helper's sign of life", || source.probe().is_ok());
    source.read();
    for (seq, column) in (20..).zip([0x10, 0x18, 0x20]) {
        let line = format!(
            "3,{seq},{seq}000,-;EDAC MC0: 1 CE memory read error on CPU_SrcID#0_MC#0_Chan#1_DIMM#0 (channel:1 slot:0 \
             page:0x{column:x} offset:0x0 grain:32 syndrome:0x0 -  err_code:0x0000:0x009f SystemAddress:0x{column:x}000 \
             ProcessorSocketId:0x0 MemoryControllerId:0x0 ChannelAddress:0x123456789 ChannelId:0x1 RankAddress:0x12345678 \
             PhysicalRankId:0x0 DimmSlotId:0x0 Row:0x8b53 Column:0x{column:x} Bank:0x3 BankGroup:0x1)\n"
        );
        kernel.write_all(line.as_bytes()).unwrap();
    }
    let mut told = Vec::new();
    eventually("the third error", || {
        source.on_event();
        told.extend(source.whole_signals());
        told.iter().any(|signal| signal.name == "host.memory.pattern")
    });
    let pattern: Vec<_> = told.iter().filter(|signal| signal.name == "host.memory.pattern").collect();
    assert_eq!(pattern.len(), 1);
    assert_eq!(
        pattern[0].summary,
        "host memory: 3 corrected errors of a day lie in one row of mc0 CPU_SrcID#0_MC#0_Chan#1_DIMM#0"
    );
}
