//! Which values of the fleet differ from their peers', looked at once a minute: their count for the metrics page, and the signals
//! [`config.drift` and `config.drift.over`](super::tell) for the core.

use super::drift::{By, DriftOptions, DriftRow, Peer, drift};
use super::tell::{self, Now, Teller};
use crate::clock::{Timeline, nanoseconds};
use crate::core::CoreHandle;
use crate::live::Live;
use railwatch_engine::Signal;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Time between two looks: to compare 10,000 hosts is some seconds' work of one processor.
const EVERY: Duration = Duration::from_secs(60);

/// What was found last, and how to look.
#[derive(Clone, Debug, Default)]
pub struct Standing(Arc<Mutex<(DriftOptions, Found)>>);

/// Differing values by key, and hosts that have any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// By key.
    pub items: BTreeMap<&'static str, u64>,
    /// Hosts.
    pub hosts: u64,
}

impl Standing {
    /// Goes on with other settings.
    pub fn configure(&self, options: DriftOptions) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0 = options;
    }

    /// The settings.
    pub fn options(&self) -> DriftOptions {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    /// What the last look found.
    pub fn found(&self) -> Found {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1.clone()
    }

    /// All differences as they are now.
    pub fn look(&self, live: &Live, by: By) -> Vec<DriftRow> {
        let peers: Vec<Peer> = live
            .cells()
            .iter()
            .map(|cell| {
                let host = cell.lock();
                let jobs = host.placement.tasks.iter().filter(|task| !task.job.is_empty());
                let jobs = jobs.filter(|task| task.exited_unix_ns.is_none()).map(|task| task.job.clone()).collect();
                Peer { host: host.name.clone(), inventory: Arc::clone(&host.inventory), jobs }
            })
            .collect();
        drift(&peers, by, &self.options())
    }

    fn note(&self, rows: &[DriftRow]) {
        let mut found = Found::default();
        let mut hosts: Vec<&str> = rows.iter().map(|row| row.host.as_str()).collect();
        hosts.dedup();
        found.hosts = hosts.len() as u64;
        for row in rows {
            *found.items.entry(row.key).or_default() += 1;
        }
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1 = found;
    }
}

/// Looks until told to stop.
pub async fn follow(live: Live, standing: Standing, core: CoreHandle, stop: CancellationToken) {
    let told = {
        let core = core.clone();
        tokio::task::spawn_blocking(move || core.observed(&tell::SIGNALS).map_err(|error| error.to_string())).await
    };
    let told = told.unwrap_or_else(|error| Err(error.to_string()));
    let mut teller = Teller::recall(&told.unwrap_or_else(|error| {
        tracing::error!(%error, "what was told of differing settings cannot be read: it may be told again");
        Vec::new()
    }));
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        let (live, standing) = (live.clone(), standing.clone());
        let looked = tokio::task::spawn_blocking(move || {
            let signals = look(&live, &standing, &mut teller);
            (teller, signals)
        });
        let signals = match looked.await {
            Ok((kept, signals)) => {
                teller = kept;
                signals
            }
            Err(error) => {
                tracing::error!(%error, "inventories were not compared, and no longer are until the collector starts again");
                return;
            }
        };
        for signal in signals {
            if let Err(error) = core.observe(signal).await {
                tracing::error!(%error, "a difference in settings is counted, and not told");
            }
        }
    }
}

/// Compares all hosts, notes how many differ, and returns what is to be told.
fn look(live: &Live, standing: &Standing, teller: &mut Teller) -> Vec<Signal> {
    let rows = standing.look(live, By::Fleet);
    standing.note(&rows);
    let half_width_ns = nanoseconds(EVERY);
    teller.look(&rows, Timeline::now(), half_width_ns, |host, kind, key, value| stands(live, host, kind, key, value))
}

fn stands(live: &Live, host: &str, kind: &str, key: &str, value: &str) -> Now {
    let Some(cell) = live.find(host) else { return Now::Forgotten };
    let host = cell.lock();
    let entities = host.inventory.entities().iter().filter(|entity| &*entity.kind == kind);
    let mut values = entities.flat_map(|entity| entity.values());
    match () {
        () if !host.connected => Now::Away,
        () if values.any(|(known, is)| known.name == key && tell::is_told(is, value)) => Now::Has,
        () => Now::HasNot,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use railwatch_wire::v1;

    #[test]
    fn what_differs_is_counted_by_key_and_by_host() {
        let live = Live::new(Duration::from_secs(60));
        for n in 0..8 {
            let item = |key: &str, value: &str| v1::InventoryItem {
                entity_kind: "port".into(),
                entity: "eth0".into(),
                key: key.into(),
                value: value.into(),
                ..v1::InventoryItem::default()
            };
            let mtu = if n < 2 { "1500" } else { "9000" };
            let speed = if n == 1 { "200000" } else { "400000" };
            let state = v1::InventoryState { items: vec![item("mtu", mtu), item("link.speed", speed)] };
            live.host(&format!("h{n}")).lock().inventory = live.inventories().share(&state);
        }
        let standing = live.inventories().standing().clone();
        standing.note(&standing.look(&live, By::Fleet));
        assert_eq!(standing.found(), Found { items: [("mtu", 2), ("link.speed", 1)].into(), hosts: 2 });
        let (registry, _) = crate::metrics::registry(live.clone());
        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, &registry).expect("writing to a String cannot fail");
        for line in [
            "railwatch_collector_fleet_config_drift_items{key=\"mtu\"} 2\n",
            "railwatch_collector_fleet_config_drift_items{key=\"link.speed\"} 1\n",
            "railwatch_collector_fleet_config_drift_hosts 2\n",
        ] {
            assert!(page.contains(line), "{line} in {page}");
        }
        // Told when a second look finds it still, and over when the host has another value at two.
        let mut teller = Teller::default();
        let mut told = || -> Vec<_> {
            look(&live, &standing, &mut teller).into_iter().map(|signal| (signal.name, signal.element.host)).collect()
        };
        assert_eq!((told(), told().len(), told().len()), (vec![], 3, 0));
        for host in ["h0", "h1"] {
            live.host(host).lock().connected = true;
            live.host(host).lock().inventory = Arc::clone(&live.host("h7").lock().inventory);
        }
        assert_eq!((told(), told().len()), (vec![], 3));
        assert_eq!(standing.found(), Found::default());
        standing.configure(DriftOptions { majority_percent: 100, ..DriftOptions::default() });
        standing.note(&standing.look(&live, By::Fleet));
        assert_eq!(standing.found(), Found::default());
    }
}
