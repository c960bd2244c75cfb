//! The other architecture, checked on this one: everything is cross-built for arm64, and run under emulation.
//!
//! In: Debian's rustc with the arm64 std of the same version, its cross C compiler, QEMU. Out: the daemons and the
//! command built and asked for their help under qemu-user; unit tests run there; and the kernel half's own tests run
//! on Debian's arm64 kernel under qemu-system, where that kernel's verifier judges the arm64 object.
//! Never touches rustup or this host's package list: foreign packages are unpacked into `target/arm64`.

use crate::{packages, shell, shell::Step};
use anyhow::{Context, Result, ensure};
use std::{
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

const TARGET: &str = "aarch64-unknown-linux-gnu";
/// Debian's compiler, whose std for arm64 can be fetched at the same version.
const COMPILER: &str = "/usr/bin/rustc";
/// What runs on this host: rustc, and a C compiler for ring, SQLite and the fixtures.
const CROSS: &[&str] = &["rustc-web", "gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross", "make"];
/// Where libc6-arm64-cross keeps the loader and the C library.
const C_LIBRARY: &str = "/usr/aarch64-linux-gnu/lib";
/// What ships.
const SHIPPED: &[&str] = &["railwatch-agent", "railwatch-collector", "railwatch"];
/// Crates whose unit tests depend on the processor at most: layouts, encodings, arithmetic, register decoding.
const TESTED: &[&str] = &[
    "railwatch-abi",
    "railwatch-engine",
    "railwatch-exposition",
    "railwatch-gpu",
    "railwatch-pki",
    "railwatch-sampling",
    "railwatch-store",
    "railwatch-wire",
];
/// Names the newest 6.12 kernel of Debian 12.
const KERNEL: &str = "linux-image-6.12-arm64";
/// Kernel tests that want what the small guest lacks, or hours of emulation.
const LEFT_OUT: &[&str] = &[
    // NVIDIA's runtime is fetched for the processor of the host.
    "the_real_runtimes_failing_calls_are_counted_exactly",
    // Five million calls: minutes even where KVM helps.
    "a_million_calls_of_each_kind_are_counted_exactly",
];
/// The guest's line that ends its output, before the status.
const GUEST_ENDS: &str = "railwatch-guest-ends ";

/// Cross-builds and runs everything.
pub fn arm64() -> Result<()> {
    let start = Instant::now();
    packages::install(CROSS)?;
    let cross = Cross::fetch(&std::env::current_dir()?.join("target/arm64"))?;

    let step = Step::begin(&format!("build {} for arm64", SHIPPED.join(", ")));
    shell::run(cross.cargo("build").args(SHIPPED.iter().flat_map(|name| ["--package", *name])))?;
    step.done();
    for (program, arguments) in [
        ("railwatch", &["--help"][..]),
        ("railwatch-collector", &["--help"]),
        ("railwatch-agent", &["check-config", "--config", "agent/agent.toml"]),
        ("railwatch-agent", &["capabilities"]),
    ] {
        let step = Step::begin(&format!("qemu-user: {program} {}", arguments.join(" ")));
        let said = shell::output(cross.emulated(&cross.built(program)).args(arguments))?;
        ensure!(!said.trim().is_empty(), "{program} {} said nothing", arguments.join(" "));
        step.done();
    }

    let step = Step::begin("qemu-user: unit tests");
    shell::run(cross.cargo("test").args(["--lib"]).args(TESTED.iter().flat_map(|name| ["--package", *name])))?;
    step.done();

    let guest = Guest::fetch(&cross)?;
    for binary in cross.kernel_tests()? {
        let name = binary.file_name().unwrap_or_default().display().to_string();
        let step = Step::begin(&format!("{}: {name}", guest.release));
        let status = guest.run(&cross, &binary)?;
        ensure!(status == 0, "{name} ended with status {status} on {}", guest.release);
        step.done();
    }
    eprintln!("\nxtask: arm64 passed in {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// The cross tool chain, and what runs its output.
struct Cross {
    home: PathBuf,
    std: PathBuf,
    emulator: PathBuf,
    busybox: PathBuf,
}

impl Cross {
    fn fetch(home: &Path) -> Result<Self> {
        let version = shell::output(Command::new("dpkg-query").args(["-W", "-f", "${Version}", "rustc-web"]))?;
        let std = home.join("std");
        foreign(home, &std, &format!("libstd-rust-web-dev={version}"))?;
        packages::unpacked(&home.join("qemu-user"), &["qemu-user-static"], false)?;
        foreign(home, &home.join("busybox"), "busybox-static")?;
        Ok(Self {
            std: std.join("usr"),
            emulator: home.join("qemu-user/usr/bin/qemu-aarch64-static"),
            busybox: home.join("busybox/bin/busybox"),
            home: home.to_owned(),
        })
    }

    /// Cargo for arm64. Unoptimised: what is tested is what the programs do.
    fn cargo(&self, action: &str) -> Command {
        let mut cargo = Command::new("cargo");
        cargo
            .args([action, "--target", TARGET, "--config", "profile.dev.debug=0"])
            .args(["--config", "profile.dev.package.\"*\".opt-level=0", "--target-dir"])
            .arg(self.home.join("build"))
            .env("RUSTC", COMPILER)
            .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS", format!("--sysroot {}", self.std.display()))
            .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", "aarch64-linux-gnu-gcc")
            .env(
                "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER",
                format!("{} -L /usr/aarch64-linux-gnu", self.emulator.display()),
            )
            .env("CC_aarch64_unknown_linux_gnu", "aarch64-linux-gnu-gcc")
            .env_remove("RUSTFLAGS")
            .env_remove("RUSTUP_TOOLCHAIN");
        cargo
    }

    fn built(&self, program: &str) -> PathBuf {
        self.home.join("build").join(TARGET).join("debug").join(program)
    }

    fn emulated(&self, program: &Path) -> Command {
        let mut command = Command::new(&self.emulator);
        command.args(["-L", "/usr/aarch64-linux-gnu"]).arg(program);
        command
    }

    /// The kernel half's integration tests, built.
    fn kernel_tests(&self) -> Result<Vec<PathBuf>> {
        let step = Step::begin("build the kernel tests for arm64");
        let messages = shell::output(self.cargo("test").args([
            "--package",
            "railwatch-gpu",
            "--tests",
            "--no-run",
            "--message-format",
            "json",
        ]))?;
        let mut found = Vec::new();
        for line in messages.lines() {
            let message: serde_json::Value = serde_json::from_str(line)?;
            if let Some(executable) = message["executable"].as_str()
                && message["target"]["name"].as_str().is_some_and(|name| name.starts_with("kernel_"))
            {
                found.push(executable.into());
            }
        }
        found.sort();
        ensure!(!found.is_empty(), "railwatch-gpu has no tests named kernel_*");
        step.done();
        Ok(found)
    }
}

/// An arm64 machine: Debian's kernel, and a userland small enough to be its initramfs.
struct Guest {
    qemu: PathBuf,
    image: PathBuf,
    fixtures: PathBuf,
    release: String,
}

impl Guest {
    fn fetch(cross: &Cross) -> Result<Self> {
        let qemu = cross.home.join("qemu-system");
        packages::unpacked(&qemu, &["qemu-system-arm"], true)?;
        let depends = shell::output(apt(&cross.home, "apt-cache").args(["depends", "--important", KERNEL]))?;
        let package = depends
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "))
            .find(|name| name.starts_with("linux-image-"))
            .with_context(|| format!("{KERNEL} names no kernel"))?;
        let release = package.trim_start_matches("linux-image-").to_owned();
        let kernel = cross.home.join(format!("kernel-{release}"));
        foreign(&cross.home, &kernel, package)?;

        let fixtures = cross.home.join("fixtures");
        fs::create_dir_all(&fixtures)?;
        shell::quiet(
            Command::new("make")
                .args(["-s", "-C", "tests/fixtures/gpu", "CC=aarch64-linux-gnu-gcc"])
                .arg(format!("OUT={}", fixtures.display())),
        )?;
        Ok(Self { qemu, image: kernel.join(format!("boot/vmlinuz-{release}")), fixtures, release })
    }

    /// Boots, runs one test binary, and gives its status.
    fn run(&self, cross: &Cross, binary: &Path) -> Result<i32> {
        let initramfs = self.initramfs(cross, binary)?;
        let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"].map(|path| self.qemu.join(path));
        let mut qemu = Command::new(self.qemu.join("usr/bin/qemu-system-aarch64"))
            .env("LD_LIBRARY_PATH", std::env::join_paths(libraries)?)
            .arg("-L")
            .arg(self.qemu.join("usr/share/qemu"))
            .args(["-machine", "virt", "-accel", "tcg,thread=multi", "-cpu", "neoverse-n1", "-smp", "2", "-m", "2048M"])
            .args(["-nodefaults", "-nographic", "-no-reboot", "-serial", "stdio"])
            .arg("-kernel")
            .arg(&self.image)
            .arg("-initrd")
            .arg(&initramfs)
            .args(["-append", "console=ttyAMA0 quiet loglevel=1 panic=-1 nokaslr mitigations=off"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("start qemu-system-aarch64")?;
        let mut status = None;
        for line in BufReader::new(qemu.stdout.take().context("QEMU has a console")?).split(b'\n') {
            let line = line?;
            let line = String::from_utf8_lossy(&line);
            match line.trim_end().strip_prefix(GUEST_ENDS) {
                Some(word) => status = word.parse().ok(),
                None => println!("{}", line.trim_end()),
            }
        }
        let ended = qemu.wait()?;
        fs::remove_file(&initramfs)?;
        status.with_context(|| format!("the virtual machine ended without the test's status (QEMU: {ended})"))
    }

    /// Busybox, the C library, the fixtures where the tests look for them, and one test binary.
    fn initramfs(&self, cross: &Cross, binary: &Path) -> Result<PathBuf> {
        let tree = cross.home.join(format!("initramfs-{}", std::process::id()));
        let root = std::env::current_dir()?;
        let inside = |path: &Path| tree.join(path.strip_prefix("/").unwrap_or(path));
        for folder in ["bin", "lib", "proc", "sys", "dev", "tmp", "run"] {
            fs::create_dir_all(tree.join(folder))?;
        }
        fs::copy(&cross.busybox, tree.join("bin/busybox"))?;
        for name in ["sh", "unshare"] {
            symlink("busybox", tree.join("bin").join(name))?;
        }
        // The fixtures are built already.
        script(&tree.join("bin/make"), "#!/bin/sh\nexit 0\n")?;
        for name in
            ["ld-linux-aarch64.so.1", "libc.so.6", "libm.so.6", "libgcc_s.so.1", "libdl.so.2", "libpthread.so.0"]
        {
            fs::copy(Path::new(C_LIBRARY).join(name), tree.join("lib").join(name))?;
        }
        fs::create_dir_all(inside(&root.join("agent/gpu")))?;
        fs::create_dir_all(inside(&root.join("tests/fixtures/gpu")))?;
        let fixtures = inside(&root.join("target/gpu-fixtures"));
        fs::create_dir_all(&fixtures)?;
        for entry in fs::read_dir(&self.fixtures)? {
            let entry = entry?;
            fs::copy(entry.path(), fixtures.join(entry.file_name()))?;
        }
        fs::copy(binary, tree.join("bin/kernel-test"))?;
        let left_out: String = LEFT_OUT.iter().map(|name| format!(" --skip {name}")).collect();
        script(
            &tree.join("init"),
            &format!(
                r#"#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs dev /dev
$b mount -t cgroup2 cgroup2 /sys/fs/cgroup
$b mount -t bpf bpf /sys/fs/bpf
$b mount -t tracefs tracefs /sys/kernel/tracing
$b mount -t securityfs securityfs /sys/kernel/security
$b mount -t tmpfs tmpfs /tmp
$b ln -s /proc/self/fd /dev/fd
$b stty -F /dev/ttyAMA0 raw -echo
exec </dev/null >/dev/ttyAMA0 2>&1
# Tests that change their kernel for good look for the last of these.
export PATH=/bin RUST_BACKTRACE=1 RAILWATCH_VM=1
$b ip link set lo up
cd {folder}
/bin/kernel-test --test-threads=1 --include-ignored{left_out}
status=$?
echo
echo {GUEST_ENDS}$status
$b poweroff -f
"#,
                folder = root.join("agent/gpu").display(),
            ),
        )?;
        let archive = tree.with_extension("cpio");
        archived(cross, &tree, &archive)?;
        fs::remove_dir_all(&tree)?;
        Ok(archive)
    }
}

/// The folder as a cpio archive of the form that the kernel reads, by arm64's own busybox.
fn archived(cross: &Cross, tree: &Path, archive: &Path) -> Result<()> {
    let mut cpio = Command::new(&cross.emulator)
        .arg(&cross.busybox)
        .args(["cpio", "-o", "-H", "newc"])
        .current_dir(tree)
        .stdin(Stdio::piped())
        .stdout(fs::File::create(archive)?)
        .stderr(Stdio::null())
        .spawn()
        .context("start busybox cpio")?;
    let names = shell::output(Command::new("find").args([".", "-mindepth", "1"]).current_dir(tree))?;
    cpio.stdin.take().context("cpio reads names")?.write_all(names.as_bytes())?;
    ensure!(cpio.wait()?.success(), "busybox cpio failed");
    Ok(())
}

fn script(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// An apt program that sees only arm64's packages, with lists of its own.
fn apt(home: &Path, program: &str) -> Command {
    let mut command = Command::new(program);
    for architecture in ["APT::Architecture=arm64", "APT::Architectures=arm64"] {
        command.args(["-o", architecture]);
    }
    for (option, path) in
        [("Dir::State::Lists", "apt/lists"), ("Dir::State::status", "apt/status"), ("Dir::Cache", "apt/cache")]
    {
        command.arg("-o").arg(format!("{option}={}", home.join(path).display()));
    }
    command
}

/// Makes a folder hold one arm64 package, unpacked.
fn foreign(home: &Path, into: &Path, package: &str) -> Result<()> {
    let stamp = into.join("complete");
    if fs::read_to_string(&stamp).is_ok_and(|held| held == package) {
        return Ok(());
    }
    if into.exists() {
        fs::remove_dir_all(into)?;
    }
    let step = Step::begin(&format!("fetch arm64's {package} (once; unpacked, not installed)"));
    fs::create_dir_all(home.join("apt/lists/partial"))?;
    fs::create_dir_all(home.join("apt/cache/archives/partial"))?;
    fs::write(home.join("apt/status"), "")?;
    shell::quiet(apt(home, "apt-get").arg("update")).context("read arm64's package lists")?;
    let archives = into.join("archives");
    fs::create_dir_all(&archives)?;
    shell::quiet(apt(home, "apt-get").args(["download", package]).current_dir(&archives))
        .with_context(|| format!("fetch {package} for arm64"))?;
    for entry in fs::read_dir(&archives)? {
        let path = entry?.path();
        if path.extension() == Some(OsStr::new("deb")) {
            shell::quiet(Command::new("dpkg-deb").arg("-x").arg(&path).arg(into))?;
        }
    }
    fs::remove_dir_all(&archives)?;
    fs::write(stamp, package)?;
    step.done();
    Ok(())
}
