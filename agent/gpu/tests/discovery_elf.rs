//! The search for functions in object files: what is found in which table, at which offset, and that no file makes it
//! panic or work without end. Needs gcc and readelf.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

mod discovery_fixtures;

use std::cell::Cell;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use discovery_fixtures::{Bench, build};
use proptest::prelude::*;
use railwatch_gpu::discovery::{ElfError, ElfIndex, Found, ReadAt, Symtab, Wanted, index};

const NAMES: [&str; 4] = ["cudaMalloc", "cudaFree", "ncclAllReduce", "pncclAllReduce"];

fn indexed(path: &Path) -> Result<ElfIndex, ElfError> {
    index(&File::open(path).unwrap(), &Wanted::new(NAMES))
}

/// Offset of a symbol by another reader: in these fixtures' code, address and offset differ by a constant per segment.
fn offset_by_readelf(path: &Path, name: &str) -> u64 {
    let run = |flags| {
        let output = Command::new("readelf").arg(flags).arg(path).output().expect("readelf runs (package binutils)");
        String::from_utf8(output.stdout).unwrap()
    };
    let hex = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap();
    let address = run("-sW")
        .lines()
        .map(|line| line.split_ascii_whitespace().collect::<Vec<_>>())
        .find(|words| words.len() == 8 && words[7].split('@').next() == Some(name) && words[6] != "UND")
        .map(|words| hex(words[1]))
        .unwrap_or_else(|| panic!("readelf shows no {name}"));
    run("-lW")
        .lines()
        .map(|line| line.split_ascii_whitespace().collect::<Vec<_>>())
        .filter(|words| words.first() == Some(&"LOAD"))
        .map(|words| (hex(words[1]), hex(words[2]), hex(words[4])))
        .find(|(_, start, length)| (*start..start + length).contains(&address))
        .map(|(offset, start, _)| address - start + offset)
        .unwrap()
}

const SOURCE: &str =
    "int cudaMalloc(void **p, unsigned long n) { *p = 0; return n; } int cudaFree(void *p) { return p != 0; }";

#[test]
fn functions_are_found_by_every_kind_of_table() {
    let bench = Bench::new();
    let main = "int main(void) { return 0; }";
    let versions = bench.path("versions");
    fs::write(&versions, "LIB_1 { global: cudaMalloc; cudaFree; local: *; };").unwrap();
    let versioned = format!("-Wl,--version-script={}", versions.display());
    for (name, source, flags) in [
        ("gnu hash", SOURCE.to_owned(), vec!["-shared", "-fPIC", "-s", "-Wl,--hash-style=gnu"]),
        ("System V hash", SOURCE.to_owned(), vec!["-shared", "-fPIC", "-s", "-Wl,--hash-style=sysv"]),
        ("versioned", SOURCE.to_owned(), vec!["-shared", "-fPIC", &versioned]),
        ("static program", format!("{SOURCE}{main}"), vec!["-static"]),
        ("position-independent static program", format!("{SOURCE}{main}"), vec!["-static-pie"]),
        ("program", format!("{SOURCE}{main}"), vec![]),
        ("program that exports", format!("{SOURCE}{main}"), vec!["-rdynamic", "-s"]),
        (
            "hidden",
            SOURCE.replace("int cuda", "__attribute__((visibility(\"hidden\"))) int cuda"),
            vec!["-shared", "-fPIC"],
        ),
    ] {
        let path = bench.path("object");
        build(&path, &source, &flags);
        let index = indexed(&path).unwrap();
        let mut found = index.found.iter().map(|point| (point.symbol, point.file_offset));
        if flags.contains(&"-s") {
            assert_eq!(found.map(|(symbol, _)| symbol).collect::<Vec<_>>(), [0, 1], "{name}");
            assert_eq!(index.symtab, Symtab::Absent);
        } else {
            assert_eq!(found.next(), Some((0, offset_by_readelf(&path, "cudaMalloc"))), "{name}");
            assert_eq!(found.next(), Some((1, offset_by_readelf(&path, "cudaFree"))), "{name}");
            assert_eq!(found.next(), None);
            assert_eq!(index.symtab, Symtab::Searched);
        }
        assert_eq!(
            index.is_program,
            !flags.contains(&"-shared") && name != "position-independent static program",
            "{name}"
        );
    }
}

#[test]
fn what_is_not_a_function_of_this_object_is_not_found() {
    let bench = Bench::new();
    for (name, source) in [
        ("imported", "int cudaMalloc(void **, unsigned long); int user(void) { return cudaMalloc(0, 1); }"),
        ("a variable", "int cudaMalloc = 3;"),
        (
            "an indirect function, whose address is its resolver's",
            "static int real(void) { return 1; } static void *pick(void) { return real; } int cudaMalloc(void) __attribute__((ifunc(\"pick\")));",
        ),
        ("a longer name", "int cudaMallocAsync(void) { return 1; } int cudaMallo(void) { return 2; }"),
        ("an absolute symbol", "__asm__(\".globl cudaMalloc; cudaMalloc = 0x1000\");"),
    ] {
        let path = bench.path("object.so");
        build(&path, source, &["-shared", "-fPIC"]);
        assert_eq!(indexed(&path).unwrap().found, [], "{name}");
    }
}

#[test]
fn of_aliases_at_one_address_the_first_in_the_table_is_taken() {
    let bench = Bench::new();
    let path = bench.path("libnccl.so");
    let source = "int pncclAllReduce(void) { return 1; } int ncclAllReduce(void) __attribute__((weak, alias(\"pncclAllReduce\")));";
    build(&path, source, &["-shared", "-fPIC"]);
    let offset = offset_by_readelf(&path, "pncclAllReduce");
    assert_eq!(indexed(&path).unwrap().found, [Found { symbol: 2, file_offset: offset }]);
}

