//! `tokio-uring` as its documentation shows it: a task a socket, `recv_from`, `send_to`.

use std::{io, net::SocketAddr, rc::Rc};

use tokio_uring::net::UdpSocket;

use super::Leg;
use crate::sys::BUFFER_LEN_BYTES;

/// Forwards until the process is ended.
///
/// # Errors
/// When the kernel refuses a ring.
pub fn run(legs: Vec<Leg>) -> io::Result<()> {
    tokio_uring::builder().entries(4096).start(async {
        let ways: Vec<(usize, SocketAddr)> =
            legs.iter().map(|leg| (leg.other, SocketAddr::V4(legs[leg.other].peer))).collect();
        let sockets: Vec<Rc<UdpSocket>> =
            legs.into_iter().map(|leg| Rc::new(UdpSocket::from_std(leg.socket))).collect();
        for (socket, (other, to)) in sockets.iter().zip(ways) {
            let (socket, out) = (Rc::clone(socket), Rc::clone(&sockets[other]));
            tokio_uring::spawn(async move {
                let mut buffer = vec![0; BUFFER_LEN_BYTES];
                loop {
                    let (received, mut filled) = socket.recv_from(buffer).await;
                    let Ok((len, _)) = received else {
                        // An error of an earlier packet: reading it took it off.
                        buffer = filled;
                        continue;
                    };
                    filled.truncate(len);
                    let (_, mut sent) = out.send_to(filled, to).await;
                    sent.resize(BUFFER_LEN_BYTES, 0);
                    buffer = sent;
                }
            });
        }
        std::future::pending().await
    })
}
