//! The demo service's registrar: who is reachable where, and who proved to be whom. Pure: time and entropy come in.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use gangway_shared::{entropy::Entropy, time::Time};
use md5::{Digest as _, Md5};
use subtle::ConstantTimeEq as _;

use crate::sip::{
    dialog::Target,
    headers::{AuthParams, Contacts},
    message::{HeaderName, Request, Status},
    ua::Reply,
    uri::{NameAddr, SipUri},
};

/// Realm of the challenges.
pub(super) const REALM: &str = "gangway-demo";

/// A nonce is good for so long.
const NONCE_LIFE: Duration = Duration::from_secs(300);

/// Nonces and bindings kept; the oldest goes first.
const NONCES_MAX: usize = 4096;
const BINDINGS_MAX: usize = 8;

/// Lifetimes of a binding that are granted, in seconds.
const EXPIRES_MIN_S: u32 = 10;
const EXPIRES_MAX_S: u32 = 3600;

/// Where a number can be called.
#[derive(Clone, Debug)]
pub(super) struct Binding {
    /// The contact, for the Request-URI.
    pub contact: SipUri,
    /// Where it registered from.
    pub target: Target,
    expires: Time,
}

#[derive(Clone, Copy, Debug)]
struct Nonce {
    made: Time,
    last_count: u32,
}

/// Bindings and nonces.
#[derive(Debug, Default)]
pub(super) struct Registrar {
    bindings: BTreeMap<String, Vec<Binding>>,
    nonces: BTreeMap<String, Nonce>,
}

/// The accounts: 1001 to 1009, each with its number as password.
pub(super) fn is_account(user: &str) -> bool {
    user.len() == 4 && user.starts_with("100") && matches!(user.as_bytes()[3], b'1'..=b'9')
}

enum Proof {
    Given,
    Missing,
    Stale,
    Wrong,
}

impl Registrar {
    /// The newest binding of a number that is in force.
    pub(super) fn binding(&self, user: &str, now: Time) -> Option<&Binding> {
        self.bindings.get(user)?.iter().rev().find(|binding| binding.expires > now)
    }

    /// Answers a REGISTER (RFC 3261 section 10.3).
    pub(super) fn register(
        &mut self,
        now: Time,
        request: &Request,
        target: Target,
        entropy: &mut dyn Entropy,
    ) -> Reply {
        let Some(user) = account_of(request) else { return Reply::new(Status::literal(404)) };
        match self.proof(now, request, &user) {
            Proof::Given => self.bind(now, request, target, &user),
            Proof::Missing => self.challenge(now, entropy, false),
            Proof::Stale => self.challenge(now, entropy, true),
            Proof::Wrong => Reply::new(Status::literal(403)),
        }
    }

    fn challenge(&mut self, now: Time, entropy: &mut dyn Entropy, stale: bool) -> Reply {
        self.nonces.retain(|_, nonce| now.since(nonce.made) < NONCE_LIFE);
        if self.nonces.len() >= NONCES_MAX {
            let oldest = self.nonces.iter().min_by_key(|(_, nonce)| nonce.made).map(|(name, _)| name.clone());
            oldest.and_then(|name| self.nonces.remove(&name));
        }
        let nonce = entropy.hex(16);
        let mut value = format!("Digest realm=\"{REALM}\", nonce=\"{nonce}\", algorithm=MD5, qop=\"auth\"");
        if stale {
            value.push_str(", stale=true");
        }
        self.nonces.insert(nonce, Nonce { made: now, last_count: 0 });
        let mut reply = Reply::new(Status::literal(401));
        reply.headers.push(HeaderName::WwwAuthenticate, value);
        reply
    }

    fn proof(&mut self, now: Time, request: &Request, user: &str) -> Proof {
        let given = request.headers.auth(&HeaderName::Authorization);
        let ours = |auth: &&AuthParams| {
            auth.scheme.eq_ignore_ascii_case("Digest") && auth.params.value("realm") == Some(REALM)
        };
        let Some(auth) = given.iter().find(ours) else { return Proof::Missing };
        let value = |name: &str| auth.params.value(name).unwrap_or_default();
        let Some(nonce) = self.nonces.get_mut(value("nonce")) else { return Proof::Stale };
        let count = u32::from_str_radix(value("nc"), 16).unwrap_or_default();
        if now.since(nonce.made) >= NONCE_LIFE || count <= nonce.last_count {
            return Proof::Stale;
        }
        let expected = response(user, user, request.method.as_str(), auth);
        let right = value("username") == user && bool::from(expected.as_bytes().ct_eq(value("response").as_bytes()));
        if !right {
            return Proof::Wrong;
        }
        nonce.last_count = count;
        Proof::Given
    }

