//! The relay process is killed while people talk: every call goes on, in its place and with its numbers.

use std::{
    collections::BTreeSet,
    net::{SocketAddr, UdpSocket},
    ops::Range,
    time::Duration,
};

use gangway_shared::{
    ids::{EventSeq, Generation, LegId, RelayId},
    rcp::{ActAction, Codec, DtmfDigits, ErrorCode, Event, LegAddress, ListEntry, Reply, Request},
};
use gangway_tests::{
    browser_leg::{BrowserLeg, Heard, rtp_bytes},
    dataplane::{Control, audio_route, browser_leg, echo_program, program, rtp_leg, same},
    deadline::{Deadline, pause},
    kept::KeptDataplane,
    process::held,
};
use rustix::process::Signal;

pub(super) fn id(number: u64) -> RelayId {
    RelayId::new(1, 1, number)
}

/// Random enough for instants, the same in every run.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// A SIP peer that says numbered packets and notes which it hears.
pub(super) struct Peer {
    socket: UdpSocket,
    ssrc: u32,
    pub(super) said: u64,
    pub(super) heard: Vec<u64>,
    /// What the numbers of packets were moved by on their way here.
    moved: Option<u16>,
    ssrcs: BTreeSet<u32>,
}

impl Peer {
    pub(super) fn new(ssrc: u32) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback");
        socket.set_nonblocking(true).expect("a socket");
        Peer { socket, ssrc, said: 0, heard: Vec::new(), moved: None, ssrcs: BTreeSet::new() }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.socket.local_addr().expect("a bound socket")
    }

    /// Number of the first packet that may still come.
    fn awaited(&self) -> u64 {
        self.heard.last().map_or(0, |number| number + 1)
    }

    pub(super) fn say(&mut self, to: SocketAddr) {
        let said = numbered(self.ssrc, self.said);
        self.said += 1;
        self.socket.send_to(&rtp_bytes(&said), to).expect("loopback");
    }

    pub(super) fn hear(&mut self) {
        let mut bytes = [0; 2048];
        while let Ok((len, _)) = self.socket.recv_from(&mut bytes) {
            let packet = &bytes[..len];
            if packet[1] & 0x7f == 8 {
                self.ssrcs.insert(u32::from_be_bytes([packet[8], packet[9], packet[10], packet[11]]));
                let number = number_in(&packet[12..]);
                // What the source's numbers were moved by never changes on a plain leg.
                let moved = u16::from_be_bytes([packet[2], packet[3]]).wrapping_sub(number as u16);
                assert_eq!(*self.moved.get_or_insert(moved), moved);
                self.heard.push(number);
            }
        }
    }
}

fn numbered(ssrc: u32, number: u64) -> Heard {
    let payload = [&number.to_be_bytes()[..], &[0xd5; 152]].concat();
    Heard { pt: 8, ssrc, sequence: number as u16, timestamp: (number as u32).wrapping_mul(160), payload }
}

fn number_in(payload: &[u8]) -> u64 {
    u64::from_be_bytes(payload[..8].try_into().expect("eight bytes"))
}

/// What is missing in what was heard, as runs of numbers; it must have come in order and once.
#[track_caller]
pub(super) fn gaps(heard: &[u64]) -> Vec<u64> {
    let steps = heard.windows(2).map(|pair| {
        assert!(pair[0] < pair[1], "{} came after {}", pair[1], pair[0]);
        pair[1] - pair[0] - 1
    });
    steps.filter(|gap| *gap > 0).collect()
}

/// There is at most one gap for each kill. How many packets of all streams of a worker a kill may cost: the module `rounds`.
#[track_caller]
pub(super) fn assert_few(gaps: &[u64], kills: usize) {
    eprintln!("{kills} kills cost {gaps:?} packets");
    assert!(gaps.len() <= kills, "{gaps:?}");
}

