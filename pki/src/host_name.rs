//! A host's name as certificates and messages carry it: RFC 1123 section 2.1 in lower case, 253 bytes at most.
//! Strict, because the name becomes a key in the store, a label in metrics and a path of files.

use std::fmt;

/// Longest host name, bytes (RFC 1035 section 2.3.4, without the root's dot).
const NAME_BYTES_MAX: usize = 253;
/// Longest label, bytes.
const LABEL_BYTES_MAX: usize = 63;

/// A valid host name: labels of `a-z 0-9 -` joined by dots, no label beginning or ending with `-`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(String);

/// Why a text is not a host name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no host name: {why}; expected lower-case letters, digits and '-' in labels joined by dots, e.g. gpu-017.pod2"
)]
pub struct HostNameError {
    text: String,
    why: &'static str,
}

impl HostName {
    /// Checks `text`; nothing is corrected.
    pub fn parse(text: &str) -> Result<Self, HostNameError> {
        let why = if text.is_empty() {
            "it is empty"
        } else if text.len() > NAME_BYTES_MAX {
            "it is longer than 253 bytes"
        } else if text.bytes().any(|b| b.is_ascii_uppercase()) {
            "it has upper-case letters"
        } else if !text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.')) {
            "it has a character outside a-z, 0-9, '-' and '.'"
        } else if text.split('.').any(|label| label.is_empty() || label.len() > LABEL_BYTES_MAX) {
            "a label is empty or longer than 63 bytes"
        } else if text.split('.').any(|label| label.starts_with('-') || label.ends_with('-')) {
            "a label begins or ends with '-'"
        } else {
            return Ok(Self(text.to_owned()));
        };
        Err(HostNameError { text: text.chars().take(64).collect(), why })
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for HostName {
    type Err = HostNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::HostName;
    use proptest::prelude::*;

    #[test]
    fn only_names_of_the_grammar_pass() {
        for good in ["a", "gpu-017", "gpu-017.pod2.example", "0", &"a".repeat(63), "xn--bcher-kva"] {
            assert!(HostName::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "-a",
            "a-",
            "a.-b",
            "A",
            "a_b",
            "a/b",
            "../etc",
            "a b",
            "a\0",
            "bücher",
            &"a".repeat(64),
            &["a"; 128].join("."),
        ] {
            assert!(HostName::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_passes_is_safe_as_a_path_and_a_label(text in ".{0,80}") {
            if let Ok(name) = HostName::parse(&text) {
                prop_assert_eq!(name.as_str(), &text);
                prop_assert!(!text.contains(['/', '\\', '\0', '"', ' ', '\n']) && !text.contains(".."));
            }
        }
    }
}
