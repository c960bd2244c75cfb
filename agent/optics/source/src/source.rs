//! The source `optics`: finds modules, reads each in turn, tells the sampler.
//!
//! Cadence: 10 to 60 s, 30 s unless told otherwise, and slower for a module that is slow ([`crate::pace`]). One reading of
//! the source spends at most a second in reads; what is left comes first in the next. An empty cage is tried once a
//! minute: some drivers log each attempt.

use crate::cage::{Lost, Plugged, Refreshed};
use crate::eeprom::{Eeprom, Files, Interface, Kernel};
use crate::modules::Modules;
use crate::pace::Pace;
use crate::series::{Declared, drift};
use crate::trend::Trend;
use nix::libc;
use nix::sys::statfs::{SYSFS_MAGIC, statfs};
use railwatch_sampling::clock::monotonic_ns;
use railwatch_sampling::{Batch, CadenceRange, Declare, ErrorReason, ReadError, Source, Unavailable};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Time that one reading of the source, or one probe, spends in reads of modules.
const AT_ONCE_NS: u64 = 1_000_000_000;
/// Time between two looks into an empty cage.
const EMPTY_NS: u64 = 60_000_000_000;

/// Modules of this host.
pub struct OpticsSource {
    eeprom: Box<dyn Eeprom>,
    cages: Vec<Cage>,
    /// The cage that the next reading begins with.
    first: usize,
    at_once_ns: u64,
    modules: Arc<Modules>,
}

struct Cage {
    interface: Interface,
    state: State,
    pace: Pace,
    declared: Declared,
    trend: Trend,
}

enum State {
    /// Its driver reads no module.
    Unsupported,
    Empty {
        try_at_ns: u64,
    },
    Plugged(Box<Plugged>),
}

impl OpticsSource {
    /// Reads the modules of this kernel where `root` is its sysfs; else the files `class/net/*/module_eeprom.json` below it.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        let is_sysfs = statfs(root).is_ok_and(|filesystem| filesystem.filesystem_type() == SYSFS_MAGIC);
        if is_sysfs { Self::over(Box::new(Kernel::default())) } else { Self::over(Box::new(Files(root.to_owned()))) }
    }

    fn over(eeprom: Box<dyn Eeprom>) -> Self {
        Self { eeprom, cages: Vec::new(), first: 0, at_once_ns: AT_ONCE_NS, modules: Arc::default() }
    }

    /// What the modules are, filled as they are read.
    #[must_use]
    pub fn modules(&self) -> Arc<Modules> {
        Arc::clone(&self.modules)
    }

    /// The interfaces as they are now, with what is known of those that were there before.
    fn look(&mut self) -> Result<(), Unavailable> {
        let interfaces = self.eeprom.interfaces().map_err(|error| {
            Unavailable::new((&error).into(), format!("listing interfaces ({}): {error}", self.eeprom.path()))
        })?;
        let mut before = std::mem::take(&mut self.cages);
        for interface in interfaces {
            let known = before.iter().position(|cage| cage.interface == interface);
            self.cages.push(known.map_or_else(|| Cage::new(interface), |at| before.swap_remove(at)));
        }
        let cages = &self.cages;
        self.modules.retain(|name| cages.iter().any(|cage| cage.interface.name == name));
        Ok(())
    }

    /// Tries the cages in which no module is known.
    fn try_cages(&mut self) -> Result<(), Unavailable> {
        let Self { eeprom, cages, modules, at_once_ns, .. } = self;
        let began_ns = monotonic_ns();
        for cage in cages {
            let now_ns = monotonic_ns();
            if !matches!(cage.state, State::Empty { try_at_ns } if try_at_ns <= now_ns) {
                continue;
            }
            if now_ns - began_ns > *at_once_ns {
                break;
            }
            match Plugged::read(eeprom.as_mut(), &cage.interface) {
                Ok(plugged) => {
                    modules.set(&cage.interface.name, plugged.first().clone());
                    (cage.state, cage.pace) = (State::Plugged(Box::new(plugged)), Pace::default());
                }
                Err(error) if is_unsupported(&error) => cage.state = State::Unsupported,
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    let text = format!(
                        "reading the module of {} ({}): {error}; the agent needs CAP_NET_ADMIN in the host's user namespace",
                        cage.interface.name,
                        eeprom.path()
                    );
                    return Err(Unavailable::new(ErrorReason::Denied, text));
                }
                Err(_) => {
                    modules.unplugged(&cage.interface.name);
                    cage.state = State::Empty { try_at_ns: now_ns + EMPTY_NS };
                }
            }
        }
        Ok(())
    }
}

impl Cage {
    fn new(interface: Interface) -> Self {
        let state = State::Empty { try_at_ns: 0 };
        Self { interface, state, pace: Pace::default(), declared: Declared::default(), trend: Trend::default() }
    }
}

/// The driver, or the kernel, has no way to read modules; or the interface has no driver that could.
fn is_unsupported(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EOPNOTSUPP)
}

impl Source for OpticsSource {
    fn name(&self) -> &'static str {
        "optics"
    }

    fn kernel_path(&self) -> &str {
        self.eeprom.path()
    }

    fn cadence(&self) -> CadenceRange {
        CadenceRange { min: Duration::from_secs(10), default: Duration::from_secs(30), max: Duration::from_secs(60) }
    }

    fn holds_rtnl(&self) -> bool {
        true
    }

    fn probe(&mut self, declare: &mut Declare<'_>) -> Result<(), Unavailable> {
        self.look()?;
        self.try_cages()?;
        if self.cages.iter().all(|cage| matches!(cage.state, State::Unsupported)) {
            let text = format!(
                "no network interface whose driver reads its module ({}); on a host that has such NICs, run the agent in the \
                 host's network namespace",
                self.eeprom.path()
            );
            return Err(Unavailable::new(ErrorReason::Missing, text));
        }
        for Cage { interface, state, declared, .. } in &mut self.cages {
            if let State::Plugged(plugged) = state {
                declared.declare(&interface.name, plugged.first(), declare);
            }
        }
        Ok(())
    }

    fn read(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        let Self { eeprom, cages, first, at_once_ns, modules } = self;
        let began_ns = monotonic_ns();
        let count = cages.len();
        let (begin, mut none_read) = (*first, true);
        for place in 0..count {
            let at = (begin + place) % count;
            let Cage { interface, state, pace, declared, trend } = &mut cages[at];
            let State::Plugged(plugged) = state else { continue };
            if !none_read && monotonic_ns() - began_ns > *at_once_ns {
                *first = at;
                break;
            }
            if !pace.is_due() {
                continue;
            }
            none_read = false;
            match plugged.refresh(eeprom.as_mut(), interface) {
                Ok(Refreshed { module, moment, slowest_ns }) => {
                    pace.took(slowest_ns);
                    if !declared.push(&module, moment, batch) {
                        plugged.gives(&module);
                        batch.ask_for_probe();
                    }
                    for news in trend.take(&module, moment.at_ns) {
                        batch.signal(drift(&interface.name, &news, moment));
                    }
                    modules.set(&interface.name, module);
                }
                Err(lost) => {
                    if let Lost::Failed(error) = lost {
                        batch.fault(ErrorReason::from(&error));
                    }
                    *state = State::Empty { try_at_ns: 0 };
                    batch.ask_for_probe();
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
