//! The agent running: rooms started in order, signals of the system heard, rooms ended in the opposite order.
//!
//! Order of start: log, NIC sources known, kernel half attached, uplink, everything that speaks. So the collector meets
//! an agent only once it sees what it is for. Never: a wait for the collector, or for a room that cannot start.

use crate::cli::Options;
use crate::config::Config;
use crate::directives::Carrier;
use crate::disk;
use crate::drops;
use crate::gpu::{GpuRoom, MemorySource};
use crate::inventory;
use crate::job::JobTap;
use crate::mesh::MeshRoom;
use crate::metrics::Exposition;
use crate::outbox::Outbox;
use crate::peers::{self, PeerRoom};
use crate::placement::{PlacementRoom, RunningSource};
use crate::privileges::{Facts, Limitation};
use crate::probe::ResponderRoom;
use crate::reload::Reloader;
use crate::shared::Shared;
use crate::state::StateSender;
use crate::tape::{self, Dump, TapeDesk};
use crate::{logging, notify, rules};
use anyhow::{Context, Result};
use prometheus_client::registry::Registry;
use railwatch_gpu::kernel::offsets::Types;
use railwatch_health::HealthSources;
use railwatch_nic::{NicConfig, NicSources};
use railwatch_optics_source::OpticsSource;
use railwatch_pki::HostName;
use railwatch_sampling::{Catalog, Sampler, SamplerConfig, Sink, Source};
use railwatch_uplink::{SpoolOptions, Target, Uplink, UplinkOptions};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// After news, state is sent when more of it has had this long to come: windows of all sources join meanwhile.
const GATHER: Duration = Duration::from_millis(100);
/// How often state is looked at where there is no news.
const STILL: Duration = Duration::from_secs(1);

/// Runs until told to end.
pub fn run(options: Options, config: Config) -> Result<()> {
    let log = logging::start(&config.log)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(2)
        .build()
        .context("start the runtime of the metrics page")?;
    runtime.block_on(async {
        // Before anything that takes time: a SIGHUP that nobody hears would end the process.
        let mut told = Told::listen()?;
        let mut agent = Agent::start(&config)?;
        let mut reloader = Reloader::new(options, config, log);
        agent.until_told(&mut told, &mut reloader).await;
        notify::stopping();
        agent.end();
        Ok(())
    })
}

/// The signals of the system that are heard.
struct Told {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Told {
    fn listen() -> Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("hear SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("hear SIGINT")?,
            hang_up: signal(SignalKind::hangup()).context("hear SIGHUP")?,
        })
    }
}

/// What runs.
struct Agent {
    shared: Arc<Shared>,
    outbox: Arc<Outbox>,
    sampler: Arc<Mutex<Sampler>>,
    gpu: Option<GpuRoom>,
    gpu_series_max: Arc<AtomicU64>,
    uplink: std::thread::JoinHandle<()>,
    state: StateSender,
    peers: PeerRoom,
    scrapers: CancellationToken,
    responder: Option<ResponderRoom>,
    mesh: MeshRoom,
    placement: PlacementRoom,
}

