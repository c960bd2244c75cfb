//! Opens the very file that a process has mapped, and names it so that one inode is one object.
//!
//! In: a process and one of its mappings, or a path of the host. Out: an open regular file and its [`Identity`]. A file
//! is first opened without side effects (`O_PATH`), and read only once it is known to be a regular file: opening a
//! device can do anything.
//!
//! Paths mean little: containers see their own, several paths lead to one inode, and a library that was replaced on disk
//! is still mapped by those who loaded it before. /proc/PID/map_files leads to what is mapped, deleted or not.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use super::procfs::{self, Mapping};

/// What makes a file the same object: the same code in the same inode, so that a probe on one is a probe on the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// Device of the file system that holds the inode. `None` for a file of an overlay whose layer could not be reached:
    /// then the rest stands for it.
    pub device: Option<u64>,
    /// Inode number.
    pub inode: u64,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Last change of the content, nanoseconds since 1970. (The last change of the inode would also move when a link is
    /// made or rights change, which leaves the code as it was. A reused inode number needs no telling apart: a probe
    /// holds its inode.)
    pub modified_unix_ns: i128,
}

/// An object, open for reading.
#[derive(Debug)]
pub struct Opened {
    /// The file.
    pub file: File,
    /// Which object it is.
    pub identity: Identity,
}

/// Why a mapped file could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The process ended, or gave up the mapping.
    #[error("the mapping is gone")]
    Gone,
    /// Not a file that holds code, such as a device.
    #[error("it is not a regular file")]
    NotRegular,
    /// Another file has taken its path, and what is mapped cannot be reached without a capability.
    #[error(
        "it was replaced or deleted on disk after it was loaded, and opening what is mapped was refused ({0}); \
         the agent needs CAP_CHECKPOINT_RESTORE (or CAP_SYS_ADMIN) and CAP_SYS_PTRACE for it"
    )]
    Replaced(io::Error),
    /// Opening or looking at it failed.
    #[error("opening it failed: {0}")]
    Failed(io::Error),
}

const OVERLAYFS_MAGIC: i64 = 0x794c_7630;
const BTRFS_MAGIC: i64 = 0x9123_683e;

impl Opened {
    /// Opens what process `pid` has mapped.
    pub fn mapped(pid: u32, mapping: &Mapping) -> Result<Self, OpenError> {
        let exact = format!("/proc/{pid}/map_files/{:x}-{:x}", mapping.start, mapping.end);
        let refused = match Self::path_only(Path::new(&exact)) {
            Ok(file) => return Self::readable(&file, pid),
            Err(error) => error,
        };
        let process = Path::new("/proc").join(pid.to_string());
        let below = Path::new(OsStr::from_bytes(mapping.path.strip_prefix(b"/").unwrap_or(&mapping.path)));
        // A report names the path as the process sees it; /proc/PID/maps names it as the reader does.
        for root in [&process.join("root"), Path::new("/")] {
            let file = match Self::path_only(&root.join(below)) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(OpenError::Failed(error)),
            };
            let metadata = file.metadata().map_err(OpenError::Failed)?;
            let device = libc::makedev(mapping.file.major, mapping.file.minor);
            // Overlay and btrfs show one device in a mapping and another in stat(2).
            let same_device = metadata.dev() == device || matches!(file_system(&file), OVERLAYFS_MAGIC | BTRFS_MAGIC);
            if metadata.ino() == mapping.file.inode && same_device {
                return Self::readable(&file, pid);
            }
        }
        if refused.kind() == io::ErrorKind::NotFound || !process.exists() {
            return Err(OpenError::Gone);
        }
        Err(OpenError::Replaced(refused))
    }

    /// Opens a file of the host by its path.
    pub fn at(path: &Path) -> Result<Self, OpenError> {
        let file = Self::path_only(path).map_err(OpenError::Failed)?;
        Self::readable(&file, std::process::id())
    }

    /// A path that leads to exactly this file for as long as it is open, whatever happens to its names.
    #[must_use]
    pub fn fd_path(&self) -> PathBuf {
        fd_path(&self.file)
    }

    fn path_only(path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path)
    }

    fn readable(path_only: &File, pid: u32) -> Result<Self, OpenError> {
        if !path_only.metadata().map_err(OpenError::Failed)?.is_file() {
            return Err(OpenError::NotRegular);
        }
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(fd_path(path_only))
            .map_err(OpenError::Failed)?;
        let metadata = file.metadata().map_err(OpenError::Failed)?;
        let mut identity = Identity {
            device: Some(metadata.dev()),
            inode: metadata.ino(),
            size_bytes: metadata.len(),
            modified_unix_ns: i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec()),
        };
        if file_system(&file) == OVERLAYFS_MAGIC {
            // Every overlay gives the inode beneath a device of its own, so two containers of one image would look like
            // two objects, and a call would be counted once for each.
            match layer_file(&file, pid, &metadata, LAYERS_DEEP_MAX)? {
                Some((device, inode)) => (identity.device, identity.inode) = (Some(device), inode),
                // The upper half of an overlay's inode number may hold the number of the layer (xino).
                None => (identity.device, identity.inode) = (None, identity.inode & 0xffff_ffff),
            }
        }
        Ok(Self { file, identity })
    }
}

