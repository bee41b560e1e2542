//! A SIP peer of our own over TCP: a registrar that calls over the connection on which it was asked, and a phone that calls over a
//! connection that it made itself. Its media comes back as it was sent.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::json;

use crate::{
    deadline::{Deadline, pause},
    gateway::{Gateway, connection},
    media::Codecs,
    phone::{Call, Phone, TONE_HZ},
    trunk::{description, frame, header},
};

/// Longest wait in one turn of its threads.
const TURN: Duration = Duration::from_millis(20);

/// One of its connections, counted from 0 in the order in which they were made.
pub type Connection = usize;

/// A REGISTER that it accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    /// Where it came.
    pub connection: Connection,
    /// Its Call-ID.
    pub call_id: String,
    /// Its CSeq number.
    pub cseq: u32,
    /// The URI of its Contact.
    pub contact: String,
}

/// A final answer to a request of the peer.
#[derive(Debug, Clone)]
pub struct Final {
    /// Its status.
    pub status: u16,
    /// The whole answer.
    pub text: String,
}

impl Final {
    /// The value of its first header of this name; empty without one.
    pub fn header(&self, name: &str) -> &str {
        header(&self.text, name)
    }
}

/// A call that the peer made.
#[derive(Debug, Clone)]
struct Dialog {
    /// Its own From with its tag, the gateway's To, and the gateway's Contact.
    local: String,
    remote: String,
    target: String,
    contact: String,
    cseq: u32,
    /// The connection on which the gateway sent BYE.
    ended_on: Option<Connection>,
}

#[derive(Default)]
struct State {
    /// Writing halves; none of a connection that ended.
    connections: Vec<Option<TcpStream>>,
    registered: Vec<Registered>,
    dialogs: BTreeMap<String, Dialog>,
    finals: BTreeMap<(String, u32), Final>,
}

