//! What always holds between records and what is derived from them. For tests and simulations; no packet path calls it.

use super::{PortId, Relays, table::PortUse};

impl Relays {
    /// Checks that no relay, leg, route, port, path or stream is lost or owned twice.
    ///
    /// # Errors
    /// What is broken, in words.
    pub fn check_invariants(&self) -> Result<(), String> {
        let limits = self.arena.limits();
        let free = self.arena.free();
        let mut legs = 0;
        let mut routes = 0;
        let mut paths = 0;
        for (id, slot) in &self.by_id {
            let relay = self.arena.relay(*slot);
            check(relay.head.used == 1, || format!("relay {id} is not in use"))?;
            for leg in relay.legs.iter().filter_map(|leg| leg.checked_sub(1)) {
                legs += 1;
                paths += self.check_leg(*slot, leg)?;
            }
            for route in relay.routes.iter().filter_map(|route| route.checked_sub(1)) {
                routes += 1;
                self.check_route(*slot, route)?;
            }
        }
        check(self.by_id.len() as u32 + free.relays == limits.relays, || "a relay record is lost".to_owned())?;
        check(legs + free.legs == limits.legs, || "a leg record has no owner".to_owned())?;
        check(routes + free.routes == limits.routes, || "a route record has no owner".to_owned())?;
        check(paths == self.paths.len(), || format!("{} paths in the table, {paths} on legs", self.paths.len()))
    }

    fn check_leg(&self, relay: u32, slot: u32) -> Result<usize, String> {
        let leg = self.arena.leg(slot);
        check(leg.head.used == 1 && leg.relay == relay + 1, || format!("leg {slot} has another owner"))?;
        let mut paths = 0;
        for path in leg.paths.iter().filter(|path| path.port != 0) {
            paths += 1;
            let owner = self.paths.find(PortId(path.port - 1), path.addr);
            check(owner == Some(slot), || format!("a path of leg {slot} belongs to {owner:?}"))?;
        }
        if leg.is_ice() {
            check(self.ufrags.find(leg.local.ufrag()) == Some(slot), || format!("ufrag of leg {slot} is lost"))?;
            let nominated = leg.nominated.checked_sub(1).map(|index| leg.paths[index as usize]);
            check(nominated.is_none_or(|path| path.port != 0), || format!("leg {slot} nominates a lost path"))?;
        } else {
            let uses = [leg.rtp_port, leg.rtcp_port].map(|port| self.ports.find(PortId(port - 1)));
            let wanted = [PortUse::Rtp(slot), PortUse::Rtcp(slot)];
            check(uses == wanted, || format!("ports of leg {slot} are {uses:?}"))?;
        }
        for (index, stream) in self.arena.out(slot).iter().enumerate().filter(|(_, stream)| stream.route != 0) {
            let route = self.arena.route(stream.route - 1);
            let is_owner = route.to == slot && route.out as usize == index && route.ssrc == stream.tx.ssrc();
            check(stream.used == 1 && is_owner, || format!("stream {index} of leg {slot} has no route"))?;
        }
        for (index, stream) in self.arena.out(slot).iter().enumerate().filter(|(_, stream)| stream.repairs != 0) {
            let route = self.arena.route(stream.repairs - 1);
            let is_owner = route.to == slot && route.rtx_out as usize == index + 1 && stream.route == 0;
            check(stream.used == 1 && is_owner, || format!("stream {index} of leg {slot} repairs no route"))?;
        }
        let keys = &self.derived[slot as usize];
        let has_keys = [keys.rx[0].is_some(), keys.tx.is_some()];
        check(has_keys == [leg.peer_key().whole().is_some(), leg.own_key().whole().is_some()], || {
            format!("session keys of leg {slot} are not derived")
        })?;
        let timer = self.deadlines.of(slot);
        check(timer.is_some(), || format!("leg {slot} has no timer"))?;
        check(timer <= leg.deadline(), || format!("a timer of leg {slot} would come too late"))?;
        let arrivals = keys.arrivals.as_ref().and_then(super::congestion::ArrivalLog::due);
        check(arrivals.is_none_or(|due| timer <= Some(due)), || {
            format!("arrivals of leg {slot} would be told too late")
        })?;
        check(self.keyframes_due(slot).is_none_or(|due| timer <= Some(due)), || {
            format!("a key frame wanted of leg {slot} would be asked for too late")
        })?;
        check(self.fills_due(slot).is_none_or(|due| timer <= Some(due)), || {
            format!("sound in place of leg {slot} would be made too late")
        })?;
        Ok(paths)
    }

    fn check_route(&self, relay: u32, slot: u32) -> Result<(), String> {
        let route = self.arena.route(slot);
        check(route.head.used == 1 && route.relay == relay + 1, || format!("route {slot} has another owner"))?;
        for leg in [route.from, route.to] {
            check(self.arena.leg(leg).relay == relay + 1, || format!("route {slot} leads to another relay"))?;
        }
        let streams = self.arena.out(route.to);
        let stream = &streams[route.out as usize];
        check(stream.route == slot + 1, || format!("the stream of route {slot} is another's"))?;
        let rtx = route.rtx_out.checked_sub(1).map(|index| &streams[index as usize]);
        check(rtx.is_none_or(|rtx| rtx.repairs == slot + 1), || format!("route {slot} repairs by another's stream"))?;
        let derived = &self.derived[route.from as usize];
        let is_listed = derived.routes[..derived.route_count].contains(&slot);
        check(is_listed, || format!("route {slot} is not found from its leg"))
    }
}

fn check(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}
