//! The collector put together: what starts in which order, what a reload changes, and how it ends.
//!
//! Start: certificates, store, core, then the listeners, then the run file, so that whoever reads the run file finds
//! everything answering. End: the uplink first (agents keep what was not acknowledged), then the API, the store last.

mod published;

use crate::{
    api::{self, ApiState, Rooms},
    auth::Tokens,
    bursts::Bursts,
    certificates,
    clock::Timeline,
    collectives,
    config::{Config, ConfigError, Overrides},
    core::{CoreConfig, CoreHandle},
    directives::Directives,
    ingest::{self, streams::Streams},
    inventory,
    live::Live,
    logging::Logging,
    map::{self, MapRoom},
    metrics::{self, Counters, Inside, OpenIncidents},
    otlp,
    probes::{self, Probes, ways::OfMap},
    run_file::{Addresses, RunFile},
    started, switches,
    tape::{Tapes, kept::Kept},
};
use anyhow::{Context, Result};
use railwatch_pki::{Credentials, Reload};
use railwatch_store::Store;
use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, UdpSocket},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// The database's name within the state directory.
const DATABASE: &str = "railwatch.db";
/// Hosts that fell silent are looked for this often.
const FORGET_LOOK_EVERY: Duration = Duration::from_secs(5);
/// Whatever has not ended by itself then is ended.
const END_WITHIN: Duration = Duration::from_secs(10);

/// Where a configuration came from, to read it again.
#[derive(Clone, Debug)]
pub struct Source {
    /// The file.
    pub path: PathBuf,
    /// What the flags say on top.
    pub overrides: Overrides,
}

/// A running collector.
pub struct Daemon {
    addresses: Addresses,
    config: Config,
    live: Live,
    counters: Arc<Counters>,
    credentials: Arc<Credentials>,
    core: CoreHandle,
    tokens: Arc<Tokens>,
    exporter: otlp::Handle,
    probes: Probes,
    stop: CancellationToken,
    tasks: JoinSet<()>,
    run_file: Option<RunFile>,
}

async fn listen(what: &str, address: SocketAddr) -> Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address).await.with_context(|| {
        format!("listen on {address} for {what}: is another collector running, or {what}'s port taken?")
    })?;
    let real = listener.local_addr()?;
    Ok((listener, real))
}

