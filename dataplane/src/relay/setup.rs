//! Programs into records: everything is checked first, then applied in place, so that a refused program changes nothing.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use gangway_shared::{
    ids::{LegId, RelayId},
    rcp::{
        Codec, ErrorCode, Event, Feedback, IceDtlsLeg, Leg, LegKind, Media, RelayError, RelayProgram, Route, RtpLeg,
        RtxPayload, SrtpKeys, SrtpSuite, limits::RTX_PAYLOADS_MAX,
    },
    secret::Secret,
};
use zeroize::Zeroizing;

use super::{
    Installed, LegLocal, LegSetup, Now, Output, PortId, RelaySetup, Relays,
    leg::Derived,
    route::{payload_entry, transform_of},
    table::{PORTS_MAX, PortUse, mix},
};
use crate::{
    arena::{Addr, OUT_STREAMS_MAX, PayloadEntry, RtxEntry, kind, step},
    ice_lite::LocalCredentials,
    registry,
    srtp::{MasterKey, Profile},
};

/// Keys of an `srtp` leg.
type SdesKeys = Option<(MasterKey, MasterKey)>;

fn kind_of(leg: &Leg) -> u8 {
    match leg.kind {
        LegKind::IceDtls(_) => kind::ICE_DTLS,
        LegKind::Srtp(_) => kind::SRTP,
        // The registry and `check` let no other kind through.
        LegKind::Rtp(_) | LegKind::Tap(_) => kind::RTP,
    }
}

/// Master keys from their text (RFC 4568 section 6.1: key and salt, joined).
fn sdes_keys(keys: &SrtpKeys, path: &str) -> Result<(MasterKey, MasterKey), RelayError> {
    let profile = match keys.suite {
        SrtpSuite::AesCm128HmacSha1_80 => Profile::AesCm128HmacSha1_80,
        SrtpSuite::AeadAes128Gcm => Profile::AeadAes128Gcm,
        SrtpSuite::AeadAes256Gcm => Profile::AeadAes256Gcm,
    };
    let read = |text: &Secret<String>, name: &str| {
        let bytes = Zeroizing::new(BASE64_STANDARD.decode(text.expose()).unwrap_or_default());
        let split = bytes.split_at_checked(profile.key_len());
        split.and_then(|(key, salt)| MasterKey::new(profile, key, salt)).ok_or_else(|| {
            let len = profile.key_len() + profile.salt_len();
            let reason = format!("the master key and salt of {} are {len} bytes in base64", profile.sdes_name());
            RelayError::new(ErrorCode::Invalid, format!("{path}.keys.{name}"), reason)
        })
    };
    Ok((read(&keys.local, "local")?, read(&keys.remote, "remote")?))
}

/// Takes a list of retransmission payload types; how many.
fn set_rtx(entries: &mut [RtxEntry; RTX_PAYLOADS_MAX], wanted: &[RtxPayload]) -> u8 {
    for (entry, RtxPayload { pt, apt }) in entries.iter_mut().zip(wanted) {
        *entry = RtxEntry { pt: *pt, apt: *apt };
    }
    wanted.len() as u8
}