    fn bind(&mut self, now: Time, request: &Request, target: Target, user: &str) -> Reply {
        let asked = request.headers.expires_s();
        let bindings = self.bindings.entry(user.to_owned()).or_default();
        bindings.retain(|binding| binding.expires > now);
        match request.headers.contacts() {
            Ok(Contacts::All) if asked == Some(0) => bindings.clear(),
            Ok(Contacts::All) | Err(_) => return Reply::new(Status::literal(400)),
            Ok(Contacts::List(contacts)) => {
                let lifetime = |contact: &NameAddr| contact.expires_s().or(asked).unwrap_or(EXPIRES_MAX_S);
                if contacts.iter().any(|contact| (1..EXPIRES_MIN_S).contains(&lifetime(contact))) {
                    let mut reply = Reply::new(Status::literal(423));
                    reply.headers.push(HeaderName::MinExpires, EXPIRES_MIN_S.to_string());
                    return reply;
                }
                for contact in &contacts {
                    let Some(uri) = contact.uri.as_sip() else { return Reply::new(Status::literal(400)) };
                    bindings.retain(|binding| !binding.contact.matches(uri));
                    let expires_s = lifetime(contact).min(EXPIRES_MAX_S);
                    if expires_s > 0 {
                        let expires = now + Duration::from_secs(u64::from(expires_s));
                        bindings.push(Binding { contact: uri.clone(), target, expires });
                    }
                }
                let surplus = bindings.len().saturating_sub(BINDINGS_MAX);
                bindings.drain(..surplus);
            }
        }
        let mut reply = Reply::new(Status::literal(200));
        for binding in bindings.iter() {
            let left = binding.expires.since(now).as_secs();
            reply.headers.push(HeaderName::Contact, format!("<{}>;expires={left}", binding.contact));
        }
        reply
    }
}

/// The account that a REGISTER is about: the user of To.
fn account_of(request: &Request) -> Option<String> {
    let to = request.headers.to().ok()?;
    to.uri.as_sip()?.user.clone().filter(|user| is_account(user))
}

/// The response that the account would give (RFC 2617 section 3.2.2), qop absent or `auth`.
fn response(user: &str, password: &str, method: &str, auth: &AuthParams) -> String {
    let value = |name: &str| auth.params.value(name).unwrap_or_default();
    let secret = md5_hex(&format!("{user}:{REALM}:{password}"));
    let what = md5_hex(&format!("{method}:{}", value("uri")));
    let nonce = value("nonce");
    match value("qop") {
        "" => md5_hex(&format!("{secret}:{nonce}:{what}")),
        qop => md5_hex(&format!("{secret}:{nonce}:{}:{}:{qop}:{what}", value("nc"), value("cnonce"))),
    }
}

fn md5_hex(text: &str) -> String {
    Md5::digest(text.as_bytes()).iter().fold(String::with_capacity(32), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("writing to a string cannot fail");
        hex
    })
}

#[cfg(test)]
mod tests {
    use gangway_shared::entropy::SeededEntropy;

    use super::*;
    use crate::sip::{Transport, message::Message, parser};

    fn register(contact: &str, expires: u32, authorization: &str) -> Request {
        let text = format!(
            "REGISTER sip:127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:5062;branch=z9hG4bKx;rport\r\n\
             From: <sip:1001@127.0.0.1>;tag=a\r\nTo: <sip:1001@127.0.0.1>\r\nCall-ID: c\r\nCSeq: 1 REGISTER\r\n\
             Max-Forwards: 70\r\nContact: {contact}\r\nExpires: {expires}\r\n{authorization}Content-Length: 0\r\n\r\n"
        );
        let Ok(Message::Request(request)) = parser::parse(text.as_bytes()) else { panic!("{text}") };
        request
    }

    fn target() -> Target {
        Target { transport: Transport::Udp, remote: "127.0.0.1:5062".parse().unwrap(), flow: None }
    }

    struct Fixture {
        registrar: Registrar,
        entropy: SeededEntropy,
        now: Time,
    }

    impl Fixture {
        fn new() -> Self {
            Fixture { registrar: Registrar::default(), entropy: SeededEntropy::new(1), now: Time::from_millis(1) }
        }

