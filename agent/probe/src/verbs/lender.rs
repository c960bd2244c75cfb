//! The agent's end of its helper for RDMA: wishes of members go to it, its answers go back.
//!
//! In: a wish whose code the responder has checked; what the helper says, on a socket at a path of the agent's own. Out: answers
//! for the responder to send, each with a ticket for the next wish, and whether queue pairs are lent at all ([`LenderState`]). The helper is a process of its own: a library of a
//! NIC's vendor that crashes or hangs ends or holds up that one, and probes over UDP go on. Never: a wait for the helper, more
//! than [`PENDING_MAX`] wishes remembered, or a wish handed on that was not made now ([`Fresh`]).

use super::exchange::{BODY_BYTES, Loan, Refused, answer_with, refusal, ticket_of_wish};
use super::fresh::{Fresh, Stale};
use super::message::{Ask, BYTES_MAX, Told};
use crate::socket::Received;
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr, accept4, bind, listen, recv, send, socket,
};
use std::collections::VecDeque;
use std::fs::Permissions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Wishes that wait for the helper.
const PENDING_MAX: usize = 256;
/// A helper that says nothing to a wish for so long hangs.
const PATIENCE_NS: u64 = 5_000_000_000;
/// A wish is forgotten after so long.
const FORGOTTEN_NS: u64 = 12 * PATIENCE_NS;
/// Messages of the helper taken at once.
const TURN_MAX: usize = 64;

/// Whether queue pairs are lent.
#[derive(Debug)]
pub struct LenderState(Mutex<Option<String>>);

impl LenderState {
    /// Why not; `None` where they are.
    #[must_use]
    pub fn off(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, off: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = off;
    }
}

/// What became of a wish at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// The helper has it.
    HandedOn,
    /// This is to be told.
    Refused([u8; BODY_BYTES]),
    /// It was there before: nothing is.
    Replayed,
}

/// A wish that the helper has.
#[derive(Debug)]
pub(crate) struct Pending {
    tag: u64,
    asked_ns: u64,
    pub(crate) received: Received,
    pub(crate) loan: Loan,
}

/// The socket that the helper connects to.
#[derive(Debug)]
pub struct Lender {
    path: PathBuf,
    listener: OwnedFd,
    helper: Option<OwnedFd>,
    pending: VecDeque<Pending>,
    next_tag: u64,
    fresh: Fresh,
    state: Arc<LenderState>,
    /// What the helper said last of what it can do.
    said: Option<String>,
}

impl Lender {
    /// Listens at `path`, for this user alone.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn bind(path: &Path) -> io::Result<Self> {
        // What an agent before us left behind.
        if std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
            std::fs::remove_file(path)?;
        }
        let listener = sequenced()?;
        bind(listener.as_raw_fd(), &UnixAddr::new(path)?)?;
        std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
        listen(&listener, Backlog::new(1)?)?;
        Ok(Self {
            path: path.to_owned(),
            listener,
            helper: None,
            pending: VecDeque::new(),
            next_tag: 1,
            fresh: Fresh::new()?,
            state: Arc::new(LenderState(Mutex::new(Some(gone(path))))),
            said: Some(gone(path)),
        })
    }

    /// For whoever tells it.
    #[must_use]
    pub fn state(&self) -> Arc<LenderState> {
        Arc::clone(&self.state)
    }

    /// Become readable when the helper comes or speaks.
    pub(crate) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [Some(self.listener.as_fd()), self.helper.as_ref().map(AsFd::as_fd)].into_iter().flatten()
    }

    /// Hands a wish on; its answer comes from [`Self::turn`].
    pub(crate) fn ask(&mut self, received: Received, loan: Loan, body: [u8; BODY_BYTES], now_ns: u64) -> Asked {
        let refused = match self.fresh.take(received.from, loan, &ticket_of_wish(&body), now_ns) {
            Ok(()) => match self.hand_on(received, loan, body, now_ns) {
                Ok(()) => return Asked::HandedOn,
                Err(refused) => refused,
            },
            Err(Stale::Replayed) => return Asked::Replayed,
            Err(Stale::NoTicket) => Refused::NoTicket,
            Err(Stale::Full) => Refused::AllLent,
        };
        Asked::Refused(answer_with(refusal(refused), &self.fresh.ticket(received.from, loan.session, now_ns)))
    }

    fn hand_on(&mut self, received: Received, loan: Loan, body: [u8; BODY_BYTES], now_ns: u64) -> Result<(), Refused> {
        let helper = self.helper.as_ref().ok_or(Refused::NoHelper)?;
        // The responder's socket tells it of each datagram, unless the kernel refused.
        let own = received.to.ok_or(Refused::NoPort)?;
        let tag = self.next_tag;
        let ask = Ask { tag, session: loan.session, source: received.from.ip(), own, body };
        if self.pending.len() >= PENDING_MAX {
            return Err(Refused::AllLent);
        }
        send(helper.as_raw_fd(), &ask.encode(), MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL)
            .map_err(|_| Refused::NoHelper)?;
        self.next_tag += 1;
        self.pending.push_back(Pending { tag, asked_ns: now_ns, received, loan });
        Ok(())
    }

    /// Takes what the helper says, and hands over its answers.
    pub(crate) fn turn(&mut self, now_ns: u64, mut answer: impl FnMut(Pending, [u8; BODY_BYTES])) {
        if let Ok(fd) = accept4(self.listener.as_raw_fd(), SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC) {
            // SAFETY: the file just given, owned by nobody else.
            self.helper = Some(unsafe { OwnedFd::from_raw_fd(fd) });
            self.pending.clear();
            self.said = Some("its helper for RDMA has just come".into());
        }
        for _ in 0..TURN_MAX {
            let Some(helper) = &self.helper else { break };
            let mut bytes = [0; BYTES_MAX];
            match recv(helper.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT) {
                Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => break,
                Ok(0) | Err(_) => {
                    self.helper = None;
                    self.pending.clear();
                    self.said = Some(gone(&self.path));
                }
                Ok(length) => match Told::decode(&bytes[..length]) {
                    Some(Told::State(off)) => self.said = off,
                    Some(Told::Answer(tag, body)) => {
                        if let Some(at) = self.pending.iter().position(|pending| pending.tag == tag)
                            && let Some(pending) = self.pending.remove(at)
                        {
                            let ticket = self.fresh.ticket(pending.received.from, pending.loan.session, now_ns);
                            answer(pending, answer_with(body, &ticket));
                        }
                    }
                    // No message of this version's helper.
                    None => {}
                },
            }
        }
        // Who asked has long asked again.
        self.pending.retain(|pending| now_ns.saturating_sub(pending.asked_ns) < FORGOTTEN_NS);
        let oldest_ns = self.pending.front().map(|pending| pending.asked_ns);
        let is_hanging = oldest_ns.is_some_and(|asked_ns| now_ns.saturating_sub(asked_ns) >= PATIENCE_NS);
        let off = match is_hanging {
            true => Some(
                "its helper for RDMA does not answer: the library of a NIC may hang; restart railwatch-verbs.service"
                    .into(),
            ),
            false => self.said.clone(),
        };
        if self.state.off() != off {
            self.state.set(off);
        }
    }
}

