//! Lets discovery attach the kernel half, or says why it cannot.

use railwatch_abi::cookie::Layer;
use railwatch_gpu::discovery::{AttachError, Attachable, Attached, Attacher, Found, ObjectId};
use railwatch_gpu::kernel::{AttachmentId, Kernel};
use railwatch_gpu::symbols::SymbolId;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Attaches through the kernel half that other threads share.
pub struct KernelAttacher {
    kernel: Option<Arc<Mutex<Kernel>>>,
    attached: HashMap<ObjectId, AttachmentId>,
    /// The interfaces of objects, attached or about to be.
    layers: HashMap<ObjectId, Vec<Layer>>,
}

impl KernelAttacher {
    /// Without a kernel half nothing can be attached; what uses a GPU is still found and reported.
    pub fn new(kernel: Option<Arc<Mutex<Kernel>>>) -> Self {
        Self { kernel, attached: HashMap::new(), layers: HashMap::new() }
    }
}

impl Attacher for KernelAttacher {
    fn attach(&mut self, object: &Attachable<'_>) -> Result<Attached, AttachError> {
        let Some(kernel) = &self.kernel else {
            return Err(AttachError("the kernel half is not loaded: see the limitations of this host".into()));
        };
        self.layers.insert(object.id, layers(object.points));
        let points: Vec<_> = object.points.iter().map(|point| (SymbolId(point.symbol), point.file_offset)).collect();
        let attached = kernel
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .attach(object.probe_path, &points)
            .map_err(|error| AttachError(error.to_string()))?;
        self.attached.insert(object.id, attached.id);
        Ok(Attached {
            points: attached.points,
            first_error: attached.failures.first().map(|(symbol, error)| {
                format!("{}: {error}", symbol.get().map_or("a function", |symbol| symbol.name))
            }),
            kept: attached.already,
        })
    }

    fn detach(&mut self, object: ObjectId) {
        self.layers.remove(&object);
        if let (Some(kernel), Some(id)) = (&self.kernel, self.attached.remove(&object)) {
            kernel.lock().unwrap_or_else(PoisonError::into_inner).detach(id);
        }
    }

    fn mark_late(&mut self, pid: u32, object: ObjectId) {
        let (Some(kernel), Some(layers)) = (&self.kernel, self.layers.get(&object)) else { return };
        if let Err(error) = kernel.lock().unwrap_or_else(PoisonError::into_inner).mark_late(pid, layers)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::error!(pid, %error, "a process that ran before it was traced could not be marked: its figures look whole and are not");
        }
    }
}

fn layers(points: &[Found]) -> Vec<Layer> {
    let mut layers: Vec<_> = points.iter().filter_map(|point| Some(SymbolId(point.symbol).get()?.layer)).collect();
    layers.sort_unstable();
    layers.dedup();
    layers
}
