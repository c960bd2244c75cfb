//! Which GPU an ordinal is, where that is certain.
//!
//! In: the NVIDIA driver's list of GPUs and the device nodes that a process can open. Out: a UUID, or why not.
//! Ordinals are counted by the process, after its own CUDA_VISIBLE_DEVICES, which a program may set for itself without a
//! trace in /proc: an ordinal is named only where the process can open exactly one GPU. Never: a guess, because a wrong
//! UUID blames the wrong device; never a look into an environment.

use std::fs;
use std::path::{Path, PathBuf};

/// A GPU as the driver lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Gpu {
    uuid: String,
    minor: u32,
}

/// The driver's list, as read.
#[derive(Clone, Debug)]
pub struct Devices {
    gpus: Vec<Gpu>,
    split: bool,
    proc: PathBuf,
}

impl Devices {
    /// Reads the list under `proc`, `/proc` but for tests.
    pub fn read(proc: &Path) -> Self {
        let driver = proc.join("driver/nvidia");
        let mut gpus: Vec<_> = fs::read_dir(driver.join("gpus"))
            .into_iter()
            .flatten()
            .filter_map(|entry| parse(&fs::read_to_string(entry.ok()?.path().join("information")).ok()?))
            .collect();
        gpus.sort_unstable_by_key(|gpu| gpu.minor);
        // capabilities/gpuN/mig/giM exists for each instance of a GPU that is split.
        let instances = fs::read_dir(driver.join("capabilities")).into_iter().flatten().flatten();
        let split = instances
            .flat_map(|gpu| fs::read_dir(gpu.path().join("mig")))
            .flatten()
            .flatten()
            .any(|entry| entry.path().is_dir());
        Self { gpus, split, proc: proc.to_owned() }
    }

    /// The UUID of the only GPU that the process can open.
    pub fn uuid(&self, api: &str, pid: u32) -> Result<String, String> {
        if api != "cuda" {
            return Err(format!("the UUID of an ordinal is not mapped for {api}"));
        }
        if self.gpus.is_empty() {
            return Err("the NVIDIA driver lists no GPU in /proc/driver/nvidia/gpus".into());
        }
        if self.split {
            return Err(
                "a GPU of this host is split into MIG instances, which the driver does not list by process".into()
            );
        }
        let nodes = self.proc.join(pid.to_string()).join("root/dev");
        let mut open = self.gpus.iter().filter(|gpu| nodes.join(format!("nvidia{}", gpu.minor)).exists());
        match (open.next(), open.count()) {
            (Some(only), 0) => Ok(only.uuid.clone()),
            (None, _) => Err("no GPU's device node is visible in the process's /dev".into()),
            (Some(_), more) => Err(format!(
                "the process can open {} GPUs, and counts them after a CUDA_VISIBLE_DEVICES that it may set unseen",
                more + 1
            )),
        }
    }
}

fn parse(information: &str) -> Option<Gpu> {
    let field = |name: &str| {
        information.lines().find_map(|line| Some(line.strip_prefix(name)?.trim_start_matches([' ', '\t', ':']).trim()))
    };
    let uuid = field("GPU UUID").filter(|uuid| uuid.starts_with("GPU-") && !uuid.contains('?'))?;
    Some(Gpu { uuid: uuid.to_owned(), minor: field("Device Minor")?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "GPU-5b1c6a0e-0000-4a6f-9b0e-8f5f3c1d2e7a";

    fn host(minors: &[u32], visible: &[u32], split: bool) -> tempfile::TempDir {
        let proc = tempfile::tempdir().expect("temporary directory");
        let write = |path: String, text: &str| {
            let path = proc.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
            fs::write(path, text).expect("file");
        };
        for minor in minors {
            let uuid = UUID.replace("0000", &format!("{minor:04}"));
            let text =
                format!("Model: \t\t NVIDIA H100\nIRQ:   \t\t 17\nGPU UUID: \t {uuid}\nDevice Minor: \t {minor}\n");
            write(format!("driver/nvidia/gpus/0000:0{minor}:00.0/information"), &text);
        }
        if split {
            write("driver/nvidia/capabilities/gpu0/mig/gi1/access".into(), "");
        }
        visible.iter().for_each(|minor| write(format!("42/root/dev/nvidia{minor}"), ""));
        proc
    }

    #[test]
    fn an_ordinal_gets_a_uuid_only_where_nothing_else_can_be_meant() {
        for (minors, visible, split, expected) in [
            (&[0][..], &[0][..], false, Ok(UUID)),
            (&[0, 1, 2, 3], &[2], false, Ok("GPU-5b1c6a0e-0002-4a6f-9b0e-8f5f3c1d2e7a")),
            (&[0, 1], &[0, 1], false, Err("can open 2 GPUs")),
            (&[0], &[], false, Err("no GPU's device node")),
            (&[], &[0], false, Err("lists no GPU")),
            (&[0], &[0], true, Err("MIG")),
        ] {
            let expected =
                expected.map(|uuid: &str| uuid.replace("0000", &format!("{:04}", visible.first().unwrap_or(&0))));
            let proc = host(minors, visible, split);
            match (Devices::read(proc.path()).uuid("cuda", 42), expected) {
                (Ok(uuid), Ok(wanted)) => assert_eq!(uuid, wanted),
                (Err(why), Err(wanted)) => assert!(why.contains(wanted), "{why}"),
                (found, wanted) => panic!("{minors:?} {visible:?}: {found:?}, not {wanted:?}"),
            }
        }
        let one = host(&[0], &[0], false);
        assert!(Devices::read(one.path()).uuid("hip", 42).is_err());
    }

    #[test]
    fn what_the_driver_has_not_read_yet_is_no_uuid() {
        assert_eq!(parse("GPU UUID: \t GPU-????????-????-????-????-????????????\nDevice Minor: 0\n"), None);
        assert_eq!(parse("Model: x\n"), None);
    }
}