/// Only what was on the way at a kill is lost: said before the end of the relay, and not heard before the kill.
#[track_caller]
fn assert_on_the_way(heard: &[u64], on_the_way: &[Range<u64>]) {
    for lost in heard.windows(2).flat_map(|pair| pair[0] + 1..pair[1]) {
        assert!(on_the_way.iter().any(|range| range.contains(&lost)), "{lost} is lost; on the way were {on_the_way:?}");
    }
}

pub(super) fn rtp_port(address: &LegAddress) -> SocketAddr {
    match address {
        LegAddress::Rtp { rtp, .. } => *rtp,
        LegAddress::IceDtls { .. } | LegAddress::None => panic!("{address:?}"),
    }
}

pub(super) fn list(control: &mut Control) -> Vec<ListEntry> {
    match control.ask(Request::List { after: None, limit: 100 }) {
        Ok(Reply::List { relays, more: false }) => relays,
        other => panic!("{other:?}"),
    }
}

pub(super) fn phones_program(peers: &[Peer; 2]) -> gangway_shared::rcp::RelayProgram {
    let payloads = || vec![same(8, Codec::Pcma, 8000, None)];
    let legs = vec![rtp_leg(0, Some(peers[0].address())), rtp_leg(1, Some(peers[1].address()))];
    program(legs, vec![audio_route(0, 1, 71, payloads()), audio_route(1, 0, 72, payloads())])
}

/// Both say a packet every few milliseconds until each heard `more` that were not heard before.
#[track_caller]
pub(super) fn talk(peers: &mut [Peer; 2], ports: [SocketAddr; 2], more: usize) {
    let wanted = peers.each_ref().map(|peer| peer.heard.len() + more);
    let deadline = Deadline::seconds(20);
    while peers.iter().zip(wanted).any(|(peer, wanted)| peer.heard.len() < wanted) {
        assert!(!deadline.is_over(), "the phones hear nothing any more");
        for (peer, port) in peers.iter_mut().zip(ports) {
            peer.say(port);
        }
        pause(Duration::from_millis(2));
        peers.iter_mut().for_each(Peer::hear);
    }
}

#[test]
fn phones_talk_on_through_many_kills_of_the_relay() {
    const KILLS: usize = 25;
    let dataplane = KeptDataplane::start(&[]);
    let mut peers = [Peer::new(1), Peer::new(2)];
    let mut control = dataplane.control(1);
    let reply = control.put(id(1), 3, phones_program(&peers)).expect("a relay");
    let ports = [rtp_port(&reply.legs[0].address), rtp_port(&reply.legs[1].address)];
    let before = list(&mut control);
    let instance = control.greeting.clone();
    let mut dice = Dice(7);
    let mut on_the_way = [Vec::new(), Vec::new()];
    talk(&mut peers, ports, 20);
    for kill in 0..KILLS {
        if kill % 9 == 8 {
            // More in a row would be answered by pauses.
            talk(&mut peers, ports, 1100);
        }
        talk(&mut peers, ports, 1 + dice.below(30) as usize);
        // While packets are on their way through it.
        (0..dice.below(6)).for_each(|_| peers[0].say(ports[0]));
        let awaited = peers.each_ref().map(Peer::awaited);
        let killed = dataplane.kill_relay();
        on_the_way[0].push(awaited[0]..peers[1].said);
        on_the_way[1].push(awaited[1]..peers[0].said);
        // These wait in the sockets.
        peers.iter_mut().zip(ports).for_each(|(peer, port)| peer.say(port));
        dataplane.next_relay(killed);
    }
    talk(&mut peers, ports, 20);
    for ((peer, ssrc), on_the_way) in peers.iter().zip([72, 71]).zip(&on_the_way) {
        assert_few(&gaps(&peer.heard), KILLS);
        assert_on_the_way(&peer.heard, on_the_way);
        assert_eq!(peer.ssrcs, BTreeSet::from([ssrc]));
    }
    drop(control);

    // Who controls finds everything as it was.
    let mut control = Control::connect(&dataplane.socket());
    assert_eq!((control.greeting.epoch, &control.greeting.instance), (1, &instance.instance));
    assert_eq!((&control.greeting.webrtc, control.greeting.workers), (&instance.webrtc, instance.workers));
    control.hello(1, Some((instance.instance, EventSeq(0))));
    let entries = list(&mut control);
    assert_eq!(control.gaps().len(), 1, "events of the killed relays are told as a gap");
    let facts = |entries: &[ListEntry]| {
        entries.iter().map(|entry| (entry.relay, entry.generation, entry.digest.clone())).collect::<Vec<_>>()
    };
    assert_eq!(facts(&entries), facts(&before));
    assert_eq!(control.put(id(1), 3, phones_program(&peers)), Ok(reply.clone()), "the same program is no change");
    assert_eq!(control.put(id(1), 2, phones_program(&peers)).unwrap_err().code, ErrorCode::Stale);
    let Ok(Reply::QueryRelay(stats)) = control.ask(Request::Query { relay: Some(id(1)), from_worker: 0 }) else {
        panic!("no stats")
    };
    assert!(stats.legs[0].received.packets >= peers[1].heard.len() as u64, "counters went on");
    assert_eq!(control.node().media_ports_used, 4);
    let mut held_up = phones_program(&peers);
    held_up.routes[0].paused = true;
    let again = control.put(id(1), 4, held_up).expect("an update");
    assert_eq!(again.legs, reply.legs, "the legs stay where they are");
    control.put(id(1), 5, phones_program(&peers)).expect("an update");
    talk(&mut peers, ports, 5);
    control.delete(id(1));
    let node = control.node();
    assert_eq!((node.relays, node.media_ports_used, node.media_ports_quarantined), (0, 0, 4));
}

