use super::*;

/// Status, `sipStatus`, `info`, reply to an unanswered INVITE, Q.850 cause.
type Row = (CallStatus, Option<u16>, CallInfo, u16, u8);

fn row(end: CallEnd) -> Row {
    let Outcome { busy_first, status, sip_status, info, reply, reason } = Outcome::of(end, BusyStatus::Finish);
    assert!(!busy_first, "{end:?} is not busy");
    assert!((400..700).contains(&reply), "{end:?}: an INVITE is refused with a final status");
    (status, sip_status, info, reply, reason.cause)
}

#[test]
fn every_cause_has_its_row() {
    use CallInfo as I;
    use CallStatus::{Failed, Finish};
    let rows: Vec<(CallEnd, Row)> = vec![
        (CallEnd::BrowserHangup, (Finish, None, I::NormalCallClearing, 603, 16)),
        (CallEnd::BrowserBusy, (Finish, None, I::NormalCallClearing, 486, 16)),
        (CallEnd::PeerHangup, (Finish, None, I::NormalCallClearing, 480, 16)),
        (CallEnd::CallerCancelled, (Finish, Some(487), I::NormalCallClearing, 487, 16)),
        (CallEnd::RequestTimeout, (Failed, Some(408), I::FailedByRequestTimeout, 408, 102)),
        (CallEnd::TransportFailed, (Failed, Some(503), I::FailedBySessionCreation, 503, 41)),
        (CallEnd::DialogLost(481), (Failed, Some(481), I::FailedByError, 480, 41)),
        (CallEnd::DialogLost(408), (Failed, Some(408), I::FailedByRequestTimeout, 408, 102)),
        (CallEnd::RingTimeout, (Failed, Some(480), I::FailedByRequestTimeout, 480, 19)),
        (CallEnd::NoAnswer, (Failed, Some(408), I::FailedByRequestTimeout, 480, 19)),
        (CallEnd::IceFailed, (Failed, None, I::FailedByIceError, 480, 41)),
        (CallEnd::DtlsFailed(DtlsFailure::Fingerprint), (Failed, None, I::FailedByDtlsFingerprintError, 480, 41)),
        (CallEnd::DtlsFailed(DtlsFailure::Alert), (Failed, None, I::FailedByDtlsError, 480, 41)),
        (CallEnd::DtlsFailed(DtlsFailure::Timeout), (Failed, None, I::FailedByDtlsError, 480, 41)),
        (CallEnd::BrowserGone, (Finish, None, I::NormalCallClearing, 480, 16)),
        (CallEnd::SessionClosed, (Finish, None, I::NormalCallClearing, 480, 16)),
        (CallEnd::MediaTimeout, (Failed, None, I::FailedByRtpActivity, 480, 41)),
        (CallEnd::NoCommonCodecs, (Failed, Some(488), I::NoCommonCodecs, 488, 88)),
        (CallEnd::TranscodingRequired, (Failed, Some(488), I::TranscodingRequiredButDisabled, 488, 88)),
        (CallEnd::BadBrowserDescription, (Failed, None, I::FailedBySessionCreation, 480, 41)),
        (CallEnd::BadPeerDescription, (Failed, Some(488), I::FailedBySessionCreation, 488, 88)),
        (CallEnd::BadTarget, (Failed, Some(484), I::FailedBySessionCreation, 484, 28)),
        (CallEnd::Denied, (Failed, Some(403), I::FailedBySessionCreation, 403, 21)),
        (CallEnd::RelayRefused(ErrorCode::Full), (Failed, Some(503), I::FailedBySessionCreation, 503, 47)),
        (CallEnd::RelayRefused(ErrorCode::NoPorts), (Failed, Some(503), I::FailedBySessionCreation, 503, 47)),
        (CallEnd::RelayRefused(ErrorCode::Draining), (Failed, Some(503), I::FailedBySessionCreation, 503, 47)),
        (CallEnd::RelayRefused(ErrorCode::Invalid), (Failed, Some(500), I::FailedBySessionCreation, 500, 41)),
        (CallEnd::RelayLost, (Failed, None, I::FailedByError, 500, 41)),
        (CallEnd::Terminated, (Finish, None, I::NormalCallClearing, 603, 16)),
        (CallEnd::Restarted, (Failed, None, I::FailedByError, 503, 41)),
        (CallEnd::Shutdown, (Finish, None, I::NormalCallClearing, 503, 16)),
        (CallEnd::Draining, (Failed, Some(503), I::FailedBySessionCreation, 503, 47)),
        (CallEnd::LateAnswer, (Failed, Some(487), I::FailedByError, 487, 16)),
    ];
    for (end, expected) in rows {
        assert_eq!(row(end), expected, "{end:?}");
    }
}

/// Section 5.8 for each final status there is.
#[test]
fn every_final_status_of_an_invite_ends_as_the_protocol_says() {
    for status in 300..700 {
        let outcome = Outcome::of(CallEnd::Refused(status), BusyStatus::Finish);
        let (busy, expected, info) = match status {
            486 | 600 => (true, CallStatus::Finish, CallInfo::NormalCallClearing),
            487 | 603 => (false, CallStatus::Finish, CallInfo::NormalCallClearing),
            408 => (false, CallStatus::Failed, CallInfo::FailedByRequestTimeout),
            488 | 606 => (false, CallStatus::Failed, CallInfo::NoCommonCodecs),
            _ => (false, CallStatus::Failed, CallInfo::FailedBySessionCreation),
        };
        assert_eq!((outcome.busy_first, outcome.status, outcome.info), (busy, expected, info), "{status}");
        assert_eq!(outcome.sip_status, Some(status));
    }
}

