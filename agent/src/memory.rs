//! Keeps the process small: few allocator arenas.

/// Arenas glibc's allocator may make. Its default, eight per core, costs tens of MiB on a large host.
const ARENAS_MAX: libc::c_int = 2;

/// Bounds the allocator; call it before any thread starts.
pub fn bound_allocator() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt changes a setting of the allocator and takes two integers; no thread runs yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, ARENAS_MAX);
    }
}
