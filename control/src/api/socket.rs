//! One browser's websocket: frames in to the hub, messages out of a bounded queue, a gentle end.

use std::{sync::Arc, time::Duration};

use futures_util::{Sink, SinkExt, StreamExt, stream::SplitSink, stream::SplitStream};
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, timeout, timeout_at},
};
use warp::ws::{Message, WebSocket};

use super::{listener::ConnInfo, schema};
use crate::{
    config::Config,
    gateway::effects::{Input, SocketId, SocketPeer},
    hub::HubHandle,
    metrics::Metrics,
};

/// The hub's way to one socket: a bounded queue that is never waited for. Once it is closed or dropped the socket has
/// `ws_close_timeout_ms` left, whatever its browser does.
#[derive(Debug)]
pub struct Outbox {
    queue: mpsc::Sender<Command>,
    signals: Arc<Signals>,
}

/// What must reach a socket's task also while it waits for its browser.
#[derive(Debug, Default)]
struct Signals {
    /// The queue is full.
    full: Notify,
    /// Nothing more will be queued.
    closing: Notify,
}

#[derive(Debug)]
enum Command {
    Text(String),
    Close(u16),
}

/// The socket's queue is full or its task has ended. The task tells `SocketClosed` by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutboxClosed;

impl Outbox {
    fn new(capacity: usize) -> (Self, mpsc::Receiver<Command>) {
        let (queue, commands) = mpsc::channel(capacity);
        (Outbox { queue, signals: Arc::default() }, commands)
    }

    /// Queues a text frame. A full queue ends the socket: the browser does not read.
    ///
    /// # Errors
    /// [`OutboxClosed`]
    pub fn send(&self, text: String) -> Result<(), OutboxClosed> {
        self.command(Command::Text(text))
    }

    /// Queues the end: what was queued before goes out first, then a close frame with `code`.
    pub fn close(self, code: u16) {
        let _ = self.command(Command::Close(code));
    }

    fn command(&self, command: Command) -> Result<(), OutboxClosed> {
        self.queue.try_send(command).map_err(|_| {
            self.signals.full.notify_one();
            OutboxClosed
        })
    }
}

/// What was queued for a socket, for tests of whoever speaks to it.
#[cfg(test)]
pub(crate) struct Frames(mpsc::Receiver<Command>);

#[cfg(test)]
impl Frames {
    /// The next text frame, if there is one now.
    pub(crate) fn next(&mut self) -> Option<String> {
        match self.0.try_recv() {
            Ok(Command::Text(text)) => Some(text),
            Ok(Command::Close(_)) | Err(_) => None,
        }
    }
}

#[cfg(test)]
impl Outbox {
    /// One without a socket.
    pub(crate) fn with_frames(capacity: usize) -> (Self, Frames) {
        let (outbox, commands) = Outbox::new(capacity);
        (outbox, Frames(commands))
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.signals.closing.notify_one();
    }
}

/// What all sockets share.
#[derive(Debug)]
pub(crate) struct SocketContext {
    hub: HubHandle,
    metrics: Arc<Metrics>,
    queue_max: usize,
    message_max_bytes: usize,
    messages_per_s: u32,
    send_timeout: Duration,
    close_timeout: Duration,
}

impl SocketContext {
    pub(crate) fn new(config: &Config, hub: HubHandle, metrics: Arc<Metrics>) -> Self {
        SocketContext {
            hub,
            metrics,
            queue_max: config.count("ws_send_queue_max"),
            message_max_bytes: config.count("ws_message_max_bytes"),
            messages_per_s: u32::try_from(config.number("ws_messages_per_s")).expect("the table bounds it"),
            send_timeout: config.millis("tcp_user_timeout_ms"),
            close_timeout: config.millis("ws_close_timeout_ms"),
        }
    }
}

/// What the websocket layer takes before it breaks the connection. It is above the limit of messages so that a message that is only
/// too large is read, and the socket closed with 1009 in good order instead of a reset.
pub(crate) const fn hard_message_max_bytes(message_max_bytes: usize) -> usize {
    let slack = 2 << 20;
    if message_max_bytes > slack { message_max_bytes * 2 } else { message_max_bytes + slack }
}

