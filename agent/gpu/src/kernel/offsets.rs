//! Byte offsets of kernel struct members, names of enumerators and arguments of tracepoints, from the running kernel's
//! own type information.
//!
//! In: /sys/kernel/btf/vmlinux (Documentation/bpf/btf.rst). Out: what was asked for, or nothing where a struct or member
//! is not there: then what depends on it is off, and the caller says so. Never: an offset known from another kernel.

use std::sync::{Arc, Mutex, PoisonError};

/// Type information of the running kernel.
pub struct KernelTypes {
    data: Vec<u8>,
    /// Start of each type's record, by id less one.
    types: Vec<u32>,
    strings: usize,
}

/// The running kernel's types for several readers: read when the first of them asks, and let go with the last of the handles.
#[derive(Clone, Default)]
pub struct Types(Arc<Mutex<Option<Arc<KernelTypes>>>>);

impl std::fmt::Debug for Types {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.write_str("Types")
    }
}

impl Types {
    /// They, read now if they were not yet.
    ///
    /// # Errors
    /// As for [`KernelTypes::running`]; the next call tries again.
    pub fn get(&self) -> std::io::Result<Arc<KernelTypes>> {
        let mut read = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*read {
            Some(types) => Ok(Arc::clone(types)),
            None => Ok(Arc::clone(read.insert(Arc::new(KernelTypes::running()?)))),
        }
    }
}

const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const TYPEDEF: u32 = 8;
const PROTOTYPE: u32 = 13;

impl KernelTypes {
    /// Reads the running kernel's.
    pub fn running() -> std::io::Result<Self> {
        let data = std::fs::read("/sys/kernel/btf/vmlinux")?;
        Self::parse(data).ok_or_else(|| std::io::Error::other("/sys/kernel/btf/vmlinux is not BTF as documented"))
    }

    /// Takes type information as the kernel lays it out; nothing where it is not as documented.
    pub fn parse(data: Vec<u8>) -> Option<Self> {
        if word(&data, 0)? & 0xffff != 0xeb9f {
            return None;
        }
        let header = word(&data, 4)? as usize;
        let first = header + word(&data, 8)? as usize;
        let end = first + word(&data, 12)? as usize;
        let strings = header + word(&data, 16)? as usize;
        let mut types = Vec::new();
        let mut at = first;
        while at < end {
            types.push(u32::try_from(at).ok()?);
            let info = word(&data, at + 4)?;
            at += 12 + extra(info)?;
        }
        Some(Self { data, types, strings })
    }

    /// Offset in bytes of `path` (member, member of that, …) in `struct name`; anonymous members are looked through.
    pub fn offset(&self, name: &str, path: &[&str]) -> Option<u32> {
        let mut at = self.types.iter().copied().map(|at| at as usize).find(|&at| {
            self.kind(at) == Some(STRUCT) && self.members(at) > 0 && self.name(at) == Some(name.as_bytes())
        })?;
        let mut bits = 0;
        for member in path {
            let (offset, id) = self.member(at, member, 0)?;
            bits += offset;
            // The last member's type need not be a struct.
            at = self.resolve(id).unwrap_or(at);
        }
        (bits % 8 == 0).then_some(bits / 8)
    }

    /// Names and values of `enum name`, in the order of its declaration; nothing where there is no such enum.
    pub fn enumerators(&self, name: &str) -> Option<Vec<(String, u32)>> {
        let at = self.find(ENUM, name)?;
        (0..self.members(at))
            .map(|index| {
                let member = at + 12 + index * 8;
                let name = String::from_utf8_lossy(self.name(member)?).into_owned();
                Some((name, word(&self.data, member + 4)?))
            })
            .collect()
    }

    /// How many arguments a tracepoint hands to a raw tracepoint program; nothing where there is no such tracepoint.
    pub fn tracepoint_arguments(&self, tracepoint: &str) -> Option<usize> {
        let typedef = self.find(TYPEDEF, &format!("btf_trace_{tracepoint}"))?;
        let pointer = self.by_id(word(&self.data, typedef + 8)?)?;
        let prototype = self.by_id(word(&self.data, pointer + 8)?)?;
        // The first parameter of the probe function is its own data.
        (self.kind(prototype)? == PROTOTYPE).then(|| self.members(prototype).saturating_sub(1))
    }

    fn find(&self, kind: u32, name: &str) -> Option<usize> {
        let mut types = self.types.iter().map(|&at| at as usize);
        types.find(|&at| self.kind(at) == Some(kind) && self.name(at) == Some(name.as_bytes()))
    }

    fn by_id(&self, id: u32) -> Option<usize> {
        Some(*self.types.get(id.checked_sub(1)? as usize)? as usize)
    }

    fn kind(&self, at: usize) -> Option<u32> {
        Some(word(&self.data, at + 4)? >> 24 & 0x1f)
    }

    fn members(&self, at: usize) -> usize {
        word(&self.data, at + 4).map_or(0, |info| info as usize & 0xffff)
    }

