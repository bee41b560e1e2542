//! Finds out what this kernel's ring can do, by doing it once over loopback.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use super::{EngineSizes, Features, Missing, UringEngine};
use crate::{
    engine::{Batch, Completion, Engine, Outgoing, clock},
    relay::PortId,
};

/// A packet over loopback may take so long on a machine that has much to do.
const WITHIN: Duration = Duration::from_secs(2);

/// A closed port's address is free again after so long, where the kernel lets go of registered files at once.
const LET_GO_WITHIN: Duration = Duration::from_millis(100);

/// Tries everything that the engine does, with at most these features; which of them the kernel has.
///
/// # Errors
/// What is missing for any ring at all.
pub fn probe(allowed: Features) -> Result<Features, Missing> {
    let mut engine = UringEngine::new(EngineSizes::TINY, allowed)?;
    let broken = |what| move |_| Missing::Broken { what };
    let ip = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]
        .into_iter()
        .find(|ip| UdpSocket::bind((*ip, 0)).is_ok())
        .ok_or(Missing::Broken { what: "no address of loopback can be bound" })?;
    let peer = UdpSocket::bind((ip, 0)).map_err(broken("bind"))?;
    let other = UdpSocket::bind((ip, 0)).map_err(broken("bind"))?;
    for socket in [&peer, &other] {
        socket.set_read_timeout(Some(WITHIN)).map_err(broken("timeout"))?;
    }
    let peer_at = peer.local_addr().map_err(broken("getsockname"))?;
    let other_at = other.local_addr().map_err(broken("getsockname"))?;

    let (port, at) = open(&mut engine, ip)?;
    exchange(&mut engine, &peer, (port, at), "recvmsg")?;
    engine.connect(port, Some(peer_at));
    exchange(&mut engine, &peer, (port, at), "recv")?;
    for (socket, to) in [(&peer, peer_at), (&other, other_at)] {
        send(&mut engine, port, to)?;
        let mut bytes = [0; 8];
        let came = socket.recv_from(&mut bytes);
        if !came.is_ok_and(|(len, from)| from == at && bytes[..len] == *b"sent") {
            return Err(Missing::Broken { what: "send" });
        }
    }
    engine.waker().wake();
    next(&mut engine, |done| matches!(done, Completion::Woken).then_some(()), "read")?;

    let mut features = engine.features();
    if features.registered_files {
        let (second, second_at) = open(&mut engine, ip)?;
        exchange(&mut engine, &peer, (second, second_at), "recvmsg")?;
        drop(engine.close(second));
        features.registered_files = is_free_soon(second_at);
    }
    Ok(features)
}

fn open(engine: &mut UringEngine, ip: IpAddr) -> Result<(PortId, SocketAddr), Missing> {
    let broken = Missing::Broken { what: "open" };
    let Ok(socket) = UdpSocket::bind((ip, 0)) else { return Err(broken) };
    let Ok(at) = socket.local_addr() else { return Err(broken) };
    engine.open(socket).map(|port| (port, at)).map_err(|_| broken)
}

/// One packet in.
fn exchange(
    engine: &mut UringEngine,
    peer: &UdpSocket,
    (port, at): (PortId, SocketAddr),
    what: &'static str,
) -> Result<(), Missing> {
    // Armed before anything comes, so that it is the ring that waits.
    engine.receive(Some(clock::mono()), &mut Batch::new());
    let from = peer.local_addr().map_err(|_| Missing::Broken { what })?;
    peer.send_to(b"came", at).map_err(|_| Missing::Broken { what })?;
    let (by, source, buffer, start, len) = next(
        engine,
        |done| match *done {
            Completion::Received { port, from, buffer, start, len, .. } => Some((port, from, buffer, start, len)),
            _ => None,
        },
        what,
    )?;
    let is_right =
        by == port && source == from && engine.buffer(buffer).get(start..start + len) == Some(b"came".as_slice());
    engine.recycle(buffer);
    if is_right { Ok(()) } else { Err(Missing::Broken { what }) }
}

fn send(engine: &mut UringEngine, port: PortId, to: SocketAddr) -> Result<(), Missing> {
    let buffer = engine.take_buffer().ok_or(Missing::Broken { what: "buffers" })?;
    engine.buffer(buffer)[64..68].copy_from_slice(b"sent");
    engine.send(Outgoing { port, to, buffer, start: 64, len: 4 });
    engine.flush();
    engine.receive(Some(clock::mono()), &mut Batch::new());
    Ok(())
}

/// The first completion of a kind.
fn next<T>(
    engine: &mut UringEngine,
    wanted: impl Fn(&Completion) -> Option<T>,
    what: &'static str,
) -> Result<T, Missing> {
    let until = clock::mono() + WITHIN;
    let mut batch = Batch::new();
    while clock::mono() < until {
        engine.receive(Some(until), &mut batch);
        let found = batch.drain().find_map(|done| wanted(&done));
        if let Some(found) = found {
            return Ok(found);
        }
    }
    Err(Missing::Broken { what })
}

fn is_free_soon(at: SocketAddr) -> bool {
    let until = clock::mono() + LET_GO_WITHIN;
    loop {
        if UdpSocket::bind(at).is_ok() {
            return true;
        }
        if clock::mono() >= until {
            return false;
        }
        std::thread::yield_now();
    }
}
