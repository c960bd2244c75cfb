//! Discovery on real processes: what is found, when, how often, and what is said of it. Needs root (perf events,
//! mount and network namespaces) and gcc.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

mod discovery_fixtures;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use discovery_fixtures::{Bench, Recorder, Running, build, options, run, settle, until};
use railwatch_gpu::coverage::{CoverageRow, CoverageStatus};
use railwatch_gpu::discovery::{Discovery, Event, Options};
use railwatch_gpu::scope::Scope;

fn rows(discovery: &Discovery, pid: u32) -> Vec<CoverageRow> {
    discovery.coverage().into_iter().filter(|row| row.pid == pid).collect()
}

fn attached(event: &Event) -> bool {
    matches!(event, Event::ObjectAttached { .. })
}

#[test]
fn a_library_loaded_late_is_probed_by_its_symbols_and_the_process_counts_as_whole() {
    let bench = Bench::new();
    let program = bench.program("trainer", "", &[]);
    let library = bench.library("libwhatever.so", &["cudaMalloc", "cudaFree"]);
    let mut attacher = Recorder::default();
    let mut discovery = bench.start(&mut attacher, options());
    assert_eq!(discovery.limitations(), [] as [&str; 0], "these tests need root in the host's pid namespace");
    let mut running = Running::new(&program);
    settle(&mut discovery, &mut attacher);
    assert!(attacher.attached.is_empty() && discovery.process(running.pid).is_none(), "nothing to see yet");

    running.load(&library);
    let events = until(&mut discovery, &mut attacher, "attach", attached);
    let Some(Event::ObjectAttached { path, mapped_to_attached_ns: Some(late_ns), .. }) =
        events.iter().find(|event| attached(event))
    else {
        panic!("found by a report: {events:?}")
    };
    assert_eq!(Path::new(path), library);
    let late_ns = *late_ns;
    println!("mapped to attached: {} us", late_ns / 1000);
    // On a machine too busy to keep the promise of 500 ms the process is marked, and nothing else is different.
    let is_whole = late_ns <= 500_000_000;
    assert_eq!(attacher.attached.len(), 1);
    assert_eq!(attacher.attached[0].symbols, [0, 1]);
    assert_eq!(attacher.attached[0].bytes, fs::read(&library).unwrap());
    settle(&mut discovery, &mut attacher);
    let process = discovery.process(running.pid).unwrap();
    assert_eq!((process.comm.as_str(), process.container), ("trainer", None));
    assert_eq!(process.incomplete.is_none(), is_whole, "attached after {late_ns} ns: {:?}", process.incomplete);
    let [row] = &rows(&discovery, running.pid)[..] else { panic!("one object, one row") };
    assert_eq!((row.comm.as_str(), row.object.as_str()), ("trainer", library.to_str().unwrap()));
    assert_eq!((row.status, row.reason.is_none()), (CoverageStatus::Attached, is_whole), "{row:?}");

    running.kill();
    until(&mut discovery, &mut attacher, "end", |event| *event == Event::ProcessGone { pid: running.pid });
    assert!(rows(&discovery, running.pid).is_empty() && discovery.process(running.pid).is_none());
}

#[test]
fn a_process_that_ran_before_is_marked_and_one_started_later_is_not() {
    let bench = Bench::new();
    let program = bench.program("trainer", "", &[]);
    let library = bench.library("libwhatever.so", &["cudaMalloc"]);
    let mut before = Running::new(&program);
    before.load(&library);
    let mut attacher = Recorder::default();
    let mut discovery = bench.start(&mut attacher, options());
    let mark = discovery.process(before.pid).unwrap().incomplete.unwrap();
    let now_unix_ns = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap();
    assert!(now_unix_ns - mark.since_unix_ns < 60_000_000_000, "{mark:?}");
    assert_eq!(
        rows(&discovery, before.pid)[0].reason.as_deref(),
        Some("calls before are missing: it was running before its library was traced")
    );

    let mut after = Running::new(&program);
    after.load(&library);
    until(&mut discovery, &mut attacher, "process", |event| *event == Event::ProcessSeen { pid: after.pid });
    assert_eq!(discovery.process(after.pid).unwrap().incomplete, None);
    assert_eq!(attacher.attached.len(), 1, "one inode is probed once");
    assert_eq!(attacher.late, [(before.pid, attacher.attached[0].id)], "the kernel half is told of the mark once");
}

