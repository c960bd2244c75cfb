//! Sizes that C enums stand for: collective datatypes and array formats.
//!
//! In: the enum's code as passed by the caller. Out: bytes per element, 0 where the code is unknown.

/// `ncclDataType_t` (nccl.h 2.28): int8, uint8, int32, uint32, int64, uint64, f16, f32, f64, bf16, f8e4m3, f8e5m2;
/// one nibble each.
const NCCL: u64 = 0x1128_4288_4411;
/// `HcclDataType` (hccl_types.h): int8, int16, int32, f16, f32, int64, uint64, uint8, uint16, uint32, f64, bf16, int128,
/// -, hif8, f8e4m3 (a nibble each; 128-bit ones are told apart below).
const HCCL: u64 = 0x1100_2842_1884_2421;

/// Bytes per element of an NCCL or RCCL datatype.
#[inline(always)]
pub const fn nccl_datatype(code: u64) -> u64 {
    if code < 12 { NCCL >> (4 * code) & 15 } else { 0 }
}

/// Bytes per element of an HCCL datatype.
#[inline(always)]
pub const fn hccl_datatype(code: u64) -> u64 {
    if code == 12 {
        16
    } else if code < 16 {
        HCCL >> (4 * code) & 15
    } else {
        0
    }
}

/// Bytes per channel of a `CUarray_format` or `hipArray_Format`: 1, 2, 3 unsigned 8, 16, 32 bits; 8, 9, 10 signed;
/// 0x10 half; 0x20 float.
#[inline(always)]
pub const fn array_format(code: u64) -> u64 {
    match code {
        1 | 8 => 1,
        2 | 9 | 0x10 => 2,
        3 | 10 | 0x20 => 4,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datatypes_have_the_sizes_their_headers_say() {
        let nccl = [1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1, 0];
        for (code, bytes) in nccl.iter().enumerate() {
            assert_eq!(nccl_datatype(code as u64), *bytes, "ncclDataType_t {code}");
        }
        let hccl = [1, 2, 4, 2, 4, 8, 8, 1, 2, 4, 8, 2, 16, 0, 1, 1, 0];
        for (code, bytes) in hccl.iter().enumerate() {
            assert_eq!(hccl_datatype(code as u64), *bytes, "HcclDataType {code}");
        }
    }
}
