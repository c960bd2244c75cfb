//! Builds the fake network card (`tests/fixtures/fakenic`) for a kernel of the matrix, against that kernel's own headers.
//!
//! In: a kernel series. Out: the module's path, built in `target/vm`. Never: anything installed; the headers are unpacked.

use crate::{packages, shell, shell::Step, vm};
use anyhow::{Context, Result, ensure};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Where the tests find the module's path.
pub const VARIABLE: &str = "RAILWATCH_FAKE_NIC_KO";

const SOURCE: &str = "tests/fixtures/fakenic";

/// The module for the kernel of this series; about three seconds, and once the download of its headers.
pub fn built(series: &str) -> Result<PathBuf> {
    let home = std::env::current_dir()?.join("target/vm");
    let release = vm::release(series)?;
    let headers = headers(&home, &release)?;
    let folder = home.join(format!("fakenic-{release}"));
    fs::create_dir_all(&folder)?;
    for file in ["fakenic.c", "Makefile"] {
        fs::copy(Path::new(SOURCE).join(file), folder.join(file)).with_context(|| format!("copy {SOURCE}/{file}"))?;
    }
    let step = Step::begin(&format!("kernel {series}: build the fake network card"));
    // Type information would need pahole, and nothing asks for it.
    let mut make = Command::new("make");
    make.arg("-C").arg(&headers).arg(format!("M={}", folder.display()));
    shell::quiet(make.args(["CONFIG_DEBUG_INFO_BTF_MODULES=", "modules"])).context("build needs gcc and make")?;
    step.done();
    Ok(folder.join("fakenic.ko"))
}

/// The folder to build modules in, for one kernel release.
fn headers(home: &Path, release: &str) -> Result<PathBuf> {
    let prefix = home.join(format!("headers-{release}"));
    let package = format!("linux-headers-{release}");
    let folder = prefix.join("usr/src").join(&package);
    if prefix.join("complete").exists() {
        return Ok(folder);
    }
    let text =
        shell::output(Command::new("apt-cache").args(["depends", "--important", &package])).with_context(|| {
            format!("headers of the kernel in target/vm; if it is no longer offered, remove {}", home.display())
        })?;
    let mut names = vec![package.as_str()];
    names.extend(
        text.lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "))
            .filter(|name| name.starts_with("linux-headers-") || name.starts_with("linux-kbuild-")),
    );
    ensure!(names.len() == 3, "{package} names its common part and kbuild: {text}");
    packages::unpacked(&prefix, &names, false)?;
    // Its Makefile names the common part where a package manager would have put it.
    let makefile = folder.join("Makefile");
    let text = fs::read_to_string(&makefile)?.replace("/usr/src/", &format!("{}/usr/src/", prefix.display()));
    fs::write(makefile, text)?;
    Ok(folder)
}
