//! What attackers who hold the keys of calls may do with them: the ends of a load from inside.

use std::{io, net::SocketAddrV4, net::UdpSocket};

use gangway_dataplane::{
    srtp::TxStream,
    wire::{Packet, PacketKind, classify},
};

use super::Load;
use crate::sys::BUFFER_LEN_BYTES;

impl Load {
    /// Ends of all calls; call n has 2n and 2n + 1.
    #[must_use]
    pub fn ends(&self) -> usize {
        self.ends.len()
    }

    /// The relay's address for RTP of an end.
    #[must_use]
    pub fn target(&self, end: usize) -> SocketAddrV4 {
        self.ends[end].to
    }

    /// The same for RTCP.
    #[must_use]
    pub fn rtcp_target(&self, end: usize) -> SocketAddrV4 {
        self.ends[end].rtcp_to
    }

    /// SSRC of what an end sends.
    #[must_use]
    pub fn ssrc(&self, end: usize) -> u32 {
        self.streams[self.ends[end].sends].ssrc
    }

    /// Another handle of an end's socket.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn socket(&self, end: usize) -> io::Result<UdpSocket> {
        self.sockets.socket(self.ends[end].port).try_clone()
    }

    /// Whether an end has SRTP keys.
    #[must_use]
    pub fn is_protected(&self, end: usize) -> bool {
        self.ends[end].keys.is_some()
    }

    /// User name and password of a browser's checks.
    #[must_use]
    pub fn credentials(&self, end: usize) -> Option<(String, String)> {
        let browser = self.ends[end].browser.as_ref()?;
        Some((browser.username().to_owned(), browser.password().to_owned()))
    }

    /// Seals RTP or RTCP of `len` bytes as an end does, in a stream of the caller's; the length now. What cannot be sealed stays as it is.
    pub fn seal(&self, end: usize, stream: &mut TxStream, out: &mut [u8; BUFFER_LEN_BYTES], len: usize) -> usize {
        let Some(keys) = &self.ends[end].keys else { return len };
        let kind = classify(&out[..len]);
        let mut packet = Packet::new(out, 0, len);
        // A refusal leaves the packet alone.
        let _ = match kind {
            Ok(PacketKind::Rtp) => keys.tx.protect_rtp(stream, &mut packet),
            Ok(PacketKind::Rtcp) => keys.tx.protect_rtcp(stream, &mut packet),
            _ => return len,
        };
        packet.len()
    }

    /// Each browser checks once.
    pub fn check(&mut self) {
        for end in &mut self.ends {
            if let Some(browser) = &mut end.browser {
                self.outbox.push(end.to, |out| browser.check(out));
                self.outbox.flush(self.sockets.socket(end.port));
            }
        }
    }

    /// Throws away what waits for its ends.
    pub fn drain(&mut self) {
        self.sockets.wait(std::time::Duration::ZERO);
        let ready = self.sockets.ready();
        for &port in &ready {
            while self.inbox.receive(self.sockets.socket(port), crate::sys::CALL_MAX) > 0 {}
        }
        self.sockets.empty(&ready);
    }

    /// Packets that came to each stream's hearer and are none of the stream's, since the load was opened.
    #[must_use]
    pub fn strange_packets(&self) -> Vec<u64> {
        self.streams.iter().map(|stream| stream.strange).collect()
    }
}
