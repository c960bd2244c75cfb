//! Vendors' libraries, mapped while running.
//!
//! In: a name or path, the names of functions. Out: pointers to them. A library stays mapped until the process ends: vendors'
//! have threads and handlers of their own. Never: a library closed, a function called.

use std::ffi::{CStr, CString, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A library that is mapped for good.
pub struct Mapped(*mut c_void);

impl Mapped {
    /// Maps it. Nothing of it runs but its constructors.
    ///
    /// # Errors
    /// The loader's own words.
    pub fn new(path: &Path) -> Result<Self, String> {
        let name = CString::new(path.as_os_str().as_bytes()).map_err(|_| "a path holds no NUL".to_owned())?;
        // SAFETY: `name` is a valid C string for the call.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if handle.is_null() { Err(last_error()) } else { Ok(Self(handle)) }
    }

    /// A function by name.
    ///
    /// # Safety
    /// `F` is the type of a pointer to the function of that name.
    #[must_use]
    pub unsafe fn find<F: Copy>(&self, name: &CStr) -> Option<F> {
        const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
        // SAFETY: a handle of dlopen that is never closed, and a valid C string.
        let address = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        // SAFETY: of one size by the assertion; not null; of the type by the caller's promise.
        (!address.is_null()).then(|| unsafe { std::mem::transmute_copy::<*mut c_void, F>(&address) })
    }
}

fn last_error() -> String {
    // SAFETY: takes nothing; answers a string that is valid until the next call of this thread's dl* functions, or null.
    let text = unsafe { libc::dlerror() };
    if text.is_null() {
        return "the loader gave no reason".to_owned();
    }
    // SAFETY: not null, and copied before any other call.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
