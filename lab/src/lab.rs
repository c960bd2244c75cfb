//! A lab as a whole: its record on disk, who holds it, and how it ends.
//!
//! In: a name, sizes, where the programs are. Out: a [`Held`] lab, or one that was left running ([`Lab::find`]). Never: a lab
//! that nobody holds and nobody asked to keep: the next `up`, `run` or `down` sweeps it away.
//!
//! Everything of a lab carries its name: the folder `/var/lib/railwatch-lab/NAME`, the network namespaces `rwlab-NAME-NODE`
//! and the cgroup `railwatch-lab-NAME`. The folder is made first and removed last, so that what is left of a lab can always
//! be found. Whoever brings one up holds a lock on it, which the kernel releases however that process ends.

use crate::{cgroup, fabric, keeper::Keeper, plan::Plan, progress::Step};
use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// Where labs keep their files.
pub const HOME: &str = "/var/lib/railwatch-lab";
/// How long a holder may take from its death to the end of its lock; another one that sweeps may be as long at it.
const HOLDERS_END: Duration = Duration::from_secs(60);
/// Longest name.
const NAME_CHARS_MAX: usize = 24;

/// Where the programs of a lab are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Programs {
    /// The project's own: railwatch-agent and so on.
    pub own: PathBuf,
    /// FRR and lldpd, unpacked: `usr/sbin` and so on are in it.
    pub routing: PathBuf,
    /// Libraries with the names of the GPU's: libcudart.so, libnccl.so.
    pub libraries: PathBuf,
}

impl Programs {
    /// One of the project's own.
    ///
    /// # Errors
    /// It was not built.
    pub fn own(&self, name: &str) -> Result<PathBuf> {
        let program = self.own.join(name);
        ensure!(program.exists(), "{} is missing: `cargo xtask lab` builds it", program.display());
        Ok(program)
    }

    /// The folders that the loader must look into for the libraries of FRR and lldpd.
    ///
    /// # Errors
    /// The packages are not there.
    pub fn routing_libraries(&self) -> Result<String> {
        let base = self.routing.join("usr/lib");
        let folders = fs::read_dir(&base)
            .with_context(|| format!("read {}: `cargo xtask lab` unpacks FRR and lldpd there", base.display()))?
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.to_string_lossy().ends_with("-linux-gnu"))
            .flat_map(|path| [path.join("frr").display().to_string(), path.display().to_string()]);
        Ok(folders.collect::<Vec<_>>().join(":"))
    }
}

/// What is written about a lab, and all that is needed to reach into it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lab {
    /// Lower-case letters and digits.
    pub name: String,
    /// `HOME/NAME`.
    pub folder: PathBuf,
    /// Somebody asked to leave it running.
    pub kept: bool,
    /// zebra keeps nexthops in the kernel: FRR 8.4 then loses one of several when a port bounces.
    pub kernel_nexthops: bool,
    /// What it consists of.
    pub plan: Plan,
    /// Where its programs are.
    pub programs: Programs,
}

impl Lab {
    /// The network namespace of a node.
    #[must_use]
    pub fn namespace(&self, node: &str) -> String {
        format!("{}{node}", namespace_prefix(&self.name))
    }

    /// The file that stands for it.
    #[must_use]
    pub fn namespace_path(&self, node: &str) -> PathBuf {
        Path::new("/run/netns").join(self.namespace(node))
    }

    /// Files of a node.
    #[must_use]
    pub fn node_folder(&self, node: &str) -> PathBuf {
        self.folder.join("nodes").join(node)
    }

    /// A log of a node's program.
    #[must_use]
    pub fn log(&self, node: &str, program: &str) -> PathBuf {
        self.node_folder(node).join(format!("{program}.log"))
    }

    /// A lab that is up.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn find(name: &str) -> Result<Self> {
        check_name(name)?;
        let file = Path::new(HOME).join(name).join("lab.json");
        let text = fs::read_to_string(&file).with_context(|| {
            format!("there is no lab {name} (`lab list` shows those there are): read {}", file.display())
        })?;
        serde_json::from_str(&text).with_context(|| format!("{} is not of this version", file.display()))
    }

    /// Writes its record anew, for a plan that has grown or shrunk.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self) -> Result<()> {
        let (file, new) = (self.folder.join("lab.json"), self.folder.join("lab.json.new"));
        fs::write(&new, serde_json::to_vec_pretty(self)?)
            .and_then(|()| fs::rename(&new, &file))
            .with_context(|| format!("write {}", file.display()))
    }
}

/// A lab that this process brings up. Dropping it takes it down, unless it was given away by [`Held::keep`].
pub struct Held {
    /// Which.
    pub lab: Lab,
    _lock: Flock<File>,
    keeper: Keeper,
}

impl Held {
    /// Claims a name, and starts the keeper, which takes the lab down should this process die.
    ///
    /// # Errors
    /// Not root; the name is taken or no name; what the system refused.
    pub fn claim(name: &str, plan: Plan, programs: Programs, kernel_nexthops: bool) -> Result<Self> {
        check_name(name)?;
        ensure!(nix::unistd::geteuid().is_root(), "a lab makes network namespaces and loads BPF: run it as root");
        cgroup::root()?;
        let folder = Path::new(HOME).join(name);
        let _one_at_a_time = home_lock()?;
        if folder.exists() {
            bail!("there is a lab {name} already: `lab down --name {name}`, or take another name");
        }
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        let lock = lock_of(&folder)?.with_context(|| format!("{} is held by another process", folder.display()))?;
        let lab = Lab { name: name.to_owned(), folder, kept: false, kernel_nexthops, plan, programs };
        lab.write()?;
        let keeper = Keeper::start(name)?;
        Ok(Self { lab, _lock: lock, keeper })
    }