    fn name(&self, at: usize) -> Option<&[u8]> {
        let start = self.strings + word(&self.data, at)? as usize;
        self.data.get(start..)?.split(|&byte| byte == 0).next()
    }

    /// Offset in bits, and type id, of a member.
    fn member(&self, at: usize, name: &str, depth: u32) -> Option<(u32, u32)> {
        let bitfields = word(&self.data, at + 4)? >> 31 == 1;
        for index in 0..self.members(at) {
            let member = at + 12 + index * 12;
            let id = word(&self.data, member + 4)?;
            let raw = word(&self.data, member + 8)?;
            let offset = if bitfields { raw & 0x00ff_ffff } else { raw };
            if self.name(member) == Some(name.as_bytes()) {
                return Some((offset, id));
            }
            if self.name(member) == Some(b"")
                && depth < 8
                && let Some(inner) = self.resolve(id)
                && let Some((within, id)) = self.member(inner, name, depth + 1)
            {
                return Some((offset + within, id));
            }
        }
        None
    }

    /// The struct or union that an id stands for, through qualifiers and typedefs.
    fn resolve(&self, mut id: u32) -> Option<usize> {
        for _ in 0..16 {
            let at = self.by_id(id)?;
            match self.kind(at)? {
                STRUCT | UNION => return Some(at),
                // typedef, volatile, const, restrict, type tag
                8..=11 | 18 => id = word(&self.data, at + 8)?,
                _ => return None,
            }
        }
        None
    }
}

fn word(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(data.get(at..at + 4)?.try_into().ok()?))
}

/// Bytes that follow a type's common 12.
fn extra(info: u32) -> Option<usize> {
    let members = info as usize & 0xffff;
    Some(match info >> 24 & 0x1f {
        1 | 14 | 17 => 4,                         // int, variable, declaration tag
        2 | 7..=12 | 16 | 18 => 0,                // pointer, forward, qualifiers, function, float, type tag
        3 => 12,                                  // array
        STRUCT | UNION | 15 | 19 => members * 12, // data section and 64-bit enum too
        ENUM | PROTOTYPE => members * 8,          // enum, function prototype
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_enumerators_and_arguments_are_found() {
        let mut strings = vec![0u8];
        let mut name = |text: &str| {
            let at = strings.len() as u32;
            strings.extend_from_slice(text.as_bytes());
            strings.push(0);
            at
        };
        let (outer, inner, first, wrapped, target) =
            (name("outer"), name("inner"), name("first"), name("wrapped"), name("target"));
        let (second, traced) = (name("second"), name("btf_trace_first"));
        let mut types = Vec::new();
        // 1: int of 4 bytes; 2: struct inner {int first; int target}; 3: union {struct inner wrapped};
        // 4: struct outer {int first; <anonymous union 3>}; 5: enum first {target = 7, second = 9};
        // 6: void (*)(inner data, int first); 7: pointer to 6; 8: typedef 7 btf_trace_first
        types.extend([first, 1 << 24, 4, 32]);
        types.extend([inner, 4 << 24 | 2, 8, first, 1, 0, target, 1, 32]);
        types.extend([0, 5 << 24 | 1, 8, wrapped, 2, 0]);
        types.extend([outer, 4 << 24 | 2, 12, first, 1, 0, 0, 3, 32]);
        types.extend([first, 6 << 24 | 2, 4, target, 7, second, 9]);
        types.extend([0, 13 << 24 | 2, 0, 0, 2, 0, 1]);
        types.extend([0, 2 << 24, 6]);
        types.extend([traced, 8 << 24, 7]);
        let length = types.len() as u32 * 4;
        let mut data = Vec::new();
        for word in [0x1_eb9f, 24, 0, length, length, strings.len() as u32].into_iter().chain(types) {
            data.extend_from_slice(&u32::to_le_bytes(word));
        }
        data.extend_from_slice(&strings);
        let types = KernelTypes::parse(data).expect("well-formed");
        assert_eq!(types.offset("outer", &["wrapped", "target"]), Some(8));
        assert_eq!(types.offset("outer", &["missing"]), None);
        assert_eq!(types.offset("absent", &["first"]), None);
        assert_eq!(types.enumerators("first"), Some(vec![("target".to_owned(), 7), ("second".to_owned(), 9)]));
        assert_eq!(types.enumerators("outer"), None);
        assert_eq!(types.tracepoint_arguments("first"), Some(1));
        assert_eq!(types.tracepoint_arguments("second"), None);
    }

    #[test]
    fn truncated_type_information_is_refused_or_yields_nothing() {
        for length in 0..64 {
            let mut data = vec![0xffu8; length];
            if length >= 2 {
                data[0] = 0x9f;
                data[1] = 0xeb;
            }
            if let Some(types) = KernelTypes::parse(data) {
                assert_eq!(types.offset("task_struct", &["signal"]), None);
                assert_eq!(types.enumerators("skb_drop_reason"), None);
            }
        }
    }
}
