//! Settings for some peers only: `trunk.<name>.*`.
//!
//! An account's target takes the trunk with the longest `match` that fits its domain, its outbound proxy or its address; an incoming
//! call that of its source alone. `trunk.default` serves whom no other fits. Nothing here is remembered of a peer: each request asks.

use std::{net::IpAddr, sync::Arc};

use super::{Gateway, GatewayConfig, account::SipAccount, session::SessionKey};
use crate::{
    sdp::CodecPolicy,
    sip::{Transport, dialog::Target, ua::Subnet},
};

/// Whom a trunk is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrunkMatch {
    /// This host, in small letters; an address literal without brackets.
    Host(String),
    /// Every host under this domain, in small letters, with its leading dot.
    Suffix(String),
    /// Every address of this range.
    Range(Subnet),
}

impl TrunkMatch {
    /// Reads `pbx.example.com`, `.example.com`, `10.0.0.0/8` or `2001:db8::1`. `None` when it is none of these.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (address, len) = text.split_once('/').map_or((text, None), |(address, len)| (address, Some(len)));
        if let Ok(address) = address.trim_matches(['[', ']']).parse::<IpAddr>() {
            let whole = if address.is_ipv4() { 32 } else { 128 };
            let prefix_len = len.map_or(Some(whole), |len| len.parse().ok()).filter(|len| *len <= whole)?;
            return Some(TrunkMatch::Range(Subnet { address, prefix_len }));
        }
        let is_name = |name: &str| {
            let allowed = |at: char| at.is_ascii_alphanumeric() || matches!(at, '-' | '.' | '_');
            !name.is_empty() && !name.starts_with('.') && name.chars().all(allowed)
        };
        let name = text.to_ascii_lowercase();
        match name.strip_prefix('.') {
            Some(domain) if is_name(domain) => Some(TrunkMatch::Suffix(name)),
            None if is_name(&name) => Some(TrunkMatch::Host(name)),
            _ => None,
        }
    }

    /// How well it fits, the more the longer; `None` when it does not. A whole host or address fits better than any part.
    fn fits(&self, hosts: &[&str], ip: Option<IpAddr>) -> Option<(bool, usize)> {
        match self {
            TrunkMatch::Host(name) => {
                hosts.iter().any(|host| host.eq_ignore_ascii_case(name)).then_some((true, name.len()))
            }
            TrunkMatch::Suffix(domain) => {
                hosts.iter().any(|host| host.to_ascii_lowercase().ends_with(domain)).then_some((false, domain.len()))
            }
            TrunkMatch::Range(range) => {
                let literals = hosts.iter().filter_map(|host| host.trim_matches(['[', ']']).parse().ok());
                let fits = literals.chain(ip).any(|ip| range.contains(ip));
                let is_whole = usize::from(range.prefix_len) == if range.address.is_ipv4() { 32 } else { 128 };
                fits.then_some((is_whole, range.prefix_len.into()))
            }
        }
    }
}

/// Settings of one trunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trunk {
    /// `<name>` of its keys.
    pub name: String,
    /// Whom it is for; of `trunk.default` it may be empty.
    pub matches: Vec<TrunkMatch>,
    /// Long requests never go by TCP, they are shortened.
    pub udp_only: bool,
    /// The transport for accounts that name none.
    pub transport: Option<Transport>,
    /// Its own `codecs`, in the operator's policy otherwise.
    pub codecs: Option<Arc<CodecPolicy>>,
}

/// All trunks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trunks(Vec<Trunk>);

/// The trunk of those whom no other fits.
pub const DEFAULT_TRUNK: &str = "default";

impl Trunks {
    /// These trunks; of equally long matches the first counts.
    #[must_use]
    pub const fn new(trunks: Vec<Trunk>) -> Self {
        Trunks(trunks)
    }

    /// The trunk of a peer: `hosts` are names that it goes by, `ip` its address when that is known.
    #[must_use]
    pub fn of(&self, hosts: &[&str], ip: Option<IpAddr>) -> Option<&Trunk> {
        self.named(hosts, ip).or_else(|| self.default_trunk())
    }