/// Close codes of RFC 6455 section 7.4.1.
mod code {
    pub(super) const NORMAL: u16 = 1000;
    pub(super) const POLICY: u16 = 1008;
    pub(super) const TOO_BIG: u16 = 1009;
    pub(super) const TRY_AGAIN_LATER: u16 = 1013;
}

/// Why the loop of a socket ended.
enum End {
    /// We close: with this code.
    Close(u16),
    /// The peer closed or the connection broke.
    Gone,
}

/// Serves one websocket until it ends; then tells the hub.
pub(crate) async fn run(ws: WebSocket, info: ConnInfo, origin: Option<String>, context: Arc<SocketContext>) {
    let (outbox, commands) = Outbox::new(context.queue_max);
    let signals = Arc::clone(&outbox.signals);
    let peer = SocketPeer { remote: info.remote, local: info.local, secure: info.secure, origin };
    let (sink, stream) = ws.split();
    let Ok(socket) = context.hub.open_socket(peer, outbox) else {
        close(sink, stream, code::TRY_AGAIN_LATER, &context).await;
        return;
    };
    let rate = Rate::new(context.messages_per_s, Instant::now());
    let session = Session { socket, sink, stream, commands, rate };
    tokio::select! {
        // In this order, because the hub lets go of a full outbox in the same moment, which alone looks like an ordinary end.
        biased;
        () = signals.full.notified() => context.metrics.sockets_slow.add(1),
        () = overdue(&signals, context.close_timeout) => {}
        () = session.run(&context) => {}
    }
    context.hub.deliver(Input::SocketClosed { socket }).await;
    drop(info.admitted);
}

/// The hub has closed the socket, and its time is over.
async fn overdue(signals: &Signals, close_timeout: Duration) {
    signals.closing.notified().await;
    tokio::time::sleep(close_timeout).await;
}

struct Session {
    socket: SocketId,
    sink: SplitSink<WebSocket, Message>,
    stream: SplitStream<WebSocket>,
    commands: mpsc::Receiver<Command>,
    rate: Rate,
}

impl Session {
    /// Serves the socket and ends it in good order where it still can be.
    async fn run(mut self, context: &SocketContext) {
        if let End::Close(code) = self.serve(context).await {
            close(self.sink, self.stream, code, context).await;
        }
    }