impl Daemon {
    /// Starts everything. What fails names itself; nothing is left behind.
    pub async fn start(config: Config) -> Result<Self> {
        std::fs::create_dir_all(&config.state_dir)
            .with_context(|| format!("make the state directory {}", config.state_dir.display()))?;
        let api_tls = config
            .api_tls_certificate
            .as_ref()
            .zip(config.api_tls_key.as_ref())
            .map(|(certificate, key)| api::tls(certificate, key))
            .transpose()?;
        api::check_listen(config.api_listen, api_tls.is_some(), config.api_allow_plaintext)?;
        let credentials = certificates::load(&config)?;
        let tokens = Arc::new(Tokens::open(&config.state_dir)?);
        let (uplink_listener, uplink) = listen("the uplink", config.uplink_listen).await?;
        let (api_listener, api) = listen("the API", config.api_listen).await?;
        let (metrics_listener, metrics) = listen("the metrics", config.metrics_listen).await?;
        let sflow = match config.sflow.listen {
            Some(address) => {
                let socket = UdpSocket::bind(address).await;
                Some(socket.with_context(|| format!("listen on {address} for sFlow: is its port taken?"))?)
            }
            None => None,
        };
        let database = config.state_dir.join(DATABASE);
        let store = Store::open(&database)?;
        let known_hosts = store.restore(Timeline::now(), None)?.hosts;
        let former = store.former();
        let core = CoreHandle::spawn(
            store,
            CoreConfig {
                engine: config.engine.clone(),
                retention: config.retention,
                state_dir: config.state_dir.clone(),
                webhook: config.webhook.clone(),
            },
        )?;
        let live = Live::new(config.forget_hosts_after());
        known_hosts.into_iter().for_each(|host| live.remember(host));
        live.forget(Timeline::now());
        let (mut registry, counters) = metrics::registry(live.clone());
        let exporter = otlp::Handle::new(live.clone(), Arc::clone(&counters));
        exporter.configure(&config.otlp);
        let incidents = OpenIncidents::default();
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(published::follow(core.clone(), incidents.clone(), exporter.clone(), stop.clone()));
        let tapes = Tapes::below(core.overload().clone());
        let kept = Kept::in_state_dir(&config.state_dir);
        let directives = Directives::new(core.epoch());
        let bursts = Bursts::new(core.clone(), live.clone(), directives.clone());
        let map_room = MapRoom::default();
        let probes = Probes::new(core.epoch(), live.clone(), Arc::new(OfMap::new(map_room.clone())));
        probes.configure(config.probes.clone(), &config.engine);
        let shared = Arc::new(ingest::Shared {
            live: live.clone(),
            core: core.clone(),
            counters: Arc::clone(&counters),
            credentials: Arc::clone(&credentials),
            streams: Streams::new(usize::try_from(config.streams_max).unwrap_or(usize::MAX)),
            tapes: tapes.clone(),
            directives,
            probes: probes.clone(),
            map: map_room.clone(),
            stop: stop.clone(),
        });
        let (server, handshakes) = ingest::serve(uplink_listener, shared);
        tasks.spawn(async move {
            if let Err(error) = server.await {
                tracing::error!(%error, "the uplink's server ended");
            }
        });
        let rooms = Rooms {
            live: live.clone(),
            core: core.clone(),
            tapes: tapes.clone(),
            kept: kept.clone(),
            bursts: bursts.clone(),
            probes: probes.clone(),
            map: map_room.clone(),
        };
        let api_state = ApiState::new(Arc::clone(&tokens), rooms);
        let inside = Inside {
            core: core.clone(),
            incidents,
            handshakes,
            api: api_state.counters(),
            tokens: Arc::clone(&tokens),
            kept: kept.clone(),
            bursts: bursts.clone(),
            probes: probes.clone(),
        };
        registry.register_collector(Box::new(inside));
        registry.register_collector(Box::new(map::figures::Figures(map_room.clone())));
        let is_tls = api_tls.is_some();
        tasks.spawn(api::serve(api_listener, api_tls, api_state, stop.clone()));
        tasks.spawn(railwatch_exposition::serve(metrics_listener, Arc::new(registry), stop.clone()));
        tasks.spawn(certificates::keep(config.clone(), Arc::clone(&credentials), stop.clone()));
        tasks.spawn(kept.follow(core.clone(), live.clone(), tapes, stop.clone()));
        tasks.spawn(bursts.follow(stop.clone()));
        tasks.spawn(forget(live.clone(), stop.clone()));
        tasks.spawn(probes.clone().follow(stop.clone()));
        tasks.spawn(probes::ways::follow(probes.clone(), map_room.clone(), stop.clone()));
        tasks.spawn(probes::blame::follow(probes.clone(), core.clone(), stop.clone()));
        tasks.spawn(map_room.clone().follow(stop.clone()));
        tasks.spawn(map::history::follow(map_room.clone(), core.clone(), stop.clone()));
        if let Some(file) = config.map.inventory_file.clone() {
            tasks.spawn(map::file::follow(file, map_room.clone(), stop.clone()));
        }
        let standing = live.inventories().standing();
        standing.configure(config.drift);
        tasks.spawn(inventory::follow(live.clone(), standing.clone(), core.clone(), stop.clone()));
        tasks.spawn(collectives::follow(live.clone(), core.clone(), stop.clone()));
        let around = switches::Around { core: core.clone(), reports: Arc::new(map_room), stop: stop.clone() };
        switches::start(live.switches(), &config.switches, sflow, &around, &mut tasks);
        let addresses = Addresses { uplink, api, api_tls: is_tls, metrics };
        let directory = config.run_dir();
        // Without the file everything works; only the operator's command must be told the address.
        let run_file = RunFile::write(&directory, &config.state_dir, &addresses)
            .inspect_err(|error| {
                tracing::warn!(directory = %directory.display(), %error, "collector.json cannot be written: set RAILWATCH_COLLECTOR for the railwatch command, or --run-dir here");
            })
            .ok();
        if let Some(former) = former
            && let Err(error) = core.observe(started::signal(former, Timeline::now())).await
        {
            tracing::error!(%error, "that this collector follows another is not told");
        }
        tracing::info!(%uplink, %api, %metrics, state_dir = %config.state_dir.display(), "ready");
        Ok(Self {
            addresses,
            config,
            live,
            counters,
            credentials,
            core,
            tokens,
            exporter,
            probes,
            stop,
            tasks,
            run_file,
        })
    }

    /// Where it really listens.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Live state of the fleet.
    pub fn live(&self) -> &Live {
        &self.live
    }

    /// Reads the configuration again. What can change now does; what cannot is told; a bad file changes nothing.
    pub async fn reload(&self, source: &Source, logging: Option<&Logging>) -> Result<(), ConfigError> {
        let wanted = Config::load(&source.path, &source.overrides).inspect_err(|error| {
            self.counters.reloads_refused.inc();
            self.counters.configuration_stale.set(1);
            tracing::error!("configuration not reloaded, the old one stays in force: {error}");
        })?;
        self.counters.configuration_stale.set(0);
        let later = wanted.needs_restart(&self.config);
        if let Some(logging) = logging
            && let Err(error) = logging.set(&wanted.log)
        {
            tracing::error!("{error:#}");
        }
        self.live.set_forget_after(wanted.forget_hosts_after());
        self.live.inventories().standing().configure(wanted.drift);
        if let Err(error) = self.core.reconfigure(wanted.engine.clone(), wanted.retention).await {
            tracing::error!("the engine's settings are not changed: {error}");
        }
        self.exporter.configure(&wanted.otlp);
        self.probes.configure(wanted.probes.clone(), &wanted.engine);
        self.tokens.reload();
        if let Reload::Kept(error) = self.credentials.reload() {
            tracing::error!("changed certificate files are not used, the old ones stay: {error}");
        }
        if later.is_empty() {
            tracing::info!("configuration reloaded");
        } else {
            tracing::warn!(
                fields = later.join(", "),
                "configuration reloaded; these fields change with the next start"
            );
        }
        Ok(())
    }

