//! The collector put together: what starts in which order, what a reload changes, and how it ends.
//!
//! Start: certificates, store, core, then the listeners, then the run file, so that whoever reads the run file finds
//! everything answering. End: the uplink first (agents keep what was not acknowledged), then the API, the store last.

mod published;

use crate::{
    api::{self, ApiState},
    auth::Tokens,
    certificates,
    clock::Timeline,
    config::{Config, ConfigError, Overrides},
    core::{CoreConfig, CoreHandle},
    ingest::{self, streams::Streams},
    live::Live,
    logging::Logging,
    metrics::{self, Counters, Inside, OpenIncidents},
    otlp,
    run_file::{Addresses, RunFile},
};
use anyhow::{Context, Result};
use railwatch_pki::{Credentials, Reload};
use railwatch_store::Store;
use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};
use tokio::{net::TcpListener, task::JoinSet};
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
        let database = config.state_dir.join(DATABASE);
        let core = CoreHandle::spawn(
            Store::open(&database)?,
            CoreConfig {
                engine: config.engine.clone(),
                retention: config.retention,
                state_dir: config.state_dir.clone(),
                webhook: config.webhook.clone(),
            },
        )?;
        let live = Live::new(config.forget_hosts_after());
        let (mut registry, counters) = metrics::registry(live.clone());
        let exporter = otlp::Handle::new(live.clone(), Arc::clone(&counters));
        exporter.configure(&config.otlp);
        let incidents = OpenIncidents::default();
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(published::follow(core.clone(), incidents.clone(), exporter.clone(), stop.clone()));
        let shared = Arc::new(ingest::Shared {
            live: live.clone(),
            core: core.clone(),
            counters: Arc::clone(&counters),
            credentials: Arc::clone(&credentials),
            streams: Streams::new(usize::try_from(config.streams_max).unwrap_or(usize::MAX)),
            stop: stop.clone(),
        });
        let (server, handshakes) = ingest::serve(uplink_listener, shared);
        tasks.spawn(async move {
            if let Err(error) = server.await {
                tracing::error!(%error, "the uplink's server ended");
            }
        });
        let api_state = ApiState::new(Arc::clone(&tokens), live.clone(), core.clone());
        let inside = Inside { core: core.clone(), incidents, handshakes, api: api_state.counters() };
        registry.register_collector(Box::new(inside));
        let is_tls = api_tls.is_some();
        tasks.spawn(api::serve(api_listener, api_tls, api_state, stop.clone()));
        tasks.spawn(railwatch_exposition::serve(metrics_listener, Arc::new(registry), stop.clone()));
        tasks.spawn(certificates::keep(config.clone(), Arc::clone(&credentials), stop.clone()));
        tasks.spawn(forget(live.clone(), stop.clone()));
        let addresses = Addresses { uplink, api, api_tls: is_tls, metrics };
        let directory = config.run_dir();
        // Without the file everything works; only the operator's command must be told the address.
        let run_file = RunFile::write(&directory, &config.state_dir, &addresses)
            .inspect_err(|error| {
                tracing::warn!(directory = %directory.display(), %error, "collector.json cannot be written: set RAILWATCH_COLLECTOR for the railwatch command, or --run-dir here");
            })
            .ok();
        tracing::info!(%uplink, %api, %metrics, state_dir = %config.state_dir.display(), "ready");
        Ok(Self { addresses, config, live, counters, credentials, core, tokens, exporter, stop, tasks, run_file })
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
        if let Err(error) = self.core.reconfigure(wanted.engine.clone(), wanted.retention).await {
            tracing::error!("the engine's settings are not changed: {error}");
        }
        self.exporter.configure(&wanted.otlp);
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