    /// The trunk of an account's target: its domain and its outbound proxy are its names.
    pub(super) fn of_account(&self, account: Option<&SipAccount>, ip: Option<IpAddr>) -> Option<&Trunk> {
        let Some(account) = account else { return self.of(&[], ip) };
        self.of(&[&account.domain.host.to_string(), &account.proxy_host], ip)
    }

    /// The transport for which the records of a name are asked: that of the trunk that its names fit. `trunk.default` waits for the
    /// addresses where they could still make a difference.
    #[must_use]
    pub fn transport_of_name(&self, hosts: &[&str]) -> Option<Transport> {
        let knows_ranges =
            || self.0.iter().any(|trunk| trunk.matches.iter().any(|one| matches!(one, TrunkMatch::Range(_))));
        let default = || self.default_trunk().filter(|_| !knows_ranges());
        self.named(hosts, None).or_else(default).and_then(|trunk| trunk.transport)
    }

    fn default_trunk(&self) -> Option<&Trunk> {
        self.0.iter().find(|trunk| trunk.name == DEFAULT_TRUNK)
    }

    fn named(&self, hosts: &[&str], ip: Option<IpAddr>) -> Option<&Trunk> {
        let mut best: Option<((bool, usize), &Trunk)> = None;
        for trunk in &self.0 {
            let fit = trunk.matches.iter().filter_map(|one| one.fits(hosts, ip)).max();
            if let Some(fit) = fit
                && best.is_none_or(|(other, _)| fit > other)
            {
                best = Some((fit, trunk));
            }
        }
        best.map(|(_, trunk)| trunk)
    }
}

impl GatewayConfig {
    /// What the operator should know of the codec lists, those of trunks too: one sentence each.
    #[must_use]
    pub fn codec_warnings(&self) -> Vec<String> {
        let of_trunks = self.trunks.0.iter().flat_map(|trunk| {
            let warnings = trunk.codecs.iter().flat_map(|codecs| codecs.warnings());
            warnings.map(|warning| format!("trunk.{}: {warning}", trunk.name))
        });
        self.codecs.warnings().iter().cloned().chain(of_trunks).collect()
    }
}

impl Gateway {
    /// The trunk of a session's target at this address.
    pub(super) fn trunk_of(&self, session: SessionKey, ip: IpAddr) -> Option<&Trunk> {
        self.config.trunks.of_account(self.account_of(session), Some(ip))
    }

    /// The trunk of whoever sends from this address.
    pub(super) fn trunk_from(&self, ip: IpAddr) -> Option<&Trunk> {
        self.config.trunks.of(&[], Some(ip))
    }

    /// The codec lists of a trunk, if it is one and has its own; else the operator's.
    pub(super) fn codecs_of(&self, trunk: Option<&Trunk>) -> Arc<CodecPolicy> {
        Arc::clone(trunk.and_then(|trunk| trunk.codecs.as_ref()).unwrap_or(&self.codecs))
    }

    /// The transport to look an account's proxy up for: the one that it names, else that of the trunk of its names.
    pub(super) fn transport_of(&self, session: SessionKey) -> Option<Transport> {
        let account = self.account_of(session)?;
        let names = [&account.domain.host.to_string(), account.proxy_host.as_str()];
        account.transport.or_else(|| self.config.trunks.transport_of_name(&names))
    }

    /// What the look-up found, each address by the transport of its own trunk, where that and not the account names one.
    pub(super) fn by_trunk(&self, session: SessionKey, found: Vec<Target>) -> Vec<Target> {
        let free = self.account_of(session).is_some_and(|account| account.transport.is_none());
        let mut targets: Vec<Target> = Vec::with_capacity(found.len());
        for mut target in found {
            let trunk = self.trunk_of(session, target.remote.ip()).filter(|_| free);
            if let Some(transport) = trunk.and_then(|trunk| trunk.transport)
                && matches!(target.transport, Transport::Udp | Transport::Tcp)
            {
                target.transport = transport;
            }
            if !targets.contains(&target) {
                targets.push(target);
            }
        }
        targets
    }

