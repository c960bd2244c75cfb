//! Keeps the process small: few allocator arenas, and large pieces given back to the kernel when they are freed.

/// Arenas glibc's allocator may make. Its default, eight per core, costs tens of MiB on a large host.
const ARENAS_MAX: libc::c_int = 2;
/// Pieces from this size on are mapped by themselves, bytes. By default the limit grows to the largest piece ever freed: the
/// kernel's type information is megabytes, read at the start, and its place would be kept.
const MAPPED_FROM: libc::c_int = 128 * 1024;

/// Bounds the allocator; call it before any thread starts.
pub fn bound_allocator() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt changes a setting of the allocator and takes two integers; no thread runs yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, ARENAS_MAX);
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM);
    }
}