struct Shared {
    state: Mutex<State>,
    is_over: AtomicBool,
    media: SocketAddr,
    port: u16,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The peer. Dropping it ends its connections.
pub struct StreamPeer {
    shared: Arc<Shared>,
}

impl StreamPeer {
    /// Starts it on 127.0.0.1.
    ///
    /// # Panics
    /// When there are no sockets.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a socket of loopback");
        listener.set_nonblocking(true).expect("a socket");
        let media = UdpSocket::bind("127.0.0.1:0").expect("a socket of loopback");
        media.set_read_timeout(Some(TURN)).expect("a socket takes a timeout");
        let address = |result: std::io::Result<SocketAddr>| result.expect("a bound socket has an address");
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            is_over: AtomicBool::new(false),
            media: address(media.local_addr()),
            port: address(listener.local_addr()).port(),
        });
        let (echo, accepting) = (Arc::clone(&shared), Arc::clone(&shared));
        thread::spawn(move || {
            let mut buffer = [0; 2048];
            while !echo.is_over.load(Ordering::Relaxed) {
                if let Ok((len, from)) = media.recv_from(&mut buffer) {
                    let _ = media.send_to(&buffer[..len], from);
                }
            }
        });
        thread::spawn(move || {
            while !accepting.is_over.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => drop(serve(&accepting, stream)),
                    Err(_) => pause(Duration::from_millis(2)),
                }
            }
        });
        StreamPeer { shared }
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.shared.port
    }

    /// Makes a connection to `port` of 127.0.0.1.
    ///
    /// # Panics
    /// When nobody listens there.
    #[track_caller]
    pub fn connect(&self, port: u16) -> Connection {
        serve(&self.shared, TcpStream::connect(("127.0.0.1", port)).expect("the gateway listens"))
    }

    /// Whether the connection is open.
    pub fn is_open(&self, connection: Connection) -> bool {
        self.shared.lock().connections[connection].is_some()
    }

    /// Waits for the registration number `count`, counted from 1.
    #[track_caller]
    pub fn wait_registered(&self, count: usize, deadline: Deadline) -> Registered {
        deadline.poll("a REGISTER", || self.shared.lock().registered.get(count - 1).cloned())
    }

    /// A page's session that outlives its socket, with account 1001 registered here.
    ///
    /// # Panics
    /// When it is not registered in time.
    #[track_caller]
    pub fn register(&self, gateway: &Gateway) -> Phone {
        let mut fields = connection("1001", "secret-1001", self.port(), true);
        fields["sipOutboundProxy"] = json!(format!("127.0.0.1:{};transport=tcp", self.port()));
        fields["keepAlive"] = json!(true);
        let mut phone = Phone::connect(gateway, &fields);
        phone.socket.expect("registered", Deadline::seconds(5));
        phone
    }

    /// Calls `uri` over a connection, and the page answers; the call and its SIP Call-ID.
    ///
    /// # Panics
    /// When they do not come to talk.
    #[track_caller]
    pub fn reach(&self, phone: &mut Phone, connection: Connection, uri: &str) -> (Call, String) {
        let sip_id = self.call(connection, uri);
        let incoming = phone.incoming(Deadline::seconds(5));
        let call = phone.answer(&incoming, Codecs::PCMU);
        let answer = self.wait_final(&sip_id, Deadline::seconds(2));
        assert_eq!(answer.status, 200, "{}", answer.text);
        call.media.wait_heard(TONE_HZ, Duration::from_millis(200), Deadline::seconds(10));
        (call, sip_id)
    }

    /// Calls `uri` over a connection; the call's Call-ID.
    ///
    /// # Panics
    /// When the connection has ended.
    #[track_caller]
    pub fn call(&self, connection: Connection, uri: &str) -> String {
        let mut state = self.shared.lock();
        let call_id = format!("stream-{}-{}", self.shared.port, state.dialogs.len());
        // A registrar is reached where it listens, a phone behind a NAT only over its own connection.
        let of_phone = || state.connections[connection].as_ref().and_then(|stream| stream.local_addr().ok());
        let port = of_phone().map_or(self.shared.port, |address| address.port());
        let dialog = Dialog {
            local: format!("<sip:peer@127.0.0.1>;tag=p{}", state.dialogs.len()),
            remote: format!("<{uri}>"),
            target: uri.to_owned(),
            contact: format!("<sip:peer@127.0.0.1:{port};transport=tcp>"),
            cseq: 0,
            ended_on: None,
        };
        state.dialogs.insert(call_id.clone(), dialog);
        self.send(&mut state, connection, &call_id, "INVITE", Some("sendrecv"));
        call_id
    }

    /// Waits for the final answer to the last request of a call.
    #[track_caller]
    pub fn wait_final(&self, call_id: &str, deadline: Deadline) -> Final {
        deadline.poll("a final answer", || {
            let state = self.shared.lock();
            let key = (call_id.to_owned(), state.dialogs[call_id].cseq);
            state.finals.get(&key).cloned()
        })
    }

    /// Sends BYE over this connection; the status of its answer.
    #[track_caller]
    pub fn hangup(&self, connection: Connection, call_id: &str, deadline: Deadline) -> u16 {
        self.send(&mut self.shared.lock(), connection, call_id, "BYE", None);
        self.wait_final(call_id, deadline).status
    }

    /// Holds by a re-INVITE over this connection; the status of its answer.
    #[track_caller]
    pub fn hold(&self, connection: Connection, call_id: &str, deadline: Deadline) -> u16 {
        self.send(&mut self.shared.lock(), connection, call_id, "INVITE", Some("sendonly"));
        self.wait_final(call_id, deadline).status
    }

    /// Where the gateway sent BYE in this call, once it did.
    pub fn ended_on(&self, call_id: &str) -> Option<Connection> {
        self.shared.lock().dialogs[call_id].ended_on
    }

    #[track_caller]
    fn send(&self, state: &mut State, connection: Connection, call_id: &str, method: &str, direction: Option<&str>) {
        let port = self.shared.port;
        let dialog = state.dialogs.get_mut(call_id).unwrap_or_else(|| panic!("no call {call_id}"));
        dialog.cseq += 1;
        let body = direction.map(|direction| description(self.shared.media, direction)).unwrap_or_default();
        let kind = if body.is_empty() { "" } else { "Content-Type: application/sdp\r\n" };
        let Dialog { local, remote, target, contact, cseq, .. } = dialog;
        let text = format!(
            "{method} {target} SIP/2.0\r\nVia: SIP/2.0/TCP 127.0.0.1:{port};branch=z9hG4bKs{port}x{cseq}{method}{call_id};rport\r\n\
             Max-Forwards: 70\r\nFrom: {local}\r\nTo: {remote}\r\nCall-ID: {call_id}\r\nCSeq: {cseq} {method}\r\n\
             Contact: {contact}\r\n{kind}Content-Length: {}\r\n\r\n{body}",
            body.len(),
        );
        let stream = state.connections[connection].as_mut().expect("the connection is open");
        stream.write_all(text.as_bytes()).expect("the connection takes a request");
    }
}

