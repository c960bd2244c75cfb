//! Routing and neighbours: FRR (zebra, bgpd) on every switch, lldpd on every switch and host.
//!
//! In: a [`Lab`]. Out: configuration files, running daemons, and the wait until every switch has every route. Never: a daemon
//! of the machine's own, a file outside the lab's folder.
//!
//! Leaves announce the links of their hosts; spines share an autonomous system, so that a path never crosses two. Traps that
//! this avoids were measured (FRR 8.4.4): timers of 1 and 3 s, or a dead spine is noticed after minutes; no nexthop objects in
//! the kernel, or one of several paths is lost when a port bounces (the scenario `ecmp-loss` wants just that).

use crate::{
    enter::{Session, enter},
    interrupt,
    lab::Lab,
    plan::{Link, LinkKind, Switch, Tier},
};
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// How long routing may take until every route is there.
const CONVERGENCE: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Users and groups that the daemons look up, with their numbers. FRR runs as root here, and wants root among `frrvty`.
const USERS: [(&str, u32); 2] = [("frr", 64_101), ("_lldpd", 64_102)];
const GROUPS: [(&str, u32); 3] = [("frr", 64_101), ("_lldpd", 64_102), ("frrvty", 64_103)];

/// Writes the files of all nodes.
///
/// # Errors
/// What cannot be written.
pub fn write_files(lab: &Lab) -> Result<()> {
    // What people type in a shell of a node: vtysh looks for its file below /etc, which the machine may not have.
    let vtysh = lab.folder.join("bin/vtysh");
    fs::create_dir_all(lab.folder.join("bin"))?;
    let program = lab.programs.routing.join("usr/bin/vtysh");
    fs::write(&vtysh, format!("#!/bin/sh\nexec '{}' --config_dir /run/frr \"$@\"\n", program.display()))?;
    fs::set_permissions(&vtysh, fs::Permissions::from_mode(0o755))?;
    lab.plan.nodes().try_for_each(|node| write_node(lab, node))
}

/// Writes the files of one node.
///
/// # Errors
/// What cannot be written.
pub fn write_node(lab: &Lab, node: &str) -> Result<()> {
    let (passwd, group) = (fs::read_to_string("/etc/passwd")?, fs::read_to_string("/etc/group")?);
    let folder = lab.node_folder(node);
    for below in ["run/frr", "run/lldpd", "run/lock"] {
        fs::create_dir_all(folder.join(below)).with_context(|| format!("make {}", folder.display()))?;
    }
    let write = |name: &str, text: String| {
        fs::write(folder.join(name), text).with_context(|| format!("write {}/{name}", folder.display()))
    };
    write("hosts", format!("127.0.0.1 localhost {node}\n"))?;
    write(
        "passwd",
        with_rows(
            &passwd,
            USERS.map(|(name, id)| (name, format!("{name}:x:{id}:{id}::/nonexistent:/usr/sbin/nologin"))),
        ),
    )?;
    write("group", with_rows(&group, GROUPS.map(|(name, id)| (name, format!("{name}:x:{id}:root")))))?;
    write("run/lldpd.conf", lldpd_configuration(node))?;
    if let Some(switch) = lab.plan.switch(node) {
        write("run/frr/zebra.conf", zebra_configuration(lab, switch))?;
        write("run/frr/bgpd.conf", bgpd_configuration(lab, switch))?;
        write("run/frr/vtysh.conf", "username root nopassword\n".to_owned())?;
    }
    Ok(())
}

/// A table of users or groups with our rows in place of what the machine has of these names.
fn with_rows<const N: usize>(table: &str, rows: [(&str, String); N]) -> String {
    let is_ours = |line: &&str| rows.iter().any(|(name, _)| line.split(':').next() == Some(name));
    let kept = table.lines().filter(|line| !is_ours(line));
    kept.chain(rows.iter().map(|(_, row)| row.as_str())).map(|line| format!("{line}\n")).collect()
}

fn lldpd_configuration(node: &str) -> String {
    format!(
        "configure system hostname {node}\nconfigure lldp tx-interval 1\nconfigure lldp tx-hold 3\n\
         configure lldp portidsubtype ifname\n"
    )
}

fn zebra_configuration(lab: &Lab, switch: &Switch) -> String {
    let nexthops = if lab.kernel_nexthops { "" } else { "no zebra nexthop kernel enable\n" };
    format!("hostname {}\nlog file /run/frr/zebra.events\n{nexthops}", switch.name)
}

