//! The process that asks disks for their health.
//!
//! In: `/sys/class/nvme` and `/sys/block/sd*`, and of each disk found the answer to the commands of [`super::device`], one disk
//! after the other, once in a while. Out: datagrams to the agent's socket: a sign of life for each round, and a report for each
//! disk. It listens to nobody, keeps nothing, and a disk that does not answer costs a timeout and is asked again next round.
//! It needs CAP_SYS_ADMIN (NVMe), CAP_SYS_RAWIO (ATA), and to open the device nodes.

use super::ata::{AtaHealth, judgement};
use super::device;
use super::nvme::NvmeHealth;
use super::report::{Health, Message, Report, TEXT_BYTES_MAX};
use railwatch_sampling::clock::monotonic_ns;
use railwatch_sampling::files::{line, names, numbered};
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Disks asked in a round.
pub const DISKS_MAX: usize = 128;
/// Wait before a datagram is offered again.
const OFFER_AGAIN: Duration = Duration::from_millis(50);

/// What the helper is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Where sysfs is.
    pub sysfs_root: PathBuf,
    /// Where device nodes are.
    pub dev_root: PathBuf,
    /// The agent's socket.
    pub socket: PathBuf,
    /// Seconds between rounds.
    pub every_s: u32,
}

/// Asks for ever.
///
/// # Errors
/// A socket of its own cannot be made.
pub fn run(options: &Options) -> io::Result<()> {
    let out = UnixDatagram::unbound()?;
    // A message that could not be sent before the next round is due is left out: the next says it again.
    out.set_nonblocking(true)?;
    let every = Duration::from_secs(u64::from(options.every_s.max(1)));
    loop {
        let due = Instant::now() + every;
        let every_s = options.every_s.max(1);
        send(&out, &options.socket, &Message { every_s, report: None }, due);
        for report in round(options) {
            send(&out, &options.socket, &Message { every_s, report: Some(report) }, due);
        }
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}

/// Asks every disk once.
pub fn round(options: &Options) -> impl Iterator<Item = Report> {
    let controllers = numbered(&options.sysfs_root.join("class/nvme"), "nvme").into_iter();
    let drives = names(&options.sysfs_root.join("block")).into_iter().filter(|name| name.starts_with("sd"));
    let nvme = controllers.map(|name| (options.sysfs_root.join("class/nvme").join(&name), name, true));
    let ata = drives.map(|name| (options.sysfs_root.join("block").join(&name).join("device"), name, false));
    nvme.chain(ata).take(DISKS_MAX).filter_map(|(folder, name, is_nvme)| {
        // A disk that does not speak ATA (SAS, a RAID's volume, a USB stick behind most bridges) has no such health.
        if !is_nvme && line(folder.join("vendor")).as_deref() != Some("ATA") {
            return None;
        }
        let node = options.dev_root.join(&name);
        let before_ns = monotonic_ns();
        let health = if is_nvme { nvme_health(&node) } else { ata_health(&node) };
        let health = health.unwrap_or_else(|error| {
            let hint = match error.kind() {
                io::ErrorKind::PermissionDenied => {
                    ": the helper needs CAP_SYS_ADMIN for NVMe, CAP_SYS_RAWIO for ATA, and the device in its DeviceAllow="
                }
                _ => "",
            };
            Health::Failed { why: bounded(format!("ask {}: {error}{hint}", node.display())) }
        });
        let text = |name: &str| bounded(line(folder.join(name)).unwrap_or_default());
        Some(Report {
            model: text("model"),
            serial: if is_nvme { text("serial") } else { ata_serial(&folder) },
            name,
            asked_ns: (before_ns, monotonic_ns()),
            health,
        })
    })
}

fn nvme_health(node: &Path) -> io::Result<Health> {
    let page = device::nvme_smart_log(&device::open(node)?)?;
    NvmeHealth::decode(&page).map(Health::Nvme).ok_or_else(|| io::Error::other("an empty SMART log page"))
}

fn ata_health(node: &Path) -> io::Result<Health> {
    let disk = device::open(node)?;
    let page = device::ata_smart_data(&disk)?;
    let health = AtaHealth::decode(&page).ok_or_else(|| io::Error::other("SMART data with a wrong checksum"))?;
    // Behind some bridges the registers do not come back: then it has no judgement, and its attributes still count.
    let is_failing = device::ata_smart_status(&disk).ok().and_then(|sense| judgement(&sense));
    Ok(Health::Ata(AtaHealth { is_failing, ..health }))
}

/// Page 80h of the vital product data, as the kernel read it: a header of 4 bytes and the serial number (SPC-4, 7.8.16).
fn ata_serial(folder: &Path) -> String {
    let page = std::fs::read(folder.join("vpd_pg80")).unwrap_or_default();
    let text = String::from_utf8_lossy(page.get(4..).unwrap_or_default()).trim_matches(['\0', ' ']).to_owned();
    bounded(text)
}

fn bounded(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
    text
}

/// Offers a message until it is taken or `due`.
fn send(out: &UnixDatagram, socket: &Path, message: &Message, due: Instant) {
    let Ok(text) = serde_json::to_vec(message) else { return };
    loop {
        match out.send_to(&text, socket) {
            Ok(_) => return,
            // Nobody listens yet, or no longer, or has no room.
            Err(_) if Instant::now() < due => std::thread::sleep(OFFER_AGAIN),
            Err(_) => return,
        }
    }
}
