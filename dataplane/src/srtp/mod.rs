//! SRTP and SRTCP in place (RFC 3711, RFC 7714): three profiles, no allocation per packet, no state committed before the tag
//! has been checked.
//!
//! [`SrtpRx`] and [`SrtpTx`] hold what is derived from a [`MasterKey`] and can be rebuilt from it at any time. What must
//! survive a restart is the [`MasterKey`] and one [`RxStream`] or [`TxStream`] per SSRC, all plain old data. Two key epochs
//! are two `SrtpRx` of the leg.

mod aes_cm;
mod aes_gcm;
mod hmac_sha1;
mod kdf;
mod replay;

use std::fmt;

pub use replay::{ReplayWindow, WINDOW_LEN};
use zeroize::Zeroize;

use self::{
    aes_cm::CmKeys,
    aes_gcm::GcmKeys,
    kdf::Kdf,
    replay::{LAST_RTP_INDEX, Verdict},
};
use crate::wire::{DropReason, Packet, rtcp, rtp};

/// Longest master key in bytes.
pub const MAX_KEY_LEN: usize = 32;

/// Longest master salt in bytes.
pub const MAX_SALT_LEN: usize = 14;

/// Bytes that protection adds at most: what a packet buffer has to keep free behind a packet.
pub const MAX_OVERHEAD_LEN: usize = 16 + INDEX_LEN;

/// Indexes that a sender skips after a crash, because those of packets in flight may not have been stored
/// (docs/ARCHITECTURE.md section 5).
pub const RECOVERY_MARGIN: u64 = 64;

/// Length in bytes of the E bit and index of an SRTCP packet.
const INDEX_LEN: usize = 4;

/// The E bit of an SRTCP packet.
const ENCRYPTED_BIT: u32 = 1 << 31;

/// The last SRTCP index: 31 bits.
const LAST_RTCP_INDEX: u64 = (1 << 31) - 1;

/// A DTLS-SRTP protection profile (RFC 5764 section 4.1.2, RFC 7714 section 14.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// SRTP_AEAD_AES_256_GCM.
    AeadAes256Gcm,
    /// SRTP_AEAD_AES_128_GCM.
    AeadAes128Gcm,
    /// SRTP_AES128_CM_HMAC_SHA1_80.
    AesCm128HmacSha1_80,
}

impl Profile {
    /// All profiles, the one preferred first.
    pub const ALL: [Profile; 3] = [Profile::AeadAes256Gcm, Profile::AeadAes128Gcm, Profile::AesCm128HmacSha1_80];

    /// The number in the `use_srtp` extension of DTLS.
    #[must_use]
    pub const fn dtls_id(self) -> u16 {
        match self {
            Profile::AesCm128HmacSha1_80 => 1,
            Profile::AeadAes128Gcm => 7,
            Profile::AeadAes256Gcm => 8,
        }
    }

    /// The name of the crypto suite in SDES (RFC 4568 section 6.2, RFC 7714 section 14.1).
    #[must_use]
    pub const fn sdes_name(self) -> &'static str {
        match self {
            Profile::AesCm128HmacSha1_80 => "AES_CM_128_HMAC_SHA1_80",
            Profile::AeadAes128Gcm => "AEAD_AES_128_GCM",
            Profile::AeadAes256Gcm => "AEAD_AES_256_GCM",
        }
    }

    /// Length of the master key in bytes.
    #[must_use]
    pub const fn key_len(self) -> usize {
        match self {
            Profile::AeadAes256Gcm => 32,
            Profile::AeadAes128Gcm | Profile::AesCm128HmacSha1_80 => 16,
        }
    }

    /// Length of the master salt in bytes.
    #[must_use]
    pub const fn salt_len(self) -> usize {
        match self {
            Profile::AeadAes256Gcm | Profile::AeadAes128Gcm => 12,
            Profile::AesCm128HmacSha1_80 => 14,
        }
    }

    /// Length of the tag in bytes: what an RTP packet grows by. An RTCP packet grows by 4 more.
    #[must_use]
    pub const fn tag_len(self) -> usize {
        match self {
            Profile::AeadAes256Gcm | Profile::AeadAes128Gcm => aes_gcm::TAG_LEN,
            Profile::AesCm128HmacSha1_80 => aes_cm::TAG_LEN,
        }
    }
}

