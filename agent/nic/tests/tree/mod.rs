//! Builds sysfs trees as the kernel lays them out, in a directory of their own, and changes them while they are read.

use std::fs;
use std::path::{Path, PathBuf};

pub struct Tree(tempfile::TempDir);

/// One directory of files: an RDMA port or an interface.
pub struct Node(PathBuf);

impl Tree {
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory for the tree"))
    }

    pub fn root(&self) -> &Path {
        self.0.path()
    }

    /// A port of an RDMA device, active.
    pub fn rdma_port(&self, device: &str, number: u32) -> Node {
        let node = self.node(&format!("class/infiniband/{device}/ports/{number}"));
        node.file("rate", "400 Gb/sec (4X NDR)");
        node.file("link_layer", "Ethernet");
        node.state("4: ACTIVE", "5: LinkUp");
        node
    }

    pub fn remove_rdma(&self, device: &str) {
        fs::remove_dir_all(self.root().join("class/infiniband").join(device)).expect("removing a device");
    }

    /// An interface that is up.
    pub fn interface(&self, name: &str, index: u32, has_device: bool) -> Node {
        let node = self.node(&format!("class/net/{name}"));
        for (file, text) in [
            ("ifindex", index.to_string().as_str()),
            ("type", "1"),
            ("flags", "0x1003"),
            ("operstate", "up"),
            ("carrier", "1"),
            ("carrier_up_count", "1"),
            ("carrier_down_count", "0"),
            ("speed", "25000"),
        ] {
            node.file(file, text);
        }
        if has_device {
            fs::create_dir(node.0.join("device")).expect("device");
        }
        node
    }

    pub fn loopback(&self) {
        self.interface("lo", 1, true).file("type", "772");
    }

    fn node(&self, path: &str) -> Node {
        let path = self.root().join(path);
        fs::create_dir_all(&path).expect("a directory of the tree");
        Node(path)
    }
}

impl Node {
    /// Writes in place: a file that is kept open shows the new text, as sysfs does.
    pub fn file(&self, name: &str, text: &str) {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().expect("a file has a directory")).expect("a directory of the tree");
        fs::write(path, if text.is_empty() { String::new() } else { format!("{text}\n") }).expect("writing a file");
    }

    pub fn counters(&self, directory: &str, counters: &[(&str, &str)]) {
        for (name, text) in counters {
            self.file(&format!("{directory}/{name}"), text);
        }
    }

    pub fn state(&self, state: &str, physical: &str) {
        self.file("state", state);
        self.file("phys_state", physical);
    }
}
