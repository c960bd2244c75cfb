//! What a source declares, judged against the table.
//!
//! In: a declared series. Out: its row, or what to add or change, as text that can be pasted.

use crate::{Label, Section, Series, rows};
use std::fmt::Write;

/// A series as a source declares it.
#[derive(Clone, Debug)]
pub struct Declared<'a> {
    /// Canonical name.
    pub name: &'a str,
    /// UCUM.
    pub unit: &'a str,
    /// Whether it is a counter.
    pub is_counter: bool,
    /// Kind of its entity.
    pub entity: &'a str,
    /// Labels and their values.
    pub labels: Vec<(&'a str, &'a str)>,
}

impl Declared<'_> {
    /// The row to add, ready to be completed and pasted.
    fn row(&self) -> String {
        let kind = if self.is_counter { "counter" } else { "gauge" };
        let labels: Vec<_> = self.labels.iter().map(|(key, _)| format!("label({key:?})")).collect();
        format!(
            "{kind}({:?}, {:?}, \"WHAT IT MEANS IN ONE LINE\"), with .by(&[{}]) for labels that its section does not have, in a \
             section with entity {:?}",
            self.name,
            self.unit,
            labels.join(", "),
            self.entity
        )
    }
}

/// The row of a declared series.
///
/// # Errors
/// What the table lacks or says otherwise, and what to do.
pub fn check(declared: &Declared<'_>) -> Result<&'static Series, String> {
    let of_name: Vec<_> = rows().filter(|(_, series)| series.name == declared.name).collect();
    let Some((section, series)) =
        of_name.iter().find(|(section, _)| section.entities.contains(&declared.entity)).or(of_name.first())
    else {
        return Err(format!(
            "series {} is not in the vocabulary: add to vocabulary/src/series/ the row\n    {}\nand run `cargo xtask vocabulary \
             build`",
            declared.name,
            declared.row()
        ));
    };
    let wrong = differences(section, series, declared);
    if wrong.is_empty() {
        return Ok(series);
    }
    Err(format!(
        "series {} is not what the vocabulary says (vocabulary/src/series/, section {:?}):{wrong}\nchange the source, or the row, and \
         run `cargo xtask vocabulary build`",
        declared.name, section.title
    ))
}

/// What is wrong with all of these, one paragraph each; each name once.
#[must_use]
pub fn check_all<'a>(declared: impl IntoIterator<Item = Declared<'a>>) -> String {
    let mut wrong: Vec<(String, String)> = Vec::new();
    for one in declared {
        if let Err(text) = check(&one)
            && !wrong.iter().any(|(name, _)| name == one.name)
        {
            wrong.push((one.name.to_owned(), text));
        }
    }
    wrong.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join("\n")
}

