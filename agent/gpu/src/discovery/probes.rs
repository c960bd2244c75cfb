//! Discovery's [`Attacher`] on the kernel half.
//!
//! In: objects with their points. Out: calls of [`Kernel`]. It remembers which attachment belongs to which object, and
//! which layers the object's functions are of.

use std::collections::HashMap;

use railwatch_abi::cookie::Layer;

use super::attach::{AttachError, Attachable, Attached, Attacher, ObjectId};
use crate::kernel::{self, AttachmentId, Kernel};
use crate::symbols::SymbolId;

/// The kernel half, with what discovery has attached.
pub struct Probes {
    /// The kernel half.
    pub kernel: Kernel,
    objects: HashMap<ObjectId, (AttachmentId, Vec<Layer>)>,
}

impl Probes {
    /// Takes over a loaded kernel half. Discovery is to be given the names of [`crate::symbols::TABLE`] in order.
    #[must_use]
    pub fn new(kernel: Kernel) -> Self {
        Self { kernel, objects: HashMap::new() }
    }
}

impl Attacher for Probes {
    fn attach(&mut self, object: &Attachable<'_>) -> Result<Attached, AttachError> {
        let points: Vec<(SymbolId, u64)> =
            object.points.iter().map(|point| (SymbolId(point.symbol), point.file_offset)).collect();
        let attached = self.kernel.attach(object.probe_path, &points).map_err(|error| {
            AttachError(match error {
                // The path given is a descriptor's: people know the file by another.
                kernel::AttachError::AllFailed { points, source, .. } => {
                    format!("none of its {points} functions could be attached, the first because: {source}")
                }
                kernel::AttachError::File { source, .. } => format!("attaching to it failed: {source}"),
                other => other.to_string(),
            })
        })?;
        let mut layers: Vec<Layer> = points.iter().filter_map(|(id, _)| Some(id.get()?.layer)).collect();
        layers.dedup();
        self.objects.insert(object.id, (attached.id, layers));
        let first_error = attached
            .failures
            .first()
            .map(|(id, error)| format!("{}: {error}", id.get().map_or("a function", |symbol| symbol.name)));
        Ok(Attached { points: attached.points, first_error, kept: attached.already })
    }

    fn detach(&mut self, object: ObjectId) {
        if let Some((attachment, _)) = self.objects.remove(&object) {
            self.kernel.detach(attachment);
        }
    }

    fn mark_late(&mut self, pid: u32, object: ObjectId) {
        let Some((_, layers)) = self.objects.get(&object) else { return };
        if let Err(error) = self.kernel.mark_late(pid, layers)
            && super::procfs::is_alive(pid)
        {
            tracing::error!(pid, %error, "marking a process whose figures begin in the middle failed: they look whole");
        }
    }
}
