//! A UDP proxy between a browser or phone and the gateway that treats DTLS badly: loses, swaps, repeats and re-cuts. It can lose media
//! too. All else (STUN, SRTCP) passes untouched, so that what is tested is the handshake, or the repair of media.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

/// How long a thread waits for a datagram before it looks whether the proxy is gone.
const TURN: Duration = Duration::from_millis(50);
/// Longest datagram.
const DATAGRAM: usize = 2048;

/// What is done to DTLS datagrams.
#[derive(Debug, Clone, Copy, Default)]
pub struct Plan {
    /// Share of the datagrams that is lost, both ways, in percent. Only for a client that repeats its handshake by itself:
    /// Chromium does, str0m around OpenSSL does not.
    pub loss_percent: u32,
    /// Whether two datagrams of the client that follow each other change places.
    pub swap: bool,
    /// Whether each datagram of the client arrives twice.
    pub repeat: bool,
    /// Whether the client's ClientHello is cut anew, at another place each time it is sent (RFC 6347 section 4.2.3 allows
    /// that, Firefox does it).
    pub recut: bool,
    /// Share of the media (SRTP) that is lost, both ways, in percent.
    pub media_loss_percent: u32,
    /// Seed of the losses.
    pub seed: u64,
}

/// A running proxy.
pub struct Impairment {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    is_over: AtomicBool,
    lost: AtomicUsize,
    recut: AtomicUsize,
}

impl Impairment {
    /// Starts a proxy on 127.0.0.1 in front of `target`.
    ///
    /// # Panics
    /// When no socket can be had.
    pub fn start(target: SocketAddr, plan: Plan) -> Self {
        let front = UdpSocket::bind("127.0.0.1:0").expect("a socket for the proxy");
        let address = front.local_addr().expect("a bound socket has an address");
        front.set_read_timeout(Some(TURN)).expect("a timeout");
        let shared = Arc::new(Shared::default());
        let runner = Arc::clone(&shared);
        thread::spawn(move || forward(&front, target, plan, &runner));
        Self { address, shared }
    }

    /// Where the client sends to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many datagrams were lost.
    pub fn lost(&self) -> usize {
        self.shared.lost.load(Ordering::Relaxed)
    }

    /// How many ClientHellos were cut anew.
    pub fn recut(&self) -> usize {
        self.shared.recut.load(Ordering::Relaxed)
    }
}

impl Drop for Impairment {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
    }
}

/// One address of the client: its own socket towards the gateway.
struct Client {
    back: UdpSocket,
    held: Option<Vec<u8>>,
    hello: Hello,
}