#[test]
fn probes_kept_over_a_restart_leave_processes_whole() {
    let bench = Bench::new();
    let program = bench.program("trainer", "", &[]);
    let library = bench.library("libwhatever.so", &["cudaMalloc"]);
    let mut before = Running::new(&program);
    before.load(&library);
    for kept in [true, false] {
        let mut attacher = Recorder { kept, ..Recorder::default() };
        let discovery = bench.start(&mut attacher, options());
        assert_eq!(discovery.process(before.pid).unwrap().incomplete.is_none(), kept);
        assert_eq!(attacher.late.is_empty(), kept);
    }
}

#[test]
fn a_static_program_with_symbols_is_found_and_a_stripped_one_is_not() {
    let bench = Bench::new();
    let functions = bench.source(&["cudaMalloc", "cudaFree"]);
    let hidden = functions.replace("int cuda", "__attribute__((noinline, used)) static int cuda");
    let mut attacher = Recorder::default();
    let mut discovery = bench.start(&mut attacher, options());
    for (file, source, flags, found) in [
        ("static", &functions, &["-static"][..], true),
        ("dynamic", &functions, &[], true),
        ("local", &hidden, &[], true),
        ("stripped", &functions, &["-static", "-s"], false),
    ] {
        let program = bench.program(file, source, flags);
        let running = Running::new(&program);
        settle(&mut discovery, &mut attacher);
        assert_eq!(discovery.process(running.pid).is_some(), found, "{file}");
        assert_eq!(attacher.attached.last().is_some_and(|asked| Path::new(&asked.path) == program), found, "{file}");
    }
    assert!(attacher.attached.iter().all(|asked| asked.symbols == [0, 1]));
}

#[test]
fn a_library_deleted_while_mapped_is_probed_and_its_replacement_as_well() {
    let bench = Bench::new();
    let program = bench.program("trainer", "", &[]);
    let library = bench.library("libwhatever.so", &["cudaMalloc"]);
    let old = fs::read(&library).unwrap();
    let mut before = Running::new(&program);
    before.load(&library);
    fs::remove_file(&library).unwrap();
    let mut attacher = Recorder::default();
    let mut discovery = bench.start(&mut attacher, options());
    assert_eq!(attacher.attached.len(), 1);
    assert_eq!(attacher.attached[0].bytes, old, "what is mapped, not what has its name");

    bench.library("libwhatever.so", &["cudaMalloc", "cudaFree"]);
    let mut after = Running::new(&program);
    after.load(&library);
    until(&mut discovery, &mut attacher, "attach", attached);
    assert_eq!(attacher.attached.len(), 2);
    assert_eq!(attacher.attached[1].bytes, fs::read(&library).unwrap());
    assert!(attacher.detached.is_empty(), "the old one is still in use");
    for running in [&before, &after] {
        assert_eq!(rows(&discovery, running.pid).len(), 1);
    }
}

#[test]
fn a_library_written_anew_in_place_loses_its_old_probes_first() {
    let bench = Bench::new();
    let program = bench.program("trainer", "", &[]);
    let library = bench.library("libwhatever.so", &["cudaMalloc"]);
    let mut attacher = Recorder::default();
    let mut discovery = bench.start(&mut attacher, options());
    let mut first = Running::new(&program);
    first.load(&library);
    until(&mut discovery, &mut attacher, "attach", attached);
    first.kill();

    let other = bench.library("libother.so", &["cudaFree", "cudaMalloc"]);
    fs::write(&library, fs::read(other).unwrap()).unwrap();
    let mut second = Running::new(&program);
    second.load(&library);
    until(&mut discovery, &mut attacher, "attach", attached);
    assert_eq!(attacher.detached, [attacher.attached[0].id]);
    assert_eq!(attacher.attached[1].symbols.len(), 2);
    assert_eq!(attacher.attached[0].identity.inode, attacher.attached[1].identity.inode);
}

