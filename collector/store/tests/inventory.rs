//! What the store promises about inventories: written once, not when unchanged, a history that outlives a restart, within bounds.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

use railwatch_engine::{KnownHost, Timestamp};
use railwatch_store::{
    Batch, ChangeFilter, HostInventory, InventoryChange, InventoryFilter, InventoryItem, Retention, Store,
};
use std::path::Path;
use std::time::Instant;

const SECOND: u64 = 1_000_000_000;
const NOW: u64 = 1_700_000_000 * SECOND;

fn item(kind: &str, entity: &str, key: &str, value: &str) -> InventoryItem {
    InventoryItem {
        entity_kind: kind.into(),
        entity: entity.into(),
        key: key.into(),
        role: "rdma".into(),
        value: value.into(),
        source: "/sys".into(),
    }
}

/// As the real keys: what a link tells is seen only while it is up.
fn is_kept(_: &str, key: &str) -> bool {
    key.starts_with("link.")
}

fn told(store: &mut Store, host: &str, boot: &str, second: u64, items: &[InventoryItem]) -> u64 {
    let mut batch = Batch::default();
    let at = Timestamp(NOW + second * SECOND);
    batch.inventory(HostInventory { host: host.into(), boot_id: boot.into(), at, items: items.to_vec(), is_kept });
    store.commit(&batch).unwrap().inventory_changes
}

fn changes(store: &Store, filter: ChangeFilter) -> Vec<InventoryChange> {
    store.reader().unwrap().inventory_changes(&filter).unwrap()
}

/// Seconds after the start, key, before, after, over a reboot.
type Told = (u64, String, Option<String>, Option<String>, bool);

/// Newest first.
fn history(store: &Store) -> Vec<Told> {
    let row = |c: InventoryChange| ((c.at.0 - NOW) / SECOND, c.key, c.before, c.after, c.over_reboot);
    changes(store, ChangeFilter::default()).into_iter().map(row).collect()
}

#[test]
fn changes_are_told_with_what_was_before_and_survive_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("railwatch.db");
    let mut store = Store::open(&path).unwrap();
    let of = |mtu: &str, firmware: &str| {
        vec![item("port", "eth0", "mtu", mtu), item("rdma", "mlx5_0", "firmware.version", firmware)]
    };
    assert_eq!(told(&mut store, "h1", "boot1", 0, &of("9000", "28.39")), 0, "a first inventory is no change");
    assert_eq!(history(&store), []);
    assert_eq!(told(&mut store, "h1", "boot1", 10, &of("1500", "28.39")), 1);
    drop(store);
    let mut store = Store::open(&path).unwrap();
    assert_eq!(
        told(&mut store, "h1", "boot2", 20, &of("1500", "28.41")),
        1,
        "back from a reboot with another firmware"
    );
    assert_eq!(told(&mut store, "h1", "boot2", 30, &of("1500", "28.41")[..1]), 1, "gone");
    assert_eq!(told(&mut store, "h1", "boot2", 40, &of("1500", "28.41")), 1, "and back");
    let text = |value: &str| Some(value.to_owned());
    let expected = vec![
        (40, "firmware.version".to_owned(), None, text("28.41"), false),
        (30, "firmware.version".into(), text("28.41"), None, false),
        (20, "firmware.version".into(), text("28.39"), text("28.41"), true),
        (10, "mtu".into(), text("9000"), text("1500"), false),
    ];
    assert_eq!(history(&store), expected);
    let at = |second: u64| Some(Timestamp(NOW + second * SECOND));
    for (what, filter, count) in [
        ("of another host", ChangeFilter { host: Some("h2".into()), ..ChangeFilter::default() }, 0),
        (
            "of a host, by time",
            ChangeFilter { host: Some("h1".into()), since: at(10), until: at(20), ..ChangeFilter::default() },
            2,
        ),
        ("by a pattern", ChangeFilter { key: Some("firmware*".into()), ..ChangeFilter::default() }, 3),
        ("the newest", ChangeFilter { limit: 1, ..ChangeFilter::default() }, 1),
    ] {
        assert_eq!(changes(&store, filter).len(), count, "{what}");
    }
    let reader = store.reader().unwrap();
    let rows =
        reader.inventory(&InventoryFilter { entity: Some("eth*".into()), ..InventoryFilter::default() }).unwrap();
    let rows: Vec<_> = rows.iter().map(|row| (&*row.key, &*row.value, (row.since.0 - NOW) / SECOND)).collect();
    assert_eq!(rows, [("mtu", "1500", 10)]);
    assert_eq!(reader.totals().unwrap().counters["inventory_changes"], 4);
}

