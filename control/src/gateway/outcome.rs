//! Failure -> SIP status -> API reason: one table.
//!
//! Says for every way in which a call can end what the browser is told (sections 4.2, 4.4, 5.5 and 5.8 of the WCS protocol) and
//! what the SIP peer is told, and for every way in which a session can be refused the `fail` of section 5.9. The state of the
//! call decides which of a row's SIP parts is used: an unanswered incoming INVITE gets the status, a dialog or an outgoing
//! INVITE gets BYE or CANCEL with the Reason (RFC 3326).

use gangway_shared::rcp::{DtlsFailure, ErrorCode};

use super::{
    BusyStatus,
    messages::{CallStatus, Fail},
};
use crate::sdp::NegotiateError;

/// Why a call ends. Numbers are SIP statuses as received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallEnd {
    /// The user hung up or rejected.
    BrowserHangup,
    /// The user rejected a call while in another: of the phones of this number only this one is busy.
    BrowserBusy,
    /// The SIP peer sent BYE.
    PeerHangup,
    /// The caller gave up before the answer.
    CallerCancelled,
    /// The SIP peer refused our INVITE with this final status (300-699).
    Refused(u16),
    /// The SIP peer answered nothing to INVITE or to a request within the dialog (timer B or F, or 408).
    RequestTimeout,
    /// The request could not be sent: refused connection, no route, no resolvable target.
    TransportFailed,
    /// The peer no longer knows the dialog (481) or refused a request that the call cannot live without.
    DialogLost(u16),
    /// An incoming call that nobody answered within `ring_timeout`.
    RingTimeout,
    /// An outgoing call that rang longer than allowed.
    NoAnswer,
    /// No path to the browser within `ice_timeout`, or consent was lost.
    IceFailed,
    /// The DTLS handshake gave no keys.
    DtlsFailed(DtlsFailure),
    /// The browser's peer connection went away without a hangup.
    BrowserGone,
    /// The websocket went away and the session does not live on.
    SessionClosed,
    /// No media within the activity timeout.
    MediaTimeout,
    /// Browser and peer share no codec.
    NoCommonCodecs,
    /// The peer insists on a codec other than the one the browser was answered with.
    TranscodingRequired,
    /// The browser's description cannot be used.
    BadBrowserDescription,
    /// The SIP peer's description cannot be used.
    BadPeerDescription,
    /// The callee or a header that the page supplied cannot be put into a SIP request.
    BadTarget,
    /// The application forbade the call.
    Denied,
    /// The relay refused the program.
    RelayRefused(ErrorCode),
    /// The relay lost the call: worker failure, reaped, restarted without it.
    RelayLost,
    /// Ended by REST.
    Terminated,
    /// The gateway was started anew while the call was being set up.
    Restarted,
    /// The gateway stops and ends its calls.
    Shutdown,
    /// The gateway drains and takes no new call: what a SIP peer is told by 503.
    Draining,
    /// An `answer` for a call that is over or was never there.
    LateAnswer,
}

impl From<&NegotiateError> for CallEnd {
    /// For a description that came from the SIP peer.
    fn from(error: &NegotiateError) -> Self {
        match error {
            NegotiateError::NoCommonCodecs => CallEnd::NoCommonCodecs,
            NegotiateError::FixedCodecMissing { .. } => CallEnd::TranscodingRequired,
            NegotiateError::Sdp(_) => CallEnd::BadPeerDescription,
        }
    }
}

/// CALL_STATUS_INFO of the SDK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallInfo {
    /// NORMAL_CALL_CLEARING
    NormalCallClearing,
    /// FAILED_BY_SESSION_CREATION
    FailedBySessionCreation,
    /// FAILED_BY_ICE_ERROR
    FailedByIceError,
    /// FAILED_BY_RTP_ACTIVITY
    FailedByRtpActivity,
    /// FAILED_BY_DTLS_FINGERPRINT_ERROR
    FailedByDtlsFingerprintError,
    /// NO_COMMON_CODECS
    NoCommonCodecs,
    /// FAILED_BY_DTLS_ERROR
    FailedByDtlsError,
    /// FAILED_BY_ERROR
    FailedByError,
    /// FAILED_BY_REQUEST_TIMEOUT
    FailedByRequestTimeout,
    /// TRANSCODING_REQUIRED_BUT_DISABLED
    TranscodingRequiredButDisabled,
}

impl CallInfo {
    /// The text for the field `info`.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            CallInfo::NormalCallClearing => "Normal call clearing",
            CallInfo::FailedBySessionCreation => "Failed by session creation",
            CallInfo::FailedByIceError => "Failed by ICE error",
            CallInfo::FailedByRtpActivity => "Failed by RTP activity",
            CallInfo::FailedByDtlsFingerprintError => "Failed by DTLS fingerprint error",
            CallInfo::NoCommonCodecs => "No common codecs",
            CallInfo::FailedByDtlsError => "Failed by DTLS error",
            CallInfo::FailedByError => "Failed by error",
            CallInfo::FailedByRequestTimeout => "Failed by request timeout",
            CallInfo::TranscodingRequiredButDisabled => "Transcoding required, but disabled",
        }
    }
}