#[test]
fn a_plain_file_that_becomes_a_library_in_place_is_found_within_a_second_look() {
    let bench = Bench::new();
    let program = bench.program("trainer", "", &[]);
    let path = bench.library("libplain.so", &[]);
    let traced = fs::read(bench.library("libtraced.so", &["cudaMalloc"])).unwrap();
    let mut attacher = Recorder::default();
    let mut discovery = bench.start(&mut attacher, options());
    let mut first = Running::new(&program);
    first.load(&path);
    settle(&mut discovery, &mut attacher);
    first.kill();
    // Known as plain a moment ago, then written anew and mapped again.
    let mut again = Running::new(&program);
    again.load(&path);
    discovery.run_once(&mut attacher, Duration::from_millis(20));
    again.kill();
    fs::write(&path, traced).unwrap();
    let mut second = Running::new(&program);
    second.load(&path);
    until(&mut discovery, &mut attacher, "attach", attached);
    settle(&mut discovery, &mut attacher);
    assert!(discovery.process(second.pid).is_some());
}

#[test]
fn two_paths_to_one_inode_are_one_object() {
    let bench = Bench::new();
    let program = bench.program("trainer", "", &[]);
    let library = bench.library("libwhatever.so", &["cudaMalloc"]);
    let link = bench.path("liblink.so");
    let bound = bench.path("libbound.so");
    fs::hard_link(&library, &link).unwrap();
    fs::write(&bound, "").unwrap();
    let mut attacher = Recorder::default();
    let mut discovery = bench.start(&mut attacher, options());
    let mut plain = Running::new(&program);
    plain.load(&library);
    let mut linked = Running::new(&program);
    linked.load(&link);
    let mount = format!("mount --bind {} {} && exec {}", library.display(), bound.display(), program.display());
    let mut mounted = Running::spawn(Command::new("unshare").args(["-m", "sh", "-ec", &mount]));
    mounted.load(&bound);
    until(&mut discovery, &mut attacher, "process", |event| *event == Event::ProcessSeen { pid: mounted.pid });
    assert_eq!(attacher.attached.len(), 1);
    for (running, path) in [(&plain, &library), (&linked, &link), (&mounted, &bound)] {
        let rows = rows(&discovery, running.pid);
        assert_eq!(rows.len(), 1);
        assert_eq!(Path::new(&rows[0].object), path, "each sees its own path");
    }
}

#[test]
fn a_library_that_only_a_container_can_see_is_probed() {
    let bench = Bench::new();
    let program = bench.program("trainer", "", &["-static"]);
    let library = bench.library("libinside.so", &["cudaMalloc"]);
    let root = bench.path("root");
    fs::create_dir(&root).unwrap();
    let mut attacher = Recorder::default();
    let mut discovery = bench.start(&mut attacher, options());
    // A file system of its own, as the root of a process in a mount namespace of its own.
    let script = format!(
        "mount -t tmpfs none {root} && mkdir {root}/opt && cp {program} {root}/trainer && cp {library} {root}/opt/libinside.so \
         && rm {library} && exec chroot {root} /trainer",
        root = root.display(),
        program = program.display(),
        library = library.display(),
    );
    let mut running = Running::spawn(Command::new("unshare").args(["-m", "sh", "-ec", &script]));
    assert_eq!(running.ask("mmap /opt/libinside.so"), "ok");
    until(&mut discovery, &mut attacher, "attach", attached);
    assert!(!root.join("opt").exists(), "it must not be visible from here");
    assert_eq!(attacher.attached[0].symbols, [0]);
    assert_eq!(rows(&discovery, running.pid)[0].status, CoverageStatus::Attached);
}

