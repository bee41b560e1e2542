//! Why a datagram went no further: one enum for the whole dataplane, so that one table of counters holds them all.

/// Declares the enum, its list and its names from one table, so that none of the three can miss a reason.
macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident => $name:literal,)+) => {
        /// Why a datagram was dropped (or, for the two `Stun`/`Ice` answers that are refusals, why it was refused).
        ///
        /// Every reason has a counter that an operator can read under [`DropReason::name`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl DropReason {
            /// Every reason, in the order of its discriminant: `ALL[reason as usize] == reason`.
            pub const ALL: [DropReason; DropReason::COUNT] = [$(DropReason::$variant,)+];

            /// How many reasons there are: the length of a counter table indexed by `reason as usize`.
            pub const COUNT: usize = [$($name,)+].len();

            /// The name in metrics and in `Query`, in snake case.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(DropReason::$variant => $name,)+
                }
            }
        }
    };
}

drop_reasons! {
    /// Shorter than the smallest packet of its protocol.
    TooShort => "too_short",
    /// The first byte is none of STUN, DTLS, RTP, RTCP (RFC 7983 section 7).
    UnknownProtocol => "unknown_protocol",
    /// STUN without magic cookie, or with a length that does not fit.
    StunMalformed => "stun_malformed",
    /// STUN whose USERNAME names no local ufrag, or another remote one than signalling said.
    StunUnknownUser => "stun_unknown_user",
    /// STUN without MESSAGE-INTEGRITY or with a wrong one.
    StunBadIntegrity => "stun_bad_integrity",
    /// STUN with a wrong FINGERPRINT.
    StunBadFingerprint => "stun_bad_fingerprint",
    /// STUN that is no Binding request.
    StunNotARequest => "stun_not_a_request",
    /// A Binding request with an unknown comprehension-required attribute; answered 420 when it authenticated.
    StunUnknownAttribute => "stun_unknown_attribute",
    /// A Binding request whose answer would be longer than itself.
    StunAnswerTooLong => "stun_answer_too_long",
    /// A peer that claims to be controlled; answered 487.
    IceRoleConflict => "ice_role_conflict",
    /// DTLS from an address that passed no authenticated STUN check.
    DtlsUnknownPath => "dtls_unknown_path",
    /// A DTLS record that the filter keeps from the handshake.
    DtlsFiltered => "dtls_filtered",
    /// The mailbox to the manager was full of DTLS.
    DtlsQueueFull => "dtls_queue_full",
    /// RTP with a header that does not fit its length.
    RtpMalformed => "rtp_malformed",
    /// RTCP with a packet that does not fit its compound.
    RtcpMalformed => "rtcp_malformed",
    /// Media from an address that belongs to no leg.
    NoSuchPath => "no_such_path",
    /// Media on a leg whose keys are not agreed yet.
    NoKeys => "no_keys",
    /// Media on a leg whose peer certificate has not been compared with signalling yet.
    FingerprintPending => "fingerprint_pending",
    /// An SRTP packet whose tag is wrong.
    SrtpAuthFailed => "srtp_auth_failed",
    /// An SRTP packet that was accepted before.
    SrtpReplayed => "srtp_replayed",
    /// An SRTP packet behind the replay window.
    SrtpTooOld => "srtp_too_old",
    /// An authenticated SSRC more than a leg has room for: none of the others was silent for ten seconds, or too many were given up
    /// under the same keys.
    SrtpStreamsFull => "srtp_streams_full",
    /// A packet to send whose SRTP index was used before: sending it would use the keystream twice.
    SrtpIndexReused => "srtp_index_reused",
    /// A packet to send after the last index of its key (2^48 SRTP, 2^31 SRTCP).
    SrtpIndexExhausted => "srtp_index_exhausted",
    /// An SRTCP packet whose tag is wrong.
    SrtcpAuthFailed => "srtcp_auth_failed",
    /// An SRTCP packet that was accepted before.
    SrtcpReplayed => "srtcp_replayed",
    /// An SRTCP packet behind the replay window.
    SrtcpTooOld => "srtcp_too_old",
    /// An SRTCP packet with the E bit clear.
    SrtcpNotEncrypted => "srtcp_not_encrypted",
    /// Plain media from an address that is not the latched one.
    ForeignSource => "foreign_source",
    /// Plain media from a candidate source after the latch epoch's budget of foreign packets.
    LatchBudgetSpent => "latch_budget_spent",
    /// RTP from before the point at which its source was joined: its sequence number went to another packet.
    SequenceStale => "sequence_stale",
    /// A packet that was asked for again and is not kept: it was sent too long ago, or never.
    ResendUnknown => "resend_unknown",
    /// A packet that was asked for again although it was just sent again, or often enough.
    ResendTooSoon => "resend_too_soon",
    /// A packet that was asked for again after repair had its share of the bandwidth, or one too many of a single request.
    ResendOverBudget => "resend_over_budget",
    /// A retransmission of a packet that is not missing: browsers fill spare bandwidth with them.
    RepairNotNeeded => "repair_not_needed",
    /// RTP of a payload type that the route does not map.
    PayloadUnmapped => "payload_unmapped",
    /// RTP of an SSRC or leg that no route starts at.
    NoRoute => "no_route",
    /// Media in a direction that is on hold.
    LegHeld => "leg_held",
    /// Sound in whose place telephone events are sent.
    EventInPlace => "event_in_place",
    /// Media towards a leg whose remote address is not known.
    NoRemote => "no_remote",
    /// Media towards a leg that lost consent or its path.
    PathLost => "path_lost",
    /// A datagram for which the receive buffer of its port had no room: the worker was too slow, or was kept from its core. Counted
    /// when the next one comes.
    ReceiveBufferFull => "receive_buffer_full",
    /// A datagram that the kernel cut because it exceeds a buffer.
    PacketTooLarge => "packet_too_large",
    /// No room in the buffer for a tag or a header.
    NoTailroom => "no_tailroom",
    /// No buffer left in the pool.
    BuffersExhausted => "buffers_exhausted",
    /// A datagram of a handshake for which the mailbox to its worker had no room. The flight is sent again.
    MailboxFull => "mailbox_full",
    /// The kernel's send queue was full.
    SendWouldBlock => "send_would_block",
    /// ECONNREFUSED: nobody listens there.
    SendRefused => "send_refused",
    /// EHOSTUNREACH or ENETUNREACH.
    SendUnreachable => "send_unreachable",
    /// Any other error of the kernel on sending.
    SendFailed => "send_failed",
    /// A datagram on a port that belongs to no leg any more.
    PortUnknown => "port_unknown",
    /// A destination of another address family than the port.
    WrongFamily => "wrong_family",
    /// An authenticated check from one address more than a leg may have, or than a worker takes in a second.
    TooManyNewAddresses => "too_many_new_addresses",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_its_own_index_and_has_its_own_snake_case_name() {
        for (index, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
            assert!(reason.name().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{reason:?}");
        }
        let mut names = DropReason::ALL.map(DropReason::name).to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), DropReason::COUNT);
    }
}
