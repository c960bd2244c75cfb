//! What the uplink's TLS promises, over real connections on loopback.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

use crate::*;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::StreamExt;

const HOUR: Duration = Duration::from_secs(3600);

struct Site {
    dir: TempDir,
    ca: DevelopmentCa,
}

impl Site {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let ca = DevelopmentCa::open_or_create(dir.path()).unwrap();
        ca.issue_server(&["localhost", "127.0.0.1"], LEAF_LIFE).unwrap().write(dir.path(), "collector").unwrap();
        Self { dir, ca }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn files(&self, name: &str) -> CredentialFiles {
        CredentialFiles {
            trust: self.ca.trust(),
            certificate: self.path().join(format!("{name}.pem")),
            key: self.path().join(format!("{name}.key")),
            revoked: Some(self.ca.revocation_list()),
        }
    }

    fn agent(&self, host: &str) -> Arc<Credentials> {
        self.ca.issue_agent(&HostName::parse(host).unwrap(), LEAF_LIFE).unwrap().write(self.path(), host).unwrap();
        Credentials::load(self.files(host)).unwrap()
    }
}

/// Says the peer's name to each connection, then echoes.
async fn serve(
    credentials: Arc<Credentials>,
) -> (String, Arc<HandshakeCounts>, tokio::sync::mpsc::UnboundedReceiver<PeerIdentity>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (mut connections, counts) =
        incoming(listener, credentials, HandshakeLimits { at_once_max: 8, time_max: Duration::from_millis(300) });
    let (peers, seen) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(mut stream)) = connections.next().await {
            let _ = peers.send(stream.peer().clone());
            tokio::spawn(async move {
                let mut byte = [0];
                while let Ok(1) = stream.read(&mut byte).await {
                    if stream.write_all(&byte).await.is_err() {
                        return;
                    }
                    let _ = stream.flush().await;
                }
            });
        }
    });
    (address, counts, seen)
}

/// Connects and sends a byte there and back: in TLS 1.3 the client learns of a refusal only by reading.
async fn echo(address: &str, credentials: Arc<Credentials>) -> Result<AgentStream, String> {
    let connector = AgentConnector::new(address, "127.0.0.1", credentials).unwrap();
    let mut stream = connector.connect().await.map_err(|e| e.to_string())?;
    again(&mut stream).await.map(|()| stream)
}

