//! From a notification to leaves: a path without module names, and a value.
//!
//! In: a [`Notification`], whose updates are single leaves or whole subtrees in JSON (RFC 7951). Out: [`Leaf`]s, paths of what is
//! gone, and how much could not be read. Bounded: leaves, depth and length of texts. Never: a panic, whatever the bytes.

use crate::gnmi::{Notification, Path, TypedValue, typed_value};
use serde_json::Value as Json;

/// Leaves of one notification; the rest is counted.
pub const LEAVES_MAX: usize = 200_000;
/// Steps of a path.
pub const DEPTH_MAX: usize = 32;
/// Longest name, key or value, bytes.
pub const TEXT_BYTES_MAX: usize = 512;

/// A step of a path: a name, and of a list's entry its key; several keys are joined by `/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Without the module's name.
    pub name: String,
    /// Empty where it is no entry of a list, or every entry is meant.
    pub key: String,
}

/// A value, as far as a switch's state needs it.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Not negative.
    Unsigned(u64),
    /// Negative.
    Signed(i64),
    /// With a fraction.
    Real(f64),
    /// True or false.
    Flag(bool),
    /// Text; numbers of 64 bits too (RFC 7951, section 6.1).
    Text(String),
}

impl Value {
    /// As a count.
    #[must_use]
    pub fn count(&self) -> Option<u64> {
        match self {
            Self::Unsigned(number) => Some(*number),
            Self::Text(text) => text.parse().ok(),
            _ => None,
        }
    }

    /// As a number.
    #[must_use]
    pub fn real(&self) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "a measured value has no 53 bits")]
        let number = match self {
            Self::Unsigned(number) => *number as f64,
            Self::Signed(number) => *number as f64,
            Self::Real(number) => *number,
            Self::Text(text) => text.trim().parse().ok()?,
            Self::Flag(_) => return None,
        };
        number.is_finite().then_some(number)
    }

    /// As true or false.
    #[must_use]
    pub fn flag(&self) -> Option<bool> {
        match self {
            Self::Flag(flag) => Some(*flag),
            Self::Text(text) => text.parse().ok(),
            _ => None,
        }
    }

    /// As text.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Unsigned(number) => number.to_string(),
            Self::Signed(number) => number.to_string(),
            Self::Real(number) => number.to_string(),
            Self::Flag(flag) => flag.to_string(),
            Self::Text(text) => text.clone(),
        }
    }

    /// As the name of an identity, without its module: `openconfig-if-types:SPEED_100GB` is `SPEED_100GB`.
    #[must_use]
    pub fn identity(&self) -> String {
        let text = self.text();
        text.rsplit_once(':').map_or(text.clone(), |(_, name)| name.to_owned())
    }
}

/// One value at one place.
#[derive(Clone, Debug, PartialEq)]
pub struct Leaf {
    /// From the root.
    pub path: Vec<Step>,
    /// What is there.
    pub value: Value,
}

/// What a notification says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Read {
    /// In their order.
    pub leaves: Vec<Leaf>,
    /// What is no longer there, with all below.
    pub deleted: Vec<Vec<Step>>,
    /// Updates and values that cannot be read, or are beyond a bound.
    pub malformed: u64,
}

/// Reads a notification.
#[must_use]
pub fn read(notification: &Notification) -> Read {
    let mut read = Read::default();
    let Some(prefix) = steps(notification.prefix.as_ref()) else {
        read.malformed = (notification.update.len() + notification.delete.len()).max(1) as u64;
        return read;
    };
    for path in &notification.delete {
        match joined(&prefix, Some(path)) {
            Some(path) if !path.is_empty() => read.deleted.push(path),
            _ => read.malformed += 1,
        }
    }
    for update in &notification.update {
        let value = update.val.as_ref().and_then(|val| val.value.as_ref());
        match (joined(&prefix, update.path.as_ref()), value) {
            (Some(mut path), Some(value)) => typed(&mut path, value, &mut read),
            _ => read.malformed += 1,
        }
    }
    read
}

fn joined(prefix: &[Step], path: Option<&Path>) -> Option<Vec<Step>> {
    let mut whole = prefix.to_vec();
    whole.extend(steps(path)?);
    (whole.len() <= DEPTH_MAX).then_some(whole)
}

/// Nothing where a bound is broken.
fn steps(path: Option<&Path>) -> Option<Vec<Step>> {
    let Some(path) = path else { return Some(Vec::new()) };
    if path.elem.len() > DEPTH_MAX {
        return None;
    }
    let step = |elem: &crate::gnmi::PathElem| {
        let keys: usize = elem.key.values().map(|value| value.len() + 1).sum();
        if elem.name.len() > TEXT_BYTES_MAX || keys > TEXT_BYTES_MAX {
            return None;
        }
        let key = elem.key.values().map(String::as_str).collect::<Vec<_>>().join("/");
        Some(Step { name: plain(&elem.name), key: if key == "*" { String::new() } else { key } })
    };
    path.elem.iter().map(step).collect()
}

