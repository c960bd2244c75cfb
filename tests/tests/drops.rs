//! Packets that the kernel drops, from the tracepoint to the operator's screen.

use anyhow::{Context, Result};
use railwatch_tests::installation::{HOST, Installation, Options, eventually};
use serde_json::Value;
use std::{io::ErrorKind, net::UdpSocket};

/// Too few for a signal.
const SENT: u64 = 800;

#[test]
fn dropped_datagrams_show_with_reason_interface_and_flow() -> Result<()> {
    let installation = Installation::start(&Options::default())?;
    eventually("the drops are counted (needs root and BPF)", || {
        let hosts = installation.rows(&["hosts"])?;
        let sources = hosts.iter().filter_map(|host| host["sources"].as_array()).flatten();
        Ok(sources.into_iter().any(|source| source["source"] == "drops" && source["on"] == true).then_some(()))
    })
    .with_context(|| installation.agent.log_text())?;
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    let port = socket.local_addr()?.port();
    for _ in 0..SENT {
        while let Err(error) = socket.send_to(b"x", "127.0.0.1:9") {
            // The ICMP answer to an earlier one.
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
        }
    }
    let mut last = Vec::new();
    let flow = eventually("the flow", || {
        last = installation.rows(&["drops", "--host", HOST])?;
        let own = |row: &&Value| row["source_port"] == port && row["destination_port"] == 9;
        // The kernel may leave out one that interrupted another, and counts it apart.
        Ok(last.iter().find(own).filter(|row| row["packets"].as_u64() >= Some(SENT - 10)).cloned())
    })
    .with_context(|| format!("drops: {last:#?}\n{}", installation.agent.log_text()))?;
    assert!(flow["packets"].as_u64() <= Some(SENT), "{flow}");
    for (field, value) in [
        ("reason", "NO_SOCKET"),
        ("class", "loss"),
        ("interface", "lo"),
        ("protocol", "udp"),
        ("source", "127.0.0.1"),
        ("destination", "127.0.0.1"),
    ] {
        assert_eq!(flow[field], value, "{flow}");
    }
    assert!(flow["first_seen"].as_str() <= flow["last_seen"].as_str(), "{flow}");
    assert!(last.iter().all(|row| !row["reason"].as_str().unwrap_or_default().contains("CONSUMED")), "{last:#?}");
    Ok(())
}