#[test]
fn busy_ends_as_the_operator_chose() {
    let ends = [
        (BusyStatus::Finish, true, CallStatus::Finish),
        (BusyStatus::Busy, false, CallStatus::Busy),
        (BusyStatus::Failed, true, CallStatus::Failed),
    ];
    for (setting, busy_first, expected) in ends {
        for status in [486, 600] {
            let outcome = Outcome::of(CallEnd::Refused(status), setting);
            assert_eq!((outcome.busy_first, outcome.status), (busy_first, expected), "{setting:?}");
        }
        assert_eq!(Outcome::of(CallEnd::Refused(404), setting).status, CallStatus::Failed);
    }
}

#[test]
fn texts_are_those_of_the_sdk() {
    let texts = [
        (CallInfo::NormalCallClearing, "Normal call clearing"),
        (CallInfo::FailedBySessionCreation, "Failed by session creation"),
        (CallInfo::FailedByIceError, "Failed by ICE error"),
        (CallInfo::FailedByRtpActivity, "Failed by RTP activity"),
        (CallInfo::FailedByDtlsFingerprintError, "Failed by DTLS fingerprint error"),
        (CallInfo::NoCommonCodecs, "No common codecs"),
        (CallInfo::FailedByDtlsError, "Failed by DTLS error"),
        (CallInfo::FailedByError, "Failed by error"),
        (CallInfo::FailedByRequestTimeout, "Failed by request timeout"),
        (CallInfo::TranscodingRequiredButDisabled, "Transcoding required, but disabled"),
    ];
    for (info, text) in texts {
        assert_eq!(info.text(), text);
    }
    assert_eq!(NORMAL.header_value(), "Q.850;cause=16;text=\"Normal call clearing\"");
}

#[test]
fn negotiation_errors_become_causes() {
    use crate::sdp::{Codec, Encoding, SdpError};
    let fixed = Codec::usual(Encoding::Pcmu);
    assert_eq!(CallEnd::from(&NegotiateError::NoCommonCodecs), CallEnd::NoCommonCodecs);
    assert_eq!(CallEnd::from(&NegotiateError::FixedCodecMissing { fixed }), CallEnd::TranscodingRequired);
    let sdp = NegotiateError::Sdp(SdpError::NoAudio { reason: "there is none" });
    assert_eq!(CallEnd::from(&sdp), CallEnd::BadPeerDescription);
}

#[test]
fn refused_sessions_are_told_why_and_closed() {
    let cases = [
        (SessionFailure::AuthenticationFailed, "RegistrationStatusEvent", "FAILED", "AUTHENTICATION_FAIL", true),
        (SessionFailure::RegistrarSilent, "RegistrationStatusEvent", "FAILED", "REGISTER_EXPIRE", true),
        (SessionFailure::RegistrarUnreachable, "RegistrationStatusEvent", "FAILED", "CONNECTION_ERROR", true),
        (SessionFailure::RegistrarRefused(403), "RegistrationStatusEvent", "FAILED", "AUTHENTICATION_FAIL", true),
        (SessionFailure::RegistrarRefused(402), "RegistrationStatusEvent", "FAILED", "PAYMENT_REQUIRED", true),
        (SessionFailure::RegistrarRefused(404), "RegistrationStatusEvent", "FAILED", "USER_NOT_AVAILABLE", true),
        (SessionFailure::RegistrarRefused(408), "RegistrationStatusEvent", "FAILED", "REGISTER_EXPIRE", true),
        (SessionFailure::RegistrarRefused(503), "RegistrationStatusEvent", "FAILED", "CONNECTION_ERROR", true),
        (SessionFailure::RegistrarRefused(500), "RegistrationStatusEvent", "FAILED", "INTERNAL_SIP_ERROR", true),
        (SessionFailure::RegistrationLost, "RegistrationStatusEvent", "UNREGISTERED", "REGISTER_EXPIRE", false),
        (SessionFailure::ConnectDenied, "ConnectionStatusEvent", "FAILED", "REST_AUTHORIZATION_FAIL", true),
        (
            SessionFailure::UnknownToken,
            "ConnectionStatusEvent",
            "FAILED",
            "authToken: it is unknown or has expired",
            true,
        ),
        (
            SessionFailure::InvalidField { field: "sipLogin", reason: "a space is not allowed" },
            "ConnectionStatusEvent",
            "FAILED",
            "sipLogin: a space is not allowed",
            true,
        ),
    ];
    for (failure, method, status, info, close) in cases {
        let SessionNotice { fail, close: closes } = SessionNotice::of(&failure);
        assert_eq!((fail.api_method.as_str(), fail.status, fail.info.as_str()), (method, status, info), "{failure:?}");
        assert_eq!((fail.id, closes), (None, close), "{failure:?}");
    }
}
