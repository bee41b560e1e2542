//! What keeper and relay say to each other, and the socket it goes over, with descriptors beside it.
//!
//! A pair of `SOCK_SEQPACKET` sockets: one message is one packet, and the end of either process is the end of the other's socket.
//! Each message is one JSON object of bounded length with the number of descriptors that its kind has; anything else is an error.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    time::Duration,
};

use gangway_shared::{rcp::RelayError, time::Time};
use rustix::{
    io::{Errno, retry_on_intr},
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
        sockopt::{Timeout, set_socket_timeout},
    },
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::ports::{LocalAddress, PortCounts};

/// Descriptors of one message at most; the kernel takes 253 (`SCM_MAX_FD`).
pub(super) const DESCRIPTORS_MAX: usize = 240;

/// Bytes of one message at most.
const MESSAGE_MAX_BYTES: usize = 64 * 1024;

/// A reader that does not read for so long has failed.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// A port that all browsers of a worker share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BrowserPort {
    /// Its worker.
    pub(crate) worker: u16,
    /// What browsers are told.
    pub(crate) advertised: SocketAddr,
}

/// A pair of ports that the keeper holds for a leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PairFacts {
    /// Names the pair for as long as the keeper lives; the leg's record holds it. Counts from 1.
    pub(crate) lease: u64,
    /// Address that it is bound to.
    pub(crate) on: LocalAddress,
    /// Even port of RTP; RTCP has the one above.
    pub(crate) port: u16,
}

/// From the keeper.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum ToRelay {
    /// Where the settings are: one descriptor. To a process of its own only, before everything else.
    Settings,
    /// The handover begins: facts, RCP listener, and the arena of each worker.
    Begin {
        /// Addresses that legs can be on.
        addresses: Vec<LocalAddress>,
        /// The process before this one failed by itself: a relay that was in its hand is to blame.
        blame: bool,
    },
    /// Browser ports: one descriptor each.
    Browser(Vec<BrowserPort>),
    /// Pairs of legs: two descriptors each, RTP first.
    Pairs(Vec<PairFacts>),
    /// The handover is complete.
    End,
    /// Answer to [`ToKeeper::Open`]: two descriptors.
    Opened {
        /// Of the request.
        token: u64,
        /// The pair.
        pair: PairFacts,
    },
    /// Answer to [`ToKeeper::Open`].
    Refused {
        /// Of the request.
        token: u64,
        /// Why.
        error: RelayError,
    },
    /// Answer to [`ToKeeper::Count`].
    Counts {
        /// Of the request.
        token: u64,
        /// All ports.
        counts: PortCounts,
    },
    /// Take no new relay, and leave when none is left.
    Drain {
        /// Leave at this time of the monotonic clock at the latest.
        until: Option<Time>,
    },
    /// Leave now.
    Leave,
}

/// From the relay.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum ToKeeper {
    /// Wants a pair.
    Open {
        /// Repeated in the answer.
        token: u64,
        /// For a leg of this worker.
        worker: u16,
        /// On this address.
        on: LocalAddress,
    },
    /// Has closed its sockets of a pair for good.
    Close {
        /// The pair.
        lease: u64,
    },
    /// Wants the counts of ports.
    Count {
        /// Repeated in the answer.
        token: u64,
    },
    /// Has adopted everything and serves.
    Serving,
}

/// What a look at the channel brought.
#[derive(Debug)]
pub(crate) enum Received<M> {
    /// A message with its descriptors.
    Message(M, Vec<OwnedFd>),
    /// A message some of whose descriptors did not fit this process any more (`RLIMIT_NOFILE`). Those that did are closed.
    CutOff(M),
    /// Nothing yet.
    Nothing,
    /// The other process is gone.
    Closed,
}

/// One end.
#[derive(Debug)]
pub struct Channel(OwnedFd);

