//! What a person types: three commands, and flags that win over the file; and the helpers, which the service manager starts.

use crate::config::{Config, Endpoint, PATH_DEFAULT, Scope};
use clap::{Args, Parser, Subcommand, ValueEnum};
use railwatch_pki::HostName;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Watches the GPUs and NICs of this host and tells a collector.
#[derive(Debug, Parser)]
#[command(name = "railwatch-agent", version, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run until SIGTERM or SIGINT; SIGHUP reads the configuration again
    Run(Options),
    /// Read the kernel's log for the agent and send it what is known there; a process of its own, with CAP_SYSLOG
    KmsgHelper {
        /// The kernel's log
        #[arg(long, value_name = "FILE", default_value = "/dev/kmsg")]
        log: PathBuf,
        /// Where the agent listens, its health.kmsg_socket
        #[arg(long, value_name = "FILE", default_value = "/run/railwatch-agent/kmsg.sock")]
        socket: PathBuf,
    },
    /// Probe another host's responder, and say what the fabric took and what each host did; ends with 1 where an answer is missing
    Probe(crate::probe::ProbeOptions),
    /// Find which way a flow goes, by packets of its own ports that end before its destination; ends with 1 where the way is not known whole
    Trace(crate::probe::TraceHandOptions),
    /// Ask NVMe and SATA disks for their health and send it to the agent; a process of its own, with CAP_SYS_ADMIN and CAP_SYS_RAWIO
    DiskHelper {
        /// Seconds between two rounds
        #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=86_400))]
        every: u32,
        /// Where the agent listens, its health.disk_socket
        #[arg(long, value_name = "FILE", default_value = "/run/railwatch-agent/disk.sock")]
        socket: PathBuf,
    },
    /// Lend queue pairs of this host's RDMA NICs to members that probe it; a process of its own, since it maps the libraries of NICs' vendors
    #[cfg(feature = "verbs")]
    VerbsHelper {
        /// Where the agent listens, its probe.verbs_socket
        #[arg(long, value_name = "FILE", default_value = "/run/railwatch-agent/verbs.sock")]
        socket: PathBuf,
    },
    /// Read the configuration, say whether it is good, and end
    CheckConfig(Options),
    /// Show what this host and this process's privileges allow, and how to get what is missing
    Capabilities {
        /// How to show it
        #[arg(short, long, value_enum, default_value_t = Output::Table)]
        output: Output,
        /// The configuration and its overrides.
        #[command(flatten)]
        options: Options,
    },
}

/// How to show a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// The file, and what overrides it.
#[derive(Clone, Debug, Default, Args)]
pub struct Options {
    /// Configuration file [default: /etc/railwatch/agent.toml, which may be absent]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Directory of the spool
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Where the collector's uplink listens
    #[arg(long, value_name = "HOST:PORT")]
    pub collector: Option<Endpoint>,
    /// Name in the collector's certificate, where it differs from the address
    #[arg(long, value_name = "NAME")]
    pub server_name: Option<String>,
    /// Name of this host, as in its certificate
    #[arg(long, value_name = "NAME")]
    pub host_name: Option<HostName>,
    /// Where sysfs is mounted
    #[arg(long, value_name = "DIR")]
    pub sysfs_root: Option<PathBuf>,
    /// Where the metrics page listens; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub metrics_listen: Option<SocketAddr>,
    /// Part of the host to trace: none, netns or cgroup:PATH
    #[arg(long, value_name = "SCOPE")]
    pub scope: Option<Scope>,
    /// Directory on a bpffs where maps and links outlive a restart
    #[arg(long, value_name = "DIR")]
    pub pin_dir: Option<PathBuf>,
    /// Pin nothing: balances start anew with each start, and say so
    #[arg(long, conflicts_with = "pin_dir")]
    pub no_pin: bool,
    /// Directory with ca.pem, agent.pem and agent.key
    #[arg(long, value_name = "DIR")]
    pub pki_dir: Option<PathBuf>,
    /// CAs to trust, PEM
    #[arg(long, value_name = "FILE")]
    pub tls_trust: Option<PathBuf>,
    /// Own certificate, PEM
    #[arg(long, value_name = "FILE")]
    pub tls_certificate: Option<PathBuf>,
    /// Own private key, PEM
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
}

impl Options {
    /// The file with the flags laid over it.
    pub fn load(&self) -> Result<Config, crate::config::ConfigError> {
        let path = self.path();
        let mut config = Config::read(&path, self.config.is_some())?;
        self.lay_over(&mut config);
        Ok(config)
    }

    /// Which file is read.
    pub fn path(&self) -> PathBuf {
        self.config.clone().unwrap_or_else(|| PATH_DEFAULT.into())
    }

    fn lay_over(&self, config: &mut Config) {
        let Self {
            config: _,
            state_dir,
            collector,
            server_name,
            host_name,
            sysfs_root,
            metrics_listen,
            scope,
            pin_dir,
            no_pin,
            pki_dir,
            tls_trust,
            tls_certificate,
            tls_key,
        } = self.clone();
        fn over<T>(value: &mut T, flag: Option<T>) {
            if let Some(flag) = flag {
                *value = flag;
            }
        }
        over(&mut config.state_dir, state_dir);
        over(&mut config.collector, collector);
        over(&mut config.pki_dir, pki_dir);
        over(&mut config.metrics_listen, metrics_listen);
        over(&mut config.sampling.sysfs_root, sysfs_root);
        over(&mut config.gpu.scope, scope);
        over(&mut config.gpu.pin_dir, if no_pin { Some(PathBuf::new()) } else { pin_dir });
        over(&mut config.host_name, host_name.map(Some));
        over(&mut config.server_name, server_name.map(Some));
        over(&mut config.tls_trust, tls_trust.map(Some));
        over(&mut config.tls_certificate, tls_certificate.map(Some));
        over(&mut config.tls_key, tls_key.map(Some));
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;

    #[test]
    fn a_flag_wins_over_the_file_and_what_has_no_flag_stays() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "state_dir = \"/a\"\n[gpu]\nscope = \"netns\"\npin_dir = \"/p\"\nseries_max = 7")
            .unwrap();
        let arguments = ["railwatch-agent", "run", "--state-dir", "/b", "--no-pin", "--config"];
        let arguments = arguments.iter().map(Into::into).chain([file.path().as_os_str().to_owned()]);
        let Command::Run(options) = Cli::parse_from(arguments).command else { panic!("not run") };
        let config = options.load().unwrap();
        assert_eq!(config.state_dir, PathBuf::from("/b"));
        assert_eq!(config.gpu.scope, Scope::Netns);
        assert_eq!(config.gpu.pin_dir, PathBuf::new());
        assert_eq!(config.gpu.series_max, 7);
    }
}
