//! What control wants and who that control is: relays with their generations and digests, epochs, leases of orphans, leaving.
//!
//! Pure: decides, and is told what was done. Keeps no program and no local facts; those are the manager's.

use std::{collections::BTreeMap, time::Duration};

use gangway_shared::{
    ids::{Generation, RelayId},
    rcp::{ErrorCode, LegKind, ListEntry, Media, Process, RelayError, RelayProgram, Request},
    time::Time,
};
use sha2::{Digest as _, Sha256};

use crate::generator::Recipe;

/// Without control a relay whose media has stopped is given up after so long; before that a pause in speech would end it.
pub const ORPHAN_SILENCE: Duration = Duration::from_secs(30);

/// What this dataplane runs, for `Hello.capabilities`.
pub const CAPABILITIES: [&str; 12] =
    ["ice_dtls", "rtp", "srtp", "pass", "g711", "feedback", "fill", "nack", "rtx", "transport_cc", "remb", "dtmf"];

/// Bounds and timers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegistryConfig {
    /// Relays of all workers.
    pub relays_max: usize,
    /// How long relays live without a control (`orphan_grace_s`).
    pub orphan_grace: Duration,
    /// How long the program stays with no control and no relay (`dataplane_linger_s`); absent: for ever.
    pub linger: Option<Duration>,
}

/// Stable 64-bit digest of a program: the first bytes of the SHA-256 of its JSON, whose field order is that of the schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest(pub u64);

impl Digest {
    /// Digests a program.
    #[must_use]
    pub fn of(program: &RelayProgram) -> Self {
        let json = serde_json::to_vec(program).expect("a program has string keys only and its Serialize cannot fail");
        let hash: [u8; 32] = Sha256::digest(&json).into();
        Digest(u64::from_be_bytes([hash[0], hash[1], hash[2], hash[3], hash[4], hash[5], hash[6], hash[7]]))
    }
}

impl std::fmt::Display for Digest {
    /// 16 hexadecimal digits, as `List` has it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What a `Put` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PutDecision {
    /// The program is in force already: answer as before.
    Repeat,
    /// Run it, then [`commit`](Registry::commit).
    Apply {
        /// Digest to commit with.
        digest: Digest,
        /// The worker that owns the relay; absent: the relay is new and a worker is to be chosen.
        worker: Option<u16>,
    },
    /// Refuse; nothing changes.
    Refuse(RelayError),
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    generation: Generation,
    digest: Digest,
    worker: u16,
    forwarded: u64,
    /// When `forwarded` last grew, or the relay was last put.
    flowed_at: Time,
}

/// All relays of the dataplane as control wants them.
#[derive(Debug)]
pub struct Registry {
    config: RegistryConfig,
    entries: BTreeMap<RelayId, Entry>,
    draining: bool,
    /// The highest epoch seen.
    epoch: u32,
    /// Since when there is no control; absent: one is connected.
    alone_since: Option<Time>,
    /// Since when there is no control and no relay.
    idle_since: Option<Time>,
}

impl Registry {
    /// No relay and no control yet.
    #[must_use]
    pub fn new(config: RegistryConfig, now: Time) -> Self {
        Registry {
            config,
            entries: BTreeMap::new(),
            draining: false,
            epoch: 0,
            alone_since: Some(now),
            idle_since: Some(now),
        }
    }

    /// Takes over what the process before knew: the highest epoch, and whether it drained.
    pub fn remember(&mut self, epoch: u32, draining: bool) {
        (self.epoch, self.draining) = (epoch, draining);
    }

    /// Judges a `Put`.
    #[must_use]
    pub fn decide_put(&self, relay: RelayId, generation: Generation, program: &RelayProgram) -> PutDecision {
        if let Err(error) = program.validate().and_then(|()| check_supported(program)) {
            return PutDecision::Refuse(error);
        }
        let digest = Digest::of(program);
        let Some(entry) = self.entries.get(&relay) else {
            return match self.admit() {
                Ok(()) => PutDecision::Apply { digest, worker: None },
                Err(error) => PutDecision::Refuse(error),
            };
        };
        if generation == entry.generation && digest == entry.digest {
            return PutDecision::Repeat;
        }
        // A change that was cut off may be made again.
        let is_cut_off = generation == entry.generation && entry.digest == Digest(0);
        if generation <= entry.generation && !is_cut_off {
            let reason = format!("generation {} is in force with digest {}", entry.generation.0, entry.digest);
            return PutDecision::Refuse(RelayError::new(ErrorCode::Stale, "generation", reason));
        }
        PutDecision::Apply { digest, worker: Some(entry.worker) }
    }