impl Relays {
    /// See [`Relays::put`].
    pub(super) fn apply(
        &mut self,
        now: Now,
        setup: &RelaySetup,
        out: &mut impl Output,
    ) -> Result<Installed, RelayError> {
        let keys = self.check(setup)?;
        let slot = match self.by_id.get(&setup.relay) {
            Some(slot) => *slot,
            None => self.add_relay(now, setup.relay),
        };
        let relay = self.arena.relay_mut(slot);
        relay.digest = 0;
        step();
        let cname = setup.program.cname.as_bytes();
        relay.cname[..cname.len()].copy_from_slice(cname);
        relay.cname_len = cname.len() as u32;

        self.drop_routes(slot, &setup.program);
        step();
        self.drop_legs(slot, &setup.program, out);
        step();
        let mut legs = [0; gangway_shared::rcp::limits::LEGS_MAX];
        for (at, ((leg, local), keys)) in setup.program.legs.iter().zip(&setup.legs).zip(&keys).enumerate() {
            let existing = self.slot_of(setup.relay, leg.id);
            let leg_slot = existing.unwrap_or_else(|| self.add_leg(now, slot, leg, &setup.program));
            legs[at] = leg_slot + 1;
            step();
            self.set_leg(now, leg_slot, leg, local, keys, out);
            step();
        }
        self.arena.relay_mut(slot).legs = legs;
        step();
        self.set_routes(now, slot, setup);
        step();
        for leg in legs.iter().filter_map(|leg| leg.checked_sub(1)) {
            self.list_routes(leg);
            self.set_limit(now, leg);
            self.set_expected(now, leg);
            self.schedule(leg);
        }
        let relay = self.arena.relay_mut(slot);
        relay.generation = setup.generation.0;
        step();
        relay.digest = setup.digest;
        let handles = setup.program.legs.iter().zip(legs);
        Ok(Installed { legs: handles.map(|(leg, slot)| (leg.id, self.arena.handle(slot - 1))).collect() })
    }

    /// Everything that can be refused.
    fn check(&self, setup: &RelaySetup) -> Result<Vec<SdesKeys>, RelayError> {
        let program = &setup.program;
        program.validate()?;
        registry::check_supported(program)?;
        if setup.legs.len() != program.legs.len() {
            return Err(RelayError::new(ErrorCode::Internal, "legs", "one local entry is needed for each leg"));
        }
        let mut keys = Vec::with_capacity(program.legs.len());
        for (at, (leg, local)) in program.legs.iter().zip(&setup.legs).enumerate() {
            self.check_local(setup.relay, leg, local, at)?;
            keys.push(match &leg.kind {
                LegKind::Srtp(srtp) => Some(sdes_keys(&srtp.keys, &format!("program.legs[{at}]"))?),
                _ => None,
            });
        }
        self.check_remotes(setup)?;
        self.check_room(setup)?;
        Ok(keys)
    }

    /// A browser that was named stays named: its certificate and ufrag can be replaced but not taken back.
    fn check_remotes(&self, setup: &RelaySetup) -> Result<(), RelayError> {
        for (at, leg) in setup.program.legs.iter().enumerate() {
            let LegKind::IceDtls(ice) = &leg.kind else { continue };
            let kept = self.slot_of(setup.relay, leg.id).map(|slot| self.arena.leg(slot));
            if ice.remote.is_none() && kept.is_some_and(|kept| kept.is_ice() && kept.has_remote == 1) {
                let reason = "the browser of a leg can be replaced but not taken away; remove the leg instead";
                return Err(RelayError::new(ErrorCode::Invalid, format!("program.legs[{at}].remote"), reason));
            }
        }
        Ok(())
    }

    /// Ports and ufrags are the manager's doing: what is wrong with them is a fault of this program, not of control.
    fn check_local(&self, relay: RelayId, leg: &Leg, local: &LegSetup, at: usize) -> Result<(), RelayError> {
        let internal = |reason: &str| Err(RelayError::new(ErrorCode::Internal, format!("legs[{at}]"), reason));
        let own = self.slot_of(relay, leg.id);
        match &local.local {
            _ if local.id != leg.id => internal("local entries follow the order of the program's legs"),
            LegLocal::IceDtls { credentials } if matches!(leg.kind, LegKind::IceDtls(_)) => {
                match self.ufrags.find(credentials.ufrag()) {
                    Some(owner) if Some(owner) != own => internal("the ufrag is another leg's"),
                    _ if !credentials.is_set() => internal("a browser leg needs credentials"),
                    _ => Ok(()),
                }
            }
            LegLocal::Rtp { rtp, rtcp, .. } if matches!(leg.kind, LegKind::Rtp(_) | LegKind::Srtp(_)) => {
                let is_free = |port: &PortId| match self.ports.find(*port) {
                    PortUse::Closed => port.0 < PORTS_MAX,
                    PortUse::Mux => false,
                    PortUse::Rtp(owner) | PortUse::Rtcp(owner) => Some(owner) == own,
                };
                if rtp != rtcp && is_free(rtp) && is_free(rtcp) { Ok(()) } else { internal("a port is another leg's") }
            }
            _ => internal("the local entry is for another kind of leg"),
        }
    }

