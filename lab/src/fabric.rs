//! Makes the namespaces and links of a plan, and takes them away.
//!
//! In: a [`Lab`]. Out: a network namespace per node, a veth pair per link, addresses, hosts' routes. Never: an interface in
//! the machine's own namespace: every pair is made with both ends where they belong.

use crate::{enter, lab::Lab, plan::MANAGEMENT_PORT};
use anyhow::{Context, Result, bail};
use std::{
    fmt::Write as _,
    fs,
    io::Write as _,
    process::{Command, Stdio},
};

/// Routing tables of the rails start here, on hosts.
const TABLE_BASE: u32 = 100;

/// Makes everything.
///
/// # Errors
/// What `ip` or the kernel refused.
pub fn make(lab: &Lab) -> Result<()> {
    let mut batch = String::new();
    for node in lab.plan.nodes() {
        line(&mut batch, format_args!("netns add {}", lab.namespace(node)));
    }
    ip(None, &batch)?;
    let mut batch = String::new();
    for link in &lab.plan.links {
        pair(&mut batch, lab, (&link.a.node, &link.a.port), (&link.b.node, &link.b.port));
    }
    let hosts = lab.plan.hosts.iter().map(|host| &host.name);
    for node in hosts.chain(lab.plan.switches.iter().map(|switch| &switch.name)) {
        pair(&mut batch, lab, (node, MANAGEMENT_PORT), (&lab.plan.management, node));
    }
    ip(None, &batch)?;
    for node in lab.plan.nodes() {
        enter::inside(lab, node, || {
            sysctls(lab.plan.switch(node).is_some())?;
            keep_order(lab, node)
        })?;
        ip(Some(&lab.namespace(node)), &configuration(lab, node))?;
    }
    Ok(())
}

/// Makes the namespace and links of a host that a plan has grown by, while all else goes on.
///
/// # Errors
/// What `ip` or the kernel refused.
pub fn add_host(lab: &Lab, name: &str) -> Result<()> {
    ip(None, &format!("netns add {}\n", lab.namespace(name)))?;
    let mut batch = String::new();
    for link in lab.plan.links_of(name) {
        pair(&mut batch, lab, (&link.a.node, &link.a.port), (&link.b.node, &link.b.port));
    }
    pair(&mut batch, lab, (name, MANAGEMENT_PORT), (&lab.plan.management, name));
    ip(None, &batch)?;
    for link in lab.plan.links_of(name) {
        let end = &link.b;
        let mut batch = String::new();
        line(&mut batch, format_args!("addr add {}/31 dev {}", end.address, end.port));
        line(&mut batch, format_args!("link set {} up gso_max_segs 1", end.port));
        ip(Some(&lab.namespace(&end.node)), &batch)?;
        enter::inside(lab, &end.node, || keep_order(lab, &end.node))?;
    }
    enter::inside(lab, name, || {
        sysctls(false)?;
        keep_order(lab, name)
    })?;
    let peer = lab.plan.host(name).context("the plan has the host")?.management_peer;
    let batch = format!("addr add {peer}/31 dev {name}\nlink set {name} up\n");
    ip(Some(&lab.namespace(&lab.plan.management)), &batch)?;
    ip(Some(&lab.namespace(name)), &configuration(lab, name))
}

/// Removes the namespace of a node, and all that is in it.
///
/// # Errors
/// What `ip` refused.
pub fn remove_node(lab: &Lab, name: &str) -> Result<()> {
    ip(None, &format!("netns del {}\n", lab.namespace(name)))
}

/// Gives a port of a switch another name, with its carrier down meanwhile: its cable is in another port.
///
/// # Errors
/// What `ip` refused.
pub fn rename_port(lab: &Lab, node: &str, from: &str, to: &str) -> Result<()> {
    let batch = format!("link set {from} down\nlink set {from} name {to}\nlink set {to} up\n");
    ip(Some(&lab.namespace(node)), &batch)
}

/// Removes the namespaces whose names begin so, and all that is in them.
///
/// # Errors
/// What `ip` refused.
pub fn remove_namespaces(prefix: &str) -> Result<()> {
    let Ok(entries) = fs::read_dir("/run/netns") else { return Ok(()) };
    let mut batch = String::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with(prefix) {
            line(&mut batch, format_args!("netns del {name}"));
        }
    }
    if batch.is_empty() { Ok(()) } else { ip(None, &batch) }
}

fn line(batch: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing into a String cannot fail.
    let _ = writeln!(batch, "{arguments}");
}

fn pair(batch: &mut String, lab: &Lab, a: (&str, &str), b: (&str, &str)) {
    let (from, to) = (lab.namespace(a.0), lab.namespace(b.0));
    line(batch, format_args!("link add name {} netns {from} type veth peer name {} netns {to}", a.1, b.1));
}

