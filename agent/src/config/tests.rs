#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
use super::*;
use std::path::Path;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("agent.toml"))
}

#[test]
fn an_empty_file_is_all_defaults_and_so_is_an_absent_one_that_nobody_named() {
    assert_eq!(parse("").unwrap(), Config::default());
    assert_eq!(Config::read(Path::new("/nonexistent/agent.toml"), false).unwrap(), Config::default());
    let error = Config::read(Path::new("/nonexistent/agent.toml"), true).unwrap_err().to_string();
    assert!(error.contains("/nonexistent/agent.toml"), "{error}");
}

#[test]
fn the_shipped_defaults_are_what_the_documents_promise() {
    let config = Config::default();
    assert_eq!(config.collector.to_string(), "127.0.0.1:7700");
    assert_eq!(config.metrics_listen.to_string(), "127.0.0.1:7703");
    assert_eq!(config.state_dir, Path::new("/var/lib/railwatch/agent"));
}

#[test]
fn the_documented_file_holds_every_field_with_its_default() {
    let documented = include_str!("../../agent.toml");
    assert_eq!(parse(documented).unwrap(), Config::default());
    let commented = ["host_name", "server_name", "tls_trust", "tls_certificate", "tls_key"];
    let fields = documented.lines().filter(|line| line.contains(" = ") && !line.starts_with('#')).count();
    // As many as `changes` compares.
    assert_eq!(fields + commented.len(), 44, "a field is missing in agent.toml, or new");
    assert!(commented.iter().all(|field| documented.contains(field)));
}

#[test]
fn a_full_file_is_taken_as_written() {
    let config = parse(
        r#"
        host_name = "gpu-017"
        state_dir = "/srv/railwatch"
        log = "warn,railwatch_agent=debug"
        collector = "[::1]:7700"
        server_name = "collector"
        pki_dir = "/srv/pki"
        tls_key = "/run/secrets/agent.key"
        metrics_listen = "[::1]:0"
        [gpu]
        enabled = false
        scope = "cgroup:/sys/fs/cgroup/jobs"
        pin_dir = ""
        extra_paths = ["/opt/vendor/lib*/libcuda.so*"]
        events_per_process_per_s = 10
        series_max = 0
        [sampling]
        sysfs_root = "/tmp/sys"
        software_interfaces = ["veth"]
        series_max = 100
        cpu_budget_percent = 1.5
        rtnl_budget_percent = 2.5
        cadence_ms = { netdev = 10, "rdma.hw" = 1000 }
        [spool]
        bytes_max = 1048576
        [drops]
        enabled = false
        scope = "netns"
        [health]
        enabled = false
        procfs_root = "/tmp/proc"
        nvml_library = "/opt/nvml.so"
        dcmi_library = "/opt/libdcmi.so"
        hccn_tool = "/opt/hccn_tool"
        kmsg_socket = "/run/railwatch-agent/kmsg.sock"
        disk_socket = "/run/railwatch-agent/disk.sock"
        [tape]
        enabled = false
        bytes_max = 8388608
        [probe]
        enabled = true
        listen = "[::]:7704"
        key_file = "/srv/probe.key"
        answers_per_source_per_s = 5
        packets_per_s_per_nic_max = 0
        verbs_socket = "/run/railwatch-agent/verbs.sock"
        [peers]
        enabled = false
        own_interfaces = true
        [inventory]
        enabled = false
        [disk]
        enabled = false
        "#,
    )
    .unwrap();
    assert_eq!(config.collector.host(), "::1");
    assert_eq!(config.gpu.scope, Scope::Cgroup("/sys/fs/cgroup/jobs".into()));
    assert_eq!(Duration::from(config.sampling.cadence_ms[&SourceName::RdmaHw]), Duration::from_secs(1));
    let fields: Vec<_> = changes(&Config::default(), &config).iter().map(|change| change.field).collect();
    assert_eq!(fields.len(), 42, "every field but tls_trust and tls_certificate was changed: {fields:?}");
    let files = config.credential_files();
    assert_eq!(files.certificate, Path::new("/srv/pki/agent.pem"));
    assert_eq!(files.key, Path::new("/run/secrets/agent.key"));
}

#[test]
fn a_bad_file_is_refused_with_line_field_and_what_was_expected() {
    for (text, line, expected) in [
        ("colector = 1", 1, "unknown field `colector`"),
        ("\n[gpu]\nscop = \"none\"", 3, "unknown field `scop`"),
        ("host_name = \"GPU 1\"", 1, "is no host name"),
        ("[gpu]\nextra_paths = [\"lib/libcuda.so\"]", 2, "is no absolute path"),
        ("\n\nlog = \"railwatch=loud\"", 3, "is no log filter"),
        ("collector = \"collector\"", 1, "expected HOST:PORT"),
        ("collector = \"collector:0\"", 1, "expected HOST:PORT"),
        ("collector = \"http://collector:7700\"", 1, "expected HOST:PORT"),
        ("metrics_listen = \"7703\"", 1, "socket address"),
        ("[gpu]\nscope = \"cgroup:jobs\"", 2, "expected none, netns or cgroup:/ABSOLUTE/PATH"),
        ("[gpu]\nevents_per_process_per_s = 0", 2, "expected 1 to 1000000"),
        ("[gpu]\nevents_per_process_per_s = -5", 2, "-5 is out of range"),
        ("[gpu]\nenabled = \"yes\"", 2, "expected a boolean"),
        ("[sampling]\ncadence_ms = { netdev = 0 }", 2, "expected 1 to 600000"),
        ("[health]\nkmsg = true", 2, "unknown field `kmsg`"),
        ("[sampling]\ncadence_ms = { nvml = 5 }", 2, "expected one of `netdev`"),
        ("[sampling]\ncpu_budget_percent = 0.0", 2, "expected above 0 and up to 100"),
        ("[spool]\nbytes_max = 5", 2, "expected 1048576"),
        ("[tape]\nbytes_max = 1048576", 2, "expected 8388608"),
        ("[spool]\nbytes_max = 1048576\nbytes_max = 2097152", 3, "duplicate key"),
        ("[gpu", 1, "unclosed table"),
        ("state_dir = \"/x\"\n\u{0}", 2, ""),
    ] {
        let error = parse(text).unwrap_err();
        let ConfigError::Refused { line: at, .. } = &error else { panic!("{error}") };
        assert_eq!(*at, line, "{error}");
        let said = error.to_string();
        assert!(said.contains(expected), "{text:?}: {said}");
        assert!(said.starts_with("agent.toml:"), "{said}");
    }
}

#[test]
fn a_reload_says_which_fields_wait_for_a_restart() {
    for (text, expected) in [
        ("", &[][..]),
        ("log = \"debug\"", &[("log", Effect::Now)]),
        ("[sampling]\ncadence_ms = { netdev = 50 }", &[("sampling.cadence_ms", Effect::Now)]),
        (
            "[gpu]\nscope = \"netns\"\nseries_max = 3",
            &[("gpu.scope", Effect::AfterRestart), ("gpu.series_max", Effect::Now)],
        ),
    ] {
        let found = changes(&Config::default(), &parse(text).unwrap());
        let found: Vec<_> = found.iter().map(|change| (change.field, change.effect)).collect();
        assert_eq!(found, expected, "{text}");
    }
}
