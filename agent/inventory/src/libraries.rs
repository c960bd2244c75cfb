//! Versions of the libraries that GPU processes have mapped.
//!
//! In: paths of mapped objects as the processes see them (from the GPU room), looked at through `/proc/PID/root`. Out: versions by
//! library. The version is that of the file's name (`libnccl.so.2.21.5`); of a Python wheel, whose files carry only the major
//! one, that of its `dist-info` folder; of CANN and ROCm, that of the installation's folder. Never: a file opened, or code run.

use crate::files::names;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Start of the file's name, key.
const LIBRARIES: [(&str, &str); 10] = [
    ("libcudart.so", "library.cudart"),
    ("libcuda.so", "library.cuda"),
    ("libnccl.so", "library.nccl"),
    ("libcublas.so", "library.cublas"),
    ("libcudnn.so", "library.cudnn"),
    ("libascendcl.so", "library.acl"),
    ("libhccl.so", "library.hccl"),
    ("libamdhip64.so", "library.hip"),
    ("librccl.so", "library.rccl"),
    ("libcudnn_graph.so", "library.cudnn"),
];
/// Versions of one library that are told.
const VERSIONS_MAX: usize = 8;

/// Versions by key: "12.4.127", or "2.18.5, 2.21.5" where processes differ.
pub(crate) fn versions(procfs: &Path, objects: &[(u32, String)]) -> BTreeMap<&'static str, String> {
    let mut found: BTreeMap<&'static str, BTreeSet<String>> = BTreeMap::new();
    let mut looked: BTreeSet<&str> = BTreeSet::new();
    for (pid, object) in objects {
        let Some((key, version)) = version(procfs, *pid, object, &mut looked) else { continue };
        let versions = found.entry(key).or_default();
        if versions.len() < VERSIONS_MAX {
            versions.insert(version);
        }
    }
    found.into_iter().map(|(key, versions)| (key, Vec::from_iter(versions).join(", "))).collect()
}

fn version<'o>(
    procfs: &Path,
    pid: u32,
    object: &'o str,
    looked: &mut BTreeSet<&'o str>,
) -> Option<(&'static str, String)> {
    let path = Path::new(object.trim_end_matches(" (deleted)"));
    let name = path.file_name()?.to_str()?;
    let (start, key) = LIBRARIES.into_iter().find(|(start, _)| name.starts_with(start))?;
    let suffix = name[start.len()..].trim_start_matches('.');
    let is_whole = suffix.split('.').count() >= 3 && suffix.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if is_whole {
        return Some((key, suffix.to_owned()));
    }
    let by_folder = of_installation(path).or_else(|| {
        // Containers of one image have the same path: one look tells of all. Two images with one path and two versions are
        // told apart by the first of them alone.
        looked.insert(object).then(|| of_wheel(&procfs.join(pid.to_string()).join("root"), path)).flatten()
    });
    match by_folder {
        Some(version) => Some((key, version)),
        None if !suffix.is_empty() => {
            Some((key, suffix.to_owned())).filter(|_| !looked.contains(object) || !is_in_wheel(path))
        }
        None => None,
    }
}

/// "8.0.RC1" of ".../ascend-toolkit/8.0.RC1/...", "6.2.0" of "/opt/rocm-6.2.0/lib/...".
fn of_installation(path: &Path) -> Option<String> {
    let mut parts = path.components().filter_map(|part| part.as_os_str().to_str());
    while let Some(part) = parts.next() {
        if matches!(part, "ascend-toolkit" | "cann" | "nnae") {
            return parts.next().filter(|version| version.starts_with(|c: char| c.is_ascii_digit())).map(str::to_owned);
        }
        let rest = part.strip_prefix("rocm-").or_else(|| part.strip_prefix("cann-"));
        if let Some(version) = rest.filter(|version| version.starts_with(|c: char| c.is_ascii_digit())) {
            return Some(version.to_owned());
        }
    }
    None
}

/// `site-packages/nvidia/nccl/lib/libnccl.so.2` with its neighbour `site-packages/nvidia_nccl_cu12-2.21.5.dist-info`.
fn wheel(path: &Path) -> Option<(PathBuf, String)> {
    let component = path.parent()?.parent()?;
    let nvidia = component.parent()?;
    (nvidia.file_name()? == "nvidia").then_some(())?;
    Some((nvidia.parent()?.to_owned(), component.file_name()?.to_str()?.to_owned()))
}

fn is_in_wheel(path: &Path) -> bool {
    wheel(path).is_some()
}

fn of_wheel(root: &Path, path: &Path) -> Option<String> {
    let (packages, component) = wheel(path)?;
    let packages = root.join(packages.strip_prefix("/").ok()?);
    let start = format!("nvidia_{component}");
    names(packages).into_iter().find_map(|name| {
        let (package, version) = name.strip_suffix(".dist-info")?.split_once('-')?;
        let is_it = package == start || package.strip_prefix(&start).is_some_and(|rest| rest.starts_with("_cu"));
        is_it.then(|| version.to_owned())
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::versions;

    #[test]
    fn versions_come_from_the_name_the_wheel_or_the_installation() {
        let procfs = tempfile::tempdir().unwrap();
        let packages = procfs.path().join("7/root/venv/lib/python3.11/site-packages");
        for folder in
            ["nvidia_nccl_cu12-2.21.5.dist-info", "nvidia_cuda_runtime_cu12-12.9.79.dist-info", "nvidia-x.dist-info"]
        {
            std::fs::create_dir_all(packages.join(folder)).unwrap();
        }
        let venv = "/venv/lib/python3.11/site-packages/nvidia";
        let objects: Vec<(u32, String)> = [
            (7, format!("{venv}/nccl/lib/libnccl.so.2")),
            (7, format!("{venv}/cuda_runtime/lib/libcudart.so.12")),
            (8, "/usr/lib/x86_64-linux-gnu/libnccl.so.2.18.5".to_owned()),
            (8, "/usr/lib/x86_64-linux-gnu/libcuda.so.535.161.08".to_owned()),
            (8, "/usr/local/Ascend/ascend-toolkit/8.0.RC1/lib64/libascendcl.so".to_owned()),
            (8, "/opt/rocm-6.2.0/lib/libamdhip64.so.6".to_owned()),
            (8, "/opt/rocm-6.2.0/lib/librccl.so.1.0.60200".to_owned()),
            (8, "/usr/lib/libcublas.so.12".to_owned()),
            (8, "/usr/lib/libc.so.6".to_owned()),
            (8, "/dev/nvidia0".to_owned()),
        ]
        .into();
        let told = versions(procfs.path(), &objects);
        let told: Vec<_> = told.iter().map(|(key, version)| (*key, version.as_str())).collect();
        assert_eq!(
            told,
            [
                ("library.acl", "8.0.RC1"),
                ("library.cublas", "12"),
                ("library.cuda", "535.161.08"),
                ("library.cudart", "12.9.79"),
                ("library.hip", "6.2.0"),
                ("library.nccl", "2.18.5, 2.21.5"),
                ("library.rccl", "1.0.60200"),
            ]
        );
    }

    #[test]
    fn a_second_process_with_the_same_wheel_adds_nothing() {
        let procfs = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(procfs.path().join("7/root/w/nvidia_nccl_cu12-2.21.5.dist-info")).unwrap();
        let object = "/w/nvidia/nccl/lib/libnccl.so.2".to_owned();
        let told = versions(procfs.path(), &[(7, object.clone()), (9, object)]);
        assert_eq!(told["library.nccl"], "2.21.5");
    }
}