#[test]
fn containers_of_one_image_share_one_object() {
    // Layers that can be reached from the process, and layers that nothing leads to any more.
    for bury in ["true", "mount -t tmpfs none layer"] {
        let bench = Bench::new();
        let program = bench.program("trainer", "", &[]);
        let library = bench.library("libwhatever.so", &["cudaMalloc"]);
        let mut attacher = Recorder::default();
        let mut discovery = bench.start(&mut attacher, options());
        // A tmpfs of the test's own, because not every file system can hold layers.
        let script = format!(
            "cd {folder} && mkdir image && mount -t tmpfs none image && cd image && mkdir layer u1 w1 u2 w2 one two \
             && cp {library} layer/libwhatever.so \
             && for n in 1:one 2:two; do i=${{n%:*}}; mount -t overlay overlay \
                  -o lowerdir=$PWD/layer,upperdir=$PWD/u$i,workdir=$PWD/w$i ${{n#*:}}; done \
             && {bury} && exec {program}",
            folder = bench.folder.path().display(),
            library = library.display(),
            program = program.display(),
        );
        let mut running = Running::spawn(Command::new("unshare").args(["-m", "sh", "-ec", &script]));
        let image = bench.path("image");
        running.load(&image.join("one/libwhatever.so"));
        running.load(&image.join("two/libwhatever.so"));
        if bury == "true" {
            running.load(&image.join("layer/libwhatever.so"));
        }
        settle(&mut discovery, &mut attacher);
        let objects: Vec<_> = attacher.attached.iter().map(|asked| (&asked.path, asked.identity)).collect();
        assert_eq!(objects.len(), 1, "{bury}: a second set of probes would count every call twice: {objects:?}");
        assert!(discovery.process(running.pid).is_some());
    }
}

#[test]
fn a_child_inherits_what_is_mapped_and_exec_drops_it() {
    let bench = Bench::new();
    let program = bench.program("trainer", "", &[]);
    let library = bench.library("libwhatever.so", &["cudaMalloc"]);
    let mut attacher = Recorder::default();
    let mut discovery = bench.start(&mut attacher, options());
    let mut parent = Running::new(&program);
    parent.load(&library);
    settle(&mut discovery, &mut attacher);
    let child: u32 = parent.ask("fork -").parse().unwrap();
    until(&mut discovery, &mut attacher, "child", |event| *event == Event::ProcessSeen { pid: child });
    assert_eq!(rows(&discovery, child).len(), 1);
    assert_eq!(discovery.process(child).unwrap().incomplete, None);
    run(&format!("kill -9 {child}"));
    until(&mut discovery, &mut attacher, "child's end", |event| *event == Event::ProcessGone { pid: child });

    let pid = parent.pid;
    assert_eq!(parent.ask(&format!("exec {}", program.display())), pid.to_string());
    until(&mut discovery, &mut attacher, "exec", |event| *event == Event::ProcessExecuted { pid });
    settle(&mut discovery, &mut attacher);
    assert_eq!(rows(&discovery, pid), []);
    parent.load(&library);
    until(&mut discovery, &mut attacher, "process again", |event| *event == Event::ProcessSeen { pid });
    assert_eq!(attacher.attached.len(), 1);
}

