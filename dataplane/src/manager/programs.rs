//! Local facts of relays: which ports and credentials their legs have, and what of them an update keeps.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{SocketAddr, UdpSocket},
};

use gangway_shared::{
    ids::{Generation, LegId, RelayId},
    rcp::{Fingerprint, Leg, LegAddress, LegKind, LegReply, PutReply, RelayError, RelayProgram, RtpLeg},
};

use crate::{
    ice_lite::LocalCredentials,
    keeper::{HandedPair, Link, PairFacts},
    manager::entropy::OsEntropy,
    relay::{Adopted, AdoptedLocal, LegHandle},
    worker::LegSource,
};

/// Actions of a relay whose repetition is noticed.
const ACTIONS_MAX: usize = 32;

/// One leg's local facts.
#[derive(Debug)]
pub(super) struct LegFacts {
    id: LegId,
    local: Local,
}

#[derive(Debug)]
enum Local {
    IceDtls(LocalCredentials),
    Rtp(PairFacts),
}

/// A relay in force.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) worker: u16,
    pub(super) generation: Generation,
    legs: Vec<LegFacts>,
    pub(super) handles: Vec<(LegId, LegHandle)>,
    fingerprints: BTreeMap<LegId, Vec<Fingerprint>>,
    actions: VecDeque<u64>,
}

/// What a program needs of the manager before a worker can run it.
#[derive(Debug)]
pub(super) struct Prepared {
    /// For the worker.
    pub(super) sources: Vec<(LegId, LegSource<UdpSocket>)>,
    /// Facts of legs that are new.
    pub(super) fresh: Fresh,
}

/// Facts that become a record's when the worker agrees.
#[derive(Debug, Default)]
pub(super) struct Fresh {
    legs: Vec<LegFacts>,
    order: Vec<LegId>,
    fingerprints: BTreeMap<LegId, Vec<Fingerprint>>,
}

/// Gives each leg of `program` what it needs: what `before` has already, else a new pair or new credentials.
pub(super) fn prepare(
    ports: &mut Link,
    worker: u16,
    before: Option<&Record>,
    program: &RelayProgram,
) -> Result<Prepared, RelayError> {
    let mut prepared = Prepared { sources: Vec::new(), fresh: Fresh::default() };
    for (at, leg) in program.legs.iter().enumerate() {
        prepared.fresh.order.push(leg.id);
        let old = before.and_then(|record| record.legs.iter().find(|facts| facts.id == leg.id));
        if let Err(mut error) = prepare_leg(ports, worker, old, leg, &mut prepared) {
            error.field = format!("program.legs[{at}]{}", error.field);
            let Prepared { sources, fresh } = prepared;
            drop(sources);
            fresh.discard(ports);
            return Err(error);
        }
    }
    Ok(prepared)
}

fn prepare_leg(
    ports: &mut Link,
    worker: u16,
    old: Option<&LegFacts>,
    leg: &Leg,
    prepared: &mut Prepared,
) -> Result<(), RelayError> {
    let old = old.map(|facts| &facts.local);
    let source = match &leg.kind {
        LegKind::IceDtls(ice) => {
            let fingerprints = ice.remote.as_ref().map_or(Vec::new(), |remote| remote.fingerprints.clone());
            prepared.fresh.fingerprints.insert(leg.id, fingerprints);
            match old {
                Some(Local::IceDtls(credentials)) => LegSource::IceDtls(*credentials),
                _ => {
                    let credentials = LocalCredentials::mint(&mut OsEntropy);
                    prepared.fresh.legs.push(LegFacts { id: leg.id, local: Local::IceDtls(credentials) });
                    LegSource::IceDtls(credentials)
                }
            }
        }
        LegKind::Rtp(rtp) => prepare_rtp(ports, worker, old, leg.id, rtp, prepared)?,
        LegKind::Srtp(srtp) => prepare_rtp(ports, worker, old, leg.id, &srtp.rtp, prepared)?,
        // The registry has refused them already.
        LegKind::Tap(_) => return Ok(()),
    };
    prepared.sources.push((leg.id, source));
    Ok(())
}