fn fd_path(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

fn file_system(file: &File) -> i64 {
    let mut answer = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the descriptor is open and `answer` is room for one statfs, which is read only after the call succeeded.
    unsafe {
        if libc::fstatfs(file.as_raw_fd(), answer.as_mut_ptr()) != 0 {
            return 0;
        }
        answer.assume_init().f_type
    }
}

/// Overlays on overlays that are followed down; the kernel allows two.
const LAYERS_DEEP_MAX: u8 = 2;
/// Layers of one overlay that are looked at; the kernel allows 500.
const LAYERS_MAX: usize = 512;

/// Finds the file of the layer beneath a file of an overlay: the device and inode that the kernel probes. `None` where
/// the layers cannot be reached from here.
fn layer_file(file: &File, pid: u32, seen: &Metadata, deep: u8) -> Result<Option<(u64, u64)>, OpenError> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).map_err(OpenError::Failed)?;
    let mount_id = info.lines().find_map(|line| line.strip_prefix("mnt_id:")).unwrap_or_default().trim();
    let mount = [&*pid.to_string(), "self", "1"].iter().find_map(|of| {
        let mounts = fs::read_to_string(format!("/proc/{of}/mountinfo")).ok()?;
        mounts.lines().find_map(|line| (line.split(' ').next() == Some(mount_id)).then(|| line.to_owned()))
    });
    let Some(mount) = mount else {
        // With the process its mounts are gone. To go on would make a second object of a file that may be known already.
        return if procfs::is_alive(pid) { Ok(None) } else { Err(OpenError::Gone) };
    };
    let path = fs::read_link(fd_path(file)).map_err(OpenError::Failed)?;
    let Some((within, layers)) = overlay_layers(&mount, &path) else { return Ok(None) };
    let roots = [Path::new("/").to_owned(), "/proc/1/root".into(), format!("/proc/{pid}/root").into()];
    for layer in layers.iter().take(LAYERS_MAX) {
        for (root, relative) in roots.iter().flat_map(|root| within.iter().map(move |relative| (root, relative))) {
            let candidate = root.join(layer.strip_prefix("/").unwrap_or(layer)).join(relative);
            let Ok(candidate) = Opened::path_only(&candidate) else { continue };
            let Ok(metadata) = candidate.metadata() else { continue };
            let changed = |of: &Metadata| (of.len(), of.ctime(), of.ctime_nsec());
            let same_number = metadata.ino() & 0xffff_ffff == seen.ino() & 0xffff_ffff;
            if !same_number || changed(&metadata) != changed(seen) {
                continue;
            }
            if file_system(&candidate) != OVERLAYFS_MAGIC {
                return Ok(Some((metadata.dev(), metadata.ino())));
            }
            return match deep.checked_sub(1) {
                Some(deep) => layer_file(&candidate, pid, &metadata, deep),
                None => Ok(None),
            };
        }
    }
    Ok(None)
}

/// Leading parts of a path that may belong to another root.
const PREFIX_PARTS_MAX: usize = 8;

