//! Datagrams at a steady rate from addresses of their own.

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::sys::BUFFER_LEN_BYTES;

/// No flood goes on for longer, whatever happens to who started it.
const LONGEST: Duration = Duration::from_secs(900);

/// A thread that sends. Dropping it ends it.
pub struct Flood {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<Sent>>,
}

/// What became of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Datagrams that the kernel took.
    pub datagrams: u64,
    /// Datagrams that came back to the senders.
    pub heard: u64,
}

/// Sockets of `hosts` loopback addresses beside the one of the calls.
///
/// # Errors
/// What the kernel says.
pub fn strangers(hosts: u8) -> io::Result<Vec<UdpSocket>> {
    let bind = |host: u8| {
        let socket = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 2 + host), 0))?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    (0..hosts).map(bind).collect()
}

impl Flood {
    /// Sends from each of `sockets` in turn to each of `targets` in turn, `per_second` datagrams in all, as `build` writes them: it is given
    /// the number of the target and returns the length.
    #[must_use]
    pub fn start(
        sockets: Vec<UdpSocket>,
        targets: Vec<SocketAddrV4>,
        per_second: u32,
        build: impl FnMut(usize, &mut [u8; BUFFER_LEN_BYTES]) -> usize + Send + 'static,
    ) -> Self {
        Flood::run(sockets, true, targets, per_second, build)
    }

    /// The same by a socket that somebody else listens on.
    #[must_use]
    pub fn start_deaf(
        socket: UdpSocket,
        targets: Vec<SocketAddrV4>,
        per_second: u32,
        build: impl FnMut(usize, &mut [u8; BUFFER_LEN_BYTES]) -> usize + Send + 'static,
    ) -> Self {
        Flood::run(vec![socket], false, targets, per_second, build)
    }

    fn run(
        sockets: Vec<UdpSocket>,
        hears: bool,
        targets: Vec<SocketAddrV4>,
        per_second: u32,
        mut build: impl FnMut(usize, &mut [u8; BUFFER_LEN_BYTES]) -> usize + Send + 'static,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut buffer = [0; BUFFER_LEN_BYTES];
            let (mut sent, mut planned, start) = (Sent::default(), 0u64, Instant::now());
            while !stopped.load(Ordering::Relaxed) && start.elapsed() < LONGEST {
                let due = start.elapsed().as_micros() as u64 * u64::from(per_second) / 1_000_000;
                while planned < due {
                    let target = planned as usize % targets.len();
                    // The first round of targets is from the first socket, the next from the next.
                    let socket = &sockets[planned as usize / targets.len() % sockets.len()];
                    let len = build(target, &mut buffer);
                    sent.datagrams += u64::from(socket.send_to(&buffer[..len], targets[target]).is_ok());
                    planned += 1;
                }
                if hears {
                    sent.heard += sockets.iter().map(|socket| drain(socket, &mut buffer)).sum::<u64>();
                }
                thread::sleep(Duration::from_millis(1));
            }
            if hears {
                sent.heard += sockets.iter().map(|socket| drain(socket, &mut buffer)).sum::<u64>();
            }
            sent
        });
        Flood { stop, thread: Some(thread) }
    }

    /// Ends it.
    ///
    /// # Panics
    /// When `build` did.
    #[must_use]
    pub fn stop(mut self) -> Sent {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it is stopped once");
        thread.join().expect("a flood does not panic")
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn drain(socket: &UdpSocket, buffer: &mut [u8]) -> u64 {
    let mut count = 0;
    while socket.recv(buffer).is_ok() {
        count += 1;
    }
    count
}
