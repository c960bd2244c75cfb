//! One record of `/dev/kmsg` (Documentation/ABI/testing/dev-kmsg):
//! `PRIORITY+FACILITY,SEQUENCE,MICROSECONDS,FLAGS[,...];TEXT`, lines of a dictionary after it begin with a space.

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'t> {
    /// Number of the record since boot: a gap means that records were overwritten.
    pub seq: u64,
    /// When it was written, microseconds of the kernel's own clock, which runs beside CLOCK_MONOTONIC and may drift from it.
    pub at_us: u64,
    /// The kernel wrote it, and no program through `/dev/kmsg`: only the kernel can write facility 0.
    pub is_kernels: bool,
    /// What it says.
    pub text: &'t str,
}

impl<'t> Line<'t> {
    /// Takes one line apart; `None` for anything else.
    #[must_use]
    pub fn parse(line: &'t str) -> Option<Self> {
        let (head, text) = line.split_once(';')?;
        let mut fields = head.split(',');
        let mut number = || {
            let field = fields.next()?;
            field.bytes().all(|byte| byte.is_ascii_digit()).then(|| field.parse::<u64>().ok())?
        };
        let (priority, seq, at_us) = (number()?, number()?, number()?);
        Some(Self { seq, at_us, is_kernels: priority >> 3 == 0, text: text.trim_end() })
    }
}

#[cfg(test)]
mod tests {
    use super::Line;
    use proptest::prelude::*;

    #[test]
    fn a_record_is_taken_apart_and_a_programs_is_told_from_the_kernels() {
        let found = |line| Line::parse(line).map(|line| (line.seq, line.at_us, line.is_kernels, line.text));
        for (line, expected) in [
            ("6,339,5140900,-;NET: Registered\n", Some((339, 5_140_900, true, "NET: Registered"))),
            ("4,7,1,c,caller=T42;a;b", Some((7, 1, true, "a;b"))),
            (
                "12,8,2,-;NVRM: Xid (PCI:0000:01:00): 79, forged",
                Some((8, 2, false, "NVRM: Xid (PCI:0000:01:00): 79, forged")),
            ),
            (" SUBSYSTEM=pci", None),
            ("6,x,1,-;text", None),
            ("6,1;text", None),
            ("-6,1,1,-;text", None),
            ("6,99999999999999999999,1,-;text", None),
            ("", None),
        ] {
            assert_eq!(found(line), expected, "{line:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused_without_a_panic(line in ".{0,200}") {
            let _ = Line::parse(&line);
        }
    }
}
