//! One connection to the dataplane: greeting, requests, replies, events.

use std::{collections::BTreeMap, io, path::Path, time::Duration};

use gangway_shared::{
    ids::EventSeq,
    rcp::{
        ControlMessage, DataplaneMessage, ErrorCode, Hello, PROTOCOL, PROTOCOLS, RelayError, Reply, Request,
        frame::{self, FrameError},
    },
};
use thiserror::Error;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
    time::{Instant, timeout},
};

use super::{ClientConfig, Command, Dataplane, ReplyTo};
use crate::{
    gateway::effects::{Answer, Input},
    hub::HubHandle,
};

/// Why a connection ended.
#[derive(Debug, Error)]
pub(super) enum LinkError {
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    #[error("the dataplane closed the connection")]
    Closed,
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("the dataplane speaks protocol {0}; {first} to {last} are understood", first = PROTOCOLS.start(), last = PROTOCOLS.end())]
    Protocol(u16),
    #[error("the dataplane did not answer in time")]
    Silent,
    #[error("the dataplane refused the greeting: {0}")]
    Refused(RelayError),
    #[error("the dataplane did not greet first")]
    NoGreeting,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Link {
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
    buffer: Vec<u8>,
    timeout: Duration,
    waiting: BTreeMap<u64, Waiting>,
    next_id: u64,
    last_heard: Instant,
}

#[derive(Debug)]
struct Waiting {
    since: Instant,
    reply_to: Option<ReplyTo>,
}

/// Bytes read at once.
const READ_BYTES: usize = 64 * 1024;

impl Link {
    pub(super) async fn connect(socket: &Path) -> io::Result<Self> {
        let (reader, writer) = UnixStream::connect(socket).await?.into_split();
        let timeout = Duration::from_secs(1);
        let last_heard = Instant::now();
        Ok(Link { reader, writer, buffer: Vec::new(), timeout, waiting: BTreeMap::new(), next_id: 1, last_heard })
    }

    /// Exchanges greetings. The dataplane's comes first, because our epoch must lie above the one it knows; `established` says that
    /// `epoch` is already ours and not a former control's.
    pub(super) async fn greet(
        &mut self,
        config: &ClientConfig,
        epoch: u32,
        established: bool,
        seen: Option<(String, EventSeq)>,
    ) -> Result<Dataplane, LinkError> {
        self.timeout = config.timeout;
        let hello = match timeout(self.timeout, self.message()).await.map_err(|_| LinkError::Silent)?? {
            DataplaneMessage::Hello(hello) => hello,
            DataplaneMessage::Error { error, .. } => return Err(LinkError::Refused(error)),
            _ => return Err(LinkError::NoGreeting),
        };
        if !PROTOCOLS.contains(&hello.protocol) {
            return Err(LinkError::Protocol(hello.protocol));
        }
        let ours = established && hello.epoch <= epoch;
        let epoch = if ours { epoch } else { epoch.max(hello.epoch).saturating_add(1) };
        // Of a run that nothing was heard of, everything: it may carry calls of a former control, and say of them what that one missed.
        let seen = seen.filter(|(instance, _)| *instance == hello.instance);
        let resume_from = seen.or_else(|| Some((hello.instance.clone(), EventSeq::default())));
        let greeting = Hello {
            protocol: PROTOCOL.min(hello.protocol),
            instance: config.instance.clone(),
            epoch,
            engine: None,
            workers: None,
            capabilities: Vec::new(),
            webrtc: Vec::new(),
            media_ports: None,
            resume_from,
        };
        self.write(&ControlMessage::Hello(greeting)).await?;
        Ok(Dataplane { hello, epoch })
    }

