//! A SIP peer of our own over UDP: answers every call, keeps the dialogs so that it can end or hold them, and echoes RTP from one
//! socket whose counters miss nothing: every sequence number of every stream is followed.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use socket2::SockRef;

use crate::deadline::Deadline;

/// Longest wait in one turn of its threads.
const TURN: Duration = Duration::from_millis(20);
/// Receive buffer asked for, so that a thread that does not run for a while loses nothing.
const BUFFER_BYTES: usize = 8 << 20;
/// 64 times the T1 of the gateways under test: an answer to INVITE that has no ACK by then ends its call.
const ACK_WITHIN: Duration = Duration::from_millis(64 * 50);
/// Between repeats of a request.
const REPEAT: Duration = Duration::from_millis(100);

/// One stream of RTP as the peer received it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stream {
    /// Packets.
    pub received: u64,
    /// Sequence numbers that were passed over.
    pub lost: u64,
    /// Packets that did not count on: repeated or late.
    pub repeated: u64,
    last: Option<u16>,
}

impl Stream {
    fn note(&mut self, sequence: u16) {
        self.received += 1;
        let step = self.last.map_or(1, |last| sequence.wrapping_sub(last));
        match step {
            0 | 0x8000.. => self.repeated += 1,
            _ => {
                self.lost += u64::from(step) - 1;
                self.last = Some(sequence);
            }
        }
    }
}

/// A dialog that an INVITE of the gateway made.
#[derive(Debug, Clone)]
struct Dialog {
    gateway: SocketAddr,
    /// Its From, our To with our tag, its Contact.
    remote: String,
    local: String,
    target: String,
    cseq: u32,
    /// The gateway sent BYE.
    is_ended: bool,
    /// Its answer never got an ACK, so the peer ended it.
    is_given_up: bool,
    answer: String,
    /// When the answer is sent again, and when it is given up; none when its ACK has come.
    repeat: Option<(Deadline, Deadline)>,
}

#[derive(Default)]
struct State {
    dialogs: BTreeMap<String, Dialog>,
    /// Final statuses of our requests, by Call-ID and CSeq number.
    finals: BTreeMap<(String, u32), u16>,
    streams: BTreeMap<SocketAddr, Stream>,
}

struct Shared {
    state: Mutex<State>,
    is_over: AtomicBool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The peer. Dropping it closes its sockets without a word.
pub struct Trunk {
    sip: UdpSocket,
    media: SocketAddr,
    shared: Arc<Shared>,
}

impl Trunk {
    /// Starts it on 127.0.0.1.
    ///
    /// # Panics
    /// When there are no sockets.
    pub fn start() -> Self {
        let socket = || {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket of loopback");
            socket.set_read_timeout(Some(TURN)).expect("a socket takes a timeout");
            // Where the machine does not allow as much, it gives what it allows.
            let _ = SockRef::from(&socket).set_recv_buffer_size(BUFFER_BYTES);
            socket
        };
        let (sip, media) = (socket(), socket());
        let shared = Arc::new(Shared { state: Mutex::default(), is_over: AtomicBool::new(false) });
        let address = media.local_addr().expect("a bound socket has an address");
        let echo = Arc::clone(&shared);
        thread::spawn(move || echo_media(&media, &echo));
        let agent =
            Agent { socket: sip.try_clone().expect("a second handle"), media: address, shared: Arc::clone(&shared) };
        thread::spawn(move || agent.run());
        Trunk { sip, media: address, shared }
    }

    /// Its SIP port.
    pub fn port(&self) -> u16 {
        self.sip.local_addr().expect("a bound socket has an address").port()
    }

    /// Call-IDs of all calls so far, in no order that means anything.
    pub fn call_ids(&self) -> Vec<String> {
        self.shared.lock().dialogs.keys().cloned().collect()
    }

    /// How many calls the gateway has not ended.
    pub fn living(&self) -> usize {
        self.shared.lock().dialogs.values().filter(|dialog| !dialog.is_ended).count()
    }

    /// Whether the gateway sent BYE in this call.
    pub fn is_ended(&self, call_id: &str) -> bool {
        self.shared.lock().dialogs.get(call_id).is_some_and(|dialog| dialog.is_ended)
    }

    /// How many of its answers to INVITE still wait for their ACK.
    pub fn unanswered(&self) -> usize {
        self.shared.lock().dialogs.values().filter(|dialog| dialog.repeat.is_some()).count()
    }

    /// How many calls it ended because nobody sent ACK for its answer.
    pub fn given_up(&self) -> usize {
        self.shared.lock().dialogs.values().filter(|dialog| dialog.is_given_up).count()
    }

    /// Whether the gateway sent BYE in this call, or the peer did and has its answer.
    ///
    /// # Panics
    /// When there is no such call.
    #[track_caller]
    pub fn is_over(&self, call_id: &str) -> bool {
        let state = self.shared.lock();
        let dialog = &state.dialogs[call_id];
        dialog.is_ended || state.finals.contains_key(&(call_id.to_owned(), dialog.cseq))
    }