#[test]
fn a_browser_talks_on_through_many_kills_of_the_relay_and_no_index_is_used_twice() {
    const KILLS: usize = 10;
    let dataplane = KeptDataplane::start(&["rtcp_interval_ms=100"]);
    let mut control = dataplane.control(1);
    let mut browser = BrowserLeg::unanswered();
    let mut peer = Peer::new(2);
    let payloads = || vec![same(8, Codec::Pcma, 8000, None)];
    let calls = || {
        let legs = vec![browser_leg(0, Some(browser.remote())), rtp_leg(1, Some(peer.address()))];
        program(legs, vec![audio_route(0, 1, 71, payloads()), audio_route(1, 0, 72, payloads())])
    };
    let the_program = calls();
    let reply = control.put(id(1), 1, the_program.clone()).expect("a relay");
    let port = rtp_port(&reply.legs[1].address);
    browser.answer(&reply.legs[0].address);
    browser.connect();
    control.wait_event("the keys", |event| matches!(event, Event::KeysReady { .. }));
    drop(control);
    let mut dice = Dice(11);
    let mut said = 0;
    let (mut heard, mut sequences) = (Vec::new(), Vec::new());
    let mut on_the_way = [Vec::new(), Vec::new()];
    for kill in 0..=KILLS {
        let wanted = [heard.len(), peer.heard.len()].map(|len| len + 10 + dice.below(20) as usize);
        let deadline = Deadline::seconds(20);
        while heard.len() < wanted[0] || peer.heard.len() < wanted[1] {
            assert!(!deadline.is_over(), "browser and phone hear nothing any more");
            browser.speak(&numbered(0x1234, said));
            said += 1;
            peer.say(port);
            // Fails for an index that came before, and for one with another rollover counter.
            for packet in browser.listen_for(Duration::from_millis(4)) {
                heard.push(number_in(&packet.payload));
                sequences.push(packet.sequence);
                assert_eq!(packet.ssrc, 72);
            }
            peer.hear();
            browser.check(false);
        }
        if kill < KILLS {
            let awaited = [heard.last().map_or(0, |number| number + 1), peer.awaited()];
            let killed = dataplane.kill_relay();
            on_the_way[0].push(awaited[0]..peer.said);
            on_the_way[1].push(awaited[1]..said);
            // These wait in the sockets.
            peer.say(port);
            browser.speak(&numbered(0x1234, said));
            said += 1;
            dataplane.next_relay(killed);
        }
    }
    for (heard, on_the_way) in [&heard, &peer.heard].into_iter().zip(&on_the_way) {
        assert_few(&gaps(heard), KILLS);
        assert_on_the_way(heard, on_the_way);
    }
    assert_eq!(peer.ssrcs, BTreeSet::from([71]));
    let skips = sequences.windows(2).filter(|pair| pair[1].wrapping_sub(pair[0]) > 64).count();
    assert_eq!(skips, KILLS, "each relay begins behind what the one before may have sent");
    assert!(browser.rtcp_heard > 0, "reports went on under fresh indexes");
    let mut control = dataplane.control(1);
    assert_eq!(control.put(id(1), 1, the_program), Ok(reply), "credentials and certificate are the same");
    let act = Request::Act { relay: id(1), action_id: 1, action: ActAction::Keyframe { leg: LegId(0) } };
    assert_eq!(control.ask(act), Ok(Reply::Act));
    control.delete(id(1));
    assert_eq!(control.node().media_ports_used, 0);
}