    fn check_room(&self, setup: &RelaySetup) -> Result<(), RelayError> {
        let full = |field: &str, what: &str| {
            Err(RelayError::new(ErrorCode::Full, field, format!("this worker has no free record for {what}")))
        };
        let program = &setup.program;
        let free = self.arena.free();
        let relay = self.by_id.get(&setup.relay).map(|slot| self.arena.relay(*slot));
        if relay.is_none() && free.relays == 0 {
            return full("relay", "a relay");
        }
        let (old_legs, old_routes) = relay.map_or((0, 0), |relay| {
            let used = |list: &[u32]| list.iter().filter(|slot| **slot != 0).count();
            (used(&relay.legs), used(&relay.routes))
        });
        if program.legs.len() > free.legs as usize + old_legs {
            return full("program.legs", "a leg");
        }
        if program.routes.len() > free.routes as usize + old_routes {
            return full("program.routes", "a route");
        }
        for leg in &program.legs {
            let routes = program.routes.iter().filter(|route| route.to == leg.id);
            // One more is the leg's own.
            if 1 + routes.map(|route| 1 + usize::from(route.rtx.is_some())).sum::<usize>() > OUT_STREAMS_MAX {
                return Err(RelayError::new(ErrorCode::Full, "program.routes", "too many streams to one leg"));
            }
            let kept = self.slot_of(setup.relay, leg.id).map(|slot| (self.arena.leg(slot), self.arena.out(slot)));
            let kept = kept.filter(|(kept, _)| kept.is_encrypted() && kept.kind == kind_of(leg));
            let Some((_, streams)) = kept else { continue };
            let routes = program.routes.iter().filter(|route| route.to == leg.id);
            let ssrcs = routes.flat_map(|route| [Some(route.ssrc), route.rtx.as_ref().map(|rtx| rtx.ssrc)]).flatten();
            let added = ssrcs.filter(|ssrc| streams.of(*ssrc).is_none());
            let used = streams.iter().filter(|stream| stream.used == 1).count();
            if used + added.count() > OUT_STREAMS_MAX {
                let reason = "too many SSRCs were sent under this leg's key; keep a route's SSRC when it is replaced";
                return Err(RelayError::new(ErrorCode::Full, "program.routes", reason));
            }
        }
        Ok(())
    }

    /// The leg record of a relay's leg.
    pub(super) fn slot_of(&self, relay: RelayId, leg: LegId) -> Option<u32> {
        let record = self.arena.relay(*self.by_id.get(&relay)?);
        let legs = record.legs.iter().filter_map(|slot| slot.checked_sub(1));
        legs.into_iter().find(|slot| self.arena.leg(*slot).id == leg.0)
    }

    fn add_relay(&mut self, now: Now, id: RelayId) -> u32 {
        let slot = self.arena.take_relay().expect("check_room saw a free record");
        let record = self.arena.relay_mut(slot);
        let number = id.to_u128();
        record.id = [(number >> 64) as u64, number as u64];
        (record.base_wall, record.base_mono) = (now.wall.as_unix_micros(), now.mono.as_micros());
        self.by_id.insert(id, slot);
        slot
    }

