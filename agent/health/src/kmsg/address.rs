//! Where corrected memory errors lie, and whether they lie together.
//!
//! In: the details of the kernel's lines about corrected errors, with their times. Out: a [`Finding`] when errors of the last day
//! repeat at one cell, or spread along one row, one column or through one bank of a memory module: three errors are no chance.
//! What repeats decides the cure: a cell is cured by taking its page out of use, a row or a bank by replacing the module.
//! Pure: no clock, no IO; at most [`ERRORS_MAX`] errors are remembered. Never: a guess where a driver tells no address.
//!
//! Wording: drivers/edac/edac_mc.c (`edac_ce_error`: page and offset), skx_common.c (row, column, bank, by the firmware's own
//! decoder "Row:0x… Column:0x… Bank:0x… BankGroup:0x…" or the driver's "bg:… ba:… row:0x… col:0x…").

use std::collections::{BTreeSet, VecDeque};

/// Errors remembered; the oldest go.
const ERRORS_MAX: usize = 256;
/// How long an error is remembered.
const REMEMBERED_NS: u64 = 24 * 3_600_000_000_000;
/// Errors together that are no chance.
const TOGETHER: usize = 3;

/// Where an error lies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Address {
    /// The module, in the driver's words.
    pub(super) module: String,
    /// Physical address, bytes, as far as the driver knows it.
    physical: Option<u64>,
    /// Within the module: bank and its group, rank; row; column.
    bank: Option<[u64; 3]>,
    row: Option<u64>,
    column: Option<u64>,
}

impl Address {
    /// Out of "memory read error on MODULE (NAME:NUMBER NAME:NUMBER …)"; `None` where no address is told.
    pub(super) fn parse(controller: &str, detail: &str) -> Option<Self> {
        let (words, numbers) = detail.split_once('(')?;
        let module = words.rsplit_once(" on ").map_or(words, |(_, module)| module).trim();
        let number = |names: &[&str]| {
            numbers.split([' ', ')', ',']).find_map(|word| {
                let (name, value) = word.split_once(':')?;
                names.iter().any(|known| known.eq_ignore_ascii_case(name)).then(|| parse(value))?
            })
        };
        // Pages of 4 KiB on x86, where EDAC is; a page of 0 without offset is "not known".
        let page = number(&["page"]).zip(number(&["offset"])).filter(|place| *place != (0, 0));
        let bank = number(&["bank", "ba"]).map(|bank| {
            let other = |names| number(names).unwrap_or_default();
            [bank, other(&["bankgroup", "bg"]), other(&["physicalrankid", "rank"])]
        });
        let found = Self {
            module: format!("mc{controller} {module}"),
            physical: page.and_then(|(page, offset)| page.checked_mul(4096)?.checked_add(offset)),
            row: number(&["row"]).filter(|_| bank.is_some()),
            column: number(&["column", "col"]).filter(|_| bank.is_some()),
            bank,
        };
        (found.physical.is_some() || found.row.is_some()).then_some(found)
    }
}

fn parse(text: &str) -> Option<u64> {
    text.strip_prefix("0x").map_or_else(|| text.parse().ok(), |hex| u64::from_str_radix(hex, 16).ok())
}

/// What errors have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Pattern {
    Cell,
    Row,
    Column,
    Bank,
}

impl Pattern {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Cell => "cell",
            Self::Row => "row",
            Self::Column => "column",
            Self::Bank => "bank",
        }
    }
}

/// Errors that lie together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) module: String,
    pub(super) pattern: Pattern,
    /// Errors of the last day that lie so.
    pub(super) errors: usize,
}

/// The errors of the last day.
#[derive(Debug, Default)]
pub(super) struct Together {
    errors: VecDeque<(u64, Address)>,
    /// What was told, and when.
    told: Vec<(u64, String, Pattern)>,
}

impl Together {
    /// Takes an error; what it makes known, once a day for each module and pattern.
    pub(super) fn take(&mut self, address: Address, at_ns: u64) -> Option<Finding> {
        let is_old = |then: u64| at_ns.saturating_sub(then) > REMEMBERED_NS;
        while self.errors.len() >= ERRORS_MAX || self.errors.front().is_some_and(|(then, _)| is_old(*then)) {
            self.errors.pop_front();
        }
        self.told.retain(|(then, ..)| !is_old(*then));
        let module = address.module.clone();
        self.errors.push_back((at_ns, address));
        let (pattern, errors) = self.of_last()?;
        if self.told.iter().any(|(_, known, told)| *known == module && *told >= pattern) {
            return None;
        }
        if self.told.len() >= ERRORS_MAX {
            self.told.remove(0);
        }
        self.told.push((at_ns, module.clone(), pattern));
        Some(Finding { module, pattern, errors })
    }

