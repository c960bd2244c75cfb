//! Which series a person means: `NAME`, `NAME{label=value,...}`, either with `@ENTITY`, or an identifier of 16 digits.
//!
//! In: the text, and the definitions of a host. Out: those that match; where none does, the names that are nearest.

use crate::live::Definition;
use std::fmt;

/// Names offered where none matches.
const NEAR_MAX: usize = 8;

/// A parsed selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// By identifier.
    Id(u64),
    /// By meaning.
    Meaning {
        /// Canonical name.
        name: String,
        /// Labels that must have these values; others may be there.
        labels: Vec<(String, String)>,
        /// Name of the entity: `eth0`, `mlx5_0/1`.
        entity: Option<String>,
    },
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "{id:016x}"),
            Self::Meaning { name, labels, entity } => {
                f.write_str(name)?;
                if !labels.is_empty() {
                    let labels: Vec<_> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
                    write!(f, "{{{}}}", labels.join(","))?;
                }
                entity.iter().try_for_each(|entity| write!(f, "@{entity}"))
            }
        }
    }
}

impl Selector {
    /// Parses one.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!("{text:?} is no series: expected NAME, NAME{{label=value}}, NAME@ENTITY or 16 hexadecimal digits")
        };
        if text.len() == 16
            && let Ok(id) = u64::from_str_radix(text, 16)
        {
            return Ok(Self::Id(id));
        }
        // An entity may hold any character but a brace after it, so the last @ outside of braces begins it.
        let closed = text.rfind('}').map_or(0, |at| at + 1);
        let (meaning, entity) = match text[closed..].rfind('@') {
            Some(at) => (&text[..closed + at], Some(text[closed + at + 1..].to_owned())),
            None => (text, None),
        };
        let (name, labels) = match meaning.split_once('{') {
            Some((name, rest)) => (name, Self::labels(rest.strip_suffix('}').ok_or_else(wrong)?).ok_or_else(wrong)?),
            None => (meaning, Vec::new()),
        };
        let name_is_good = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        if !name_is_good || entity.as_ref().is_some_and(String::is_empty) {
            return Err(wrong());
        }
        Ok(Self::Meaning { name: name.to_owned(), labels, entity })
    }

    fn labels(text: &str) -> Option<Vec<(String, String)>> {
        text.split(',')
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                let (key, value) = pair.split_once('=')?;
                Some((key.trim().to_owned(), value.trim().trim_matches('"').to_owned()))
            })
            .collect()
    }

    /// Whether it means this series.
    pub fn matches(&self, definition: &Definition) -> bool {
        match self {
            Self::Id(id) => definition.id == *id,
            Self::Meaning { name, labels, entity } => {
                definition.name == *name
                    && entity.as_ref().is_none_or(|entity| definition.entity_name == *entity)
                    && labels.iter().all(|(key, value)| definition.labels.get(key) == Some(value))
            }
        }
    }

    /// The series that are nearest to what was asked for, as selectors: the same name on other entities or with other
    /// labels, else names that are spelled alike.
    pub fn near<'a>(&self, definitions: impl Iterator<Item = &'a Definition>) -> Vec<String> {
        let Self::Meaning { name, .. } = self else { return Vec::new() };
        let mut found: Vec<(usize, String)> = definitions
            .map(|definition| {
                let far = distance(name, &definition.name);
                // Of one name every entity is worth telling, of others one is enough.
                let text = if far == 0 { text(definition) } else { definition.name.clone() };
                (far, text)
            })
            .filter(|(far, _)| *far <= name.len() / 2)
            .collect();
        found.sort_unstable();
        found.dedup();
        found.truncate(NEAR_MAX);
        found.into_iter().map(|(_, text)| text).collect()
    }
}

/// The selector that means this series alone.
pub fn text(definition: &Definition) -> String {
    let labels: Vec<_> = definition.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
    format!("{}{labels}@{}", definition.name, definition.entity_name)
}

/// Edits between two texts (Levenshtein 1966), of at most 255 bytes each.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;

    fn definition(name: &str, entity: &str, direction: &str) -> Definition {
        Definition {
            id: 7,
            name: name.into(),
            unit: "By".into(),
            monotonic: true,
            entity_kind: "port".into(),
            entity_name: entity.into(),
            labels: [("network.io.direction".to_owned(), direction.to_owned())].into(),
        }
    }

    #[test]
    fn a_selector_means_what_it_says() {
        let eth0 = definition("hw.network.io", "eth0", "receive");
        for (text, expected) in [
            ("hw.network.io", true),
            ("hw.network.io@eth0", true),
            ("hw.network.io@eth1", false),
            ("hw.network.io{network.io.direction=receive}", true),
            ("hw.network.io{network.io.direction=\"receive\"}@eth0", true),
            ("hw.network.io{network.io.direction=transmit}@eth0", false),
            ("hw.network.io{absent=x}", false),
            ("hw.network", false),
            ("0000000000000007", true),
            ("0000000000000008", false),
        ] {
            assert_eq!(Selector::parse(text).unwrap().matches(&eth0), expected, "{text}");
        }
        assert!(Selector::parse(&text(&eth0)).unwrap().matches(&eth0), "what is listed can be asked for");
        let port = definition("rdma.port.io", "mlx5_0/1", "receive");
        assert!(Selector::parse("rdma.port.io@mlx5_0/1").unwrap().matches(&port));
    }

    #[test]
    fn what_is_no_selector_is_refused() {
        for text in ["", "@eth0", "a b", "x{y", "x{y}", "x@", "x{a=b}c", "{a=b}"] {
            assert!(Selector::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn where_nothing_matches_the_nearest_are_told() {
        let known = [
            definition("hw.network.io", "eth0", "receive"),
            definition("hw.network.io", "eth1", "receive"),
            definition("hw.network.packets", "eth0", "receive"),
        ];
        let near = |text: &str| Selector::parse(text).unwrap().near(known.iter());
        assert_eq!(near("hw.netwrk.io"), ["hw.network.io"]);
        assert_eq!(
            near("hw.network.io@eth9"),
            ["hw.network.io{network.io.direction=receive}@eth0", "hw.network.io{network.io.direction=receive}@eth1"]
        );
        assert!(near("zzz").is_empty());
    }
}
