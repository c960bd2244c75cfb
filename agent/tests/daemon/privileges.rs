//! Without root, the agent runs, and says what is off and how to get it.

use crate::agent::{Agent, PROGRAM, arguments};
use crate::collector::{Site, eventually};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// Runs `program` as nobody, without a capability, from a folder that nobody can read and write.
fn as_nobody(folder: &Path) -> Command {
    let program = folder.join("railwatch-agent");
    // By a process of its own: a descriptor open for writing here could be inherited by what another test starts at this
    // moment, and then the program cannot be executed (ETXTBSY).
    assert!(Command::new("cp").arg(PROGRAM).arg(&program).status().unwrap().success());
    let listing = |path: &Path| fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o777)).unwrap();
    for path in listing(folder) {
        std::os::unix::fs::chown(&path, Some(65534), Some(65534)).unwrap();
    }
    let mut command = Command::new("setpriv");
    command
        .args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "--no-new-privs",
            "--inh-caps=-all",
            "--bounding-set=-all",
        ])
        .arg(program);
    command
}

#[test]
fn the_report_names_every_missing_capability_and_its_cure() {
    let site = Site::new();
    let output = as_nobody(site.dir.path()).args(["capabilities", "-o", "json"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report["capabilities"].as_array().unwrap().iter().all(|row| row["effective"] == false), "{report}");
    let limitations = report["limitations"].to_string();
    for name in ["CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH", "CAP_CHECKPOINT_RESTORE"] {
        assert!(limitations.contains(&format!("{name} is missing")), "{name}: {limitations}");
    }
    assert!(limitations.contains("AmbientCapabilities="), "the cure is there: {limitations}");
    let table = as_nobody(site.dir.path()).arg("capabilities").output().unwrap();
    assert!(String::from_utf8_lossy(&table.stdout).contains("OFF OR LIMITED"), "{table:?}");
}

#[test]
fn an_agent_without_privileges_samples_reports_and_says_what_is_off() {
    let site = Site::new();
    let collector = site.listen("127.0.0.1:0");
    let arguments = arguments(&site, &collector.address);
    let mut agent = Agent::spawn(&site, as_nobody(site.dir.path()).arg("run").args(arguments));
    eventually("windows of the NICs arrive", || site.stored(|stored| !stored.frames.is_empty()));
    eventually("the collector hears what is off", || {
        site.stored(|stored| stored.hellos.iter().any(|hello| hello.limitations.iter().any(|l| l.what == "gpu probes")))
    });
    assert_eq!(agent.metric("railwatch_gpu_probes_loaded"), Some(0.0));
    assert!(agent.metric("railwatch_agent_limitations{what=\"gpu probes\"}").unwrap() >= 1.0);
    assert_eq!(agent.metric("railwatch_source_on{source=\"netdev\"}"), Some(1.0));
    assert!(agent.log().contains("CAP_BPF"), "{}", agent.log());
    assert!(agent.runs());
    agent.end();
}

#[test]
fn in_a_pid_namespace_of_its_own_it_says_that_the_hosts_pids_are_out_of_sight() {
    let report = |program: &str, before: &[&str]| {
        let output = Command::new(program).args(before).args(["capabilities", "-o", "json"]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    let inside = report("unshare", &["--pid", "--fork", "--mount-proc", PROGRAM]);
    assert_eq!(inside["initial_pid_namespace"], false, "needs root");
    assert!(inside["limitations"].to_string().contains("hostPID: true"), "{inside}");
}
