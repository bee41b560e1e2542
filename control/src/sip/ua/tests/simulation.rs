//! Two agents over a network that loses, repeats and reorders, their owners acting at random. Each seed runs twice and must leave the
//! same trace; whatever happens, every request ends once and nothing is left over.

use std::collections::BTreeMap;

use super::*;

const SEEDS: u64 = 256;
const ADDRESSES: [&str; 2] = [US, PEER];
/// Percent of datagrams that get lost, and that arrive twice.
const LOSS: u32 = 15;
const REPEATS: u32 = 10;
/// How long the owners act, then how long all timers get to run out.
const ACTIVE_MS: u64 = 60_000;
const REST_MS: u64 = 400_000;

struct World {
    agents: [Bench; 2],
    entropy: SeededEntropy,
    now: Time,
    /// Datagrams on their way: when they arrive, a counter that keeps them apart, to whom.
    network: BTreeMap<(Time, u64), (usize, Vec<u8>)>,
    datagrams: u64,
    /// Requests of the owners that have not ended.
    open: [Vec<ClientId>; 2],
    ringing: [Vec<ServerId>; 2],
    trace: Vec<String>,
}

impl World {
    fn new(seed: u64) -> Self {
        let agent = |side: usize| {
            let mut config = config();
            config.advertised[0].host = Host::from(ADDRESSES[side].parse::<SocketAddr>().unwrap().ip());
            let mut bench = Bench::with(config);
            bench.ua.entropy = Box::new(SeededEntropy::new(seed * 2 + side as u64));
            bench
        };
        World {
            agents: [agent(0), agent(1)],
            entropy: SeededEntropy::new(seed ^ 0x5eed),
            now: at(0),
            network: BTreeMap::new(),
            datagrams: 0,
            open: [vec![], vec![]],
            ringing: [vec![], vec![]],
            trace: vec![],
        }
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.entropy.below(100) < percent
    }

    fn run(mut self) -> Vec<String> {
        let mut next_action = at(0);
        let end = at(ACTIVE_MS + REST_MS);
        loop {
            let timers = self.agents.iter().filter_map(|agent| agent.ua.poll_timeout());
            let arrivals = self.network.keys().next().map(|(due, _)| *due);
            let action = Some(next_action).filter(|due| *due < at(ACTIVE_MS));
            let Some(due) = timers.chain(arrivals).chain(action).min().filter(|due| *due <= end) else { break };
            self.now = self.now.max(due);
            self.deliver();
            for side in 0..2 {
                self.agents[side].now = self.now;
                self.agents[side].ua.handle_timeout(self.now);
                self.drain(side);
            }
            if action.is_some_and(|due| due <= self.now) {
                let side = self.entropy.below(2) as usize;
                self.act(side);
                self.drain(side);
                next_action = self.now + Duration::from_millis(u64::from(self.entropy.below(900)));
            }
        }
        for side in 0..2 {
            let ua = &self.agents[side].ua;
            assert_eq!(self.open[side], [], "requests that never ended");
            assert_eq!(
                (ua.transactions(), ua.poll_timeout()),
                (0, None),
                "transactions left: {:#?}",
                &self.trace[self.trace.len().saturating_sub(40)..]
            );
            self.trace.push(format!("{side} {:?} dialogs {}", ua.counters(), ua.dialogs().count()));
        }
        self.trace
    }

