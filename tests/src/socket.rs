//! A raw websocket client that speaks frames of the WCS protocol: `message` and `data`. Answers pings as the SDK does, unless
//! told not to, and checks rule R1 (`data` is an array) on everything it gets.

use std::{
    io,
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{
    Error, Message, WebSocket, client,
    client::IntoClientRequest,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

use crate::deadline::Deadline;

/// How long the socket's thread waits for a frame before it looks whether there is something to send.
const TURN: Duration = Duration::from_millis(5);

/// One frame of the server.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    /// Its `message`.
    pub message: String,
    /// Its `data`, an array.
    pub data: Vec<Value>,
}

impl Frame {
    /// The first element of `data`.
    pub fn first(&self) -> &Value {
        self.data.first().unwrap_or(&Value::Null)
    }
}

/// What ends the reading side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// A close frame with this code; 1005 when it had none.
    Closed(u16),
    /// The connection broke or was never a good one.
    Broken(String),
}

enum Told {
    Frame(Frame),
    End(End),
}

/// An open websocket.
pub struct Socket {
    outgoing: Sender<Message>,
    incoming: Receiver<Told>,
    waiting: Vec<Frame>,
    seen: Vec<String>,
    end: Option<End>,
    answers_pings: Arc<AtomicBool>,
}

impl Socket {
    /// Opens `url` (ws only) with the path `/` and no subprotocol. `extensions` is the offer of an extension header, if any.
    ///
    /// # Errors
    /// What the handshake failed with.
    pub fn open(url: &str, extensions: Option<&str>) -> Result<Self, String> {
        let mut request = url.into_client_request().map_err(|error| error.to_string())?;
        if let Some(offer) = extensions {
            request.headers_mut().insert("Sec-WebSocket-Extensions", offer.parse().expect("a header value"));
        }
        let authority = url.trim_start_matches("ws://").split('/').next().unwrap_or_default();
        let stream = TcpStream::connect(authority).map_err(|error| error.to_string())?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).map_err(|error| error.to_string())?;
        let (socket, response) = client(request, stream).map_err(|error| error.to_string())?;
        if let Some(chosen) = response.headers().get("sec-websocket-protocol") {
            return Err(format!("the server chose the subprotocol {chosen:?}, which nobody offered"));
        }
        socket.get_ref().set_read_timeout(Some(TURN)).map_err(|error| error.to_string())?;
        let (outgoing, to_send) = channel();
        let (told, incoming) = channel();
        let answers_pings = Arc::new(AtomicBool::new(true));
        let answers = Arc::clone(&answers_pings);
        thread::spawn(move || {
            let end = run(socket, &to_send, &told, &answers);
            let _ = told.send(Told::End(end));
        });
        Ok(Self { outgoing, incoming, waiting: Vec::new(), seen: Vec::new(), end: None, answers_pings })
    }

    /// Sends a frame with one element of data, as the SDK does.
    pub fn send(&self, message: &str, data: Value) {
        self.send_text(&json!({ "message": message, "data": [data] }).to_string());
    }

    /// Sends any text.
    pub fn send_text(&self, text: &str) {
        let _ = self.outgoing.send(Message::text(text));
    }

    /// Sends bytes that are not a text frame.
    pub fn send_binary(&self, bytes: Vec<u8>) {
        let _ = self.outgoing.send(Message::binary(bytes));
    }

    /// Closes as the SDK does on `disconnect()`: a close frame without a code.
    pub fn close(&self) {
        let _ = self.outgoing.send(Message::Close(None));
    }

    /// Closes as a page that is left: code 1001.
    pub fn go_away(&self) {
        let _ = self.outgoing.send(Message::Close(Some(CloseFrame { code: CloseCode::Away, reason: "".into() })));
    }

    /// Whether pings are answered from now on.
    pub fn answer_pings(&self, answered: bool) {
        self.answers_pings.store(answered, Ordering::Relaxed);
    }

    /// Waits for the next frame with this `message`. Frames with other names stay to be waited for.
    ///
    /// # Panics
    /// When the deadline passes or the socket ends before; the message lists every frame that came.
    #[track_caller]
    pub fn expect(&mut self, message: &str, deadline: Deadline) -> Frame {
        self.expect_where(message, deadline, |frame| frame.message == message)
    }

    /// Waits for the next frame that `is_wanted`; `what` says in words which.
    #[track_caller]
    pub fn expect_where(&mut self, what: &str, deadline: Deadline, is_wanted: impl Fn(&Frame) -> bool) -> Frame {
        loop {
            if let Some(at) = self.waiting.iter().position(&is_wanted) {
                return self.waiting.remove(at);
            }
            if !self.receive(deadline) {
                panic!(
                    "websocket: waited in vain for {what}; frames so far {:?}; waiting {:?}; end {:?}",
                    self.seen, self.waiting, self.end
                );
            }
        }
    }

    /// Waits for the server to close; the code it gave.
    #[track_caller]
    pub fn expect_end(&mut self, deadline: Deadline) -> End {
        while self.end.is_none() {
            assert!(
                self.receive(deadline) || self.end.is_some(),
                "the websocket is still open; frames so far: {:?}",
                self.seen
            );
        }
        self.end.clone().expect("the loop ended with it")
    }

    /// Whether it is still open, after what has come by now was looked at.
    pub fn is_open(&mut self) -> bool {
        while self.receive(Deadline::after(Duration::from_millis(1))) {}
        self.end.is_none()
    }

    /// The names of all frames so far but pings, in order.
    pub fn names(&mut self) -> Vec<String> {
        while self.receive(Deadline::after(Duration::from_millis(1))) {}
        self.seen.iter().filter(|name| *name != "ping").cloned().collect()
    }

    /// How many pings have come.
    pub fn pings(&mut self) -> usize {
        while self.receive(Deadline::after(Duration::from_millis(1))) {}
        self.seen.iter().filter(|name| *name == "ping").count()
    }

    fn receive(&mut self, deadline: Deadline) -> bool {
        if self.end.is_some() {
            return false;
        }
        match self.incoming.recv_timeout(deadline.left().unwrap_or_default()) {
            Ok(Told::Frame(frame)) => {
                self.seen.push(frame.message.clone());
                if frame.message != "ping" {
                    self.waiting.push(frame);
                }
                true
            }
            Ok(Told::End(end)) => {
                self.end = Some(end);
                false
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => false,
        }
    }
}

