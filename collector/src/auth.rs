//! Who is calling: bearer tokens with a name, a role and optionally an end.
//!
//! In: the file `tokens` of the state directory, and an Authorization header. Out: a [`Caller`], or why not.
//! The file holds SHA-256 hashes only; it is made on the first start with one token per role, whose plaintext goes to
//! `token-read` and `token-approve`. It is read again when it changes, and a bad one leaves the old in force.
//! Never: a token in a log, an answer or an error; a caller with a good token held up by others' bad ones.

pub mod keys;

use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Largest `tokens` file that is read, bytes.
const FILE_BYTES_MAX: u64 = 256 * 1024;
/// Longest token that is hashed, bytes.
const TOKEN_BYTES_MAX: usize = 512;
/// Longest name of a token, bytes.
const NAME_BYTES_MAX: usize = 64;
/// Failed attempts answered as such before they are only told to wait.
const FAILURES_BURST: f64 = 20.0;
/// How many of them come back each second.
const FAILURES_PER_S: f64 = 1.0;

const HEADER: &str = "\
# Tokens of the collector's HTTP API: hashes only. Changes take effect with the next call.
#   make one:     railwatch-collector token add NAME --role read
#   or by hand:   openssl rand -hex 32 > my-token; chmod 600 my-token; tr -d '\\n' < my-token | sha256sum
#   revoke one:   railwatch-collector token remove NAME, or delete its block
#   role:         \"read\", or \"approve\", which also reads, judges decisions and halts
#   expires:      optional, such as 2027-01-31T12:00:00Z
# The name is what the audit says.
";

/// What a token may do. The greater includes the lesser.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// See everything.
    Read,
    /// See everything, judge decisions, halt and release.
    Approve,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Approve => "approve",
        })
    }
}

/// Whoever a token belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The token's name: the actor in the audit.
    pub name: String,
    /// What it may do.
    pub role: Role,
}

/// Why a call has no caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// No Authorization header.
    Missing,
    /// The header is not `Bearer TOKEN`.
    Malformed,
    /// No such token, or it was revoked.
    Unknown,
    /// Its time is over.
    Expired,
    /// Too many such failures of late; the caller is to wait.
    TooMany,
}

/// The `tokens` file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("tokens file {}: {why}", path.display())]
pub struct TokensError {
    path: PathBuf,
    why: String,
}

/// The tokens in force.
#[derive(Debug)]
pub struct Tokens {
    path: PathBuf,
    loaded: Mutex<Loaded>,
    budget: Mutex<Budget>,
    failures: AtomicU64,
    bad_reloads: AtomicU64,
}

#[derive(Debug)]
struct Loaded {
    stamp: Option<Stamp>,
    tokens: Vec<Known>,
}

/// By which a changed file is known without reading it.
type Stamp = (u64, u64, i64, i64, i64, i64);

