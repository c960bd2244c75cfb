//! The agent's end of a helper: a datagram socket at a path of its own.
//!
//! In: what a helper sends. Out: its messages, a turn's worth at a time. Never: a wait for the helper, a datagram believed
//! that is no message, or a socket left behind by an agent that ended well.

use railwatch_sampling::{Batch, ErrorReason, ReadError, Unavailable};
use serde::de::DeserializeOwned;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

/// Datagrams taken at once; the rest wait in the socket for the next turn.
const TURN_MAX: usize = 32;

/// The socket.
pub(crate) struct Hearing {
    path: PathBuf,
    /// Its name in the configuration.
    option: &'static str,
    socket: Option<UnixDatagram>,
    buffer: Vec<u8>,
}

impl Hearing {
    /// Will listen on `path`, for messages of so many bytes at most.
    pub(crate) fn new(path: PathBuf, option: &'static str, message_bytes_max: usize) -> Self {
        Self { path, option, socket: None, buffer: vec![0; message_bytes_max] }
    }

    /// Where it listens.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Listens, where it does not yet.
    pub(crate) fn bind(&mut self) -> Result<(), Unavailable> {
        if self.socket.is_some() {
            return Ok(());
        }
        let failed = |error: std::io::Error| {
            let (path, option) = (self.path.display(), self.option);
            let hint = format!("set {option} to a path in a folder of the agent's own");
            Unavailable::new((&error).into(), format!("listen on {path}: {error}; {hint}"))
        };
        // What an agent before us left behind.
        if std::fs::symlink_metadata(&self.path).is_ok_and(|found| found.file_type().is_socket()) {
            let _ = std::fs::remove_file(&self.path);
        }
        let socket = UnixDatagram::bind(&self.path).map_err(failed)?;
        std::fs::set_permissions(&self.path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        self.socket = Some(socket);
        Ok(())
    }

    /// The messages that wait, up to a turn's worth; what is none is a fault.
    pub(crate) fn take<M: DeserializeOwned>(&mut self, batch: &mut Batch) -> Result<Vec<M>, ReadError> {
        let Self { socket: Some(socket), buffer, .. } = self else { return Ok(Vec::new()) };
        let mut messages = Vec::new();
        for _ in 0..TURN_MAX {
            let length = match socket.recv(buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if messages.is_empty() => return Err(ReadError::io("receive from the helper", &error)),
                Err(_) => break,
            };
            match serde_json::from_slice(&buffer[..length]) {
                Ok(message) => messages.push(message),
                Err(_) => batch.fault(ErrorReason::Malformed),
            }
        }
        Ok(messages)
    }

    /// Becomes readable when the helper speaks.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }
}

impl Drop for Hearing {
    fn drop(&mut self) {
        if self.socket.is_some() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
