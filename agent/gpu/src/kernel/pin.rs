//! What outlives the agent: maps and links with a name in a BPF file system.
//!
//! In: a folder, and the identity of object, table of symbols, ABI and configuration. Out: what an agent of the same
//! identity left there. State of another identity under the same scope is dropped: its links detach, and the
//! processes it followed are found anew and marked. Never: adopting half of it.

use std::collections::HashMap;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use railwatch_abi::ABI_VERSION;
use railwatch_abi::maps::Config;

use super::object::{BASIS, bytes_of, fnv};
use super::sys;
use crate::symbols::TABLE;

/// What must be alike for pinned state to be adopted: (scope, everything else).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    scope: u64,
    build: u64,
}

/// The identity of this build under this configuration.
pub fn identity(config: &Config, object: u64) -> Identity {
    let scope = fnv(fnv(BASIS, &config.scope_cgroup.to_le_bytes()), &config.scope_netns.to_le_bytes());
    let table = TABLE.iter().fold(object, |hash, symbol| fnv(hash, symbol.name.as_bytes()));
    Identity { scope, build: fnv(table, bytes_of(config)) }
}

/// The folder.
pub struct Pins {
    folder: PathBuf,
    adopted: bool,
}

impl Pins {
    /// Opens it, mounting the BPF file system if need be. The error says why it cannot be used and what to do.
    pub fn open(root: &Path, identity: Identity) -> Result<Self, String> {
        mount_if_missing(root);
        let scope = root.join(format!("{:016x}", identity.scope));
        let own = format!("v{ABI_VERSION}_{:016x}", identity.build);
        let folder = scope.join(&own);
        std::fs::create_dir_all(&folder).map_err(|error| format!("creating {}: {error}", folder.display()))?;
        if !is_bpf_file_system(&folder) {
            let _ = std::fs::remove_dir(&folder);
            return Err(format!(
                "{} is not in a BPF file system; mount one there with `mount -t bpf bpf {}`",
                folder.display(),
                root.display()
            ));
        }
        for other in std::fs::read_dir(&scope).into_iter().flatten().flatten() {
            if other.file_name() != own.as_str() {
                clear(&other.path());
                let _ = std::fs::remove_dir(other.path());
            }
        }
        Ok(Self { folder, adopted: false })
    }

    /// The maps that an agent before left, all or none.
    pub fn maps(&mut self, names: &[String]) -> HashMap<String, OwnedFd> {
        let found: HashMap<_, _> = names
            .iter()
            .filter_map(|name| Some((name.clone(), sys::open_pinned(&self.path(&map_name(name))?).ok()?)))
            .collect();
        self.adopted = found.len() == names.len();
        if self.adopted {
            found
        } else {
            clear(&self.folder);
            HashMap::new()
        }
    }

    /// Whether they were all there.
    pub fn adopted(&self) -> bool {
        self.adopted
    }

    /// Keeps the maps.
    pub fn keep_maps(&self, maps: &HashMap<String, OwnedFd>, names: &[String]) -> Result<(), String> {
        for name in names {
            let (Some(map), Some(path)) = (maps.get(name), self.path(&map_name(name))) else { continue };
            if let Err(error) = sys::pin(map.as_fd(), &path) {
                clear(&self.folder);
                return Err(format!("keeping the map {name} in {}: {error}", self.folder.display()));
            }
        }
        Ok(())
    }

    /// Keeps a link. Failing means that it ends with the agent, which then finds its object anew and marks it.
    pub fn keep_link(&self, link: BorrowedFd<'_>, name: &str) {
        if let Some(path) = self.path(name)
            && let Err(error) = sys::pin(link, &path)
        {
            tracing::warn!(%error, name, "a probe will not survive a restart of the agent");
        }
    }

    /// Whether a link of this name is kept.
    pub fn has_link(&self, name: &str) -> bool {
        self.folder.join(name).exists()
    }

    /// Names of the kept links that begin with `prefix`.
    pub fn links_of(&self, prefix: &str) -> Vec<String> {
        std::fs::read_dir(&self.folder)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('_')))
            .collect()
    }

    /// Drops a kept link, which detaches it.
    pub fn drop_link(&self, name: &str) {
        let _ = std::fs::remove_file(self.folder.join(name));
    }

    fn path(&self, name: &str) -> Option<CString> {
        CString::new(self.folder.join(name).as_os_str().as_bytes()).ok()
    }
}

fn map_name(name: &str) -> String {
    format!("m{name}")
}

fn clear(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let _ = std::fs::remove_file(entry.path());
    }
}

fn is_bpf_file_system(path: &Path) -> bool {
    const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return false };
    // SAFETY: a zeroed statfs is a value of it; the call fills it or fails.
    let (done, about) = unsafe {
        let mut about: libc::statfs = std::mem::zeroed();
        (libc::statfs(path.as_ptr(), &mut about), about)
    };
    done == 0 && about.f_type & 0xffff_ffff == BPF_FS_MAGIC
}

/// Mounts the BPF file system at its usual place, where the folder is to lie there and nothing is mounted.
fn mount_if_missing(root: &Path) {
    const USUAL: &str = "/sys/fs/bpf";
    if !root.starts_with(USUAL) || is_bpf_file_system(Path::new(USUAL)) {
        return;
    }
    // SAFETY: constant strings. Not being allowed to is found out by `open`, which says what to do.
    unsafe {
        libc::mount(c"bpf".as_ptr(), c"/sys/fs/bpf".as_ptr(), c"bpf".as_ptr(), 0, std::ptr::null());
    }
}
