//! Builds the kernel half's objects, and checks that those in the repository are of its sources.
//!
//! In: `agent-ebpf/`. Out: `railwatch-ARCH.bpf.o` in `agent/gpu/objects`, and the like of `agent/drops`, `agent/disk` and `lab`,
//! one per architecture (the register layout is fixed at build time), beside `SHA256SUMS` of sources and objects, which
//! `sha256sum -c` can read too.
//! Installs Debian's rustc-web with libstd-rust-web-dev-bpf (a stable compiler with a prebuilt `core` for BPF) and
//! bpf-linker; people who do not touch the kernel half need neither.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::packages;
use anyhow::{Context, Result, bail, ensure};

const ARCHITECTURES: [&str; 2] = ["x86_64", "aarch64"];
/// Programs of the crate, and where their objects are kept.
const OBJECTS: [(&str, &str); 4] = [
    ("railwatch-ebpf", "agent/gpu/objects/railwatch"),
    ("railwatch-drops", "agent/drops/objects/railwatch-drops"),
    ("railwatch-disk", "agent/disk/objects/railwatch-disk"),
    ("railwatch-lab", "lab/objects/railwatch-lab"),
];
/// Environment variables that name another object for one of the programs.
pub const VARIABLES: [(&str, &str); 4] = [
    ("RAILWATCH_EBPF_OBJECT", "railwatch-ebpf"),
    ("RAILWATCH_DROPS_OBJECT", "railwatch-drops"),
    ("RAILWATCH_DISK_OBJECT", "railwatch-disk"),
    ("RAILWATCH_LAB_OBJECT", "railwatch-lab"),
];
const SUMS: &str = "agent/gpu/objects/SHA256SUMS";
const TARGET: &str = "bpfel-unknown-none";
/// Debian's, as the package installs it; rustup's own stays first on PATH.
const COMPILER: &str = "/usr/bin/rustc";

/// Rebuilds the objects and their hashes.
pub fn build() -> Result<()> {
    let root = root()?;
    let linker = toolchain()?;
    for arch in ARCHITECTURES {
        let built = compile(&root, &linker, arch)?;
        for (program, object) in OBJECTS {
            let (built, name) = (built.join(program), format!("{object}-{arch}.bpf.o"));
            let kept = root.join(&name);
            std::fs::create_dir_all(kept.parent().context("the object has a folder")?)?;
            std::fs::copy(&built, &kept)
                .with_context(|| format!("copying {} to {}", built.display(), kept.display()))?;
            println!("{name}");
        }
    }
    std::fs::write(root.join(SUMS), sums(&root)?).with_context(|| format!("writing {SUMS}"))?;
    println!("{SUMS}");
    Ok(())
}

/// Builds the objects of all architectures from source and leaves what is kept alone; the folder of those for this host.
pub fn build_apart() -> Result<PathBuf> {
    let root = root()?;
    let linker = toolchain()?;
    let mut own = None;
    for arch in ARCHITECTURES {
        let built = compile(&root, &linker, arch)?;
        if arch == std::env::consts::ARCH {
            own = Some(built);
        }
    }
    own.with_context(|| format!("there is no kernel half for {}", std::env::consts::ARCH))
}

/// Fails when an object is not of the sources, or was changed by hand.
pub fn check() -> Result<()> {
    let root = root()?;
    let kept = std::fs::read_to_string(root.join(SUMS)).with_context(|| format!("reading {SUMS}"))?;
    let now = sums(&root)?;
    let stale: Vec<_> = now
        .lines()
        .filter(|line| !kept.lines().any(|other| other == *line))
        .chain(kept.lines().filter(|line| !now.lines().any(|other| other == *line)))
        .filter_map(|line| line.split_whitespace().nth(1))
        .collect();
    ensure!(
        stale.is_empty(),
        "the kernel half's objects are stale: {} changed since they were built; run `cargo xtask ebpf build` and commit agent/*/objects and lab/objects",
        stale.join(", ")
    );
    Ok(())
}

fn root() -> Result<PathBuf> {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).context("xtask lies in the workspace")
}

/// All that is kept.
fn objects() -> impl Iterator<Item = String> {
    OBJECTS.iter().flat_map(|(_, object)| ARCHITECTURES.map(|arch| format!("{object}-{arch}.bpf.o")))
}

/// Installs what is missing; the linker.
fn toolchain() -> Result<PathBuf> {
    packages::install(packages::EBPF)?;
    packages::cargo_tool(
        "bpf-linker",
        "0.13.0",
        &["--no-default-features", "--features", "llvm-22"],
        &[("LLVM_PREFIX", "/usr/lib/llvm-22")],
    )
}

/// Compiles for one architecture, into a folder of its own so that the two do not rebuild each other; the folder with
/// the programs.
fn compile(root: &Path, linker: &Path, arch: &str) -> Result<PathBuf> {
    let target = root.join("agent-ebpf/target").join(arch);
    let flags = [
        format!("-Clinker={}", linker.display()),
        "-Ctarget-cpu=v3".to_owned(),
        "--cfg".to_owned(),
        format!("bpf_target_arch=\"{arch}\""),
    ];
    let status = Command::new("cargo")
        .current_dir(root.join("agent-ebpf"))
        .args(["build", "--quiet", "--release", "--locked", "--target", TARGET, "--target-dir"])
        .arg(&target)
        .env("RUSTC", COMPILER)
        // aya-ebpf uses an unstable feature of inline assembly, and this crate the atomic intrinsics.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .env_remove("RUSTFLAGS")
        .env_remove("RUSTUP_TOOLCHAIN")
        .status()
        .context("running cargo")?;
    if !status.success() {
        bail!("building the kernel half for {arch} ended with {status}");
    }
    Ok(target.join(TARGET).join("release"))
}

/// Hashes of all sources and of the objects, in the format of sha256sum.
fn sums(root: &Path) -> Result<String> {
    let mut files = Vec::new();
    let folders = ["src", "drops", "disk", "lab", "abi/src", ".cargo"].map(|folder| format!("agent-ebpf/{folder}"));
    for folder in folders {
        for entry in std::fs::read_dir(root.join(&folder)).with_context(|| format!("reading {folder}"))? {
            files.push(format!("{folder}/{}", entry?.file_name().to_string_lossy()));
        }
    }
    files.extend(["agent-ebpf/Cargo.toml".to_owned(), "agent-ebpf/Cargo.lock".to_owned()]);
    files.extend(objects());
    files.sort();
    let done = Command::new("sha256sum").current_dir(root).args(&files).output().context("running sha256sum")?;
    ensure!(done.status.success(), "sha256sum: {}", String::from_utf8_lossy(&done.stderr));
    Ok(String::from_utf8(done.stdout)?)
}