async fn again(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Result<(), String> {
    stream.write_all(b"x").await.map_err(|e| explain(&e))?;
    stream.flush().await.map_err(|e| explain(&e))?;
    match stream.read(&mut [0]).await {
        Ok(1) => Ok(()),
        Ok(_) => Err("closed".into()),
        Err(error) => Err(explain(&error)),
    }
}

#[tokio::test]
async fn a_good_agent_is_known_by_its_certificate() {
    let site = Site::new();
    let (address, counts, mut seen) = serve(Credentials::load(site.files("collector")).unwrap()).await;
    echo(&address, site.agent("gpu-1.pod2")).await.unwrap();
    assert_eq!(seen.recv().await.unwrap().host.as_str(), "gpu-1.pod2");
    assert_eq!(counts.identified.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn strangers_are_refused_and_told_why() {
    let (site, other) = (Site::new(), Site::new());
    let collector = Credentials::load(site.files("collector")).unwrap();
    let (address, counts, mut seen) = serve(collector.clone()).await;
    let host = HostName::parse("gpu-1").unwrap();
    let now = SystemTime::now();

    // Trusts our CA, holds a certificate of another.
    other.agent("gpu-1");
    let wrong_ca =
        Credentials::load(CredentialFiles { trust: site.ca.trust(), revoked: None, ..other.files("gpu-1") }).unwrap();
    assert!(echo(&address, wrong_ca).await.unwrap_err().contains("does not trust the CA"));

    // Does not trust our CA: the agent itself refuses.
    assert!(echo(&address, other.agent("gpu-1")).await.unwrap_err().contains("not in the trust bundle"));

    // A collector's certificate is no agent's.
    assert!(echo(&address, collector.clone()).await.is_err());

    // Expires while the process runs.
    let issued = site.ca.issue_agent_between(&host, now - HOUR..now + Duration::from_secs(2)).unwrap();
    issued.write(site.path(), "short").unwrap();
    let short = Credentials::load(site.files("short")).unwrap();
    tokio::time::sleep(Duration::from_millis(3100)).await;
    assert!(echo(&address, short).await.unwrap_err().contains("expired"));

    // No certificate at all; then no TLS at all; then nothing at all.
    let bare = {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(site.ca.certificate().clone()).unwrap();
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth()
    };
    let tcp = TcpStream::connect(&address).await.unwrap();
    let mut stream =
        tokio_rustls::TlsConnector::from(Arc::new(bare)).connect("127.0.0.1".try_into().unwrap(), tcp).await.unwrap();
    assert!(again(&mut stream).await.unwrap_err().contains("sent none"));
    let mut tcp = TcpStream::connect(&address).await.unwrap();
    tcp.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut rest = Vec::new();
    let _ = tcp.read_to_end(&mut rest).await;
    let mut silent = TcpStream::connect(&address).await.unwrap();
    let _ = silent.read_to_end(&mut rest).await;
    assert_eq!(counts.slow.load(Ordering::Relaxed), 1);

    // After all that, a good one still gets in, and only it.
    echo(&address, site.agent("gpu-2")).await.unwrap();
    assert_eq!(seen.recv().await.unwrap().host.as_str(), "gpu-2");
    assert!(seen.try_recv().is_err());
    assert_eq!(counts.identified.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn an_agents_certificate_cannot_serve_and_a_wrong_name_is_refused() {
    let site = Site::new();
    let agent = site.agent("gpu-1");
    let (address, ..) = serve(agent.clone()).await;
    assert!(echo(&address, agent.clone()).await.is_err());

    let (address, ..) = serve(Credentials::load(site.files("collector")).unwrap()).await;
    let connector = AgentConnector::new(&address, "collector.example", agent).unwrap();
    assert!(connector.connect().await.unwrap_err().to_string().contains("does not carry the name"));
}

#[tokio::test]
async fn a_revoked_host_is_refused_at_once_and_its_open_stream_is_recognised() {
    let site = Site::new();
    let collector = Credentials::load(site.files("collector")).unwrap();
    let (address, _, mut seen) = serve(collector.clone()).await;
    let (bad, good) = (site.agent("gpu-1"), site.agent("gpu-2"));
    echo(&address, bad.clone()).await.unwrap();
    let peer = seen.recv().await.unwrap();
    assert!(!collector.is_revoked(&peer));

    let mut generation = collector.generation();
    generation.mark_unchanged();
    assert_eq!(site.ca.revoke_host(&HostName::parse("gpu-1").unwrap(), Reason::KeyCompromise).unwrap().len(), 1);
    assert!(matches!(collector.reload(), Reload::Reloaded));
    assert!(generation.has_changed().unwrap());
    assert!(collector.is_revoked(&peer));
    assert!(echo(&address, bad).await.unwrap_err().contains("revoked"));
    echo(&address, good).await.unwrap();
    assert!(!collector.is_revoked(&seen.recv().await.unwrap()));

    // A second revocation keeps the first; the host may come back with a new certificate.
    assert!(site.ca.revoke_host(&HostName::parse("gpu-9").unwrap(), Reason::Unspecified).is_err());
    site.ca.revoke_host(&HostName::parse("gpu-2").unwrap(), Reason::Superseded).unwrap();
    assert!(matches!(collector.reload(), Reload::Reloaded));
    assert_eq!(collector.revoked().len(), 2);
    echo(&address, site.agent("gpu-1")).await.unwrap();
}

#[tokio::test]
async fn rotation_of_ca_and_certificates_loses_no_connection() {
    let (old, new) = (Site::new(), Site::new());
    let collector = Credentials::load(old.files("collector")).unwrap();
    let (address, ..) = serve(collector.clone()).await;
    let old_agent = old.agent("gpu-1");
    let mut open = echo(&address, old_agent.clone()).await.unwrap();

    // 1. Both sides trust both CAs. 2. The collector takes a certificate of the new one.
    let both = [std::fs::read(old.ca.trust()).unwrap(), std::fs::read(new.ca.trust()).unwrap()].concat();
    std::fs::write(old.ca.trust(), both).unwrap();
    assert!(matches!(collector.reload(), Reload::Reloaded));
    assert!(matches!(old_agent.reload(), Reload::Reloaded));
    echo(&address, old_agent.clone()).await.unwrap();
    for kind in ["key", "pem"] {
        std::fs::copy(new.path().join(format!("collector.{kind}")), old.path().join(format!("collector.{kind}")))
            .unwrap();
    }
    assert!(matches!(collector.reload(), Reload::Reloaded));
    echo(&address, old_agent).await.unwrap();

    // 3. Agents get new certificates; the stream that was open all along still works.
    new.agent("gpu-1");
    let agent = Credentials::load(CredentialFiles { revoked: None, ..new.files("gpu-1") }).unwrap();
    echo(&address, agent).await.unwrap();
    again(&mut open).await.unwrap();

    // The CA that shares its bundle with another still opens.
    DevelopmentCa::open_or_create(old.path()).unwrap();
}

#[tokio::test]
async fn half_written_and_mismatched_files_keep_the_old_ones() {
    let site = Site::new();
    let collector = Credentials::load(site.files("collector")).unwrap();
    let (address, ..) = serve(collector.clone()).await;
    let agent = site.agent("gpu-1");
    let files = site.files("collector");
    let good: Vec<_> = [&files.trust, &files.certificate, &files.key].map(|path| std::fs::read(path).unwrap()).into();
    let revoked = std::fs::read(site.ca.revocation_list()).unwrap();
    let other = Site::new();
    let other_key = std::fs::read(other.files("collector").key).unwrap();
    let other_list = std::fs::read(other.ca.revocation_list()).unwrap();
    let cases: Vec<(&Path, Vec<u8>, &str)> = vec![
        (&files.certificate, good[1][..good[1].len() / 2].to_vec(), "certificates in PEM"),
        (&files.certificate, Vec::new(), "none in 0 bytes"),
        (&files.trust, good[0][..20].to_vec(), "certificates in PEM"),
        (&files.key, good[2][..30].to_vec(), "private key"),
        (&files.key, other_key, "does not belong"),
        (files.revoked.as_deref().unwrap(), revoked[..revoked.len() - 40].to_vec(), "revocation list"),
        (files.revoked.as_deref().unwrap(), other_list, "signed by none"),
    ];
    for (path, bytes, expected) in cases {
        let before = std::fs::read(path).unwrap();
        std::fs::write(path, bytes).unwrap();
        for _ in 0..2 {
            match collector.reload() {
                Reload::Kept(error) => assert!(error.to_string().contains(expected), "{error}"),
                other => panic!("{}: {other:?}", path.display()),
            }
        }
        echo(&address, agent.clone()).await.unwrap();
        std::fs::write(path, before).unwrap();
        assert!(matches!(collector.reload(), Reload::Reloaded), "{}", path.display());
    }
    assert!(matches!(collector.reload(), Reload::Unchanged));
}

#[test]
fn material_that_would_fail_later_is_refused_at_once_with_the_reason() {
    let site = Site::new();
    let host = HostName::parse("gpu-1").unwrap();
    let now = SystemTime::now();
    let error = |name: &str| Credentials::load(site.files(name)).err().unwrap().to_string();

    site.ca
        .issue_agent_between(&host, now - HOUR * 72..now - HOUR * 48)
        .unwrap()
        .write(site.path(), "expired")
        .unwrap();
    assert!(error("expired").contains("2 days ago") && error("expired").contains("expired.pem"));
    site.ca.issue_agent_between(&host, now + HOUR..now + HOUR * 2).unwrap().write(site.path(), "early").unwrap();
    assert!(error("early").contains("timedatectl"));
    assert!(error("absent").contains("absent.pem"));

    site.agent("gpu-1");
    let key = site.files("gpu-1").key;
    assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    for mode in [0o604, 0o644, 0o660, 0o666] {
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).unwrap();
        assert!(error("gpu-1").contains("chmod 600"), "{mode:o}");
    }
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o400)).unwrap();
    assert!(Credentials::load(site.files("gpu-1")).is_ok());
}

#[test]
fn the_ca_is_made_once_and_its_key_is_private() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("pki");
    let made: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| DevelopmentCa::open_or_create(&path).unwrap().certificate().to_vec()))
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(made.iter().all(|certificate| certificate == &made[0]));
    let key = path.join("ca.key");
    assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(DevelopmentCa::open_or_create(&path).err().unwrap().to_string().contains("chmod 600"));
    let ca = Site::new().ca;
    for bad in ["", "a b", "*", "-"] {
        assert!(ca.issue_server(&[bad], LEAF_LIFE).is_err(), "{bad}");
    }
}
