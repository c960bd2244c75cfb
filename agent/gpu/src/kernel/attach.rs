//! Attaching to the functions of a file, and detaching.
//!
//! In: a path, symbols and their file offsets. Out: links, kept here or pinned; what failed, per symbol.
//!
//! From kernel 6.6 one link takes all entries of a file and one all returns; before, each point is a perf event of
//! its own. Returns are attached before entries: an entry whose return is not seen would stay pending. No pid filter
//! is given (it was broken before 6.6.35 and 6.9.5); the kernel half looks at the process itself.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use railwatch_abi::args::Arch;

use super::object::{BASIS, Parsed, fnv};
use super::{LoadError, pin, sys};
use crate::symbols::SymbolId;

/// Names an attachment for as long as the [`super::Kernel`] lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AttachmentId(pub u64);

/// How points are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// One perf event per point.
    PerfEvent,
    /// One link for many points (kernel 6.6).
    Multi,
}

/// What an attach did.
#[derive(Debug)]
pub struct Attached {
    /// For [`super::Kernel::detach`].
    pub id: AttachmentId,
    /// Functions that are traced now.
    pub points: usize,
    /// The links were pinned by an agent before: nothing was missed in between.
    pub already: bool,
    /// How.
    pub method: Method,
    /// Functions that are not, and why.
    pub failures: Vec<(SymbolId, io::Error)>,
}

/// Why nothing of a file could be attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The file cannot be looked at.
    #[error("attaching to {}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Errno.
        source: io::Error,
    },
    /// No symbol of the table was named.
    #[error("attaching to {}: no traced function was named", path.display())]
    Nothing {
        /// Which.
        path: PathBuf,
    },
    /// Every point failed; the first error.
    #[error("attaching to {}: all {points} functions failed, the first with: {source}", path.display())]
    AllFailed {
        /// Which.
        path: PathBuf,
        /// How many.
        points: usize,
        /// Errno.
        source: io::Error,
    },
    /// The programs could not be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
}

/// Entry and return program, loaded for one method.
struct Programs {
    entered: OwnedFd,
    returned: OwnedFd,
}

struct Attachment {
    // Held for their effect: closing an unpinned link detaches it.
    _links: Vec<OwnedFd>,
    names: Vec<String>,
}

/// One function to trace.
#[derive(Clone, Copy)]
struct Point {
    symbol: SymbolId,
    offset: u64,
    cookie: u64,
}

/// All attachments.
pub struct Attacher {
    wanted: Option<Method>,
    perf: Option<Programs>,
    multi: Option<Programs>,
    /// The kernel turned out to lack uprobe_multi.
    no_multi: bool,
    pmu: Option<u32>,
    next: u64,
    attachments: BTreeMap<AttachmentId, Attachment>,
}

impl Attacher {
    pub fn new(wanted: Option<Method>) -> Self {
        Self {
            wanted,
            perf: None,
            multi: None,
            no_multi: wanted.is_none() && !release_has_multi(),
            pmu: None,
            next: 1,
            attachments: BTreeMap::new(),
        }
    }

    /// Loads the programs that attaching will want first, so that the first attach does not wait for the verifier.
    pub fn prepare(&mut self, parsed: &Parsed) -> Result<(), LoadError> {
        if self.wanted == Some(Method::PerfEvent) || self.no_multi {
            programs(&mut self.perf, parsed, 0).map(drop)
        } else {
            programs(&mut self.multi, parsed, sys::ATTACH_UPROBE_MULTI).map(drop)
        }
    }

    pub fn attach(
        &mut self,
        parsed: &Parsed,
        pins: Option<&pin::Pins>,
        path: &Path,
        points: &[(SymbolId, u64)],
    ) -> Result<Attached, AttachError> {
        let file = |source| AttachError::File { path: path.to_owned(), source };
        let points = resolve(points);
        if points.is_empty() {
            return Err(AttachError::Nothing { path: path.to_owned() });
        }
        let c_path = CString::new(path.as_os_str().as_bytes()).map_err(|error| file(error.into()))?;
        let about = std::fs::metadata(path).map_err(file)?;
        let prefix = format!("u{:x}_{:x}_{:016x}", about.dev(), about.ino(), fingerprint(&points));
        let id = AttachmentId(self.next);

        if let Some(names) = pins.map(|pins| pins.links_of(&prefix)).filter(|names| !names.is_empty()) {
            self.next += 1;
            self.attachments.insert(id, Attachment { _links: Vec::new(), names });
            let method = if self.no_multi { Method::PerfEvent } else { Method::Multi };
            return Ok(Attached { id, points: points.len(), already: true, method, failures: Vec::new() });
        }

        let mut links = Vec::new();
        let mut failures = Vec::new();
        let mut method = Method::Multi;
        // What balances rest on comes first.
        let (first, second): (Vec<_>, Vec<_>) =
            points.iter().partition(|point| point.symbol.get().is_some_and(|symbol| symbol.keeps_balance()));
        for group in [first, second] {
            if group.is_empty() {
                continue;
            }
            if self.wanted != Some(Method::PerfEvent) && !self.no_multi {
                match self.attach_multi(parsed, &c_path, &group) {
                    Ok(pair) => {
                        links.extend(pair);
                        continue;
                    }
                    Err(AttachError::Load(error)) => return Err(error.into()),
                    // One bad offset fails them all: singly, only that one fails.
                    Err(_) => {}
                }
            }
            method = Method::PerfEvent;
            self.attach_singly(parsed, &c_path, &group, &mut links, &mut failures)?;
        }
        if links.is_empty() {
            let source = failures.into_iter().next().map_or_else(|| io::Error::other("no reason given"), |f| f.1);
            return Err(AttachError::AllFailed { path: path.to_owned(), points: points.len(), source });
        }
        let mut names = Vec::new();
        if let Some(pins) = pins {
            for (index, link) in links.iter().enumerate() {
                let name = format!("{prefix}_{index}");
                pins.keep_link(link.as_fd(), &name);
                names.push(name);
            }
        }
        self.next += 1;
        self.attachments.insert(id, Attachment { _links: links, names });
        Ok(Attached { id, points: points.len() - failures.len(), already: false, method, failures })
    }

