//! What the XID errors of NVIDIA's driver mean, as a table.
//!
//! Source: NVIDIA, "XID Errors" (docs.nvidia.com/deploy/xid-errors), catalogue and recommended actions. Pure.

use railwatch_sampling::Severity;

/// Who is most likely to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// The program: a fault of its own that a healthy GPU reports.
    Application,
    /// The driver or firmware: may be cured by a reset or another version.
    Driver,
    /// The GPU's memory: ECC, row remapping.
    Memory,
    /// NVLink or the chip-to-chip link.
    Link,
    /// The GPU, its power or its bus.
    Hardware,
    /// What follows from another error: look for that one.
    Consequence,
    /// Not in the table.
    Unknown,
}

impl Class {
    /// As told in the attribute `class`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Application => "application",
            Self::Driver => "driver",
            Self::Memory => "memory",
            Self::Link => "link",
            Self::Hardware => "hardware",
            Self::Consequence => "consequence",
            Self::Unknown => "unknown",
        }
    }
}

/// One XID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Xid {
    /// Its number.
    pub code: u32,
    /// What it says, in a few words.
    pub meaning: &'static str,
    /// Whose fault it most likely is.
    pub class: Class,
    /// How bad it is for whoever runs on that GPU.
    pub severity: Severity,
}

const fn xid(code: u32, meaning: &'static str, class: Class, severity: Severity) -> Xid {
    Xid { code, meaning, class, severity }
}

use Class::{Application, Consequence, Driver, Hardware, Link, Memory};
use Severity::{Critical, Error, Info, Warning};

/// Known XIDs, by number.
pub const TABLE: &[Xid] = &[
    xid(8, "GPU stopped processing", Application, Error),
    xid(13, "graphics engine exception", Application, Error),
    xid(31, "GPU memory page fault", Application, Error),
    xid(32, "invalid or corrupted push buffer", Driver, Error),
    xid(38, "driver firmware error", Driver, Error),
    xid(43, "a program's work was stopped", Application, Error),
    xid(44, "graphics engine fault during context switch", Driver, Error),
    xid(45, "a program's work was cleaned up after an earlier error", Consequence, Warning),
    xid(46, "GPU stopped processing", Driver, Error),
    xid(48, "double bit ECC error", Memory, Critical),
    xid(54, "auxiliary power is not connected", Hardware, Critical),
    xid(61, "internal micro-controller breakpoint", Hardware, Critical),
    xid(62, "internal micro-controller halt", Hardware, Critical),
    xid(63, "a memory row is to be remapped or a page retired", Memory, Warning),
    xid(64, "a row remap or page retirement failed", Memory, Critical),
    xid(68, "video processor exception", Application, Warning),
    xid(69, "graphics engine class error", Application, Error),
    xid(74, "NVLink error", Link, Critical),
    xid(79, "GPU has fallen off the bus", Hardware, Critical),
    xid(92, "high rate of single bit ECC errors", Memory, Error),
    xid(94, "contained ECC error", Memory, Error),
    xid(95, "uncontained ECC error", Memory, Critical),
    xid(109, "context switch timed out", Driver, Error),
    xid(110, "security fault", Hardware, Critical),
    xid(119, "GSP did not answer", Driver, Critical),
    xid(120, "GSP error", Driver, Critical),
    xid(121, "chip-to-chip link corrected an error", Link, Warning),
    xid(122, "SPI access to the RMU failed", Hardware, Error),
    xid(123, "SPI access to the PMU failed", Hardware, Error),
    xid(136, "link training failed", Link, Critical),
    xid(137, "NVLink fault of a program's access", Link, Error),
    xid(140, "unrecovered ECC error", Memory, Critical),
    xid(143, "GPU could not be initialised", Hardware, Critical),
    xid(144, "NVLink error of the sending logic", Link, Critical),
    xid(145, "NVLink error of the remote logic", Link, Critical),
    xid(146, "NVLink error of the link layer", Link, Critical),
    xid(147, "NVLink error of the transport layer", Link, Critical),
    xid(148, "NVLink error of the packet layer", Link, Critical),
    xid(149, "NVLink error of the network layer", Link, Critical),
    xid(150, "NVLink error of the management layer", Link, Critical),
    xid(154, "the action needed to recover the GPU changed", Consequence, Info),
];

/// What is known of an XID; of one that is not in the table, its number and that it is unknown, as an error.
#[must_use]
pub fn describe(code: u32) -> Xid {
    let found = TABLE.binary_search_by_key(&code, |xid| xid.code).ok();
    found.map_or(xid(code, "not in the table of this version", Class::Unknown, Error), |place| TABLE[place])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order_so_that_it_can_be_searched() {
        assert!(TABLE.windows(2).all(|pair| pair[0].code < pair[1].code));
    }

    #[test]
    fn a_programs_own_fault_is_told_from_the_hardwares() {
        for (code, class, severity) in [
            (31, Application, Error),
            (45, Consequence, Warning),
            (63, Memory, Warning),
            (74, Link, Critical),
            (79, Hardware, Critical),
            (119, Driver, Critical),
            (7777, Class::Unknown, Error),
        ] {
            let found = describe(code);
            assert_eq!((found.code, found.class, found.severity), (code, class, severity));
        }
    }
}