/// Addresses and routes of a node, as `ip` takes them in a batch.
fn configuration(lab: &Lab, node: &str) -> String {
    let plan = &lab.plan;
    let mut batch = String::from("link set lo up\n");
    for link in plan.links_of(node) {
        let end = link.end(node);
        line(&mut batch, format_args!("addr add {}/31 dev {}", end.address, end.port));
        // One packet is one packet of the wire: losing one must not lose the 40 that TCP would hand over at once.
        line(&mut batch, format_args!("link set {} up gso_max_segs 1", end.port));
    }
    let of_switch = plan.switch(node).map(|switch| (switch.management, switch.management_peer));
    let of_host = plan.host(node).map(|host| (host.management, host.management_peer));
    if let Some((own, peer)) = of_switch.or(of_host) {
        line(&mut batch, format_args!("addr add {own}/31 dev {MANAGEMENT_PORT}"));
        line(&mut batch, format_args!("link set {MANAGEMENT_PORT} up"));
        line(&mut batch, format_args!("route add {}/32 via {peer}", plan.collector));
    }
    if let Some(host) = plan.host(node) {
        for (nic, rail) in host.nics.iter().zip(&plan.rails) {
            let table = TABLE_BASE + nic.rail;
            line(&mut batch, format_args!("route add {} via {} dev {}", rail.prefix, nic.gateway, nic.port));
            line(&mut batch, format_args!("route add default via {} dev {} table {table}", nic.gateway, nic.port));
            line(&mut batch, format_args!("rule add from {} lookup {table}", nic.address));
        }
    }
    if node == plan.management {
        line(&mut batch, format_args!("addr add {}/32 dev lo", plan.collector));
        let hosts = plan.hosts.iter().map(|host| (&host.name, host.management_peer));
        let switches = plan.switches.iter().map(|switch| (&switch.name, switch.management_peer));
        for (name, peer) in hosts.chain(switches) {
            line(&mut batch, format_args!("addr add {peer}/31 dev {name}"));
            line(&mut batch, format_args!("link set {name} up"));
        }
    }
    batch
}

/// Settings of the namespace that the calling thread is in.
fn sysctls(is_switch: bool) -> Result<()> {
    let mut settings = vec![
        ("ipv6/conf/all/disable_ipv6", "1"),
        ("ipv6/conf/default/disable_ipv6", "1"),
        // Answers may come over another rail than the question.
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/default/rp_filter", "0"),
        // A path's trace is not slowed down.
        ("ipv4/icmp_ratelimit", "0"),
        // No tail loss probes: a NIC's transport sends nothing again on a mere suspicion.
        ("ipv4/tcp_early_retrans", "0"),
    ];
    if is_switch {
        settings.extend([
            ("ipv4/ip_forward", "1"),
            // Ports and protocol count, not only addresses.
            ("ipv4/fib_multipath_hash_policy", "1"),
            ("ipv4/conf/all/ignore_routes_with_linkdown", "1"),
            ("ipv4/conf/default/ignore_routes_with_linkdown", "1"),
        ]);
    }
    for (name, value) in settings {
        let file = format!("/proc/sys/net/{name}");
        match fs::write(&file, value) {
            // A kernel without IPv6 has none to switch off.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && name.starts_with("ipv6") => {}
            other => other.with_context(|| format!("write {value} into {file}"))?,
        }
    }
    Ok(())
}

/// Steers each flow to one processor at every port (receive packet steering). A veth hands a packet over on whichever
/// processor sends it, so that those of one flow overtake each other when the sender moves, which no cable does.
fn keep_order(lab: &Lab, node: &str) -> Result<()> {
    let sysfs = lab.node_folder(node).join("real-sys");
    fs::create_dir_all(&sysfs)?;
    enter::mount_privately("sysfs", &sysfs)?;
    let processors = std::thread::available_parallelism()?.get().min(32);
    let mask = format!("{:x}", (1_u64 << processors) - 1);
    for link in lab.plan.links_of(node) {
        let file = sysfs.join(format!("class/net/{}/queues/rx-0/rps_cpus", link.end(node).port));
        fs::write(&file, &mask).with_context(|| format!("write {mask} into {}", file.display()))?;
    }
    Ok(())
}

/// Runs lines of `ip`, in a namespace or outside.
fn ip(namespace: Option<&str>, batch: &str) -> Result<()> {
    let mut command = Command::new("ip");
    if let Some(namespace) = namespace {
        command.args(["-n", namespace]);
    }
    command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut process = command.spawn().context("start `ip`: is iproute2 installed?")?;
    process.stdin.take().context("its input is a pipe")?.write_all(batch.as_bytes())?;
    let output = process.wait_with_output()?;
    if !output.status.success() {
        bail!("`ip -batch` in {}: {}", namespace.unwrap_or("the machine"), String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
