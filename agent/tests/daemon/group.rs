//! Control groups of this test's own, and programs in them.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// A group, removed with the value; what runs in it must have ended by then.
pub struct Group(pub PathBuf);

impl Group {
    /// In the version 2 hierarchy, wherever it is mounted.
    pub fn unified() -> Self {
        Self::below(&mount(|rest| rest.starts_with("cgroup2 ")).expect("a mounted cgroup2 file system"))
    }

    /// In the hierarchy that accounts memory, with a limit.
    pub fn with_memory_limit(bytes: u64) -> Self {
        let legacy =
            mount(|rest| rest.starts_with("cgroup ") && rest.split([' ', ',']).any(|option| option == "memory"));
        let (group, file) = match legacy {
            Some(mount) => (Self::below(&mount), "memory.limit_in_bytes"),
            None => {
                let mount = mount(|rest| rest.starts_with("cgroup2 ")).expect("a mounted cgroup2 file system");
                // The root's children account memory where the root says so; it does already under systemd.
                let _ = fs::write(mount.join("cgroup.subtree_control"), "+memory");
                (Self::below(&mount), "memory.max")
            }
        };
        fs::write(group.0.join(file), bytes.to_string()).expect("set the memory limit (needs root)");
        group
    }

    fn below(mount: &Path) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("railwatch-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = mount.join(name);
        fs::create_dir(&path).expect("make a control group (needs root)");
        Self(path)
    }

    /// A command that runs `program` inside.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("bash");
        command.args(["-c", "echo $$ > \"$0/cgroup.procs\" && exec \"$@\""]).arg(&self.0).arg(program);
        command
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for _ in 0..200 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

fn mount(wanted: impl Fn(&str) -> bool) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = mounts.lines().find(|line| line.split_once(" - ").is_some_and(|(_, rest)| wanted(rest)))?;
    line.split(' ').nth(4).map(PathBuf::from)
}

/// The folder of the built fixtures (tests/fixtures/gpu).
pub fn fixtures() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let output = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/gpu-fixtures-agent"));
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/gpu");
        let made = Command::new("make").args(["-s", "-C", source]).arg(format!("OUT={}", output.display())).status();
        assert!(made.unwrap().success(), "the fixtures need make and gcc");
        output.canonicalize().unwrap()
    })
}

/// A program that calls the fixture's CUDA runtime as told.
pub struct Caller {
    pub process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Caller {
    /// In `group`; `change` may change the command, which is bash's until it replaces itself.
    pub fn start(group: &Group, change: impl FnOnce(&mut Command)) -> Self {
        let mut command = group.command(&fixtures().join("caller").display().to_string());
        command.arg(fixtures().join("libcudart.so")).stdin(Stdio::piped()).stdout(Stdio::piped());
        change(&mut command);
        let mut process = command.spawn().unwrap();
        let input = process.stdin.take().unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        // It says so once the libraries are loaded.
        output.read_line(&mut String::new()).unwrap();
        Self { process, input, output }
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Writes one line without waiting for its answer.
    pub fn send(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
    }

    /// Runs one line; gives the status.
    pub fn call(&mut self, line: &str) -> i64 {
        self.send(line);
        let mut answer = String::new();
        self.output.read_line(&mut answer).unwrap();
        answer.split_whitespace().nth(1).unwrap_or_else(|| panic!("{line}: {answer:?}")).parse().unwrap()
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
