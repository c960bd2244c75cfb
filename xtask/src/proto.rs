//! Generates `wire/src/generated` from `wire/proto` with protox, a compiler in Rust: no protoc needed.
//! The output is kept in the repository; `check` fails when it is stale.

use anyhow::{Context, Result, ensure};
use std::{fs, path::Path};

const PROTO: &str = "wire/proto/railwatch/v1/uplink.proto";
const OUTPUT: &str = "wire/src/generated/railwatch.v1.rs";

fn generate(into: &Path) -> Result<()> {
    let descriptors = protox::compile([PROTO], ["wire/proto"]).context("compile the protocol")?;
    tonic_prost_build::configure()
        .out_dir(into)
        .btree_map(".")
        .emit_rerun_if_changed(false)
        .compile_fds(descriptors)
        .context("generate Rust from the protocol")
}

/// Writes the generated code into the repository.
pub fn build() -> Result<()> {
    let folder = Path::new(OUTPUT).parent().context("the output has a folder")?;
    fs::create_dir_all(folder)?;
    generate(folder)
}

/// Fails when the repository's generated code is not what the protocol gives now.
pub fn check() -> Result<()> {
    let scratch = Path::new("target/proto-check");
    fs::create_dir_all(scratch)?;
    generate(scratch)?;
    let fresh = fs::read_to_string(scratch.join("railwatch.v1.rs"))?;
    let kept = fs::read_to_string(OUTPUT).unwrap_or_default();
    ensure!(fresh == kept, "{OUTPUT} is stale: run `cargo xtask proto build` and commit the result");
    Ok(())
}
