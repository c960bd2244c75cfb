//! The variables of a process that may leave the host, and no others.
//!
//! In: the bytes of /proc/PID/environ, as the process was started. Out: values of [`KEYS`], bounded, and what they say of
//! rank and job. The keys are compiled in: no configuration adds one. Never: a key outside the list, a value with a control
//! character, or a path.

use std::collections::BTreeMap;

/// What may leave. Ranks and sizes, names that schedulers give, where ranks meet, and settings of NCCL that decide which
/// way data takes. Not among them on purpose: anything that holds a path, a command, a user's name, or a token.
pub const KEYS: &[&str] = &[
    "GROUP_RANK",
    "JOB_COMPLETION_INDEX",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "NCCL_ALGO",
    "NCCL_CROSS_NIC",
    "NCCL_DEBUG",
    "NCCL_IB_DISABLE",
    "NCCL_IB_GID_INDEX",
    "NCCL_IB_HCA",
    "NCCL_IB_QPS_PER_CONNECTION",
    "NCCL_IB_RETRY_CNT",
    "NCCL_IB_SL",
    "NCCL_IB_TC",
    "NCCL_IB_TIMEOUT",
    "NCCL_MAX_NCHANNELS",
    "NCCL_MIN_NCHANNELS",
    "NCCL_NET_GDR_LEVEL",
    "NCCL_NVLS_ENABLE",
    "NCCL_P2P_DISABLE",
    "NCCL_P2P_LEVEL",
    "NCCL_PROTO",
    "NCCL_SHM_DISABLE",
    "NCCL_SOCKET_IFNAME",
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "OMPI_COMM_WORLD_LOCAL_SIZE",
    "OMPI_COMM_WORLD_NODE_RANK",
    "OMPI_COMM_WORLD_RANK",
    "OMPI_COMM_WORLD_SIZE",
    "PMI_RANK",
    "PMI_SIZE",
    "RANK",
    "SLURM_JOB_ID",
    "SLURM_JOB_NAME",
    "SLURM_LOCALID",
    "SLURM_NODEID",
    "SLURM_NTASKS",
    "SLURM_PROCID",
    "SLURM_STEP_ID",
    "TORCHELASTIC_RUN_ID",
    "WORLD_SIZE",
];

/// Longest value that leaves, bytes; a longer one is left out whole.
pub const VALUE_BYTES_MAX: usize = 128;
/// Bytes of an environment that are looked at.
pub const ENVIRON_BYTES_MAX: u64 = 1024 * 1024;

/// The allowed part of an environment. A key that comes twice counts as it comes first, as getenv(3) has it.
#[must_use]
pub fn allowed(environ: &[u8]) -> BTreeMap<&'static str, String> {
    let mut found = BTreeMap::new();
    for entry in environ.split(|byte| *byte == 0) {
        let Some(equals) = entry.iter().position(|byte| *byte == b'=') else { continue };
        let (key, value) = (&entry[..equals], &entry[equals + 1..]);
        let Some(key) = KEYS.iter().find(|allowed| allowed.as_bytes() == key) else { continue };
        if let Some(value) = harmless(value) {
            found.entry(*key).or_insert(value);
        }
    }
    found
}

fn harmless(value: &[u8]) -> Option<String> {
    let text = str::from_utf8(value).ok()?;
    let fits = !text.is_empty() && text.len() <= VALUE_BYTES_MAX;
    (fits && !text.contains('/') && !text.contains(char::is_control)).then(|| text.to_owned())
}

/// Which rank a process is, as its launcher told it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ranks {
    /// Of all.
    pub rank: Option<u32>,
    /// How many there are.
    pub world_size: Option<u32>,
    /// On this host.
    pub local_rank: Option<u32>,
}

/// Sources of rank, size and local rank. The first whose rank is there gives all three, so that those of different launchers
/// are never mixed: torchrun under Slurm has one Slurm task a host and a rank per GPU.
const LAUNCHERS: [[&str; 3]; 5] = [
    ["RANK", "WORLD_SIZE", "LOCAL_RANK"],
    ["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"],
    ["SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"],
    ["PMI_RANK", "PMI_SIZE", ""],
    ["JOB_COMPLETION_INDEX", "", ""],
];

/// What the environment says of ranks.
#[must_use]
pub fn ranks(environment: &BTreeMap<&'static str, String>) -> Ranks {
    let number = |key: &str| environment.get(key).and_then(|value| value.parse().ok());
    LAUNCHERS
        .iter()
        .find_map(|[rank, size, local]| {
            Some(Ranks { rank: Some(number(rank)?), world_size: number(size), local_rank: number(local) })
        })
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_keys_with_short_harmless_values_are_taken() {
        let long = "x".repeat(VALUE_BYTES_MAX + 1);
        let environ = format!(
            "PATH=/bin\0RANK=3\0RANK=4\0WORLD_SIZE=16\0API_TOKEN=s3cret\0rank=5\0MASTER_ADDR=10.0.0.1\0SLURM_JOB_NAME={long}\0\
             NCCL_DEBUG_FILE=/tmp/x\0NCCL_IB_HCA=mlx5_0,mlx5_1\0NCCL_ALGO=/etc/passwd\0NCCL_PROTO=a\nb\0MASTER_PORT=\0LOCAL_RANK\0\
             XRANK=1\0RANKS=2\0NCCL_NET=s3cret"
        );
        let found = allowed(environ.as_bytes());
        let pairs: Vec<_> = found.iter().map(|(key, value)| (*key, value.as_str())).collect();
        assert_eq!(
            pairs,
            [("MASTER_ADDR", "10.0.0.1"), ("NCCL_IB_HCA", "mlx5_0,mlx5_1"), ("RANK", "3"), ("WORLD_SIZE", "16")]
        );
        assert!(allowed(b"").is_empty() && allowed(b"\xff=\xff\0=\0\0").is_empty());
    }

    #[test]
    fn one_launcher_gives_rank_size_and_local_rank() {
        for (environ, expected) in [
            (
                &["RANK=9", "WORLD_SIZE=16", "LOCAL_RANK=1", "SLURM_PROCID=1", "SLURM_NTASKS=2"][..],
                (Some(9), Some(16), Some(1)),
            ),
            (&["SLURM_PROCID=5", "SLURM_NTASKS=8", "SLURM_LOCALID=1"], (Some(5), Some(8), Some(1))),
            (&["OMPI_COMM_WORLD_RANK=2", "OMPI_COMM_WORLD_SIZE=4", "SLURM_LOCALID=7"], (Some(2), Some(4), None)),
            (&["PMI_RANK=2", "PMI_SIZE=4"], (Some(2), Some(4), None)),
            (&["JOB_COMPLETION_INDEX=3"], (Some(3), None, None)),
            (&["RANK=x", "WORLD_SIZE=16"], (None, None, None)),
            (&["WORLD_SIZE=16", "LOCAL_RANK=0"], (None, None, None)),
        ] {
            let Ranks { rank, world_size, local_rank } = ranks(&allowed(environ.join("\0").as_bytes()));
            assert_eq!((rank, world_size, local_rank), expected, "{environ:?}");
        }
    }

    #[test]
    fn the_list_is_sorted_and_holds_no_key_twice() {
        assert!(KEYS.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
