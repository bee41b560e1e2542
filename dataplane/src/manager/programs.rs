//! Local facts of relays: which ports and credentials their legs have, and what of them an update keeps.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{SocketAddr, UdpSocket},
};

use gangway_shared::{
    ids::{Generation, LegId, RelayId},
    rcp::{
        Fingerprint, IceDtlsLeg, LegAddress, LegKind, LegReply, PutReply, RelayError, RelayProgram, RtpLeg, SrtpLeg,
    },
};

use crate::{
    arena::ACTIONS_MAX,
    ice_lite::LocalCredentials,
    keeper::{HandedPair, Link, PairFacts},
    manager::entropy::OsEntropy,
    ports::LocalAddress,
    relay::{Adopted, AdoptedLocal, LegHandle},
    worker::LegSource,
};

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
    actions: Actions,
}

/// Actions of a relay whose repetition is noticed.
#[derive(Debug, Default)]
struct Actions {
    /// Begun by this process, the last of them.
    ours: VecDeque<u64>,
    /// Begun by the process before, which may not have told of their end.
    former: Vec<u64>,
}

/// What is known of an action id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// Nothing: it is to be done.
    Not,
    /// It was begun, and its end is told.
    Begun,
    /// The process before this one began it.
    BegunBefore,
}

/// What a program needs of the manager before a worker can run it.
#[derive(Debug)]
pub(super) struct Prepared {
    /// For the worker, in the order of the program; nothing yet for a leg that needs a new pair.
    sources: Vec<(LegId, Option<LegSource<UdpSocket>>)>,
    /// Addresses of the pairs that nobody was asked for yet, in that order.
    pub(super) wanted: VecDeque<LocalAddress>,
    /// Facts of legs that are new.
    pub(super) fresh: Fresh,
}

impl Prepared {
    /// The first leg that lacks its pair, by its place in the program.
    pub(super) fn first_without(&self) -> Option<usize> {
        self.sources.iter().position(|(_, source)| source.is_none())
    }

    /// Gives the first leg without one its pair.
    pub(super) fn take_pair(&mut self, pair: HandedPair) {
        let HandedPair { facts, rtp, rtcp } = pair;
        let Some((id, source)) = self.sources.iter_mut().find(|(_, source)| source.is_none()) else { return };
        *source = Some(LegSource::Open { rtp, rtcp, lease: facts.lease });
        self.fresh.legs.push(LegFacts { id: *id, local: Local::Rtp(facts) });
    }

    /// What the worker gets, and the facts to keep.
    pub(super) fn complete(self) -> (Vec<(LegId, LegSource<UdpSocket>)>, Fresh) {
        let Prepared { sources, fresh, .. } = self;
        (sources.into_iter().filter_map(|(id, source)| Some((id, source?))).collect(), fresh)
    }

    /// Gives back what was taken for it.
    pub(super) fn discard(self, ports: &mut Link) {
        let Prepared { sources, fresh, .. } = self;
        drop(sources);
        fresh.discard(ports);
    }
}

/// Facts that become a record's when the worker agrees.
#[derive(Debug, Default)]
pub(super) struct Fresh {
    legs: Vec<LegFacts>,
    order: Vec<LegId>,
    fingerprints: BTreeMap<LegId, Vec<Fingerprint>>,
}

/// Gives each leg of `program` what `before` has already, else new credentials, and says which pairs are missing.
///
/// # Errors
/// `NoAddress` with the field of the first leg that no configured address fits.
pub(super) fn prepare(ports: &Link, before: Option<&Record>, program: &RelayProgram) -> Result<Prepared, RelayError> {
    let mut prepared = Prepared { sources: Vec::new(), wanted: VecDeque::new(), fresh: Fresh::default() };
    for (at, leg) in program.legs.iter().enumerate() {
        prepared.fresh.order.push(leg.id);
        let old = before.and_then(|record| record.legs.iter().find(|facts| facts.id == leg.id));
        let old = old.map(|facts| &facts.local);
        let source = match &leg.kind {
            LegKind::IceDtls(ice) => Some(prepare_browser(old, leg.id, ice, &mut prepared.fresh)),
            LegKind::Rtp(rtp) | LegKind::Srtp(SrtpLeg { rtp, .. }) => match address_of_new_pair(ports, old, rtp) {
                Ok(None) => Some(LegSource::Kept),
                Ok(Some(on)) => {
                    prepared.wanted.push_back(on);
                    None
                }
                Err(mut error) => {
                    let field = if rtp.local_ip.is_some() { "local_ip" } else { "remote" };
                    error.field = format!("program.legs[{at}].{field}");
                    return Err(error);
                }
            },
            // The registry has refused them already.
            LegKind::Tap(_) => continue,
        };
        prepared.sources.push((leg.id, source));
    }
    Ok(prepared)
}

fn prepare_browser(old: Option<&Local>, id: LegId, ice: &IceDtlsLeg, fresh: &mut Fresh) -> LegSource<UdpSocket> {
    let fingerprints = ice.remote.as_ref().map_or(Vec::new(), |remote| remote.fingerprints.clone());
    fresh.fingerprints.insert(id, fingerprints);
    if let Some(Local::IceDtls(credentials)) = old {
        return LegSource::IceDtls(*credentials);
    }
    let credentials = LocalCredentials::mint(&mut OsEntropy);
    fresh.legs.push(LegFacts { id, local: Local::IceDtls(credentials) });
    LegSource::IceDtls(credentials)
}

/// Where a leg needs a new pair; nowhere, when the one that it has is right.
fn address_of_new_pair(ports: &Link, old: Option<&Local>, rtp: &RtpLeg) -> Result<Option<LocalAddress>, RelayError> {
    let peer = rtp.remote.map(|remote| remote.rtp.ip());
    if let Some(Local::Rtp(PairFacts { on, .. })) = old
        && rtp.local_ip.is_none_or(|wanted| on.advertised == wanted || on.bind == wanted)
        && peer.is_none_or(|peer| peer.is_ipv4() == on.bind.is_ipv4())
    {
        return Ok(None);
    }
    ports.address_for(rtp.local_ip, peer).map(Some)
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
            actions: Actions { ours: VecDeque::new(), former: adopted.actions },
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

    /// What is known of this action id, which counts as begun from now on.
    pub(super) fn note_action(&mut self, action_id: u64) -> Known {
        let Actions { ours, former } = &mut self.actions;
        if ours.contains(&action_id) {
            return Known::Begun;
        }
        if former.contains(&action_id) {
            return Known::BegunBefore;
        }
        if ours.len() == ACTIONS_MAX {
            ours.pop_front();
        }
        ours.push_back(action_id);
        Known::Not
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
