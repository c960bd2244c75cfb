//! Real requests with known counts, against the kernel's own statistics. On the running kernel a loop device over a file; in
//! the virtual machines of `cargo xtask test kernels` a disk behind virtio, and one whose every request takes 20 ms. Needs
//! root (CAP_SYS_ADMIN).
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use railwatch_abi::disk::{BUCKETS, DiskKey, FLUSH, GPU, KERNEL, OTHER, READ, Requests, WRITE};
use railwatch_disk::{DiskKernel, DiskLatencySource, Histogram, RULES, disk_name};
use railwatch_sampling::{Batch, Catalog, Output, Recorder, Source};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// One test at a time: they count the same devices.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn in_vm() -> bool {
    std::env::var_os("RAILWATCH_VM").is_some()
}

fn done(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    text
}

/// A loop device over a file of 16 MiB, detached in the end.
struct Loop {
    device: PathBuf,
    _file: tempfile::NamedTempFile,
}

impl Loop {
    /// In memory: what its own disk does is of no interest.
    fn new() -> Self {
        Self::below(Path::new("/dev/shm"))
    }

    fn below(folder: &Path) -> Self {
        if in_vm() {
            done("modprobe", &["loop"]);
        }
        let file = tempfile::NamedTempFile::new_in(folder).unwrap();
        file.as_file().set_len(16 << 20).unwrap();
        let device = done("losetup", &["--find", "--show", file.path().to_str().unwrap()]);
        Self { device: device.into(), _file: file }
    }

    fn name(&self) -> String {
        self.device.file_name().unwrap().to_string_lossy().into_owned()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        done("losetup", &["--detach", self.device.to_str().unwrap()]);
    }
}

/// A page of memory at an address that direct IO takes.
#[repr(align(4096))]
struct Page([u8; 4096]);

fn direct(device: &Path) -> File {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(device).unwrap()
}

/// Completed requests of a disk by the kernel's own statistics: reads, writes, flushes
/// (Documentation/block/stat.rst).
fn statistics(disk: &str) -> [u64; 3] {
    let text = std::fs::read_to_string(format!("/sys/block/{disk}/stat")).unwrap();
    let words: Vec<u64> = text.split_whitespace().map(|word| word.parse().unwrap()).collect();
    [words[0], words[4], words[15]]
}

/// What the kernel half counted of a disk, by operation and issuer.
fn counted(kernel: &DiskKernel, disk: &str) -> BTreeMap<(u32, u32), Requests> {
    let mut found = BTreeMap::new();
    kernel
        .requests(|key: DiskKey, requests| {
            if disk_name(&key) == disk {
                found.insert((key.operation, key.issuer), requests);
            }
        })
        .unwrap();
    found
}

fn completed(kernel: &DiskKernel, disk: &str, operation: u32) -> u64 {
    counted(kernel, disk).iter().filter(|((of, _), _)| *of == operation).map(|(_, requests)| requests.completed).sum()
}

/// Reads and writes a device directly, each request of its own, and flushes it.
fn work(device: &Path, reads: u64, writes: u64, flushes: u64) {
    let (file, mut page) = (direct(device), Page([7; 4096]));
    for request in 0..writes {
        file.write_all_at(&page.0, request % 1024 * 4096).unwrap();
    }
    for request in 0..reads {
        file.read_exact_at(&mut page.0, request % 1024 * 4096).unwrap();
    }
    for _ in 0..flushes {
        file.write_all_at(&page.0, 0).unwrap();
        file.sync_data().unwrap();
    }
}

/// The disks to test: a loop device everywhere, and in the virtual machines the one behind virtio.
fn virtio() -> Option<PathBuf> {
    if !in_vm() {
        eprintln!("no virtio disk of its own here: tested in the virtual machines (`cargo xtask test kernels`)");
        return None;
    }
    done("modprobe", &["virtio_blk"]);
    let end = Instant::now() + Duration::from_secs(20);
    while !Path::new("/dev/vda").exists() {
        assert!(Instant::now() < end, "the virtual machine has no /dev/vda");
        std::thread::sleep(Duration::from_millis(100));
    }
    Some("/dev/vda".into())
}

