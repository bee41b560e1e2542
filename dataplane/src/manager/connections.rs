//! The unix socket of RCP: who may connect, frames in, frames out. Knows no relay.

use std::io::{self, Read, Write};

use gangway_shared::{
    ids::EventSeq,
    rcp::{ControlMessage, DataplaneMessage, ErrorCode, RelayError, frame},
    time::Time,
};
use mio::net::UnixStream;
use rustix::net::sockopt::socket_peercred;
use thiserror::Error;

/// Bytes of answers waiting for a control that does not read, from which on its requests are not read either.
const OUTPUT_PAUSE_BYTES: usize = 1 << 20;

/// Bytes of output from which on events stay in the log.
const EVENTS_PAUSE_BYTES: usize = 256 * 1024;

/// Bytes read at a time.
const READ_BYTES: usize = 64 * 1024;

/// Whether the process at the other end runs as the user that may control us.
pub(super) fn may_control(stream: &UnixStream, uid: u32) -> bool {
    socket_peercred(stream).is_ok_and(|peer| {
        let peer = peer.uid.as_raw();
        let allowed = peer == uid;
        if !allowed {
            tracing::warn!(peer, uid, "a connection of a user that may not control this dataplane was closed");
        }
        allowed
    })
}

/// Why a connection ends.
#[derive(Debug, Error)]
pub(super) enum Ended {
    #[error("closed by control")]
    ByPeer,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Frame(#[from] frame::FrameError),
}

/// One connection.
pub(super) struct Connection {
    pub(super) stream: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
    /// Bytes may wait in the kernel; edge-triggered, so it stays until a read says otherwise.
    is_readable: bool,
    /// Greeted by control; before that it has until `hello_by`.
    pub(super) greeted: bool,
    pub(super) hello_by: Time,
    /// The last event written.
    pub(super) seen: EventSeq,
}

impl Connection {
    pub(super) fn new(stream: UnixStream, hello_by: Time) -> Self {
        Connection {
            stream,
            input: Vec::new(),
            output: Vec::new(),
            is_readable: true,
            greeted: false,
            hello_by,
            seen: EventSeq::default(),
        }
    }

    pub(super) fn note_readable(&mut self) {
        self.is_readable = true;
    }

    /// The next message; `None` when no whole one is there, or when too many answers wait to be read.
    pub(super) fn next_message(&mut self) -> Result<Option<ControlMessage>, Ended> {
        loop {
            if self.output.len() > OUTPUT_PAUSE_BYTES {
                return Ok(None);
            }
            if let Some(message) = frame::decode(&mut self.input)? {
                return Ok(Some(message));
            }
            if !self.is_readable {
                return Ok(None);
            }
            self.read_more()?;
        }
    }

    fn read_more(&mut self) -> Result<(), Ended> {
        let mut bytes = [0; READ_BYTES];
        match self.stream.read(&mut bytes) {
            Ok(0) => return Err(Ended::ByPeer),
            Ok(len) => self.input.extend_from_slice(&bytes[..len]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.is_readable = false,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// True when events should stay in the log for now.
    pub(super) fn is_slow(&self) -> bool {
        self.output.len() > EVENTS_PAUSE_BYTES
    }

    /// Queues a message. An answer too large for a frame becomes an error, an event a gap: control then lists what there is.
    pub(super) fn push(&mut self, message: &DataplaneMessage) {
        let Err(error) = frame::encode(message, &mut self.output) else { return };
        tracing::error!(%error, "a message does not fit a frame");
        match message {
            DataplaneMessage::Ok { id, .. } => {
                let error = RelayError::new(ErrorCode::Internal, "", "the answer does not fit a frame");
                self.push(&DataplaneMessage::Error { id: *id, error });
            }
            DataplaneMessage::Event { seq, .. } => {
                self.push(&DataplaneMessage::Gap { resumes_at: EventSeq(seq.0 + 1) });
            }
            DataplaneMessage::Hello(_) | DataplaneMessage::Error { .. } | DataplaneMessage::Gap { .. } => {}
        }
    }

    /// Writes what the kernel takes.
    pub(super) fn flush(&mut self) -> Result<(), Ended> {
        let mut written = 0;
        while written < self.output.len() {
            match self.stream.write(&self.output[written..]) {
                Ok(0) => return Err(Ended::ByPeer),
                Ok(len) => written += len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.output.drain(..written);
        Ok(())
    }
}
