//! One agent per scope and pin directory: a second one would take the first one's events and sweep its books.
//!
//! In: the pin directory and the scope. Out: a lock that lasts as long as the process, kill -9 included. It is a lock on
//! a folder of the bpffs, because that is what agents of different containers share.

use railwatch_gpu::scope::Scope;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::Path;

/// Holds the pins of one scope.
pub struct Claim(Option<File>);

impl Claim {
    /// Claims the pins; `None` where another agent has them. A directory that cannot be made is no conflict: pinning
    /// will fail there too, and say why.
    pub fn take(pin_dir: &Path, scope: &Scope) -> Option<Self> {
        match lock(pin_dir, scope) {
            Ok(file) => Some(Self(Some(file))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => {
                tracing::debug!(%error, dir = %pin_dir.display(), "the pin directory was not claimed");
                Some(Self(None))
            }
        }
    }

    /// Whether there was a directory to claim.
    pub fn is_held(&self) -> bool {
        self.0.is_some()
    }
}

fn lock(pin_dir: &Path, scope: &Scope) -> io::Result<File> {
    let mut hasher = DefaultHasher::new();
    format!("{scope:?}").hash(&mut hasher);
    let folder = pin_dir.join(format!("claim_{:016x}", hasher.finish()));
    fs::create_dir_all(&folder)?;
    let file = File::open(&folder)?;
    file.try_lock().map_err(io::Error::from)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_scope_has_one_owner_and_others_stand_beside_it() {
        let home = tempfile::tempdir().expect("temporary directory");
        let first = Claim::take(home.path(), &Scope::Host).expect("nobody has it");
        assert!(Claim::take(home.path(), &Scope::Host).is_none(), "taken");
        assert!(Claim::take(home.path(), &Scope::NetworkNamespace { inode: 7 }).is_some(), "another scope");
        drop(first);
        assert!(Claim::take(home.path(), &Scope::Host).is_some(), "free again");
    }
}