fn forward(front: &UdpSocket, target: SocketAddr, plan: Plan, shared: &Arc<Shared>) {
    let mut clients: BTreeMap<SocketAddr, Client> = BTreeMap::new();
    let mut dice = Dice(plan.seed | 1);
    let mut buffer = [0; DATAGRAM];
    while !shared.is_over.load(Ordering::Relaxed) {
        let Ok((length, from)) = front.recv_from(&mut buffer) else {
            // A datagram that waits for its successor does not wait for ever.
            for client in clients.values_mut() {
                client.held.take().map(|held| client.back.send(&held));
            }
            continue;
        };
        let client = clients.entry(from).or_insert_with(|| open_client(front, from, target, plan, shared));
        let datagram = &buffer[..length];
        if is_media(datagram) && dice.is_lost(plan.media_loss_percent) {
            shared.lost.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        if !is_dtls(datagram) {
            let _ = client.back.send(datagram);
            continue;
        }
        let datagrams = if plan.recut { client.hello.recut(datagram, shared) } else { vec![datagram.to_vec()] };
        for datagram in datagrams {
            if dice.is_lost(plan.loss_percent) {
                shared.lost.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            if plan.swap && client.held.is_none() {
                client.held = Some(datagram);
                continue;
            }
            for _ in 0..if plan.repeat { 2 } else { 1 } {
                let _ = client.back.send(&datagram);
            }
            client.held.take().map(|held| client.back.send(&held));
        }
    }
}

fn open_client(front: &UdpSocket, client: SocketAddr, target: SocketAddr, plan: Plan, shared: &Arc<Shared>) -> Client {
    let back = UdpSocket::bind("127.0.0.1:0").expect("a socket for the proxy");
    back.connect(target).expect("a route to the gateway");
    back.set_read_timeout(Some(TURN)).expect("a timeout");
    let (answers, to_client) =
        (back.try_clone().expect("a second handle"), front.try_clone().expect("a second handle"));
    let shared = Arc::clone(shared);
    let mut dice = Dice(plan.seed.wrapping_mul(31) | 1);
    thread::spawn(move || {
        let mut buffer = [0; DATAGRAM];
        while !shared.is_over.load(Ordering::Relaxed) {
            let Ok(length) = answers.recv(&mut buffer) else { continue };
            let datagram = &buffer[..length];
            let is_lost = (is_dtls(datagram) && dice.is_lost(plan.loss_percent))
                || (is_media(datagram) && dice.is_lost(plan.media_loss_percent));
            if is_lost {
                shared.lost.fetch_add(1, Ordering::Relaxed);
            } else {
                let _ = to_client.send_to(&buffer[..length], client);
            }
        }
    });
    Client { back, held: None, hello: Hello::default() }
}

/// RFC 7983: the first byte of a DTLS record lies between 20 and 63.
fn is_dtls(datagram: &[u8]) -> bool {
    datagram.first().is_some_and(|byte| (20..64).contains(byte))
}

/// RFC 7983 and RFC 5761 section 4: RTP and no RTCP.
fn is_media(datagram: &[u8]) -> bool {
    matches!(datagram, [128..=191, second, ..] if !(192..=223).contains(second))
}

/// xorshift64: the same losses for the same seed.
struct Dice(u64);

impl Dice {
    fn is_lost(&mut self, percent: u32) -> bool {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) % 100 < u64::from(percent)
    }
}

/// Length of a DTLS 1.2 record header and of a handshake header (RFC 6347 sections 4.1 and 4.2.2).
const RECORD: usize = 13;
const HANDSHAKE: usize = 12;

/// Gathers the fragments of one ClientHello and gives it out again in two others.
#[derive(Default)]
struct Hello {
    headers: Vec<[u8; RECORD]>,
    message_header: [u8; HANDSHAKE],
    body: Vec<u8>,
    times: usize,
}

impl Hello {
    /// What is sent in place of `datagram`: nothing while the ClientHello is incomplete, then all of it.
    fn recut(&mut self, datagram: &[u8], shared: &Shared) -> Vec<Vec<u8>> {
        let is_one_record = datagram.len() >= RECORD + HANDSHAKE
            && datagram.len() == RECORD + usize::from(u16::from_be_bytes([datagram[11], datagram[12]]));
        let is_hello = is_one_record && datagram[0] == 22 && datagram[3..5] == [0, 0] && datagram[RECORD] == 1;
        if !is_hello {
            return vec![datagram.to_vec()];
        }
        let header = &datagram[RECORD..RECORD + HANDSHAKE];
        let long =
            |at: usize| usize::from(header[at]) << 16 | usize::from(header[at + 1]) << 8 | usize::from(header[at + 2]);
        let (total, offset) = (long(1), long(6));
        let body = &datagram[RECORD + HANDSHAKE..];
        if offset == 0 {
            self.body.clear();
            self.headers.clear();
            self.message_header.copy_from_slice(header);
        }
        if offset != self.body.len() || offset + body.len() > total {
            return vec![datagram.to_vec()];
        }
        self.body.extend(body);
        self.headers.push(datagram[..RECORD].try_into().expect("a slice of that length"));
        if self.body.len() < total {
            return Vec::new();
        }
        self.times += 1;
        shared.recut.fetch_add(1, Ordering::Relaxed);
        // Another place each time, and never where a client would cut: a third, a half, a fifth...
        let at = total / [3, 2, 5, 4][self.times % 4];
        let second = *self.headers.last().expect("at least one record was gathered");
        vec![self.fragment(self.headers[0], 0, at), self.fragment(second, at, total)]
    }

    fn fragment(&self, mut record: [u8; RECORD], from: usize, to: usize) -> Vec<u8> {
        let mut header = self.message_header;
        let three = |value: usize| [(value >> 16) as u8, (value >> 8) as u8, value as u8];
        header[6..9].copy_from_slice(&three(from));
        header[9..12].copy_from_slice(&three(to - from));
        let length = (HANDSHAKE + to - from) as u16;
        record[11..13].copy_from_slice(&length.to_be_bytes());
        [&record[..], &header[..], &self.body[from..to]].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        deadline::Deadline,
        media::{Codecs, Media},
    };

    fn fragment(total: usize, from: usize, to: usize, sequence: u8) -> Vec<u8> {
        let mut datagram = vec![22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, sequence];
        datagram.extend(((HANDSHAKE + to - from) as u16).to_be_bytes());
        datagram.extend([1, 0, (total >> 8) as u8, total as u8, 0, 0, 0, (from >> 8) as u8, from as u8]);
        datagram.extend([0, ((to - from) >> 8) as u8, (to - from) as u8]);
        datagram.extend((from..to).map(|at| at as u8));
        datagram
    }

    #[test]
    fn a_hello_is_cut_elsewhere_each_time_and_keeps_its_bytes() {
        let (mut hello, shared) = (Hello::default(), Shared::default());
        let mut cuts = Vec::new();
        for _ in 0..3 {
            assert!(hello.recut(&fragment(1400, 0, 1200, 0), &shared).is_empty());
            let out = hello.recut(&fragment(1400, 1200, 1400, 1), &shared);
            let joined: Vec<u8> = out.iter().flat_map(|datagram| datagram[RECORD + HANDSHAKE..].to_vec()).collect();
            assert_eq!(joined, (0..1400).map(|at| at as u8).collect::<Vec<_>>());
            assert_eq!((out[0][10], out[1][10]), (0, 1), "record numbers are the client's");
            cuts.push(out[0].len());
        }
        cuts.dedup();
        assert_eq!((cuts.len(), shared.recut.load(Ordering::Relaxed)), (3, 3));
    }

    #[test]
    fn two_phones_connect_through_a_proxy_that_repeats() {
        let (mut caller, offer) = Media::offer(Codecs::PCMU, 440.0);
        let (callee, answer) = Media::answer(Codecs::PCMU, 660.0, &offer);
        let proxy = Impairment::start(callee.address(), Plan { repeat: true, ..Plan::default() });
        let candidate = format!("a=candidate:1 1 udp 2130706431 127.0.0.1 {} typ host\r\n", callee.address().port());
        caller.take_answer(&format!("{answer}{candidate}"), Some(proxy.address()));
        caller.wait_connected(Deadline::seconds(30));
        caller.wait_heard(660.0, Duration::from_millis(200), Deadline::seconds(10));
    }
}