impl Agent {
    fn start(config: &Config) -> Result<Self> {
        let host = host_name(config)?;
        let facts = Facts::read();
        let kernel_release = facts.kernel_release.clone();
        let series_max = usize::try_from(config.sampling.series_max).unwrap_or(usize::MAX);
        let catalog = Arc::new(Catalog::new(series_max));
        let nic_config = NicConfig {
            sysfs_root: config.sampling.sysfs_root.clone(),
            software_interfaces: config.sampling.software_interfaces.clone(),
        };
        let nic = NicSources::new(&nic_config);
        let optics = OpticsSource::new(&config.sampling.sysfs_root);
        let shared = Arc::new(Shared::new(facts, Arc::clone(&catalog), nic.ports, optics.modules()));
        for limitation in shared.limitations() {
            tracing::warn!(what = limitation.what, "off or limited: {}", limitation.why);
        }
        // Of this kernel, read once for all that loads programs.
        let types = Types::default();
        let mut gpu = config.gpu.enabled.then(|| GpuRoom::open(&config.gpu, &shared, &types)).transpose()?;

        let mut spool = SpoolOptions::in_directory(config.state_dir.join("spool"));
        spool.disk_bytes_max = config.spool.bytes_max;
        let (uplink, uplink_thread) = Uplink::start(UplinkOptions {
            target: target(config),
            spool,
            host: host.to_string(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel_release,
            limitations: wire(&shared.limitations()),
        })
        .context("start the uplink's thread")?;
        let outbox = Arc::new(Outbox::new(uplink, Arc::clone(&shared)));

        if let Some(gpu) = &mut gpu {
            gpu.run(&shared, &outbox)?;
        }
        let cpu_budget_share = config.sampling.cpu_budget_percent / 100.0;
        let rtnl_budget_share = config.sampling.rtnl_budget_percent / 100.0;
        let sampler_config =
            SamplerConfig { rules: rules::all(), cpu_budget_share, rtnl_budget_share, ..SamplerConfig::default() };
        let sink: Arc<dyn Sink> = match config.health.enabled {
            true => Arc::new(JobTap::new(Arc::clone(&outbox), Arc::clone(&shared))),
            false => Arc::clone(&outbox) as Arc<dyn Sink>,
        };
        let memory_limit = shared.facts.memory_limit.as_ref();
        let (tape, limitation) = match config.tape.enabled {
            true => tape::within(config.tape.bytes_max, memory_limit),
            false => (None, None),
        };
        shared.set_limitations("tape", limitation.into_iter().collect());
        let mut dump = None;
        if let Some(tape) = &tape {
            outbox.uplink().set_tapes(Arc::new(TapeDesk(tape.clone())));
            match Dump::start(tape.clone(), Arc::clone(&catalog), &config.state_dir) {
                Ok(started) => {
                    outbox.set_dump(started.clone());
                    dump = Some(started);
                }
                Err(error) => {
                    let why = format!("its thread cannot be started: {error}");
                    shared.set_limitations("tape.dump", vec![Limitation::new("tape on disk without a collector", why)]);
                }
            }
        }
        let mut sampler = Sampler::new(sampler_config, catalog, sink)
            .with_tape(tape.clone().map(|tape| Arc::new(tape) as Arc<dyn railwatch_sampling::Tape>));
        outbox.uplink().set_directives(Arc::new(Carrier(sampler.on_request())));
        let gpu_series_max = Arc::new(AtomicU64::new(config.gpu.series_max));
        let memory: Option<Box<dyn Source>> = gpu
            .is_some()
            .then(|| Box::new(MemorySource::new(Arc::clone(&shared), Arc::clone(&gpu_series_max))) as Box<dyn Source>);
        let health = config.health_sources().map(|config| HealthSources::new(&config).sources).unwrap_or_default();
        let (dropped, drops) = drops::source(&config.drops, &shared, types.clone()).unzip();
        let (of_peers, peers) = peers::sources(config, &nic_config, &shared);
        let optics = Box::new(optics) as Box<dyn Source>;
        let running = RunningSource::new(Arc::clone(&shared), &config.sampling.sysfs_root);
        let running = gpu.is_some().then(|| Box::new(running) as Box<dyn Source>);
        let disk = disk::source(&config.disk, &config.sampling.sysfs_root, &shared, types);
        let inventory = inventory::source(config, &shared);
        let of_the_host = health.into_iter().chain(disk).chain(of_peers).chain(inventory).chain(running);
        for source in nic.sources.into_iter().chain([optics]).chain(memory).chain(dropped).chain(of_the_host) {
            let name = source.name();
            let cadence =
                config.sampling.cadence_ms.iter().find(|(of, _)| of.name() == name).map(|(_, ms)| (*ms).into());
            if let Err(error) = sampler.start(source, cadence) {
                shared.set_limitations(name, vec![Limitation::new(format!("source {name}"), error.to_string())]);
            }
        }
        let sampler = Arc::new(Mutex::new(sampler));
        let reports = {
            let sampler = Arc::clone(&sampler);
            move || sampler.lock().unwrap_or_else(PoisonError::into_inner).reports()
        };
        let responder = ResponderRoom::start(&config.probe, &shared);
        let answers = responder.as_ref().map(ResponderRoom::counts);
        let mesh = MeshRoom::start(&config.probe, &shared, &outbox);
        let scrapers = CancellationToken::new();
        let state = StateSender::new(Arc::clone(&shared), Arc::clone(&outbox), Box::new(reports.clone()), drops);
        serve_metrics(
            config,
            Exposition::new(
                Arc::clone(&shared),
                Arc::clone(&outbox),
                tape.map(|tape| (tape, dump)),
                (answers, mesh.mesh()),
                reports,
            ),
            &shared,
            &scrapers,
        );
        let placement = PlacementRoom::start(config, gpu.is_some(), &shared, &outbox)?;
        outbox.uplink().set_limitations(wire(&shared.limitations()));
        Ok(Self {
            shared,
            outbox,
            sampler,
            gpu,
            gpu_series_max,
            uplink: uplink_thread,
            state,
            peers,
            scrapers,
            responder,
            mesh,
            placement,
        })
    }

    async fn until_told(&mut self, told: &mut Told, reloader: &mut Reloader) {
        let (mut due, mut gathering) = (Instant::now(), true);
        let watchdog = notify::watchdog_interval();
        let mut alive_at = Instant::now();
        notify::ready(&self.status());
        loop {
            tokio::select! {
                _ = told.terminate.recv() => return,
                _ = told.interrupt.recv() => return,
                _ = told.hang_up.recv() => {
                    notify::reloading();
                    reloader.reload(&self.shared, &self.outbox, &self.sampler, &self.gpu_series_max);
                    notify::ready(&self.status());
                }
                () = self.shared.news.notified(), if !gathering => {
                    gathering = true;
                    due = due.min(Instant::now() + GATHER);
                }
                () = tokio::time::sleep_until(due) => {
                    gathering = self.outbox.send_windows(false);
                    self.peers.write(&self.shared);
                    self.mesh.write(self.responder.as_ref(), &self.shared);
                    #[cfg(feature = "verbs")]
                    if let Some(responder) = &self.responder {
                        responder.tell(&self.shared);
                    }
                    self.state.send_changes();
                    due = Instant::now() + if gathering { GATHER } else { STILL };
                    if let Some(interval) = watchdog.filter(|_| Instant::now() >= alive_at) {
                        notify::alive();
                        alive_at = Instant::now() + interval;
                    }
                }
            }
        }
    }

    /// In the opposite order: what speaks first, what carries last.
    fn end(self) {
        tracing::info!("ending");
        self.scrapers.cancel();
        self.mesh.stop();
        if let Some(responder) = self.responder {
            responder.stop();
        }
        self.placement.stop();
        if let Some(gpu) = self.gpu {
            gpu.stop();
        }
        // The page may hold the sampler still: its threads end with it.
        if let Ok(sampler) = Arc::try_unwrap(self.sampler) {
            sampler.into_inner().unwrap_or_else(PoisonError::into_inner).stop();
        }
        self.outbox.send_windows(true);
        self.outbox.uplink().stop();
        if self.uplink.join().is_err() {
            tracing::error!("the uplink's thread had ended by a defect of its own");
        }
    }

    fn status(&self) -> String {
        match self.shared.limitations().len() {
            0 => "watching; nothing is off".to_owned(),
            off => format!("watching; {off} things are off or limited, see `railwatch-agent capabilities`"),
        }
    }
}

/// Which collector, and as whom.
pub fn target(config: &Config) -> Target {
    Target {
        address: config.collector.to_string(),
        server_name: config.server_name().to_owned(),
        credentials: config.credential_files(),
    }
}

/// As the uplink tells them.
pub fn wire(limitations: &[Limitation]) -> Vec<railwatch_wire::v1::Limitation> {
    limitations.iter().map(Into::into).collect()
}

fn host_name(config: &Config) -> Result<HostName> {
    if let Some(name) = &config.host_name {
        return Ok(name.clone());
    }
    let name = nix::unistd::gethostname().context("read the host's name")?;
    HostName::parse(&name.to_string_lossy().to_lowercase())
        .context("the kernel's host name cannot be used: set host_name in the configuration, as in the certificate")
}

/// Serves the page; where the address is taken, the agent goes on without it.
fn serve_metrics(config: &Config, page: Exposition, shared: &Shared, stop: &CancellationToken) {
    let mut registry = Registry::with_prefix("railwatch");
    registry.register_collector(Box::new(page));
    let bound = std::net::TcpListener::bind(config.metrics_listen)
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
        .and_then(TcpListener::from_std);
    match bound {
        Ok(listener) => {
            let address = listener.local_addr().map_or(config.metrics_listen, |address| address);
            tracing::info!("metrics at http://{address}/metrics");
            tokio::spawn(railwatch_exposition::serve(listener, Arc::new(registry), stop.clone()));
        }
        Err(error) => {
            let why = format!(
                "{} cannot be listened on: {error}; set metrics_listen to another address",
                config.metrics_listen
            );
            shared.set_limitations("metrics", vec![Limitation::new("metrics page", why)]);
        }
    }
}
