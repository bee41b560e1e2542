//! Settings and counters of the agent.

use std::{net::IpAddr, time::Duration};

use crate::sip::{Transport, message::Method, transaction::Timers, uri::Host};

/// An address of ours as peers shall see it in Via and Contact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertised {
    /// For which transport.
    pub transport: Transport,
    /// Host in Via and Contact. The family of an IP address decides for which peers it is used; a name serves both.
    pub host: Host,
    /// Port in Via and Contact.
    pub port: u16,
}

/// A range of addresses: peers that are trusted to be who they say over UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// Any address in it.
    pub address: IpAddr,
    /// How many leading bits count.
    pub prefix_len: u8,
}

/// Settings of a [`Ua`].
#[derive(Clone, Debug)]
pub struct UaConfig {
    /// Our addresses, known after the sockets are bound.
    pub advertised: Vec<Advertised>,
    /// User-Agent and Server; empty for none.
    pub user_agent: String,
    /// Methods that the owner handles: told in Allow. Others get 405 or 501. ACK, BYE, CANCEL and OPTIONS are always there.
    pub allow: Vec<Method>,
    /// Option tags for Supported; a Require of any other gets 420.
    pub supported: Vec<String>,
    /// Bodies that OPTIONS announces in Accept.
    pub accept: Vec<String>,
    /// Transaction timers.
    pub timers: Timers,
    /// The most transactions alive at once, both directions; beyond, requests get a stateless 503. Peers outside of
    /// dialogs leave an eighth to requests of ours. CANCEL and BYE of ours go out regardless.
    pub max_transactions: usize,
    /// Of those, how many requests may hold that come from no known peer, over streams too.
    pub max_unverified_transactions: usize,
    /// Retry-After of every 503 that the agent sends, in seconds.
    pub overload_retry_after_s: u32,
    /// Sources that are trusted beside the accounts' targets and whoever knows the tags of a living dialog.
    pub trusted: Vec<Subnet>,
    /// Requests longer than this go by TCP instead of UDP when we have a TCP address, and back to UDP when that fails (RFC 3261
    /// section 18.1.1). 0 never switches.
    pub udp_request_limit_bytes: usize,
    /// How long the connection for such a request may take to be made.
    pub stream_connect: Duration,
    /// How long an INVITE may hear nothing by such a connection, on top of that, until it goes by UDP after all. A server that hears
    /// it says 100 within 200 ms (RFC 3261 section 17.2.1).
    pub stream_answer: Duration,
    /// How long a peer that took no such connection gets long requests by UDP at once.
    pub stream_retry: Duration,
}

impl UaConfig {
    /// The settings of a gateway that handles calls: INVITE alone beside what is always there, RFC timers.
    #[must_use]
    pub fn new(advertised: Vec<Advertised>) -> Self {
        UaConfig {
            advertised,
            user_agent: "Gangway".to_owned(),
            allow: vec![Method::Invite],
            supported: Vec::new(),
            accept: vec!["application/sdp".to_owned()],
            timers: Timers::default(),
            // About a hundred new calls a second, each with a handful of transactions that linger for half a minute.
            max_transactions: 16_384,
            max_unverified_transactions: 4_096,
            overload_retry_after_s: 10,
            trusted: Vec::new(),
            // RFC 3261 section 18.1.1, for a path MTU that nobody knows.
            udp_request_limit_bytes: 1_300,
            stream_connect: Duration::from_secs(1),
            stream_answer: Duration::from_secs(2),
            stream_retry: Duration::from_secs(600),
        }
    }

    /// The address of ours that a peer at `remote` shall see.
    pub(super) fn advertised_to(&self, transport: Transport, remote: IpAddr) -> Option<&Advertised> {
        let fits = |ours: &&Advertised| ours.host.ip().is_none_or(|ip| ip.is_ipv4() == remote.is_ipv4());
        self.advertised.iter().filter(|ours| ours.transport == transport).find(fits)
    }

    /// Whether we have an address to send from by this transport to `remote`.
    pub(super) fn serves(&self, transport: Transport, remote: IpAddr) -> bool {
        self.advertised_to(transport, remote).is_some()
    }

    /// Allow: the owner's methods and those that the agent handles.
    pub(super) fn allow_header(&self) -> String {
        let own = [Method::Ack, Method::Bye, Method::Cancel, Method::Options];
        let all = own.iter().chain(self.allow.iter().filter(|method| !own.contains(method)));
        all.map(Method::as_str).collect::<Vec<_>>().join(", ")
    }
}

impl Subnet {
    /// Whether `ip` lies in it. IPv4 and IPv6 never match each other.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        let prefix_len = u32::from(self.prefix_len);
        match (self.address, ip) {
            (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros() >= prefix_len.min(32),
            (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros() >= prefix_len.min(128),
            _ => false,
        }
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// How often the agent dropped, refused or repeated something, since it was made.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters { $($(#[$doc])* pub $name: u64),* }

        impl Counters {
            /// Every counter with its name, for metrics.
            #[must_use]
            pub const fn each(&self) -> [(&'static str, u64); [$(stringify!($name)),*].len()] {
                [$((stringify!($name), self.$name)),*]
            }
        }
    };
}

counters! {
    /// Messages that could not be read; those with enough headers were answered 400.
    malformed,
    /// Responses that belong to no request of ours.
    stray_responses,
    /// ACKs that belong to no answer of ours.
    stray_acks,
    /// Requests of ours that were sent again.
    request_repeats_sent,
    /// Answers of ours that were sent again.
    answer_repeats_sent,
    /// Requests of peers that arrived again.
    request_repeats_received,
    /// Answers of peers that arrived again.
    response_repeats_received,
    /// Requests refused with 503 because the transaction table was full.
    overloaded,
    /// Requests refused for their method: 405, 501.
    method_refused,
    /// Requests in dialogs that do not exist: 481.
    unknown_dialog,
    /// Requests that came twice over different ways: 482.
    merged,
    /// Requests out of order in their dialog: 500.
    out_of_order,
    /// Further refusals by the agent: 416, 420, 483, 491.
    refused,
    /// Replies to unverified UDP sources that were not sent: a second one, or longer than 1.5 times the request.
    unverified_silenced,
    /// Challenges that were not answered: foreign peer, changed realm, refused credentials.
    challenges_refused,
    /// Dialogs beyond the limit of forks of one INVITE: not made, or early ones that a 2xx took the place of.
    forks_ignored,
    /// Messages that could not be sent because we have no address for the peer's transport and family.
    unsendable,
}