    /// Ends routes that the program has no more, and those of legs that will go.
    fn drop_routes(&mut self, relay: u32, program: &RelayProgram) {
        for index in 0..self.arena.relay(relay).routes.len() {
            let Some(slot) = self.arena.relay(relay).routes[index].checked_sub(1) else { continue };
            let route = self.arena.route(slot);
            let stays = |leg: u32| {
                let record = self.arena.leg(leg);
                program.leg(LegId(record.id)).is_some_and(|leg| kind_of(leg) == record.kind)
            };
            let ends = (LegId(self.arena.leg(route.from).id), LegId(self.arena.leg(route.to).id));
            let is_wanted =
                program.routes.iter().any(|wanted| (wanted.from, wanted.to) == ends && wanted.ssrc == route.ssrc);
            if !(is_wanted && stays(route.from) && stays(route.to)) {
                self.end_route(relay, index);
            } else if !program.routes.iter().any(|wanted| self.is_repaired_by(slot, wanted)) {
                self.end_rtx(slot);
            }
        }
    }

    /// Frees a route. It is unlisted first: what a crash leaves half done must not be in anybody's list.
    pub(super) fn end_route(&mut self, relay: u32, index: usize) {
        let entry = std::mem::take(&mut self.arena.relay_mut(relay).routes[index]);
        let Some(slot) = entry.checked_sub(1) else { return };
        let route = self.arena.route(slot);
        let (to, out) = (route.to, route.out as usize);
        self.arena.sections().out[(to, out)].route = 0;
        self.end_rtx(slot);
        self.history.end(slot);
        self.keypad.cut_off(slot);
        self.arena.free_route(slot);
    }

    /// Whether a route of the program keeps the retransmission stream of the route in `slot`.
    fn is_repaired_by(&self, slot: u32, wanted: &Route) -> bool {
        let route = self.arena.route(slot);
        let to = self.arena.leg(route.to);
        let rtx = route.rtx_out.checked_sub(1).map(|index| self.arena.out(route.to)[index as usize].tx.ssrc());
        (wanted.to, wanted.ssrc) == (LegId(to.id), route.ssrc) && wanted.rtx.as_ref().map(|rtx| rtx.ssrc) == rtx
    }

    /// Ends the retransmission stream of a route; its SSRC stays known to the leg.
    fn end_rtx(&mut self, slot: u32) {
        let route = self.arena.route_mut(slot);
        let (to, rtx_out) = (route.to, std::mem::take(&mut route.rtx_out));
        if let Some(index) = rtx_out.checked_sub(1) {
            self.arena.sections().out[(to, index as usize)].repairs = 0;
        }
    }

    fn drop_legs(&mut self, relay: u32, program: &RelayProgram, out: &mut impl Output) {
        for index in 0..self.arena.relay(relay).legs.len() {
            let Some(slot) = self.arena.relay(relay).legs[index].checked_sub(1) else { continue };
            let record = self.arena.leg(slot);
            let stays = program.leg(LegId(record.id)).is_some_and(|leg| kind_of(leg) == record.kind);
            if !stays {
                self.arena.relay_mut(relay).legs[index] = 0;
                self.remove_leg(slot, out);
            }
        }
    }

    /// Ends a leg: its last counters go out, nothing leads to it any more, its keys are wiped.
    pub(super) fn remove_leg(&mut self, slot: u32, out: &mut impl Output) {
        let (relay, _) = self.name_of(slot);
        let leg = self.arena.leg(slot);
        out.event(Event::LegStats { relay, stats: self.leg_stats(slot) });
        for path in leg.paths.iter().filter(|path| path.port != 0) {
            self.paths.remove(PortId(path.port - 1), path.addr, slot);
        }
        for port in [leg.rtp_port, leg.rtcp_port].into_iter().filter_map(|port| port.checked_sub(1)) {
            self.ports.clear(PortId(port), slot);
        }
        if leg.local.is_set() {
            self.ufrags.remove(leg.local.ufrag());
        }
        self.derived[slot as usize] = Derived::default();
        self.deadlines.set(slot, None);
        self.arena.free_leg(slot);
    }

