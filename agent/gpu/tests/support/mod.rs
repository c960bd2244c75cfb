//! Fixture programs for the kernel half's tests: built once, driven line by line, found by symbol.
#![allow(dead_code, reason = "each test binary uses its part of this module")]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::OnceLock;

use object::{Object, ObjectSegment, ObjectSymbol};
use railwatch_abi::cookie::Layer;
use railwatch_gpu::accounts::{Accounts, ProcessRows, Row, Snapshot};
use railwatch_gpu::kernel::{Kernel, Options};
use railwatch_gpu::symbols::{SymbolId, by_name};

/// Loads the kernel half, or ends the test: in failure, unless skipping is allowed explicitly.
pub fn load(options: Options) -> Kernel {
    match Kernel::load(options) {
        Ok(kernel) => kernel,
        Err(error) => {
            if std::env::var_os("RAILWATCH_ALLOW_SKIP").is_some_and(|allowed| allowed == "1") {
                eprintln!("SKIPPED: {error}");
                std::process::exit(0);
            }
            panic!("{error}");
        }
    }
}

/// The folder of the built fixtures.
pub fn fixtures() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap();
        let folder = root.join("target/gpu-fixtures");
        std::fs::create_dir_all(&folder).unwrap();
        let lock = File::create(folder.join("lock")).unwrap();
        lock.lock().unwrap();
        let made = Command::new("make")
            .args(["-s", "-C"])
            .arg(root.join("tests/fixtures/gpu"))
            .arg(format!("OUT={}", folder.display()))
            .status()
            .expect("make is there");
        assert!(made.success(), "building the fixtures");
        folder
    })
}

/// A fixture's path.
pub fn fixture(name: &str) -> PathBuf {
    fixtures().join(name)
}

/// The table's symbols that a file defines, with file offsets.
pub fn symbols_of(path: &Path) -> Vec<(SymbolId, u64)> {
    let bytes = std::fs::read(path).unwrap();
    let file = object::File::parse(&*bytes).unwrap();
    let mut found: Vec<_> = file
        .dynamic_symbols()
        .chain(file.symbols())
        .filter(|symbol| symbol.is_definition())
        .filter_map(|symbol| {
            let (id, _) = by_name(symbol.name().ok()?)?;
            let segment =
                file.segments().find(|s| (s.address()..s.address() + s.size()).contains(&symbol.address()))?;
            Some((id, symbol.address() - segment.address() + segment.file_range().0))
        })
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// Loads with defaults and attaches to fixtures, all of whose points must attach.
pub fn traced(libraries: &[&str]) -> Kernel {
    traced_with(Options::default(), libraries)
}

/// As [`traced`], with options.
pub fn traced_with(options: Options, libraries: &[&str]) -> Kernel {
    let mut kernel = load(options);
    for library in libraries {
        attach(&mut kernel, &fixture(library));
    }
    kernel
}

/// Attaches to all of the table's functions in a file.
pub fn attach(kernel: &mut Kernel, path: &Path) {
    let points = symbols_of(path);
    assert!(!points.is_empty(), "{} has none of the table's symbols", path.display());
    let attached = kernel.attach(path, &points).unwrap();
    assert!(attached.failures.is_empty(), "{:?}", attached.failures);
}

/// The `caller` fixture: calls functions as told.
pub struct Caller {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Caller {
    pub fn start(libraries: &[&str]) -> Self {
        Self::run(Command::new(fixture("caller")).args(libraries.iter().map(|library| fixture(library))))
    }

    pub fn run(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut caller = Self { child, input, output };
        caller.answer("start");
        caller
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Runs one line; gives the status and cell 0.
    pub fn call(&mut self, line: &str) -> (i64, u64) {
        self.send(line);
        self.answer(line)
    }

    /// Reads one answer.
    pub fn answer(&mut self, line: &str) -> (i64, u64) {
        let mut answer = String::new();
        self.output.read_line(&mut answer).unwrap();
        let mut words = answer.split_whitespace().skip(1);
        let mut next = || words.next().unwrap_or_else(|| panic!("{line}: no answer")).to_owned();
        (next().parse().unwrap(), next().parse().unwrap())
    }

    /// Runs lines, each of which must return 0.
    pub fn ok(&mut self, lines: &[&str]) {
        for line in lines {
            assert_eq!(self.call(line).0, 0, "{line}");
        }
    }

    /// Writes a line without waiting for its answer.
    pub fn send(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads the books once.
pub fn snapshot(kernel: &Kernel) -> Snapshot {
    Accounts::default().refresh(kernel).unwrap()
}

/// The rows of a live process.
pub fn process(kernel: &Kernel, pid: u32) -> ProcessRows {
    snapshot(kernel).live(pid).unwrap_or_else(|| panic!("process {pid} was not seen")).clone()
}

/// The memory row of a live process.
pub fn memory(kernel: &Kernel, pid: u32, layer: Layer, device: Option<u32>) -> Row {
    process(kernel, pid).memory.get(&(layer, device)).cloned().unwrap_or_default()
}

/// (bytes held, peak, allocations, frees, failures)
pub fn balance(row: &Row) -> (u64, u64, u64, u64, u64) {
    (row.allocated_bytes, row.peak_bytes, row.allocs, row.frees, row.failed_allocs())
}
