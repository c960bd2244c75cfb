//! The kernel's lockdown: what it takes away, and what is said of it. Lockdown lasts until the next boot, so this runs
//! only in a virtual machine.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

mod support;

use railwatch_abi::cookie::Layer::CudaRuntime as Runtime;
use railwatch_gpu::kernel::{Kernel, LoadError, Options};
use support::{Caller, memory, traced};

fn lock_down(level: &str) {
    let file = "/sys/kernel/security/lockdown";
    std::fs::write(file, level).unwrap();
    assert!(std::fs::read_to_string(file).unwrap().contains(&format!("[{level}]")));
}

#[test]
#[ignore = "locks its kernel down until that boots again: `cargo xtask test kernels` gives it one of its own"]
fn under_integrity_all_is_counted_and_confidentiality_is_named_as_what_forbids_it() {
    assert!(std::env::var_os("RAILWATCH_VM").is_some(), "this locks the kernel down: only in a virtual machine");
    lock_down("integrity");
    let kernel = traced(&["libcudart.so"]);
    let mut caller = Caller::start(&["libcudart.so"]);
    caller.ok(&["cudaMalloc &0 100", "cudaMalloc &1 7", "cudaFree @0"]);
    let row = memory(&kernel, caller.pid(), Runtime, Some(0));
    assert_eq!((row.allocated_bytes, row.peak_bytes, row.allocs, row.frees), (7, 107, 2, 1));
    drop(kernel);

    lock_down("confidentiality");
    let refused = Kernel::load(Options::default()).err().unwrap();
    assert!(matches!(refused, LoadError::Lockdown), "{refused}");
    assert!(refused.to_string().contains("boot with lockdown=integrity"), "{refused}");
}