impl Drop for Lender {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn gone(path: &Path) -> String {
    format!(
        "no helper for RDMA has come to {}: systemctl enable --now railwatch-verbs.service (it needs libibverbs and the provider of the NIC)",
        path.display()
    )
}

/// A socket that keeps messages apart.
pub(super) fn sequenced() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    Ok(socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;
    use crate::packet::Key;
    use crate::responder::{Limits, Responder};
    use crate::socket::StampedSocket;
    use crate::verbs::exchange::{Service, Wish, decode_answer, open_answer, seal_wish, ticket_of_answer, wish_with};
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use nix::sys::socket::connect;
    use std::net::UdpSocket;
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
    use std::time::Duration;

    fn received() -> Received {
        Received {
            length: 128,
            from: "10.0.0.1:40000".parse().unwrap(),
            stamp_unix_ns: None,
            tos: 0,
            to: Some("10.0.0.2".parse().unwrap()),
        }
    }

    #[test]
    fn a_wish_goes_to_the_helper_and_its_answer_back_and_whatever_the_helper_does_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("verbs.sock");
        let mut lender = Lender::bind(&path).unwrap();
        let state = lender.state();
        let loan = |sequence| Loan { session: 5, sequence };
        let wish = |lender: &Lender| wish_with([1; BODY_BYTES], &lender.fresh.ticket(received().from, 5, 0));
        let told = |lender: &Lender, refused| {
            Asked::Refused(answer_with(refusal(refused), &lender.fresh.ticket(received().from, 5, 0)))
        };
        let silent = |_: Pending, _: [u8; BODY_BYTES]| panic!("nobody answered");
        assert!(state.off().unwrap().contains("railwatch-verbs.service"));
        let at_first = lender.ask(received(), loan(1), [1; BODY_BYTES], 0);
        assert_eq!(at_first, told(&lender, Refused::NoTicket), "with a ticket for the next");
        assert_eq!(lender.ask(received(), loan(2), wish(&lender), 0), told(&lender, Refused::NoHelper));

        let helper = sequenced().unwrap();
        connect(helper.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        send(helper.as_raw_fd(), &Told::State(None).encode(), MsgFlags::empty()).unwrap();
        lender.turn(0, silent);
        assert_eq!(state.off(), None);
        assert_eq!(lender.ask(received(), loan(3), wish(&lender), 0), Asked::HandedOn);
        assert_eq!(lender.ask(received(), loan(3), wish(&lender), 0), Asked::Replayed);
        let mut bytes = [0; BYTES_MAX];
        let length = recv(helper.as_raw_fd(), &mut bytes, MsgFlags::empty()).unwrap();
        let ask = Ask::decode(&bytes[..length]).unwrap();
        assert_eq!((ask.session, ask.source, ask.own), (5, received().from.ip(), received().to.unwrap()));

        lender.turn(PATIENCE_NS, silent);
        assert!(state.off().unwrap().contains("may hang"));
        for message in [&[9, 9][..], &Told::Answer(ask.tag + 1, [2; BODY_BYTES]).encode()] {
            send(helper.as_raw_fd(), message, MsgFlags::empty()).unwrap();
        }
        lender.turn(PATIENCE_NS, silent);
        send(helper.as_raw_fd(), &Told::Answer(ask.tag, [2; BODY_BYTES]).encode(), MsgFlags::empty()).unwrap();
        let mut answered = Vec::new();
        lender.turn(PATIENCE_NS, |pending, body| answered.push((pending.loan, body)));
        let ticket = lender.fresh.ticket(received().from, 5, PATIENCE_NS);
        assert_eq!(answered, [(loan(3), answer_with([2; BODY_BYTES], &ticket))]);
        assert_eq!(state.off(), None, "it has answered");

        let mut sequences = 4..;
        while lender.ask(received(), loan(sequences.next().unwrap()), wish(&lender), 0) == Asked::HandedOn {}
        assert!(lender.pending.len() <= PENDING_MAX, "bounded, whatever the helper leaves undone");
        drop(helper);
        lender.turn(0, silent);
        assert!(state.off().unwrap().contains("no helper"));
        assert!(lender.pending.is_empty());
        drop(lender);
        assert!(!path.exists());
    }

    #[test]
    fn a_request_that_was_recorded_and_is_said_again_reaches_no_helper() {
        const PATIENCE: Duration = Duration::from_secs(30);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("verbs.sock");
        let lender = Lender::bind(&path).unwrap();
        let helper = sequenced().unwrap();
        connect(helper.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        send(helper.as_raw_fd(), &Told::State(None).encode(), MsgFlags::empty()).unwrap();
        let state = lender.state();
        let key = Key::new(b"0123456789abcdef").unwrap();
        let socket = StampedSocket::bind("127.0.0.1:0".parse().unwrap(), 0).unwrap();
        let target = socket.local().unwrap();
        let mut responder = Responder::new(socket, key.clone(), Limits::default());
        responder.lend_by(lender);
        let (counts, stop) = (responder.counts(), Arc::new(AtomicBool::new(false)));
        let told_to_stop = Arc::clone(&stop);
        let thread = std::thread::spawn(move || responder.run(&told_to_stop));
        let until = std::time::Instant::now() + PATIENCE;
        while state.off().is_some() {
            assert!(std::time::Instant::now() < until, "the helper is there: {:?}", state.off());
            std::thread::sleep(Duration::from_millis(1));
        }

        let socket = || {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.connect(target).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket
        };
        let wish = Wish {
            is_over: false,
            service: Service::Connected,
            mtu: 3,
            traffic_class: 0,
            flow_label: 1,
            number: 1,
            psn: 1,
            qkey: 1,
            size_bytes: 64,
            gid: [7; 16],
        };
        let sealed = |sequence, psn, ticket| {
            let wish = Wish { psn, ..wish };
            seal_wish(Loan { session: 5, sequence }, &wish_with(wish.encode(), &ticket), &key)
        };
        // What became of it at once, with the ticket that came along.
        let refused = |socket: &UdpSocket| {
            let mut bytes = [0; 2048];
            let length = socket.recv(&mut bytes).unwrap();
            let (loan, body) = open_answer(&bytes[..length], &key).unwrap();
            (loan.sequence, decode_answer(&body).unwrap().unwrap_err(), ticket_of_answer(&body))
        };
        let asked = || {
            let mut polled = [PollFd::new(helper.as_fd(), PollFlags::POLLIN)];
            assert_eq!(poll(&mut polled, PollTimeout::try_from(PATIENCE).unwrap()), Ok(1), "the helper is asked");
            let mut bytes = [0; BYTES_MAX];
            let length = recv(helper.as_raw_fd(), &mut bytes, MsgFlags::empty()).unwrap();
            Wish::decode(&Ask::decode(&bytes[..length]).unwrap().body).unwrap().psn
        };
        let prober = socket();
        prober.send(&sealed(1, 1, [0; 16])).unwrap();
        let (sequence, why, ticket) = refused(&prober);
        assert_eq!((sequence, why), (1, Refused::NoTicket));
        let recorded = sealed(2, 22, ticket);
        prober.send(&recorded).unwrap();
        assert_eq!(asked(), 22);

        // Said again from its own address and from another's.
        prober.send(&recorded).unwrap();
        let other = socket();
        other.send(&recorded).unwrap();
        let (sequence, why, other_ticket) = refused(&other);
        assert_eq!((sequence, why), (2, Refused::NoTicket));
        assert_ne!(other_ticket, ticket);
        // The next one of the prober is what the helper hears next.
        prober.send(&sealed(1, 1, [0; 16])).unwrap();
        let (_, _, later) = refused(&prober);
        prober.send(&sealed(3, 33, later)).unwrap();
        assert_eq!(asked(), 33);
        stop.store(true, Relaxed);
        thread.join().unwrap().unwrap();
        assert_eq!((counts.replayed.load(Relaxed), counts.received.load(Relaxed)), (1, 6));
    }
}
