//! Links of a tree that is not the running kernel's: read whole once, and again where a file says that something changed.
//!
//! In: `class/net/*/{flags,carrier,operstate,carrier_up_count,carrier_down_count}`, kept open. Out: all interfaces as
//! [`from_sysfs`] gives them. Five reads an interface, where all files of it opened and read are several times as dear.
//! Never: a link older than those five.

use crate::link::Link;
use crate::netdev_choice::from_sysfs;
use crate::sysfs;
use railwatch_sampling::Unavailable;
use railwatch_sampling::files::KeptFile;
use std::path::Path;

/// What moves when a link does (Documentation/ABI/testing/sysfs-class-net).
const TELLING: [&str; 5] = ["flags", "carrier", "operstate", "carrier_up_count", "carrier_down_count"];

/// The links, and the files that tell of their changes.
#[derive(Default)]
pub(crate) struct SysfsLinks {
    names: Vec<String>,
    files: Vec<Option<KeptFile>>,
    told: Vec<u8>,
    links: Vec<Link>,
}

impl SysfsLinks {
    /// All interfaces, as they are now.
    pub(crate) fn links(&mut self, root: &Path) -> Result<&[Link], Unavailable> {
        let names = sysfs::names(root.join("class/net")).unwrap_or_default();
        let is_replaced = || self.files.iter().flatten().any(KeptFile::is_unlinked);
        if names != self.names || names.is_empty() || is_replaced() {
            let open = |(name, file)| KeptFile::open(&sysfs::device_path(root, "net", name).join(file)).ok();
            let all = names.iter().flat_map(|name| TELLING.map(|file| (name.as_str(), file)));
            self.files = all.map(open).collect();
            (self.names, self.told) = (names, Vec::new());
        }
        // Before the whole is read: what changes meanwhile shows at the next look.
        let told = self.tell();
        if self.told.is_empty() || told != self.told {
            self.links = from_sysfs(root)?;
            self.told = told;
        }
        Ok(&self.links)
    }

    /// What the files say; a file that cannot be read (`carrier`, while an interface is off) says that.
    fn tell(&self) -> Vec<u8> {
        let mut told = Vec::with_capacity(self.told.len().max(16));
        for file in &self.files {
            match file.as_ref().map(|file| file.attribute(&mut [0; 64]).map(|text| told.extend_from_slice(text))) {
                Some(Ok(())) => told.push(0),
                Some(Err(_)) => told.push(1),
                None => told.push(2),
            }
        }
        told
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;

    #[test]
    fn a_link_is_read_again_when_one_of_its_files_says_another_thing_and_not_before() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("class/net/eth0");
        std::fs::create_dir_all(&folder).unwrap();
        let write = |file: &str, text: &str| std::fs::write(folder.join(file), text).unwrap();
        for (file, text) in
            [("ifindex", "2"), ("type", "1"), ("flags", "0x1003"), ("carrier", "1"), ("carrier_down_count", "0")]
        {
            write(file, text);
        }
        let mut links = SysfsLinks::default();
        let seen = |links: &mut SysfsLinks| {
            let found = links.links(root.path()).unwrap();
            found.iter().map(|link| (link.name.clone(), link.is_up(), link.carrier_down_count)).collect::<Vec<_>>()
        };
        assert_eq!(seen(&mut links), [("eth0".to_owned(), true, 0)]);
        // Replaced by another file, not written over.
        let beside = root.path().join("new");
        std::fs::write(&beside, "1").unwrap();
        std::fs::rename(&beside, folder.join("carrier_down_count")).unwrap();
        assert_eq!(seen(&mut links), [("eth0".to_owned(), true, 1)]);
        write("carrier_down_count", "0");
        assert_eq!(seen(&mut links), [("eth0".to_owned(), true, 0)]);
        // A loopback is none by a file that never moves: it is not looked at again.
        write("type", "772");
        assert_eq!(links.links(root.path()).unwrap().iter().filter(|link| link.is_loopback).count(), 0);
        write("carrier_down_count", "1");
        assert_eq!(seen(&mut links), [("eth0".to_owned(), true, 1)]);
        write("carrier", "0");
        assert_eq!(seen(&mut links), [("eth0".to_owned(), false, 1)]);
        write("carrier", "1");
        write("flags", "0x1002");
        assert_eq!(seen(&mut links), [("eth0".to_owned(), false, 1)]);
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(seen(&mut links), []);
    }
}
