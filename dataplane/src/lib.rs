//! Gangway's packet house.
//!
//! Pinned workers forward, decrypt, encrypt and repair media; nobody is needed to keep them going. Control programs them over a
//! unix socket (the relay control protocol, `gangway_shared::rcp`) and may go and come while people talk.
//!
//! # The way of a packet
//!
//! One pinned core, no lock, no allocation, no log line ([`worker`]):
//!
//! ```text
//! wire -> engine.receive -> wire::classify -+- STUN -> ice_lite::respond ------------------------> engine.send
//!                                           +- DTLS -> mailbox -> manager/dtls -> mailbox -------> engine.send
//!                                           +- RTP/RTCP -> table -> leg (path, latch) -> srtp unprotect
//!                                               -> route: transform -> rewrite -> peer's srtp protect -> engine.send
//! ```
//!
//! Each stage takes the packet in its buffer and says [`relay::Verdict`]; no stage calls an earlier one. Whatever is wrong with a
//! packet is a [`wire::DropReason`], and each reason is a counter that `Query` shows.
//!
//! # Who is who
//!
//! | modules | role |
//! |---|---|
//! | [`wire`], [`srtp`], [`ice_lite`], [`transform`] | bytes of the protocols, pure |
//! | [`generator`] | sound that fills a stream whose source gives none, pure |
//! | [`arena`], [`relay`] | a worker's relays: all state in fixed records, and the walk over it; pure |
//! | [`dtls`], [`registry`], [`events`] | handshakes, what control wants, what it is told; pure |
//! | [`engine`] | how packets get in and out: io_uring, epoll, or a virtual network in virtual time |
//! | [`worker`] | the hot loop around an engine and its relays; takes them back from the arena after a panic |
//! | [`manager`] | the one cold thread: control socket, credentials, DTLS timers, mailboxes |
//! | [`keeper`] | the parent process: owns sockets and arenas, starts the relay and starts it again |
//! | [`sandbox`] | the user, rights and system calls of a relay process |
//! | [`ports`] | the only opener of media sockets, the keeper's |
//! | [`config`], [`affinity`], [`mailbox`], [`stats`], [`stats_map`] | settings, cores, queues, counters, and the counters in memory that others map |
//! | [`files`] | the limit of open files |
//!
//! Start is [`keeper::process::run`] in the program, and [`manager::start`] without a process of its own.

pub mod affinity;
pub mod arena;
pub mod config;
pub mod dtls;
pub mod engine;
pub mod events;
pub mod files;
pub mod generator;
pub mod ice_lite;
pub mod keeper;
pub mod mailbox;
pub mod manager;
pub mod ports;
pub mod registry;
pub mod relay;
pub mod sandbox;
pub mod srtp;
pub mod stats;
pub mod stats_map;
pub mod transform;
pub mod wire;
pub mod worker;
