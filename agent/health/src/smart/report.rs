//! What the helper says to the agent: a datagram of JSON for each disk and round.
//!
//! Bounded on both sides: a message longer than [`MESSAGE_BYTES_MAX`] is cut off and then no JSON, a name outside
//! [`Report::is_sound`] is refused.

use super::ata::AtaHealth;
use super::nvme::NvmeHealth;
use serde::{Deserialize, Serialize};

/// Longest message.
pub const MESSAGE_BYTES_MAX: usize = 4096;
/// Longest text in it.
pub const TEXT_BYTES_MAX: usize = 256;
/// Longest name of a disk.
const NAME_BYTES_MAX: usize = 32;
/// Seconds between rounds that are believed.
const EVERY_S_MAX: u32 = 24 * 3600;

/// A datagram.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Seconds until the next round at the latest.
    pub every_s: u32,
    /// One disk; absent in the sign of life that begins each round.
    pub report: Option<Report>,
}

impl Message {
    /// Its times and texts are within their bounds.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        (1..=EVERY_S_MAX).contains(&self.every_s) && self.report.as_ref().is_none_or(Report::is_sound)
    }
}

/// What a disk said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// `nvme0`, `sda`.
    pub name: String,
    /// As sysfs has it; empty where it does not.
    pub model: String,
    /// Likewise.
    pub serial: String,
    /// CLOCK_MONOTONIC before and after it was asked, nanoseconds.
    pub asked_ns: (u64, u64),
    /// What it said.
    pub health: Health,
}

impl Report {
    fn is_sound(&self) -> bool {
        let is_name = |name: &str| {
            !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.bytes().all(|byte| byte.is_ascii_alphanumeric())
        };
        let texts = [&self.model, &self.serial];
        let failed = match &self.health {
            Health::Failed { why } => Some(why),
            Health::Nvme(_) | Health::Ata(_) => None,
        };
        is_name(&self.name) && texts.into_iter().chain(failed).all(|text| text.len() <= TEXT_BYTES_MAX)
    }
}

/// By kind of disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Of an NVMe controller.
    Nvme(NvmeHealth),
    /// Of a disk that speaks ATA.
    Ata(AtaHealth),
    /// It gave no answer, or none that is understood.
    Failed {
        /// In one sentence.
        why: String,
    },
}