#[test]
fn counts_are_the_kernels_own() {
    let _turn = turn();
    let looped = Loop::new();
    for device in [Some(looped.device.clone()), virtio()].into_iter().flatten() {
        let disk = device.file_name().unwrap().to_string_lossy().into_owned();
        let kernel = DiskKernel::load().unwrap();
        assert_eq!(kernel.off(), [], "this kernel tells everything");
        let before = statistics(&disk);
        let (reads, writes, flushes) = if disk == "vda" { (40, 30, 0) } else { (3_000, 2_000, 5) };
        work(&device, reads, writes, flushes);
        // Of a flush the kernel counts the flush, and as a write the empty request that asked for it.
        let after = statistics(&disk);
        let own = [READ, WRITE, FLUSH].map(|operation| completed(&kernel, &disk, operation));
        let grew = [0, 1, 2].map(|index| after[index] - before[index]);
        let books = kernel.books().unwrap();
        // An end that was not seen is none that is not told of: its request shows as issued again, or a program's run as missed.
        let untold = books.reissued + books.missed;
        let is_told = |own: u64, grew: u64| own <= grew && own + untold >= grew;
        assert!(untold <= 10, "rare: {books:?}");
        assert!(is_told(own[0], grew[0]), "reads of {disk}: {own:?} and {grew:?}, {books:?}");
        assert!(is_told(own[2], grew[2]), "flushes of {disk}: {own:?} and {grew:?}, {books:?}");
        let written = is_told(own[1], grew[1]) || is_told(own[1] + flushes, grew[1]);
        assert!(written, "writes of {disk}: {own:?} and {grew:?}, {books:?}");
        assert!(own[0] + untold >= reads && is_told(own[1], writes + flushes), "{disk}: {own:?}");
        let (mut issued, mut all) = (0, 0);
        kernel
            .requests(|_, requests| {
                issued += requests.issued;
                let in_buckets = Histogram::between(&[0; BUCKETS], &requests.buckets).count();
                assert!(in_buckets <= requests.completed);
                all += 1;
            })
            .unwrap();
        let books = kernel.books().unwrap();
        let sum = issued + books.reissued + books.started_full + books.kinds_full;
        // Other disks of the host go on meanwhile: the books were read after the counts.
        assert!(all > 0 && books.seen >= sum && books.seen <= sum + 1_000, "{books:?} {issued}");
        assert_eq!((books.started_full, books.kinds_full), (0, 0), "{books:?}");
        for ((operation, issuer), requests) in counted(&kernel, &disk) {
            let left = requests.issued - requests.completed;
            assert!(left <= untold, "{disk} {operation} {issuer}: none is in flight, {requests:?} {books:?}");
            assert_eq!(requests.errors, 0);
            assert!(requests.completed == 0 || requests.time_ns > 0);
        }
    }
}

#[test]
fn reads_of_a_gpu_process_and_of_its_children_are_told_apart() {
    let _turn = turn();
    let looped = Loop::new();
    let disk = looped.name();
    let mut kernel = DiskKernel::load().unwrap();
    let reads_by = |kernel: &DiskKernel, issuer| {
        counted(kernel, &disk).get(&(READ, issuer)).map_or(0, |requests| requests.completed)
    };
    let read_by_child = || {
        let from = format!("if={}", looped.device.display());
        done("dd", &[&from, "of=/dev/null", "bs=4096", "count=50", "iflag=direct"]);
    };
    // A loop device's requests are handed over by whoever asks, or by the kernel where its queue is run later.
    work(&looped.device, 100, 0, 0);
    let (other, by_kernel) = (reads_by(&kernel, OTHER), reads_by(&kernel, KERNEL));
    assert!(other + by_kernel >= 100 && other >= 50, "{other} {by_kernel}");
    assert_eq!(reads_by(&kernel, GPU), 0);
    kernel.set_gpu_processes(BTreeSet::from([std::process::id()])).unwrap();
    work(&looped.device, 100, 0, 0);
    read_by_child();
    let gpu = reads_by(&kernel, GPU);
    assert!(gpu >= 75, "{gpu} of 150 by this process and its child");
    kernel.set_gpu_processes(BTreeSet::new()).unwrap();
    work(&looped.device, 100, 0, 0);
    assert_eq!(reads_by(&kernel, GPU), gpu, "it holds no GPU any more");
}

/// One source, driven by hand.
struct Driven {
    source: DiskLatencySource,
    recorder: Recorder,
    catalog: Arc<Catalog>,
    out: Output,
}

impl Driven {
    fn new() -> Self {
        let source = DiskLatencySource::new("/sys".into(), Box::new(BTreeSet::new));
        let window = Duration::from_secs(100_000_000);
        let catalog = Arc::new(Catalog::default());
        let recorder = Recorder::new("disk.latency", window, RULES, Arc::clone(&catalog));
        let mut new = Self { source, recorder, catalog, out: Output::default() };
        new.probe();
        new
    }

