//! Tokens added, removed and listed by a person on the collector's host: `railwatch-collector token`.
//!
//! In: the file `tokens` and what the person wants. Out: the file, whole, with everything else in it as it was; a
//! running collector takes it with the next call. Never: a token on disk, a file that the collector would refuse, a
//! file that the collector's own user can no longer read.

use super::{Role, TokensError, TokensFile, create, instant, load, make, parse, private};
use crate::live::rfc3339;
use railwatch_engine::Timestamp;
use std::fs::File;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What is known of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name: the actor in the audit.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Its end, RFC 3339; `None`: it has none.
    pub expires: Option<String>,
    /// Its end has come.
    pub expired: bool,
}

/// Makes a token and returns it: it is shown now or never, since the file holds its hash alone.
pub fn add(dir: &Path, name: &str, role: Role, expires_in: Option<Duration>) -> Result<String, TokensError> {
    let expires = expires_in.map(|after| rfc3339(whole_seconds(SystemTime::now() + after)));
    let mut made = String::new();
    change(dir, |text| {
        let (token, block) = make(name, role, expires.as_deref()).map_err(|error| error.to_string())?;
        made = token;
        Ok(format!("{}\n{block}", text.trim_end_matches('\n').to_owned() + "\n"))
    })?;
    Ok(made)
}

/// Removes a token: it is refused from its next call on.
pub fn remove(dir: &Path, name: &str) -> Result<(), TokensError> {
    change(dir, |text| {
        without(text, name).ok_or_else(|| {
            format!("has no [[token]] block of the name {name:?}; `railwatch-collector token list` shows the names")
        })
    })
}

/// Every token, in the order of the file.
pub fn list(dir: &Path) -> Result<Vec<Listed>, TokensError> {
    let path = dir.join("tokens");
    let error = |why: String| TokensError { path: path.clone(), why };
    load(&path).map_err(error)?;
    let text = std::fs::read_to_string(&path).map_err(|source| error(source.to_string()))?;
    let file: TokensFile = toml::from_str(&text).map_err(|source| error(source.to_string()))?;
    let listed = file.token.into_iter().map(|entry| {
        let end = entry.expires.as_ref().and_then(instant);
        Listed {
            name: entry.name,
            role: entry.role,
            expires: end.map(|end| rfc3339(whole_seconds(end))),
            expired: end.is_some_and(|end| end <= SystemTime::now()),
        }
    });
    Ok(listed.collect())
}

/// Changes the text of the file, one person at a time, and only into one that can be used.
fn change(dir: &Path, to: impl FnOnce(&str) -> Result<String, String>) -> Result<(), TokensError> {
    let path = dir.join("tokens");
    let changed = || {
        let told = |what: &'static str| move |error: std::io::Error| format!("{what}: {error}");
        let directory = File::open(dir).map_err(told("the state directory cannot be opened"))?;
        directory.lock().map_err(told("the state directory cannot be locked"))?;
        if !path.exists() {
            create(dir, &path).map_err(told("cannot be made"))?;
        }
        load(&path)?;
        let text = to(&std::fs::read_to_string(&path).map_err(told("cannot be read"))?)?;
        parse(&text)?;
        private(&path, &text).map_err(told("cannot be written"))?;
        directory.sync_all().map_err(told("the state directory cannot be flushed to disk"))
    };
    changed().map_err(|why| TokensError { path: path.clone(), why })
}

/// The text without the block of `name`. Comments after a block belong to what follows, and stay.
fn without(text: &str, name: &str) -> Option<String> {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let begins = |at: &usize| lines[*at].trim_start().starts_with("[[token]]");
    let starts: Vec<usize> = (0..lines.len()).filter(begins).collect();
    starts.iter().enumerate().find_map(|(nth, start)| {
        let next = starts.get(nth + 1).copied().unwrap_or(lines.len());
        let is_remark = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#');
        let end = *start + lines[*start..next].iter().rposition(|line| !is_remark(line))? + 1;
        let block: TokensFile = toml::from_str(&lines[*start..end].concat()).ok()?;
        let is_it = block.token.first().is_some_and(|entry| entry.name == name);
        is_it.then(|| lines[..*start].concat() + &lines[end..].concat())
    })
}

fn whole_seconds(at: SystemTime) -> Timestamp {
    Timestamp(at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs().saturating_mul(1_000_000_000))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;
    use crate::auth::{Denied, Tokens};
    use std::os::unix::fs::PermissionsExt;

    fn who(tokens: &Tokens, token: &str) -> Result<(String, Role), Denied> {
        let header = format!("Bearer {token}");
        tokens.authenticate(Some(header.as_bytes())).map(|caller| (caller.name, caller.role))
    }

    #[test]
    fn a_token_works_from_its_making_to_its_removal_without_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = Tokens::open(dir.path()).unwrap();
        let token = add(dir.path(), "ann", Role::Approve, Some(Duration::from_secs(30 * 86_400))).unwrap();
        assert_eq!(who(&tokens, &token), Ok(("ann".to_owned(), Role::Approve)));
        let path = dir.path().join("tokens");
        assert!(!std::fs::read_to_string(&path).unwrap().contains(&token), "hashes only");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let listed = list(dir.path()).unwrap();
        let names: Vec<_> = listed.iter().map(|token| token.name.as_str()).collect();
        assert_eq!(names, ["read", "approve", "ann"]);
        assert!(listed[2].expires.is_some() && !listed[2].expired && listed[0].expires.is_none(), "{listed:?}");
        remove(dir.path(), "ann").unwrap();
        assert_eq!(who(&tokens, &token), Err(Denied::Unknown));
        assert_eq!(list(dir.path()).unwrap().len(), 2);
    }

    #[test]
    fn an_expired_token_is_shown_as_such_and_refused() {
        let dir = tempfile::tempdir().unwrap();
        let token = add(dir.path(), "old", Role::Read, Some(Duration::ZERO)).unwrap();
        let tokens = Tokens::open(dir.path()).unwrap();
        assert_eq!(who(&tokens, &token), Err(Denied::Expired));
        assert!(list(dir.path()).unwrap()[2].expired);
    }

    #[test]
    fn what_a_person_wrote_into_the_file_stays() {
        let text = "# ours\n[[token]]\nname = \"a\"\nrole = \"read\"\nsha256 = \"00\"\n\n# of bob\n  [[token]]\nname = \"b\"\nrole = \"read\"\nsha256 = \"11\"";
        let kept = without(text, "a").unwrap();
        assert!(kept.starts_with("# ours\n\n# of bob\n  [[token]]\nname = \"b\""), "{kept}");
        assert_eq!(without(text, "b").unwrap().lines().count(), 7);
        assert_eq!(without(text, "c"), None);
    }

    #[test]
    fn a_change_that_the_collector_would_refuse_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        add(dir.path(), "ann", Role::Read, None).unwrap();
        let before = std::fs::read_to_string(dir.path().join("tokens")).unwrap();
        for (name, why) in [("ann", "twice"), ("two words", "printable"), ("", "printable"), ("a\"b\n", "printable")] {
            let error = add(dir.path(), name, Role::Read, None).unwrap_err().to_string();
            assert!(error.contains(why), "{name:?}: {error}");
        }
        let error = remove(dir.path(), "bob").unwrap_err().to_string();
        assert!(error.contains("bob") && error.contains("token list"), "{error}");
        assert_eq!(std::fs::read_to_string(dir.path().join("tokens")).unwrap(), before);
    }
}
