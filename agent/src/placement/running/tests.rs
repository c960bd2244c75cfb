#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
use super::*;
use railwatch_sampling::Severity;
use std::collections::BTreeMap;
use std::fs;

/// A /proc in which threads do what they are told.
struct Host {
    proc: tempfile::TempDir,
    sysfs: tempfile::TempDir,
    watch: Watch,
    tasks: Tasks,
    now_ns: u64,
    told: Vec<(u64, Signal)>,
}

/// A thread: its state, and what its `schedstat` says.
#[derive(Clone, Copy)]
struct Shown(char, u64, u64, u64);

impl Host {
    fn new() -> Self {
        let (proc, sysfs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let watch = Watch::new(proc.path().to_owned(), sysfs.path().to_owned());
        Self { proc, sysfs, watch, tasks: Tasks::default(), now_ns: SECOND_NS, told: Vec::new() }
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.proc.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn thread(&self, pid: u32, tid: u32, Shown(state, ran_ms, waited_ms, slices): Shown) {
        let mut fields = vec!["0".to_owned(); 50];
        (fields[0], fields[11], fields[36]) = (state.to_string(), (ran_ms / 10).to_string(), "3".to_owned());
        let stat = format!("{tid} (python) {}", fields.join(" "));
        self.write(&format!("{pid}/task/{tid}/stat"), &stat);
        let schedstat = format!("{} {} {slices}\n", ran_ms * 1_000_000, waited_ms * 1_000_000);
        self.write(&format!("{pid}/task/{tid}/schedstat"), &schedstat);
        if tid == pid {
            self.write(&format!("{pid}/stat"), &stat);
        }
    }

    /// A look each 250 ms until `until_ms` after the start; what each thread of process 7 shows then.
    fn run(&mut self, until_ms: u64, shown: impl Fn(u64) -> BTreeMap<u32, Shown>) {
        let table = v1::GpuState {
            processes: vec![v1::GpuProcess { pid: 7, comm: "python".into(), ..v1::GpuProcess::default() }],
            coverage: vec![],
        };
        while self.now_ns / 1_000_000 - 1000 < until_ms {
            let ms = self.now_ns / 1_000_000 - 1000;
            for (tid, shown) in shown(ms) {
                self.thread(7, tid, shown);
            }
            self.watch.follow(self.now_ns, &table);
            let told = self.watch.look(self.now_ns, &self.tasks);
            self.told.extend(told.into_iter().map(|signal| (ms, signal)));
            self.now_ns += 250_000_000;
        }
    }

    fn names(&self) -> Vec<(u64, &'static str)> {
        self.told.iter().map(|(ms, signal)| (*ms, signal.name)).collect()
    }
}

fn attribute<'s>(signal: &'s Signal, key: &str) -> Option<&'s str> {
    signal.attributes.iter().find(|(of, _)| *of == key).map(|(_, value)| value.as_str())
}

#[test]
fn a_process_that_is_stopped_is_told_within_two_seconds_with_its_state() {
    let mut host = Host::new();
    host.run(10_000, |ms| {
        let ran = ms.clamp(0, 3000) + ms.saturating_sub(8000);
        [(7, Shown(if (3250..8250).contains(&ms) { 'T' } else { 'S' }, ran + 1, 0, ran + 1))].into()
    });
    assert_eq!(host.names(), [(4000, "process.stopped"), (8250, "process.resumed")]);
    let stopped = &host.told[0].1;
    assert_eq!(stopped.summary, "python (pid 7) is stopped by a signal: it has not run for 1.0 s");
    assert_eq!((stopped.severity, attribute(stopped, "state")), (Severity::Error, Some("stopped")));
}

#[test]
fn a_debugger_is_named_and_a_thread_in_the_kernel_beside_a_sleeping_one_is_found() {
    let mut host = Host::new();
    host.write("7/status", "Name:\tpython\nTracerPid:\t9\n");
    host.write("9/comm", "gdb\n");
    host.run(3000, |_| [(7, Shown('t', 5, 0, 5))].into());
    let traced = &host.told[0].1;
    assert_eq!((traced.name, traced.severity), ("process.stopped", Severity::Warning));
    assert_eq!(attribute(traced, "tracer"), Some("gdb (pid 9)"));
    assert!(traced.summary.contains("is held by gdb (pid 9), which traces it"), "{}", traced.summary);

    let mut host = Host::new();
    host.write("7/task/8/wchan", "rpc_wait_bit_killable");
    host.run(60_000, |ms| {
        [(7, Shown('S', 5, 0, 5)), (8, Shown(if ms < 50_000 { 'D' } else { 'S' }, 4, 0, 4 + ms / 50_000))].into()
    });
    let names = host.names();
    let [(from, "process.stopped"), (to, "process.resumed")] = names[..] else { panic!("{names:?}") };
    assert!((10_000..12_000).contains(&from) && (50_000..51_500).contains(&to), "{names:?}");
    let held = &host.told[0].1;
    assert_eq!((attribute(held, "thread"), attribute(held, "wchan")), (Some("8"), Some("rpc_wait_bit_killable")));
}

