//! Emulated hardware: a tree of files per host that looks like the sysfs of a machine with RoCE NICs and optical modules.
//!
//! In: what the veth pairs of each host really carry and whether they have carrier; what TCP of the workload really had to
//! send again; what a scenario adds ([`Anomalies`]). Out: `class/net`, `class/infiniband` and module images below
//! `nodes/HOST/sys`, which the host's agent takes for its sysfs. Never: a counter that tells another story than the packets:
//! what is not a scenario's addition is counted by the kernel.
//!
//! What cannot be emulated so is said in docs/lab.md: everything that a driver answers by ethtool or DCB netlink.

use crate::{
    enter,
    lab::Lab,
    optic::{self, CLEAN_MW, LANES},
    plan::{Host, Nic},
};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::fs::{FileExt, symlink},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// How often the files are brought up to date: twice as often as the fastest reader that an agent has of them.
const TICK: Duration = Duration::from_millis(50);

/// `statistics/` of an interface.
const STATISTICS: [&str; 19] = [
    "rx_packets",
    "tx_packets",
    "rx_bytes",
    "tx_bytes",
    "rx_errors",
    "tx_errors",
    "rx_dropped",
    "tx_dropped",
    "multicast",
    "collisions",
    "rx_length_errors",
    "rx_over_errors",
    "rx_crc_errors",
    "rx_frame_errors",
    "rx_fifo_errors",
    "rx_missed_errors",
    "tx_aborted_errors",
    "tx_carrier_errors",
    "tx_fifo_errors",
];
/// `counters/` of an RDMA port, with the statistic that it follows and the bytes of its unit.
const PORT_COUNTERS: [(&str, Option<(&str, u64)>); 14] = [
    ("port_rcv_data", Some(("rx_bytes", 4))),
    ("port_xmit_data", Some(("tx_bytes", 4))),
    ("port_rcv_packets", Some(("rx_packets", 1))),
    ("port_xmit_packets", Some(("tx_packets", 1))),
    ("unicast_rcv_packets", Some(("rx_packets", 1))),
    ("unicast_xmit_packets", Some(("tx_packets", 1))),
    ("port_xmit_wait", None),
    ("port_xmit_discards", None),
    ("symbol_error", None),
    ("link_error_recovery", None),
    ("link_downed", None),
    ("port_rcv_errors", None),
    ("local_link_integrity_errors", None),
    ("excessive_buffer_overrun_errors", None),
];
/// `hw_counters/` of an RDMA port, as mlx5 has them.
const HARDWARE_COUNTERS: [&str; 9] = [
    "packet_seq_err",
    "out_of_sequence",
    "out_of_buffer",
    "duplicate_request",
    "local_ack_timeout_err",
    "np_cnp_sent",
    "rp_cnp_handled",
    "np_ecn_marked_roce_packets",
    "rx_icrc_encapsulated",
];

/// What a scenario adds to a host's NIC.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Anomaly {
    /// Light received, mW per lane; a clean module's where absent.
    pub received_mw: Option<[f64; LANES]>,
    /// Counters that rise, by file below the RDMA port (`counters/symbol_error`), with their steps a second.
    pub rising: BTreeMap<String, f64>,
}

/// By host, by port.
pub type Anomalies = BTreeMap<String, BTreeMap<String, Anomaly>>;

fn anomalies_file(lab: &Lab) -> PathBuf {
    lab.folder.join("anomalies.json")
}

/// Tells the hardware what a scenario adds from now on.
///
/// # Errors
/// The file cannot be written.
pub fn set_anomalies(lab: &Lab, anomalies: &Anomalies) -> Result<()> {
    let (file, new) = (anomalies_file(lab), lab.folder.join("anomalies.json.new"));
    fs::write(&new, serde_json::to_vec(anomalies)?)
        .and_then(|()| fs::rename(&new, &file))
        .with_context(|| format!("write {}", file.display()))
}