fn run(
    mut socket: WebSocket<TcpStream>,
    to_send: &Receiver<Message>,
    told: &Sender<Told>,
    answers: &AtomicBool,
) -> End {
    loop {
        loop {
            match to_send.try_recv() {
                Ok(message) => {
                    if let Err(error) = socket.send(message) {
                        return ended(&error);
                    }
                }
                Err(std::sync::mpsc::TryRecvError::Empty) => break,
                // The test dropped its end: leave without a word, as a browser that crashed.
                Err(std::sync::mpsc::TryRecvError::Disconnected) => {
                    return End::Broken("dropped by the test".to_owned());
                }
            }
        }
        let text = match socket.read() {
            Ok(Message::Text(text)) => text,
            Ok(Message::Close(frame)) => {
                let code = frame.map_or(1005, |frame| frame.code.into());
                // Hands over the answer to the close frame.
                while socket.flush().is_ok() && socket.read().is_ok() {}
                return End::Closed(code);
            }
            Ok(_) => continue,
            Err(Error::Io(error)) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                continue;
            }
            Err(error) => return ended(&error),
        };
        let frame = match parse(&text) {
            Ok(frame) => frame,
            Err(fault) => return End::Broken(fault),
        };
        if frame.message == "ping" && answers.load(Ordering::Relaxed) {
            let _ = socket.send(Message::text(r#"{"message":"pong","data":[null]}"#));
        }
        if told.send(Told::Frame(frame)).is_err() {
            return End::Broken("dropped by the test".to_owned());
        }
    }
}

fn ended(error: &Error) -> End {
    match error {
        Error::ConnectionClosed | Error::AlreadyClosed => End::Closed(1005),
        other => End::Broken(other.to_string()),
    }
}

/// Rule R1: every text frame is an object with `message` and an array `data`.
fn parse(text: &str) -> Result<Frame, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| format!("R1 broken, not JSON ({error}): {text}"))?;
    match (value["message"].as_str(), value["data"].as_array()) {
        (Some(message), Some(data)) => Ok(Frame { message: message.to_owned(), data: data.clone() }),
        _ => Err(format!("R1 broken, no message or no data array: {text}")),
    }
}