    fn add_leg(&mut self, now: Now, relay: u32, leg: &Leg, program: &RelayProgram) -> u32 {
        let slot = self.arena.take_leg().expect("check_room saw a free record");
        self.make_derived(slot);
        // The SSRC of reports while no route sends here; any number that no route uses.
        let routes = || program.routes.iter().filter(|route| route.to == leg.id);
        let mut drawn = mix(self.config.seed ^ u64::from(slot) << 32 ^ u64::from(self.arena.leg(slot).head.generation));
        let is_taken = |ssrc: u32| {
            routes().any(|route| route.ssrc == ssrc || route.rtx.as_ref().is_some_and(|rtx| rtx.ssrc == ssrc))
        };
        while drawn as u32 == 0 || is_taken(drawn as u32) {
            drawn = mix(drawn);
        }
        let record = self.arena.leg_mut(slot);
        (record.relay, record.id, record.kind) = (relay + 1, leg.id.0, kind_of(leg));
        let own = self.arena.whole_leg(slot).claim_out(drawn as u32).expect("a new record has free streams");
        self.arena.leg_mut(slot).own_out = own as u32 + 1;
        self.next_report(now, slot);
        slot
    }

    fn set_leg(&mut self, now: Now, slot: u32, leg: &Leg, local: &LegSetup, keys: &SdesKeys, out: &mut impl Output) {
        let takes = |kind: Feedback| u32::from(leg.feedback().is_some_and(|kinds| kinds.contains(&kind)));
        let record = self.arena.leg_mut(slot);
        record.media_timeout_ms = leg.media_timeout_ms.unwrap_or(0);
        (record.takes_pli, record.takes_fir) = (takes(Feedback::NackPli), takes(Feedback::CcmFir));
        (record.takes_nack, record.takes_remb) = (takes(Feedback::Nack), takes(Feedback::Remb));
        match (&leg.kind, &local.local) {
            (LegKind::IceDtls(ice), LegLocal::IceDtls { credentials }) => {
                self.set_ice(now, slot, ice, credentials, out);
            }
            (LegKind::Rtp(rtp), LegLocal::Rtp { rtp: port, rtcp, lease }) => {
                self.set_rtp(now, slot, rtp, (*port, *rtcp), *lease, out);
            }
            (LegKind::Srtp(srtp), LegLocal::Rtp { rtp: port, rtcp, lease }) => {
                self.set_rtp(now, slot, &srtp.rtp, (*port, *rtcp), *lease, out);
                self.set_sdes(now, slot, keys);
            }
            _ => unreachable!("check_local compared the kinds"),
        }
    }

    fn set_ice(
        &mut self,
        now: Now,
        slot: u32,
        ice: &IceDtlsLeg,
        credentials: &LocalCredentials,
        out: &mut impl Output,
    ) {
        let default_timeout = self.config.timers.consent_timeout;
        let leg = self.arena.leg_mut(slot);
        if leg.local != *credentials {
            self.ufrags.remove(leg.local.ufrag());
            self.ufrags.insert(credentials.ufrag(), slot);
            leg.local = *credentials;
        }
        let timeout = ice.consent_timeout_ms.map(|ms| std::time::Duration::from_millis(ms.into()));
        leg.consent_timeout = timeout.unwrap_or(default_timeout).as_micros() as u64;
        leg.has_remote = u8::from(ice.remote.is_some());
        leg.transport_cc = ice.transport_cc.unwrap_or(0).into();
        self.keep_arrivals(slot);
        let leg = self.arena.leg_mut(slot);
        let Some(remote) = &ice.remote else { return };
        leg.remote_ufrag[..remote.ufrag.len()].copy_from_slice(remote.ufrag.as_bytes());
        leg.remote_ufrag_len = remote.ufrag.len() as u32;
        leg.name_certificates(&remote.fingerprints);
        self.judge_held(now, slot, out);
    }

