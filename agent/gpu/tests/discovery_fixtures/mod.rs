//! What the tests of discovery share: libraries and a program built with the C compiler, an attacher that records what
//! it is asked for, and a loop that waits for an event.
//!
//! The names looked for are unique to each test, so that what others run on the same kernel is never found.

#![expect(clippy::expect_used, reason = "a failed expectation is the test failing")]
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use railwatch_gpu::discovery::{
    AttachError, Attachable, Attached, Attacher, Discovery, Event, Identity, ObjectId, Options, Wanted,
};

/// A folder of its own, and names of its own.
pub struct Bench {
    pub folder: tempfile::TempDir,
    pub suffix: String,
}

impl Bench {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let suffix = format!("_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Self { folder: tempfile::tempdir().expect("a folder for fixtures"), suffix }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Two functions of the runtime and one of the driver, with names that only this test knows.
    pub fn wanted(&self) -> Wanted {
        Wanted::new(["cudaMalloc", "cudaFree", "cuMemAlloc"].map(|name| self.symbol(name)))
    }

    pub fn symbol(&self, name: &str) -> String {
        format!("{name}{}", self.suffix)
    }

    /// A shared library that defines these functions.
    pub fn library(&self, file: &str, functions: &[&str]) -> PathBuf {
        let path = self.path(file);
        build(&path, &self.source(functions), &["-shared", "-fPIC"]);
        path
    }

    pub fn source(&self, functions: &[&str]) -> String {
        // The path makes each library's bytes its own.
        let bodies = functions.iter().map(|name| {
            format!("int {}(void **out, unsigned long bytes) {{ *out = 0; return (int)bytes; }}\n", self.symbol(name))
        });
        bodies.collect()
    }

    /// A program that does what its standard input says.
    pub fn program(&self, file: &str, extra_source: &str, flags: &[&str]) -> PathBuf {
        let path = self.path(file);
        build(&path, &format!("{PROGRAM}\n{extra_source}"), flags);
        path
    }

    pub fn start(&self, attacher: &mut Recorder, options: Options) -> Discovery {
        Discovery::start(options, self.wanted(), attacher).expect("discovery starts")
    }
}

/// Options of a test: nothing of the host is probed ahead.
pub fn options() -> Options {
    Options { preattach: false, ..Options::default() }
}

pub fn build(output: &Path, source: &str, flags: &[&str]) {
    let code = output.with_extension("fixture.c");
    fs::write(&code, source).expect("the fixture's source is written");
    let built = Command::new("gcc").args(["-O1", "-w", "-o"]).arg(output).arg(&code).args(flags).output();
    let built = built.expect("gcc runs (package gcc)");
    assert!(built.status.success(), "gcc {flags:?}: {}", String::from_utf8_lossy(&built.stderr));
}

pub fn run(command: &str) {
    let done = Command::new("sh").args(["-ec", command]).output().expect("sh runs");
    assert!(done.status.success(), "{command}: {}", String::from_utf8_lossy(&done.stderr));
}

const PROGRAM: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
int main(int count, char **words) {
    char line[4096];
    if (count > 1) { if (dlopen(words[1], RTLD_NOW) == 0) { fprintf(stderr, "%s\n", dlerror()); return 1; } return 0; }
    setvbuf(stdout, 0, _IONBF, 0);
    printf("%d\n", getpid());
    while (fgets(line, sizeof line, stdin)) {
        char *word = line + 5;
        line[strcspn(line, "\n")] = 0;
        if (!strncmp(line, "load ", 5)) {
            if (dlopen(word, RTLD_NOW) == 0) { printf("%s\n", dlerror()); continue; }
        } else if (!strncmp(line, "mmap ", 5)) {
            int file = open(word, O_RDONLY);
            if (mmap(0, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, file, 0) == MAP_FAILED) { puts("mmap failed"); continue; }
            close(file);
        } else if (!strncmp(line, "open ", 5)) {
            if (open(word, O_RDONLY) < 0) { puts("open failed"); continue; }
        } else if (!strncmp(line, "fork ", 5)) {
            int child = fork();
            if (child == 0) { pause(); _exit(0); }
            printf("%d\n", child);
            continue;
        } else if (!strncmp(line, "exec ", 5)) {
            execl(word, word, (char *)0);
            puts("exec failed");
            continue;
        }
        puts("ok");
    }
    return 0;
}
"#;

/// The program of [`Bench::program`], running. It ends when this is dropped.
pub struct Running {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// Its own pid, also where a shell or `unshare` was started first.
    pub pid: u32,
}

impl Running {
    pub fn new(program: &Path) -> Self {
        Self::spawn(&mut Command::new(program))
    }