fn prepare_rtp(
    ports: &mut Link,
    worker: u16,
    old: Option<&Local>,
    id: LegId,
    rtp: &RtpLeg,
    prepared: &mut Prepared,
) -> Result<LegSource<UdpSocket>, RelayError> {
    let peer = rtp.remote.map(|remote| remote.rtp.ip());
    let at_field = |mut error: RelayError| {
        error.field = if rtp.local_ip.is_some() { ".local_ip".to_owned() } else { ".remote".to_owned() };
        error
    };
    if let Some(Local::Rtp(PairFacts { on, .. })) = old
        && rtp.local_ip.is_none_or(|wanted| on.advertised == wanted || on.bind == wanted)
        && peer.is_none_or(|peer| peer.is_ipv4() == on.bind.is_ipv4())
    {
        return Ok(LegSource::Kept);
    }
    let on = ports.address_for(rtp.local_ip, peer).map_err(at_field)?;
    let HandedPair { facts, rtp, rtcp } = ports.open_pair(worker, on)?;
    prepared.fresh.legs.push(LegFacts { id, local: Local::Rtp(facts) });
    Ok(LegSource::Open { rtp, rtcp, lease: facts.lease })
}

impl Fresh {
    /// The worker refused: what was taken for it goes back.
    pub(super) fn discard(self, ports: &mut Link) {
        self.legs.into_iter().for_each(|facts| facts.release(ports));
    }
}

impl LegFacts {
    fn release(self, ports: &mut Link) {
        if let Local::Rtp(pair) = self.local {
            ports.release(pair.lease);
        }
    }
}

impl Record {
    /// A relay of the process before this one. `pairs` are those that were handed over; who takes one out of it keeps it.
    pub(super) fn adopt(worker: u16, adopted: Adopted, pairs: &mut BTreeMap<u64, PairFacts>) -> Record {
        let mut record = Record {
            worker,
            generation: adopted.generation,
            legs: Vec::new(),
            handles: Vec::new(),
            fingerprints: BTreeMap::new(),
            actions: VecDeque::new(),
        };
        for leg in adopted.legs {
            let local = match leg.local {
                AdoptedLocal::IceDtls(credentials) => Some(Local::IceDtls(credentials)),
                AdoptedLocal::Rtp { lease } => pairs.remove(&lease).map(Local::Rtp),
            };
            record.legs.extend(local.map(|local| LegFacts { id: leg.id, local }));
            record.handles.push((leg.id, leg.handle));
            record.fingerprints.insert(leg.id, leg.fingerprints);
        }
        record
    }

    /// The worker agreed: facts of `before` that the program keeps and the fresh ones become the record, the rest goes back.
    pub(super) fn commit(
        ports: &mut Link,
        before: Option<Record>,
        fresh: Fresh,
        worker: u16,
        generation: Generation,
        handles: Vec<(LegId, LegHandle)>,
    ) -> Record {
        let (mut old, actions) = before.map_or_else(Default::default, |record| (record.legs, record.actions));
        let mut new = fresh.legs;
        let mut take = |id: LegId| {
            let from =
                |legs: &mut Vec<LegFacts>| legs.iter().position(|facts| facts.id == id).map(|at| legs.remove(at));
            from(&mut new).or_else(|| from(&mut old))
        };
        let legs = fresh.order.iter().filter_map(|&id| take(id)).collect();
        old.into_iter().for_each(|facts| facts.release(ports));
        Record { worker, generation, legs, handles, fingerprints: fresh.fingerprints, actions }
    }

    /// The relay is gone and its sockets are closed.
    pub(super) fn release(self, ports: &mut Link) {
        self.legs.into_iter().for_each(|facts| facts.release(ports));
    }

    /// Fingerprints that the program names for a leg.
    pub(super) fn fingerprints(&self, leg: LegId) -> &[Fingerprint] {
        self.fingerprints.get(&leg).map_or(&[], Vec::as_slice)
    }

    /// True the first time for each action id.
    pub(super) fn note_action(&mut self, action_id: u64) -> bool {
        if self.actions.contains(&action_id) {
            return false;
        }
        if self.actions.len() == ACTIONS_MAX {
            self.actions.pop_front();
        }
        self.actions.push_back(action_id);
        true
    }

    /// What control puts into SDP.
    pub(super) fn reply(&self, relay: RelayId, candidates: &[SocketAddr], fingerprint: Fingerprint) -> PutReply {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let address = |local: &Local| match local {
            Local::IceDtls(credentials) => LegAddress::IceDtls {
                candidates: candidates.to_vec(),
                ufrag: text(credentials.ufrag()),
                pwd: text(credentials.pwd()),
                fingerprint,
            },
            Local::Rtp(pair) => LegAddress::Rtp { rtp: pair.rtp_address(), rtcp: pair.rtcp_address() },
        };
        let legs = self.legs.iter().map(|facts| LegReply { id: facts.id, address: address(&facts.local) }).collect();
        PutReply { relay, generation: self.generation, legs }
    }
}