#[test]
fn a_process_that_waits_for_its_processor_is_told_with_who_else_wants_it() {
    let mut host = Host::new();
    host.write("7/status", "Cpus_allowed:\tf\n");
    for (pid, state) in [(20, "R"), (21, "S")] {
        let mut fields = vec!["0"; 50];
        (fields[0], fields[36]) = (state, "3");
        host.write(&format!("{pid}/stat"), &format!("{pid} (hog) {}", fields.join(" ")));
    }
    // From 30 s on it waits 700 ms of each second, on its second thread; the first sleeps.
    host.run(60_000, |ms| {
        let waited = ms.saturating_sub(30_000).min(20_000) * 7 / 10;
        [(7, Shown('S', 5, 0, 5)), (8, Shown('R', 10 + ms / 5, waited, ms / 10))].into()
    });
    let names = host.names();
    let [(from, "process.starved"), (to, "process.starved.over")] = names[..] else { panic!("{names:?}") };
    assert!((33_000..35_500).contains(&from) && (54_000..57_000).contains(&to), "{names:?}");
    let starved = &host.told[0].1;
    assert_eq!(
        (attribute(starved, "cause"), attribute(starved, "competitors"), attribute(starved, "thread")),
        (Some("competition"), Some("hog (pid 20)"), Some("8"))
    );
    assert!(starved.summary.contains("processor 3 is wanted by hog (pid 20), too"), "{}", starved.summary);
    let waited = host.watch.waited().next().unwrap();
    assert_eq!(waited, (7, 14 * SECOND_NS), "process.cpu.wait: all that was waited is counted");
}

#[test]
fn a_quota_is_told_from_others_and_a_process_that_fills_its_processors_is_not_told() {
    let starving = |ms: u64| ms.saturating_sub(30_000) * 7 / 10;
    let mut host = Host::new();
    host.write("7/status", "Cpus_allowed:\tf\n");
    host.write("7/cgroup", "0::/box\n");
    let quota = host.sysfs.path().join("fs/cgroup/box/cpu.stat");
    fs::create_dir_all(quota.parent().unwrap()).unwrap();
    for second in 0..40u64 {
        let throttled_us = starving(second * 1000) * 1000;
        fs::write(&quota, format!("nr_periods 9\nnr_throttled 1\nthrottled_usec {throttled_us}\n")).unwrap();
        host.run((second + 1) * 1000, |ms| [(7, Shown('R', 1 + ms / 10, starving(ms), 1 + ms))].into());
    }
    let [(_, starved)] = &host.told[..] else { panic!("{:?}", host.names()) };
    assert_eq!(attribute(starved, "cause"), Some("quota"));

    let mut host = Host::new();
    // It may use one processor, and does.
    host.write("7/status", "Cpus_allowed:\t8\n");
    host.run(60_000, |ms| [(7, Shown('R', 1 + ms, starving(ms), 1 + ms))].into());
    assert_eq!(host.names(), []);
}

#[test]
fn its_series_is_in_the_vocabulary_as_it_declares_it() {
    let catalog = Arc::new(railwatch_sampling::Catalog::new(10));
    let mut recorder =
        railwatch_sampling::Recorder::new("process.sched", Duration::from_secs(1), &[], Arc::clone(&catalog));
    let mut out = railwatch_sampling::Output::default();
    let declared = recorder.probe(0, &mut out, |declare| declare.series(definition(7)).map(drop).ok_or(()));
    assert_eq!((declared, catalog.all().len(), catalog.outside_vocabulary().as_str()), (Ok(()), 1, ""));
}

#[test]
#[ignore = "takes half a minute; its figure is in docs/SPECIFICATION.md"]
fn what_eight_processes_of_a_hundred_threads_cost() {
    let program = "import threading, time\n\
                   for _ in range(99): threading.Thread(target=time.sleep, args=(90,), daemon=True).start()\n\
                   while True: time.sleep(0.01)";
    let mut children: Vec<_> =
        (0..8).map(|_| std::process::Command::new("/usr/bin/python3").args(["-c", program]).spawn().unwrap()).collect();
    std::thread::sleep(Duration::from_secs(2));
    let row = |child: &std::process::Child| v1::GpuProcess { pid: child.id(), ..v1::GpuProcess::default() };
    let table = v1::GpuState { processes: children.iter().map(row).collect(), coverage: vec![] };
    let (mut watch, tasks) = (Watch::new("/proc".into(), "/sys".into()), Tasks::default());
    let cpu = || Duration::from(nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap());
    let (begun, before, mut longest) = (std::time::Instant::now(), cpu(), Duration::ZERO);
    while begun.elapsed() < Duration::from_secs(31) {
        let look = cpu();
        watch.follow(monotonic_ns(), &table);
        let told = watch.look(monotonic_ns(), &tasks);
        assert!(told.iter().all(|signal| signal.name.starts_with("process.starved")), "{told:?}");
        longest = longest.max(cpu() - look);
        std::thread::sleep(Duration::from_millis(250));
    }
    let (spent, over) = (cpu() - before, begun.elapsed());
    for child in &mut children {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    println!("{:.3} % of a core; longest look {longest:?}", spent.as_secs_f64() * 100.0 / over.as_secs_f64());
    assert!(spent.as_secs_f64() / over.as_secs_f64() < 0.01, "more than one percent of a core: {spent:?} in {over:?}");
}