    fn probe(&mut self) {
        let Self { source, recorder, catalog, out } = self;
        recorder.probe(0, out, |declare| source.probe(declare)).unwrap();
        assert_eq!(catalog.outside_vocabulary(), "");
    }

    /// The values read, by series name, direction, quantile and issuer of one disk.
    fn read(&mut self, disk: &str) -> BTreeMap<String, f64> {
        let mut batch = Batch::with_capacity(4096);
        self.source.read(&mut batch).unwrap();
        let defs: BTreeMap<_, _> = self
            .recorder
            .living()
            .filter(|(_, def)| def.entity().name == disk)
            .map(|(handle, def)| {
                let labels = ["disk.io.direction", "quantile", "issuer"].map(|key| def.label(key).unwrap_or_default());
                (handle.index(), format!("{} {}", def.name(), labels.join(" ").trim()))
            })
            .collect();
        let mut values = BTreeMap::new();
        for reading in batch.readings() {
            let value = match reading.value {
                railwatch_sampling::Value::Gauge(value) => value,
                railwatch_sampling::Value::Counter(count) => count as f64,
            };
            if let Some(name) = defs.get(&reading.series.index()) {
                values.insert(name.clone(), value);
            }
        }
        self.recorder.record(&batch, &mut self.out);
        self.probe();
        values
    }
}

#[test]
fn a_second_with_requests_has_its_quantiles_and_one_without_has_none() {
    let _turn = turn();
    let looped = Loop::new();
    let disk = looped.name();
    let mut driven = Driven::new();
    work(&looped.device, 10, 0, 0);
    driven.read(&disk);
    work(&looped.device, 500, 0, 0);
    let values = driven.read(&disk);
    let time = |quantile: &str| values[&format!("disk.operation.latency read {quantile} any")];
    let (half, most, longest) = (time("0.5"), time("0.99"), time("1"));
    assert!(half > 0.0 && half <= most && most <= longest && longest < 60e6, "{values:?}");
    assert!(!values.contains_key("disk.operation.latency read 0.5 gpu"), "no GPU process read: {values:?}");
    assert!(values.contains_key("disk.errors read"), "{values:?}");
    let values = driven.read(&disk);
    assert!(!values.keys().any(|name| name.starts_with("disk.operation.latency")), "nothing ended: {values:?}");
    assert_eq!(values["disk.operation.in_flight read"], 0.0);
    let completed: f64 = ["gpu", "kernel", "other"]
        .map(|issuer| values[&format!("disk.operation.completed read  {issuer}")])
        .iter()
        .sum();
    assert!(completed >= 500.0, "{values:?}");
    assert!(driven.out.signals.is_empty(), "{:?}", driven.out.signals);
}

/// Reads a device until told to stop, two threads at once.
fn under_load<T>(device: &Path, during: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    let read = || {
        let (file, mut page) = (direct(device), Page([7; 4096]));
        for request in 0u64.. {
            if stop.load(Relaxed) {
                return;
            }
            file.read_exact_at(&mut page.0, request % 1024 * 4096).unwrap();
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(read);
        scope.spawn(read);
        let result = during();
        stop.store(true, Relaxed);
        result
    })
}

impl Driven {
    /// What a sampling thread does for some seconds: a reading each second, and the source's events.
    fn go_on(&mut self, disk: &str, seconds: u32) -> Vec<BTreeMap<String, f64>> {
        let began = Instant::now();
        (1..=seconds)
            .map(|second| {
                let end = began + Duration::from_secs(second.into());
                loop {
                    let left = end.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return self.read(disk);
                    }
                    let mut fds = [PollFd::new(self.source.event_fd().unwrap(), PollFlags::POLLIN)];
                    if poll(&mut fds, PollTimeout::try_from(left).unwrap()).unwrap() > 0 {
                        let mut batch = Batch::with_capacity(16);
                        self.source.on_event(&mut batch).unwrap();
                        assert!(batch.readings().is_empty());
                    }
                }
            })
            .collect()
    }
}