    fn admit(&self) -> Result<(), RelayError> {
        if self.draining {
            return Err(RelayError::new(ErrorCode::Draining, "relay", "this dataplane takes no new relay"));
        }
        if self.entries.len() >= self.config.relays_max {
            let reason = format!("the limit of {} relays is reached", self.config.relays_max);
            return Err(RelayError::new(ErrorCode::Full, "relay", reason));
        }
        Ok(())
    }

    /// Notes that a program is in force.
    pub fn commit(&mut self, now: Time, relay: RelayId, generation: Generation, digest: Digest, worker: u16) {
        let forwarded = self.entries.get(&relay).map_or(0, |entry| entry.forwarded);
        self.entries.insert(relay, Entry { generation, digest, worker, forwarded, flowed_at: now });
        self.idle_since = None;
    }

    /// Notes that a relay is gone; the worker that owned it.
    pub fn forget(&mut self, now: Time, relay: RelayId) -> Option<u16> {
        let entry = self.entries.remove(&relay)?;
        if self.entries.is_empty() && self.alone_since.is_some() {
            self.idle_since = Some(now);
        }
        Some(entry.worker)
    }

    /// The worker that owns a relay.
    #[must_use]
    pub fn worker_of(&self, relay: RelayId) -> Option<u16> {
        self.entries.get(&relay).map(|entry| entry.worker)
    }

    /// Relays in force.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True when there is no relay.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Relays of each of `workers` workers, to choose the least loaded one.
    #[must_use]
    pub fn load(&self, workers: usize) -> Vec<usize> {
        let mut load = vec![0; workers];
        for entry in self.entries.values() {
            if let Some(count) = load.get_mut(usize::from(entry.worker)) {
                *count += 1;
            }
        }
        load
    }

    /// Notes how much a relay has forwarded.
    pub fn note_flow(&mut self, now: Time, relay: RelayId, forwarded: u64) {
        if let Some(entry) = self.entries.get_mut(&relay)
            && forwarded > entry.forwarded
        {
            (entry.forwarded, entry.flowed_at) = (forwarded, now);
        }
    }

    /// One page of relays in id order, and whether more follow.
    #[must_use]
    pub fn list(&self, after: Option<RelayId>, limit: u16) -> (Vec<ListEntry>, bool) {
        use std::ops::Bound::{Excluded, Unbounded};
        let limit = usize::from(limit.clamp(1, Request::LIST_LIMIT_MAX));
        let mut rest = self.entries.range((after.map_or(Unbounded, Excluded), Unbounded));
        let page = rest.by_ref().take(limit);
        let page = page.map(|(relay, entry)| ListEntry {
            relay: *relay,
            generation: entry.generation,
            digest: entry.digest.to_string(),
            forwarded: entry.forwarded,
        });
        let page: Vec<_> = page.collect();
        let more = rest.next().is_some();
        (page, more)
    }

    /// From now on new relays are refused.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// Whether `Drain` was asked.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining
    }

    /// The highest epoch of a control so far.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// A control says hello.
    ///
    /// # Errors
    /// `OldEpoch` when a younger one was here before.
    pub fn control_came(&mut self, epoch: u32) -> Result<(), RelayError> {
        if epoch < self.epoch {
            let reason = format!("epoch {epoch} is below {}, which was here already", self.epoch);
            return Err(RelayError::new(ErrorCode::OldEpoch, "epoch", reason));
        }
        self.epoch = epoch;
        (self.alone_since, self.idle_since) = (None, None);
        Ok(())
    }

    /// The last living control is gone.
    pub fn control_left(&mut self, now: Time) {
        self.alone_since.get_or_insert(now);
        if self.entries.is_empty() {
            self.idle_since.get_or_insert(now);
        }
    }

    /// Relays whose lease is over: no control for `orphan_grace`, or no control and no media for [`ORPHAN_SILENCE`]. The caller
    /// ends them and says [`forget`](Self::forget).
    #[must_use]
    pub fn orphans(&self, now: Time) -> Vec<RelayId> {
        let Some(since) = self.alone_since else { return Vec::new() };
        let grace_is_over = now.since(since) >= self.config.orphan_grace;
        let is_over = |entry: &Entry| grace_is_over || now.since(entry.flowed_at.max(since)) >= ORPHAN_SILENCE;
        self.entries.iter().filter(|(_, entry)| is_over(entry)).map(|(relay, _)| *relay).collect()
    }

    /// True when nobody needs this program any more: no control and no relay for the linger time.
    #[must_use]
    pub fn may_leave(&self, now: Time) -> bool {
        let idle = self.idle_since.filter(|_| self.entries.is_empty() && self.alone_since.is_some());
        idle.zip(self.config.linger).is_some_and(|(since, linger)| now.since(since) >= linger)
    }
}