    /// Leaves it running when this process ends.
    ///
    /// # Errors
    /// Its record cannot be written.
    pub fn keep(mut self) -> Result<Lab> {
        self.lab.kept = true;
        self.lab.write()?;
        self.keeper.dismiss();
        Ok(self.lab.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.lab.kept {
            return;
        }
        let step = Step::begin(format!("take lab {} down", self.lab.name));
        match end(&self.lab.name) {
            Ok(()) => step.done(),
            Err(error) => eprintln!("lab: {error:#}; `lab down --name {}` tries again", self.lab.name),
        }
        self.keeper.dismiss();
    }
}

pub(crate) fn namespace_prefix(name: &str) -> String {
    format!("rwlab-{name}-")
}

fn check_name(name: &str) -> Result<()> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    ensure!(
        (1..=NAME_CHARS_MAX).contains(&name.len()) && name.chars().all(good),
        "`{name}` is no name of a lab: 1 to {NAME_CHARS_MAX} lower-case letters and digits"
    );
    Ok(())
}

fn home_lock() -> Result<Flock<File>> {
    fs::create_dir_all(HOME).with_context(|| format!("make {HOME}"))?;
    let file = File::create(Path::new(HOME).join(".lock")).with_context(|| format!("make {HOME}/.lock"))?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error).context("lock the labs")
}

/// The lock on a lab's folder; `None` while somebody else has it.
fn lock_of(folder: &Path) -> Result<Option<Flock<File>>> {
    let file = match File::create(folder.join("held")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.with_context(|| format!("make {}/held", folder.display()))?,
    };
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, error)) => Err(error).with_context(|| format!("lock {}", folder.display())),
    }
}

/// As [`lock_of`], while nobody looks at the labs.
fn lock_alone(folder: &Path) -> Result<Option<Flock<File>>> {
    let _one_at_a_time = home_lock()?;
    lock_of(folder)
}

/// How a lab stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// Left running by `up`.
    Kept,
    /// A process brings it up or runs a scenario on it.
    Held,
    /// Its process died: the next command sweeps it.
    Abandoned,
}

/// All labs on this machine.
///
/// # Errors
/// Their folder cannot be read.
pub fn all() -> Result<Vec<(String, Standing)>> {
    let _one_at_a_time = home_lock()?;
    standings()
}

/// Whoever calls this has locked the labs: it looks at each by trying its lock, which must not be taken for a holder's.
fn standings() -> Result<Vec<(String, Standing)>> {
    let mut found = Vec::new();
    let entries = match fs::read_dir(HOME) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        other => other.with_context(|| format!("read {HOME}"))?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if check_name(&name).is_err() || !entry.file_type()?.is_dir() {
            continue;
        }
        let standing = if lock_of(&entry.path())?.is_none() {
            Standing::Held
        } else if Lab::find(&name).is_ok_and(|lab| lab.kept) {
            Standing::Kept
        } else {
            Standing::Abandoned
        };
        found.push((name, standing));
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

/// Takes down what died before it could do so itself.
///
/// # Errors
/// Something of it does not go.
pub fn sweep() -> Result<()> {
    let _one_at_a_time = home_lock()?;
    for (name, standing) in standings()? {
        if standing == Standing::Abandoned {
            let step = Step::begin(format!("sweep lab {name}, whose process died"));
            end(&name)?;
            step.done();
        }
    }
    Ok(())
}

/// Takes a lab down that no process holds.
///
/// # Errors
/// A process holds it; something of it does not go.
pub fn down(name: &str) -> Result<()> {
    check_name(name)?;
    let folder = Path::new(HOME).join(name);
    ensure!(folder.exists(), "there is no lab {name}: `lab list` shows those there are");
    let Some(_lock) = lock_alone(&folder)? else {
        bail!("lab {name} is held by a process that brings it up or runs a scenario: end that with Ctrl-C");
    };
    let step = Step::begin(format!("take lab {name} down"));
    end(name)?;
    step.done();
    Ok(())
}

/// As [`down`], of a lab whose holder has just died. Nothing to do where somebody else was faster.
///
/// # Errors
/// Something of it does not go, or the holder neither dies nor lets go.
pub fn down_abandoned(name: &str) -> Result<()> {
    check_name(name)?;
    let folder = Path::new(HOME).join(name);
    let give_up = Instant::now() + HOLDERS_END;
    loop {
        if let Some(_lock) = lock_alone(&folder)? {
            return if Lab::find(name).map_or(true, |lab| !lab.kept) { end(name) } else { Ok(()) };
        }
        if !folder.exists() {
            return Ok(());
        }
        // A process that dies closes its pipes and its locks in no certain order.
        ensure!(Instant::now() < give_up, "lab {name} is held by another process");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Ends all processes, removes namespaces (and with them links, qdiscs and BPF programs), then the folder.
fn end(name: &str) -> Result<()> {
    cgroup::remove(name)?;
    fabric::remove_namespaces(&namespace_prefix(name))?;
    let folder = Path::new(HOME).join(name);
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_reach_into_another_lab() {
        for (name, good) in [
            ("lab", true),
            ("run4711", true),
            ("", false),
            ("a-leaf0", false),
            ("..", false),
            ("A", false),
            ("a/b", false),
        ] {
            assert_eq!(check_name(name).is_ok(), good, "{name}");
        }
        assert!(check_name(&"a".repeat(25)).is_err());
    }
}
