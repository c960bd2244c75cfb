//! Where the C calling conventions put an argument, per architecture.
//!
//! In: the position of a parameter in the C prototype, and the one large struct passed by value, if there is one.
//! Out: a [`Slot`] of the saved call (registers first, then words of the caller's stack).
//! Never: reading a register. That is the kernel half's part; this part is pure and tested on any host.
//!
//! x86-64 System V ABI §3.2.3: six integer registers; a struct over 16 bytes is copied to the stack and takes no
//! register. AAPCS64 §6.8.2 (B.4): eight integer registers; a struct over 16 bytes is passed by reference.

/// The architecture whose calling convention is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    /// System V AMD64.
    X86_64,
    /// AAPCS64.
    Aarch64,
}

impl Arch {
    /// The architecture this code runs on.
    #[cfg(target_arch = "x86_64")]
    pub const HOST: Self = Self::X86_64;
    /// The architecture this code runs on.
    #[cfg(target_arch = "aarch64")]
    pub const HOST: Self = Self::Aarch64;

    /// Integer argument registers.
    pub const fn registers(self) -> u8 {
        match self {
            Self::X86_64 => 6,
            Self::Aarch64 => 8,
        }
    }
}

/// A struct over 16 bytes that is passed by value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByValue {
    /// Position in the C prototype, from 0.
    pub position: u8,
    /// Size in 8-byte words.
    pub words: u8,
}

/// Words of the caller's stack that the kernel half saves for calls whose cookie says [`crate::cookie::Cookie::STACK`].
pub const STACK_WORDS: usize = 3;
/// Index of the first saved stack word.
pub const STACK_FIRST: u8 = 8;
/// Length of the saved call: eight registers, then the stack words.
pub const SLOTS: usize = STACK_FIRST as usize + STACK_WORDS;

/// Index into the saved call; [`Slot::NONE`] for "no such argument".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(pub u8);

impl Slot {
    /// There is no such argument.
    pub const NONE: Self = Self(15);

    /// Whether the argument lies on the caller's stack.
    pub const fn on_stack(self) -> bool {
        self.0 >= STACK_FIRST && self.0 != Self::NONE.0
    }
}

/// The slot of the argument at `position`. For the by-value struct itself: the register that holds its address
/// (aarch64), or its first stack word (x86-64).
///
/// # Panics
/// If the argument lies beyond the saved stack words: the table of symbols is wrong, and its test shows it.
pub const fn locate(arch: Arch, by_value: Option<ByValue>, position: u8) -> Slot {
    let mut register = 0;
    let mut stack = 0;
    let mut at = 0;
    loop {
        let words = match by_value {
            Some(large) if large.position == at && matches!(arch, Arch::X86_64) => large.words,
            _ => 0,
        };
        let in_register = words == 0 && register < arch.registers();
        if at == position {
            if in_register {
                return Slot(register);
            }
            assert!((stack as usize) < STACK_WORDS, "argument beyond the saved stack words");
            return Slot(STACK_FIRST + stack);
        }
        if in_register {
            register += 1;
        } else {
            stack += if words == 0 { 1 } else { words };
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_found_where_each_calling_convention_puts_them() {
        let id = Some(ByValue { position: 2, words: 16 });
        let extent = Some(ByValue { position: 1, words: 3 });
        let array_extent = Some(ByValue { position: 2, words: 3 });
        // (what, by value, position, x86-64 slot, aarch64 slot)
        let cases = [
            ("cudaMalloc devPtr", None, 0, 0, 0),
            ("cudaMalloc size", None, 1, 1, 1),
            ("ncclAllReduce comm", None, 5, 5, 5),
            ("ncclReduce comm", None, 6, 8, 6),
            ("ncclReduce stream", None, 7, 9, 7),
            ("HcclAlltoAllV comm", None, 8, 10, 8),
            ("ncclCommInitRank comm", id, 0, 0, 0),
            ("ncclCommInitRank nranks", id, 1, 1, 1),
            ("ncclCommInitRank id", id, 2, 8, 2),
            ("ncclCommInitRank rank", id, 3, 2, 3),
            ("cudaMalloc3D extent", extent, 1, 8, 1),
            ("cudaMallocMipmappedArray extent", array_extent, 2, 8, 2),
            ("cudaMallocMipmappedArray levels", array_extent, 3, 2, 3),
        ];
        for (what, by_value, position, x86, arm) in cases {
            assert_eq!(locate(Arch::X86_64, by_value, position), Slot(x86), "{what} on x86-64");
            assert_eq!(locate(Arch::Aarch64, by_value, position), Slot(arm), "{what} on aarch64");
        }
    }
}
