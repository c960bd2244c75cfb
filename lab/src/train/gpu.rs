//! The GPU of a rank: libraries with the names and signatures of the real ones (`tests/fixtures/gpu`), so that whoever
//! traces them finds what a real job shows.

use anyhow::{Context, Result, bail, ensure};
use std::{
    ffi::{CStr, CString, c_int, c_void},
    os::unix::ffi::OsStrExt,
    path::Path,
    ptr,
};

/// Activations of one iteration, bytes.
const STEP_BYTES: usize = 2 << 30;
/// Weights and optimizer, bytes; they stay.
const MODEL_BYTES: usize = 24 << 30;
/// `cudaErrorMemoryAllocation`.
const OUT_OF_MEMORY: c_int = 2;
/// `ncclFloat32` and `ncclSum`.
const FLOAT32: c_int = 7;
const SUM: c_int = 0;

type Malloc = unsafe extern "C" fn(*mut *mut c_void, usize) -> c_int;
type Free = unsafe extern "C" fn(*mut c_void) -> c_int;
type FailNext = unsafe extern "C" fn(c_int) -> c_int;
type SetDevice = unsafe extern "C" fn(c_int) -> c_int;
type AllReduce =
    unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, *mut c_void, *mut c_void) -> c_int;
type AllToAll = unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, *mut c_void, *mut c_void) -> c_int;

/// `ncclUniqueId` of nccl.h.
#[repr(C)]
struct UniqueId([u8; 128]);
type CommInitRank = unsafe extern "C" fn(*mut *mut c_void, c_int, UniqueId, c_int) -> c_int;

/// What a rank calls, and its communicator.
pub struct Gpu {
    malloc: Malloc,
    free: Free,
    fail_next: FailNext,
    all_reduce: AllReduce,
    all_to_all: AllToAll,
    communicator: *mut c_void,
}

/// The libraries, loaded for as long as the process lives.
pub struct Libraries {
    cuda: *mut c_void,
    nccl: *mut c_void,
}

impl Libraries {
    /// Loads them from a folder.
    pub fn load(folder: &Path) -> Result<Self> {
        Ok(Self { cuda: load(&folder.join("libcudart.so"))?, nccl: load(&folder.join("libnccl.so"))? })
    }
}

impl Gpu {
    /// Joins the communicator, and allocates the model.
    pub fn open(libraries: &Libraries, rank: usize, ranks: usize) -> Result<Self> {
        let Libraries { cuda, nccl } = *libraries;
        // SAFETY: the signatures are those of cuda_runtime_api.h and nccl.h, which the fixtures keep.
        let gpu = unsafe {
            let set_device = std::mem::transmute::<*mut c_void, SetDevice>(symbol(cuda, c"cudaSetDevice")?);
            ensure!(set_device(0) == 0, "cudaSetDevice failed");
            let init = std::mem::transmute::<*mut c_void, CommInitRank>(symbol(nccl, c"ncclCommInitRank")?);
            let mut communicator = ptr::null_mut();
            let code = init(&raw mut communicator, c_int::try_from(ranks)?, UniqueId([0; 128]), c_int::try_from(rank)?);
            ensure!(code == 0, "ncclCommInitRank returned {code}");
            Self {
                malloc: std::mem::transmute::<*mut c_void, Malloc>(symbol(cuda, c"cudaMalloc")?),
                free: std::mem::transmute::<*mut c_void, Free>(symbol(cuda, c"cudaFree")?),
                fail_next: std::mem::transmute::<*mut c_void, FailNext>(symbol(cuda, c"fixture_fail_next")?),
                all_reduce: std::mem::transmute::<*mut c_void, AllReduce>(symbol(nccl, c"ncclAllReduce")?),
                all_to_all: std::mem::transmute::<*mut c_void, AllToAll>(symbol(nccl, c"ncclAlltoAll")?),
                communicator,
            }
        };
        let mut model = ptr::null_mut();
        // SAFETY: `model` is a place for the result.
        let code = unsafe { (gpu.malloc)(&raw mut model, MODEL_BYTES) };
        ensure!(code == 0, "cudaMalloc returned {code}");
        Ok(gpu)
    }

    /// Allocates what an iteration needs and gives it back; false where memory has run out.
    pub fn step(&self, out_of_memory: bool) -> bool {
        let mut activations = ptr::null_mut();
        // SAFETY: as in `open`; what was allocated is freed once.
        unsafe {
            if out_of_memory {
                (self.fail_next)(OUT_OF_MEMORY);
            }
            if (self.malloc)(&raw mut activations, STEP_BYTES) != 0 {
                return false;
            }
            (self.free)(activations) == 0
        }
    }

    /// Says that a reduction of so many bytes begins.
    pub fn all_reduce(&self, bytes: usize) {
        let (from, to, stream) = (ptr::null(), ptr::null_mut(), ptr::null_mut());
        // SAFETY: the fixture looks at the communicator alone, which is live.
        unsafe { (self.all_reduce)(from, to, bytes / 4, FLOAT32, SUM, self.communicator, stream) };
    }

    /// Says that an exchange of so many bytes per rank begins.
    pub fn all_to_all(&self, bytes: usize) {
        // SAFETY: as above.
        unsafe {
            (self.all_to_all)(ptr::null(), ptr::null_mut(), bytes / 4, FLOAT32, self.communicator, ptr::null_mut())
        };
    }
}

fn load(path: &Path) -> Result<*mut c_void> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the libraries' constructors do nothing.
    let library = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW) };
    if library.is_null() {
        bail!("load {}: is it built?", path.display());
    }
    Ok(library)
}

fn symbol(library: *mut c_void, name: &CStr) -> Result<*mut c_void> {
    // SAFETY: a live library and a C string.
    let found = unsafe { libc::dlsym(library, name.as_ptr()) };
    (!found.is_null()).then_some(found).with_context(|| format!("the library has no {}", name.to_string_lossy()))
}