impl Drop for StreamPeer {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
    }
}

/// Reads a connection in a thread of its own.
fn serve(shared: &Arc<Shared>, stream: TcpStream) -> Connection {
    stream.set_nonblocking(false).and_then(|()| stream.set_read_timeout(Some(TURN))).expect("a socket takes a timeout");
    let mut state = shared.lock();
    let connection = state.connections.len();
    state.connections.push(Some(stream.try_clone().expect("a second handle")));
    drop(state);
    let shared = Arc::clone(shared);
    thread::spawn(move || {
        read(&shared, connection, stream);
        shared.lock().connections[connection] = None;
    });
    connection
}

fn read(shared: &Shared, connection: Connection, mut stream: TcpStream) {
    let (mut buffer, mut chunk) = (Vec::new(), [0; 4096]);
    while !shared.is_over.load(Ordering::Relaxed) {
        match stream.read(&mut chunk) {
            Ok(0) => return,
            Ok(len) => buffer.extend_from_slice(&chunk[..len]),
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                continue;
            }
            Err(_) => return,
        }
        while let Some(text) = cut(&mut buffer) {
            let answer = take(shared, connection, &text);
            if answer.is_some_and(|answer| stream.write_all(answer.as_bytes()).is_err()) {
                return;
            }
        }
    }
}

/// The first whole message of a stream, without line ends in front of it.
fn cut(buffer: &mut Vec<u8>) -> Option<String> {
    let begin = buffer.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    buffer.drain(..begin);
    let head = buffer.windows(4).position(|end| end == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&buffer[..head]).into_owned();
    let length: usize = header(&text, "Content-Length").parse().unwrap_or(0);
    (buffer.len() >= head + length).then(|| {
        let message: Vec<u8> = buffer.drain(..head + length).collect();
        String::from_utf8_lossy(&message).into_owned()
    })
}

/// Takes a message; gives what is to be sent back.
fn take(shared: &Shared, connection: Connection, text: &str) -> Option<String> {
    let call_id = header(text, "Call-ID").to_owned();
    let (number, method) = header(text, "CSeq").split_once(' ').unwrap_or(("0", ""));
    let number = number.parse().unwrap_or(0);
    let mut state = shared.lock();
    let Some(status) = text.strip_prefix("SIP/2.0 ") else {
        if method == "BYE"
            && let Some(dialog) = state.dialogs.get_mut(&call_id)
        {
            dialog.ended_on = Some(connection);
        }
        let mut contact = String::new();
        if method == "REGISTER" {
            contact = format!("Contact: {};expires=60\r\n", header(text, "Contact"));
            let uri = header(text, "Contact").split(['<', '>']).nth(1).unwrap_or_default().to_owned();
            state.registered.push(Registered { connection, call_id, cseq: number, contact: uri });
        }
        let ok = || format!("{}{contact}Content-Length: 0\r\n\r\n", frame(text, 200, header(text, "To")));
        return (method != "ACK").then(ok);
    };
    let status = status.split(' ').next().and_then(|status| status.parse().ok()).unwrap_or(0);
    if status < 200 {
        return None;
    }
    state.finals.insert((call_id.clone(), number), Final { status, text: text.to_owned() });
    let dialog = state.dialogs.get_mut(&call_id).filter(|_| method == "INVITE")?;
    if status < 300 {
        dialog.remote = header(text, "To").to_owned();
        dialog.target = header(text, "Contact").split(['<', '>']).nth(1).unwrap_or_default().to_owned();
    }
    let (via, from, to) = (header(text, "Via"), header(text, "From"), header(text, "To"));
    let branch = if status < 300 { format!("{via}ack") } else { via.to_owned() };
    Some(format!(
        "ACK {} SIP/2.0\r\nVia: {branch}\r\nMax-Forwards: 70\r\nFrom: {from}\r\nTo: {to}\r\nCall-ID: {call_id}\r\n\
         CSeq: {number} ACK\r\nContent-Length: 0\r\n\r\n",
        dialog.target
    ))
}