    async fn serve(&mut self, context: &SocketContext) -> End {
        loop {
            tokio::select! {
                // What waits to be sent goes first: reading on would only make more of it.
                biased;
                command = self.commands.recv() => match command {
                    Some(Command::Text(text)) => {
                        if let Err(end) = send(&mut self.sink, text, context).await {
                            return end;
                        }
                    }
                    Some(Command::Close(code)) => return End::Close(code),
                    None => return End::Close(code::NORMAL),
                },
                frame = self.stream.next() => {
                    let Some(Ok(frame)) = frame else { return End::Gone };
                    if let Some(end) = self.frame(&frame, context) {
                        return end;
                    }
                    // The hub gets its turn: a burst that came in one piece must not look like a browser that does not read.
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    /// Takes one frame; `Some` ends the socket.
    fn frame(&mut self, frame: &Message, context: &SocketContext) -> Option<End> {
        if frame.is_close() {
            // The websocket layer answers the close frame when it is polled on.
            return None;
        }
        // Pings count too: answering them is work.
        if !self.rate.take(Instant::now()) {
            context.metrics.sockets_over_rate.add(1);
            return Some(End::Close(code::POLICY));
        }
        if frame.is_ping() || frame.is_pong() {
            return None;
        }
        if frame.as_bytes().len() > context.message_max_bytes {
            context.metrics.sockets_oversize.add(1);
            return Some(End::Close(code::TOO_BIG));
        }
        let socket = self.socket;
        let input = match frame.to_str().map_err(|()| schema::FrameProblem::Binary.into()).and_then(schema::decode) {
            Ok(message) => Input::SocketMessage { socket, message },
            Err(schema::BadFrame { subject, problem }) => {
                Input::SocketRefused { socket, subject, problem: problem.to_string() }
            }
        };
        context.hub.offer(input).err().map(|_| End::Close(code::TRY_AGAIN_LATER))
    }
}

/// Sends one text frame. A browser that takes nothing must not hold the task: the kernel's own timeout (`TCP_USER_TIMEOUT`) starts
/// anew with each byte that is taken.
async fn send(sink: &mut (impl Sink<Message> + Unpin), text: String, context: &SocketContext) -> Result<(), End> {
    match timeout(context.send_timeout, sink.send(Message::text(text))).await {
        Ok(sent) => sent.map_err(|_| End::Gone),
        Err(_) => {
            context.metrics.sockets_slow.add(1);
            Err(End::Gone)
        }
    }
}

/// Ends a websocket in good order: close frame, then the peer's own, or the deadline. Nothing is written after the close frame.
async fn close(
    mut sink: SplitSink<WebSocket, Message>,
    mut stream: SplitStream<WebSocket>,
    code: u16,
    context: &SocketContext,
) {
    let deadline = Instant::now() + context.close_timeout;
    let frame = Message::close_with(code, "");
    if !matches!(timeout_at(deadline, sink.send(frame)).await, Ok(Ok(()))) {
        return;
    }
    while let Ok(Some(Ok(_))) = timeout_at(deadline, stream.next()).await {}
}

/// A token bucket: `per_s` messages a second on average, five seconds' worth at once.
#[derive(Debug)]
struct Rate {
    per_s: f64,
    tokens: f64,
    last: Instant,
}

/// Seconds' worth of messages that may come at once.
const BURST_S: f64 = 5.0;

impl Rate {
    fn new(per_s: u32, now: Instant) -> Self {
        let per_s = f64::from(per_s);
        Rate { per_s, tokens: per_s * BURST_S, last: now }
    }

    fn take(&mut self, now: Instant) -> bool {
        let gained = now.duration_since(self.last).as_secs_f64() * self.per_s;
        self.last = now;
        self.tokens = (self.tokens + gained).min(self.per_s * BURST_S);
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::Pin,
        task::{self, Poll},
    };

    use super::*;
    use crate::config::Sources;

    #[test]
    fn a_burst_is_taken_and_a_flood_is_not() {
        let start = Instant::now();
        let mut rate = Rate::new(10, start);
        assert_eq!((0..100).filter(|_| rate.take(start)).count(), 50);
        let later = start + Duration::from_secs(1);
        assert_eq!((0..100).filter(|_| rate.take(later)).count(), 10);
    }

    /// A browser that takes nothing.
    struct Stuck;

    impl Sink<Message> for Stuck {
        type Error = ();

        fn poll_ready(self: Pin<&mut Self>, _: &mut task::Context<'_>) -> Poll<Result<(), ()>> {
            Poll::Pending
        }

        fn start_send(self: Pin<&mut Self>, _: Message) -> Result<(), ()> {
            Ok(())
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut task::Context<'_>) -> Poll<Result<(), ()>> {
            Poll::Pending
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut task::Context<'_>) -> Poll<Result<(), ()>> {
            Poll::Pending
        }
    }

    #[tokio::test]
    async fn a_message_that_is_not_taken_in_time_ends_the_socket() {
        let config = Config::parse("", "tcp_user_timeout_ms=100\n", Sources::default()).unwrap();
        let (hub, _queue) = crate::hub::queue(1);
        let context = SocketContext::new(&config, hub, Arc::default());
        let sent = timeout(Duration::from_secs(20), send(&mut Stuck, "x".to_owned(), &context)).await;
        assert!(matches!(sent, Ok(Err(End::Gone))));
        assert_eq!(context.metrics.sockets_slow.value(), 1);
    }

    #[tokio::test]
    async fn closing_and_dropping_both_start_the_last_wait() {
        for close in [true, false] {
            let (outbox, _commands) = Outbox::new(2);
            let signals = Arc::clone(&outbox.signals);
            if close {
                outbox.close(1000);
            } else {
                drop(outbox);
            }
            let waited = timeout(Duration::from_secs(20), overdue(&signals, Duration::from_millis(1))).await;
            assert!(waited.is_ok(), "close: {close}");
        }
    }

    #[test]
    fn a_full_queue_ends_the_socket() {
        let (outbox, _commands) = Outbox::new(2);
        assert_eq!(outbox.send("a".to_owned()), Ok(()));
        assert_eq!(outbox.send("b".to_owned()), Ok(()));
        assert_eq!(outbox.send("c".to_owned()), Err(OutboxClosed));
    }
}
