//! Which container a process runs in, from its control group.
//!
//! In: the text of /proc/PID/cgroup. Out: the runtime's container id and, under Kubernetes, the pod's uid. It reads
//! nothing itself and looks at no name inside the container.

/// Where a process runs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Container {
    /// 64 hexadecimal digits for Docker, containerd, CRI-O and Podman; the machine's name for systemd-nspawn and LXC.
    pub id: String,
    /// Pod uid with dashes, under Kubernetes.
    pub pod_uid: Option<String>,
}

/// Finds the innermost container named in a /proc/PID/cgroup text, in any of the layouts in use (cgroup v1 and v2,
/// systemd and cgroupfs drivers). `None` for a process of the host itself.
#[must_use]
pub fn container_of(cgroup: &str) -> Option<Container> {
    // Each line is hierarchy:controllers:path. All lines name the same container, but not all hierarchies are used.
    let mut named = None;
    for line in cgroup.lines() {
        let path = line.splitn(3, ':').nth(2).unwrap_or_default();
        let pod_uid = path.split('/').rev().find_map(pod_uid);
        match path.split('/').rev().find_map(container_id) {
            Some((id, true)) => return Some(Container { id: id.to_owned(), pod_uid }),
            Some((id, false)) => named = named.or(Some(Container { id: id.to_owned(), pod_uid })),
            None => {}
        }
    }
    named
}

/// The id in one path component, and whether it is a runtime's (64 digits) rather than a machine's name.
fn container_id(component: &str) -> Option<(&str, bool)> {
    let unit = component.strip_suffix(".scope").or_else(|| component.strip_suffix(".service")).unwrap_or(component);
    // docker-ID.scope, cri-containerd-ID.scope, crio-ID.scope, libpod-ID.scope, ID alone, and containerd's
    // system.slice form, where colons part slice, prefix and id.
    let last = unit.rsplit([':', '-']).next().unwrap_or(unit);
    // crio-conmon-ID and libpod-conmon-ID hold the runtime's monitor, not the container.
    if is_hex(last, 64) && !unit.contains("conmon-") {
        return Some((last, true));
    }
    let machine = unit
        .strip_prefix("machine-")
        .or_else(|| unit.strip_prefix("systemd-nspawn@"))
        .or_else(|| unit.strip_prefix("lxc.payload."))
        .filter(|name| !name.is_empty() && !name.ends_with(".slice"))?;
    Some((machine, false))
}

/// `kubepods-burstable-podUID_WITH_UNDERSCORES.slice` (systemd driver) or `podUID` (cgroupfs driver).
fn pod_uid(component: &str) -> Option<String> {
    let unit = component.strip_suffix(".slice").unwrap_or(component);
    let uid = unit.strip_prefix("pod").or_else(|| unit.rsplit_once("-pod").map(|(_, uid)| uid))?;
    let uid = uid.replace('_', "-");
    let dashed = uid.len() == 36 && uid.split('-').map(str::len).eq([8, 4, 4, 4, 12]);
    let hex = uid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    // Static pods have the 32 digits of a hash instead.
    (hex && (dashed || is_hex(&uid, 32))).then_some(uid)
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "3f4c0c9d0a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5";
    const POD: &str = "1b3c7f42-90ab-4cde-8f01-23456789abcd";

    #[test]
    fn every_runtime_in_use_is_recognised() {
        let pod_underscored = POD.replace('-', "_");
        let cases = [
            (format!("12:memory:/docker/{ID}\n0::/system.slice/containerd.service"), Some((ID, None))),
            (format!("0::/system.slice/docker-{ID}.scope"), Some((ID, None))),
            (format!("0::/docker/{ID}/init"), Some((ID, None))),
            (
                format!("0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope/container"),
                Some((ID, None)),
            ),
            (format!("0::/machine.slice/libpod-{ID}.scope"), Some((ID, None))),
            (format!("0::/machine.slice/libpod-conmon-{ID}.scope"), None),
            (
                format!(
                    "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{pod_underscored}.slice/cri-containerd-{ID}.scope"
                ),
                Some((ID, Some(POD))),
            ),
            (format!("0::/kubepods.slice/kubepods-pod{pod_underscored}.slice/crio-{ID}.scope"), Some((ID, Some(POD)))),
            (
                format!(
                    "11:cpu,cpuacct:/kubepods/besteffort/pod{POD}/{ID}\n1:name=systemd:/kubepods/besteffort/pod{POD}/{ID}"
                ),
                Some((ID, Some(POD))),
            ),
            (
                format!(
                    "5:devices:/system.slice/containerd.service/kubepods-pod{pod_underscored}.slice:cri-containerd:{ID}"
                ),
                Some((ID, None)),
            ),
            (
                format!(
                    "0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod{pod_underscored}.slice/cri-containerd-{ID}.scope"
                ),
                Some((ID, Some(POD))),
            ),
            (format!("0::/../../kubepods/burstable/pod{POD}/{ID}"), Some((ID, Some(POD)))),
            ("0::/machine.slice/machine-trainer.scope/payload".to_owned(), Some(("trainer", None))),
            ("0::/machine.slice/systemd-nspawn@trainer.service/payload".to_owned(), Some(("trainer", None))),
            ("0::/lxc.payload.trainer/init.scope".to_owned(), Some(("trainer", None))),
            (format!("0::/default/{ID}"), Some((ID, None))),
            ("0::/system.slice/slurmstepd.scope/job_42/step_0/user/task_0".to_owned(), None),
            ("9:name=systemd:/\n4:memory:/process_api/971e6fc47b7d574743b52dec7b18e493\n0::/".to_owned(), None),
            ("0::/user.slice/user-1000.slice/session-3.scope".to_owned(), None),
            (String::new(), None),
            ("garbage".to_owned(), None),
        ];
        for (text, expected) in cases {
            let expected = expected.map(|(id, pod)| Container { id: id.to_owned(), pod_uid: pod.map(str::to_owned) });
            assert_eq!(container_of(&text), expected, "{text}");
        }
    }
}