fn differences(section: &Section, series: &Series, declared: &Declared<'_>) -> String {
    let mut wrong = String::new();
    let mut say = |what: &str, table: &str, got: &str| {
        // Writing into a String cannot fail.
        let _ = write!(wrong, "\n    {what}: the table has {table}, the source declares {got}");
    };
    if series.unit != declared.unit {
        say("unit", series.unit, declared.unit);
    }
    if series.kind.is_counter() != declared.is_counter {
        say("kind", series.kind.word(), if declared.is_counter { "counter" } else { "gauge" });
    }
    if !section.entities.contains(&declared.entity) {
        say("entity", &section.entities.join(" or "), declared.entity);
    }
    let known: Vec<&Label> = section.labels_of(series).collect();
    for (key, value) in &declared.labels {
        match known.iter().find(|label| label.key == *key) {
            None => say("label", "none of this key", &format!("label({key:?})")),
            Some(label) if !label.values.is_empty() && !label.values.contains(value) => {
                say(key, &label.values.join(", "), value);
            }
            Some(_) => {}
        }
    }
    for label in known.iter().filter(|label| !label.is_optional) {
        if !declared.labels.iter().any(|(key, _)| *key == label.key) {
            say("label", label.key, "nothing of this key");
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::{Declared, check};
    use crate::{Panel, Proof, own, rows};
    use std::collections::{BTreeMap, HashSet};
    use std::path::Path;

    fn io(labels: &[(&'static str, &'static str)]) -> Declared<'static> {
        Declared { name: "hw.network.io", unit: "By", is_counter: true, entity: "port", labels: labels.to_vec() }
    }

    #[test]
    fn what_differs_is_said_with_what_to_do() {
        let (eth0, receive) = (("network.interface.name", "eth0"), ("network.io.direction", "receive"));
        let good = || io(&[eth0, receive]);
        assert_eq!(check(&good()).map(|series| series.name), Ok("hw.network.io"));
        for (declared, words) in [
            (
                Declared { name: "hw.network.oi", ..good() },
                &["counter(\"hw.network.oi\", \"By\"", "label(\"network.io."][..],
            ),
            (Declared { unit: "bit", ..good() }, &["unit: the table has By, the source declares bit"]),
            (Declared { is_counter: false, ..good() }, &["kind: the table has counter, the source declares gauge"]),
            (Declared { entity: "host", ..good() }, &["entity: the table has port, the source declares host"]),
            (io(&[eth0]), &["network.io.direction, the source declares nothing"]),
            (
                io(&[eth0, ("network.io.direction", "both")]),
                &["network.io.direction: the table has receive, transmit, the source declares both"],
            ),
            (
                io(&[eth0, receive, ("pid", "1")]),
                &["label: the table has none of this key, the source declares label(\"pid\")"],
            ),
        ] {
            let text = check(&declared).expect_err("differs");
            assert!(words.iter().all(|word| text.contains(word)), "{text}");
        }
    }

    #[test]
    fn names_are_unique_in_style_and_without_their_unit() {
        let mut names = HashSet::new();
        let mut pages = HashSet::new();
        let mut families = HashSet::new();
        for (_, series) in rows() {
            assert!(names.insert(series.name), "{} twice", series.name);
            assert!(pages.insert(series.prometheus_name()), "{} twice for Prometheus", series.name);
            // OpenMetrics names a counter's family without `_total`.
            let family = series.prometheus_name().trim_end_matches("_total").to_owned();
            assert!(families.insert(family), "{} has the family of another", series.name);
            assert!(
                series.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'.' || b == b'_'),
                "{}",
                series.name
            );
            for unit in ["_total", "_bytes", "_seconds", "_ratio"] {
                assert!(!series.name.ends_with(unit), "{}: the unit is a field", series.name);
            }
            assert!(
                !series.meaning.is_empty() && !series.meaning.ends_with('.'),
                "{}: {}",
                series.name,
                series.meaning
            );
        }
        for metric in own::rows() {
            assert!(pages.insert(metric.name.to_owned()), "{} twice", metric.name);
            assert_eq!(
                metric.name.ends_with("_total"),
                metric.kind == own::Kind::Counter,
                "{}: counters and nothing else end in _total",
                metric.name
            );
        }
    }

    #[test]
    fn two_series_of_one_kind_of_entity_never_become_one_metric_of_a_convention() {
        let mut said = BTreeMap::new();
        let mut shapes = BTreeMap::new();
        for (section, series) in rows() {
            let Some(convention) = series.convention else { continue };
            let more: Vec<_> = section.labels_of(series).map(|label| label.key).collect();
            let key = (convention.name, convention.attributes, section.entities, more);
            if let Some(before) = said.insert(key, series.name) {
                panic!("{before} and {} are both {}", series.name, convention.name);
            }
            let shape = (convention.unit, series.kind.is_counter());
            let first = *shapes.entry(convention.name).or_insert(shape);
            assert_eq!(shape, first, "{} has one unit and one kind, also for {}", convention.name, series.name);
        }
    }

    #[test]
    fn a_row_that_names_a_test_names_one_that_names_it() {
        let of_series = rows().map(|(section, series)| {
            (vec![series.name.to_owned(), series.prometheus_name()], section.proof_of(series))
        });
        let of_daemons = own::rows().map(|metric| (vec![metric.name.to_owned()], metric.proof));
        for (names, proof) in of_series.chain(of_daemons) {
            let Proof::Test(path) = proof else { continue };
            let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
            let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            assert!(names.iter().any(|name| text.contains(name)), "{path} is to set {} and does not name it", names[0]);
        }
    }

    #[test]
    fn metrics_of_one_panel_have_one_unit() {
        let mut units: BTreeMap<_, (Option<&str>, bool, &str)> = BTreeMap::new();
        for (section, series) in rows() {
            let Panel::Titled(title) = section.panel_of(series) else { continue };
            let unit = (series.base_unit().suffix, series.kind.is_counter(), series.name);
            let first = *units.entry((section.board, title)).or_insert(unit);
            assert_eq!((first.0, first.1), (unit.0, unit.1), "{} and {} share {title:?}", first.2, unit.2);
        }
    }

    #[test]
    fn a_reason_is_given_where_no_test_sets_a_metric() {
        let of_series = rows().map(|(section, series)| (series.name, section.proof_of(series)));
        for (name, proof) in of_series.chain(own::rows().map(|metric| (metric.name, metric.proof))) {
            match proof {
                Proof::Whole => {}
                Proof::Test(path) => assert!(path.ends_with(".rs"), "{name}: {path}"),
                Proof::Needs(what) => assert!(what.len() > 5, "{name}: say what it needs"),
            }
        }
    }
}
