//! `--check`: every key with its value, origin and state; ports that cannot be bound.

use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
};

use gangway_shared::settings::{Origin, Port};

use super::{
    Config,
    table::{KEYS, Kind, State},
};

/// One line a key: `key = value  (origin; state)`.
#[must_use]
pub fn report(config: &Config) -> String {
    let mut out = String::new();
    for key in KEYS {
        let origin = match config.settings.get(key.name) {
            Some(setting) if !setting.value.is_empty() => setting.origin.clone(),
            _ => Origin::Default,
        };
        let value = match config.settings.get(key.name).filter(|setting| !setting.value.is_empty()) {
            Some(_) if matches!(key.kind, Kind::Secret(_)) => "[redacted]",
            Some(setting) => &setting.value,
            None => key.computed.unwrap_or(key.default),
        };
        line(&mut out, key.name, value, &origin, &shown(key.state));
    }
    for (name, setting) in config.settings.iter().filter(|(name, _)| name.starts_with("trunk.")) {
        let key = super::trunk_key(name).map(|(_, key)| shown(key.state)).unwrap_or_default();
        line(&mut out, name, &setting.value, &setting.origin, &key);
    }
    for (name, origin) in config.unknown_keys() {
        let value = config.settings.get(name).map_or("", |setting| &setting.value);
        line(&mut out, name, value, &origin, "unknown");
    }
    out
}

fn shown(state: State) -> String {
    match state {
        State::Used => "used".to_owned(),
        State::WithoutEffect(why) => format!("accepted without effect: {why}"),
    }
}

fn line(out: &mut String, name: &str, value: &str, origin: &Origin, state: &str) {
    writeln!(out, "{name} = {value}  ({origin}; {state})").expect("writing to a string cannot fail");
}

/// Most sentences about ports that cannot be bound: a busy media range would else fill the screen.
const PORT_PROBLEMS_MAX: usize = 20;

/// A sentence for each port that cannot be bound now.
#[must_use]
pub fn unbindable_ports(config: &Config) -> Vec<String> {
    let mut problems = Vec::new();
    let locals = config.ip_local();
    let rest = [config.rest_bind()];
    for (key, addresses) in
        [("ws.port", &locals[..]), ("wss.port", &locals[..]), ("http.port", &rest[..]), ("https.port", &rest[..])]
    {
        if let Some(port) = config.port_unless_off(key) {
            try_all(&mut problems, key, addresses, port, "tcp", bind_tcp);
        }
    }
    try_all(&mut problems, "sip_port", &locals, config.port("sip_port"), "udp", bind_udp);
    try_all(&mut problems, "sip_port", &locals, config.port("sip_port"), "tcp", bind_tcp);
    try_all(&mut problems, "webrtc_port", &locals, config.port("webrtc_port"), "udp", bind_udp);
    if let (Port::Fixed(from), Port::Fixed(to)) = (config.port("media_port_from"), config.port("media_port_to")) {
        for port in from..=to {
            try_all(&mut problems, "media_port_from", &locals, Port::Fixed(port), "udp", bind_udp);
        }
    }
    problems
}

fn bind_tcp(address: SocketAddr) -> std::io::Result<()> {
    // The standard listener sets SO_REUSEADDR, so connections of the last run in TIME_WAIT are no problem here either.
    TcpListener::bind(address).map(drop)
}

fn bind_udp(address: SocketAddr) -> std::io::Result<()> {
    UdpSocket::bind(address).map(drop)
}

fn try_all(
    problems: &mut Vec<String>,
    key: &str,
    addresses: &[IpAddr],
    port: Port,
    transport: &str,
    bind: fn(SocketAddr) -> std::io::Result<()>,
) {
    let mut seen_v4_any = false;
    for &ip in addresses {
        if problems.len() >= PORT_PROBLEMS_MAX {
            return;
        }
        // `::` also takes IPv4 here, which `0.0.0.0` already has; the listeners set IPV6_V6ONLY.
        if seen_v4_any && ip.is_ipv6() && ip.is_unspecified() {
            continue;
        }
        seen_v4_any |= ip.is_ipv4() && ip.is_unspecified();
        let address = SocketAddr::new(ip, port.to_bind());
        if let Err(error) = bind(address) {
            problems.push(format!("{key}: {transport} {address} cannot be bound: {error}"));
        }
    }
}