struct Known {
    caller: Caller,
    sha256: [u8; 32],
    expires: Option<SystemTime>,
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.caller.name, self.caller.role)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokensFile {
    #[serde(default)]
    token: Vec<TokenEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenEntry {
    name: String,
    role: Role,
    sha256: String,
    expires: Option<toml::value::Datetime>,
}

impl Tokens {
    /// The tokens of the state directory `dir`, made there if there are none yet.
    pub fn open(dir: &Path) -> Result<Self, TokensError> {
        let path = dir.join("tokens");
        let error = |why: String| TokensError { path: path.clone(), why };
        if !path.exists() {
            create(dir, &path).map_err(|source| error(format!("cannot be made: {source}")))?;
        }
        let (stamp, tokens) = load(&path).map_err(error)?;
        Ok(Self {
            loaded: Mutex::new(Loaded { stamp: Some(stamp), tokens }),
            budget: Mutex::new(Budget { left: FAILURES_BURST, at: Instant::now() }),
            failures: AtomicU64::new(0),
            bad_reloads: AtomicU64::new(0),
            path,
        })
    }

    /// Whose token the Authorization header holds.
    pub fn authenticate(&self, authorization: Option<&[u8]>) -> Result<Caller, Denied> {
        self.authenticate_at(authorization, SystemTime::now(), Instant::now())
    }

    fn authenticate_at(&self, authorization: Option<&[u8]>, now: SystemTime, tick: Instant) -> Result<Caller, Denied> {
        self.look(authorization, now).map_err(|denied| {
            self.failures.fetch_add(1, Ordering::Relaxed);
            if lock(&self.budget).take(tick) { denied } else { Denied::TooMany }
        })
    }

    fn look(&self, authorization: Option<&[u8]>, now: SystemTime) -> Result<Caller, Denied> {
        let header = authorization.ok_or(Denied::Missing)?;
        let (scheme, token) = header.split_at_checked(7).ok_or(Denied::Malformed)?;
        let token = token.trim_ascii();
        if !scheme.eq_ignore_ascii_case(b"bearer ") || token.is_empty() || token.len() > TOKEN_BYTES_MAX {
            return Err(Denied::Malformed);
        }
        let presented: [u8; 32] = Sha256::digest(token).into();
        let mut loaded = lock(&self.loaded);
        self.refresh(&mut loaded);
        // Every entry is compared in full, whichever matches.
        let mut found = None;
        for known in &loaded.tokens {
            if same(&known.sha256, &presented) {
                found = Some(known);
            }
        }
        let known = found.ok_or(Denied::Unknown)?;
        if known.expires.is_some_and(|expires| expires <= now) {
            return Err(Denied::Expired);
        }
        Ok(known.caller.clone())
    }

    /// Reads the file again where it changed. One that cannot be used is told once, and the old tokens stay.
    pub fn reload(&self) {
        self.refresh(&mut lock(&self.loaded));
    }

    fn refresh(&self, loaded: &mut Loaded) {
        let stamp = std::fs::metadata(&self.path).ok().map(|meta| stamp(&meta));
        if stamp == loaded.stamp {
            return;
        }
        loaded.stamp = stamp;
        match load(&self.path) {
            Ok((stamp, tokens)) => {
                tracing::info!(file = %self.path.display(), tokens = tokens.len(), "tokens read again");
                *loaded = Loaded { stamp: Some(stamp), tokens };
            }
            Err(why) => {
                self.bad_reloads.fetch_add(1, Ordering::Relaxed);
                tracing::error!(file = %self.path.display(), %why, "changed tokens file refused, the tokens read before stay in force: correct the file");
            }
        }
    }

    /// Failed attempts so far.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Changed files that were refused so far.
    pub fn bad_reloads(&self) -> u64 {
        self.bad_reloads.load(Ordering::Relaxed)
    }
}

/// How many failures may still be answered as such.
#[derive(Debug)]
struct Budget {
    left: f64,
    at: Instant,
}

impl Budget {
    fn take(&mut self, now: Instant) -> bool {
        let refill = now.saturating_duration_since(self.at).as_secs_f64() * FAILURES_PER_S;
        self.left = (self.left + refill).min(FAILURES_BURST);
        self.at = now;
        let enough = self.left >= 1.0;
        if enough {
            self.left -= 1.0;
        }
        enough
    }
}

/// Takes as long wherever they differ.
fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    std::hint::black_box(a.iter().zip(b).fold(0, |differ, (a, b)| differ | (a ^ b))) == 0
}

/// Plain data behind the lock: a panic elsewhere leaves it whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn stamp(meta: &std::fs::Metadata) -> Stamp {
    (meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec())
}

fn load(path: &Path) -> Result<(Stamp, Vec<Known>), String> {
    let file = File::open(path).map_err(|error| format!("cannot be opened: {error}"))?;
    let meta = file.metadata().map_err(|error| format!("cannot be read: {error}"))?;
    if meta.mode() & 0o077 != 0 {
        return Err(format!("its mode is {:03o}, others may read or change it: `chmod 600` it", meta.mode() & 0o777));
    }
    let mut text = String::new();
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(|error| format!("cannot be read: {error}"))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("it is longer than {FILE_BYTES_MAX} bytes"));
    }
    parse(&text).map(|tokens| (stamp(&meta), tokens))
}