    /// What the newest error has in common with others, the widest pattern first: a bank that fails has rows that fail.
    fn of_last(&self) -> Option<(Pattern, usize)> {
        let (_, last) = self.errors.back()?;
        let of_module = || self.errors.iter().map(|(_, other)| other).filter(|other| other.module == last.module);
        let of_bank: Vec<&Address> = of_module()
            .filter(|other| other.bank.is_some() && other.bank == last.bank && other.row.is_some())
            .collect();
        let distinct = |values: &mut dyn Iterator<Item = Option<u64>>| values.flatten().collect::<BTreeSet<_>>().len();
        let rows = distinct(&mut of_bank.iter().map(|other| other.row));
        let columns = distinct(&mut of_bank.iter().map(|other| other.column));
        if rows >= TOGETHER && columns >= TOGETHER {
            return Some((Pattern::Bank, of_bank.len()));
        }
        let in_row = || of_bank.iter().filter(|other| other.row == last.row);
        if distinct(&mut in_row().map(|other| other.column)) >= TOGETHER {
            return Some((Pattern::Row, in_row().count()));
        }
        let in_column = || of_bank.iter().filter(|other| other.column.is_some() && other.column == last.column);
        if distinct(&mut in_column().map(|other| other.row)) >= TOGETHER {
            return Some((Pattern::Column, in_column().count()));
        }
        let is_same = |other: &&Address| match (other.physical, last.physical) {
            (Some(other), Some(last)) => other == last,
            _ => other.bank.is_some() && (other.bank, other.row, other.column) == (last.bank, last.row, last.column),
        };
        let cell = of_module().filter(is_same).count();
        (cell >= TOGETHER).then_some((Pattern::Cell, cell))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOUR_NS: u64 = 3_600_000_000_000;

    /// A line as skx_edac writes it with its own decoder.
    fn detail(module: u32, physical: u64, bank: u64, row: u64, column: u64) -> String {
        format!(
            "memory read error on CPU_SrcID#0_MC#0_Chan#0_DIMM#{module} (channel:0 slot:{module} page:{:#x} offset:{:#x} grain:32 \
             syndrome:0x0 -  err_code:0x0000:0x009f socket:0 imc:0 rank:1 bg:2 ba:{bank} row:{row:#x} col:{column:#x})",
            physical >> 12,
            physical & 0xfff
        )
    }

    #[test]
    fn an_address_is_found_in_each_drivers_words() {
        let own = Address::parse("0", &detail(1, 0x1234_5040, 3, 0x8b53, 0x308));
        let expected = Address {
            module: "mc0 CPU_SrcID#0_MC#0_Chan#0_DIMM#1".into(),
            physical: Some(0x1234_5040),
            bank: Some([3, 2, 1]),
            row: Some(0x8b53),
            column: Some(0x308),
        };
        assert_eq!(own.as_ref(), Some(&expected));
        let firmware = "memory read error on CPU_SrcID#0_MC#0_Chan#0_DIMM#1 (channel:0 slot:1 page:0x12345 offset:0x40 grain:32 \
                        syndrome:0x0 -  err_code:0x0000:0x009f PhysicalRankId:0x1 Row:0x8b53 Column:0x308 Bank:0x3 BankGroup:0x2)";
        assert_eq!(Address::parse("0", firmware), Some(expected));
        let amd = Address::parse(
            "1",
            "Corrected error on mc#1csrow#2channel#1 (csrow:2 channel:1 page:0x5 offset:0x20 grain:64)",
        );
        assert_eq!(amd.and_then(|address| address.physical), Some(0x5020));
        for nothing in [
            "",
            "memory scrubbing error on unknown label (page:0x0 offset:0x0)",
            "error on any memory",
            "x (page:y offset:z)",
        ] {
            assert_eq!(Address::parse("0", nothing), None, "{nothing}");
        }
    }

    /// Errors an hour apart (module, physical, bank, row, column); which of them made what known.
    fn found(errors: &[(u32, u64, u64, u64, u64)], apart_ns: u64) -> Vec<(usize, &'static str, usize)> {
        let mut together = Together::default();
        let take = |(place, &(module, physical, bank, row, column)): (usize, &(u32, u64, u64, u64, u64))| {
            let address = Address::parse("0", &detail(module, physical, bank, row, column)).expect("an address");
            let finding = together.take(address, (place as u64 + 1) * apart_ns)?;
            Some((place, finding.pattern.name(), finding.errors))
        };
        errors.iter().enumerate().filter_map(take).collect()
    }

    #[test]
    fn errors_that_lie_together_are_told_by_what_they_share() {
        let row = |column: u64| (0, 0x100_0000 + column * 64, 1, 7, column);
        let column = |row: u64| (0, 0x100_0000 + row * 8192, 1, row, 9);
        let bank = |n: u64| (0, 0x100_0000 + n * 8256, 1, n, n + 50);
        for (what, errors, expected) in [
            ("two at one cell", vec![row(1), row(1)], vec![]),
            ("one cell again and again", vec![row(1); 10], vec![(2, "cell", 3)]),
            ("along a row", vec![row(1), row(2), row(3), row(4)], vec![(2, "row", 3)]),
            ("along a column", vec![column(1), column(2), column(3)], vec![(2, "column", 3)]),
            ("through a bank", vec![bank(1), bank(2), bank(3)], vec![(2, "bank", 3)]),
            (
                "a cell and then its row",
                vec![row(1), row(1), row(1), row(2), row(3)],
                vec![(2, "cell", 3), (4, "row", 5)],
            ),
            ("on three modules", vec![row(1), (1, 0x1, 1, 7, 2), (2, 0x2, 1, 7, 3)], vec![]),
            ("in three banks", vec![(0, 1, 1, 7, 1), (0, 2, 2, 8, 2), (0, 3, 3, 9, 3)], vec![]),
        ] {
            assert_eq!(found(&errors, HOUR_NS / 10), expected, "{what}");
        }
        assert_eq!(found(&[row(1), row(1), row(1)], 13 * HOUR_NS), [], "not within a day");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut together = Together::default();
        for error in 0..10_000u64 {
            let text = detail(u32::try_from(error).unwrap_or(0), error * 64, error % 16, error, error);
            together.take(Address::parse("0", &text).expect("an address"), error);
        }
        assert!(together.errors.len() <= ERRORS_MAX && together.told.len() <= ERRORS_MAX);
    }

    proptest! {
        #[test]
        fn any_details_are_read_or_not_without_a_panic(text in ".{0,300}", numbers in "[ a-z0-9:x(),]{0,200}") {
            let _ = Address::parse(&text, &numbers);
            let _ = Address::parse("0", &format!("on x (page:{numbers} offset:{text})"));
        }
    }
}