/// A master key and salt of one direction, as plain old data for the arena. All zero is "no key".
#[derive(Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct MasterKey {
    key: [u8; MAX_KEY_LEN],
    salt: [u8; MAX_SALT_LEN],
    /// `Profile::dtls_id`, 0 for no key.
    profile: u8,
    reserved: u8,
}

impl MasterKey {
    /// Takes a key; `None` when key or salt have not the profile's lengths.
    #[must_use]
    pub fn new(profile: Profile, key: &[u8], salt: &[u8]) -> Option<Self> {
        if key.len() != profile.key_len() || salt.len() != profile.salt_len() {
            return None;
        }
        let mut master = MasterKey { profile: profile.dtls_id() as u8, ..MasterKey::default() };
        master.key[..key.len()].copy_from_slice(key);
        master.salt[..salt.len()].copy_from_slice(salt);
        Some(master)
    }

    /// The profile, `None` when there is no key.
    #[must_use]
    pub fn profile(&self) -> Option<Profile> {
        Profile::ALL.into_iter().find(|profile| profile.dtls_id() == u16::from(self.profile))
    }

    /// True when there is a key.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.profile().is_some()
    }

    /// Overwrites the key, in the arena too.
    pub fn wipe(&mut self) {
        self.key.zeroize();
        self.salt.zeroize();
        self.profile = 0;
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MasterKey({:?}, [redacted])", self.profile())
    }
}

/// What is known of one SSRC that is received. All zero but for the SSRC before its first packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct RxStream {
    ssrc: u32,
    reserved: u32,
    rtp: ReplayWindow,
    rtcp: ReplayWindow,
}

impl RxStream {
    /// A stream nothing was received of. It counts as one of the leg only once a packet has authenticated.
    #[must_use]
    pub fn new(ssrc: u32) -> Self {
        RxStream { ssrc, ..RxStream::default() }
    }

    /// The SSRC.
    #[must_use]
    pub fn ssrc(&self) -> u32 {
        self.ssrc
    }

    /// Highest SRTP index accepted, rollover counter << 16 | sequence number.
    #[must_use]
    pub fn rtp_index(&self) -> Option<u64> {
        self.rtp.top()
    }

    /// After a crash: everything up to the highest indexes counts as seen.
    pub fn recover(&mut self) {
        self.rtp.close_behind();
        self.rtcp.close_behind();
    }

    /// What must stay of it when its place goes to another stream of the same key.
    #[must_use]
    pub fn retire(&self) -> RetiredStream {
        let (rtp_top, rtcp_top) = (self.rtp.top_word(), self.rtcp.top_word());
        RetiredStream { ssrc: self.ssrc, reserved: 0, rtp_top, rtcp_top }
    }
}

/// The highest indexes of an [`RxStream`] that was given up: enough that none of its packets is taken twice when it comes back
/// (RFC 3711 section 3.3.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct RetiredStream {
    ssrc: u32,
    reserved: u32,
    rtp_top: u64,
    rtcp_top: u64,
}

impl RetiredStream {
    /// The SSRC.
    #[must_use]
    pub fn ssrc(&self) -> u32 {
        self.ssrc
    }

    /// The stream again. Everything up to its highest indexes counts as seen; what was late when it was given up is lost.
    #[must_use]
    pub fn resume(&self) -> RxStream {
        let window = ReplayWindow::closed_at;
        RxStream { ssrc: self.ssrc, reserved: 0, rtp: window(self.rtp_top), rtcp: window(self.rtcp_top) }
    }
}

/// What is known of one SSRC that is sent. All zero but for the SSRC before its first packet.
///
/// The first sequence number should be below 2^15, so that a receiver that misses it does not guess a wrong rollover
/// (RFC 3711 section 3.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct TxStream {
    ssrc: u32,
    reserved: u32,
    rtp: ReplayWindow,
    /// Index of the next SRTCP packet.
    rtcp_next: u64,
}

impl TxStream {
    /// A stream nothing was sent of.
    #[must_use]
    pub fn new(ssrc: u32) -> Self {
        TxStream { ssrc, ..TxStream::default() }
    }

    /// The SSRC.
    #[must_use]
    pub fn ssrc(&self) -> u32 {
        self.ssrc
    }

    /// Highest SRTP index used, rollover counter << 16 | sequence number.
    #[must_use]
    pub fn rtp_index(&self) -> Option<u64> {
        self.rtp.top()
    }