#[test]
fn of_a_burst_of_short_lived_processes_none_is_lost_uncounted() {
    const PROCESSES: u64 = 500;
    let bench = Bench::new();
    let program = bench.program("brief", "", &[]);
    let library = bench.library("libwhatever.so", &["cudaMalloc"]);
    let mut attacher = Recorder::default();
    let mut discovery = bench.start(&mut attacher, options());
    let start = discovery.counters();
    let burst = std::thread::spawn(move || {
        for _ in 0..PROCESSES {
            let status = Command::new(&program).arg(&library).status().unwrap();
            assert!(status.success());
        }
    });
    let mut events = Vec::new();
    while !burst.is_finished() {
        events.extend(discovery.run_once(&mut attacher, Duration::from_millis(10)));
    }
    burst.join().unwrap();
    events.extend(settle(&mut discovery, &mut attacher));
    let seen = events.iter().filter(|event| matches!(event, Event::ProcessSeen { .. })).count() as u64;
    let left = discovery.processes().filter_map(|pid| discovery.process(pid)).filter(|process| process.comm == "brief");
    assert_eq!(left.count(), 0, "none is left behind");
    let counters = discovery.counters();
    println!("seen {seen} {counters:?}");
    assert_eq!(attacher.attached.len(), 1);
    let counted = counters.vanished - start.vanished + counters.lost_records;
    assert!(seen + counted >= PROCESSES, "{seen} seen, {counted} counted as missed, of {PROCESSES}");
    assert!(seen > 0);
}

#[test]
fn lost_records_are_counted_and_made_good_by_a_scan() {
    let bench = Bench::new();
    let program = bench.program("trainer", "", &[]);
    let library = bench.library("libwhatever.so", &["cudaMalloc"]);
    let mut attacher = Recorder::default();
    let mut discovery = bench.start(&mut attacher, options());
    // Nobody reads the rings meanwhile.
    run("i=0; while [ $i -lt 600 ]; do /bin/true; i=$((i+1)); done");
    let mut running = Running::new(&program);
    running.load(&library);
    until(&mut discovery, &mut attacher, "process", |event| *event == Event::ProcessSeen { pid: running.pid });
    let counters = discovery.counters();
    assert!(counters.lost_records > 0 && counters.scans == 2, "{counters:?}");
    let mark = discovery.process(running.pid).unwrap().incomplete;
    assert!(mark.is_some(), "what it did unseen is not called whole");
}

#[test]
fn without_reports_processes_are_found_by_reading_proc() {
    let bench = Bench::new();
    let program = bench.program("trainer", "", &[]);
    let library = bench.library("libwhatever.so", &["cudaMalloc"]);
    let mut attacher = Recorder::default();
    let mut discovery = bench.start(&mut attacher, Options { poll_only: true, ..options() });
    assert!(discovery.limitations()[0].contains("/proc"), "{:?}", discovery.limitations());
    let mut running = Running::new(&program);
    settle(&mut discovery, &mut attacher);
    running.load(&library);
    until(&mut discovery, &mut attacher, "attach", attached);
    assert!(discovery.process(running.pid).unwrap().incomplete.is_some(), "calls may have gone before");
    running.kill();
    until(&mut discovery, &mut attacher, "end", |event| *event == Event::ProcessGone { pid: running.pid });
}

/// Takes capabilities from this thread, for good.
fn give_up(capabilities: &[u32]) {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    // _LINUX_CAPABILITY_VERSION_3: two words for each of effective, permitted, inheritable.
    let header = Header { version: 0x2008_0522, pid: 0 };
    let mut sets = [[0_u32; 3]; 2];
    // SAFETY: header and sets have the layouts of capget(2) for version 3 and outlive the calls.
    unsafe {
        assert_eq!(libc::syscall(libc::SYS_capget, &raw const header, &raw mut sets), 0);
        for capability in capabilities {
            sets[*capability as usize / 32][0] &= !(1 << (capability % 32));
        }
        assert_eq!(libc::syscall(libc::SYS_capset, &raw const header, &raw const sets), 0);
    }
}