fn bgpd_configuration(lab: &Lab, switch: &Switch) -> String {
    let mut text = format!(
        "hostname {}\nlog file /run/frr/bgpd.events\nrouter bgp {}\n bgp router-id {}\n no bgp ebgp-requires-policy\n \
         no bgp default ipv4-unicast\n bgp bestpath as-path multipath-relax\n timers bgp 1 3\n",
        switch.name, switch.asn, switch.router_id
    );
    let mut family = String::from(" address-family ipv4 unicast\n  maximum-paths 64\n");
    for link in lab.plan.links_of(&switch.name) {
        if link.kind == LinkKind::Host {
            let _ = writeln!(family, "  network {}/31", link.b.address);
            continue;
        }
        let other = link.opposite(&switch.name);
        // Both ends of a fabric link are switches of the plan.
        let Some(neighbor) = lab.plan.switch(&other.node) else { continue };
        let _ = write!(
            text,
            " neighbor {0} remote-as {1}\n neighbor {0} description {2}\n neighbor {0} advertisement-interval 0\n \
             neighbor {0} timers connect 1\n",
            other.address, neighbor.asn, other
        );
        let _ = writeln!(family, "  neighbor {} activate", other.address);
    }
    text.push_str(&family);
    text.push_str(" exit-address-family\n");
    text
}

/// Starts all daemons.
///
/// # Errors
/// One that cannot be started.
pub fn start(lab: &Lab) -> Result<()> {
    let file = |path: &str| lab.programs.routing.join(path);
    for switch in &lab.plan.switches {
        for program in ["zebra", "bgpd"] {
            let mut command = Command::new(file(&format!("usr/lib/frr/{program}")));
            command.args(["-f", &format!("/run/frr/{program}.conf"), "-i", &format!("/run/frr/{program}.pid")]);
            command.args([
                "-z",
                "/run/frr/zserv.api",
                "--vty_socket",
                "/run/frr",
                "-u",
                "root",
                "-g",
                "root",
                "-P",
                "0",
            ]);
            spawn(lab, &switch.name, program, &mut command)?;
            if program == "zebra" {
                wait_for_file(&lab.node_folder(&switch.name).join("run/frr/zserv.api"), lab, &switch.name, program)?;
            }
        }
    }
    let hosts = lab.plan.hosts.iter().map(|host| &host.name);
    for node in lab.plan.switches.iter().map(|switch| &switch.name).chain(hosts) {
        start_lldpd(lab, node)?;
    }
    Ok(())
}

/// Starts lldpd of a node.
///
/// # Errors
/// It cannot be started.
pub fn start_lldpd(lab: &Lab, node: &str) -> Result<()> {
    let file = |path: &str| lab.programs.routing.join(path);
    let mut command = Command::new(file("usr/sbin/lldpd"));
    command.args(["-d", "-u", "/run/lldpd.socket", "-O", "/run/lldpd.conf", "-I", "eth*", "-L"]);
    command.arg(file("usr/sbin/lldpcli"));
    spawn(lab, node, "lldpd", &mut command)
}