    /// After a crash: [`RECOVERY_MARGIN`] indexes count as used, so that no keystream is used twice. The caller moves its
    /// sequence numbers on by as much; packets at or below the margin are refused.
    pub fn recover(&mut self) {
        self.rtp.skip(RECOVERY_MARGIN);
        if self.rtcp_next > 0 {
            self.rtcp_next += RECOVERY_MARGIN;
        }
    }
}

/// Derived keys of one direction.
#[allow(clippy::large_enum_variant, reason = "two per leg; a box would cost each packet a cache miss")]
enum Keys {
    Gcm(GcmKeys),
    Cm(CmKeys),
}

impl Keys {
    fn derive(master: &MasterKey) -> Option<Self> {
        let profile = master.profile()?;
        let kdf = Kdf::new(&master.key[..profile.key_len()], &master.salt[..profile.salt_len()])?;
        Some(match profile {
            Profile::AeadAes256Gcm | Profile::AeadAes128Gcm => Keys::Gcm(GcmKeys::derive(&kdf, profile)?),
            Profile::AesCm128HmacSha1_80 => Keys::Cm(CmKeys::derive(&kdf)?),
        })
    }

    fn tag_len(&self) -> usize {
        match self {
            Keys::Gcm(_) => aes_gcm::TAG_LEN,
            Keys::Cm(_) => aes_cm::TAG_LEN,
        }
    }
}

/// Session keys of the receiving direction, derived from a [`MasterKey`].
pub struct SrtpRx(Keys);

/// Session keys of the sending direction, derived from a [`MasterKey`].
pub struct SrtpTx(Keys);

impl SrtpRx {
    /// Derives the session keys; `None` when `master` holds no key.
    #[must_use]
    pub fn new(master: &MasterKey) -> Option<Self> {
        Keys::derive(master).map(SrtpRx)
    }

    /// Checks and decrypts an SRTP packet of `stream`'s SSRC and cuts the tag off.
    ///
    /// # Errors
    /// `RtpMalformed`, `TooShort`, `SrtpReplayed`, `SrtpTooOld`, `SrtpIndexExhausted` with the packet unchanged,
    /// `SrtpAuthFailed` with its payload spoilt (GCM decrypts while it checks): who wants to try a second key epoch keeps a
    /// copy. The stream changes on success only.
    pub fn unprotect_rtp(&self, stream: &mut RxStream, packet: &mut Packet<'_>) -> Result<(), DropReason> {
        let header_len = rtp::header_len(packet.bytes())?;
        let clear_len = packet.len().checked_sub(self.0.tag_len()).filter(|len| *len >= header_len);
        let clear_len = clear_len.ok_or(DropReason::TooShort)?;
        let ssrc = rtp::ssrc_of(packet.bytes());
        debug_assert_eq!(ssrc, stream.ssrc, "a packet meets the state of its own SSRC");
        let index = stream.rtp.estimate(rtp::sequence_of(packet.bytes()))?;
        match stream.rtp.check(index) {
            Verdict::Fresh => {}
            Verdict::Replayed => return Err(DropReason::SrtpReplayed),
            Verdict::TooOld => return Err(DropReason::SrtpTooOld),
        }
        let is_genuine = match &self.0 {
            Keys::Gcm(keys) => keys.open_rtp(packet.bytes_mut(), header_len, ssrc, index),
            Keys::Cm(keys) => keys.open_rtp(packet.bytes_mut(), header_len, ssrc, index),
        };
        if !is_genuine {
            return Err(DropReason::SrtpAuthFailed);
        }
        stream.rtp.accept(index);
        packet.truncate(clear_len);
        Ok(())
    }