#[test]
fn without_capabilities_it_says_what_is_off_and_what_it_could_not_open() {
    const SYS_ADMIN: u32 = 21;
    const PERFMON: u32 = 38;
    const CHECKPOINT_RESTORE: u32 = 40;
    let bench = Bench::new();
    let program = bench.program("trainer", "", &[]);
    let gone = bench.library("libcudart.so.12", &["cudaMalloc"]);
    let kept = bench.library("libkept.so", &["cudaMalloc"]);
    let mut running = Running::new(&program);
    running.load(&gone);
    running.load(&kept);
    fs::remove_file(&gone).unwrap();
    let (rows, limitations, attached) = std::thread::spawn(move || {
        give_up(&[SYS_ADMIN, PERFMON, CHECKPOINT_RESTORE]);
        let mut attacher = Recorder::default();
        let discovery = bench.start(&mut attacher, options());
        (rows(&discovery, running.pid), discovery.limitations().to_vec(), attacher.attached.len())
    })
    .join()
    .unwrap();
    assert_eq!(attached, 1, "what its path leads to is traced all the same");
    let [lost, traced] = &rows[..] else { panic!("{rows:?}") };
    assert!(lost.object.ends_with("libcudart.so.12") && lost.status == CoverageStatus::Unattachable);
    assert!(lost.reason.as_deref().unwrap().contains("CAP_CHECKPOINT_RESTORE"), "{lost:?}");
    assert_eq!(traced.status, CoverageStatus::Attached);
    assert!(limitations.iter().any(|text| text.contains("CAP_CHECKPOINT_RESTORE")), "{limitations:?}");
    assert!(limitations.iter().any(|text| text.contains("CAP_PERFMON")), "{limitations:?}");
}

#[test]
fn an_agent_with_a_scope_ignores_processes_outside_it() {
    let bench = Bench::new();
    let program = bench.program("trainer", "", &[]);
    let library = bench.library("libwhatever.so", &["cudaMalloc"]);
    let mut inside = Running::spawn(Command::new("unshare").arg("-n").arg(&program));
    let mut attacher = Recorder::default();
    let scope = Scope::network_namespace(Path::new(&format!("/proc/{}/ns/net", inside.pid))).unwrap();
    let mut discovery = bench.start(&mut attacher, Options { scope, ..options() });
    let mut outside = Running::new(&program);
    outside.load(&library);
    settle(&mut discovery, &mut attacher);
    assert!(attacher.attached.is_empty(), "nothing is probed for a process outside");
    inside.load(&library);
    until(&mut discovery, &mut attacher, "attach", attached);
    assert!(discovery.process(inside.pid).is_some() && discovery.process(outside.pid).is_none());
}

#[test]
fn a_runtime_without_symbols_is_reported_as_seen_from_the_driver_only() {
    let bench = Bench::new();
    let marker =
        "const char *const names[] = {\"cudaErrorMemoryAllocation\"}; const char *const *keep(void) { return names; }";
    let program = bench.program("solver", marker, &["-s", "-rdynamic"]);
    let driver = bench.library("libcuda.so.1", &["cuMemAlloc"]);
    let mut attacher = Recorder::default();
    let mut discovery = bench.start(&mut attacher, options());
    let mut running = Running::new(&program);
    running.load(&driver);
    settle(&mut discovery, &mut attacher);
    let rows = rows(&discovery, running.pid);
    let [driver_row, program_row] = &rows[..] else { panic!("{rows:?}") };
    assert_eq!((Path::new(&driver_row.object), driver_row.status), (&*driver, CoverageStatus::Attached));
    assert_eq!((Path::new(&program_row.object), program_row.status), (&*program, CoverageStatus::Unattachable));
    assert_eq!(
        program_row.reason.as_deref().unwrap(),
        format!(
            "CUDA runtime linked statically without symbols: allocations are seen from the driver layer only ({} is attached)",
            driver.display()
        )
    );
}

