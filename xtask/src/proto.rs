//! Generates Rust from the protocols with protox, a compiler in Rust: no protoc needed.
//! The output is kept in the repository; `check` fails when it is stale.

use anyhow::{Context, Result, ensure};
use std::{fs, path::Path};

/// A protocol and what is made of it.
struct Protocol {
    /// Where its files are looked for.
    include: &'static str,
    proto: &'static str,
    output: &'static str,
}

const PROTOCOLS: [Protocol; 2] = [
    Protocol {
        include: "wire/proto",
        proto: "wire/proto/railwatch/v1/uplink.proto",
        output: "wire/src/generated/railwatch.v1.rs",
    },
    Protocol {
        include: "collector/switches/proto",
        proto: "collector/switches/proto/gnmi/gnmi.proto",
        output: "collector/switches/src/generated/gnmi.rs",
    },
];

fn generate(protocol: &Protocol, into: &Path) -> Result<()> {
    let Protocol { include, proto, .. } = protocol;
    let descriptors = protox::compile([proto], [include]).with_context(|| format!("compile {proto}"))?;
    tonic_prost_build::configure()
        .out_dir(into)
        .btree_map(".")
        .emit_rerun_if_changed(false)
        .compile_fds(descriptors)
        .with_context(|| format!("generate Rust from {proto}"))
}

/// Writes the generated code into the repository.
pub fn build() -> Result<()> {
    for protocol in &PROTOCOLS {
        let folder = Path::new(protocol.output).parent().context("the output has a folder")?;
        fs::create_dir_all(folder)?;
        generate(protocol, folder)?;
    }
    Ok(())
}

/// Fails when the repository's generated code is not what the protocols give now.
pub fn check() -> Result<()> {
    let scratch = Path::new("target/proto-check");
    fs::create_dir_all(scratch)?;
    for protocol in &PROTOCOLS {
        let output = Path::new(protocol.output);
        generate(protocol, scratch)?;
        let fresh = fs::read_to_string(scratch.join(output.file_name().context("the output is a file")?))?;
        let kept = fs::read_to_string(output).unwrap_or_default();
        ensure!(fresh == kept, "{} is stale: run `cargo xtask proto build` and commit the result", output.display());
    }
    Ok(())
}