    /// Returns when the collector cannot go on, with the reason. It would answer, and store and judge nothing.
    pub async fn failed(&self) -> anyhow::Error {
        self.core.stopped().await;
        anyhow::anyhow!(
            "the core's thread ended: nothing can be stored, judged or acknowledged any more. Agents keep what was not \
             acknowledged; start the collector again, and report the panic that the log shows before this line"
        )
    }

    /// Ends everything in order.
    pub async fn stop(mut self) {
        drop(self.run_file.take());
        self.stop.cancel();
        self.exporter.stop();
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(END_WITHIN, ended).await.is_err() {
            tracing::warn!("not everything ended within {END_WITHIN:?}; ending anyway, nothing acknowledged is lost");
            self.tasks.abort_all();
        }
        self.core.stop().await;
    }
}

async fn forget(live: Live, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(FORGET_LOOK_EVERY) => {
                let count = live.forget(Timeline::now());
                if count > 0 {
                    tracing::info!(count, "hosts not heard for long left live state");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::{Config, Daemon};
    use crate::core::StreamEnd;
    use railwatch_engine::EndedBy;
    use railwatch_pki::PeerKernel;
    use std::{net::SocketAddr, path::Path, time::Duration};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    async fn start(directory: &Path) -> Daemon {
        let any = ([127, 0, 0, 1], 0).into();
        let config = Config {
            state_dir: directory.join("state"),
            run_dir: Some(directory.join("run")),
            uplink_listen: any,
            api_listen: any,
            metrics_listen: any,
            ..Config::default()
        };
        Daemon::start(config).await.unwrap()
    }

    /// What `address` answers to a request for `path` without a token.
    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn every_way_a_call_or_a_watcher_ends_badly_is_on_the_page() {
        let directory = tempfile::tempdir().unwrap();
        let daemon = start(directory.path()).await;
        let addresses = daemon.addresses();
        assert!(get(addresses.api, "/v1/hosts").await.starts_with("HTTP/1.1 401"));
        std::fs::write(directory.path().join("state/tokens"), "[[token]]\nname = 7").unwrap();
        daemon.tokens.reload();
        let page = get(addresses.metrics, "/metrics").await;
        for line in [
            "api_requests_denied_total 1",
            "api_token_failures_total 1",
            "api_token_reloads_refused_total 1",
            "api_watchers_total 0",
            "api_watchers_stuck_total 0",
            "api_changes_missed_total 0",
            "api_connections_refused_total 0",
            "api_connections_broken_total 0",
            "engine_incidents_refused_total 0",
        ] {
            assert!(page.contains(&format!("\nrailwatch_collector_{line}\n")), "{line}\n{page}");
        }
        daemon.stop().await;
    }

    #[tokio::test]
    async fn after_a_restart_a_host_that_does_not_come_back_is_there_and_silent() {
        let directory = tempfile::tempdir().unwrap();
        let daemon = start(directory.path()).await;
        let attachment = daemon.core.attach("a", "boot-1", [7; 16], 1, PeerKernel::default()).await.unwrap();
        attachment.detach(StreamEnd::Broken(EndedBy::Host)).await;
        daemon.stop().await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        let daemon = start(directory.path()).await;
        let hosts = daemon.live().hosts();
        let known: Vec<_> = hosts.iter().map(|row| (row.host.as_str(), row.boot_id.as_str(), row.connected)).collect();
        assert_eq!(known, [("a", "boot-1", false)]);
        assert!(hosts[0].last_seen_ms >= 20, "last seen before the restart, not at it: {}", hosts[0].last_seen_ms);
        assert!(get(daemon.addresses().metrics, "/metrics").await.contains("fleet_host_up{host=\"a\"} 0\n"));
        daemon.stop().await;
    }

    #[tokio::test]
    async fn a_collector_whose_core_died_ends_with_the_reason() {
        let directory = tempfile::tempdir().unwrap();
        let daemon = start(directory.path()).await;
        let run_file = directory.path().join("run/collector.json");
        assert!(run_file.exists());
        assert!(
            tokio::time::timeout(Duration::from_millis(20), daemon.failed()).await.is_err(),
            "nothing is wrong yet"
        );
        daemon.core.stop().await;
        let why = tokio::time::timeout(Duration::from_secs(10), daemon.failed()).await.unwrap().to_string();
        assert!(why.contains("core") && why.contains("start the collector again"), "{why}");
        daemon.stop().await;
        assert!(!run_file.exists(), "nobody is led to a collector that is gone");
    }
}