/// Whether these CPUs are emulated by software (QEMU's TCG). Attaching to a tracepoint rewrites a running kernel's code
/// (text_poke_bp in arch/x86/kernel/alternative.c), and such a CPU may still run the breakpoint of a rewrite that is over:
/// the kernel then panics. What attaches again and again under load is tested on the running kernel.
fn is_emulated() -> bool {
    let emulated = std::fs::read_to_string("/proc/cpuinfo").unwrap().contains("QEMU TCG");
    if emulated {
        eprintln!("emulated CPUs: programs are not attached and taken off under load here");
    }
    emulated
}

/// Enough for two slices after the first.
const LOADED_S: u32 = 50;

#[test]
fn over_the_budget_requests_are_timed_in_slices_and_the_rest_is_counted() {
    let _turn = turn();
    if is_emulated() {
        return;
    }
    let looped = Loop::new();
    let disk = looped.name();
    let mut driven = Driven::new();
    let before = statistics(&disk)[0];
    work(&looped.device, 10, 0, 0);
    driven.read(&disk);
    assert!(!driven.source.kernel_path().contains("slices"));
    let loaded = under_load(&looped.device, || driven.go_on(&disk, LOADED_S));
    assert!(driven.source.kernel_path().contains("slices"), "{}", driven.source.kernel_path());
    let mut quiet = driven.go_on(&disk, 2);
    for _ in 0..60 {
        if driven.source.kernel_path().contains("slices") {
            quiet = driven.go_on(&disk, 1);
        }
    }
    let last = quiet.last().unwrap();
    let all = statistics(&disk)[0] - before;
    let timed = |values: &BTreeMap<String, f64>| -> f64 {
        ["gpu", "other", "kernel"].iter().map(|of| values[&format!("disk.operation.completed read  {of}")]).sum()
    };
    let not_timed = last["disk.operation.not_timed read"];
    println!("{all} reads in {LOADED_S} s, {} timed, {not_timed} not", timed(last));
    assert!(all > u64::from(LOADED_S) * 2_500, "{all} reads are no load");
    assert_eq!(timed(last) + not_timed, all as f64, "every read is one or the other");
    // 1,333 a second, those of 15 s saved at the beginning, and overdrawn at first half a second of this load.
    let most = 1_333.0 * f64::from(LOADED_S + 15) + all as f64 / f64::from(LOADED_S) / 2.0;
    assert!(timed(last) > 1_000.0 && timed(last) < most, "{} of {all}, at most {most}", timed(last));
    let sampled = loaded.iter().filter(|values| values.contains_key("disk.operation.latency read 0.5 any")).count();
    // The first, and a slice each 15 s or, where it had to be saved up for, a little later.
    assert!((3..LOADED_S as usize / 2).contains(&sampled), "{sampled} of {LOADED_S} seconds have a latency");
    assert_eq!(last["disk.operation.in_flight read"], 0.0);
    assert!(driven.out.signals.is_empty(), "{:?}", driven.out.signals);
    if driven.source.kernel_path().contains("slices") {
        eprintln!(
            "other disks of this host make more than 1,000 requests a second for a minute: not all can be timed again"
        );
        return;
    }
    work(&looped.device, 500, 0, 0);
    let again = driven.read(&disk);
    assert_eq!(timed(&again) + again["disk.operation.not_timed read"], all as f64 + 500.0);
    // One end in some 100,000 is not seen, in slices or not.
    assert!(timed(&again) >= timed(last) + 498.0, "{again:?}");
}

#[test]
fn no_request_is_left_behind_by_programs_that_are_taken_off() {
    let _turn = turn();
    if is_emulated() {
        return;
    }
    let looped = Loop::new();
    let disk = looped.name();
    let mut kernel = DiskKernel::load().unwrap();
    let (mut cleared, mut took) = (0, Duration::ZERO);
    under_load(&looped.device, || {
        for round in 0..40 {
            std::thread::sleep(Duration::from_millis(10));
            let began = Instant::now();
            kernel.stop_issues();
            if round % 2 == 0 {
                std::thread::sleep(Duration::from_millis(5));
            }
            kernel.detach();
            let detached = began.elapsed();
            std::thread::sleep(Duration::from_millis(20));
            let left = kernel.clear().unwrap();
            cleared += left.iter().filter(|started| disk_name(&started.key) == disk).count() as u64;
            let counts = counted(&kernel, &disk);
            let sum = |of: fn(&Requests) -> u64| -> u64 { counts.values().map(of).sum() };
            assert_eq!(sum(|of| of.issued), sum(|of| of.completed) + cleared, "round {round}");
            let began = Instant::now();
            kernel.attach().unwrap();
            took += if round % 2 == 0 { Duration::ZERO } else { began.elapsed() + detached };
        }
    });
    println!("attaching and taking off: {:?}; {cleared} requests were in flight", took / 20);
    kernel.stop_issues();
    std::thread::sleep(Duration::from_millis(100));
    let mut left = 0;
    kernel.in_flight(|started| left += u32::from(disk_name(&started.key) == disk)).unwrap();
    assert_eq!(left, 0, "what began before the programs were attached is nowhere");
}