/// Of a line of /proc/PID/mountinfo: where a path of an overlay may lie within each layer, and the layers, the uppermost
/// first. `None` for another file system.
fn overlay_layers(line: &str, path: &Path) -> Option<(Vec<PathBuf>, Vec<PathBuf>)> {
    let (mount, super_block) = line.split_once(" - ")?;
    let mut super_block = super_block.split(' ');
    if super_block.next()? != "overlay" {
        return None;
    }
    let mut mount = mount.split(' ').skip(3).map(|field| field.replace("\\040", " "));
    // A bind mount shows a part of the overlay: its root.
    let (root, mount_point) = (mount.next()?, mount.next()?);
    // A path of another mount namespace, or of a root other than the reader's, may have more in front.
    let parts: Vec<Component<'_>> = path.components().skip(1).collect();
    let within = (0..parts.len().min(PREFIX_PARTS_MAX)).filter_map(|skipped| {
        let tail = Path::new("/").join(parts[skipped..].iter().collect::<PathBuf>());
        let relative = Path::new(root.trim_start_matches('/')).join(tail.strip_prefix(&mount_point).ok()?);
        relative.components().all(|part| matches!(part, Component::Normal(_))).then_some(relative)
    });
    let within: Vec<PathBuf> = within.collect();
    let mut layers = VecDeque::new();
    let mut upper = None;
    for option in super_block.nth(1)?.split(',') {
        let option = option.replace("\\040", " ");
        if let Some(dirs) = option.strip_prefix("lowerdir=") {
            layers.extend(dirs.split(':').filter(|dir| !dir.is_empty()).map(PathBuf::from));
        } else if let Some(dir) = option.strip_prefix("lowerdir+=") {
            layers.push_back(PathBuf::from(dir));
        } else if let Some(dir) = option.strip_prefix("upperdir=") {
            upper = Some(PathBuf::from(dir));
        }
    }
    // Docker mounts with paths relative to its own folder, which holds the upper layer as well.
    if let Some(upper) = &upper {
        let relative: Vec<PathBuf> = layers.iter().filter(|layer| layer.is_relative()).cloned().collect();
        layers.retain(|layer| layer.is_absolute());
        for layer in relative {
            layers.extend(upper.ancestors().skip(1).take(3).map(|folder| folder.join(&layer)));
        }
    }
    layers.extend(upper.clone());
    layers.rotate_right(usize::from(upper.is_some()));
    Some((within, layers.into()))
}

/// The mapping of a file in a process as it is now: a loader splits and moves what it mapped first.
pub fn current_mapping(pid: u32, file: super::records::FileId) -> Option<Mapping> {
    procfs::executable_mappings(pid).ok()?.into_iter().find(|mapping| mapping.file == file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_of_an_overlay_are_read_in_order() {
        let paths = |list: &[&str]| list.iter().map(PathBuf::from).collect::<Vec<_>>();
        let cases = [
            (
                "40 30 0:45 / /run/m rw - overlay overlay rw,lowerdir=/a:/b,upperdir=/u,workdir=/w",
                "/run/m/lib/x.so",
                Some((paths(&["lib/x.so"]), paths(&["/u", "/a", "/b"]))),
            ),
            (
                "40 30 0:45 / / rw,relatime shared:1 - overlay overlay rw,lowerdir=l/X:l/Y,upperdir=/d/o/id/diff",
                "/lib/x.so",
                Some((
                    paths(&["lib/x.so", "x.so"]),
                    paths(&["/d/o/id/diff", "/d/o/id/l/X", "/d/o/l/X", "/d/l/X", "/d/o/id/l/Y", "/d/o/l/Y", "/d/l/Y"]),
                )),
            ),
            (
                "40 30 0:45 /lib/x.so /opt/bound.so ro - overlay none ro,lowerdir+=/a,lowerdir+=/b",
                "/opt/bound.so",
                Some((paths(&["lib/x.so"]), paths(&["/a", "/b"]))),
            ),
            (
                "40 30 0:45 / /m ro - overlay none ro,lowerdir=/a",
                "/other/root/m/x.so",
                Some((paths(&["x.so"]), paths(&["/a"]))),
            ),
            ("40 30 0:45 / /m ro - overlay none ro,lowerdir=/a", "/m/../x.so", Some((vec![], paths(&["/a"])))),
            ("40 30 8:1 / / rw - ext4 /dev/sda1 rw", "/x.so", None),
            ("", "/x.so", None),
        ];
        for (line, path, expected) in cases {
            assert_eq!(overlay_layers(line, Path::new(path)), expected, "{line}");
        }
    }

    #[test]
    fn a_device_is_not_opened() {
        assert!(matches!(Opened::at(Path::new("/dev/null")), Err(OpenError::NotRegular)));
    }
}
