//! Where a worker's relays put what they make: packets into the engine's queue, everything else into the manager's mailbox.

use std::{collections::VecDeque, net::SocketAddr};

use gangway_shared::rcp::Event;

use super::messages::Report;
use crate::{
    engine::{BufferId, Engine, Outgoing},
    mailbox::Sender,
    relay::{LegHandle, Output, PortId, Relays},
    wire::{BUFFER_LEN_BYTES, DropReason},
};

/// Events and answers kept while the manager's mailbox is full.
const BACKLOG_MAX: usize = 65_536;

/// Packets that the relays can make by themselves while they hold one in hand.
const GENERATED_MAX: usize = 64;

/// Changes of whom a port hears that one packet can cause.
const HEARD_MAX: usize = 4;

/// The way to the manager.
pub(super) struct Post {
    pub(super) outbox: Sender<Report>,
    pub(super) backlog: VecDeque<Report>,
}

impl Post {
    pub(super) fn post(&mut self, report: Report) {
        let rejected = if self.backlog.is_empty() { self.outbox.send(report) } else { Err(report) };
        if let Err(report) = rejected {
            if self.backlog.len() < BACKLOG_MAX {
                self.backlog.push_back(report);
            } else {
                tracing::error!(?report, "the manager does not read its mail; a report is lost");
            }
        }
    }

    pub(super) fn flush(&mut self) {
        while let Some(report) = self.backlog.pop_front() {
            if let Err(report) = self.outbox.send(report) {
                self.backlog.push_front(report);
                return;
            }
        }
    }

    fn dtls(&mut self, leg: LegHandle, port: PortId, from: SocketAddr, datagram: &[u8]) -> bool {
        self.outbox.send(Report::Dtls { leg, port, from, datagram: datagram.to_vec() }).is_ok()
    }
}

/// Packets made while another is in hand: its buffer is borrowed from the engine, so they wait beside it.
pub(super) struct Generated {
    room: Vec<[u8; BUFFER_LEN_BYTES]>,
    waiting: Vec<(PortId, SocketAddr, usize)>,
    /// Whom ports hear from now on.
    pub(super) heard: Vec<(PortId, Option<SocketAddr>)>,
}

impl Generated {
    pub(super) fn new() -> Self {
        Generated {
            room: vec![[0; BUFFER_LEN_BYTES]; GENERATED_MAX],
            waiting: Vec::with_capacity(GENERATED_MAX),
            heard: Vec::with_capacity(HEARD_MAX),
        }
    }

    pub(super) fn clear(&mut self) {
        self.waiting.clear();
        self.heard.clear();
    }

    pub(super) fn send<E: Engine>(&mut self, engine: &mut E, relays: &mut Relays) {
        for (at, (port, to, len)) in self.waiting.drain(..).enumerate() {
            match take_buffer(engine) {
                Some(buffer) => {
                    engine.buffer(buffer)[..len].copy_from_slice(&self.room[at][..len]);
                    engine.send(Outgoing { port, to, buffer, start: 0, len });
                }
                None => relays.count_drop(DropReason::BuffersExhausted),
            }
        }
    }
}

/// Output of the relays while a packet is in hand.
pub(super) struct Beside<'a> {
    pub(super) generated: &'a mut Generated,
    pub(super) post: &'a mut Post,
}

impl Output for Beside<'_> {
    fn transmit(&mut self, port: PortId, to: SocketAddr, build: impl FnOnce(&mut [u8]) -> usize) -> bool {
        let Some(room) = self.generated.room.get_mut(self.generated.waiting.len()) else { return false };
        let len = build(room);
        if len > 0 {
            self.generated.waiting.push((port, to, len));
        }
        true
    }

    fn event(&mut self, event: Event) {
        self.post.post(Report::Event(event));
    }

    fn dtls(&mut self, leg: LegHandle, port: PortId, from: SocketAddr, datagram: &[u8]) -> bool {
        self.post.dtls(leg, port, from, datagram)
    }

    fn dtls_path(&mut self, leg: LegHandle, port: PortId, from: SocketAddr) {
        self.post.post(Report::DtlsPath { leg, port, from });
    }

    fn hear(&mut self, port: PortId, peer: Option<SocketAddr>) {
        self.generated.heard.push((port, peer));
    }
}

/// Output of the relays while no packet is in hand.
pub(super) struct Free<'a, E> {
    pub(super) engine: &'a mut E,
    pub(super) post: &'a mut Post,
}

impl<E: Engine> Output for Free<'_, E> {
    fn transmit(&mut self, port: PortId, to: SocketAddr, build: impl FnOnce(&mut [u8]) -> usize) -> bool {
        let Some(buffer) = take_buffer(self.engine) else { return false };
        match build(self.engine.buffer(buffer)) {
            0 => self.engine.recycle(buffer),
            len => self.engine.send(Outgoing { port, to, buffer, start: 0, len }),
        }
        true
    }

    fn event(&mut self, event: Event) {
        self.post.post(Report::Event(event));
    }

    fn dtls(&mut self, leg: LegHandle, port: PortId, from: SocketAddr, datagram: &[u8]) -> bool {
        self.post.dtls(leg, port, from, datagram)
    }

    fn dtls_path(&mut self, leg: LegHandle, port: PortId, from: SocketAddr) {
        self.post.post(Report::DtlsPath { leg, port, from });
    }

    fn hear(&mut self, port: PortId, peer: Option<SocketAddr>) {
        self.engine.connect(port, peer);
    }
}

/// Buffers in the send queue come back when it is flushed.
pub(super) fn take_buffer<E: Engine>(engine: &mut E) -> Option<BufferId> {
    engine.take_buffer().or_else(|| {
        engine.flush();
        engine.take_buffer()
    })
}