    fn set_rtp(
        &mut self,
        now: Now,
        slot: u32,
        rtp: &RtpLeg,
        (port, rtcp): (PortId, PortId),
        lease: u64,
        out: &mut impl Output,
    ) {
        let leg = self.arena.leg_mut(slot);
        if leg.rtp_port != port.0 + 1 {
            self.derived[slot as usize].heard_alone = Addr::NONE;
        }
        for old in [leg.rtp_port, leg.rtcp_port].into_iter().filter_map(|port| port.checked_sub(1)) {
            self.ports.clear(PortId(old), slot);
        }
        (leg.lease, leg.rtp_port, leg.rtcp_port) = (lease, port.0 + 1, rtcp.0 + 1);
        self.ports.set(port, PortUse::Rtp(slot));
        self.ports.set(rtcp, PortUse::Rtcp(slot));
        leg.has_remote = u8::from(rtp.remote.is_some());
        let (rtp_at, rtcp_at) = match rtp.remote {
            Some(remote) => (remote.rtp.into(), remote.rtcp.into()),
            None => (Addr::NONE, Addr::NONE),
        };
        leg.rtcp_mux = u8::from(rtp.remote.is_some_and(|remote| remote.rtcp_mux));
        let has_moved = leg.rtp_latch.declared != rtp_at;
        leg.rtp_latch.declare(rtp_at);
        leg.rtcp_latch.declare(rtcp_at);
        if has_moved {
            if std::mem::take(&mut leg.is_quiet) == 1 {
                // Who is there now announced nothing.
                leg.media_at = now.mono.as_micros();
            }
            self.begin_pictures(slot);
        }
        self.settle_port(slot, out);
    }

    /// Another receiver is behind the leg: it has seen none of the pictures that its routes sent.
    fn begin_pictures(&mut self, slot: u32) {
        let sections = self.arena.sections();
        let streams = sections.out.into_leg(slot, sections.legs[slot as usize].out_len);
        for route in streams.view().iter().filter_map(|stream| stream.route.checked_sub(1)) {
            sections.routes[route as usize].pictures.is_joined = 0;
        }
    }

    fn set_sdes(&mut self, now: Now, slot: u32, keys: &SdesKeys) {
        let Some((ours, theirs)) = keys else { return };
        let until = now.mono + self.config.timers.old_keys;
        let leg = self.arena.leg(slot);
        if !leg.own_key().holds(ours) || !leg.peer_key().holds(theirs) {
            self.change_keys(slot, ours, theirs, until);
        }
    }

    fn set_routes(&mut self, now: Now, relay: u32, setup: &RelaySetup) {
        let mut slots = [0; gangway_shared::rcp::limits::ROUTES_MAX];
        let existing = self.arena.relay(relay).routes;
        for (at, wanted) in setup.program.routes.iter().enumerate() {
            let [Some(from), Some(to)] = [wanted.from, wanted.to].map(|leg| self.leg_in(relay, leg)) else {
                unreachable!("validate() saw both legs")
            };
            let kept = existing.iter().filter_map(|slot| slot.checked_sub(1)).find(|slot| {
                let route = self.arena.route(*slot);
                (route.from, route.to, route.ssrc) == (from, to, wanted.ssrc)
            });
            let slot = kept.unwrap_or_else(|| self.arena.take_route().expect("check_room saw a free record"));
            slots[at] = slot + 1;
            step();
            self.set_route(relay, slot, wanted, from, to);
            step();
            self.arena.route_mut(slot).fill.set(now.mono, wanted.fill.as_ref());
        }
        self.arena.relay_mut(relay).routes = slots;
    }

    fn leg_in(&self, relay: u32, leg: LegId) -> Option<u32> {
        let legs = self.arena.relay(relay).legs.iter().filter_map(|slot| slot.checked_sub(1));
        legs.into_iter().find(|slot| self.arena.leg(*slot).id == leg.0)
    }