/// Digits of an action that was begun are not dialled again, however the relay that began it ended and whoever asks again.
#[test]
fn digits_are_dialled_once_although_the_relay_is_killed() {
    let dataplane = KeptDataplane::start(&[]);
    let mut control = dataplane.control(1);
    let mut peers = [Peer::new(1), Peer::new(2)];
    let events = || vec![same(8, Codec::Pcma, 8000, None), same(101, Codec::TelephoneEvent, 8000, None)];
    let legs = vec![rtp_leg(0, Some(peers[0].address())), rtp_leg(1, Some(peers[1].address()))];
    let the_program = program(legs, vec![audio_route(0, 1, 71, events()), audio_route(1, 0, 72, events())]);
    let reply = control.put(id(1), 1, the_program).expect("a relay");
    let ports = [rtp_port(&reply.legs[0].address), rtp_port(&reply.legs[1].address)];
    talk(&mut peers, ports, 5);
    let dial = |control: &mut Control, action_id, digit: &str| {
        let action = ActAction::Dtmf { leg: LegId(1), digits: DtmfDigits(digit.to_owned()), duration_ms: 60 };
        assert_eq!(control.ask(Request::Act { relay: id(1), action_id, action }), Ok(Reply::Act));
    };
    // What the phone is told of the ends of digits, each as often as it comes.
    let heard = |until: u8| {
        let (mut ends, mut bytes, deadline) = (Vec::new(), [0; 2048], Deadline::seconds(10));
        while ends.last() != Some(&until) {
            assert!(!deadline.is_over(), "only {ends:?} are heard");
            match peers[1].socket.recv_from(&mut bytes) {
                Ok((16, _)) if bytes[1] & 0x7f == 101 && bytes[13] & 0x80 != 0 => ends.push(bytes[12]),
                Ok(_) => {}
                Err(_) => pause(Duration::from_millis(1)),
            }
        }
        ends.dedup();
        ends
    };
    dial(&mut control, 7, "5");
    assert_eq!(heard(5), [5]);
    let killed = dataplane.signal_relay(Signal::KILL).expect("a relay runs");
    dataplane.next_relay(killed);
    // What the one before it sent.
    while peers[1].socket.recv_from(&mut [0; 2048]).is_ok() {}
    let mut control = dataplane.control(1);
    dial(&mut control, 7, "5");
    control.wait_event("the end of what was begun before", |event| {
        matches!(event, Event::ActDone { action_id: 7, error: Some(error), .. } if error.code == ErrorCode::Internal)
    });
    dial(&mut control, 8, "6");
    assert_eq!(heard(6), [6], "what waits on a route is played in order");
}

