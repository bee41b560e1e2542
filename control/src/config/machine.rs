//! What the machine says of itself: its addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// The local address that packets to `remote` leave from. No packet is sent: connecting a datagram socket only asks the route.
#[must_use]
pub fn source_address_towards(remote: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = match remote {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(remote).ok()?;
    socket.local_addr().ok().map(|local| local.ip()).filter(|ip| !ip.is_unspecified())
}

/// The address of the default route, IPv4 first. The remotes are of the documentation ranges: only the route is asked.
#[must_use]
pub fn default_route_address() -> Option<IpAddr> {
    let v4 = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 9));
    let v6 = SocketAddr::from((Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 9));
    source_address_towards(v4).or_else(|| source_address_towards(v6))
}

/// Every address of every interface that a browser could reach: IPv4, then IPv6 without link-local ones (they need a zone, which
/// ICE candidates cannot name).
#[must_use]
pub fn interface_addresses() -> Vec<IpAddr> {
    let v4 = std::fs::read_to_string("/proc/net/fib_trie").unwrap_or_default();
    let v6 = std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    let mut addresses = parse_fib_trie(&v4);
    addresses.extend(parse_if_inet6(&v6));
    addresses
}

/// Local host routes of the kernel's table: an address line, then a line `/32 host LOCAL`.
fn parse_fib_trie(text: &str) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    let mut last = None;
    for line in text.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.parse::<Ipv4Addr>().ok();
        } else if line == "/32 host LOCAL"
            && let Some(address) = last.take().map(IpAddr::V4)
            && !addresses.contains(&address)
        {
            addresses.push(address);
        }
    }
    addresses
}

/// One address a line: 32 hexadecimal digits, then index, prefix, scope, flags, name.
fn parse_if_inet6(text: &str) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for line in text.lines() {
        let Some(bits) = line.split_whitespace().next().and_then(|hex| u128::from_str_radix(hex, 16).ok()) else {
            continue;
        };
        let address = Ipv6Addr::from_bits(bits);
        if !address.is_unicast_link_local() {
            addresses.push(IpAddr::V6(address));
        }
    }
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_routes_of_the_kernel_are_this_machines_addresses() {
        let text = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     |-- 10.1.2.3\n        \
                    /32 host LOCAL\n     |-- 10.1.2.255\n        /32 link BROADCAST\nLocal:\n     |-- 10.1.2.3\n        \
                    /32 host LOCAL\n     |-- 127.0.0.1\n        /32 host LOCAL\n";
        assert_eq!(parse_fib_trie(text), ["10.1.2.3", "127.0.0.1"].map(|ip| ip.parse::<IpAddr>().unwrap()));
    }

    #[test]
    fn link_local_ipv6_addresses_are_left_out() {
        let text = "00000000000000000000000000000001 01 80 10 80       lo\n\
                    fe800000000000000000000000000001 02 40 20 80     eth0\n\
                    20010db8000000000000000000000007 02 40 00 80     eth0\n";
        assert_eq!(parse_if_inet6(text), ["::1", "2001:db8::7"].map(|ip| ip.parse::<IpAddr>().unwrap()));
    }

    #[test]
    fn loopback_is_reached_from_loopback() {
        let remote = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
        assert_eq!(source_address_towards(remote), Some(Ipv4Addr::LOCALHOST.into()));
    }
}
