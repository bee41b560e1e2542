//! Binding: several addresses on one port number, IPv6 apart from IPv4.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, UdpSocket};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// A TCP listener. `::` takes IPv6 only, so that `0.0.0.0` can stand beside it.
///
/// # Errors
/// What the system says.
pub fn tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    // Connections of the last run in TIME_WAIT must not stop a restart.
    socket.set_reuse_address(true)?;
    prepare(&socket, address)?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Bytes the kernel keeps for us while the hub is busy; it may grant less.
const UDP_RECEIVE_BUFFER_BYTES: usize = 4 << 20;

/// A UDP socket. `::` takes IPv6 only.
///
/// # Errors
/// What the system says.
pub fn udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    let _ = socket.set_recv_buffer_size(UDP_RECEIVE_BUFFER_BYTES);
    prepare(&socket, address)?;
    UdpSocket::from_std(socket.into())
}

fn prepare(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())
}

/// A bound socket's own address.
pub trait LocalAddress {
    /// The address.
    ///
    /// # Errors
    /// What the system says.
    fn local(&self) -> io::Result<SocketAddr>;
}

impl LocalAddress for TcpListener {
    fn local(&self) -> io::Result<SocketAddr> {
        self.local_addr()
    }
}

impl LocalAddress for UdpSocket {
    fn local(&self) -> io::Result<SocketAddr> {
        self.local_addr()
    }
}

/// Binds all `addresses` to one port: `port`, or the one the kernel gives the first when it is 0. A machine without IPv6 lacks `::`
/// without complaint, as long as another address binds.
///
/// # Errors
/// The address that could not be bound, with what the system says.
pub fn same_port<S: LocalAddress>(
    addresses: &[IpAddr],
    port: u16,
    bind: fn(SocketAddr) -> io::Result<S>,
) -> Result<(Vec<S>, u16), (SocketAddr, io::Error)> {
    let mut sockets = Vec::new();
    let mut port = port;
    for &ip in addresses {
        let address = SocketAddr::new(ip, port);
        match bind(address) {
            Ok(socket) => {
                port = socket.local().map_err(|error| (address, error))?.port();
                sockets.push(socket);
            }
            Err(error) if ip.is_ipv6() && ip.is_unspecified() && is_no_ipv6(&error) => {
                tracing::info!("this machine has no IPv6");
            }
            Err(error) => return Err((address, error)),
        }
    }
    if sockets.is_empty() {
        let address = SocketAddr::new(addresses.first().copied().unwrap_or(IpAddr::V4([0, 0, 0, 0].into())), port);
        return Err((address, io::Error::from(io::ErrorKind::AddrNotAvailable)));
    }
    Ok((sockets, port))
}

/// Whether the machine has no IPv6 at all (EAFNOSUPPORT), or has it turned off (EADDRNOTAVAIL).
fn is_no_ipv6(error: &io::Error) -> bool {
    const EAFNOSUPPORT: i32 = 97;
    error.raw_os_error() == Some(EAFNOSUPPORT) || error.kind() == io::ErrorKind::AddrNotAvailable
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[tokio::test]
    async fn two_addresses_share_one_port() {
        let addresses = [IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2])];
        let (sockets, port) = same_port(&addresses, 0, udp).unwrap();
        assert_eq!(sockets.iter().map(|at| at.local_addr().unwrap().port()).collect::<Vec<_>>(), [port, port]);
    }

    #[tokio::test]
    async fn a_taken_port_is_an_error_with_its_address() {
        let taken = udp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap().local_addr().unwrap();
        let held = udp(taken).unwrap();
        let (address, _) = same_port(&[taken.ip()], taken.port(), udp).unwrap_err();
        assert_eq!(address, held.local_addr().unwrap());
    }
}