    fn account_of(&self, session: SessionKey) -> Option<&SipAccount> {
        self.sessions.get(&session)?.account.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trunk(name: &str, matches: &[&str]) -> Trunk {
        let matches = matches.iter().map(|text| TrunkMatch::parse(text).unwrap()).collect();
        Trunk { name: name.to_owned(), matches, udp_only: false, transport: None, codecs: None }
    }

    #[test]
    fn the_longest_match_counts_and_default_takes_the_rest() {
        let all = vec![
            trunk("office", &["pbx.example.com", "192.0.2.0/24"]),
            trunk("example", &[".example.com"]),
            trunk("lab", &["192.0.2.128/25", "2001:db8::/32"]),
            trunk("one", &["192.0.2.200"]),
        ];
        let trunks = Trunks::new(all.clone());
        let name = |hosts: &[&str], ip: Option<&str>| {
            trunks.of(hosts, ip.map(|ip| ip.parse().unwrap())).map(|trunk| trunk.name.clone()).unwrap_or_default()
        };
        assert_eq!(name(&["PBX.example.com"], None), "office");
        assert_eq!(name(&["sip.example.com"], None), "example");
        assert_eq!(name(&["example.com"], None), "", "a suffix is for what stands under it");
        assert_eq!(name(&["badexample.com"], None), "");
        assert_eq!(name(&["x.test"], Some("192.0.2.7")), "office");
        assert_eq!(name(&["x.test"], Some("192.0.2.130")), "lab");
        assert_eq!(name(&["x.test"], Some("192.0.2.200")), "one");
        assert_eq!(name(&["192.0.2.9"], None), "office", "a literal is an address");
        assert_eq!(name(&["2001:db8::7"], None), "lab");
        assert_eq!(name(&["sip.example.com", "pbx.example.com"], Some("192.0.2.130")), "office");
        let trunks = Trunks::new(all.into_iter().chain([trunk("default", &[])]).collect());
        assert_eq!(trunks.of(&["x.test"], None).unwrap().name, "default");
        assert!(Trunks::default().of(&["x.test"], None).is_none());
    }

    #[test]
    fn records_are_asked_for_the_transport_of_a_name_and_for_that_of_all_where_no_range_could_say_otherwise() {
        let with = |name, matches: &[&str], transport| Trunk { transport: Some(transport), ..trunk(name, matches) };
        let default = with("default", &[], Transport::Tcp);
        let office = with("office", &["pbx.example.com"], Transport::Udp);
        let asked = |all: Vec<Trunk>, host: &str| Trunks::new(all).transport_of_name(&[host]);
        assert_eq!(asked(vec![office.clone(), default.clone()], "pbx.example.com"), Some(Transport::Udp));
        assert_eq!(asked(vec![office.clone(), default.clone()], "x.test"), Some(Transport::Tcp));
        let lab = with("lab", &["10.0.0.0/8"], Transport::Udp);
        assert_eq!(
            asked(vec![lab.clone(), office.clone(), default.clone()], "x.test"),
            None,
            "its address may be the lab's"
        );
        assert_eq!(asked(vec![lab.clone(), office, default.clone()], "pbx.example.com"), Some(Transport::Udp));
        assert_eq!(asked(vec![lab, default], "10.0.0.7"), Some(Transport::Udp), "a literal is an address");
    }

    #[test]
    fn what_is_no_host_suffix_or_range_is_refused() {
        for text in ["", ".", "..a", "a b", "10.0.0.0/33", "10.0.0.0/x", "2001:db8::/129", "sip:a", "a/8", "*"] {
            assert_eq!(TrunkMatch::parse(text), None, "{text}");
        }
        for text in ["a", ".a", "10.0.0.1", "10.0.0.0/8", "[2001:db8::1]", "2001:db8::/0"] {
            assert!(TrunkMatch::parse(text).is_some(), "{text}");
        }
    }
}