#[test]
fn two_inventories_of_a_host_in_one_batch_are_both_written() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(&directory.path().join("railwatch.db")).unwrap();
    let mut batch = Batch::default();
    for (second, mtu) in [(0, "9000"), (1, "1500"), (2, "9000")] {
        let items = vec![item("port", "eth0", "mtu", mtu)];
        let at = Timestamp(NOW + second * SECOND);
        batch.inventory(HostInventory { host: "h1".into(), boot_id: "boot1".into(), at, items, is_kept });
    }
    assert_eq!(store.commit(&batch).unwrap().inventory_changes, 2);
    assert_eq!(history(&store).len(), 2);
}

#[test]
fn what_is_seen_only_at_times_holds_while_its_entity_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(&directory.path().join("railwatch.db")).unwrap();
    let (driver, other) = (item("port", "eth0", "driver", "mlx5_core"), item("port", "eth1", "driver", "mlx5_core"));
    let speed = |mbit: &str| item("port", "eth0", "link.speed", mbit);
    told(&mut store, "h1", "boot1", 0, &[driver.clone(), other.clone(), speed("400000")]);
    assert_eq!(told(&mut store, "h1", "boot1", 1, &[driver.clone(), other.clone()]), 0, "the link is down");
    assert_eq!(told(&mut store, "h1", "boot1", 2, &[driver, other.clone(), speed("200000")]), 1, "and back, slower");
    assert_eq!(told(&mut store, "h1", "boot1", 3, &[other]), 2, "the port went with all it had");
    let text = |value: &str| Some(value.to_owned());
    let speeds: Vec<_> =
        history(&store).into_iter().filter(|row| row.1 == "link.speed").map(|row| (row.0, row.2, row.3)).collect();
    assert_eq!(speeds, [(3, text("200000"), None), (2, text("400000"), text("200000"))]);
}

fn wal(path: &Path) -> (u64, std::time::SystemTime) {
    let metadata = std::fs::metadata(path.with_extension("db-wal")).unwrap();
    (metadata.len(), metadata.modified().unwrap())
}

#[test]
fn a_thousand_hosts_are_written_once_and_not_at_all_when_nothing_changed() {
    const HOSTS: usize = 1000;
    const ITEMS: usize = 200;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("railwatch.db");
    let mut store = Store::open(&path).unwrap();
    let items: Vec<_> =
        (0..ITEMS).map(|n| item("port", &format!("eth{}", n / 20), &format!("key{}", n % 20), "value")).collect();
    let fleet = |store: &mut Store, second: u64| {
        let mut batch = Batch::default();
        for n in 0..HOSTS {
            let at = Timestamp(NOW + second * SECOND);
            batch.inventory(HostInventory {
                host: format!("h{n}"),
                boot_id: "boot1".into(),
                at,
                items: items.clone(),
                is_kept,
            });
        }
        let begun = Instant::now();
        let changes = store.commit(&batch).unwrap().inventory_changes;
        (changes, begun.elapsed())
    };
    let (first, took) = fleet(&mut store, 0);
    let bytes = store.reader().unwrap().totals().unwrap().bytes;
    let before = wal(&path);
    let (second, looked) = fleet(&mut store, 60);
    eprintln!("{HOSTS} hosts of {ITEMS} items: written in {took:?}, {bytes} bytes; found unchanged in {looked:?}");
    assert_eq!((first, second), (0, 0));
    assert_eq!(wal(&path), before, "what is unchanged is not written");
    let of = InventoryFilter { host: Some("h999".into()), ..InventoryFilter::default() };
    assert_eq!(store.reader().unwrap().inventory(&of).unwrap().len(), ITEMS);
}

#[test]
fn old_values_are_pruned_and_counted_and_those_that_hold_stay() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(&directory.path().join("railwatch.db")).unwrap();
    for host in ["h1", "h2"] {
        let mut batch = Batch::default();
        batch.host(KnownHost {
            host: host.into(),
            boot_id: "boot1".into(),
            last_heard: Timestamp(NOW),
            departed: false,
        });
        store.commit(&batch).unwrap();
        for second in 0..11 {
            told(&mut store, host, "boot1", second, &[item("port", "eth0", "mtu", &second.to_string())]);
        }
    }
    let retention = Retention { inventory_max: 12, ..Retention::default() };
    assert_eq!(store.prune(&retention, Timestamp(NOW + 20 * SECOND)).unwrap().inventory, 8, "20 ceased to hold");
    let held = |store: &Store| store.reader().unwrap().inventory(&InventoryFilter::default()).unwrap();
    assert_eq!(held(&store).len(), 2);
    let year = Timestamp(NOW + 366 * 86_400 * SECOND);
    let later = Retention { signals_days: 1000, ..Retention::default() };
    assert_eq!(store.prune(&later, year).unwrap().inventory, 12);
    assert_eq!(held(&store).len(), 2, "what holds stays");
    // Hosts that were not heard for long go with all they had, one with each call.
    let mut gone = 0;
    for _ in 0..3 {
        gone += store.prune(&Retention::default(), year).unwrap().inventory;
    }
    assert_eq!((gone, held(&store).len()), (2, 0));
    assert_eq!(store.reader().unwrap().totals().unwrap().counters["inventory_pruned"], 22);
}