#[test]
fn an_arm64_object_is_searched_and_other_kinds_are_refused_by_name() {
    let bench = Bench::new();
    let path = bench.path("object.so");
    build(&path, SOURCE, &["-shared", "-fPIC"]);
    let object = fs::read(&path).unwrap();
    let changed = |at: usize, value: u8| {
        let mut bytes = object.clone();
        bytes[at] = value;
        index(&bytes[..], &Wanted::new(NAMES))
    };
    let arm = changed(18, 183).unwrap();
    assert_eq!((arm.machine, arm.found.len()), (183, 2));
    for (at, value, message) in [
        (18, 243, "it is for another processor (ELF machine 243); x86-64 (62) and arm64 (183) are traced"),
        (4, 1, "it is a 32-bit object; only 64-bit ones are traced"),
        (16, 1, "it is not an ELF program or library"),
        (0, b'#', "it is not an ELF program or library"),
    ] {
        assert_eq!(changed(at, value).unwrap_err().to_string(), message);
    }
    assert!(matches!(index(&b"#!/bin/sh\n"[..], &Wanted::new(NAMES)), Err(ElfError::NotElf)));
}

/// Counts what is read.
struct Counting<'a>(&'a File, Cell<u64>);

impl ReadAt for Counting<'_> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.1.set(self.1.get() + buffer.len() as u64);
        self.0.read_at(buffer, offset)
    }
    fn size(&self) -> io::Result<u64> {
        ReadAt::size(self.0)
    }
}

#[test]
fn a_large_library_is_searched_by_reading_a_small_part_of_it() {
    let bench = Bench::new();
    let functions: String =
        (0..40_000).map(|number| format!("int filler_{number}(void) {{ return {number}; }}\n")).collect();
    let path = bench.path("liblarge.so");
    build(&path, &format!("{SOURCE}{functions}"), &["-O0", "-shared", "-fPIC", "-s"]);
    let file = File::open(&path).unwrap();
    let counting = Counting(&file, Cell::new(0));
    let found = index(&counting, &Wanted::new(NAMES)).unwrap().found;
    assert_eq!(found.len(), 2);
    let size = ReadAt::size(&file).unwrap();
    assert!(counting.1.get() < size / 20, "read {} of {size} bytes", counting.1.get());
}

#[test]
fn the_c_librarys_functions_are_found_where_readelf_shows_them() {
    let names = ["malloc", "free", "posix_memalign", "pthread_create", "no_such_function"];
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let path =
        maps.lines().find_map(|line| line.split_ascii_whitespace().nth(5).filter(|path| path.contains("/libc.so")));
    let path = PathBuf::from(path.expect("this test is linked with the C library"));
    let index = index(&File::open(&path).unwrap(), &Wanted::new(names)).unwrap();
    for (symbol, name) in (0..4).zip(names) {
        let offset = index.found.iter().find(|point| point.symbol == symbol).unwrap().file_offset;
        assert_eq!(offset, offset_by_readelf(&path, name), "{name}");
    }
    assert_eq!(index.found.len(), 4);
}

fn fixtures() -> Vec<Vec<u8>> {
    let bench = Bench::new();
    let main = "int main(void) { return 0; }";
    [
        (SOURCE.to_owned(), vec!["-shared", "-fPIC", "-nostdlib", "-Wl,--hash-style=gnu"]),
        (SOURCE.to_owned(), vec!["-shared", "-fPIC", "-nostdlib", "-Wl,--hash-style=sysv"]),
        (format!("{SOURCE}{main}"), vec!["-rdynamic"]),
    ]
    .map(|(source, flags)| {
        let path = bench.path("object");
        build(&path, &source, &flags);
        fs::read(path).unwrap()
    })
    .to_vec()
}

/// Where damage hurts most: headers, and the tables whose places readers compute with.
fn damage(bytes: &mut [u8], at: u16, value: u64, width: u8) {
    let at = usize::from(at) * bytes.len() / usize::from(u16::MAX);
    for (offset, byte) in value.to_le_bytes().into_iter().take(usize::from(width)).enumerate() {
        if let Some(target) = bytes.get_mut(at + offset) {
            *target = byte;
        }
    }
}

#[test]
fn no_damage_makes_the_search_panic_or_run_away() {
    let fixtures = fixtures();
    let wanted = Wanted::new(NAMES);
    let values = prop_oneof![any::<u64>(), Just(u64::MAX), Just(0), Just(u64::MAX / 24), 0_u64..0x10000];
    let one = (any::<u16>(), values, 1_u8..9);
    let header = (0_u16..0x180, prop_oneof![any::<u64>(), Just(u64::MAX), 0_u64..0x4000], 1_u8..9);
    let strategy = (
        0..fixtures.len(),
        prop::collection::vec(one, 0..8),
        prop::collection::vec(header, 0..4),
        prop::option::of(any::<u16>()),
    );
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 4000,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    runner
        .run(&strategy, |(which, damages, header, cut)| {
            let mut bytes = fixtures[which].clone();
            for (at, value, width) in damages {
                damage(&mut bytes, at, value, width);
            }
            for (at, value, width) in header {
                for (offset, byte) in value.to_le_bytes().into_iter().take(usize::from(width)).enumerate() {
                    bytes[usize::from(at) + offset] = byte;
                }
            }
            bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
            if let Some(cut) = cut {
                let length = usize::from(cut) * bytes.len() / usize::from(u16::MAX);
                bytes.truncate(length);
            }
            if let Ok(index) = index(&bytes[..], &wanted) {
                for point in &index.found {
                    prop_assert!(point.file_offset < bytes.len() as u64);
                }
            }
            Ok(())
        })
        .unwrap();
}
