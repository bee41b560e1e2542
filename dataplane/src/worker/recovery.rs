//! How a worker goes on after a panic.

use std::{
    collections::BTreeSet,
    io,
    os::fd::OwnedFd,
    panic::{AssertUnwindSafe, catch_unwind},
};

use gangway_shared::{
    ids::RelayId,
    rcp::{ErrorCode, Event, RelayError},
};

use super::{
    Worker,
    messages::{InHand, Report},
    output::Free,
};
use crate::{
    arena::Arena,
    engine::{Batch, Engine},
    relay::{PortId, Relays},
};

impl<E: Engine> Worker<E> {
    /// Goes on after a panic: buffers back, relays out of the arena, the command in hand put right.
    ///
    /// A relay that was being put is ended: how much of its program it took is not known. One that was being removed is removed.
    /// Relays that do not come back are reported, and every port that nobody names any more is closed.
    pub(super) fn recover(&mut self) {
        self.engine.reclaim();
        self.batch = Batch::new();
        self.stamps.clear();
        self.generated.clear();
        let in_hand = self.in_hand.take();
        let changed = match in_hand {
            Some(InHand::Put { relay, .. } | InHand::Remove { relay, .. }) => Some(relay),
            Some(InHand::Question { .. } | InHand::Action { .. }) | None => None,
        };
        let actions = self.relays.as_mut().map(Relays::take_actions).unwrap_or_default();
        let alive = self.take_relays_back(changed);
        let lost: Vec<RelayId> = self.ports.keys().copied().filter(|relay| !alive.contains(relay)).collect();
        self.ports.retain(|relay, _| alive.contains(relay));
        self.close_unnamed();
        let is_lost =
            |relay: &RelayId| !matches!(in_hand, Some(InHand::Remove { relay: removed, .. }) if removed == *relay);
        let lost: Vec<RelayId> = lost.into_iter().filter(is_lost).collect();
        for relays in pages(&lost, Event::WORKER_LOST_MAX) {
            self.post.post(Report::Event(Event::WorkerLost { worker: self.config.worker, relays: relays.to_vec() }));
        }
        match in_hand {
            Some(InHand::Remove { token, .. }) => self.post.post(Report::Removed { token }),
            Some(InHand::Put { token, .. } | InHand::Question { token }) => self.post.post(Report::Failed { token }),
            Some(InHand::Action { .. }) | None => {}
        }
        let in_hand = match in_hand {
            Some(InHand::Action { relay, action_id }) if !actions.contains(&(relay, action_id)) => {
                Some((relay, action_id))
            }
            _ => None,
        };
        for (relay, action_id) in actions.into_iter().chain(in_hand) {
            let error = RelayError::new(ErrorCode::Internal, "", "its worker failed and was started again");
            self.post.post(Report::Event(Event::ActDone { relay, action_id, error: Some(error) }));
        }
    }

    /// Takes the relays out of the arena, without `ended` and without those that nobody put; which ones there are now.
    ///
    /// Whatever is lost, the worker goes on in the memory that the keeper hands to the next process.
    fn take_relays_back(&mut self, ended: Option<RelayId>) -> BTreeSet<RelayId> {
        let now = self.engine.now();
        let arena = self.relays.take().expect("relays are out only during recovery").into_arena();
        let again = arena.fd().try_clone_to_owned();
        let mut out = Free { engine: &mut self.engine, post: &mut self.post };
        let rebuilt = catch_unwind(AssertUnwindSafe(|| {
            let mut relays = Relays::rebuild(arena, self.config.clone(), now, &mut out);
            let is_unwanted = |relay: &RelayId| Some(*relay) == ended || !self.ports.contains_key(relay);
            let unwanted: Vec<RelayId> = relays.flows().map(|flow| flow.relay).filter(is_unwanted).collect();
            for relay in unwanted {
                relays.remove(relay, &mut out);
            }
            relays
        }));
        let relays = rebuilt.unwrap_or_else(|_| {
            tracing::error!(worker = self.config.worker, "the arena could not be taken back; its relays are lost");
            Relays::new(emptied(again), self.config.clone())
        });
        let alive = relays.flows().map(|flow| flow.relay).collect();
        self.relays = Some(relays);
        alive
    }

    /// Closes the ports that belong to no relay and not to the browsers: those that were opened for a change that failed, and
    /// those of relays that are gone.
    pub(super) fn close_unnamed(&mut self) {
        self.engine.flush();
        let of_legs = self.ports.values().flatten().flat_map(|leg| [leg.rtp, leg.rtcp]);
        let named: BTreeSet<PortId> = of_legs.chain(self.config.mux_ports.iter().copied()).collect();
        for port in self.engine.ports().into_iter().filter(|port| !named.contains(port)) {
            drop(self.engine.close(port));
        }
    }
}

/// The arena of a descriptor without anything in it, for a worker that cannot go on with what was in it.
///
/// # Panics
/// When it cannot be mapped. That ends the worker and with it the process: what is made in memory that the keeper does not have would be
/// lost at the next restart, and what the other workers have is taken over by the next process.
pub(super) fn emptied(memory: io::Result<OwnedFd>) -> Arena {
    let mut arena = memory.map_err(Into::into).and_then(Arena::map).expect("it was mapped a moment ago");
    arena.clear();
    arena
}

/// `list` in pieces of at most `most`; an empty one is one piece.
fn pages<T>(list: &[T], most: usize) -> impl Iterator<Item = &[T]> {
    let empty = list.is_empty().then_some(list);
    empty.into_iter().chain(list.chunks(most))
}