#[test]
fn what_cannot_be_attached_is_reported_with_its_reason() {
    let bench = Bench::new();
    let program = bench.program("trainer", "", &[]);
    let refused = bench.library("librefused.so", &["cudaMalloc"]);
    let bare = bench.path("libnccl.so.2");
    build(&bare, "int unrelated(void) { return 1; }", &["-shared", "-fPIC"]);
    let narrow = bench.path("libcudart.so.12");
    let mut bytes = fs::read(&bare).unwrap();
    bytes[4] = 1;
    fs::write(&narrow, bytes).unwrap();
    let mut attacher = Recorder { refuse: Some("EPERM: the kernel is locked down".to_owned()), ..Recorder::default() };
    let mut discovery = bench.start(&mut attacher, options());
    let mut running = Running::new(&program);
    for file in [&refused, &bare, &narrow] {
        assert_eq!(running.ask(&format!("mmap {}", file.display())), "ok");
    }
    let events = settle(&mut discovery, &mut attacher);
    let ours = |path: &str| Path::new(path).starts_with(bench.folder.path());
    let refused_here = |event: &&Event| matches!(event, Event::ObjectUnattachable { path, .. } if ours(path));
    assert_eq!(events.iter().filter(refused_here).count(), 3);
    let rows = rows(&discovery, running.pid);
    for (file, reason) in [
        (&refused, "EPERM: the kernel is locked down"),
        (&bare, "it is named like the NCCL library but defines none of the traced functions"),
        (&narrow, "it is a 32-bit object; only 64-bit ones are traced"),
    ] {
        let row = rows.iter().find(|row| Path::new(&row.object) == file).unwrap();
        assert_eq!((row.status, row.reason.as_deref()), (CoverageStatus::Unattachable, Some(reason)));
    }
}

#[test]
fn a_look_over_keeps_what_is_mapped_and_lets_go_of_what_nobody_uses() {
    let bench = Bench::new();
    let program = bench.program("trainer", "", &["-static"]);
    let library = bench.library("libwhatever.so", &["cudaMalloc"]);
    let mut attacher = Recorder::default();
    let look_over = Duration::from_millis(300);
    let mut discovery = bench.start(&mut attacher, Options { look_over, ..options() });
    // In a root of its own its paths are not those of /proc/PID/maps.
    let mut running = Running::spawn(Command::new("chroot").arg(bench.folder.path()).arg("/trainer"));
    assert_eq!(running.ask("mmap /libwhatever.so"), "ok");
    until(&mut discovery, &mut attacher, "attach", attached);
    let wait = |discovery: &mut Discovery, attacher: &mut Recorder| {
        let until = Instant::now() + 5 * look_over;
        while Instant::now() < until {
            discovery.run_once(attacher, Duration::from_millis(100));
        }
    };
    wait(&mut discovery, &mut attacher);
    assert_eq!(rows(&discovery, running.pid)[0].object, "/libwhatever.so");
    assert!(attacher.detached.is_empty());
    running.kill();
    wait(&mut discovery, &mut attacher);
    assert_eq!(attacher.detached, [attacher.attached[0].id]);
    let mut again = Running::new(&program);
    assert_eq!(again.ask(&format!("mmap {}", library.display())), "ok");
    until(&mut discovery, &mut attacher, "attach", attached);
    assert_eq!(attacher.attached.len(), 2);
}

#[test]
fn a_configured_library_is_probed_before_any_process_loads_it() {
    let bench = Bench::new();
    let program = bench.program("trainer", "", &[]);
    let library = bench.library("libwhatever.so", &["cudaMalloc"]);
    let mut attacher = Recorder::default();
    let extra_paths = vec![format!("{}/*what*.so", bench.folder.path().display())];
    let mut discovery = bench.start(&mut attacher, Options { extra_paths, ..options() });
    assert_eq!(attacher.attached.len(), 1);
    let mut running = Running::new(&program);
    running.load(&library);
    until(&mut discovery, &mut attacher, "process", |event| *event == Event::ProcessSeen { pid: running.pid });
    assert_eq!(discovery.process(running.pid).unwrap().incomplete, None);
    assert_eq!(attacher.attached.len(), 1);
}