    /// What its media socket received so far: all streams as one.
    pub fn received(&self) -> Stream {
        let state = self.shared.lock();
        state.streams.values().fold(Stream::default(), |sum, stream| Stream {
            received: sum.received + stream.received,
            lost: sum.lost + stream.lost,
            repeated: sum.repeated + stream.repeated,
            last: None,
        })
    }

    /// Sends BYE, again and again until it is answered; the status.
    ///
    /// # Panics
    /// When nobody answers before the deadline, or there is no such call.
    #[track_caller]
    pub fn hangup(&self, call_id: &str, deadline: Deadline) -> u16 {
        self.ask(call_id, "BYE", None, deadline)
    }

    /// Sends BYE once, and again each time the returned value is called: for a gateway that is away.
    ///
    /// # Panics
    /// When there is no such call.
    #[track_caller]
    pub fn begin_hangup(&self, call_id: &str) -> Asked<'_> {
        let asked = self.begin(call_id, "BYE", None);
        asked.send();
        asked
    }

    /// Holds by a re-INVITE (`sendonly`); the status. A final answer gets its ACK.
    ///
    /// # Panics
    /// When nobody answers before the deadline, or there is no such call.
    #[track_caller]
    pub fn hold(&self, call_id: &str, deadline: Deadline) -> u16 {
        self.ask(call_id, "INVITE", Some("sendonly"), deadline)
    }

    #[track_caller]
    fn ask(&self, call_id: &str, method: &str, direction: Option<&str>, deadline: Deadline) -> u16 {
        let asked = self.begin(call_id, method, direction);
        asked.send();
        asked.wait(deadline)
    }

    #[track_caller]
    fn begin(&self, call_id: &str, method: &str, direction: Option<&str>) -> Asked<'_> {
        let mut state = self.shared.lock();
        let dialog = state.dialogs.get_mut(call_id).unwrap_or_else(|| panic!("no call {call_id}"));
        dialog.cseq += 1;
        let body = direction.map(|direction| description(self.media, direction)).unwrap_or_default();
        let kind = if body.is_empty() { "" } else { "Content-Type: application/sdp\r\n" };
        let (port, cseq) = (self.port(), dialog.cseq);
        let text = format!(
            "{method} {} SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:{port};branch=z9hG4bKt{port}x{cseq}{method}{call_id};rport\r\n\
             Max-Forwards: 70\r\nFrom: {}\r\nTo: {}\r\nCall-ID: {call_id}\r\nCSeq: {cseq} {method}\r\n\
             Contact: <sip:trunk@127.0.0.1:{port}>\r\n{kind}Content-Length: {}\r\n\r\n{body}",
            dialog.target,
            dialog.local,
            dialog.remote,
            body.len(),
        );
        Asked { trunk: self, to: dialog.gateway, text, key: (call_id.to_owned(), cseq) }
    }
}

impl Drop for Trunk {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
    }
}

/// A request of the peer on its way.
pub struct Asked<'a> {
    trunk: &'a Trunk,
    to: SocketAddr,
    text: String,
    key: (String, u32),
}

impl Asked<'_> {
    /// Sends it (again).
    pub fn send(&self) {
        // Nobody may listen there now.
        let _ = self.trunk.sip.send_to(self.text.as_bytes(), self.to);
    }

    /// Its final status, if it has one.
    pub fn status(&self) -> Option<u16> {
        self.trunk.shared.lock().finals.get(&self.key).copied()
    }

    /// Repeats it until it has a final answer; the status.
    ///
    /// # Panics
    /// When the deadline passes first.
    #[track_caller]
    pub fn wait(&self, deadline: Deadline) -> u16 {
        loop {
            let next = Deadline::after(deadline.left().unwrap_or_default().min(REPEAT));
            while !next.is_over() {
                if let Some(status) = self.status() {
                    return status;
                }
                crate::deadline::pause(Duration::from_millis(2));
            }
            assert!(!deadline.is_over(), "nobody answered {}", self.text.lines().next().unwrap_or_default());
            self.send();
        }
    }
}

fn echo_media(socket: &UdpSocket, shared: &Shared) {
    let mut buffer = [0; 2048];
    while !shared.is_over.load(Ordering::Relaxed) {
        let Ok((len, from)) = socket.recv_from(&mut buffer) else { continue };
        if len < 12 {
            continue;
        }
        shared.lock().streams.entry(from).or_default().note(u16::from_be_bytes([buffer[2], buffer[3]]));
        let _ = socket.send_to(&buffer[..len], from);
    }
}

pub(crate) fn description(media: SocketAddr, direction: &str) -> String {
    format!(
        "v=0\r\no=trunk 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio {} RTP/AVP 0\r\n\
         a=rtpmap:0 PCMU/8000\r\na=ptime:20\r\na={direction}\r\n",
        media.port()
    )
}

/// The thread that speaks SIP.
struct Agent {
    socket: UdpSocket,
    media: SocketAddr,
    shared: Arc<Shared>,
}

impl Agent {
    fn run(&self) {
        let mut buffer = [0; 65_536];
        while !self.shared.is_over.load(Ordering::Relaxed) {
            self.repeat_answers();
            let Ok((len, from)) = self.socket.recv_from(&mut buffer) else { continue };
            let text = String::from_utf8_lossy(&buffer[..len]).into_owned();
            if text.starts_with("SIP/2.0 ") { self.take_response(&text, from) } else { self.take_request(&text, from) }
        }
    }

