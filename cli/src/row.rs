//! One answer of the API as this command holds it: JSON whose fields are looked up by name, so that a newer
//! collector's extra fields are carried along and a missing one is an error and not a default.

use crate::failure::{Failure, Kind};
use serde::ser::{Error as _, Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value};

/// A JSON object.
#[derive(Clone, Debug, PartialEq)]
pub struct Row(pub Map<String, Value>);

impl Row {
    /// The objects of an answer that should be an array of them.
    pub fn list(answer: Value, path: &str) -> Result<Vec<Self>, Failure> {
        let Value::Array(items) = answer else {
            return Err(unexpected(path, "not an array"));
        };
        items.into_iter().map(|item| Self::one(item, path)).collect()
    }

    /// An answer that should be an object.
    pub fn one(answer: Value, path: &str) -> Result<Self, Failure> {
        match answer {
            Value::Object(map) => Ok(Self(map)),
            _ => Err(unexpected(path, "not an object")),
        }
    }

    /// The first of `fields` that is not there.
    pub fn missing<'f>(&self, fields: &[&'f str]) -> Option<&'f str> {
        fields.iter().copied().find(|field| !self.0.contains_key(*field))
    }

    /// Text, or nothing where it is null or not there.
    pub fn text(&self, field: &str) -> &str {
        self.0.get(field).and_then(Value::as_str).unwrap_or("")
    }

    /// A number that is not negative.
    pub fn number(&self, field: &str) -> Option<u64> {
        self.0.get(field).and_then(Value::as_u64)
    }

    /// A signed number.
    pub fn signed(&self, field: &str) -> Option<i64> {
        self.0.get(field).and_then(Value::as_i64)
    }

    /// A real number.
    pub fn real(&self, field: &str) -> Option<f64> {
        self.0.get(field).and_then(Value::as_f64)
    }

    /// True where it says so.
    pub fn flag(&self, field: &str) -> bool {
        self.0.get(field) == Some(&Value::Bool(true))
    }

    /// The objects of an array, none where it is not one.
    pub fn rows(&self, field: &str) -> Vec<Self> {
        let items = self.0.get(field).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        items.iter().filter_map(|item| item.as_object().cloned()).map(Self).collect()
    }

    /// The texts of an array.
    pub fn texts(&self, field: &str) -> Vec<&str> {
        let items = self.0.get(field).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        items.iter().filter_map(Value::as_str).collect()
    }

    /// An object, empty where it is not one.
    pub fn row(&self, field: &str) -> Self {
        Self(self.0.get(field).and_then(Value::as_object).cloned().unwrap_or_default())
    }

    /// An element, `{host, kind, name}`, as "host kind name", or the host alone where the host is the element.
    pub fn element(&self, field: &str) -> String {
        let element = self.row(field);
        match (element.text("host"), element.text("kind"), element.text("name")) {
            (host, "host", _) => host.to_owned(),
            (host, kind, name) => format!("{host} {kind} {name}"),
        }
    }
}

fn unexpected(path: &str, what: &str) -> Failure {
    Failure::new(
        Kind::Unexpected,
        format!("the collector's answer to {path} is {what}"),
        "compare `railwatch version` with the collector's; the URL may belong to something else",
    )
}

/// A row with `fields` first, in that order. Those and no others, unless `open`: then the others follow, and any may lack.
pub struct Ordered<'r> {
    /// The row.
    pub row: &'r Row,
    /// Its leading fields.
    pub fields: &'r [&'r str],
    /// Show the other fields too.
    pub open: bool,
}

impl Serialize for Ordered<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for field in self.fields {
            match self.row.0.get(*field) {
                Some(value) => map.serialize_entry(field, value)?,
                None if self.open => {}
                None => return Err(S::Error::custom(format!("no field {field:?}"))),
            }
        }
        if self.open {
            for (field, value) in self.row.0.iter().filter(|(field, _)| !self.fields.contains(&field.as_str())) {
                map.serialize_entry(field, value)?;
            }
        }
        map.end()
    }
}
