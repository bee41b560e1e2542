//! Dialogs, RFC 3261 section 12: plain data that the journal can write and read.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::{
    Transport,
    headers::HeaderError,
    message::{HeaderName, Headers, Method, Request, Response},
    uri::{Host, NameAddr, SipUri, Uri},
};

/// What names a dialog, RFC 3261 section 12: seen from our side.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DialogId {
    /// Call-ID.
    pub call_id: String,
    /// Our tag.
    pub local_tag: String,
    /// The peer's tag; empty for peers of RFC 2543 that send none.
    pub remote_tag: String,
}

/// Where a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// By which transport.
    pub transport: Transport,
    /// To which address.
    pub remote: SocketAddr,
    /// Over which connection, when one is to be reused. Never journaled: connections do not survive a restart.
    #[serde(skip)]
    pub flow: Option<u64>,
}

/// The address of the next hop as the dialog knows it: a name may need to be resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// Host of the first route, else of the remote target.
    pub host: Host,
    /// Its port, when named.
    pub port: Option<u16>,
    /// Its transport, as [`Dialog::next_hop`] tells it.
    pub transport: Transport,
}

/// Which side of the INVITE we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// We sent the INVITE.
    Caller,
    /// We received it.
    Callee,
}

/// How far a dialog has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DialogState {
    /// A provisional answer made it.
    Early,
    /// A 2xx made or confirmed it.
    Confirmed,
    /// BYE was sent and waits for its answer: no further request goes out.
    Ending,
}

/// One dialog.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dialog {
    /// Call-ID and tags.
    pub id: DialogId,
    /// Which side we are.
    pub role: Role,
    /// How far it has come.
    pub state: DialogState,
    /// Our address with our tag.
    pub local: NameAddr,
    /// The peer's address with its tag.
    pub remote: NameAddr,
    /// Where the peer wants requests: its Contact.
    pub remote_target: Uri,
    /// Our Contact.
    pub local_contact: NameAddr,
    /// Routes in the order requests take them.
    pub route_set: Vec<NameAddr>,
    /// CSeq of the last request that we sent in it.
    pub local_cseq: u32,
    /// CSeq of the last request that the peer sent in it; `None` before the first.
    pub remote_cseq: Option<u32>,
    /// Where in-dialog requests are sent. Follows the next hop while that is an IP address that we can reach by its transport.
    pub destination: Target,
    /// The account whose credentials answer challenges: a number that its owner keeps over restarts.
    pub account: Option<u64>,
}

impl Dialog {
    /// The next hop of in-dialog requests. When it is a name, the caller may resolve it and set [`Dialog::destination`].
    ///
    /// Its transport is that of the `transport` parameter. Without one it is TLS for `sips`, and UDP for an address (RFC 3263 section
    /// 4.1), unless the dialog already talks to that very address over a stream: many PBXs leave the parameter out of the Contact they
    /// send over TCP, speak nothing else there, and the connection may be the only way through a NAT. A stream that a request of ours
    /// took for its length alone (RFC 3261 section 18.1.1) is no such sign; whoever makes the dialog gives the target before that. A
    /// name keeps the dialog's own transport.
    #[must_use]
    pub fn next_hop(&self) -> Option<NextHop> {
        let hop = self.route_set.first().map_or(&self.remote_target, |route| &route.uri);
        let uri = hop.as_sip()?;
        let elsewhere = uri.host.ip().is_some_and(|ip| ip != self.destination.remote.ip());
        let implied = if uri.secure {
            Transport::Tls
        } else if elsewhere {
            Transport::Udp
        } else {
            self.destination.transport
        };
        Some(NextHop { host: uri.host.clone(), port: uri.port, transport: uri.transport().unwrap_or(implied) })
    }

    /// A new in-dialog request with the next CSeq (RFC 3261 section 12.2.1.1): no Via, no body yet.
    pub fn request(&mut self, method: Method) -> Request {
        self.local_cseq = self.local_cseq.saturating_add(1);
        let refreshes_target = !matches!(method, Method::Bye | Method::Info | Method::Message | Method::Options);
        let mut request = self.base_request(method, self.local_cseq);
        if refreshes_target {
            request.headers.push(HeaderName::Contact, self.local_contact.to_string());
        }
        request
    }

    /// The ACK for a 2xx to our INVITE with CSeq `invite_cseq` (RFC 3261 section 13.2.2.4): no Via.
    #[must_use]
    pub fn ack(&self, invite_cseq: u32) -> Request {
        self.base_request(Method::Ack, invite_cseq)
    }

    fn base_request(&self, method: Method, cseq: u32) -> Request {
        let loose = self.route_set.first().and_then(|route| route.uri.as_sip()).is_none_or(SipUri::is_loose_router);
        let mut routes: Vec<String> = self.route_set.iter().map(NameAddr::to_string).collect();
        let uri = if loose {
            self.remote_target.clone()
        } else {
            // A strict router of RFC 2543 wants itself as Request-URI and the target as the last route.
            routes.remove(0);
            routes.push(NameAddr::new(self.remote_target.clone()).to_string());
            self.route_set[0].uri.clone()
        };
        let mut request = Request::new(method, uri);
        let headers = &mut request.headers;
        for route in routes {
            headers.push(HeaderName::Route, route);
        }
        headers.push(HeaderName::MaxForwards, MAX_FORWARDS.to_string());
        headers.push(HeaderName::From, self.local.to_string());
        headers.push(HeaderName::To, self.remote.to_string());
        headers.push(HeaderName::CallId, self.id.call_id.as_str());
        headers.push(HeaderName::CSeq, format!("{cseq} {}", request.method));
        request
    }