/// A Reason header value for BYE or CANCEL (RFC 3326), with a cause of Q.850.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reason {
    /// Cause of Q.850, 1-127.
    pub cause: u8,
    /// Text for people.
    pub text: &'static str,
}

impl Reason {
    /// The header value.
    #[must_use]
    pub fn header_value(self) -> String {
        format!("Q.850;cause={};text=\"{}\"", self.cause, self.text)
    }
}

/// What everybody is told about the end of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Whether a `busy` message goes to the browser before `finish` (mobile clients use it, this SDK ignores it).
    pub busy_first: bool,
    /// Field `status` of the one `finish` message: FINISH, FAILED, or BUSY when the operator chose it.
    pub status: CallStatus,
    /// Field `sipStatus`: the status received, or the one that stands for what happened; absent when SIP had no part in it.
    pub sip_status: Option<u16>,
    /// Field `info`.
    pub info: CallInfo,
    /// Final status for an incoming INVITE that is not answered yet.
    pub reply: u16,
    /// Reason for a BYE, or for a CANCEL of an INVITE of ours.
    pub reason: Reason,
}

const NORMAL: Reason = Reason { cause: 16, text: "Normal call clearing" };
const BUSY_CAUSE: Reason = Reason { cause: 17, text: "User busy" };
const NO_ANSWER: Reason = Reason { cause: 19, text: "No answer from user" };
const REJECTED: Reason = Reason { cause: 21, text: "Call rejected" };
const BAD_NUMBER: Reason = Reason { cause: 28, text: "Invalid number format" };
const TEMPORARY: Reason = Reason { cause: 41, text: "Temporary failure" };
const NO_RESOURCE: Reason = Reason { cause: 47, text: "Resource unavailable" };
const INCOMPATIBLE: Reason = Reason { cause: 88, text: "Incompatible destination" };
const TIMER: Reason = Reason { cause: 102, text: "Recovery on timer expiry" };

impl Outcome {
    /// The row of a cause.
    #[must_use]
    pub fn of(end: CallEnd, busy: BusyStatus) -> Self {
        use CallInfo as I;
        match end {
            CallEnd::BrowserHangup => finish(None, 603, NORMAL),
            CallEnd::BrowserBusy => finish(None, 486, NORMAL),
            CallEnd::PeerHangup => finish(None, 480, NORMAL),
            CallEnd::CallerCancelled => finish(Some(487), 487, NORMAL),
            CallEnd::Refused(status) => refused(status, busy),
            CallEnd::RequestTimeout => failed(Some(408), I::FailedByRequestTimeout, 408, TIMER),
            CallEnd::TransportFailed => failed(Some(503), I::FailedBySessionCreation, 503, TEMPORARY),
            CallEnd::DialogLost(408) => failed(Some(408), I::FailedByRequestTimeout, 408, TIMER),
            CallEnd::DialogLost(status) => failed(Some(status), I::FailedByError, 480, TEMPORARY),
            CallEnd::RingTimeout => failed(Some(480), I::FailedByRequestTimeout, 480, NO_ANSWER),
            CallEnd::NoAnswer => failed(Some(408), I::FailedByRequestTimeout, 480, NO_ANSWER),
            CallEnd::IceFailed => failed(None, I::FailedByIceError, 480, TEMPORARY),
            CallEnd::DtlsFailed(DtlsFailure::Fingerprint) => {
                failed(None, I::FailedByDtlsFingerprintError, 480, TEMPORARY)
            }
            CallEnd::DtlsFailed(DtlsFailure::Alert | DtlsFailure::Timeout) => {
                failed(None, I::FailedByDtlsError, 480, TEMPORARY)
            }
            CallEnd::BrowserGone | CallEnd::SessionClosed => finish(None, 480, NORMAL),
            CallEnd::MediaTimeout => failed(None, I::FailedByRtpActivity, 480, TEMPORARY),
            CallEnd::NoCommonCodecs => failed(Some(488), I::NoCommonCodecs, 488, INCOMPATIBLE),
            CallEnd::TranscodingRequired => failed(Some(488), I::TranscodingRequiredButDisabled, 488, INCOMPATIBLE),
            CallEnd::BadBrowserDescription => failed(None, I::FailedBySessionCreation, 480, TEMPORARY),
            CallEnd::BadPeerDescription => failed(Some(488), I::FailedBySessionCreation, 488, INCOMPATIBLE),
            CallEnd::BadTarget => failed(Some(484), I::FailedBySessionCreation, 484, BAD_NUMBER),
            CallEnd::Denied => failed(Some(403), I::FailedBySessionCreation, 403, REJECTED),
            CallEnd::RelayRefused(ErrorCode::Full | ErrorCode::NoPorts | ErrorCode::Draining) => {
                failed(Some(503), I::FailedBySessionCreation, 503, NO_RESOURCE)
            }
            CallEnd::RelayRefused(_) => failed(Some(500), I::FailedBySessionCreation, 500, TEMPORARY),
            CallEnd::RelayLost => failed(None, I::FailedByError, 500, TEMPORARY),
            CallEnd::Terminated => finish(None, 603, NORMAL),
            CallEnd::Restarted => failed(None, I::FailedByError, 503, TEMPORARY),
            CallEnd::Shutdown => finish(None, 503, NORMAL),
            CallEnd::Draining => failed(Some(503), I::FailedBySessionCreation, 503, NO_RESOURCE),
            CallEnd::LateAnswer => failed(Some(487), I::FailedByError, 487, NORMAL),
        }
    }
}

