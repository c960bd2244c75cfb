//! `railwatch-agent`: watches the GPUs and NICs of one host and tells a collector.
//!
//! This crate is the wiring: configuration, privileges, the rooms' threads, the metrics page. In: a file, flags,
//! signals of the service manager. Out: what `uplink` sends, a page for Prometheus, a log. Never: an act on the host, a
//! command line or environment of a process read, or the end of the agent because one room cannot work.

mod cli;
mod config;
mod convert;
mod daemon;
mod directives;
mod disk;
mod drops;
mod error_names;
mod gpu;
mod inventory;
mod job;
mod logging;
mod loss;
mod memory;
mod mesh;
mod metrics;
mod notify;
mod outbox;
mod page;
mod peers;
mod placement;
mod privileges;
mod probe;
mod reload;
mod rules;
mod shared;
mod state;
mod tape;
mod usage;

use clap::Parser;
use cli::{Cli, Command};
use std::process::ExitCode;

/// What was asked for cannot be done.
const EXIT_USAGE: u8 = 2;
/// The configuration is not good.
const EXIT_CONFIG: u8 = 78; // EX_CONFIG of sysexits.h: a restart would not help

fn main() -> ExitCode {
    memory::bound_allocator();
    match Cli::parse().command {
        Command::Run(options) => match options.load() {
            Ok(config) => match daemon::run(options, config) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => fail(&format!("{error:#}"), 1),
            },
            Err(error) => fail(&error.to_string(), EXIT_CONFIG),
        },
        Command::KmsgHelper { log, socket } => {
            match railwatch_health::kmsg::helper::run(&railwatch_health::kmsg::helper::Options { log, socket }) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => fail(&error.to_string(), 1),
            }
        }
        Command::Probe(options) => match probe::by_hand(&options, &mut std::io::stdout().lock()) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => fail(&format!("{error:#}"), EXIT_USAGE),
        },
        Command::Trace(options) => match probe::trace_by_hand(&options, &mut std::io::stdout().lock()) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => fail(&format!("{error:#}"), EXIT_USAGE),
        },
        Command::DiskHelper { every, socket } => {
            let options = railwatch_health::smart::helper::Options {
                sysfs_root: "/sys".into(),
                dev_root: "/dev".into(),
                socket,
                every_s: every,
            };
            match railwatch_health::smart::helper::run(&options) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => fail(&error.to_string(), 1),
            }
        }
        #[cfg(feature = "verbs")]
        Command::VerbsHelper { socket } => {
            match railwatch_probe::verbs::lend(&railwatch_probe::verbs::HelperOptions {
                socket,
                sysfs_root: "/sys".into(),
            }) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => fail(&error.to_string(), 1),
            }
        }
        Command::CheckConfig(options) => match options.load() {
            Ok(_) => {
                println!("{} is good", options.path().display());
                ExitCode::SUCCESS
            }
            Err(error) => fail(&error.to_string(), EXIT_CONFIG),
        },
        Command::Capabilities { output, options } => {
            let mut more = Vec::new();
            if let Err(error) = options.load() {
                more.push(privileges::Limitation::new("configuration", error.to_string()));
            }
            let facts = privileges::Facts::read();
            match privileges::print(&mut std::io::stdout().lock(), &facts, &more, output) {
                Ok(()) => ExitCode::SUCCESS,
                // Whoever read the output has left.
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
                Err(error) => fail(&format!("write the report: {error}"), 1),
            }
        }
    }
}

fn fail(why: &str, code: u8) -> ExitCode {
    eprintln!("railwatch-agent: {why}");
    ExitCode::from(code)
}
