//! A session's SIP account: the check of the fields of `connection`, and the addresses made of them.

use gangway_shared::secret::Secret;
use serde::{Deserialize, Serialize};

use super::{messages::Connection, outcome::SessionFailure};
use crate::sip::{
    Transport,
    uri::{Host, NameAddr, SipUri, Uri, is_valid_login},
};

/// Longest login, name or host taken, in bytes: far above any real one, far below what would hurt a datagram.
const FIELD_MAX_BYTES: usize = 255;
/// Longest password taken, in bytes: some services take a signed token for one.
const PASSWORD_MAX_BYTES: usize = 4096;

/// Who a session is towards SIP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct SipAccount {
    /// User part of the address of record.
    pub(super) login: String,
    /// Digest user.
    pub(super) authentication_name: String,
    /// Digest password; no line of the journal holds it in clear.
    #[serde(skip)]
    pub(super) password: Secret<String>,
    /// `sip:domain`, with a port if one was named.
    pub(super) domain: SipUri,
    /// Where requests go: host as the resolver takes it.
    pub(super) proxy_host: String,
    /// Port of it, when named.
    pub(super) proxy_port: Option<u16>,
    /// Transport, when named.
    pub(super) transport: Option<Transport>,
    /// Whether to register.
    pub(super) register: bool,
}

impl SipAccount {
    /// Checks the fields; `None` when there is no login, hence no account.
    ///
    /// # Errors
    /// The first field that cannot be used.
    pub(super) fn of(connection: &Connection) -> Result<Option<Self>, SessionFailure> {
        if connection.app_key.as_ref().is_some_and(|key| key.len() > FIELD_MAX_BYTES) {
            return Err(invalid("appKey", "it is longer than 255 bytes"));
        }
        let text =
            |field: &Option<String>| field.as_deref().map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned);
        let proxy_text = text(&connection.sip_outbound_proxy).or_else(|| text(&connection.sip_proxy));
        // Not trimmed: a space in a login is the mistake that must be named.
        let Some(login) = connection.sip_login.clone().filter(|login| !login.is_empty()) else {
            if text(&connection.sip_domain).is_some() || proxy_text.is_some() {
                return Err(invalid("sipLogin", "it is missing"));
            }
            return Ok(None);
        };
        check_login("sipLogin", &login)?;
        let authentication_name =
            connection.sip_authentication_name.clone().filter(|name| !name.is_empty()).unwrap_or_else(|| login.clone());
        check_login("sipAuthenticationName", &authentication_name)?;
        if connection.sip_password.as_ref().is_some_and(|password| password.expose().len() > PASSWORD_MAX_BYTES) {
            return Err(invalid("sipPassword", "it is longer than 4096 bytes"));
        }
        let domain_text = text(&connection.sip_domain).or_else(|| proxy_text.clone());
        let Some(domain_text) = domain_text else {
            return Err(invalid("sipDomain", "it is missing, and so is sipOutboundProxy"));
        };
        let domain_field = if connection.sip_domain.is_some() { "sipDomain" } else { "sipOutboundProxy" };
        let mut domain = parse_host(domain_field, &domain_text)?;
        let proxy = match &proxy_text {
            Some(text) => parse_host("sipOutboundProxy", text)?,
            None => domain.clone(),
        };
        let transport = proxy.transport();
        if matches!(transport, Some(Transport::Tls | Transport::Ws | Transport::Wss)) || proxy.secure {
            return Err(invalid("sipOutboundProxy", "transport must be udp or tcp"));
        }
        domain.params = crate::sip::uri::Params::new();
        Ok(Some(SipAccount {
            login,
            authentication_name,
            password: connection.sip_password.clone().unwrap_or_default(),
            proxy_host: match &proxy.host {
                Host::V6(ip) => ip.to_string(),
                host => host.to_string(),
            },
            proxy_port: proxy.port.or(connection.sip_port),
            transport,
            domain,
            register: connection.sip_register_required.unwrap_or(true),
        }))
    }

    /// The address of record.
    pub(super) fn address_of_record(&self) -> SipUri {
        SipUri { user: Some(self.login.clone()), ..self.domain.clone() }
    }

    /// From of what the account sends.
    pub(super) fn from(&self, display_name: &str) -> NameAddr {
        NameAddr::new(self.address_of_record()).with_display_name(display_name)
    }

    /// The Request-URI for what a user typed: a number or name at the account's domain, `user@host`, or a `sip:` URI. `None` when
    /// it is none of these.
    pub(super) fn callee_uri(&self, callee: &str) -> Option<SipUri> {
        let callee = callee.trim();
        if callee.is_empty() || callee.len() > FIELD_MAX_BYTES || callee.chars().any(char::is_control) {
            return None;
        }
        let scheme = callee.split_once(':').map(|(scheme, _)| scheme.to_ascii_lowercase());
        if matches!(scheme.as_deref(), Some("sip" | "sips" | "tel")) {
            return match callee.parse::<Uri>().ok()? {
                Uri::Sip(uri) if !uri.secure && uri.user.is_some() => {
                    Some(SipUri { headers: crate::sip::uri::Params::new(), ..uri })
                }
                _ => None,
            };
        }
        if callee.contains('@') {
            return format!("sip:{callee}").parse::<SipUri>().ok().filter(|uri| uri.user.is_some());
        }
        Some(SipUri { user: Some(callee.to_owned()), ..self.domain.clone() })
    }
}