    /// Serves until the connection ends; `Ok` when no handle is left.
    pub(super) async fn serve(
        &mut self,
        commands: &mut mpsc::Receiver<Command>,
        hub: &HubHandle,
        instance: &str,
        seen: &mut Option<(String, EventSeq)>,
    ) -> Result<(), LinkError> {
        let mut check = tokio::time::interval(self.timeout / 4);
        let mut chunk = vec![0; READ_BYTES];
        loop {
            while let Some(message) = frame::decode(&mut self.buffer)? {
                self.take(message, hub, instance, seen).await?;
            }
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command { request, reply_to }) => self.request(request, Some(reply_to), hub).await?,
                    None => return Ok(()),
                },
                read = self.reader.read(&mut chunk) => {
                    let len = read?;
                    if len == 0 {
                        return Err(LinkError::Closed);
                    }
                    self.last_heard = Instant::now();
                    self.buffer.extend_from_slice(&chunk[..len]);
                }
                _ = check.tick() => self.check(hub).await?,
            }
        }
    }

    /// Who still waits when the connection has ended.
    pub(super) fn into_waiting(self) -> impl Iterator<Item = ReplyTo> {
        self.waiting.into_values().filter_map(|waiting| waiting.reply_to)
    }

    /// A dataplane that is silent although something was asked is as good as gone. The ping makes sure that something is asked.
    async fn check(&mut self, hub: &HubHandle) -> Result<(), LinkError> {
        let oldest = self.waiting.first_key_value().map(|(_, waiting)| waiting.since);
        if oldest.is_some_and(|since| since.elapsed() > self.timeout) {
            return Err(LinkError::Silent);
        }
        if self.waiting.is_empty() && self.last_heard.elapsed() > self.timeout / 2 {
            self.request(Request::Ping, None, hub).await?;
        }
        Ok(())
    }

    async fn request(&mut self, request: Request, reply_to: Option<ReplyTo>, hub: &HubHandle) -> Result<(), LinkError> {
        let id = self.next_id;
        self.next_id += 1;
        self.waiting.insert(id, Waiting { since: Instant::now(), reply_to });
        let mut bytes = Vec::new();
        // What does not fit a frame is one call's trouble and nobody else's.
        if let Err(error) = frame::encode(&ControlMessage::Request { id, request }, &mut bytes) {
            tracing::error!(%error, "a request to the dataplane does not fit a frame");
            self.reply(id, Err(RelayError::new(ErrorCode::Invalid, "program", error.to_string())), hub).await;
            return Ok(());
        }
        self.write_bytes(&bytes).await
    }

    async fn write(&mut self, message: &ControlMessage) -> Result<(), LinkError> {
        let mut bytes = Vec::new();
        frame::encode(message, &mut bytes)?;
        self.write_bytes(&bytes).await
    }

    async fn write_bytes(&mut self, bytes: &[u8]) -> Result<(), LinkError> {
        match timeout(self.timeout, self.writer.write_all(bytes)).await {
            Ok(written) => Ok(written?),
            Err(_) => Err(LinkError::Silent),
        }
    }

    /// The next message, read alone: for the greeting.
    async fn message(&mut self) -> Result<DataplaneMessage, LinkError> {
        loop {
            if let Some(message) = frame::decode(&mut self.buffer)? {
                return Ok(message);
            }
            if self.reader.read_buf(&mut self.buffer).await? == 0 {
                return Err(LinkError::Closed);
            }
        }
    }

    async fn take(
        &mut self,
        message: DataplaneMessage,
        hub: &HubHandle,
        instance: &str,
        seen: &mut Option<(String, EventSeq)>,
    ) -> Result<(), LinkError> {
        match message {
            DataplaneMessage::Ok { id, reply } => self.reply(id, Ok(reply), hub).await,
            DataplaneMessage::Error { id: 0, error } => return Err(LinkError::Refused(error)),
            DataplaneMessage::Error { id, error } => self.reply(id, Err(error), hub).await,
            DataplaneMessage::Event { seq, event } => {
                *seen = Some((instance.to_owned(), seq));
                hub.deliver(Input::RelayEvent { event }).await;
                hub.deliver(Input::RelaySeen { instance: instance.to_owned(), seq }).await;
            }
            DataplaneMessage::Gap { resumes_at } => {
                let seq = EventSeq(resumes_at.0.saturating_sub(1));
                *seen = Some((instance.to_owned(), seq));
                hub.deliver(Input::RelayGap).await;
                hub.deliver(Input::RelaySeen { instance: instance.to_owned(), seq }).await;
            }
            DataplaneMessage::Hello(_) => return Err(LinkError::NoGreeting),
        }
        Ok(())
    }

    async fn reply(&mut self, id: u64, result: Result<Reply, RelayError>, hub: &HubHandle) {
        // A reply to nothing we asked is of no use to anybody.
        let Some(waiting) = self.waiting.remove(&id) else { return };
        match waiting.reply_to {
            None => {}
            Some(ReplyTo::Core(id)) => hub.deliver(Input::RelayReply { id, result }).await,
            Some(ReplyTo::Ask(ask)) => {
                let answer = match result {
                    Ok(Reply::Put(put)) => Answer::Allocated(put),
                    Ok(_) => Answer::NotAllocated(super::down()),
                    Err(error) => Answer::NotAllocated(error),
                };
                hub.deliver(Input::Answer { ask, answer }).await;
            }
            Some(ReplyTo::Caller(sender)) => {
                let _ = sender.send(result);
            }
        }
    }
}