/// A disk whose every request takes 20 ms and more, in the virtual machine.
#[test]
fn a_slow_disk_shows_its_delay() {
    let _turn = turn();
    if virtio().is_none() {
        return;
    }
    let mut driven = Driven::new();
    let device = Path::new("/dev/vda");
    work(device, 1, 1, 0);
    driven.read("vda");
    work(device, 20, 20, 0);
    let values = driven.read("vda");
    for direction in ["read", "write"] {
        let half = values[&format!("disk.operation.latency {direction} 0.5 any")];
        assert!((18_000.0..200_000.0).contains(&half), "{direction}: {values:?}");
    }
}

/// A file system in memory of 64 KiB, unmounted in the end.
struct Small(tempfile::TempDir);

impl Small {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        done("mount", &["-t", "tmpfs", "-o", "size=64k", "tmpfs", folder.path().to_str().unwrap()]);
        Self(folder)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        done("umount", &["--lazy", self.0.path().to_str().unwrap()]);
    }
}

/// An error that the device returns is counted as one, and raises its signal.
#[test]
fn a_failed_request_is_counted_and_told() {
    let _turn = turn();
    // The loop device is larger than what its file can take.
    let small = Small::new();
    let looped = Loop::below(small.0.path());
    let disk = looped.name();
    let mut driven = Driven::new();
    work(&looped.device, 1, 1, 0);
    driven.read(&disk);
    driven.read(&disk);
    let (file, page) = (direct(&looped.device), Page([7; 4096]));
    let failed = (0..64).filter(|at| file.write_all_at(&page.0, at * 4096).is_err()).count();
    assert!(failed > 0, "64 KiB hold no 256 KiB");
    let values = driven.read(&disk);
    assert!(values["disk.errors write"] >= failed as f64, "{failed}: {values:?}");
    assert_eq!(values["disk.errors read"], 0.0, "{values:?}");
    assert_eq!(driven.out.signals.iter().map(|signal| signal.name).collect::<Vec<_>>(), ["disk.errors"]);
}

/// `cargo test -p railwatch-disk --test kernel_disk -- --ignored --exact cost_per_request --nocapture`
#[test]
#[ignore = "a measurement; it switches the kernel's BPF statistics on for its time"]
fn cost_per_request() {
    let _turn = turn();
    let looped = Loop::new();
    let kernel = DiskKernel::load().unwrap();
    let switch = Path::new("/proc/sys/kernel/bpf_stats_enabled");
    std::fs::write(switch, "1").unwrap();
    work(&looped.device, 20_000, 20_000, 0);
    std::fs::write(switch, "0").unwrap();
    let field = |text: &str, name: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim_start_matches(':').trim().parse().unwrap()
    };
    let mut sum = 0.0;
    for program in kernel.programs() {
        use std::os::fd::AsRawFd;
        let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_fd().as_raw_fd())).unwrap();
        let (time, runs) = (field(&text, "run_time_ns"), field(&text, "run_cnt"));
        // One or two end while the switch is thrown.
        assert!(runs >= 39_900.0, "{text}");
        println!("a program of {runs} runs: {:.0} ns each", time / runs);
        sum += time / runs;
    }
    println!("a request: {sum:.0} ns");
    drop(kernel);
    let mut driven = Driven::new();
    work(&looped.device, 100, 100, 0);
    driven.read(&looped.name());
    let mut batch = Batch::with_capacity(4096);
    let mut reads: Vec<_> = (0..200)
        .map(|_| {
            batch.clear();
            let began = Instant::now();
            driven.source.read(&mut batch).unwrap();
            began.elapsed()
        })
        .collect();
    reads.sort_unstable();
    println!("a reading of the source: {:?} (median), {:?} (worst of 200)", reads[100], reads[199]);
    let began = Instant::now();
    for _ in 0..1_000 {
        driven.source.on_event(&mut batch).unwrap();
    }
    println!("a look at the budget, four to twenty a second: {:?}", began.elapsed() / 1_000);
}
