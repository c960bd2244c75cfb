//! Byte offsets of kernel struct members, from the running kernel's own type information.
//!
//! In: /sys/kernel/btf/vmlinux (Documentation/bpf/btf.rst). Out: offsets in bytes, or nothing where a struct or member
//! is not there: then what depends on it is off, and the caller says so. Never: an offset known from another kernel.

/// Type information of the running kernel.
pub struct KernelTypes {
    data: Vec<u8>,
    /// Start of each type's record, by id less one.
    types: Vec<u32>,
    strings: usize,
}

const STRUCT: u32 = 4;
const UNION: u32 = 5;

impl KernelTypes {
    /// Reads the running kernel's.
    pub fn running() -> std::io::Result<Self> {
        let data = std::fs::read("/sys/kernel/btf/vmlinux")?;
        Self::parse(data).ok_or_else(|| std::io::Error::other("/sys/kernel/btf/vmlinux is not BTF as documented"))
    }

    fn parse(data: Vec<u8>) -> Option<Self> {
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
            let at = *self.types.get(id.checked_sub(1)? as usize)? as usize;
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
        6 | 13 => members * 8,                    // enum, function prototype
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_found_through_anonymous_unions_and_nested_structs() {
        let mut strings = vec![0u8];
        let mut name = |text: &str| {
            let at = strings.len() as u32;
            strings.extend_from_slice(text.as_bytes());
            strings.push(0);
            at
        };
        let (outer, inner, first, wrapped, target) =
            (name("outer"), name("inner"), name("first"), name("wrapped"), name("target"));
        let mut types = Vec::new();
        // 1: int of 4 bytes; 2: struct inner {int first; int target}; 3: union {struct inner wrapped};
        // 4: struct outer {int first; <anonymous union 3>}
        types.extend([first, 1 << 24, 4, 32]);
        types.extend([inner, 4 << 24 | 2, 8, first, 1, 0, target, 1, 32]);
        types.extend([0, 5 << 24 | 1, 8, wrapped, 2, 0]);
        types.extend([outer, 4 << 24 | 2, 12, first, 1, 0, 0, 3, 32]);
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
            }
        }
    }
}
