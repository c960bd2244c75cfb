//! What the kernel at the other end does, whatever becomes of the process there.
//!
//! In: an accepted TCP connection. Out: the same, to be read and written ([`Shared`]), and a way to look at it from elsewhere ([`PeerKernel`])
//! that neither keeps it open nor costs a descriptor. A kernel acknowledges what is sent to it also while the process that is to
//! read it is stopped, starved or hung; a host that is down, or cut off, acknowledges nothing. Whoever wants to know sends
//! something small, and looks. In between, and for as long as it takes, the connection's keepalive asks once a second, which fills no
//! buffer. Behind a proxy it is the proxy's kernel that answers. Never: a byte sent from here, a look at what is in the connection.

use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use nix::{getsockopt_impl, sockopt_impl};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A connection on which nothing is acknowledged for so long is given up (RFC 5482; tcp(7), `TCP_USER_TIMEOUT`).
const GIVEN_UP_AFTER_MS: u32 = 30_000;
/// The kernel asks a peer that has been quiet for so long, and again after as long: the least that there is (tcp(7), `TCP_KEEPIDLE`).
pub const KEEPALIVE_EVERY: Duration = Duration::from_secs(1);

/// The begin of `struct tcp_info` (include/uapi/linux/tcp.h): every kernel has so much of it. Public for the option below alone.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct TcpInfo {
    _states: [u8; 8],
    _sizes: [u32; 11],
    last_data_recv_ms: u32,
    last_ack_recv_ms: u32,
}

sockopt_impl!(
    /// `TCP_INFO` of tcp(7).
    GetTcpInfo,
    GetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_INFO,
    TcpInfo
);

/// What came from the other end, and how long ago. The kernel counts in milliseconds, by its tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastWord {
    /// Anything that acknowledges: its kernel lived.
    pub acknowledged: Duration,
    /// Data: its process ran, whether or not anybody here has read it.
    pub data: Duration,
}

/// A look at a connection. Clone it freely; the default is of none.
#[derive(Clone, Debug, Default)]
pub struct PeerKernel {
    socket: Weak<Mutex<TcpStream>>,
    given_up: Arc<AtomicBool>,
}

impl PeerKernel {
    /// What came last; `None` where the connection is no more. One system call.
    pub fn last_word(&self) -> Option<LastWord> {
        let socket = self.socket.upgrade()?;
        let socket = locked(&socket);
        let info = getsockopt(&*socket, GetTcpInfo).ok()?;
        let ms = |ms: u32| Duration::from_millis(u64::from(ms));
        Some(LastWord { acknowledged: ms(info.last_ack_recv_ms), data: ms(info.last_data_recv_ms) })
    }

    /// The connection ended because nothing was acknowledged, or no way led there any more; and not because either end closed it.
    pub fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }
}

/// A connection that can be looked at from elsewhere.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Held for the time of one system call; nobody else wants it but for a look.
    socket: Arc<Mutex<TcpStream>>,
    given_up: Arc<AtomicBool>,
}

impl Shared {
    /// Has the kernel ask for signs of life on it.
    pub(crate) fn new(socket: TcpStream) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        let every_s = u32::try_from(KEEPALIVE_EVERY.as_secs()).unwrap_or(1);
        setsockopt(&socket, sockopt::KeepAlive, &true)?;
        setsockopt(&socket, sockopt::TcpKeepIdle, &every_s)?;
        setsockopt(&socket, sockopt::TcpKeepInterval, &every_s)?;
        setsockopt(&socket, sockopt::TcpUserTimeout, &GIVEN_UP_AFTER_MS)?;
        Ok(Self { socket: Arc::new(Mutex::new(socket)), given_up: Arc::default() })
    }

    pub(crate) fn look(&self) -> PeerKernel {
        PeerKernel { socket: Arc::downgrade(&self.socket), given_up: Arc::clone(&self.given_up) }
    }

    /// Notes where it is given up, and passes on what was said.
    fn noted<T>(&self, said: io::Result<T>) -> io::Result<T> {
        let unreachable = |error: &io::Error| {
            use io::ErrorKind::{HostUnreachable, NetworkDown, NetworkUnreachable, TimedOut};
            matches!(error.kind(), TimedOut | HostUnreachable | NetworkUnreachable | NetworkDown)
        };
        if said.as_ref().is_err_and(unreachable) {
            self.given_up.store(true, Ordering::Relaxed);
        }
        said
    }
}

/// A panic elsewhere while it was held is no reason to lose the connection: the kernel has its state.
fn locked(socket: &Mutex<TcpStream>) -> MutexGuard<'_, TcpStream> {
    socket.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AsyncRead for Shared {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = ready!(Pin::new(&mut *locked(&self.socket)).poll_read(cx, buffer));
        Poll::Ready(self.noted(read))
    }
}

impl AsyncWrite for Shared {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut *locked(&self.socket)).poll_write(cx, bytes));
        Poll::Ready(self.noted(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut *locked(&self.socket)).poll_write_vectored(cx, bytes));
        Poll::Ready(self.noted(written))
    }

    fn is_write_vectored(&self) -> bool {
        locked(&self.socket).is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *locked(&self.socket)).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *locked(&self.socket)).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    async fn pair() -> (Shared, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let other = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (Shared::new(listener.accept().await.unwrap().0).unwrap(), other)
    }

    /// Looks until it is so: a kernel's answer takes its time.
    async fn until(kernel: &PeerKernel, is_so: impl Fn(LastWord) -> bool) -> LastWord {
        loop {
            let word = kernel.last_word().unwrap();
            if is_so(word) {
                return word;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn a_kernel_acknowledges_what_nobody_reads_and_is_asked_by_itself_when_nothing_is_sent() {
        let (mut ours, mut theirs) = pair().await;
        let kernel = ours.look();
        theirs.write_all(b"once").await.unwrap();
        ours.read_exact(&mut [0; 4]).await.unwrap();
        let quiet = until(&kernel, |word| word.acknowledged >= Duration::from_millis(300)).await;
        assert!(quiet.data >= Duration::from_millis(200), "{quiet:?}");
        // Nobody reads at the other end.
        ours.write_all(b"?").await.unwrap();
        let answered = until(&kernel, |word| word.acknowledged < Duration::from_millis(300)).await;
        assert!(answered.data > answered.acknowledged, "that it lives, and not that anybody spoke: {answered:?}");
        // Nothing is sent any more, and it is still asked.
        until(&kernel, |word| word.acknowledged >= Duration::from_millis(500)).await;
        until(&kernel, |word| word.acknowledged < Duration::from_millis(500)).await;
        let begun = std::time::Instant::now();
        let looks = (0..10_000).filter(|_| kernel.last_word().is_some()).count();
        println!("{looks} looks took {:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn a_look_keeps_nothing_open_and_what_is_closed_is_not_given_up() {
        let (mut ours, theirs) = pair().await;
        let kernel = ours.look();
        drop(theirs);
        assert_eq!(ours.read(&mut [0; 8]).await.unwrap(), 0);
        assert!(!kernel.is_given_up(), "it was closed there");
        let (ours, mut theirs) = pair().await;
        let kernel = ours.look();
        drop(ours);
        assert_eq!(theirs.read(&mut [0; 8]).await.unwrap(), 0, "it is closed here");
        assert!(!kernel.is_given_up() && kernel.last_word().is_none());
        assert!(PeerKernel::default().last_word().is_none());
    }
}