#[test]
fn a_call_can_be_set_up_after_a_kill_with_what_was_agreed_before_it() {
    let dataplane = KeptDataplane::start(&[]);
    let mut control = dataplane.control(1);
    let mut browser = BrowserLeg::unanswered();
    let reply = control.put(id(1), 1, echo_program(Some(browser.remote()))).expect("a relay");
    browser.answer(&reply.legs[0].address);
    let killed = dataplane.signal_relay(Signal::KILL).expect("a relay runs");
    dataplane.next_relay(killed);
    browser.connect();
    browser.speak(&Heard { pt: 111, ..numbered(5, 1) });
    assert_eq!(number_in(&browser.listen().payload), 1);
}

#[test]
fn a_relay_that_crashes_in_a_loop_is_started_later_and_later() {
    let dataplane = KeptDataplane::start(&[]);
    let mut last = dataplane.relay().expect("a relay runs");
    for _ in 0..11 {
        dataplane.signal_relay(Signal::KILL);
        last = dataplane.next_relay(last);
    }
    let pauses: Vec<String> = dataplane.process.lines_with("is started again");
    let paused = pauses.iter().filter(|line| !line.contains("pause_ms=0")).count();
    assert!(paused >= 1, "{pauses:?}");
    let keeper = held(dataplane.process.pid());
    assert_eq!(keeper.threads, 1, "the keeper is one thread");
    assert_eq!(dataplane.control(1).node().relays, 0, "and it serves");
}

/// A field of a thread's or process's status.
fn status(path: &str, field: &str) -> String {
    let status = std::fs::read_to_string(path).expect("the relay runs");
    let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("a field of every process");
    line.split_whitespace().next().unwrap_or_default().to_owned()
}

#[test]
fn every_thread_of_the_relay_is_without_rights_and_the_call_goes_on() {
    let dataplane = KeptDataplane::start(&[]);
    let relay = dataplane.relay().expect("a relay runs");
    let mut threads = 0;
    for thread in std::fs::read_dir(format!("/proc/{relay}/task")).expect("the relay runs").flatten() {
        let path = thread.path().join("status").display().to_string();
        assert_eq!((status(&path, "Seccomp:"), status(&path, "NoNewPrivs:")), ("2".to_owned(), "1".to_owned()));
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
            assert_eq!(status(&path, set), "0000000000000000", "{set}");
        }
        if rustix::process::geteuid().is_root() {
            assert_ne!(status(&path, "Uid:"), "0");
        }
        threads += 1;
    }
    assert!(threads >= 3, "main, manager and worker");
    let keeper = format!("/proc/{}/status", dataplane.process.pid());
    assert_eq!(status(&keeper, "Uid:"), rustix::process::geteuid().as_raw().to_string());
    let unconfined = KeptDataplane::start(&["dataplane_user=none"]);
    let path = format!("/proc/{}/status", unconfined.relay().expect("a relay runs"));
    assert_eq!(status(&path, "Uid:"), rustix::process::geteuid().as_raw().to_string());
    assert_eq!(status(&path, "CapEff:"), "0000000000000000");
}

/// Puts a copy of `program` where `path` is, as a package manager does.
fn install(program: &std::path::Path, path: &std::path::Path) {
    let beside = path.with_extension("new");
    std::fs::copy(program, &beside).expect("a copy");
    std::fs::rename(&beside, path).expect("the same folder");
}