/// Refuses what this dataplane cannot run (yet), naming the field.
///
/// # Errors
/// `Unsupported` for leg kinds, processes and fills outside [`CAPABILITIES`], `Invalid` for payload maps that a process cannot do.
pub fn check_supported(program: &RelayProgram) -> Result<(), RelayError> {
    for (at, leg) in program.legs.iter().enumerate() {
        let path = format!("program.legs[{at}]");
        let kind = match leg.kind {
            LegKind::IceDtls(_) | LegKind::Rtp(_) | LegKind::Srtp(_) => continue,
            LegKind::Tap(_) => "tap",
        };
        let reason = format!("legs of kind {kind} are not run by this dataplane");
        return Err(RelayError::new(ErrorCode::Unsupported, format!("{path}.kind"), reason));
    }
    for (at, route) in program.routes.iter().enumerate() {
        let path = format!("program.routes[{at}]");
        if !matches!(route.process, Process::Pass | Process::G711) {
            let reason = "this process is not done by this dataplane";
            return Err(RelayError::new(ErrorCode::Unsupported, format!("{path}.process"), reason));
        }
        if let Some(fill) = &route.fill {
            let made =
                if route.media == Media::Audio { Recipe::of(fill).map(drop) } else { Err("pictures are not made") };
            let field = || format!("{path}.fill.payload");
            made.map_err(|reason| RelayError::new(ErrorCode::Unsupported, field(), reason))?;
        }
        for (entry, map) in route.payloads.iter().enumerate() {
            crate::relay::transform_of(route.process, map)
                .map_err(|reason| RelayError::new(ErrorCode::Invalid, format!("{path}.payloads[{entry}]"), reason))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use gangway_shared::{
        ids::LegId,
        rcp::{Codec, Fill, Leg, Payload, PayloadMap, Route, RtpLeg, Sound, TapLeg, Tone},
    };

    use super::*;

    const CONFIG: RegistryConfig =
        RegistryConfig { relays_max: 3, orphan_grace: Duration::from_secs(300), linger: Some(Duration::from_secs(60)) };

    fn id(number: u64) -> RelayId {
        RelayId::new(1, 1, number)
    }

    fn at(seconds: u64) -> Time {
        Time::from_millis(seconds * 1000)
    }

    fn payload(pt: u8, codec: Codec, clock: u32) -> Payload {
        Payload { pt, codec, clock, channels: None, fmtp: None }
    }

    fn program(label: &str) -> RelayProgram {
        let pcmu = payload(0, Codec::Pcmu, 8000);
        let kind = LegKind::Rtp(RtpLeg { media: Media::Audio, local_ip: None, remote: None, feedback: Vec::new() });
        let route = Route {
            from: LegId(0),
            to: LegId(0),
            media: Media::Audio,
            payloads: vec![PayloadMap { from: pcmu.clone(), to: pcmu }],
            process: Process::Pass,
            ssrc: 1,
            paused: false,
            rtx: None,
            source_rtx: Vec::new(),
            limit_kbps: None,
            fill: None,
        };
        RelayProgram {
            label: label.into(),
            cname: "c".into(),
            legs: vec![Leg { id: LegId(0), media_timeout_ms: None, kind }],
            routes: vec![route],
        }
    }

    fn put(registry: &mut Registry, now: Time, number: u64, generation: u32, label: &str) -> PutDecision {
        let decision = registry.decide_put(id(number), Generation(generation), &program(label));
        if let PutDecision::Apply { digest, worker } = decision {
            registry.commit(now, id(number), Generation(generation), digest, worker.unwrap_or(2));
        }
        decision
    }

    fn code(decision: &PutDecision) -> ErrorCode {
        let PutDecision::Refuse(error) = decision else { panic!("not refused: {decision:?}") };
        error.code
    }

    #[test]
    fn a_put_is_applied_once_repeated_for_free_and_refused_when_it_is_old() {
        let mut registry = Registry::new(CONFIG, at(0));
        assert!(matches!(put(&mut registry, at(0), 1, 3, "a"), PutDecision::Apply { worker: None, .. }));
        assert_eq!(put(&mut registry, at(0), 1, 3, "a"), PutDecision::Repeat);
        assert_eq!(code(&put(&mut registry, at(0), 1, 3, "other")), ErrorCode::Stale);
        assert_eq!(code(&put(&mut registry, at(0), 1, 2, "a")), ErrorCode::Stale);
        assert!(matches!(put(&mut registry, at(0), 1, 4, "b"), PutDecision::Apply { worker: Some(2), .. }));
        assert_eq!(registry.load(4), [0, 0, 1, 0]);
        assert_eq!((registry.forget(at(0), id(1)), registry.forget(at(0), id(1))), (Some(2), None));
    }

    #[test]
    fn a_change_that_was_cut_off_is_made_again_and_no_older_one() {
        let mut registry = Registry::new(CONFIG, at(0));
        registry.commit(at(0), id(1), Generation(4), Digest(0), 1);
        assert_eq!(code(&registry.decide_put(id(1), Generation(3), &program("a"))), ErrorCode::Stale);
        assert!(matches!(put(&mut registry, at(0), 1, 4, "a"), PutDecision::Apply { worker: Some(1), .. }));
        assert_eq!(put(&mut registry, at(0), 1, 4, "a"), PutDecision::Repeat);
    }

    #[test]
    fn full_and_draining_refuse_new_relays_and_not_old_ones() {
        let mut registry = Registry::new(CONFIG, at(0));
        for number in 1..=3 {
            put(&mut registry, at(0), number, 1, "a");
        }
        assert_eq!(code(&put(&mut registry, at(0), 4, 1, "a")), ErrorCode::Full);
        registry.forget(at(0), id(3));
        registry.drain();
        assert_eq!(code(&put(&mut registry, at(0), 4, 1, "a")), ErrorCode::Draining);
        assert!(matches!(put(&mut registry, at(0), 1, 2, "b"), PutDecision::Apply { .. }));
    }

    #[test]
    fn what_cannot_be_run_is_refused_by_field() {
        let registry = Registry::new(CONFIG, at(0));
        let refused = |change: &dyn Fn(&mut RelayProgram)| {
            let mut program = program("a");
            change(&mut program);
            let decision = registry.decide_put(id(1), Generation(1), &program);
            let PutDecision::Refuse(error) = decision else { panic!("not refused") };
            (error.code, error.field)
        };
        let tap = || LegKind::Tap(TapLeg { sink: "sink".into() });
        let unsupported = refused(&|program| program.legs[0].kind = tap());
        assert_eq!(unsupported, (ErrorCode::Unsupported, "program.legs[0].kind".to_owned()));
        let no_fill = (ErrorCode::Unsupported, "program.routes[0].fill.payload".to_owned());
        let ring = Sound::Tone(Tone { frequencies_hz: vec![425], on_ms: 1000, off_ms: 4000 });
        let fill = |sound: &Sound, codec, clock| {
            Some(Fill { sound: sound.clone(), payload: payload(96, codec, clock), ptime_ms: 20, start_after_ms: 0 })
        };
        assert_eq!(refused(&|program| program.routes[0].fill = fill(&ring, Codec::Opus, 48_000)), no_fill);
        assert_eq!(refused(&|program| program.routes[0].fill = fill(&Sound::Silence, Codec::Speex, 8000)), no_fill);
        let pictures = refused(&|program| {
            (program.routes[0].media, program.routes[0].fill) =
                (Media::Video, fill(&Sound::Silence, Codec::Pcmu, 8000));
        });
        assert_eq!(pictures, no_fill);
        let unsupported = refused(&|program| program.routes[0].process = Process::Transcode);
        assert_eq!(unsupported, (ErrorCode::Unsupported, "program.routes[0].process".to_owned()));
        let payloads = (ErrorCode::Invalid, "program.routes[0].payloads[0]".to_owned());
        let to_opus = |program: &mut RelayProgram| program.routes[0].payloads[0].to = payload(96, Codec::Opus, 48_000);
        assert_eq!(refused(&to_opus), payloads);
        let unmapped = |program: &mut RelayProgram| program.routes[0].payloads[0].to.codec = Codec::Pcma;
        assert_eq!(refused(&unmapped), payloads, "PCMU to PCMA needs process g711");
        assert_eq!(refused(&|program| program.legs.clear()).0, ErrorCode::Invalid);
    }

    #[test]
    fn the_digest_depends_on_everything_and_never_changes() {
        assert_eq!(Digest::of(&program("a")), Digest::of(&program("a")));
        assert_ne!(Digest::of(&program("a")), Digest::of(&program("b")));
        let mut paused = program("a");
        paused.routes[0].paused = true;
        assert_ne!(Digest::of(&program("a")), Digest::of(&paused));
        assert_eq!(Digest(0xab).to_string(), "00000000000000ab");
    }

    #[test]
    fn a_list_is_paged_in_id_order() {
        let mut registry = Registry::new(CONFIG, at(0));
        for number in [3, 1, 2] {
            put(&mut registry, at(0), number, 1, "a");
        }
        registry.note_flow(at(1), id(2), 17);
        let (first, more) = registry.list(None, 2);
        let ids: Vec<_> = first.iter().map(|entry| (entry.relay, entry.forwarded)).collect();
        assert_eq!((ids, more), (vec![(id(1), 0), (id(2), 17)], true));
        let (rest, more) = registry.list(Some(id(2)), 2);
        assert_eq!((rest.len(), rest[0].relay, more), (1, id(3), false));
        assert_eq!(registry.list(None, 0).0.len(), 1, "an empty page would never end");
    }

    #[test]
    fn a_lower_epoch_is_refused_and_the_same_may_come_back() {
        let mut registry = Registry::new(CONFIG, at(0));
        registry.control_came(5).unwrap();
        registry.control_came(5).unwrap();
        assert_eq!(registry.control_came(4).unwrap_err().code, ErrorCode::OldEpoch);
        assert_eq!(registry.epoch(), 5);
    }

    #[test]
    fn orphans_live_while_media_flows_and_no_longer_than_their_grace() {
        let mut registry = Registry::new(CONFIG, at(0));
        registry.control_came(1).unwrap();
        put(&mut registry, at(0), 1, 1, "talking");
        put(&mut registry, at(0), 2, 1, "silent");
        assert_eq!(registry.orphans(at(10_000)), [], "what is owned needs no lease");
        registry.control_left(at(10_000));
        registry.note_flow(at(10_025), id(1), 1);
        registry.note_flow(at(10_025), id(2), 0);
        assert_eq!(registry.orphans(at(10_029)), []);
        assert_eq!(registry.orphans(at(10_031)), [id(2)]);
        for second in 0..300 {
            registry.note_flow(at(10_000 + second), id(1), second + 2);
        }
        assert_eq!(registry.orphans(at(10_299)), [id(2)]);
        assert_eq!(registry.orphans(at(10_300)), [id(1), id(2)]);
        registry.control_came(2).unwrap();
        assert_eq!(registry.orphans(at(20_000)), []);
    }

    #[test]
    fn a_dataplane_that_nobody_needs_may_leave_after_it_lingered() {
        let mut registry = Registry::new(CONFIG, at(0));
        assert!(!registry.may_leave(at(59)) && registry.may_leave(at(60)), "control may never have come");
        registry.control_came(1).unwrap();
        assert!(!registry.may_leave(at(1000)));
        put(&mut registry, at(1000), 1, 1, "a");
        registry.control_left(at(1000));
        assert!(!registry.may_leave(at(2000)), "a call is going on");
        registry.forget(at(2000), id(1));
        assert!(!registry.may_leave(at(2059)) && registry.may_leave(at(2060)));
        let mut registry = Registry::new(RegistryConfig { linger: None, ..CONFIG }, at(0));
        registry.drain();
        assert!(!registry.may_leave(at(1_000_000)));
    }
}