    /// A dialog that `response` to our `request`, which was sent to `target`, makes (RFC 3261 section 12.1.2). `serves` tells by which
    /// transport we can send to an address.
    ///
    /// A response without Contact, which no peer should send, leaves the Request-URI as the remote target: so it can still be
    /// acknowledged and ended.
    ///
    /// # Errors
    /// The header without which there is no dialog.
    pub fn from_response(
        request: &Request,
        response: &Response,
        target: Target,
        serves: impl Fn(Transport, IpAddr) -> bool,
    ) -> Result<Self, HeaderError> {
        let (local, remote) = (response.headers.from()?, response.headers.to()?);
        let mut route_set = response.headers.record_routes()?;
        route_set.reverse();
        let mut dialog = Dialog {
            id: DialogId {
                call_id: response.headers.call_id()?.to_owned(),
                local_tag: local.tag().unwrap_or_default().to_owned(),
                remote_tag: remote.tag().unwrap_or_default().to_owned(),
            },
            role: Role::Caller,
            state: if response.status.is_success() { DialogState::Confirmed } else { DialogState::Early },
            local,
            remote,
            remote_target: response.headers.contact().map_or_else(|_| request.uri.clone(), |contact| contact.uri),
            local_contact: request.headers.contact()?,
            route_set,
            local_cseq: request.headers.cseq()?.number,
            remote_cseq: None,
            destination: target,
            account: None,
        };
        dialog.follow_next_hop(serves);
        Ok(dialog)
    }

    /// A dialog that our answer to `request`, which came from `source`, makes (RFC 3261 section 12.1.1). `serves` tells by which
    /// transport we can send to an address.
    ///
    /// # Errors
    /// The header without which there is no dialog.
    pub fn from_request(
        request: &Request,
        local_tag: &str,
        local_contact: NameAddr,
        source: Target,
        serves: impl Fn(Transport, IpAddr) -> bool,
    ) -> Result<Self, HeaderError> {
        let (local, remote) = (request.headers.to()?.with_tag(local_tag), request.headers.from()?);
        let mut dialog = Dialog {
            id: DialogId {
                call_id: request.headers.call_id()?.to_owned(),
                local_tag: local_tag.to_owned(),
                remote_tag: remote.tag().unwrap_or_default().to_owned(),
            },
            role: Role::Callee,
            state: DialogState::Early,
            local,
            remote,
            remote_target: request.headers.contact()?.uri,
            local_contact,
            route_set: request.headers.record_routes()?,
            local_cseq: 0,
            remote_cseq: Some(request.headers.cseq()?.number),
            destination: source,
            account: None,
        };
        dialog.follow_next_hop(serves);
        Ok(dialog)
    }

    /// A 2xx to our INVITE confirms the dialog: its route set is taken anew (RFC 3261 section 13.2.2.4), its Contact too.
    pub(super) fn confirm(&mut self, response: &Response, serves: impl Fn(Transport, IpAddr) -> bool) {
        if self.state == DialogState::Early {
            if let Ok(mut route_set) = response.headers.record_routes() {
                route_set.reverse();
                self.route_set = route_set;
            }
            self.state = DialogState::Confirmed;
        }
        self.refresh_target(&response.headers, serves);
    }

    /// Takes the Contact of a target refresh (RFC 3261 sections 12.2.1.2 and 12.2.2).
    pub(super) fn refresh_target(&mut self, headers: &Headers, serves: impl Fn(Transport, IpAddr) -> bool) {
        if let Ok(contact) = headers.contact() {
            self.remote_target = contact.uri;
            self.follow_next_hop(serves);
        }
    }

    /// Takes the CSeq of a request from the peer; false when it is lower than one seen before (RFC 3261 section 12.2.2).
    pub(super) fn accept_cseq(&mut self, number: u32) -> bool {
        let in_order = self.remote_cseq.is_none_or(|last| number > last);
        if in_order {
            self.remote_cseq = Some(number);
        }
        in_order
    }

    /// A connection is kept while the next hop stays at the peer's address: behind it may be a NAT that nothing else passes. A next
    /// hop that we cannot reach leaves the destination: whoever passed the INVITE on passes ACK and BYE on too.
    fn follow_next_hop(&mut self, serves: impl Fn(Transport, IpAddr) -> bool) {
        let Some(hop) = self.next_hop() else { return };
        let Some(ip) = hop.host.ip().filter(|ip| serves(hop.transport, *ip)) else { return };
        let remote = SocketAddr::new(ip, hop.port.unwrap_or(hop.transport.default_port()));
        let same_peer = hop.transport == self.destination.transport && ip == self.destination.remote.ip();
        let flow = self.destination.flow.filter(|_| same_peer);
        self.destination = Target { transport: hop.transport, remote, flow };
    }
}

/// Max-Forwards of every request that starts here, RFC 3261 section 8.1.1.6.
pub(super) const MAX_FORWARDS: u8 = 70;

#[cfg(test)]
mod tests;