/// A final response to our INVITE (section 5.8).
fn refused(status: u16, busy: BusyStatus) -> Outcome {
    let outcome = |info, reason| failed(Some(status), info, status, reason);
    match status {
        486 | 600 => {
            let (busy_first, terminal) = match busy {
                BusyStatus::Finish => (true, CallStatus::Finish),
                BusyStatus::Busy => (false, CallStatus::Busy),
                BusyStatus::Failed => (true, CallStatus::Failed),
            };
            Outcome { busy_first, status: terminal, ..finish(Some(status), status, BUSY_CAUSE) }
        }
        487 => finish(Some(status), status, NORMAL),
        603 => finish(Some(status), status, REJECTED),
        408 => outcome(CallInfo::FailedByRequestTimeout, TIMER),
        488 | 606 => outcome(CallInfo::NoCommonCodecs, INCOMPATIBLE),
        _ => outcome(CallInfo::FailedBySessionCreation, TEMPORARY),
    }
}

const fn finish(sip_status: Option<u16>, reply: u16, reason: Reason) -> Outcome {
    let (status, info) = (CallStatus::Finish, CallInfo::NormalCallClearing);
    Outcome { busy_first: false, status, sip_status, info, reply, reason }
}

const fn failed(sip_status: Option<u16>, info: CallInfo, reply: u16, reason: Reason) -> Outcome {
    Outcome { busy_first: false, status: CallStatus::Failed, sip_status, info, reply, reason }
}

/// Why a session or its registration is refused (section 5.9, and the last row of 5.8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionFailure {
    /// 401, 403 or 407 to a REGISTER with credentials.
    AuthenticationFailed,
    /// The registrar answered nothing in time (timer F).
    RegistrarSilent,
    /// The registrar cannot be reached: refused connection, no resolvable name.
    RegistrarUnreachable,
    /// Any other final status of the registrar.
    RegistrarRefused(u16),
    /// A registration that stood was lost and repeating it did not help.
    RegistrationLost,
    /// The application denied the connection.
    ConnectDenied,
    /// The token is unknown or has expired.
    UnknownToken,
    /// A field of `connection` cannot be used.
    InvalidField {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// What a browser is told of a refused session or registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionNotice {
    /// The `fail` message.
    pub fail: Fail,
    /// Whether the socket is closed (code 1000) behind it. Without the close the Phone page shows a usable Call button and no
    /// reason.
    pub close: bool,
}

impl SessionNotice {
    /// The row of a cause.
    #[must_use]
    pub fn of(failure: &SessionFailure) -> Self {
        let fail = match failure {
            SessionFailure::AuthenticationFailed => Fail::registration("AUTHENTICATION_FAIL"),
            SessionFailure::RegistrarSilent => Fail::registration("REGISTER_EXPIRE"),
            SessionFailure::RegistrarUnreachable => Fail::registration("CONNECTION_ERROR"),
            SessionFailure::RegistrarRefused(status) => Fail::registration(match status {
                401 | 403 | 407 => "AUTHENTICATION_FAIL",
                402 => "PAYMENT_REQUIRED",
                404 | 410 | 480 | 604 => "USER_NOT_AVAILABLE",
                408 => "REGISTER_EXPIRE",
                502..=504 => "CONNECTION_ERROR",
                _ => "INTERNAL_SIP_ERROR",
            }),
            SessionFailure::RegistrationLost => {
                Fail { status: "UNREGISTERED", ..Fail::registration("REGISTER_EXPIRE") }
            }
            SessionFailure::ConnectDenied => Fail::connection("REST_AUTHORIZATION_FAIL"),
            SessionFailure::UnknownToken => Fail::connection("authToken: it is unknown or has expired"),
            SessionFailure::InvalidField { field, reason } => Fail::connection(format!("{field}: {reason}")),
        };
        SessionNotice { fail, close: !matches!(failure, SessionFailure::RegistrationLost) }
    }
}

#[cfg(test)]
mod tests;