/// Is the hardware of all hosts, or of one, until it is killed.
///
/// # Errors
/// A file that cannot be made or written.
pub fn emulate(lab: &Lab, alone: Option<&str>) -> Result<()> {
    thread::scope(|scope| {
        let hosts = lab.plan.hosts.iter().filter(|host| alone.is_none_or(|alone| host.name == alone));
        let threads: Vec<_> = hosts.map(|host| scope.spawn(|| emulate_host(lab, host))).collect();
        for thread in threads {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        Ok(())
    })
}

fn emulate_host(lab: &Lab, host: &Host) -> Result<()> {
    let real = lab.node_folder(&host.name).join("real-sys");
    fs::create_dir_all(&real)?;
    enter::inside(lab, &host.name, || {
        enter::mount_privately("sysfs", &real)?;
        let root = lab.node_folder(&host.name).join("sys");
        let mut cards = host.nics.iter().map(|nic| Card::make(&root, &real, nic)).collect::<Result<Vec<_>>>()?;
        let losses_file = lab.node_folder(&host.name).join("losses");
        let (mut anomalies, mut written) = (Anomalies::default(), None);
        let mut next = Instant::now();
        loop {
            let modified = fs::metadata(anomalies_file(lab)).and_then(|metadata| metadata.modified()).ok();
            if modified != written {
                written = modified;
                let text = fs::read(anomalies_file(lab)).context("read what the scenario adds")?;
                anomalies = serde_json::from_slice(&text).context("what the scenario adds")?;
            }
            let losses = fs::read_to_string(&losses_file).unwrap_or_default();
            let of_host = anomalies.get(&host.name);
            for (card, losses) in cards.iter_mut().zip(losses.lines().map(Some).chain(std::iter::repeat(None))) {
                card.tick(losses, of_host.and_then(|of_host| of_host.get(&card.port)))?;
            }
            next += TICK;
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    })
}

/// A file that is written when its number changes, in place: readers keep it open.
struct Counter {
    file: File,
    shown: u64,
}

impl Counter {
    fn make(path: &Path) -> Result<Self> {
        let file = create(path)?;
        file.write_all_at(b"0\n", 0)?;
        Ok(Self { file, shown: 0 })
    }

    fn show(&mut self, value: u64) -> Result<()> {
        if value != self.shown {
            let text = format!("{value}\n");
            self.file.write_all_at(text.as_bytes(), 0)?;
            if value < self.shown {
                self.file.set_len(text.len() as u64)?;
            }
            self.shown = value;
        }
        Ok(())
    }
}

/// One NIC with its RDMA port and its module.
struct Card {
    port: String,
    statistics: Vec<(File, Counter)>,
    carrier: File,
    link: LinkFiles,
    /// By path below the port.
    counters: BTreeMap<String, Counter>,
    /// What scenarios added so far, by path below the port.
    added: BTreeMap<String, f64>,
    module: PathBuf,
    received_mw: Option<[f64; LANES]>,
    was_up: bool,
    downs: u64,
    ups: u64,
    last: Instant,
}

struct LinkFiles {
    carrier: File,
    operstate: File,
    carrier_up_count: Counter,
    carrier_down_count: Counter,
    carrier_changes: Counter,
    state: File,
    phys_state: File,
}

impl Card {
    fn make(root: &Path, real: &Path, nic: &Nic) -> Result<Self> {
        let net = root.join("class/net").join(&nic.port);
        let from = real.join("class/net").join(&nic.port);
        write(&net.join("ifindex"), &fs::read_to_string(from.join("ifindex"))?)?;
        for (name, text) in [("type", "1\n"), ("flags", "0x1003\n"), ("speed", "100000\n")] {
            write(&net.join(name), text)?;
        }
        fs::create_dir_all(net.join("device"))?;
        symlink("../../../../bus/pci/drivers/mlx5_core", net.join("device/driver"))?;
        let statistics = STATISTICS.iter().map(|name| {
            let from = from.join("statistics").join(name);
            let real = File::open(&from).with_context(|| format!("open {}", from.display()))?;
            Ok((real, Counter::make(&net.join("statistics").join(name))?))
        });
        let module = net.join("module_eeprom.json");
        write(&module, &optic::image([CLEAN_MW; LANES])?)?;

        let device = root.join("class/infiniband").join(&nic.rdma_device);
        let port = device.join("ports/1");
        for (name, text) in [
            ("rate", "100 Gb/sec (4X EDR)\n"),
            ("link_layer", "Ethernet\n"),
            ("gid_attrs/ndevs/0", &format!("{}\n", nic.port)),
            ("hw_counters/lifespan", "10\n"),
        ] {
            write(&port.join(name), text)?;
        }
        fs::create_dir_all(device.join("device"))?;
        symlink("../../../../bus/pci/drivers/mlx5_core", device.join("device/driver"))?;
        let mut counters = BTreeMap::new();
        let below = PORT_COUNTERS.iter().map(|(name, _)| format!("counters/{name}"));
        for path in below.chain(HARDWARE_COUNTERS.iter().map(|name| format!("hw_counters/{name}"))) {
            counters.insert(path.clone(), Counter::make(&port.join(path))?);
        }
        let carrier = File::open(from.join("carrier"))?;
        let link = LinkFiles {
            carrier: create(&net.join("carrier"))?,
            operstate: create(&net.join("operstate"))?,
            carrier_up_count: Counter::make(&net.join("carrier_up_count"))?,
            carrier_down_count: Counter::make(&net.join("carrier_down_count"))?,
            carrier_changes: Counter::make(&net.join("carrier_changes"))?,
            state: create(&port.join("state"))?,
            phys_state: create(&port.join("phys_state"))?,
        };
        let mut card = Self {
            port: nic.port.clone(),
            statistics: statistics.collect::<Result<_>>()?,
            was_up: false,
            carrier,
            link,
            counters,
            added: BTreeMap::new(),
            module,
            received_mw: None,
            downs: 0,
            ups: 0,
            last: Instant::now(),
        };
        card.show_link(has_carrier(&card.carrier))?;
        Ok(card)
    }

    fn tick(&mut self, losses: Option<&str>, anomaly: Option<&Anomaly>) -> Result<()> {
        let now = Instant::now();
        let seconds = now.duration_since(self.last).as_secs_f64();
        self.last = now;
        for (real, shown) in &mut self.statistics {
            shown.show(number(real))?;
        }
        let up = has_carrier(&self.carrier);
        if up != self.was_up {
            self.show_link(up)?;
        }
        for (path, per_second) in anomaly.iter().flat_map(|anomaly| &anomaly.rising) {
            *self.added.entry(path.clone()).or_default() += per_second * seconds;
        }
        for (name, follows) in PORT_COUNTERS {
            let counted = follows.map_or(0, |(statistic, unit)| self.statistic(statistic) / unit);
            let counted = if name == "link_downed" { self.downs } else { counted };
            self.show(&format!("counters/{name}"), counted)?;
        }
        // A NIC's own transport would have told its peer, and been told, of just these packets.
        let mut words = losses.unwrap_or_default().split(' ').map(|word| word.parse().unwrap_or(0));
        let (sent_again, out_of_sequence) = (words.next().unwrap_or(0), words.next().unwrap_or(0));
        for name in HARDWARE_COUNTERS {
            let counted = match name {
                "packet_seq_err" => sent_again,
                "out_of_sequence" => out_of_sequence,
                _ => 0,
            };
            self.show(&format!("hw_counters/{name}"), counted)?;
        }
        let received_mw = anomaly.and_then(|anomaly| anomaly.received_mw);
        if received_mw != self.received_mw {
            self.received_mw = received_mw;
            let new = self.module.with_extension("new");
            fs::write(&new, optic::image(received_mw.unwrap_or([CLEAN_MW; LANES]))?)?;
            fs::rename(&new, &self.module)?;
        }
        Ok(())
    }

    fn statistic(&self, name: &str) -> u64 {
        let place = STATISTICS.iter().position(|statistic| *statistic == name);
        place.map_or(0, |place| self.statistics[place].1.shown)
    }

    /// Shows what was counted with what scenarios added.
    fn show(&mut self, path: &str, counted: u64) -> Result<()> {
        let added = self.added.get(path).copied().unwrap_or_default() as u64;
        match self.counters.get_mut(path) {
            // What counts the workload's losses starts anew with a workload; a NIC's counter never falls.
            Some(counter) => counter.show((counted + added).max(counter.shown)),
            None => Ok(()),
        }
    }

    fn show_link(&mut self, up: bool) -> Result<()> {
        if up {
            self.ups += 1;
        } else if self.was_up {
            self.downs += 1;
        }
        self.was_up = up;
        let link = &mut self.link;
        let texts = if up {
            ["1\n", "up\n", "4: ACTIVE\n", "5: LinkUp\n"]
        } else {
            ["0\n", "down\n", "1: DOWN\n", "3: Disabled\n"]
        };
        for (file, text) in [&link.carrier, &link.operstate, &link.state, &link.phys_state].into_iter().zip(texts) {
            file.write_all_at(text.as_bytes(), 0)?;
            file.set_len(text.len() as u64)?;
        }
        link.carrier_up_count.show(self.ups)?;
        link.carrier_down_count.show(self.downs)?;
        link.carrier_changes.show(self.ups + self.downs)
    }
}

fn has_carrier(file: &File) -> bool {
    // The read fails while the interface is administratively down.
    let mut text = [0; 1];
    file.read_at(&mut text, 0).is_ok_and(|read| read == 1) && text[0] == b'1'
}

fn number(file: &File) -> u64 {
    let mut text = [0; 24];
    let read = file.read_at(&mut text, 0).unwrap_or(0);
    std::str::from_utf8(&text[..read]).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

fn create(path: &Path) -> Result<File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    File::create(path).with_context(|| format!("make {}", path.display()))
}

fn write(path: &Path, text: &str) -> Result<()> {
    use std::io::Write as _;
    create(path)?.write_all(text.as_bytes()).with_context(|| format!("write {}", path.display()))
}
