//! Readiness by epoll, `recvmmsg`, `sendmmsg`, and nothing in between: the floor under an engine with the same sockets. With
//! `webrtc-srtp` in between it is what that crate makes of the same loop.

use std::{io, os::fd::AsRawFd};

use mio::{Events, Interest, Poll, Token, unix::SourceFd};
use webrtc_srtp::{context::Context, option::srtp_replay_protection, protection_profile::ProtectionProfile};

use super::Leg;
use crate::{
    call::{CallSpec, Security},
    sys::{Inbox, Outbox},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use gangway_shared::rcp::SrtpSuite;

/// What is asked of a socket that was quiet: a short read proves it empty and saves a second call.
const WANT: usize = 2;

/// Contexts of the protected end of a call.
pub struct Protection {
    /// Opens what its peer sends.
    open: Context,
    /// Seals what goes to it.
    seal: Context,
}

impl Protection {
    /// Contexts of a call's first end; `None` where it is plain.
    ///
    /// # Errors
    /// Keys that the crate does not take.
    pub fn of(call: &CallSpec) -> io::Result<Option<Self>> {
        let Security::Srtp { suite, send, receive } = &call.ends[0].security else { return Ok(None) };
        let profile = match suite {
            SrtpSuite::AesCm128HmacSha1_80 => ProtectionProfile::Aes128CmHmacSha1_80,
            SrtpSuite::AeadAes128Gcm => ProtectionProfile::AeadAes128Gcm,
            SrtpSuite::AeadAes256Gcm => ProtectionProfile::AeadAes256Gcm,
        };
        let context = |key: &str| {
            let bytes = BASE64_STANDARD.decode(key).map_err(io::Error::other)?;
            let (key, salt) = bytes.split_at(crate::call::profile(*suite).key_len());
            Context::new(key, salt, profile, Some(srtp_replay_protection(128)), None).map_err(io::Error::other)
        };
        Ok(Some(Protection { open: context(send)?, seal: context(receive)? }))
    }
}

/// Forwards until the process is ended. `protection` has one entry for each call.
///
/// # Errors
/// What the kernel says of epoll.
pub fn run(legs: &[Leg], protection: &mut [Option<Protection>]) -> io::Result<()> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(256);
    for (at, leg) in legs.iter().enumerate() {
        poll.registry().register(&mut SourceFd(&leg.socket.as_raw_fd()), Token(at), Interest::READABLE)?;
    }
    let (mut inbox, mut outbox) = (Inbox::default(), Outbox::default());
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            let at = event.token().0;
            let leg = &legs[at];
            let to = &legs[leg.other];
            loop {
                let got = inbox.receive(&leg.socket, WANT);
                for packet in 0..got {
                    let datagram = inbox.datagram(packet);
                    let clear = &datagram.buffer[..datagram.len];
                    // Legs of a call: RTP of the protected end, RTP of the other, RTCP likewise.
                    let changed = match protection.get_mut(at / 4).and_then(Option::as_mut) {
                        None => None,
                        Some(keys) => match at % 4 {
                            0 => Some(keys.open.decrypt_rtp(clear)),
                            1 => Some(keys.seal.encrypt_rtp(clear)),
                            2 => Some(keys.open.decrypt_rtcp(clear)),
                            _ => Some(keys.seal.encrypt_rtcp(clear)),
                        },
                    };
                    let bytes = match &changed {
                        None => clear,
                        Some(Ok(bytes)) => bytes,
                        Some(Err(_)) => continue,
                    };
                    outbox.push(to.peer, |out| {
                        out[..bytes.len()].copy_from_slice(bytes);
                        bytes.len()
                    });
                }
                outbox.flush(&to.socket);
                if got < WANT {
                    break;
                }
            }
        }
    }
}
