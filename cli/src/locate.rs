//! Which collector, and with which token: the command line, then the environment, then the run file that a
//! collector on this host keeps. Reads files, never the network.

use crate::args::Connection;
use crate::failure::{Failure, Kind};
use serde::Deserialize;
use std::ffi::OsString;
use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// What the process was started with, apart from its arguments.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// RAILWATCH_COLLECTOR.
    pub collector: Option<String>,
    /// RAILWATCH_TOKEN.
    pub token: Option<Token>,
    /// RAILWATCH_TOKEN_FILE.
    pub token_file: Option<PathBuf>,
    /// Where a run file may be, the first that belongs to a living collector wins.
    pub run_files: Vec<PathBuf>,
    /// Where a packaged collector keeps its state.
    pub default_state_dir: PathBuf,
}

impl Surroundings {
    /// Those of this process. An empty variable counts as not set.
    pub fn of_process() -> Result<Self, Failure> {
        let os = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let text = |name: &str| os(name).map(|value| utf8(name, value)).transpose();
        let mut run_files = vec![PathBuf::from("/run/railwatch/collector.json")];
        run_files.extend(os("XDG_RUNTIME_DIR").map(|dir| Path::new(&dir).join("railwatch/collector.json")));
        Ok(Self {
            collector: text("RAILWATCH_COLLECTOR")?,
            token: text("RAILWATCH_TOKEN")?.map(|token| Token(token.trim().to_owned())),
            token_file: os("RAILWATCH_TOKEN_FILE").map(PathBuf::from),
            run_files,
            default_state_dir: PathBuf::from("/var/lib/railwatch/collector"),
        })
    }
}

fn utf8(name: &str, value: OsString) -> Result<String, Failure> {
    value
        .into_string()
        .map_err(|_| Failure::new(Kind::Usage, format!("the variable {name} is not UTF-8"), "set it again"))
}

/// A bearer token. Shown by nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// For the Authorization header alone.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(hidden)")
    }
}

/// What a collector says about itself on its own host.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct RunFile {
    /// Base URL of its API.
    pub api: String,
    /// File with a token that may approve.
    pub token_file: PathBuf,
    /// Its state directory.
    pub state_dir: PathBuf,
    /// Its process.
    pub pid: i32,
}

/// The run file of a collector on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Local {
    /// There is none.
    None,
    /// Its process lives.
    Alive(RunFile),
    /// Its process is gone; the file stayed.
    Stale {
        /// The file.
        path: PathBuf,
        /// What it says.
        run: RunFile,
    },
}

impl Local {
    /// Looks for it.
    pub fn find(run_files: &[PathBuf]) -> Result<Self, Failure> {
        let mut stale = Self::None;
        for path in run_files {
            let text = match std::fs::read_to_string(path) {
                Ok(text) => text,
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => continue,
                Err(error) => {
                    return Err(Failure::new(
                        Kind::NotAuthorised,
                        format!("cannot read the run file {}: {error}", path.display()),
                        "run as the user that runs the collector (usually root), or name it with --collector and --token-file",
                    ));
                }
            };
            let run: RunFile = serde_json::from_str(&text).map_err(|error| {
                Failure::new(
                    Kind::Unreachable,
                    format!("the run file {} does not say where the collector is: {error}", path.display()),
                    "restart the collector, which writes it anew, or name the collector with --collector",
                )
            })?;
            if alive(run.pid) {
                return Ok(Self::Alive(run));
            }
            if stale == Self::None {
                stale = Self::Stale { path: path.clone(), run };
            }
        }
        Ok(stale)
    }

    /// What it says, whether its process lives or not.
    pub fn run(&self) -> Option<&RunFile> {
        match self {
            Self::None => None,
            Self::Alive(run) | Self::Stale { run, .. } => Some(run),
        }
    }
}

/// The process exists, whoever owns it, and is more than a number that its parent has not collected yet.
fn alive(pid: i32) -> bool {
    use nix::{errno::Errno, sys::signal::kill, unistd::Pid};
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
        // /proc may hide what belongs to others; a signal that may not be sent proves that it is there.
        return pid > 0 && kill(Pid::from_raw(pid), None) == Err(Errno::EPERM);
    };
    // proc_pid_stat(5): the state follows the name, which is in parentheses and may hold anything.
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    !matches!(state, Some('Z' | 'X') | None)
}

/// A collector to talk to.
#[derive(Clone, Debug)]
pub struct Target {
    /// Base URL, without a slash at its end.
    pub url: String,
    /// The token, where one was found.
    pub token: Result<Token, Failure>,
    /// It runs on this host, as its run file says.
    pub local: bool,
    /// The authority that signed its certificate, where it speaks https.
    pub ca_file: Option<PathBuf>,
}