/// Has a leaf announce the network of a host link, or no longer, without a restart.
///
/// # Errors
/// `vtysh` is not understood.
pub fn announce(lab: &Lab, link: &Link, is_there: bool) -> Result<()> {
    let leaf = lab.plan.switch(&link.b.node).context("a host link ends at a leaf")?;
    let network = format!("{}network {}/31", if is_there { "" } else { "no " }, link.b.address);
    let mut command = Command::new("/usr/bin/env");
    command.arg("vtysh");
    for line in ["configure", &format!("router bgp {}", leaf.asn), "address-family ipv4 unicast", &network] {
        command.args(["-c", line]);
    }
    environment(lab, &mut command)?;
    enter(lab, &leaf.name, Session::Own, &mut command)?;
    let output = command.output().context("start vtysh")?;
    ensure!(output.status.success(), "vtysh of {}: {}", leaf.name, String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Starts a daemon of a node, its output in the node's log of that name.
fn spawn(lab: &Lab, node: &str, program: &str, command: &mut Command) -> Result<()> {
    let log = lab.log(node, program);
    let out = File::create(&log).with_context(|| format!("make {}", log.display()))?;
    command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
    environment(lab, command)?;
    enter(lab, node, Session::Own, command)?;
    command.spawn().with_context(|| format!("start {program} of {node}"))?;
    Ok(())
}

/// Lets a program find the libraries and the commands of FRR and lldpd.
///
/// # Errors
/// The packages are not there.
pub fn environment(lab: &Lab, command: &mut Command) -> Result<()> {
    let path = std::env::var("PATH").unwrap_or_default();
    let own = ["usr/bin", "usr/sbin"].map(|folder| lab.programs.routing.join(folder).display().to_string());
    let path = format!("{}:{}:{path}", lab.folder.join("bin").display(), own.join(":"));
    command.env("LD_LIBRARY_PATH", lab.programs.routing_libraries()?).env("PATH", path);
    Ok(())
}

fn wait_for_file(path: &Path, lab: &Lab, node: &str, program: &str) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(20);
    while !path.exists() {
        ensure!(
            Instant::now() < end,
            "{program} of {node} does not come up:\n{}",
            fs::read_to_string(lab.log(node, program)).unwrap_or_default()
        );
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

#[derive(Deserialize)]
struct Route {
    dst: String,
    #[serde(default)]
    nexthops: Vec<serde_json::Value>,
}

/// How many paths the kernel of a switch has to each network that BGP told it of.
///
/// # Errors
/// `ip` does not answer.
pub fn paths(lab: &Lab, switch: &str) -> Result<BTreeMap<String, usize>> {
    let output = Command::new("ip")
        .args(["-n", &lab.namespace(switch), "-j", "-4", "route", "show", "proto", "bgp"])
        .output()
        .context("start `ip`")?;
    ensure!(output.status.success(), "`ip route` in {switch}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    // Nothing at all is printed where there are no routes.
    let routes: Vec<Route> = if text.trim().is_empty() { Vec::new() } else { serde_json::from_str(&text)? };
    Ok(routes.into_iter().map(|route| (route.dst, route.nexthops.len().max(1))).collect())
}

/// How many paths a switch is to have: to the hosts at other leaves over every spine, from a spine straight to the leaf.
#[must_use]
pub fn expected(lab: &Lab, switch: &Switch) -> BTreeMap<String, usize> {
    let plan = &lab.plan;
    let paths = if switch.tier == Tier::Leaf { plan.sizes.spines as usize } else { 1 };
    let remote = plan.links.iter().filter(|link| link.kind == LinkKind::Host && link.b.node != switch.name);
    remote.map(|link| (format!("{}/31", link.b.address), paths)).collect()
}

/// Waits until all switches have all paths.
///
/// # Errors
/// Some are missing after a minute: they are named.
pub fn converge(lab: &Lab) -> Result<()> {
    let end = Instant::now() + CONVERGENCE;
    for switch in &lab.plan.switches {
        let expected = expected(lab, switch);
        loop {
            let paths = paths(lab, &switch.name)?;
            if paths == expected {
                break;
            }
            if Instant::now() > end {
                let missing: Vec<_> = expected
                    .iter()
                    .filter(|(network, count)| paths.get(*network) != Some(count))
                    .map(|(network, count)| format!("{network}: {:?} of {count}", paths.get(network)))
                    .collect();
                ensure!(
                    missing.is_empty(),
                    "{} has not all paths after {CONVERGENCE:?}: {}",
                    switch.name,
                    missing.join(", ")
                );
                break;
            }
            interrupt::pause(LOOK_AGAIN)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        lab::Programs,
        plan::{Plan, Sizes},
    };

    fn lab() -> Lab {
        Lab {
            name: "t".into(),
            folder: "/nowhere".into(),
            kept: false,
            kernel_nexthops: false,
            plan: Plan::new(Sizes::default()).expect("the default sizes"),
            programs: Programs { own: "/".into(), routing: "/".into(), libraries: "/".into() },
        }
    }

    #[test]
    fn every_session_is_configured_from_both_ends() {
        let lab = lab();
        let texts: BTreeMap<_, _> =
            lab.plan.switches.iter().map(|switch| (&switch.name, bgpd_configuration(&lab, switch))).collect();
        for link in lab.plan.links.iter().filter(|link| link.kind == LinkKind::Fabric) {
            for (from, to) in [(&link.a, &link.b), (&link.b, &link.a)] {
                let asn = lab.plan.switch(&to.node).expect("a switch").asn;
                let line = format!("neighbor {} remote-as {asn}\n", to.address);
                assert!(texts[&from.node].contains(&line), "{}: {line}", from.node);
            }
        }
    }

    #[test]
    fn a_leaf_reaches_other_leaves_over_every_spine_and_a_spine_reaches_all() {
        let lab = lab();
        for switch in &lab.plan.switches {
            let (networks, paths) = if switch.tier == Tier::Leaf { (12, 2) } else { (16, 1) };
            let expected = expected(&lab, switch);
            assert_eq!(expected.len(), networks, "{}", switch.name);
            assert!(expected.values().all(|count| *count == paths), "{}", switch.name);
        }
    }

    #[test]
    fn what_the_machine_has_of_our_names_is_replaced_and_all_else_stays() {
        let table =
            with_rows("root:x:0:\nfrrvty:x:101:\n", GROUPS.map(|(name, id)| (name, format!("{name}:x:{id}:root"))));
        assert_eq!(table, "root:x:0:\nfrr:x:64101:root\n_lldpd:x:64102:root\nfrrvty:x:64103:root\n");
    }
}
