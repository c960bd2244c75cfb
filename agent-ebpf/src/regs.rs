//! Registers at a trap, per architecture. The only file that knows `pt_regs`.
//!
//! In: the program's context. Out: argument registers and stack words as `railwatch_abi::args` numbers them.

use aya_ebpf::helpers::generated::bpf_get_attach_cookie;
use core::ptr::read_volatile;
use railwatch_abi::args::{SLOTS, STACK_FIRST};
use railwatch_abi::cookie::Cookie;

use crate::user;

/// `struct pt_regs` (arch/x86/include/asm/ptrace.h).
#[cfg(bpf_target_arch = "x86_64")]
#[repr(C)]
pub struct Layout {
    saved: [u64; 6],
    r11: u64,
    r10: u64,
    r9: u64,
    r8: u64,
    rax: u64,
    rcx: u64,
    rdx: u64,
    rsi: u64,
    rdi: u64,
    orig_rax: u64,
    rip: u64,
    cs: u64,
    eflags: u64,
    rsp: u64,
}

/// `struct user_pt_regs` (arch/arm64/include/uapi/asm/ptrace.h).
#[cfg(bpf_target_arch = "aarch64")]
#[repr(C)]
pub struct Layout {
    regs: [u64; 31],
    sp: u64,
}

/// Saved registers of the traced thread.
pub struct Regs(pub *const Layout);

/// Loads one register: a load at a fixed offset of the context, as the verifier wants it.
macro_rules! load {
    ($self:ident, $($field:tt)+) => {
        // SAFETY: the context of a probe is a `pt_regs`, which the layout mirrors.
        unsafe { read_volatile(&raw const (*$self.0).$($field)+) }
    };
}

/// Uretprobes replace a frame's return address by that of their trampoline, which lies at the start of a page
/// (`uprobe_get_trampoline_vaddr`, kernel/events/uprobes.c); a call's own return address lies behind a call.
const fn is_trampoline(return_address: u64) -> bool {
    return_address != 0 && return_address & 0xfff == 0
}

impl Regs {
    /// What the traced function means.
    #[inline(always)]
    pub fn cookie(&self) -> Cookie {
        // SAFETY: the context is this program's.
        Cookie(unsafe { bpf_get_attach_cookie(self.0.cast_mut().cast()) })
    }
}

#[cfg(bpf_target_arch = "x86_64")]
impl Regs {
    /// At entry: the address of the return address.
    #[inline(always)]
    pub fn stack_pointer(&self) -> u64 {
        load!(self, rsp)
    }

    /// At return: what [`Self::stack_pointer`] was at entry. The return has popped one word.
    #[inline(always)]
    pub fn stack_pointer_at_entry(&self) -> u64 {
        load!(self, rsp) - 8
    }

    /// The returned status.
    #[inline(always)]
    pub fn result(&self) -> i32 {
        load!(self, rax) as i32
    }

    /// Saves the argument registers.
    #[inline(always)]
    pub fn save(&self, args: &mut [u64; SLOTS]) {
        args[0] = load!(self, rdi);
        args[1] = load!(self, rsi);
        args[2] = load!(self, rdx);
        args[3] = load!(self, rcx);
        args[4] = load!(self, r8);
        args[5] = load!(self, r9);
    }

    /// Saves the first words of the arguments that lie on the stack.
    #[inline(always)]
    pub fn save_stack(&self, args: &mut [u64; SLOTS]) {
        let first = load!(self, rsp) + 8;
        let at = STACK_FIRST as usize;
        args[at] = user::read(first).unwrap_or(0);
        args[at + 1] = user::read(first + 8).unwrap_or(0);
        args[at + 2] = user::read(first + 16).unwrap_or(0);
    }

    /// The address of a large struct passed by value.
    #[inline(always)]
    pub fn by_value(stack_pointer: u64, _args: &[u64; SLOTS], _slot: u8) -> u64 {
        stack_pointer + 8
    }

    /// Whether the frame that began at `frame` still waits for its return.
    #[inline(always)]
    pub fn frame_alive(&self, frame: u64, _stack_pointer: u64) -> bool {
        is_trampoline(user::read(frame).unwrap_or(0))
    }
}

#[cfg(bpf_target_arch = "aarch64")]
impl Regs {
    /// At entry: the stack pointer.
    #[inline(always)]
    pub fn stack_pointer(&self) -> u64 {
        load!(self, sp)
    }

    /// At return: what [`Self::stack_pointer`] was at entry. The callee has restored it.
    #[inline(always)]
    pub fn stack_pointer_at_entry(&self) -> u64 {
        load!(self, sp)
    }

    /// The returned status.
    #[inline(always)]
    pub fn result(&self) -> i32 {
        load!(self, regs[0]) as i32
    }

    /// Saves the argument registers.
    #[inline(always)]
    pub fn save(&self, args: &mut [u64; SLOTS]) {
        args[0] = load!(self, regs[0]);
        args[1] = load!(self, regs[1]);
        args[2] = load!(self, regs[2]);
        args[3] = load!(self, regs[3]);
        args[4] = load!(self, regs[4]);
        args[5] = load!(self, regs[5]);
        args[6] = load!(self, regs[6]);
        args[7] = load!(self, regs[7]);
    }

    /// Saves the first words of the arguments that lie on the stack.
    #[inline(always)]
    pub fn save_stack(&self, args: &mut [u64; SLOTS]) {
        let first = load!(self, sp);
        let at = STACK_FIRST as usize;
        args[at] = user::read(first).unwrap_or(0);
        args[at + 1] = user::read(first + 8).unwrap_or(0);
        args[at + 2] = user::read(first + 16).unwrap_or(0);
    }

    /// The address of a large struct passed by value.
    #[inline(always)]
    pub fn by_value(_stack_pointer: u64, args: &[u64; SLOTS], slot: u8) -> u64 {
        user::arg(args, slot)
    }

    /// Whether the frame that began at `frame` still waits for its return. The return address lies in the link
    /// register only until the callee saves it, so a deeper call is taken for a nested one.
    #[inline(always)]
    pub fn frame_alive(&self, frame: u64, stack_pointer: u64) -> bool {
        stack_pointer < frame || is_trampoline(load!(self, regs[30]))
    }
}