    /// Answers to INVITE without an ACK go again, and end their call after a while (RFC 3261 section 13.3.1.4).
    fn repeat_answers(&self) {
        for dialog in self.shared.lock().dialogs.values_mut() {
            let Some((next, until)) = dialog.repeat else { continue };
            if until.is_over() {
                (dialog.is_ended, dialog.is_given_up, dialog.repeat) = (true, true, None);
            } else if next.is_over() {
                dialog.repeat = Some((Deadline::after(REPEAT), until));
                let _ = self.socket.send_to(dialog.answer.as_bytes(), dialog.gateway);
            }
        }
    }

    fn take_response(&self, text: &str, from: SocketAddr) {
        let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        let (number, method) = header(text, "CSeq").split_once(' ').unwrap_or(("0", ""));
        if status < 200 {
            return;
        }
        let key = (header(text, "Call-ID").to_owned(), number.parse().unwrap_or(0));
        let mut state = self.shared.lock();
        if method == "INVITE" {
            let target = state.dialogs.get(&key.0).map_or_else(String::new, |dialog| dialog.target.clone());
            let (via, from_, to) = (header(text, "Via"), header(text, "From"), header(text, "To"));
            let branch = if status < 300 { format!("{via}ack") } else { via.to_owned() };
            let ack = format!(
                "ACK {target} SIP/2.0\r\nVia: {branch}\r\nMax-Forwards: 70\r\nFrom: {from_}\r\nTo: {to}\r\nCall-ID: {}\r\n\
                 CSeq: {number} ACK\r\nContent-Length: 0\r\n\r\n",
                key.0
            );
            let _ = self.socket.send_to(ack.as_bytes(), from);
        }
        state.finals.insert(key, status);
    }

    fn take_request(&self, text: &str, from: SocketAddr) {
        let method = text.split(' ').next().unwrap_or_default();
        let call_id = header(text, "Call-ID").to_owned();
        let mut state = self.shared.lock();
        let known = state.dialogs.get_mut(&call_id);
        match (method, known) {
            ("ACK", known) => {
                if let Some(dialog) = known {
                    dialog.repeat = None;
                }
            }
            ("INVITE", None) => {
                let to = format!("{};tag=trunk", header(text, "To"));
                let contact = header(text, "Contact").trim_matches(['<', '>']).to_owned();
                let port = self.socket.local_addr().map_or(0, |address| address.port());
                let body = description(self.media, "sendrecv");
                let answer = format!(
                    "{}Contact: <sip:trunk@127.0.0.1:{port}>\r\nContent-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{body}",
                    frame(text, 200, &to),
                    body.len()
                );
                let ringing = format!(
                    "{}Contact: <sip:trunk@127.0.0.1:{port}>\r\nContent-Length: 0\r\n\r\n",
                    frame(text, 180, &to)
                );
                let _ = self.socket.send_to(ringing.as_bytes(), from);
                let _ = self.socket.send_to(answer.as_bytes(), from);
                let (remote, local) = (header(text, "From").to_owned(), to);
                let repeat = Some((Deadline::after(REPEAT), Deadline::after(ACK_WITHIN)));
                let (gateway, target) = (from, contact);
                let dialog = Dialog {
                    gateway,
                    remote,
                    local,
                    target,
                    cseq: 0,
                    is_ended: false,
                    is_given_up: false,
                    answer,
                    repeat,
                };
                state.dialogs.insert(call_id, dialog);
            }
            ("INVITE", Some(dialog)) => {
                let _ = self.socket.send_to(dialog.answer.as_bytes(), from);
            }
            (_, known) => {
                if let Some(dialog) = known.filter(|_| method == "BYE") {
                    (dialog.is_ended, dialog.repeat) = (true, None);
                }
                let answer = format!("{}Content-Length: 0\r\n\r\n", frame(text, 200, header(text, "To")));
                let _ = self.socket.send_to(answer.as_bytes(), from);
            }
        }
    }
}

/// The head of an answer.
pub(crate) fn frame(request: &str, status: u16, to: &str) -> String {
    let [via, from, call_id, cseq] = ["Via", "From", "Call-ID", "CSeq"].map(|name| header(request, name));
    format!("SIP/2.0 {status} X\r\nVia: {via}\r\nFrom: {from}\r\nTo: {to}\r\nCall-ID: {call_id}\r\nCSeq: {cseq}\r\n")
}

/// The value of the first header of this name.
pub(crate) fn header<'a>(text: &'a str, name: &str) -> &'a str {
    let mut lines = text.lines().take_while(|line| !line.is_empty());
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.unwrap_or_default().trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_and_repeated_numbers_are_told_apart() {
        let mut stream = Stream::default();
        for sequence in [65_534, 65_535, 0, 3, 2, 3, 4] {
            stream.note(sequence);
        }
        assert_eq!((stream.received, stream.lost, stream.repeated), (7, 2, 2));
    }
}