    fn set_route(&mut self, relay: u32, slot: u32, wanted: &Route, from: u32, to: u32) {
        let mut leg = self.arena.whole_leg(to);
        let known = leg.out.view().of(wanted.ssrc);
        let out = known.or_else(|| leg.claim_out(wanted.ssrc)).expect("check_room counted the streams");
        leg.out[out].route = slot + 1;
        let sections = self.arena.sections();
        let route = &mut sections.routes[slot as usize];
        (route.relay, route.from, route.to, route.out) = (relay + 1, from, to, out as u32);
        if wanted.paused && route.is_paused == 0 && route.source.used == 1 {
            // What the source numbers while it is held is no loss: it is switched to like a new one when it goes on.
            route.former = route.source;
            route.source.used = 0;
        }
        (route.ssrc, route.is_paused) = (wanted.ssrc, u8::from(wanted.paused));
        route.is_video = u8::from(wanted.media == Media::Video);
        route.payloads = [PayloadEntry::default(); gangway_shared::rcp::limits::PAYLOADS_MAX];
        for (entry, map) in route.payloads.iter_mut().zip(&wanted.payloads) {
            let transform = transform_of(wanted.process, map).expect("check_supported tried every entry");
            *entry = payload_entry(map, transform);
        }
        route.payload_count = wanted.payloads.len() as u8;
        let h264 = wanted.payloads.iter().find(|map| map.from.codec == Codec::H264);
        route.has_parameters |= u8::from(h264.is_some());
        if route.has_parameters == 1 {
            sections.parameters[slot as usize].tell(h264.and_then(|map| map.from.fmtp.as_deref()));
        }
        route.limit_kbps = wanted.limit_kbps.unwrap_or(0);
        route.source_rtx_count = set_rtx(&mut route.source_rtx, &wanted.source_rtx);
        self.set_repair(slot, wanted);
    }

    /// How the destination of a route gets lost packets again.
    fn set_repair(&mut self, slot: u32, wanted: &Route) {
        self.end_rtx(slot);
        let to = self.arena.route(slot).to;
        let mut leg = self.arena.whole_leg(to);
        let is_kept = wanted.media == Media::Video && leg.record.takes_nack == 1;
        let rtx = wanted.rtx.as_ref().filter(|_| is_kept);
        let rtx_out = rtx.map_or(0, |rtx| {
            let known = leg.out.view().of(rtx.ssrc);
            let index = known.or_else(|| leg.claim_out(rtx.ssrc)).expect("check_room counted the streams");
            leg.out[index].repairs = slot + 1;
            index as u32 + 1
        });
        let route = self.arena.route_mut(slot);
        (route.rtx_out, route.is_kept) = (rtx_out, is_kept.into());
        route.rtx_count = rtx.map_or(0, |rtx| set_rtx(&mut route.rtx, &rtx.payloads));
        if is_kept { self.history.begin(slot) } else { self.history.end(slot) }
    }

    /// Derives which routes start at a leg, in the program's order.
    pub(super) fn list_routes(&mut self, leg: u32) {
        let relay = self.arena.relay(self.arena.leg(leg).relay_slot());
        let routes = relay.routes.iter().filter_map(|slot| slot.checked_sub(1));
        let derived = &mut self.derived[leg as usize];
        derived.route_count = 0;
        for route in routes.filter(|route| self.arena.route(*route).from == leg) {
            derived.routes[derived.route_count] = route;
            derived.route_count += 1;
        }
    }

    /// Sound of the peer is expected while it is known and a route of sound from it is not paused. Its silence counts from then on.
    /// A camera may be off for as long as it likes, and may come from another port when it is on again.
    fn set_expected(&mut self, now: Now, slot: u32) {
        let derived = &self.derived[slot as usize];
        let routes = derived.routes[..derived.route_count].iter().map(|route| self.arena.route(*route));
        let mut open = routes.filter(|route| route.is_paused == 0);
        let (is_open, has_sound) = (open.clone().next().is_some(), open.any(|route| route.is_video == 0));
        let leg = self.arena.leg_mut(slot);
        leg.may_rearm = u8::from(is_open && leg.has_remote == 1);
        let is_expected = u8::from(has_sound && leg.has_remote == 1);
        if is_expected == 1 && leg.is_expected == 0 {
            leg.media_at = now.mono.as_micros();
            (leg.is_silence_told, leg.is_quiet) = (0, 0);
        }
        leg.is_expected = is_expected;
    }
}
