//! From a record to a signal's words. Pure.

use super::pattern::{Named, PATTERNS, Pattern, capture_name};
use super::record::Record;
use crate::xid;
use railwatch_sampling::{Entity, Severity};

/// A signal without its time.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Words {
    pub(super) kind: usize,
    pub(super) name: &'static str,
    pub(super) entity: Entity,
    pub(super) severity: Severity,
    pub(super) value: f64,
    pub(super) summary: String,
    pub(super) attributes: Vec<(&'static str, String)>,
}

/// The kinds of the table, each once, in its order.
pub(super) fn kinds() -> Vec<&'static str> {
    let mut kinds: Vec<&'static str> = Vec::new();
    for pattern in PATTERNS {
        if !kinds.contains(&pattern.kind) {
            kinds.push(pattern.kind);
        }
    }
    kinds
}

/// Says a record; `None` for a kind that this build does not know.
pub(super) fn words(record: &Record) -> Option<Words> {
    let pattern = PATTERNS.iter().find(|pattern| pattern.kind == record.kind)?;
    let kind = kinds().iter().position(|kind| *kind == pattern.kind)?;
    let field = |name: &str| record.fields.get(name).map(String::as_str);
    let entity = entity(pattern, field);
    let mut attributes: Vec<(&'static str, String)> = record
        .fields
        .iter()
        .filter_map(|(name, value)| Some((capture_name(name)?, value.chars().take(200).collect())))
        .collect();
    attributes.push(("origin", "kmsg".to_owned()));
    let Entity { kind: of, name } = &entity;
    let detail = ["detail", "event", "action", "task", "comm"].into_iter().find_map(field).unwrap_or_default();
    let code = field("code").filter(|_| pattern.kind == "gpu.xid").and_then(|code| code.parse().ok());
    let (severity, value, summary) = match code.map(xid::describe) {
        Some(xid) => {
            attributes.push(("class", xid.class.name().to_owned()));
            attributes.push(("meaning", xid.meaning.to_owned()));
            let text = format!("{of} {name}: XID {}, {} ({detail})", xid.code, xid.meaning);
            (xid.severity, f64::from(xid.code), text)
        }
        None if detail.is_empty() => (pattern.severity, 1.0, format!("{of} {name}: {}", pattern.what)),
        None => (pattern.severity, 1.0, format!("{of} {name}: {} ({detail})", pattern.what)),
    };
    Some(Words { kind, name: pattern.signal, entity, severity, value, summary, attributes })
}

fn entity<'f>(pattern: &Pattern, field: impl Fn(&str) -> Option<&'f str>) -> Entity {
    let (kind, named) = pattern.entity;
    let name = match named {
        Named::Always(name) => name.to_owned(),
        // "0000:5e:00.0 eth2": the device, and the interface that the driver puts beside it.
        Named::Capture(name) => {
            let first = field(name).unwrap_or_default().split(' ').next().unwrap_or_default().to_lowercase();
            // The driver leaves out the function of a GPU, which is always 0.
            let is_slot = kind == "gpu" && first.matches(':').count() == 2 && !first.contains('.');
            if is_slot { format!("{first}.0") } else { first }
        }
    };
    Entity { kind, name }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;
    use crate::kmsg::Follower;

    fn told(line: &str) -> Words {
        let message = Follower::default().take(format!("3,1,1,-;{line}\n").as_bytes(), 0).remove(0);
        words(&message.record.unwrap()).unwrap()
    }

    #[test]
    fn a_line_becomes_a_signal_about_the_element_it_names() {
        for (line, name, entity, severity) in [
            ("NVRM: Xid (PCI:0000:3B:00): 79, pid=1, x", "gpu.xid", ("gpu", "0000:3b:00.0"), Severity::Critical),
            ("NVRM: Xid (PCI:0000:3b:00): 31, pid=1, x", "gpu.xid", ("gpu", "0000:3b:00.0"), Severity::Error),
            ("NVRM: Xid (PCI:0000:3b:00): 99999999999, x", "gpu.xid", ("gpu", "0000:3b:00.0"), Severity::Error),
            (
                "mlx5_core 0000:5e:00.0 eth2: Port module event: module 0, Cable unplugged",
                "nic.module",
                ("nic", "0000:5e:00.0"),
                Severity::Warning,
            ),
            (
                "INFO: task python:42 blocked for more than 120 seconds.",
                "host.hung_task",
                ("host", "tasks"),
                Severity::Error,
            ),
            (
                "Out of memory: Killed process 77 (python) total-vm:1kB",
                "host.oom_kill",
                ("process", "77"),
                Severity::Error,
            ),
        ] {
            let words = told(line);
            assert_eq!(
                (words.name, words.entity.kind, words.entity.name.as_str(), words.severity),
                (name, entity.0, entity.1, severity),
                "{line}"
            );
        }
    }

    #[test]
    fn an_xid_says_its_class_and_meaning() {
        let words = told("NVRM: Xid (PCI:0000:3b:00): 95, pid=1, name=python, Uncontained");
        assert_eq!(words.summary, "gpu 0000:3b:00.0: XID 95, uncontained ECC error (pid=1, name=python, Uncontained)");
        for expected in [("class", "memory"), ("code", "95"), ("origin", "kmsg")] {
            assert!(words.attributes.contains(&(expected.0, expected.1.to_owned())), "{:?}", words.attributes);
        }
        assert!((words.value - 95.0).abs() < f64::EPSILON);
    }

    #[test]
    fn a_kind_or_field_of_another_version_does_no_harm() {
        let mut record = Record { kind: "gpu.new".into(), seq: 1, at_us: 1, read_ns: 1, fields: Default::default() };
        assert_eq!(words(&record), None);
        record.kind = "host.hung_task".into();
        record.fields.insert("new_field".into(), "x".into());
        assert_eq!(words(&record).unwrap().attributes, [("origin", "kmsg".to_owned())]);
    }
}