fn parse(text: &str) -> Result<Vec<Known>, String> {
    // The parser's message quotes the line at fault, which holds a hash at most.
    let file: TokensFile = toml::from_str(text).map_err(|error| error.to_string())?;
    let mut names = HashSet::new();
    let mut hashes = HashSet::new();
    file.token
        .into_iter()
        .map(|TokenEntry { name, role, sha256, expires }| {
            if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(format!(
                    "name {name:?}: expected 1 to {NAME_BYTES_MAX} printable ASCII characters without spaces"
                ));
            }
            let sha256 = unhex(&sha256).ok_or_else(|| format!("sha256 of {name}: expected 64 hexadecimal digits"))?;
            let expires = expires.map(|at| instant(&at).ok_or(at)).transpose();
            let expires = expires.map_err(|at| {
                format!("expires of {name}: {at}: expected a date, a time and an offset, such as 2027-01-31T12:00:00Z")
            })?;
            if !names.insert(name.clone()) || !hashes.insert(sha256) {
                return Err(format!(
                    "{name}: the name or its token is there twice, and the audit could not tell them apart"
                ));
            }
            Ok(Known { caller: Caller { name, role }, sha256, expires })
        })
        .collect()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A TOML instant with its offset. Date to days: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms", days_from_civil.
fn instant(at: &toml::value::Datetime) -> Option<SystemTime> {
    let (date, time) = (at.date?, at.time?);
    let offset_minutes = match at.offset? {
        toml::value::Offset::Z => 0,
        toml::value::Offset::Custom { minutes } => i64::from(minutes),
    };
    let (month, day) = (i64::from(date.month), i64::from(date.day));
    let year = i64::from(date.year) - i64::from(month <= 2);
    let (era, of_era) = (year / 400, year % 400);
    let of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    let of_day = i64::from(time.hour) * 3600 + i64::from(time.minute) * 60 + i64::from(time.second.unwrap_or(0));
    let seconds = days * 86_400 + of_day - offset_minutes * 60;
    UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(seconds).ok()?))
}

/// Makes one token per role. `tokens` comes last and whole, so that a start cut short begins again.
fn create(dir: &Path, path: &Path) -> io::Result<()> {
    let mut text = HEADER.to_owned();
    for role in [Role::Read, Role::Approve] {
        let (token, block) = make(&role.to_string(), role, None)?;
        private(&dir.join(format!("token-{role}")), &format!("{token}\n"))?;
        text.push('\n');
        text.push_str(&block);
    }
    private(path, &text)?;
    File::open(dir)?.sync_all()
}

/// A new token, and its block for the file.
fn make(name: &str, role: Role, expires: Option<&str>) -> io::Result<(String, String)> {
    let mut secret = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut secret)?;
    let token = format!("railwatch_{role}_{}", hex(&secret));
    let hash = hex(&Sha256::digest(token.as_bytes()));
    let name = toml::Value::String(name.to_owned());
    let mut block = format!("[[token]]\nname = {name}\nrole = \"{role}\"\nsha256 = \"{hash}\"\n");
    if let Some(expires) = expires {
        block.push_str(&format!("expires = {expires}\n"));
    }
    Ok((token, block))
}