    pub fn spawn(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the program starts");
        let input = child.stdin.take().expect("stdin is piped");
        let mut output = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let pid = read(&mut output).parse().expect("the program says its pid");
        Self { child, input, output, pid }
    }

    /// Gives a command and waits for its answer.
    pub fn ask(&mut self, command: &str) -> String {
        writeln!(self.input, "{command}").expect("the program listens");
        read(&mut self.output)
    }

    pub fn load(&mut self, library: &Path) {
        assert_eq!(self.ask(&format!("load {}", library.display())), "ok");
    }

    pub fn kill(&mut self) {
        self.child.kill().expect("the program can be killed");
        self.child.wait().expect("the program ends");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(output: &mut impl BufRead) -> String {
    let mut line = String::new();
    output.read_line(&mut line).expect("the program answers");
    line.trim().to_owned()
}

/// One call of [`Attacher::attach`].
#[derive(Debug, Clone)]
pub struct Asked {
    pub id: ObjectId,
    pub identity: Identity,
    pub path: String,
    /// What was found at each point, by position in the table.
    pub symbols: Vec<u16>,
    /// Content of the file that the probe path led to.
    pub bytes: Vec<u8>,
}

/// Records what it is asked, and answers as told.
#[derive(Default)]
pub struct Recorder {
    pub attached: Vec<Asked>,
    pub detached: Vec<ObjectId>,
    pub refuse: Option<String>,
    pub kept: bool,
    pub late: Vec<(u32, ObjectId)>,
}

impl Attacher for Recorder {
    fn attach(&mut self, object: &Attachable<'_>) -> Result<Attached, AttachError> {
        self.attached.push(Asked {
            id: object.id,
            identity: object.identity,
            path: object.path.to_owned(),
            symbols: object.points.iter().map(|point| point.symbol).collect(),
            bytes: fs::read(object.probe_path).expect("the probe path leads to the file"),
        });
        match &self.refuse {
            Some(reason) => Err(AttachError(reason.clone())),
            None => Ok(Attached { points: object.points.len(), first_error: None, kept: self.kept }),
        }
    }

    fn detach(&mut self, object: ObjectId) {
        self.detached.push(object);
    }

    fn mark_late(&mut self, pid: u32, object: ObjectId) {
        self.late.push((pid, object));
    }
}

/// Runs discovery until an event is the wanted one; gives all events up to it.
pub fn until(
    discovery: &mut Discovery,
    attacher: &mut Recorder,
    what: &str,
    wanted: impl Fn(&Event) -> bool,
) -> Vec<Event> {
    let mut events = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(20);
    while !events.iter().any(&wanted) {
        assert!(Instant::now() < deadline, "no {what} among {events:?}");
        events.extend(discovery.run_once(attacher, Duration::from_millis(100)));
    }
    events
}

/// Runs discovery until nothing happens for a while.
pub fn settle(discovery: &mut Discovery, attacher: &mut Recorder) -> Vec<Event> {
    let mut events = Vec::new();
    let mut quiet = 0;
    while quiet < 8 {
        let more = discovery.run_once(attacher, Duration::from_millis(50));
        quiet = if more.is_empty() { quiet + 1 } else { 0 };
        events.extend(more);
    }
    events
}
