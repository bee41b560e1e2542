//! The relay is killed under more packets than its workers take in at a time: what they had taken and not sent is lost, and what
//! waits in the sockets is not.

use std::{net::SocketAddr, time::Duration};

use gangway_dataplane::engine::{BATCH_MAX, uring::EngineSizes};
use gangway_tests::{
    dataplane::engine_name,
    deadline::{Deadline, pause},
    kept::KeptDataplane,
};
use rustix::process::Signal;

use crate::restart::{Dice, Peer, gaps, id, phones_program, rtp_port, talk};

const WORKERS: usize = 2;

/// Every second one is the first worker's.
const CALLS: usize = 8;

const KILLS: usize = 6;

/// Packets of each stream that the workers find when they go on, so many that no round takes all.
const BURST: u64 = 100;

/// Packets of each stream that come while there is no relay; with a burst they fit the buffer of a socket.
const WAITING: u64 = 50;

/// Packets that a worker can hold at a time (`dataplane_buffers`).
const BUFFERS: usize = 256;

struct Call {
    peers: [Peer; 2],
    ports: [SocketAddr; 2],
}

impl Call {
    /// Both say so many.
    fn say(&mut self, count: u64) {
        for (peer, port) in self.peers.iter_mut().zip(self.ports) {
            (0..count).for_each(|_| peer.say(port));
        }
    }

    fn hear(&mut self) -> usize {
        self.peers.iter_mut().for_each(Peer::hear);
        self.peers.iter().map(|peer| peer.heard.len()).sum()
    }

    /// Each has heard the other's last packet.
    fn has_heard_all(&self) -> bool {
        let [one, other] = &self.peers;
        [(one, other), (other, one)].iter().all(|(said, heard)| heard.heard.last() == Some(&(said.said - 1)))
    }
}

fn hear(calls: &mut [Call]) -> usize {
    calls.iter_mut().map(Call::hear).sum()
}

/// Numbers that both directions of a call lost from each of these on.
fn lost_since(call: &Call, since: [usize; 2]) -> u64 {
    let heard = call.peers.iter().zip(since).map(|(peer, since)| &peer.heard[since..]);
    heard.flat_map(gaps).sum()
}

#[test]
fn a_kill_costs_a_worker_what_it_had_in_hand_and_nothing_that_waits() {
    let dataplane =
        KeptDataplane::start(&[&format!("dataplane_workers={WORKERS}"), &format!("dataplane_buffers={BUFFERS}")]);
    let mut control = dataplane.control(1);
    let mut calls: Vec<Call> = Vec::new();
    for number in 0..CALLS {
        let peers = [Peer::new(1), Peer::new(2)];
        let reply = control.put(id(number as u64 + 1), 1, phones_program(&peers)).expect("a relay");
        let ports = [0, 1].map(|leg| rtp_port(&reply.legs[leg].address));
        calls.push(Call { peers, ports });
    }
    let of_each: Vec<u64> = control.node().workers.iter().map(|worker| worker.relays).collect();
    assert_eq!(of_each, [CALLS as u64 / WORKERS as u64; WORKERS]);
    drop(control);
    let ring = EngineSizes::of(BUFFERS);
    // One round of a worker is all that is in its hands. The ring also has what it took for the rounds to come (decision 041).
    let in_hand_max = if engine_name() == "epoll" { BATCH_MAX } else { ring.buffers - ring.reserve };
    let (mut dice, mut in_the_middle) = (Dice(17), 0);
    for kill in 0..KILLS {
        calls.iter_mut().for_each(|call| talk(&mut call.peers, call.ports, 2));
        while !calls.iter().all(Call::has_heard_all) {
            hear(&mut calls);
        }
        let before: Vec<[usize; 2]> =
            calls.iter().map(|call| call.peers.each_ref().map(|peer| peer.heard.len() - 1)).collect();
        let heard = hear(&mut calls);
        dataplane.process.signal(Signal::STOP);
        dataplane.stop_relay();
        calls.iter_mut().for_each(|call| call.say(BURST));
        // At any moment of the rounds that follow.
        let after = dice.below(CALLS as u64 * BURST) as usize;
        dataplane.signal_relay(Signal::CONT);
        let deadline = Deadline::seconds(10);
        while hear(&mut calls) < heard + after {
            assert!(!deadline.is_over(), "the phones hear nothing any more");
        }
        let killed = dataplane.kill_relay();
        let all = CALLS * 2 * BURST as usize;
        in_the_middle += usize::from((1..all).contains(&(hear(&mut calls) - heard)));
        let waits_from: Vec<[u64; 2]> = calls.iter().map(|call| call.peers.each_ref().map(|peer| peer.said)).collect();
        calls.iter_mut().for_each(|call| call.say(WAITING));
        dataplane.process.signal(Signal::CONT);
        dataplane.next_relay(killed);
        let deadline = Deadline::seconds(10);
        while !calls.iter().all(Call::has_heard_all) {
            assert!(!deadline.is_over(), "what waited does not come");
            pause(Duration::from_millis(1));
            hear(&mut calls);
        }
        for (call, from) in calls.iter().zip(waits_from) {
            let [one, other] = &call.peers;
            for (heard, from) in [(other, from[0]), (one, from[1])] {
                let waited = heard.heard.iter().filter(|number| **number >= from).count() as u64;
                assert_eq!(waited, WAITING, "kill {kill}: packets that waited in a socket are lost");
            }
        }
        let mut lost = [0; WORKERS];
        for (at, (call, before)) in calls.iter().zip(before).enumerate() {
            lost[at % WORKERS] += lost_since(call, before);
        }
        eprintln!("kill {kill} cost the workers {lost:?} packets");
        assert!(lost.iter().all(|lost| *lost <= in_hand_max as u64), "kill {kill} cost {lost:?} packets");
    }
    assert!(in_the_middle > 0, "no kill came while the workers were at it");
}

gangway_tests::also_on_epoll!(a_kill_costs_a_worker_what_it_had_in_hand_and_nothing_that_waits);