    /// Checks and decrypts an SRTCP compound of `stream`'s SSRC and cuts index and tag off. A compound with the E bit clear
    /// is refused: WebRTC always encrypts, and a tag that covers clear text is no reason to believe in keys.
    ///
    /// # Errors
    /// `TooShort`, `SrtcpNotEncrypted`, `SrtcpReplayed`, `SrtcpTooOld` with the packet unchanged, `SrtcpAuthFailed` with its
    /// content spoilt. The stream changes on success only.
    pub fn unprotect_rtcp(&self, stream: &mut RxStream, packet: &mut Packet<'_>) -> Result<(), DropReason> {
        let clear_len = packet.len().checked_sub(self.0.tag_len() + INDEX_LEN).filter(|len| *len >= rtcp::HEADER_LEN);
        let clear_len = clear_len.ok_or(DropReason::TooShort)?;
        let bytes = packet.bytes_mut();
        let ssrc = rtcp::sender_ssrc_of(bytes);
        debug_assert_eq!(ssrc, stream.ssrc, "a packet meets the state of its own SSRC");
        let word = match &self.0 {
            Keys::Gcm(_) => aes_gcm::rtcp_index_word(bytes),
            Keys::Cm(_) => aes_cm::rtcp_index_word(bytes),
        };
        if word & ENCRYPTED_BIT == 0 {
            return Err(DropReason::SrtcpNotEncrypted);
        }
        let index = word & !ENCRYPTED_BIT;
        match stream.rtcp.check(u64::from(index)) {
            Verdict::Fresh => {}
            Verdict::Replayed => return Err(DropReason::SrtcpReplayed),
            Verdict::TooOld => return Err(DropReason::SrtcpTooOld),
        }
        let is_genuine = match &self.0 {
            Keys::Gcm(keys) => keys.open_rtcp(bytes, ssrc, index),
            Keys::Cm(keys) => keys.open_rtcp(bytes, ssrc, index),
        };
        if !is_genuine {
            return Err(DropReason::SrtcpAuthFailed);
        }
        stream.rtcp.accept(u64::from(index));
        packet.truncate(clear_len);
        Ok(())
    }
}

impl SrtpTx {
    /// Derives the session keys; `None` when `master` holds no key.
    #[must_use]
    pub fn new(master: &MasterKey) -> Option<Self> {
        Keys::derive(master).map(SrtpTx)
    }

    /// Encrypts a clear RTP packet of `stream`'s SSRC and appends the tag. The index is marked as used before the packet can
    /// leave.
    ///
    /// # Errors
    /// `RtpMalformed`, `NoTailroom`, `SrtpIndexReused` (a sequence number that was sent, or lies too far back to tell),
    /// `SrtpIndexExhausted`, all with packet and stream unchanged.
    pub fn protect_rtp(&self, stream: &mut TxStream, packet: &mut Packet<'_>) -> Result<(), DropReason> {
        let header_len = rtp::header_len(packet.bytes())?;
        let ssrc = rtp::ssrc_of(packet.bytes());
        debug_assert_eq!(ssrc, stream.ssrc, "a packet meets the state of its own SSRC");
        let index = stream.rtp.estimate(rtp::sequence_of(packet.bytes()))?;
        debug_assert!(index <= LAST_RTP_INDEX);
        if stream.rtp.check(index) != Verdict::Fresh {
            return Err(DropReason::SrtpIndexReused);
        }
        packet.extend(self.0.tag_len()).ok_or(DropReason::NoTailroom)?;
        stream.rtp.accept(index);
        match &self.0 {
            Keys::Gcm(keys) => keys.seal_rtp(packet.bytes_mut(), header_len, ssrc, index),
            Keys::Cm(keys) => keys.seal_rtp(packet.bytes_mut(), header_len, ssrc, index),
        }
        Ok(())
    }

    /// Encrypts a clear RTCP compound that `stream`'s SSRC sends and appends index and tag.
    ///
    /// # Errors
    /// `TooShort`, `NoTailroom`, `SrtpIndexExhausted`, all with packet and stream unchanged.
    pub fn protect_rtcp(&self, stream: &mut TxStream, packet: &mut Packet<'_>) -> Result<(), DropReason> {
        if packet.len() < rtcp::HEADER_LEN {
            return Err(DropReason::TooShort);
        }
        let index = stream.rtcp_next;
        if index > LAST_RTCP_INDEX {
            return Err(DropReason::SrtpIndexExhausted);
        }
        let ssrc = rtcp::sender_ssrc_of(packet.bytes());
        debug_assert_eq!(ssrc, stream.ssrc, "a packet meets the state of its own SSRC");
        packet.extend(self.0.tag_len() + INDEX_LEN).ok_or(DropReason::NoTailroom)?;
        stream.rtcp_next = index + 1;
        let word = index as u32 | ENCRYPTED_BIT;
        match &self.0 {
            Keys::Gcm(keys) => keys.seal_rtcp(packet.bytes_mut(), ssrc, word),
            Keys::Cm(keys) => keys.seal_rtcp(packet.bytes_mut(), ssrc, word),
        }
        Ok(())
    }
}

impl fmt::Debug for SrtpRx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SrtpRx([redacted])")
    }
}

impl fmt::Debug for SrtpTx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SrtpTx([redacted])")
    }
}

#[cfg(test)]
mod tests;