/// Without the module's name: `openconfig-interfaces:interfaces` is `interfaces`.
fn plain(name: &str) -> String {
    name.rsplit_once(':').map_or(name, |(_, name)| name).to_owned()
}

fn typed(path: &mut Vec<Step>, value: &typed_value::Value, read: &mut Read) {
    use typed_value::Value as Typed;
    let value = match value {
        Typed::JsonVal(bytes) | Typed::JsonIetfVal(bytes) => {
            return match serde_json::from_slice(bytes) {
                Ok(json) => flattened(path, &json, read),
                Err(_) => read.malformed += 1,
            };
        }
        Typed::LeaflistVal(list) => {
            let texts: Option<Vec<_>> = list.element.iter().map(|one| scalar(one).map(|value| value.text())).collect();
            texts.map(|texts| Value::Text(texts.join(",")))
        }
        _ => scalar(&TypedValue { value: Some(value.clone()) }),
    };
    match value {
        Some(value) => push(path, value, read),
        None => read.malformed += 1,
    }
}

fn scalar(value: &TypedValue) -> Option<Value> {
    use typed_value::Value as Typed;
    Some(match value.value.as_ref()? {
        Typed::StringVal(text) | Typed::AsciiVal(text) => Value::Text(text.clone()),
        Typed::IntVal(number) => u64::try_from(*number).map_or(Value::Signed(*number), Value::Unsigned),
        Typed::UintVal(number) => Value::Unsigned(*number),
        Typed::BoolVal(flag) => Value::Flag(*flag),
        Typed::FloatVal(number) => Value::Real(f64::from(*number)),
        Typed::DoubleVal(number) => Value::Real(*number),
        Typed::DecimalVal(decimal) => {
            #[expect(clippy::cast_precision_loss, reason = "a measured value has no 53 bits")]
            let digits = decimal.digits as f64;
            Value::Real(digits / 10_f64.powi(i32::try_from(decimal.precision.min(18)).ok()?))
        }
        _ => return None,
    })
}

fn push(path: &[Step], value: Value, read: &mut Read) {
    let too_long = matches!(&value, Value::Text(text) if text.len() > TEXT_BYTES_MAX);
    let not_finite = matches!(&value, Value::Real(number) if !number.is_finite());
    if read.leaves.len() >= LEAVES_MAX || too_long || not_finite || path.is_empty() {
        read.malformed += 1;
    } else {
        read.leaves.push(Leaf { path: path.to_vec(), value });
    }
}

/// The leaves of a subtree. serde_json itself refuses to go deeper than 128.
fn flattened(path: &mut Vec<Step>, json: &Json, read: &mut Read) {
    if path.len() > DEPTH_MAX || read.leaves.len() >= LEAVES_MAX {
        read.malformed += 1;
        return;
    }
    match json {
        Json::Null => {}
        Json::Bool(flag) => push(path, Value::Flag(*flag), read),
        Json::String(text) => push(path, Value::Text(text.clone()), read),
        Json::Number(number) => {
            let value = number.as_u64().map(Value::Unsigned).or(number.as_i64().map(Value::Signed));
            match value.or(number.as_f64().map(Value::Real)) {
                Some(value) => push(path, value, read),
                None => read.malformed += 1,
            }
        }
        Json::Object(fields) => {
            for (name, below) in fields {
                if name.len() > TEXT_BYTES_MAX {
                    read.malformed += 1;
                    continue;
                }
                let entries = below.as_array().filter(|entries| entries.iter().any(Json::is_object));
                let Some(entries) = entries else {
                    path.push(Step { name: plain(name), key: String::new() });
                    flattened(path, below, read);
                    path.pop();
                    continue;
                };
                for entry in entries {
                    match key(entry) {
                        Some(key) => {
                            path.push(Step { name: plain(name), key });
                            flattened(path, entry, read);
                            path.pop();
                        }
                        None => read.malformed += 1,
                    }
                }
            }
        }
        // An empty type is [null] (RFC 7951, section 6.9), anything else here a list of leaves.
        Json::Array(values) => {
            let texts: Vec<_> = values.iter().filter_map(json_scalar).collect();
            if !texts.is_empty() {
                push(path, Value::Text(texts.join(",")), read);
            }
        }
    }
}

/// Names of the keys of the lists that are read, in the order in which they are looked for: an entry of a list carries its keys
/// (RFC 7951, section 5.4), some targets only within its state.
const KEYS: [&str; 8] = ["name", "interface-id", "id", "index", "ip", "severity", "dot1p", "cos"];

