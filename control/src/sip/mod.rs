//! The SIP core: grammar, digest, transactions, dialogs and the user agent that ties them together.
//!
//! Everything here is sans-IO: bytes and a [`Time`](gangway_shared::time::Time) come in, bytes and events come out. It opens no
//! socket, resolves no name, reads no clock and draws no entropy of its own, so a whole call with lost packets runs in a unit test.
//!
//! [`parser`] is strict where a mistake would create state (Via, CSeq, Call-ID, tags, Max-Forwards, Content-Length) and lenient
//! elsewhere; printing is strict: no value can bring a line break of its own into a message.

use std::fmt;

use serde::{Deserialize, Serialize};

pub mod dialog;
pub mod digest;
pub mod headers;
pub mod message;
pub mod parser;
pub mod transaction;
pub mod ua;
pub mod uri;

/// How SIP travels, RFC 3261 section 18 and RFC 7118.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// A plain stream.
    Tcp,
    /// A stream under TLS.
    Tls,
    /// A websocket, one message per websocket message.
    Ws,
    /// A websocket under TLS.
    Wss,
}

impl Transport {
    /// Whether the transport delivers or reports; only UDP does neither, so only there requests are retransmitted.
    #[must_use]
    pub const fn is_reliable(self) -> bool {
        !matches!(self, Transport::Udp)
    }

    /// The port used when an address names none, RFC 3261 section 19.1.2.
    #[must_use]
    pub const fn default_port(self) -> u16 {
        match self {
            Transport::Udp | Transport::Tcp => 5060,
            Transport::Tls => 5061,
            Transport::Ws => 80,
            Transport::Wss => 443,
        }
    }

    /// The word in a Via header: `UDP`.
    #[must_use]
    pub const fn as_via(self) -> &'static str {
        match self {
            Transport::Udp => "UDP",
            Transport::Tcp => "TCP",
            Transport::Tls => "TLS",
            Transport::Ws => "WS",
            Transport::Wss => "WSS",
        }
    }

    /// The value of a URI's `transport` parameter: `udp`.
    #[must_use]
    pub const fn as_param(self) -> &'static str {
        match self {
            Transport::Udp => "udp",
            Transport::Tcp => "tcp",
            Transport::Tls => "tls",
            Transport::Ws => "ws",
            Transport::Wss => "wss",
        }
    }

    /// Reads either form, in any case; `None` for a transport we do not speak.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Transport::Udp, Transport::Tcp, Transport::Tls, Transport::Ws, Transport::Wss]
            .into_iter()
            .find(|transport| transport.as_param().eq_ignore_ascii_case(text))
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_param())
    }
}
