//! What the end of a process means.
//!
//! In: how the kernel half saw it end. Out: how bad that is, and in words. Pure.

use railwatch_abi::event::ExitStatus;

/// How bad an end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Badness {
    /// It returned 0, or nobody knows.
    Fine,
    /// It was asked to end.
    Asked,
    /// It failed.
    Failed,
}

/// How bad `status` is. SIGHUP, SIGINT and SIGTERM, and the codes by which shells and Python pass on the last two, are a person
/// or a scheduler ending the job.
#[must_use]
pub fn badness(status: ExitStatus) -> Badness {
    match (status.exit_code(), status.signal()) {
        (Some(0), _) | (None, None) => Badness::Fine,
        (Some(130 | 143), _) | (_, Some(1 | 2 | 15)) => Badness::Asked,
        _ => Badness::Failed,
    }
}

/// "exited with code 3", "was killed by SIGKILL by the kernel for lack of memory".
#[must_use]
pub fn words(status: ExitStatus) -> String {
    let oom = if status.oom_killed() == Some(true) { " by the kernel for lack of memory" } else { "" };
    match (status.exit_code(), status.signal()) {
        (Some(0), _) => format!("ended well{oom}"),
        (Some(code), _) => format!("exited with code {code}{oom}"),
        (None, Some(signal)) => {
            let core = if status.core_dumped() { " and dumped core" } else { "" };
            format!("was ended by {}{oom}{core}", signal_name(signal))
        }
        (None, None) => format!("ended, this kernel does not tell how{oom}"),
    }
}

/// Names of signal(7) on x86-64 and aarch64; real-time ones by their number.
#[must_use]
pub fn signal_name(signal: u8) -> String {
    const NAMES: [&str; 32] = [
        "0",
        "SIGHUP",
        "SIGINT",
        "SIGQUIT",
        "SIGILL",
        "SIGTRAP",
        "SIGABRT",
        "SIGBUS",
        "SIGFPE",
        "SIGKILL",
        "SIGUSR1",
        "SIGSEGV",
        "SIGUSR2",
        "SIGPIPE",
        "SIGALRM",
        "SIGTERM",
        "SIGSTKFLT",
        "SIGCHLD",
        "SIGCONT",
        "SIGSTOP",
        "SIGTSTP",
        "SIGTTIN",
        "SIGTTOU",
        "SIGURG",
        "SIGXCPU",
        "SIGXFSZ",
        "SIGVTALRM",
        "SIGPROF",
        "SIGWINCH",
        "SIGIO",
        "SIGPWR",
        "SIGSYS",
    ];
    NAMES.get(usize::from(signal)).map_or_else(|| format!("signal {signal}"), |name| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_judged_and_worded() {
        let of = |code: u64| ExitStatus(ExitStatus::CODE | ExitStatus::OOM_KNOWN | code);
        for (status, bad, text) in [
            (of(0), Badness::Fine, "ended well"),
            (of(3 << 8), Badness::Failed, "exited with code 3"),
            (of(143 << 8), Badness::Asked, "exited with code 143"),
            (of(15), Badness::Asked, "was ended by SIGTERM"),
            (of(9), Badness::Failed, "was ended by SIGKILL"),
            (
                ExitStatus(of(9).0 | ExitStatus::OOM_KILLED),
                Badness::Failed,
                "was ended by SIGKILL by the kernel for lack of memory",
            ),
            (of(11 | 0x80), Badness::Failed, "was ended by SIGSEGV and dumped core"),
            (of(40), Badness::Failed, "was ended by signal 40"),
            (ExitStatus(0), Badness::Fine, "ended, this kernel does not tell how"),
        ] {
            assert_eq!((badness(status), words(status).as_str()), (bad, text), "{status:?}");
        }
    }
}