impl Channel {
    /// Both ends.
    ///
    /// # Errors
    /// What the kernel says to socketpair.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (one, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Channel::over(one)?, Channel::over(other)?))
    }

    /// An end that was inherited.
    ///
    /// # Errors
    /// When it is no socket.
    pub fn over(fd: OwnedFd) -> io::Result<Self> {
        set_socket_timeout(&fd, Timeout::Send, Some(SEND_TIMEOUT))?;
        Ok(Channel(fd))
    }

    /// The descriptor, for a child.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// How long [`receive`](Self::receive) waits; `None`: for ever.
    pub(crate) fn wait_at_most(&self, patience: Option<Duration>) -> io::Result<()> {
        Ok(set_socket_timeout(&self.0, Timeout::Recv, patience)?)
    }

    /// Sends a message with descriptors beside it.
    ///
    /// # Errors
    /// When it is too long, or the other side is gone or does not read.
    pub(crate) fn send<M: Serialize>(&self, message: &M, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        Ok(self.send_with(message, descriptors, SendFlags::NOSIGNAL)??)
    }

    /// Sends a message if there is room for it now; says whether it did.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub(crate) fn send_now<M: Serialize>(&self, message: &M) -> io::Result<bool> {
        match self.send_with(message, &[], SendFlags::NOSIGNAL | SendFlags::DONTWAIT)? {
            Err(Errno::AGAIN) => Ok(false),
            sent => Ok(sent.map(|()| true)?),
        }
    }

    fn send_with<M: Serialize>(
        &self,
        message: &M,
        descriptors: &[BorrowedFd<'_>],
        flags: SendFlags,
    ) -> io::Result<Result<(), Errno>> {
        let bytes = serde_json::to_vec(message)?;
        if bytes.len() > MESSAGE_MAX_BYTES || descriptors.len() > DESCRIPTORS_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a message between keeper and relay is too long"));
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)), "the space is for as many");
        }
        let bytes = [IoSlice::new(&bytes)];
        Ok(retry_on_intr(|| sendmsg(&self.0, &bytes, &mut control, flags).map(drop)))
    }

    /// The next message: waits for one if `waits`, as long as [`wait_at_most`](Self::wait_at_most) says.
    ///
    /// # Errors
    /// What the kernel says, and `InvalidData` for a message that is none.
    pub(crate) fn receive<M: DeserializeOwned>(&self, waits: bool) -> io::Result<Received<M>> {
        let mut bytes = vec![0; MESSAGE_MAX_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = if waits { RecvFlags::empty() } else { RecvFlags::DONTWAIT } | RecvFlags::CMSG_CLOEXEC;
        let received = retry_on_intr(|| recvmsg(&self.0, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags));
        let received = match received {
            Ok(received) => received,
            Err(Errno::AGAIN) => return Ok(Received::Nothing),
            Err(Errno::CONNRESET) => return Ok(Received::Closed),
            Err(errno) => return Err(errno.into()),
        };
        let mut descriptors = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                descriptors.extend(received);
            }
        }
        if received.bytes == 0 {
            return Ok(Received::Closed);
        }
        if received.flags.contains(ReturnFlags::TRUNC) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a message between keeper and relay was cut off"));
        }
        let message = serde_json::from_slice(&bytes[..received.bytes])?;
        let is_cut_off = received.flags.contains(ReturnFlags::CTRUNC);
        Ok(if is_cut_off { Received::CutOff(message) } else { Received::Message(message, descriptors) })
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Channel {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Read};

    use super::*;

    #[test]
    fn messages_arrive_whole_with_their_descriptors_in_order() {
        let (one, other) = Channel::pair().unwrap();
        let files = [File::open("/dev/zero").unwrap(), File::open("/dev/null").unwrap()];
        let pair = PairFacts {
            lease: 7,
            on: LocalAddress { bind: [127, 0, 0, 1].into(), advertised: [192, 0, 2, 1].into() },
            port: 4000,
        };
        let sent = ToRelay::Opened { token: 3, pair };
        one.send(&sent, &[files[0].as_fd(), files[1].as_fd()]).unwrap();
        one.send(&ToRelay::Leave, &[]).unwrap();
        let Received::Message(heard, descriptors) = other.receive::<ToRelay>(false).unwrap() else { panic!("nothing") };
        assert_eq!((heard, descriptors.len()), (sent, 2));
        let mut read = descriptors.into_iter().map(|fd| File::from(fd).read(&mut [0; 4]).unwrap());
        assert_eq!([read.next(), read.next()], [Some(4), Some(0)], "zero gives bytes, null none");
        assert!(matches!(other.receive(false).unwrap(), Received::Message(ToRelay::Leave, none) if none.is_empty()));
        assert!(matches!(other.receive::<ToRelay>(false).unwrap(), Received::Nothing));
        drop(one);
        assert!(matches!(other.receive::<ToRelay>(true).unwrap(), Received::Closed));
    }

    #[test]
    fn what_is_no_message_or_too_long_is_an_error() {
        let (one, other) = Channel::pair().unwrap();
        one.send(&ToKeeper::Count { token: 1 }, &[]).unwrap();
        assert_eq!(other.receive::<ToRelay>(false).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let error = one.send(&"x".repeat(MESSAGE_MAX_BYTES), &[]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        let file = File::open("/dev/null").unwrap();
        let many = vec![file.as_fd(); DESCRIPTORS_MAX + 1];
        assert_eq!(one.send(&ToRelay::Leave, &many).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn a_reader_that_does_not_read_is_not_waited_for() {
        let (one, other) = Channel::pair().unwrap();
        let sent = (0..).take_while(|token| one.send_now(&ToKeeper::Count { token: *token }).unwrap()).count();
        assert!(sent > 10, "{sent}");
        assert!(matches!(other.receive(false).unwrap(), Received::Message(ToKeeper::Count { token: 0 }, _)));
        drop(other);
        assert!(one.send_now(&ToKeeper::Serving).is_err());
    }

    #[test]
    fn a_wait_has_an_end() {
        let (_one, other) = Channel::pair().unwrap();
        other.wait_at_most(Some(Duration::from_millis(1))).unwrap();
        assert!(matches!(other.receive::<ToRelay>(true).unwrap(), Received::Nothing));
    }
}