/// The collector that is meant, and the token for it.
pub fn target(connection: &Connection, around: &Surroundings, local: &Local) -> Result<Target, Failure> {
    let named = match (&connection.collector, &around.collector) {
        (Some(url), _) => Some((url, "--collector")),
        (None, Some(url)) => Some((url, "RAILWATCH_COLLECTOR")),
        (None, None) => None,
    };
    let (url, run) = match (named, local) {
        (Some((url, origin)), local) => {
            let url = checked(url, origin)?;
            let run = match local {
                Local::Alive(run) if same_loopback(&url, &run.api) => Some(run),
                _ => None,
            };
            (url, run)
        }
        (None, Local::Alive(run)) => (checked(&run.api, "the run file's `api`")?, Some(run)),
        (None, Local::Stale { path, run }) => {
            return Err(Failure::new(
                Kind::Unreachable,
                format!(
                    "the run file {} names process {}, which is gone: the collector ended without tidying up",
                    path.display(),
                    run.pid
                ),
                "look why it ended (`journalctl -u railwatch-collector`) and start it again, or name another with --collector",
            ));
        }
        (None, Local::None) => {
            let tried: Vec<_> = around.run_files.iter().map(|path| path.display().to_string()).collect();
            return Err(Failure::new(
                Kind::Unreachable,
                format!(
                    "no collector found: neither --collector nor RAILWATCH_COLLECTOR is set, and there is no {}",
                    tried.join(" and no ")
                ),
                "start one on this host (`cargo xtask up`, `systemctl start railwatch-collector`), or name one with --collector URL",
            ));
        }
    };
    let token = token(connection, around, run, &url);
    let own_ca = || run.map(|run| run.state_dir.join("pki/ca.pem")).filter(|path| path.exists());
    let ca_file = connection.ca_file.clone().or_else(own_ca);
    Ok(Target { url, token, local: run.is_some(), ca_file })
}

fn token(connection: &Connection, around: &Surroundings, run: Option<&RunFile>, url: &str) -> Result<Token, Failure> {
    if let Some(path) = &connection.token_file {
        return read_token(path, "--token-file");
    }
    if let Some(token) = &around.token {
        return usable(token.0.clone(), "RAILWATCH_TOKEN");
    }
    if let Some(path) = &around.token_file {
        return read_token(path, "RAILWATCH_TOKEN_FILE");
    }
    match run {
        Some(run) => read_token(&run.token_file, "the run file's `token_file`"),
        None => Err(Failure::new(
            Kind::NotAuthorised,
            format!("no token for {url}"),
            "set RAILWATCH_TOKEN_FILE or --token-file to a file with one; the collector keeps its first two in its state directory (token-read, token-approve)",
        )),
    }
}

fn read_token(path: &Path, origin: &str) -> Result<Token, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Failure::new(
            Kind::NotAuthorised,
            format!("cannot read the token in {} ({origin}): {error}", path.display()),
            "run as a user that may read it (usually root), or name another with --token-file",
        )
    })?;
    usable(text.trim().to_owned(), &format!("{} ({origin})", path.display()))
}

fn usable(token: String, origin: &str) -> Result<Token, Failure> {
    if token.is_empty() || token.len() > 512 || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        let what = format!("what {origin} holds is no token: expected one word of at most 512 printable characters");
        return Err(Failure::new(Kind::NotAuthorised, what, "put exactly one token there, and nothing else"));
    }
    Ok(Token(token))
}

fn checked(url: &str, origin: &str) -> Result<String, Failure> {
    let trimmed = url.trim().trim_end_matches('/');
    let authority = trimmed.strip_prefix("http://").or_else(|| trimmed.strip_prefix("https://"));
    match authority {
        Some(rest) if !rest.is_empty() && !rest.contains(['@', '?', '#', ' ']) => Ok(trimmed.to_owned()),
        _ => Err(Failure::new(
            Kind::Usage,
            // A URL that carries a password must not be shown again.
            format!("{origin} is not a base URL without user, query and fragment"),
            "write it like http://127.0.0.1:7701 or https://railwatch.example:7701",
        )),
    }
}

/// Host of a base URL, without port and brackets.
pub fn host_of(url: &str) -> &str {
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = authority.split('/').next().unwrap_or(authority);
    match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => authority.split(':').next().unwrap_or(authority),
    }
}