    fn deliver(&mut self) {
        while let Some(entry) = self.network.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let (side, bytes) = entry.remove();
            let remote = ADDRESSES[1 - side].parse().unwrap();
            let source = Source { transport: Transport::Udp, local: US.parse().unwrap(), remote, flow: None };
            self.agents[side].ua.handle_message(self.now, source, &bytes);
            self.agents[side].check();
            self.drain(side);
        }
    }

    /// Sends what the agent wants to send and lets its owner see what happened.
    fn drain(&mut self, side: usize) {
        self.agents[side].check();
        loop {
            while let Some(transmit) = self.agents[side].ua.poll_transmit() {
                let first_line = String::from_utf8_lossy(&transmit.bytes).lines().next().unwrap_or_default().to_owned();
                self.trace.push(format!("{} {side} > {first_line}", self.now));
                self.put_on_the_wire(1 - side, &transmit.bytes);
            }
            let Some(event) = self.agents[side].ua.poll_event() else { break };
            self.trace.push(format!("{} {side} {event:?}", self.now));
            self.handle_event(side, event);
            self.agents[side].check();
        }
    }

    fn put_on_the_wire(&mut self, to: usize, bytes: &[u8]) {
        let copies = if self.chance(LOSS) { 0 } else { 1 + usize::from(self.chance(REPEATS)) };
        for _ in 0..copies {
            let delay = Duration::from_millis(u64::from(1 + self.entropy.below(120)));
            self.datagrams += 1;
            self.network.insert((self.now + delay, self.datagrams), (to, bytes.to_vec()));
        }
    }

    fn handle_event(&mut self, side: usize, event: UaEvent) {
        match event {
            UaEvent::Invite { server, .. } => {
                self.ringing[side].push(server);
                self.finish_what_rings_too_long(side);
            }
            UaEvent::Cancelled { server, .. } => self.ringing[side].retain(|other| *other != server),
            UaEvent::DialogRequest { server, .. } | UaEvent::Request { server, .. } => {
                let status = if self.chance(70) { 200 } else { 488 };
                let _ = self.agents[side].ua.respond(self.now, server, Reply::new(Status::literal(status)));
            }
            UaEvent::Answered { client, .. }
            | UaEvent::Finished { client, .. }
            | UaEvent::TimedOut { client, .. }
            | UaEvent::TransportFailed { client, .. }
            | UaEvent::TooLong { client, .. }
            | UaEvent::Unusable { client }
            | UaEvent::CrossedCancel { client } => {
                let before = self.open[side].len();
                self.open[side].retain(|other| *other != client);
                assert_eq!(self.open[side].len() + 1, before, "a request ends exactly once");
            }
            _ => {}
        }
    }

    /// The owner does something: calls, answers, refuses, cancels, or does anything in a dialog.
    fn act(&mut self, side: usize) {
        let peer = ADDRESSES[1 - side].parse().unwrap();
        let now = self.now;
        let pick = self.entropy.below(100);
        let index = self.entropy.next_u64() as usize;
        let agent = &mut self.agents[side];
        let contact = address(&format!("<sip:key@{}>", ADDRESSES[side]));
        match pick {
            0..30 => {
                let target = Target { transport: Transport::Udp, remote: peer, flow: None };
                let call = Outgoing { contact: Some(contact), target, ..outgoing(agent, Method::Invite) };
                self.open[side].extend(agent.ua.send_request(now, call));
            }
            30..65 if !self.ringing[side].is_empty() => {
                let at = index % self.ringing[side].len();
                let server = self.ringing[side][at];
                let status = [180, 183, 200, 200, 486][index / 64 % 5];
                let answer = Reply { contact: Some(contact), ..Reply::new(Status::literal(status)) };
                let answered = agent.ua.respond(now, server, answer);
                if status >= 200 || answered.is_err() {
                    self.ringing[side].remove(at);
                }
            }
            65..75 if !self.open[side].is_empty() => {
                let client = self.open[side][index % self.open[side].len()];
                agent.ua.cancel(now, client, Headers::new());
            }
            75.. => {
                let ids: Vec<DialogId> = agent.ua.dialogs().map(|dialog| dialog.id.clone()).collect();
                if let Some(id) = ids.get(index % ids.len().max(1)) {
                    let method = [Method::Bye, Method::Bye, Method::Invite, Method::Info][index / 64 % 4].clone();
                    self.open[side].extend(agent.ua.send_in_dialog(now, id, method, Headers::new(), None));
                }
            }
            _ => {}
        }
        self.finish_what_rings_too_long(side);
    }

    /// A gateway has a ring timeout of its own; without one an INVITE may wait for ever.
    fn finish_what_rings_too_long(&mut self, side: usize) {
        let late = self.now >= at(ACTIVE_MS - 10_000);
        let ringing = if late { std::mem::take(&mut self.ringing[side]) } else { vec![] };
        for server in ringing {
            let _ = self.agents[side].ua.respond(self.now, server, Reply::new(Status::literal(480)));
        }
    }
}

#[test]
fn whatever_the_network_does_every_request_ends_once_and_nothing_is_left() {
    for seed in 0..SEEDS {
        let trace = std::panic::catch_unwind(|| World::new(seed).run());
        let trace = trace.unwrap_or_else(|_| panic!("seed {seed} failed"));
        assert_eq!(World::new(seed).run(), trace, "seed {seed} ran differently the second time");
    }
}