    fn attach_multi(&mut self, parsed: &Parsed, path: &CString, points: &[Point]) -> Result<[OwnedFd; 2], AttachError> {
        let programs = programs(&mut self.multi, parsed, sys::ATTACH_UPROBE_MULTI)?;
        let offsets: Vec<_> = points.iter().map(|point| point.offset).collect();
        let cookies: Vec<_> = points.iter().map(|point| point.cookie).collect();
        let link = |program: &OwnedFd, returns| {
            sys::uprobe_multi(program.as_fd(), path, &offsets, &cookies, returns).map_err(|source| {
                AttachError::AllFailed {
                    path: PathBuf::from(path.to_string_lossy().into_owned()),
                    points: points.len(),
                    source,
                }
            })
        };
        let returns = link(&programs.returned, true)?;
        Ok([returns, link(&programs.entered, false)?])
    }

    fn attach_singly(
        &mut self,
        parsed: &Parsed,
        path: &CString,
        points: &[Point],
        links: &mut Vec<OwnedFd>,
        failures: &mut Vec<(SymbolId, io::Error)>,
    ) -> Result<(), AttachError> {
        let pmu = match self.pmu {
            Some(pmu) => pmu,
            None => *self
                .pmu
                .insert(uprobe_pmu().map_err(|source| AttachError::File { path: PathBuf::from(UPROBE_PMU), source })?),
        };
        let programs = programs(&mut self.perf, parsed, 0)?;
        for point in points {
            let link = |program: &OwnedFd, returns| {
                sys::uprobe_perf(program.as_fd(), pmu, path, point.offset, point.cookie, returns)
            };
            match link(&programs.returned, true).and_then(|at| Ok([at, link(&programs.entered, false)?])) {
                Ok(pair) => links.extend(pair),
                Err(error) => failures.push((point.symbol, error)),
            }
        }
        Ok(())
    }

    pub fn detach(&mut self, id: AttachmentId, pins: Option<&pin::Pins>) -> bool {
        let Some(gone) = self.attachments.remove(&id) else { return false };
        if let Some(pins) = pins {
            for name in &gone.names {
                pins.drop_link(name);
            }
        }
        true
    }
}

fn programs<'a>(slot: &'a mut Option<Programs>, parsed: &Parsed, attach_type: u32) -> Result<&'a Programs, LoadError> {
    Ok(match slot {
        Some(programs) => programs,
        None => slot.insert(Programs {
            entered: parsed.load("entered", attach_type)?,
            returned: parsed.load("returned", attach_type)?,
        }),
    })
}

/// Cookies for the points; of several names for one offset, the first of the table stands for all.
fn resolve(points: &[(SymbolId, u64)]) -> Vec<Point> {
    let mut sorted = points.to_vec();
    sorted.sort_unstable();
    let mut taken = BTreeSet::new();
    sorted
        .into_iter()
        .filter_map(|(id, offset)| {
            let symbol = id.get()?;
            taken.insert(offset).then(|| Point { symbol: id, offset, cookie: symbol.cookie(id, Arch::HOST).0 })
        })
        .collect()
}

fn fingerprint(points: &[Point]) -> u64 {
    points.iter().fold(BASIS, |hash, point| fnv(fnv(hash, &point.offset.to_le_bytes()), &point.cookie.to_le_bytes()))
}

const UPROBE_PMU: &str = "/sys/bus/event_source/devices/uprobe/type";

fn uprobe_pmu() -> io::Result<u32> {
    std::fs::read_to_string(UPROBE_PMU)?.trim().parse().map_err(io::Error::other)
}

/// uprobe_multi came with 6.6.
fn release_has_multi() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 6)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::symbols::by_name;

    #[test]
    fn two_names_of_one_function_are_one_point() {
        let id = |name| by_name(name).expect("in the table").0;
        let points = [(id("cudaMallocAsync"), 64), (id("cudaMalloc"), 64), (id("cudaFree"), 128)];
        let resolved: Vec<_> = resolve(&points).iter().map(|point| (point.symbol, point.offset)).collect();
        assert_eq!(resolved, [(id("cudaMalloc"), 64), (id("cudaFree"), 128)]);
    }
}