fn check_login(field: &'static str, login: &str) -> Result<(), SessionFailure> {
    if login.len() > FIELD_MAX_BYTES {
        return Err(invalid(field, "it is longer than 255 bytes"));
    }
    is_valid_login(login)
        .map_err(|_| invalid(field, "it holds a character that RFC 3261 does not allow in a user name"))
}

/// `host`, `host:port` or `sip:host:port;transport=tcp`.
fn parse_host(field: &'static str, text: &str) -> Result<SipUri, SessionFailure> {
    let bare = text.strip_prefix("sip:").unwrap_or(text);
    let literal = bare.parse::<std::net::Ipv6Addr>().is_ok();
    let uri = if literal { format!("sip:[{bare}]") } else { format!("sip:{bare}") };
    let parsed = (text.len() <= FIELD_MAX_BYTES).then(|| uri.parse::<SipUri>().ok()).flatten();
    parsed
        .filter(|uri| uri.user.is_none())
        .ok_or_else(|| invalid(field, "it must be a host name or an IP address, with a port if needed"))
}

fn invalid(field: &'static str, reason: &'static str) -> SessionFailure {
    SessionFailure::InvalidField { field, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(login: &str) -> Connection {
        Connection {
            sip_login: Some(login.to_owned()),
            sip_domain: Some("example.com".to_owned()),
            ..Connection::default()
        }
    }

    #[test]
    fn spaces_and_brackets_in_names_are_refused_by_field() {
        for bad in ["a b", "<a>", "a\"b", "\u{e4}"] {
            let refused = SipAccount::of(&connection(bad)).unwrap_err();
            assert!(matches!(refused, SessionFailure::InvalidField { field: "sipLogin", .. }), "{bad}: {refused:?}");
            let named = Connection { sip_authentication_name: Some(bad.to_owned()), ..connection("ok") };
            let refused = SipAccount::of(&named).unwrap_err();
            assert!(matches!(refused, SessionFailure::InvalidField { field: "sipAuthenticationName", .. }));
        }
    }

    #[test]
    fn the_proxy_defaults_to_the_domain_and_may_name_port_and_transport() {
        let plain = SipAccount::of(&connection("1001")).unwrap().unwrap();
        assert_eq!((plain.proxy_host.as_str(), plain.proxy_port), ("example.com", None));
        let proxy = |text: &str| Connection {
            sip_outbound_proxy: Some(text.to_owned()),
            sip_port: Some(5070),
            ..connection("1001")
        };
        let named = SipAccount::of(&proxy("10.0.0.1:5080;transport=tcp")).unwrap().unwrap();
        assert_eq!(
            (named.proxy_host.as_str(), named.proxy_port, named.transport),
            ("10.0.0.1", Some(5080), Some(Transport::Tcp))
        );
        let v6 = SipAccount::of(&proxy("::1")).unwrap().unwrap();
        assert_eq!((v6.proxy_host.as_str(), v6.proxy_port), ("::1", Some(5070)));
        assert_eq!(named.address_of_record().to_string(), "sip:1001@example.com");
    }

    #[test]
    fn a_callee_is_a_number_an_address_or_a_uri() {
        let account = SipAccount::of(&connection("1001")).unwrap().unwrap();
        let uri = |callee: &str| account.callee_uri(callee).map(|uri| uri.to_string());
        assert_eq!(uri("600").as_deref(), Some("sip:600@example.com"));
        assert_eq!(uri("bob@other.org").as_deref(), Some("sip:bob@other.org"));
        assert_eq!(uri("sip:bob@other.org:5070").as_deref(), Some("sip:bob@other.org:5070"));
        for bad in ["", "  ", "sips:a@b", "tel:+1", "a\r\nb"] {
            assert_eq!(uri(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_connection_without_sip_has_no_account_and_half_an_account_is_an_error() {
        assert!(SipAccount::of(&Connection::default()).unwrap().is_none());
        let half = Connection { sip_domain: Some("x".to_owned()), ..Connection::default() };
        assert!(SipAccount::of(&half).is_err());
    }
}
