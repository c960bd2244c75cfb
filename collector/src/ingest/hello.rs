//! The opening of a stream: who says hello, in which version, and whether the certificate agrees.

use railwatch_wire::{limits, v1};

/// Bytes of a stream's identifier.
pub type StreamId = [u8; 16];

/// Longest list of limitations.
const LIMITATIONS_MAX: usize = 256;
/// An agent that is turned away for what an upgrade or a person changes looks again this often.
const LATER_MS: u32 = 60_000;

/// A Hello that was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The version spoken from now on.
    pub protocol_version: u32,
    /// Which stream this is.
    pub stream_id: StreamId,
}

/// Judges a Hello from the holder of the certificate for `certified_host`.
pub fn judge(hello: &v1::Hello, certified_host: &str) -> Result<Accepted, v1::Reject> {
    let reject = |reason: v1::reject::Reason, message: String, retry_after_ms| {
        Err(v1::Reject { reason: reason.into(), message, retry_after_ms })
    };
    let malformed = |message: String| reject(v1::reject::Reason::Malformed, message, LATER_MS);
    let Some(protocol_version) = railwatch_wire::negotiate(hello.protocol_min, hello.protocol_max) else {
        let ours = railwatch_wire::PROTOCOL_VERSIONS;
        let message = format!(
            "this collector ({}) speaks uplink protocol {} to {}, the agent ({}) speaks {} to {}: upgrade the older side",
            env!("CARGO_PKG_VERSION"),
            ours.start(),
            ours.end(),
            hello.agent_version,
            hello.protocol_min,
            hello.protocol_max,
        );
        return reject(v1::reject::Reason::ProtocolVersion, message, LATER_MS);
    };
    if hello.host != certified_host {
        let message = format!(
            "the agent says it is host {:?}, its certificate is for {certified_host:?}: correct the host name in agent.toml or issue a certificate for it",
            shortened(&hello.host)
        );
        return reject(v1::reject::Reason::HostName, message, LATER_MS);
    }
    let Ok(stream_id) = StreamId::try_from(hello.stream_id.as_slice()) else {
        return malformed(format!("Hello.stream_id has {} bytes, expected 16", hello.stream_id.len()));
    };
    if hello.boot_id.is_empty() || hello.boot_id.len() > limits::NAME_BYTES_MAX {
        return malformed(
            "Hello.boot_id is empty or too long, expected the text of /proc/sys/kernel/random/boot_id".into(),
        );
    }
    if [&hello.agent_version, &hello.kernel_release, &hello.architecture]
        .iter()
        .any(|text| text.len() > limits::NAME_BYTES_MAX)
    {
        return malformed(format!(
            "a version or architecture in Hello is longer than {} bytes",
            limits::NAME_BYTES_MAX
        ));
    }
    let too_long = |limitation: &v1::Limitation| {
        limitation.what.len() > limits::NAME_BYTES_MAX || limitation.why.len() > limits::TEXT_BYTES_MAX
    };
    if hello.limitations.len() > LIMITATIONS_MAX || hello.limitations.iter().any(too_long) {
        return malformed(format!("Hello has more than {LIMITATIONS_MAX} limitations, or too long ones"));
    }
    Ok(Accepted { protocol_version, stream_id })
}

fn shortened(text: &str) -> &str {
    text.char_indices().nth(64).map_or(text, |(end, _)| &text[..end])
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::{Accepted, judge};
    use railwatch_wire::v1::{Hello, Limitation, reject::Reason};

    fn good() -> Hello {
        Hello {
            protocol_min: 1,
            protocol_max: 9,
            host: "gpu-1".into(),
            boot_id: "b".into(),
            stream_id: vec![7; 16],
            ..Hello::default()
        }
    }

    #[test]
    fn a_good_hello_gets_the_highest_common_version() {
        assert_eq!(judge(&good(), "gpu-1").unwrap(), Accepted { protocol_version: 1, stream_id: [7; 16] });
    }

    #[test]
    fn a_bad_hello_is_told_what_is_wrong_and_what_to_do() {
        for (hello, reason, says) in [
            (Hello { protocol_min: 2, ..good() }, Reason::ProtocolVersion, "speaks uplink protocol 1 to 1"),
            (Hello { protocol_min: 0, protocol_max: 0, ..good() }, Reason::ProtocolVersion, "upgrade the older side"),
            (Hello { host: "gpu-2".into(), ..good() }, Reason::HostName, "certificate is for \"gpu-1\""),
            (Hello { host: "é".repeat(5000), ..good() }, Reason::HostName, "certificate is for \"gpu-1\""),
            (Hello { stream_id: vec![7; 15], ..good() }, Reason::Malformed, "15 bytes, expected 16"),
            (Hello { boot_id: String::new(), ..good() }, Reason::Malformed, "boot_id"),
            (Hello { kernel_release: "x".repeat(256), ..good() }, Reason::Malformed, "longer than 255"),
            (Hello { limitations: vec![Limitation::default(); 257], ..good() }, Reason::Malformed, "limitations"),
        ] {
            let reject = judge(&hello, "gpu-1").unwrap_err();
            assert_eq!(reject.reason(), reason, "{hello:?}");
            assert!(reject.message.contains(says) && reject.message.len() < 500, "{}", reject.message);
        }
    }
}