/// The URL stays on this host.
pub fn is_loopback(url: &str) -> bool {
    let host = host_of(url);
    host.eq_ignore_ascii_case("localhost") || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Both are on this host's loopback, with the same scheme and port.
pub fn same_loopback(a: &str, b: &str) -> bool {
    let key = |url: &str| {
        let (scheme, rest) = url.split_once("://")?;
        let authority = rest.split('/').next()?;
        let port =
            authority.rsplit_once(':').map(|(_, port)| port).filter(|port| port.bytes().all(|b| b.is_ascii_digit()));
        Some((scheme.to_owned(), port.unwrap_or(if scheme == "https" { "443" } else { "80" }).to_owned()))
    };
    is_loopback(a) && is_loopback(b) && key(a).is_some() && key(a) == key(b)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;

    fn run_file(dir: &Path, name: &str, api: &str, pid: u32) -> PathBuf {
        std::fs::write(dir.join("token"), "secret-of-the-run-file\n").unwrap();
        let path = dir.join(name);
        let text = format!(
            r#"{{"api": "{api}", "token_file": "{0}/token", "state_dir": "{0}/state", "pid": {pid}, "later": 1}}"#,
            dir.display()
        );
        std::fs::write(&path, text).unwrap();
        path
    }

    /// No process has this number: it is above the kernel's limit of 2^22.
    const GONE: u32 = 2_000_000_000;

    fn find(connection: &Connection, around: &Surroundings) -> Result<Target, Failure> {
        target(connection, around, &Local::find(&around.run_files)?)
    }

    #[test]
    fn the_command_line_comes_before_the_environment_and_that_before_the_run_file() {
        let dir = tempfile::tempdir().unwrap();
        let mut around = Surroundings {
            run_files: vec![run_file(dir.path(), "a.json", "http://127.0.0.1:7701", std::process::id())],
            ..Surroundings::default()
        };
        let mut line = Connection::default();
        let found = find(&line, &around).unwrap();
        assert_eq!(
            (found.url.as_str(), found.token.unwrap().reveal()),
            ("http://127.0.0.1:7701", "secret-of-the-run-file")
        );

        around.collector = Some("https://far.example:7701/".into());
        let found = find(&line, &around).unwrap();
        assert_eq!(found.url, "https://far.example:7701");
        assert_eq!(found.token.unwrap_err().kind, Kind::NotAuthorised, "a local token never goes to another host");

        around.token = Some(Token("from-environment".into()));
        line.collector = Some("http://localhost:7701".into());
        let found = find(&line, &around).unwrap();
        assert_eq!((found.url.as_str(), found.token.unwrap().reveal()), ("http://localhost:7701", "from-environment"));

        around.token = None;
        assert_eq!(
            find(&line, &around).unwrap().token.unwrap().reveal(),
            "secret-of-the-run-file",
            "the same loopback port"
        );
        line.collector = Some("http://127.0.0.1:7999".into());
        assert!(find(&line, &around).unwrap().token.is_err(), "another port is another collector");
    }

    #[test]
    fn a_living_collector_is_preferred_to_a_stale_run_file_and_a_stale_one_is_said_to_be_stale() {
        let dir = tempfile::tempdir().unwrap();
        let stale = run_file(dir.path(), "stale.json", "http://127.0.0.1:1", GONE);
        let alive = run_file(dir.path(), "alive.json", "http://127.0.0.1:2", std::process::id());
        let mut around = Surroundings { run_files: vec![stale.clone(), alive], ..Surroundings::default() };
        assert_eq!(find(&Connection::default(), &around).unwrap().url, "http://127.0.0.1:2");
        around.run_files.pop();
        let failure = find(&Connection::default(), &around).unwrap_err();
        assert_eq!(failure.kind, Kind::Unreachable);
        assert!(
            failure.what.contains(&stale.display().to_string()) && failure.what.contains("2000000000"),
            "{failure}"
        );
        around.run_files = vec![dir.path().join("none")];
        assert_eq!(find(&Connection::default(), &around).unwrap_err().kind, Kind::Unreachable);
        std::fs::write(&stale, "{").unwrap();
        around.run_files = vec![stale];
        assert!(find(&Connection::default(), &around).unwrap_err().what.contains("does not say where"));
    }

    #[test]
    fn a_url_that_is_none_is_refused_without_repeating_what_may_be_a_password() {
        for url in ["", "127.0.0.1:7701", "ftp://x", "http://", "http://user:hunter2@x", "http://x?y", "http://a b"] {
            let line = Connection { collector: Some(url.into()), ..Connection::default() };
            let failure = find(&line, &Surroundings::default()).unwrap_err();
            assert_eq!(failure.kind, Kind::Usage, "{url}");
            assert!(!failure.to_string().contains("hunter2"));
        }
        for (url, host, loopback) in [
            ("http://127.0.0.1:7701", "127.0.0.1", true),
            ("http://[::1]:7701/x", "::1", true),
            ("http://LOCALHOST", "LOCALHOST", true),
            ("http://127.0.0.1.evil.example:7701", "127.0.0.1.evil.example", false),
            ("https://10.0.0.1", "10.0.0.1", false),
        ] {
            assert_eq!((host_of(url), is_loopback(url)), (host, loopback), "{url}");
        }
    }

    #[test]
    fn a_token_is_one_word_and_is_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        for (content, fine) in [("abc\n", true), ("", false), ("two words", false), ("zwölf", false)] {
            std::fs::write(&path, content).unwrap();
            let read = read_token(&path, "--token-file");
            assert_eq!(read.is_ok(), fine, "{content:?}");
            assert!(!format!("{read:?}").contains("abc"));
        }
        assert_eq!(read_token(&dir.path().join("none"), "x").unwrap_err().kind, Kind::NotAuthorised);
    }
}
