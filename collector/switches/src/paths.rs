//! What is asked of every switch, and paths as text.
//!
//! In: the sampling interval that is wished. Out: [`Wanted`], the places in OpenConfig's tree that say something of a fabric. A
//! target that does not offer one of them works with the rest. Never: a path that is not read by [`crate::state`].

use crate::gnmi::{Path, PathElem};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// How often something is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cadence {
    /// When it changes.
    OnChange,
    /// At the configured interval.
    Sample,
    /// Seldom: it moves slowly, or costs the switch much.
    Slow,
}

/// A place in the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// What it says, for people.
    pub what: &'static str,
    /// Where it is.
    pub path: &'static str,
    /// How often.
    pub cadence: Cadence,
}

const fn wanted(what: &'static str, path: &'static str, cadence: Cadence) -> Wanted {
    Wanted { what, path, cadence }
}

/// All of them. Sources: the models openconfig-lldp, -interfaces, -if-ethernet, -if-ip, -qos, -platform and
/// -platform-transceiver; of `pfc` the augmentation openconfig-qos-ext that SONiC's management framework carries.
pub const WANTED: [Wanted; 11] = [
    wanted("name", "/lldp/state/system-name", Cadence::OnChange),
    wanted("neighbours", "/lldp/interfaces/interface/neighbors/neighbor/state", Cadence::OnChange),
    wanted("link state", "/interfaces/interface/state/oper-status", Cadence::OnChange),
    wanted("administrative state", "/interfaces/interface/state/admin-status", Cadence::OnChange),
    wanted("ports and their counters", "/interfaces/interface/state", Cadence::Sample),
    wanted("speeds and pause frames", "/interfaces/interface/ethernet/state", Cadence::Sample),
    wanted("addresses", "/interfaces/interface/subinterfaces/subinterface/ipv4/addresses/address/state", Cadence::Slow),
    wanted("queues", "/qos/interfaces/interface/output/queues/queue/state", Cadence::Sample),
    wanted("priority flow control", "/qos/interfaces/interface/pfc", Cadence::Sample),
    wanted("parts", "/components/component/state", Cadence::Slow),
    wanted("optical modules", "/components/component/transceiver", Cadence::Slow),
];

/// A path from its text: `/interfaces/interface[name=eth0]/state`.
///
/// # Errors
/// What is wrong with it.
pub fn parse(text: &str) -> Result<Path, String> {
    let mut elem = Vec::new();
    let mut rest = text.trim_start_matches('/');
    while !rest.is_empty() {
        let end = rest.find(['/', '[']).unwrap_or(rest.len());
        let mut step = PathElem { name: rest[..end].to_owned(), key: BTreeMap::new() };
        if step.name.is_empty() {
            return Err(format!("{text:?} has an empty step"));
        }
        rest = &rest[end..];
        while let Some(inside) = rest.strip_prefix('[') {
            let (pair, after) = inside.split_once(']').ok_or_else(|| format!("{text:?} has a [ without its ]"))?;
            let (key, value) = pair.split_once('=').ok_or_else(|| format!("{text:?} has a key without a value"))?;
            step.key.insert(key.to_owned(), value.to_owned());
            rest = after;
        }
        elem.push(step);
        match rest.strip_prefix('/') {
            Some(after) => rest = after,
            None if rest.is_empty() => {}
            None => return Err(format!("{text:?} goes on after a ] without a /")),
        }
    }
    Ok(Path { elem, ..Path::default() })
}

/// Text of a path.
#[must_use]
pub fn text(path: &Path) -> String {
    let mut text = String::new();
    for step in &path.elem {
        // Writing into a String cannot fail.
        let _ = write!(text, "/{}", step.name);
        for (key, value) in &step.key {
            let _ = write!(text, "[{key}={value}]");
        }
    }
    if text.is_empty() { "/".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;

    #[test]
    fn a_path_is_the_same_after_a_round_trip_and_a_broken_one_is_refused() {
        for good in ["/", "/a", "/a/b[name=Ethernet1/1]/c", "/a[x=1][y=2]"] {
            assert_eq!(text(&parse(good).unwrap()), good);
        }
        for bad in ["/a[b", "/a[b]", "/a//b", "/a[b=c]d"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(WANTED.iter().all(|wanted| parse(wanted.path).is_ok()));
    }
}