fn key(entry: &Json) -> Option<String> {
    let fields = entry.as_object()?;
    let of = |fields: &serde_json::Map<String, Json>| {
        KEYS.iter().find_map(|wanted| {
            let found = fields.iter().find(|(name, _)| name.rsplit(':').next() == Some(wanted));
            found.and_then(|(_, value)| json_scalar(value))
        })
    };
    let state = || fields.iter().find(|(name, _)| name.rsplit(':').next() == Some("state"));
    of(fields).or_else(|| of(state()?.1.as_object()?)).filter(|key| key.len() <= TEXT_BYTES_MAX)
}

fn json_scalar(value: &Json) -> Option<String> {
    match value {
        Json::String(text) => Some(text.clone()),
        Json::Number(number) => Some(number.to_string()),
        Json::Bool(flag) => Some(flag.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;
    use crate::gnmi::{Decimal64, Update};
    use crate::paths;
    use proptest::prelude::*;
    use prost::Message;

    fn update(path: &str, value: typed_value::Value) -> Update {
        Update {
            path: Some(paths::parse(path).unwrap()),
            val: Some(TypedValue { value: Some(value) }),
            ..Update::default()
        }
    }

    fn shown(read: &Read) -> Vec<String> {
        let step = |step: &Step| {
            if step.key.is_empty() { step.name.clone() } else { format!("{}[{}]", step.name, step.key) }
        };
        let path = |path: &[Step]| path.iter().map(step).collect::<Vec<_>>().join("/");
        read.leaves.iter().map(|leaf| format!("{}={}", path(&leaf.path), leaf.value.text())).collect()
    }

    #[test]
    fn a_subtree_and_its_leaves_say_the_same() {
        let tree = br#"{"openconfig-interfaces:interface":[{"name":"eth0","state":{"oper-status":"UP","counters":{"in-octets":"18446744073709551615"}}}]}"#;
        let whole = Notification {
            prefix: Some(paths::parse("/openconfig-interfaces:interfaces").unwrap()),
            update: vec![update("/", typed_value::Value::JsonIetfVal(tree.to_vec()))],
            ..Notification::default()
        };
        let leaves = Notification {
            prefix: Some(paths::parse("/interfaces/interface[name=eth0]").unwrap()),
            update: vec![
                update("/name", typed_value::Value::StringVal("eth0".into())),
                update("/state/counters/in-octets", typed_value::Value::UintVal(u64::MAX)),
                update("/state/oper-status", typed_value::Value::StringVal("UP".into())),
            ],
            ..Notification::default()
        };
        assert_eq!(shown(&read(&whole)), shown(&read(&leaves)));
        assert_eq!(shown(&read(&whole))[1], "interfaces/interface[eth0]/state/counters/in-octets=18446744073709551615");
    }

    #[test]
    fn numbers_of_all_kinds_are_read() {
        let decimal = typed_value::Value::DecimalVal(Decimal64 { digits: -321, precision: 2 });
        for (value, real) in [
            (typed_value::Value::JsonIetfVal(b"\"-3.21\"".to_vec()), -3.21),
            (decimal, -3.21),
            (typed_value::Value::DoubleVal(-3.21), -3.21),
            (typed_value::Value::IntVal(-3), -3.0),
            (typed_value::Value::JsonVal(b"7".to_vec()), 7.0),
        ] {
            let notification = Notification { update: vec![update("/a", value)], ..Notification::default() };
            assert_eq!(read(&notification).leaves[0].value.real(), Some(real));
        }
    }

    #[test]
    fn what_is_beyond_a_bound_or_no_json_is_counted_and_the_rest_is_read() {
        let deep = "/a".repeat(DEPTH_MAX + 1);
        let long = typed_value::Value::StringVal("x".repeat(TEXT_BYTES_MAX + 1));
        let notification = Notification {
            update: vec![
                update(&deep, typed_value::Value::UintVal(1)),
                update("/b", long),
                update("/c", typed_value::Value::JsonIetfVal(b"{\"d\":".to_vec())),
                update("/e", typed_value::Value::JsonIetfVal(b"[{\"f\":1}]".to_vec())),
                Update::default(),
                update("/g", typed_value::Value::DoubleVal(f64::NAN)),
                update("/h", typed_value::Value::UintVal(1)),
            ],
            delete: vec![Path::default()],
            ..Notification::default()
        };
        let read = read(&notification);
        assert_eq!((shown(&read), read.malformed, read.deleted.len()), (vec!["h=1".to_owned()], 6, 0));
    }

    proptest! {
        #[test]
        fn no_bytes_and_no_json_end_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..600), text in "[\\[\\]{}\":,a-c0-9.e-]{0,200}") {
            if let Ok(notification) = Notification::decode(bytes.as_slice()) {
                let _ = read(&notification);
            }
            for bytes in [bytes, text.into_bytes()] {
                let notification = Notification {
                    update: vec![update("/interfaces", typed_value::Value::JsonIetfVal(bytes))],
                    ..Notification::default()
                };
                let read = read(&notification);
                prop_assert!(read.leaves.iter().all(|leaf| leaf.path.len() <= DEPTH_MAX + 1));
            }
        }
    }
}