#[test]
fn another_program_takes_the_calls_over_on_sigusr2() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("dataplane");
    let program = gangway_tests::gateway::binary("gangway-dataplane");
    install(&program, &path);
    let mut dataplane = KeptDataplane::start_program(&path, &[]);
    let mut peers = [Peer::new(1), Peer::new(2)];
    let mut control = dataplane.control(1);
    let reply = control.put(id(1), 1, phones_program(&peers)).expect("a relay");
    let ports = [rtp_port(&reply.legs[0].address), rtp_port(&reply.legs[1].address)];
    talk(&mut peers, ports, 20);
    let first = dataplane.relay().expect("a relay runs");
    let inode = |pid: i32| {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(format!("/proc/{pid}/exe")).map(|file| file.ino()).ok()
    };
    let before = inode(first);
    install(&program, &path);
    dataplane.process.signal(Signal::USR2);
    let taken_over = |peers: &mut [Peer; 2]| {
        talk(peers, ports, 1);
        dataplane.relay().filter(|pid| *pid != first && inode(first).is_none())
    };
    let second = Deadline::seconds(20).poll("the successor", || taken_over(&mut peers));
    talk(&mut peers, ports, 20);
    assert_ne!(inode(second), before, "it is the new file");
    for peer in &peers {
        assert_few(&gaps(&peer.heard), 1);
    }
    let mut control = dataplane.control(1);
    assert_eq!(control.put(id(1), 1, phones_program(&peers)), Ok(reply));

    // One that says nothing changes nothing; one of another layout ends what is there in order.
    install(std::path::Path::new("/bin/false"), &path);
    dataplane.process.signal(Signal::USR2);
    dataplane.process.wait_line("the refusal", Deadline::seconds(10), |line| line.contains("the relay stays"));
    install(std::path::Path::new("/bin/echo"), &path);
    dataplane.process.signal(Signal::USR2);
    dataplane.process.wait_line("the drain", Deadline::seconds(10), |line| line.contains("another layout"));
    Deadline::seconds(10).poll("the relay to drain", || control.node().draining.then_some(()));
    let error = control.put(id(2), 1, phones_program(&peers)).unwrap_err();
    assert_eq!(error.code, ErrorCode::Draining);
    talk(&mut peers, ports, 20);
    control.delete(id(1));
    let end = dataplane.process.wait_end(Deadline::seconds(10)).expect("it leaves when the last call has ended");
    assert!(end.success(), "{end}");
}

#[test]
fn nothing_is_left_when_the_keeper_is_killed() {
    let dataplane = KeptDataplane::start(&[]);
    let relay = dataplane.relay().expect("a relay runs");
    dataplane.process.signal(Signal::KILL);
    Deadline::seconds(10)
        .poll("the relay's end", || (!std::path::Path::new(&format!("/proc/{relay}")).exists()).then_some(()));
}

#[test]
fn what_a_relay_gave_back_before_its_end_stays_given_back() {
    let dataplane = KeptDataplane::start(&[]);
    let mut control = dataplane.control(1);
    let peers = [Peer::new(1), Peer::new(2)];
    for number in 1..=20 {
        control.put(id(number), 1, phones_program(&peers)).expect("a relay");
    }
    let opened = held(dataplane.process.pid()).descriptors;
    for number in 1..=10 {
        control.delete(id(number));
    }
    let killed = dataplane.signal_relay(Signal::KILL).expect("a relay runs");
    dataplane.next_relay(killed);
    let mut control = dataplane.control(1);
    let node = control.node();
    assert_eq!((node.relays, node.media_ports_used, node.media_ports_quarantined), (10, 40, 40));
    assert_eq!(held(dataplane.process.pid()).descriptors, opened - 40, "the keeper closed its duplicates");
    assert!(list(&mut control).iter().all(|entry| entry.generation == Generation(1)));
}

// The rest is of the keeper alone.
gangway_tests::also_on_epoll!(
    phones_talk_on_through_many_kills_of_the_relay,
    a_browser_talks_on_through_many_kills_of_the_relay_and_no_index_is_used_twice,
    digits_are_dialled_once_although_the_relay_is_killed,
    a_call_can_be_set_up_after_a_kill_with_what_was_agreed_before_it,
    every_thread_of_the_relay_is_without_rights_and_the_call_goes_on,
    another_program_takes_the_calls_over_on_sigusr2,
    what_a_relay_gave_back_before_its_end_stays_given_back,
);
