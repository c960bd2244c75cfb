//! Installs what tests and builds need from the distribution and from PyPI, once.

use crate::shell::{self, Step};
use anyhow::{Context, Result, bail};
use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// What builds the kernel half: a rustc with `core` for BPF, and LLVM for bpf-linker.
pub const EBPF: &[&str] = &[
    "rustc-web",
    "libstd-rust-web-dev-bpf",
    "llvm-22-dev",
    "libpolly-22-dev",
    "zlib1g-dev",
    "libzstd-dev",
    "libxml2-dev",
];

/// What the tests start: fixtures' builds, network namespaces, capability tools, Python, systemd-analyze; and what builds a kernel module.
pub const TESTS: &[&str] = &[
    "binutils",
    "gcc",
    "iproute2",
    "libc6-dev",
    "libcap2-bin",
    "libelf1",
    "make",
    "python3",
    "python3-venv",
    "systemd",
    "unzip",
    "util-linux",
];

/// What `cargo xtask bench probe` compares with.
pub const BENCHES: &[&str] = &["bpftrace"];

/// The independent receivers and validators, in a virtual environment of their own.
const PYTHON: &[&str] = &["grpcio==1.85.1", "opentelemetry-proto==1.45.2", "kubernetes-validate==1.37.0"];

/// Installs the distribution packages among `names` that are missing.
pub fn install(names: &[&str]) -> Result<()> {
    let missing: Vec<_> = names.iter().filter(|name| !installed(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let words: Vec<_> = missing.iter().map(|name| **name).collect();
    let step = Step::begin(&format!("install {}", words.join(" ")));
    if !nix::unistd::geteuid().is_root() {
        bail!("missing packages, and only root installs: apt-get install {}", words.join(" "));
    }
    shell::quiet(Command::new("apt-get").arg("update"))?;
    shell::quiet(
        Command::new("apt-get")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(["install", "--yes", "--no-install-recommends"])
            .args(&words),
    )?;
    step.done();
    Ok(())
}

fn installed(name: &str) -> bool {
    shell::output(Command::new("dpkg-query").args(["-W", "-f", "${Status}", name]))
        .is_ok_and(|status| status == "install ok installed")
}

/// A folder that holds distribution packages unpacked, not installed: none of their daemons starts, none of their
/// conflicts matters. `with_dependencies` adds what this host lacks of theirs.
pub fn unpacked(into: &Path, names: &[&str], with_dependencies: bool) -> Result<()> {
    if into.join("complete").exists() {
        return Ok(());
    }
    let step = Step::begin(&format!("fetch {} (once; unpacked, not installed)", names.join(" ")));
    let archives = into.join("archives");
    fs::create_dir_all(archives.join("partial"))?;
    let mut apt = Command::new("apt-get");
    if with_dependencies {
        // --download-only: the solver may want to remove what conflicts; nothing is carried out.
        apt.args(["install", "--yes", "--no-install-recommends", "--download-only", "-o"])
            .arg(format!("Dir::Cache::archives={}", archives.display()));
    } else {
        apt.arg("download").current_dir(&archives);
    }
    shell::quiet(apt.args(names)).context("is the Debian mirror reachable, and did `apt-get update` run?")?;
    for entry in fs::read_dir(&archives)? {
        let path = entry?.path();
        if path.extension() == Some(OsStr::new("deb")) {
            shell::quiet(Command::new("dpkg-deb").arg("-x").arg(&path).arg(into))?;
        }
    }
    fs::remove_dir_all(&archives)?;
    fs::write(into.join("complete"), "")?;
    step.done();
    Ok(())
}

/// The Python of a virtual environment that holds the independent implementations tests talk to.
pub fn python() -> Result<PathBuf> {
    let home = std::path::absolute("target/python")?;
    let python = home.join("bin/python");
    let wanted = PYTHON.join("\n");
    let stamp = home.join("installed");
    if fs::read_to_string(&stamp).ok().as_deref() != Some(wanted.as_str()) {
        let step = Step::begin("make the Python environment of the tests");
        shell::quiet(Command::new("/usr/bin/python3").args(["-m", "venv", "--clear"]).arg(&home))?;
        shell::quiet(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(PYTHON))?;
        fs::write(&stamp, wanted)?;
        step.done();
    }
    Ok(python)
}

/// Where the tests find [`perftest`].
pub const PERFTEST: &str = "RAILWATCH_PERFTEST";

/// ib_send_bw with its libraries, unpacked: what loads RDMA ports on the kernels of the matrix.
pub fn perftest() -> Result<PathBuf> {
    let prefix = std::path::absolute("target/perftest")?;
    unpacked(&prefix, &["perftest", "ibverbs-providers"], true)?;
    Ok(prefix)
}

/// Where the tests find [`verbs`].
pub const VERBS: &str = "RAILWATCH_VERBS";

/// libibverbs with its providers and headers, unpacked: what probes over RDMA load, and are laid out after.
pub fn verbs() -> Result<PathBuf> {
    let prefix = std::path::absolute("target/verbs")?;
    unpacked(&prefix, &["libibverbs1", "ibverbs-providers", "libibverbs-dev"], true)?;
    Ok(prefix)
}

/// Where the tests find [`lldpd`].
pub const LLDPD: &str = "RAILWATCH_LLDPD";

/// lldpd with its libraries, unpacked: the independent speaker of LLDP that tests listen to.
pub fn lldpd() -> Result<PathBuf> {
    let prefix = std::path::absolute("target/lldpd")?;
    unpacked(&prefix, &["lldpd"], true)?;
    Ok(prefix)
}
/// FRR and lldpd with their libraries, unpacked: the switches of the lab. None of their daemons starts on this host.
pub fn routing() -> Result<PathBuf> {
    let prefix = std::path::absolute("target/routing")?;
    unpacked(&prefix, &["frr", "lldpd"], true)?;
    Ok(prefix)
}

/// A Rust program from crates.io at one version, kept in `target/tools`; its path.
pub fn cargo_tool(name: &str, version: &str, extra: &[&str], environment: &[(&str, &str)]) -> Result<PathBuf> {
    let root = std::path::absolute(Path::new("target/tools").join(format!("{name}-{version}")))?;
    let program = root.join("bin").join(name);
    if !program.exists() {
        let step = Step::begin(&format!("build {name} {version} (once)"));
        shell::quiet(
            Command::new("cargo")
                .args(["install", name, "--version", version, "--locked", "--root"])
                .arg(&root)
                .args(extra)
                .env("CARGO_TARGET_DIR", root.join("build"))
                .envs(environment.iter().copied()),
        )
        .with_context(|| format!("build {name}"))?;
        fs::remove_dir_all(root.join("build")).ok();
        step.done();
    }
    Ok(program)
}

/// The real CUDA runtime of the PyPI wheel; without a driver each of its calls fails with 35.
pub fn libcudart() -> Result<PathBuf> {
    let home = std::path::absolute("target/libcudart-12.9.79")?;
    let library = home.join("nvidia/cuda_runtime/lib/libcudart.so.12");
    if !library.exists() {
        let step = Step::begin("fetch the real libcudart (once)");
        fs::create_dir_all(&home)?;
        shell::quiet(
            Command::new(python()?)
                .args(["-m", "pip", "download", "--quiet", "--no-deps", "--dest"])
                .arg(&home)
                .arg("nvidia-cuda-runtime-cu12==12.9.79"),
        )?;
        let wheel = fs::read_dir(&home)?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.extension() == Some(OsStr::new("whl")))
            .context("pip downloads a wheel")?;
        shell::quiet(Command::new(python()?).args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&home))?;
        step.done();
    }
    Ok(library)
}
