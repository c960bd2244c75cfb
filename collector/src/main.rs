//! `railwatch-collector`: the daemon, the check of its configuration, and its development CA.
#![forbid(unsafe_code)]

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use railwatch_collector::{
    auth::{Role, keys},
    certificates,
    config::{Config, Overrides, PATH_DEFAULT},
    daemon::{Daemon, Source},
    logging::Logging,
};
use sd_notify::NotifyState;
use std::{path::PathBuf, process::ExitCode, time::Duration};
use tokio::signal::unix::{SignalKind, signal};

#[derive(Parser)]
#[command(
    name = "railwatch-collector",
    version,
    about = "Collects what the hosts of a GPU cluster say, finds what is wrong, proposes what to do"
)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run until SIGTERM or SIGINT; SIGHUP reads the configuration again
    Run {
        /// The configuration file
        #[arg(long, default_value = PATH_DEFAULT)]
        config: PathBuf,
        #[command(flatten)]
        overrides: Overrides,
    },
    /// Read the configuration, say what is wrong with it, change nothing
    CheckConfig {
        /// The configuration file
        #[arg(long, default_value = PATH_DEFAULT)]
        config: PathBuf,
    },
    /// The development CA in the state directory
    Pki {
        #[command(subcommand)]
        action: Pki,
    },
    /// Tokens of the HTTP API; a running collector takes a change with the next call
    Token {
        #[command(subcommand)]
        action: Token,
    },
}

#[derive(Subcommand)]
enum Token {
    /// Make a token and print it, once: the collector keeps its hash alone
    Add {
        /// Whose it is: the actor in the audit
        name: String,
        /// What it may do; approve also reads, judges decisions and halts
        #[arg(long)]
        role: Role,
        /// How long it is good, such as 12h or 30d; for ever where not said
        #[arg(long, value_name = "TIME", value_parser = span)]
        expires: Option<Duration>,
        #[command(flatten)]
        state: State,
    },
    /// Remove a token
    Remove {
        /// Its name
        name: String,
        #[command(flatten)]
        state: State,
    },
    /// List tokens: name, role and end
    List {
        #[command(flatten)]
        state: State,
    },
}

/// `90m`, `12h`, `30d`, `8w`; ten years at most.
fn span(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.trim_end_matches(|end: char| end.is_ascii_alphabetic()).len());
    let unit_s = [("m", 60), ("h", 3_600), ("d", 86_400), ("w", 7 * 86_400)].iter().find(|(name, _)| *name == unit);
    let seconds = unit_s.and_then(|(_, unit_s)| number.parse::<u64>().ok()?.checked_mul(*unit_s));
    seconds
        .filter(|seconds| (60..=3_660 * 86_400).contains(seconds))
        .map(Duration::from_secs)
        .ok_or_else(|| "expected a whole number of m, h, d or w, such as 30d, ten years at most".to_owned())
}

#[derive(Subcommand)]
enum Pki {
    /// Make a certificate for the agent of a host: agent.pem, agent.key and ca.pem
    Issue {
        /// The host's name, as its agent says it
        host: String,
        /// The directory to write into
        #[arg(long, default_value = ".")]
        out: PathBuf,
        #[command(flatten)]
        state: State,
    },
    /// Revoke every certificate of a host; a running collector ends its stream within seconds
    Revoke {
        /// The host's name
        host: String,
        #[command(flatten)]
        state: State,
    },
}

#[derive(clap::Args)]
struct State {
    /// The configuration file, which names the state directory
    #[arg(long, default_value = PATH_DEFAULT)]
    config: PathBuf,
    /// The state directory
    #[arg(long)]
    state_dir: Option<PathBuf>,
}

impl State {
    fn directory(self) -> Result<PathBuf> {
        match self.state_dir {
            Some(directory) => Ok(directory),
            None => Ok(Config::load(&self.config, &Overrides::default())?.state_dir),
        }
    }
}

fn main() -> ExitCode {
    match act(CommandLine::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("railwatch-collector: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn act(command: Command) -> Result<()> {
    match command {
        Command::Run { config, overrides } => {
            let source = Source { path: config, overrides };
            let config = Config::load(&source.path, &source.overrides)?;
            let logging = Logging::start(&config)?;
            tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                .build()
                .context("start the runtime")?
                .block_on(run(config, &source, &logging))
        }
        Command::CheckConfig { config } => {
            Config::load(&config, &Overrides::default())?;
            let absent = if config.exists() { "" } else { " (there is no file: every field has its default)" };
            println!("{} is good{absent}", config.display());
            Ok(())
        }
        Command::Pki { action: Pki::Issue { host, out, state } } => {
            for file in certificates::issue(&state.directory()?, &host, &out)? {
                println!("{}", file.display());
            }
            Ok(())
        }
        Command::Pki { action: Pki::Revoke { host, state } } => {
            let serials = certificates::revoke(&state.directory()?, &host)?;
            anyhow::ensure!(
                !serials.is_empty(),
                "no valid certificate was issued for {host:?} here: nothing is revoked"
            );
            for serial in serials {
                println!("revoked {serial}");
            }
            Ok(())
        }
        Command::Token { action: Token::Add { name, role, expires, state } } => {
            println!("{}", keys::add(&state.directory()?, &name, role, expires)?);
            Ok(())
        }
        Command::Token { action: Token::Remove { name, state } } => {
            keys::remove(&state.directory()?, &name)?;
            println!("removed {name}");
            Ok(())
        }
        Command::Token { action: Token::List { state } } => {
            for keys::Listed { name, role, expires, expired } in keys::list(&state.directory()?)? {
                let end = expires.map_or_else(|| "never".to_owned(), |end| end + if expired { " (over)" } else { "" });
                println!("{name:24} {role:8} {end}");
            }
            Ok(())
        }
    }
}

async fn run(config: Config, source: &Source, logging: &Logging) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let daemon = Daemon::start(config).await?;
    notify(&[NotifyState::Ready]);
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            why = daemon.failed() => {
                tracing::error!("{why:#}");
                daemon.stop().await;
                return Err(why);
            }
            _ = hang_up.recv() => {
                notify(&[NotifyState::Reloading, NotifyState::monotonic_usec_now()?]);
                // A refused reload is logged and counted where it happens, and the daemon goes on as it was.
                let _ = daemon.reload(source, Some(logging)).await;
                notify(&[NotifyState::Ready]);
            }
        }
    }
    tracing::info!("stopping");
    notify(&[NotifyState::Stopping]);
    daemon.stop().await;
    Ok(())
}

/// Tells the service manager, where there is one.
fn notify(state: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}

#[cfg(test)]
mod tests {
    use super::span;
    use std::time::Duration;

    #[test]
    fn a_span_has_a_unit_and_a_bound() {
        for (text, hours) in
            [("90m", Some(1.5)), ("12h", Some(12.0)), ("30d", Some(720.0)), ("1w", Some(168.0))].into_iter().chain(
                ["", "d", "30", "0d", "-1d", "1.5h", "9999w", "1y", "18446744073709551615d", "1d "]
                    .map(|text| (text, None)),
            )
        {
            let expected = hours.map(|hours: f64| Duration::from_secs_f64(hours * 3600.0));
            assert_eq!(span(text).ok(), expected, "{text:?}");
        }
    }
}