        fn send(&mut self, request: &Request) -> Reply {
            self.registrar.register(self.now, request, target(), &mut self.entropy)
        }

        fn nonce(&mut self) -> String {
            let reply = self.send(&register("<sip:x@127.0.0.1:5062>", 60, ""));
            assert_eq!(reply.status.code(), 401);
            let value = reply.headers.value(&HeaderName::WwwAuthenticate).unwrap();
            value.split("nonce=\"").nth(1).unwrap().split('"').next().unwrap().to_owned()
        }

        fn authorization(nonce: &str, count: u32, password: &str) -> String {
            let secret = md5_hex(&format!("1001:{REALM}:{password}"));
            let what = md5_hex("REGISTER:sip:127.0.0.1");
            let response = md5_hex(&format!("{secret}:{nonce}:{count:08x}:cn:auth:{what}"));
            format!(
                "Authorization: Digest username=\"1001\", realm=\"{REALM}\", nonce=\"{nonce}\", uri=\"sip:127.0.0.1\", \
                 response=\"{response}\", algorithm=MD5, cnonce=\"cn\", qop=auth, nc={count:08x}\r\n"
            )
        }
    }

    #[test]
    fn the_right_password_binds_and_the_wrong_one_does_not() {
        let mut fixture = Fixture::new();
        let nonce = fixture.nonce();
        let wrong = Fixture::authorization(&nonce, 1, "guess");
        assert_eq!(fixture.send(&register("<sip:x@127.0.0.1:5062>", 60, &wrong)).status.code(), 403);
        assert!(fixture.registrar.binding("1001", fixture.now).is_none());
        let right = Fixture::authorization(&nonce, 2, "1001");
        let reply = fixture.send(&register("<sip:x@127.0.0.1:5062>", 60, &right));
        assert_eq!(reply.status.code(), 200);
        assert_eq!(reply.headers.value(&HeaderName::Contact), Some("<sip:x@127.0.0.1:5062>;expires=60"));
        let binding = fixture.registrar.binding("1001", fixture.now).unwrap();
        assert_eq!(binding.target, target());
        let later = fixture.now + Duration::from_secs(61);
        assert!(fixture.registrar.binding("1001", later).is_none(), "it outlived its lifetime");
    }

    #[test]
    fn a_replayed_authorization_is_stale() {
        let mut fixture = Fixture::new();
        let nonce = fixture.nonce();
        let right = Fixture::authorization(&nonce, 1, "1001");
        assert_eq!(fixture.send(&register("<sip:x@127.0.0.1:5062>", 60, &right)).status.code(), 200);
        let replay = fixture.send(&register("<sip:evil@127.0.0.1:9>", 60, &right));
        assert_eq!(replay.status.code(), 401);
        assert!(replay.headers.value(&HeaderName::WwwAuthenticate).unwrap().contains("stale=true"));
        let unknown = Fixture::authorization("0123", 1, "1001");
        assert_eq!(fixture.send(&register("<sip:x@127.0.0.1:5062>", 60, &unknown)).status.code(), 401);
    }

    #[test]
    fn expires_zero_unbinds_and_a_short_one_is_refused() {
        let mut fixture = Fixture::new();
        let nonce = fixture.nonce();
        let mut count = 0;
        let mut send = |contact: &str, expires: u32| {
            count += 1;
            let authorization = Fixture::authorization(&nonce, count, "1001");
            let reply = fixture.send(&register(contact, expires, &authorization));
            (reply, fixture.registrar.binding("1001", fixture.now).is_some())
        };
        assert!(send("<sip:x@127.0.0.1:5062>", 60).1);
        let (short, _) = send("<sip:x@127.0.0.1:5062>", 5);
        assert_eq!(short.status.code(), 423);
        assert_eq!(short.headers.min_expires_s(), Some(EXPIRES_MIN_S));
        assert!(!send("<sip:x@127.0.0.1:5062>", 0).1);
        assert!(send("<sip:y@127.0.0.1:5062>;expires=30", 0).1);
        assert!(!send("*", 0).1);
        assert_eq!(send("*", 60).0.status.code(), 400);
    }

    #[test]
    fn accounts_are_1001_to_1009() {
        assert!(["1001", "1005", "1009"].iter().all(|user| is_account(user)));
        assert!(["1000", "1010", "100", "10011", "600", ""].iter().all(|user| !is_account(user)));
    }
}
