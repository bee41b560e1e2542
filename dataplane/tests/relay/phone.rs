//! The call that most tests make: a connected browser as leg 0 and a phone as leg 1 of relay 1.

use gangway_dataplane::{
    relay::PortId,
    srtp::Profile,
    wire::{PacketKind, classify},
};
use gangway_shared::{ids::LegId, rcp::RelayProgram};

use crate::world::{Browser, Heard, World, addr, hear, ports};

pub(crate) const PHONE: &str = "192.0.2.50:4000";
pub(crate) const BROWSER: &str = "198.51.100.7:50000";

/// The relay with its browser connected by AES-GCM.
pub(crate) fn connected(program: &RelayProgram) -> (World, Browser) {
    connected_by(program, Profile::AeadAes128Gcm)
}

pub(crate) fn connected_by(program: &RelayProgram, profile: Profile) -> (World, Browser) {
    let mut world = World::new();
    let handle = world.put(1, 1, program).legs[0].1;
    let mut browser = Browser::new(1, 0, handle, BROWSER, profile, 7);
    browser.connect(&mut world);
    (world, browser)
}

/// Where the phone's RTP comes in.
pub(crate) fn phone_port() -> PortId {
    ports(1, LegId(1)).0
}

/// What the phone was sent since the last look, without reports.
pub(crate) fn phone_heard(world: &mut World) -> Vec<Heard> {
    let sent = std::mem::take(&mut world.out.sent);
    let media = sent.iter().filter(|(port, _, bytes)| *port == phone_port() && classify(bytes) == Ok(PacketKind::Rtp));
    media.map(|(_, to, bytes)| (assert_eq!(*to, addr(PHONE)), hear(bytes)).1).collect()
}
