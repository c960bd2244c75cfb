//! The attach cookie: all that the kernel half knows of a symbol, in 64 bits.
//!
//! In: [`Meaning`], from the agent's table of symbols. Out: [`Cookie`], whose fields the kernel half reads by shift
//! and mask. Never: a lookup; one generic program serves every symbol because the cookie says what it means.

use crate::args::Slot;

macro_rules! coded {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $value:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum $name { $($(#[$variant_doc])* $variant = $value,)+ }
        impl $name {
            /// Every value, by rising code.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The value with this code.
            pub const fn from_code(code: u8) -> Option<Self> {
                match code {
                    $($value => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }
    };
}

coded! {
    /// The interface that a symbol belongs to. Nesting is judged within a layer, balances are kept per layer.
    Layer {
        /// CUDA runtime, `cuda*`.
        CudaRuntime = 0,
        /// CUDA driver, `cu*`.
        CudaDriver = 1,
        /// AMD HIP, `hip*`.
        Hip = 2,
        /// Huawei Ascend, `aclrt*`.
        Acl = 3,
        /// NCCL and RCCL, `nccl*`.
        Nccl = 4,
        /// Huawei HCCL, `Hccl*`.
        Hccl = 5,
    }
}

coded! {
    /// What a call does.
    Op {
        /// Counted, with the time inside it.
        Count = 0,
        /// Allocates.
        Alloc = 1,
        /// Frees (closes, for imported memory).
        Free = 2,
        /// Sets the device of the thread.
        SetDevice = 3,
        /// Frees all that the process has on a device.
        DeviceReset = 4,
        /// Creates a context on a device and makes it current.
        ContextCreate = 5,
        /// Destroys a context with all its memory.
        ContextDestroy = 6,
        /// Replaces the current context.
        ContextSet = 7,
        /// Pushes a context.
        ContextPush = 8,
        /// Pops a context.
        ContextPop = 9,
        /// Retains the primary context of a device.
        PrimaryRetain = 10,
        /// Releases the primary context of a device.
        PrimaryRelease = 11,
        /// Resets the primary context of a device.
        PrimaryReset = 12,
        /// Maps a physical allocation at an address.
        Map = 13,
        /// Unmaps addresses.
        Unmap = 14,
        /// Retains the physical allocation behind an address.
        HandleRetain = 15,
        /// Joins a communicator as a rank.
        CommInit = 16,
        /// Creates the communicators of all devices of one process.
        CommInitAll = 17,
        /// Splits a communicator.
        CommSplit = 18,
        /// Ends a communicator in order.
        CommDestroy = 19,
        /// Ends a communicator by force.
        CommAbort = 20,
        /// Enqueues a collective.
        Collective = 21,
        /// Enqueues a point-to-point transfer.
        PointToPoint = 22,
    }
}

coded! {
    /// What an allocation is made of.
    Kind {
        /// Memory of the device; managed memory counts as such.
        Device = 0,
        /// Pinned memory of the host.
        Host = 1,
        /// Another process's memory, opened here: counted, with no bytes.
        Imported = 2,
    }
}

coded! {
    /// The name space of the value that identifies an allocation.
    Space {
        /// A device or host address.
        Address = 0,
        /// An array object.
        Array = 1,
        /// A physical allocation handle, counted by references and mappings.
        Handle = 2,
        /// A mapped address range.
        Mapping = 3,
    }
}

coded! {
    /// How the bytes of an allocation are found.
    SizeRule {
        /// No bytes (imports).
        Nothing = 0,
        /// `args[1]` bytes.
        Bytes = 1,
        /// `*args[1]` (pitch, an out-parameter) × `args[2]` rows.
        Pitch = 2,
        /// A `cudaPitchedPtr` at `args[0]` and a `cudaExtent` at `args[1]`.
        Pitch3d = 3,
        /// A channel descriptor at `args[1]`, width `args[2]`, height `args[3]`.
        Array = 4,
        /// A channel descriptor at `args[1]` and a `cudaExtent` at `args[2]`.
        Array3d = 5,
        /// A `CUDA_ARRAY_DESCRIPTOR` at `args[1]`.
        DriverArray = 6,
        /// A `CUDA_ARRAY3D_DESCRIPTOR` at `args[1]`.
        DriverArray3d = 7,
        /// As [`SizeRule::Array3d`], with `args[3]` mipmap levels.
        Mipmap = 8,
        /// As [`SizeRule::DriverArray3d`], with `args[2]` mipmap levels.
        DriverMipmap = 9,
    }
}

coded! {
    /// How the device of an allocation is found.
    DeviceRule {
        /// The device current on the thread.
        Current = 0,
        /// A `CUmemAllocationProp` at `args[2]`; memory of the host is told apart by it.
        CudaProperties = 1,
        /// An `aclrtPhysicalMemProp` at `args[2]`.
        AclProperties = 2,
        /// A `CUmemAllocationProp`-shaped `hipMemAllocationProp` at `args[2]`.
        HipProperties = 3,
    }
}

/// What one symbol means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meaning {
    /// Index into the table of symbols, below 1024.
    pub symbol: u16,
    /// What the call does.
    pub op: Op,
    /// Its interface.
    pub layer: Layer,
    /// What it allocates.
    pub kind: Kind,
    /// What identifies it.
    pub space: Space,
    /// Where the bytes come from.
    pub size: SizeRule,
    /// Where the device comes from.
    pub device: DeviceRule,
    /// Arguments by role; the roles are the op's and the size rule's:
    /// out-pointer, size…, (Alloc); address (Free); device (SetDevice, DeviceReset, Primary*); out-pointer, device
    /// (ContextCreate); context (Context*); address, size, handle (Map, Unmap); out-pointer, address (HandleRetain);
    /// out-pointer, ranks, unique id, rank (CommInit); communicator (CommDestroy, CommAbort);
    /// parent, colour, out-pointer (CommSplit); communicator, count, datatype (Collective, PointToPoint).
    pub args: [Slot; 4],
    /// Stack words are to be saved at entry.
    pub stack: bool,
}

/// A [`Meaning`] in 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Cookie(pub u64);

const OP: u32 = 10;
const LAYER: u32 = 15;
const KIND: u32 = 18;
const SPACE: u32 = 20;
const SIZE: u32 = 22;
const DEVICE: u32 = 26;
const ARGS: u32 = 28;
const STACK: u32 = 44;

impl Cookie {
    /// Set where stack words are to be saved at entry.
    pub const STACK: u64 = 1 << STACK;

    /// Packs.
    pub const fn new(m: Meaning) -> Self {
        Self(
            m.symbol as u64
                | (m.op as u64) << OP
                | (m.layer as u64) << LAYER
                | (m.kind as u64) << KIND
                | (m.space as u64) << SPACE
                | (m.size as u64) << SIZE
                | (m.device as u64) << DEVICE
                | (m.args[0].0 as u64) << ARGS
                | (m.args[1].0 as u64) << (ARGS + 4)
                | (m.args[2].0 as u64) << (ARGS + 8)
                | (m.args[3].0 as u64) << (ARGS + 12)
                | (m.stack as u64) << STACK,
        )
    }

    /// Index into the table of symbols.
    #[inline(always)]
    pub const fn symbol(self) -> u16 {
        (self.0 & 0x3ff) as u16
    }
    /// Code of the [`Op`].
    #[inline(always)]
    pub const fn op(self) -> u8 {
        (self.0 >> OP & 0x1f) as u8
    }
    /// Code of the [`Layer`].
    #[inline(always)]
    pub const fn layer(self) -> u8 {
        (self.0 >> LAYER & 7) as u8
    }
    /// Code of the [`Kind`].
    #[inline(always)]
    pub const fn kind(self) -> u8 {
        (self.0 >> KIND & 3) as u8
    }
    /// Code of the [`Space`].
    #[inline(always)]
    pub const fn space(self) -> u8 {
        (self.0 >> SPACE & 3) as u8
    }
    /// Code of the [`SizeRule`].
    #[inline(always)]
    pub const fn size_rule(self) -> u8 {
        (self.0 >> SIZE & 15) as u8
    }
    /// Code of the [`DeviceRule`].
    #[inline(always)]
    pub const fn device_rule(self) -> u8 {
        (self.0 >> DEVICE & 3) as u8
    }
    /// Slot of the argument with role `n`, below 4.
    #[inline(always)]
    pub const fn arg(self, n: u32) -> u8 {
        (self.0 >> (ARGS + 4 * n) & 15) as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_survives_packing_at_its_limits() {
        for &(symbol, slot) in &[(0, 0), (1023, 15), (513, 10)] {
            for &op in Op::ALL {
                for &layer in Layer::ALL {
                    for (&size, &device) in SizeRule::ALL.iter().zip(DeviceRule::ALL.iter().cycle()) {
                        let m = Meaning {
                            symbol,
                            op,
                            layer,
                            kind: Kind::Imported,
                            space: Space::Mapping,
                            size,
                            device,
                            args: [Slot(slot), Slot(15 - slot), Slot(slot), Slot(3)],
                            stack: symbol == 513,
                        };
                        let c = Cookie::new(m);
                        assert_eq!(
                            (c.symbol(), c.op(), c.layer(), c.kind(), c.space(), c.size_rule(), c.device_rule()),
                            (symbol, op as u8, layer as u8, 2, 3, size as u8, device as u8)
                        );
                        assert_eq!([c.arg(0), c.arg(1), c.arg(2), c.arg(3)], [slot, 15 - slot, slot, 3]);
                        assert_eq!(c.0 & Cookie::STACK != 0, m.stack);
                    }
                }
            }
        }
    }
}
