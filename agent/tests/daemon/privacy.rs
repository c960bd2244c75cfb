//! Nothing of a process's command line, or of its environment beyond the listed variables, leaves the host or lands in a file
//! of the agent.

use crate::agent::{Agent, all_bytes};
use crate::collector::{Site, eventually};
use crate::group::{Caller, Group};

/// Spread over the places where programs carry secrets.
const SECRETS: [&str; 3] = ["s3cret-in-argument", "s3cret-in-environment", "s3cret-in-an-allowed-looking-key"];

#[test]
fn no_command_line_and_no_environment_leaves_the_host() {
    let (site, group) = (Site::new(), Group::unified());
    let collector = site.listen("127.0.0.1:0");
    let agent = Agent::start(&site, &collector.address, &["--scope", &format!("cgroup:{}", group.0.display())]);
    let mut caller = Caller::start(&group, |command| {
        command.env("API_TOKEN", SECRETS[1]).env("NCCL_DEBUG_FILE", SECRETS[2]).env("RAILWATCH_TOKEN", SECRETS[1]);
    });
    // A second one, whose zeroth argument is the secret: bash alone can name it.
    let fixtures = crate::group::fixtures().display().to_string();
    let script = format!(
        "echo $$ > {}/cgroup.procs; exec -a {} {fixtures}/caller {fixtures}/libcudart.so",
        group.0.display(),
        SECRETS[0]
    );
    let mut named = std::process::Command::new("bash");
    named.args(["-c", &script]).stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::null());
    let mut named = named.spawn().unwrap();
    eventually("both are attached", || {
        [caller.pid(), named.id()].into_iter().all(|pid| crate::gpu::attached(&site, pid))
    });
    caller.call("fixture_fail_next 2");
    caller.call("cudaMalloc &0 64");
    use std::io::Write;
    named.stdin.as_mut().unwrap().write_all(b"fixture_fail_next 2\ncudaMalloc &0 64\n").unwrap();
    let told = |pid: u32| {
        let pid = pid.to_string();
        site.stored(|stored| format!("{:?}", stored.frames).contains(&format!("pid {pid}")))
    };
    eventually("both processes were told of", || told(caller.pid()) && told(named.id()));
    let cmdline = std::fs::read(format!("/proc/{}/cmdline", named.id())).unwrap();
    assert!(String::from_utf8_lossy(&cmdline).contains(SECRETS[0]), "the secret is there to be found");
    let sent = site.stored(|stored| format!("{:?}{:?}{:?}", stored.frames, stored.snapshots, stored.hellos));
    let page = agent.page("*/*") + &agent.page("application/openmetrics-text");
    let log = agent.log();
    let home = agent.home.clone();
    named.kill().unwrap();
    named.wait().unwrap();
    agent.end();
    let files = all_bytes(&home.join("state"));
    for secret in SECRETS {
        for (place, bytes) in
            [("sent", sent.as_bytes()), ("page", page.as_bytes()), ("log", log.as_bytes()), ("files", &files)]
        {
            let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "{secret} was found in: {place}");
        }
    }
    assert!(sent.contains("caller"), "the program's name is what leaves");
}