/// Writes `path` for its owner alone, whole or not at all. Root writes for the owner of the file there was, or of the
/// directory: the collector may run as another user.
fn private(path: &Path, text: &str) -> io::Result<()> {
    let fresh = path.with_extension("new");
    if fresh.exists() {
        std::fs::remove_file(&fresh)?;
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    let owner = std::fs::metadata(path).or_else(|_| std::fs::metadata(path.parent().unwrap_or(path)))?;
    if file.metadata()?.uid() == 0 && owner.uid() != 0 {
        std::os::unix::fs::fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
    }
    std::fs::rename(&fresh, path)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn bearer(token: &str) -> Vec<u8> {
        format!("Bearer {}", token.trim()).into_bytes()
    }

    fn entry(name: &str, token: &str, more: &str) -> String {
        let hash = hex(&Sha256::digest(token.as_bytes()));
        format!("[[token]]\nname = \"{name}\"\nrole = \"read\"\nsha256 = \"{hash}\"\n{more}\n")
    }

    #[test]
    fn the_first_start_makes_one_token_per_role_and_later_ones_keep_them() {
        let dir = tempfile::tempdir().unwrap();
        Tokens::open(dir.path()).unwrap();
        let tokens = Tokens::open(dir.path()).unwrap();
        for role in [Role::Read, Role::Approve] {
            let path = dir.path().join(format!("token-{role}"));
            let token = std::fs::read_to_string(&path).unwrap();
            assert_eq!(tokens.authenticate(Some(&bearer(&token))), Ok(Caller { name: role.to_string(), role }));
            let stored = std::fs::read_to_string(dir.path().join("tokens")).unwrap();
            assert!(!stored.contains(token.trim()), "hashes only");
        }
        for name in ["tokens", "token-read", "token-approve"] {
            assert_eq!(std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
        }
        assert!(!format!("{tokens:?}").contains("railwatch_"));
    }

    #[test]
    fn every_bad_credential_has_its_own_reason() {
        let dir = tempfile::tempdir().unwrap();
        let text = entry("live", "alpha", "expires = 2100-01-01T00:00:00Z")
            + &entry("old", "beta", "expires = 2001-09-09T01:46:40Z");
        private(&dir.path().join("tokens"), &text).unwrap();
        let tokens = Tokens::open(dir.path()).unwrap();
        let long = "x".repeat(TOKEN_BYTES_MAX + 1);
        for (header, expected) in [
            (None, Err(Denied::Missing)),
            (Some(""), Err(Denied::Malformed)),
            (Some("Bearer "), Err(Denied::Malformed)),
            (Some("Basic YWxwaGE="), Err(Denied::Malformed)),
            (Some(&format!("Bearer {long}")), Err(Denied::Malformed)),
            (Some("Bearer gamma"), Err(Denied::Unknown)),
            (Some("Bearer alph"), Err(Denied::Unknown)),
            (Some("Bearer beta"), Err(Denied::Expired)),
            (Some("bearer alpha"), Ok("live")),
        ] {
            let got = tokens.authenticate(header.map(str::as_bytes)).map(|caller| caller.name);
            assert_eq!(got.as_deref(), expected.as_ref().copied(), "{header:?}");
        }
        assert_eq!(tokens.failures(), 8);
    }

    #[test]
    fn a_revoked_token_ends_with_the_next_call_and_a_bad_file_revokes_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        private(&path, &(entry("ann", "alpha", "") + &entry("bob", "beta", ""))).unwrap();
        let tokens = Tokens::open(dir.path()).unwrap();
        assert!(tokens.authenticate(Some(b"Bearer beta")).is_ok());
        private(&path, &entry("ann", "alpha", "")).unwrap();
        assert_eq!(tokens.authenticate(Some(b"Bearer beta")), Err(Denied::Unknown));
        private(&path, "[[token]]\nname = 7").unwrap();
        assert!(tokens.authenticate(Some(b"Bearer alpha")).is_ok());
        std::fs::remove_file(&path).unwrap();
        assert!(tokens.authenticate(Some(b"Bearer alpha")).is_ok());
        assert_eq!(tokens.bad_reloads(), 2);
    }

    #[test]
    fn guessing_is_slowed_and_never_locks_a_good_token_out() {
        let dir = tempfile::tempdir().unwrap();
        private(&dir.path().join("tokens"), &entry("ann", "alpha", "")).unwrap();
        let tokens = Tokens::open(dir.path()).unwrap();
        let (now, tick) = (SystemTime::now(), Instant::now());
        let guess = |after_s| tokens.authenticate_at(Some(b"Bearer guess"), now, tick + Duration::from_secs(after_s));
        let told = (0..100).filter(|_| guess(0) == Err(Denied::Unknown)).count();
        assert_eq!(told, FAILURES_BURST as usize);
        assert_eq!(guess(0), Err(Denied::TooMany));
        assert_eq!(guess(2), Err(Denied::Unknown), "the budget comes back with time");
        assert!(tokens.authenticate_at(Some(b"Bearer alpha"), now, tick).is_ok());
    }

    #[test]
    fn a_file_that_could_confuse_or_leak_is_refused_with_its_reason() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        let twice = entry("ann", "alpha", "") + &entry("ann", "beta", "");
        let same = entry("ann", "alpha", "") + &entry("bob", "alpha", "");
        for (text, why) in [
            (twice.as_str(), "twice"),
            (&same, "twice"),
            (&entry("with space", "a", ""), "printable"),
            (&entry("ann", "a", "expires = 2027-01-31"), "expected a date, a time and an offset"),
            (&entry("ann", "a", "admin = true"), "unknown field"),
            ("[[token]]\nname = \"ann\"\nrole = \"root\"\nsha256 = \"00\"", "unknown variant"),
            ("[[token]]\nname = \"ann\"\nrole = \"read\"\nsha256 = \"00\"", "64 hexadecimal"),
        ] {
            private(&path, text).unwrap();
            let error = Tokens::open(dir.path()).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        private(&path, "").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(Tokens::open(dir.path()).unwrap_err().to_string().contains("chmod 600"));
    }
}
