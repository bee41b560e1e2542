//! What goes wrong around a relay process and is not its calls' fault: programs that cannot start, kills while it starts, and a machine
//! that has nothing left for it. The calls stay.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Duration,
};

use gangway_shared::{
    ids::{EventSeq, Generation},
    rcp::{Codec, ControlMessage, DataplaneMessage, ErrorCode, Event, Reply, Request},
};
use gangway_tests::{
    browser_leg::{BrowserLeg, Heard},
    dataplane::{Control, audio_route, echo_program, program, rtp_leg, same},
    deadline::{Deadline, pause},
    gateway::binary,
    kept::{KeptDataplane, damage_arenas},
    process::children,
};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};

use crate::restart::{Peer, assert_few, gaps, id, list, phones_program, rtp_port, talk};

/// Lets `path` be another program, as a package manager does.
fn install(program: &Path, path: &Path) {
    let beside = path.with_extension("new");
    symlink(program, &beside).expect("a link");
    fs::rename(&beside, path).expect("the same folder");
}

fn call(control: &mut Control, peers: &mut [Peer; 2]) -> [SocketAddr; 2] {
    let reply = control.put(id(1), 1, phones_program(peers)).expect("a relay");
    let ports = [rtp_port(&reply.legs[0].address), rtp_port(&reply.legs[1].address)];
    talk(peers, ports, 10);
    ports
}

#[track_caller]
fn assert_whole(dataplane: &KeptDataplane) {
    let relays = list(&mut dataplane.control(1));
    assert_eq!(
        relays.iter().map(|entry| (entry.relay, entry.generation)).collect::<Vec<_>>(),
        [(id(1), Generation(1))]
    );
    assert_eq!(dataplane.process.lines_with("all are given up"), Vec::<String>::new());
}

#[test]
fn a_program_that_cannot_start_gives_way_to_the_one_before() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("dataplane");
    fs::copy(binary("gangway-dataplane"), &path).expect("a copy");
    let mut dataplane = KeptDataplane::start_program(&path, &[]);
    let mut peers = [Peer::new(1), Peer::new(2)];
    let ports = call(&mut dataplane.control(1), &mut peers);
    let stillborn = PathBuf::from(env!("CARGO_BIN_EXE_stillborn"));
    let hangs = folder.path().join("hangs");
    fs::copy(&stillborn, &hangs).expect("a copy");
    for program in [&stillborn, &stillborn, &stillborn, &hangs] {
        install(program, &path);
        dataplane.process.signal(Signal::USR2);
        dataplane
            .process
            .wait_line("the way back", Deadline::seconds(20), |line| line.contains("the one before it goes on"));
        talk(&mut peers, ports, 10);
    }
    peers.iter().for_each(|peer| assert_few(&gaps(&peer.heard), 4));
    assert_whole(&dataplane);
    // What it went back to can be killed, and follows itself.
    let killed = dataplane.signal_relay(Signal::KILL).expect("a relay runs");
    dataplane.next_relay(killed);
    talk(&mut peers, ports, 10);
    assert_whole(&dataplane);
}

#[test]
fn kills_while_a_relay_starts_cost_no_call() {
    const KILLS: usize = 6;
    let dataplane = KeptDataplane::start(&[]);
    let mut peers = [Peer::new(1), Peer::new(2)];
    let ports = call(&mut dataplane.control(1), &mut peers);
    let keeper = dataplane.process.pid();
    let mut last = dataplane.signal_relay(Signal::KILL).expect("a relay runs");
    let deadline = Deadline::seconds(60);
    let (mut in_a_row, mut served) = (0, dataplane.process.lines_with("serving").len());
    while in_a_row < KILLS {
        assert!(!deadline.is_over(), "every relay serves before it can be killed");
        let Some(next) = children(keeper).into_iter().find(|pid| *pid != last) else { continue };
        kill_process(Pid::from_raw(next).expect("a child"), Signal::KILL).expect("our own");
        last = next;
        let now = dataplane.process.lines_with("serving").len();
        in_a_row = if now == served { in_a_row + 1 } else { 0 };
        served = now;
    }
    talk(&mut peers, ports, 10);
    assert_whole(&dataplane);
}

#[test]
fn calls_that_no_relay_can_go_on_with_are_given_up_once_and_new_ones_work() {
    let mut dataplane = KeptDataplane::start(&[]);
    let mut control = dataplane.control(1);
    call(&mut control, &mut [Peer::new(1), Peer::new(2)]);
    let instance = control.greeting.instance.clone();
    damage_arenas(dataplane.process.pid());
    dataplane.signal_relay(Signal::KILL).expect("a relay runs");
    let within = Deadline::seconds(20);
    dataplane.process.wait_line("the end of patience", within, |line| line.contains("all are given up"));
    dataplane.process.wait_line("a relay that serves", within, |line| line.contains("serving"));
    let ended = dataplane.process.lines_with("is started again");
    assert_eq!(ended.len(), 4, "the one that was killed, and three that found the memory damaged: {ended:?}");

    // It is the same dataplane, and nothing of the call is left in it.
    let mut control = Control::connect(&dataplane.socket());
    assert_eq!(control.greeting.instance, instance);
    control.hello(1, Some((instance, EventSeq(0))));
    assert_eq!(list(&mut control), []);
    assert_eq!(control.gaps().len(), 1, "what was told before is told as a gap");
    assert_eq!(control.node().media_ports_used, 0);
    let mut peers = [Peer::new(3), Peer::new(4)];
    let ports = call(&mut control, &mut peers);

    // And what comes after it is kept as ever.
    let killed = dataplane.signal_relay(Signal::KILL).expect("a relay runs");
    dataplane.next_relay(killed);
    talk(&mut peers, ports, 10);
    assert_eq!(list(&mut dataplane.control(1)).len(), 1);
    assert_eq!(dataplane.process.lines_with("all are given up").len(), 1);
}

#[test]
fn a_relay_that_cannot_be_started_is_tried_again() {
    let mut dataplane = KeptDataplane::start(&[]);
    let mut peers = [Peer::new(1), Peer::new(2)];
    let ports = call(&mut dataplane.control(1), &mut peers);
    let keeper = Pid::from_raw(dataplane.process.pid());
    let none_left = Rlimit { current: Some(3), maximum: getrlimit(Resource::Nofile).maximum };
    let had = prlimit(keeper, Resource::Nofile, none_left).expect("our own child");
    let killed = dataplane.signal_relay(Signal::KILL).expect("a relay runs");
    for _ in 0..2 {
        dataplane.process.wait_line("another try", Deadline::seconds(10), |line| line.contains("it is tried again"));
    }
    prlimit(keeper, Resource::Nofile, had).expect("our own child");
    dataplane.next_relay(killed);
    talk(&mut peers, ports, 10);
    assert_whole(&dataplane);
}

#[test]
fn a_keeper_that_is_stopped_holds_up_new_ports_and_nothing_else() {
    const PUT: u64 = 1 << 32;
    let dataplane = KeptDataplane::start(&[]);
    let mut control = dataplane.control(1);
    let mut peers = [Peer::new(1), Peer::new(2)];
    let ports = call(&mut control, &mut peers);
    let others = [Peer::new(3), Peer::new(4)];
    let keeper = Pid::from_raw(dataplane.process.pid()).expect("a pid");
    kill_process(keeper, Signal::STOP).expect("our own child");
    let program = phones_program(&others);
    let request = Request::Put { relay: id(2), generation: Generation(1), program: program.clone() };
    control.send(&ControlMessage::Request { id: PUT, request });
    // A browser needs no ports. Fails where the refusal of the put before it comes first.
    let mut browser = BrowserLeg::unanswered();
    let reply = control.put(id(3), 1, echo_program(Some(browser.remote()))).expect("a relay");
    browser.answer(&reply.legs[0].address);
    browser.connect();
    talk(&mut peers, ports, 20);
    let refused = loop {
        match control.next_message().expect("the connection lives") {
            DataplaneMessage::Error { id: PUT, error } => break error,
            DataplaneMessage::Event { .. } => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused.code, ErrorCode::Internal);
    kill_process(keeper, Signal::CONT).expect("our own child");
    control.put(id(2), 1, program).expect("a relay");
    assert_eq!(control.node().media_ports_used, 8, "what came too late went back");
    peers.iter().for_each(|peer| assert_eq!(gaps(&peer.heard), Vec::<u64>::new()));
}

#[test]
fn a_browser_that_moves_after_a_kill_keeps_its_call() {
    let dataplane = KeptDataplane::start(&["dtls_timeout_ms=500"]);
    let mut control = dataplane.control(1);
    let mut browser = BrowserLeg::unanswered();
    let reply = control.put(id(1), 1, echo_program(Some(browser.remote()))).expect("a relay");
    browser.answer(&reply.legs[0].address);
    browser.connect();
    control.wait_event("the keys", |event| matches!(event, Event::KeysReady { .. }));
    let instance = control.greeting.instance.clone();
    drop(control);
    let killed = dataplane.signal_relay(Signal::KILL).expect("a relay runs");
    dataplane.next_relay(killed);
    browser.move_on();
    let answered = browser.answered;
    while browser.answered == answered {
        browser.check(true);
        browser.turn();
    }
    // Who may have missed them is told again what the process before saw.
    let mut control = Control::connect(&dataplane.socket());
    control.hello(1, Some((instance, EventSeq(0))));
    control.wait_event("the path", |event| matches!(event, Event::PathSelected { .. }));
    control.wait_event("the keys", |event| matches!(event, Event::KeysReady { .. }));
    control.wait_event(
        "the new path",
        |event| matches!(event, Event::PathSelected { remote, .. } if *remote == browser.address()),
    );
    // Twice as long as a handshake may take; no handshake is needed, and none fails.
    browser.listen_for(Duration::from_secs(1));
    browser.speak(&Heard { pt: 111, ssrc: 5, sequence: 1, timestamp: 160, payload: vec![7; 160] });
    assert_eq!(browser.listen().payload, [7; 160]);
    assert_eq!(control.ask(Request::Ping), Ok(Reply::Ping));
    assert!(!control.seen().any(|event| matches!(event, Event::DtlsFailed { .. })));
}

#[test]
fn calls_beyond_the_limit_of_open_files_are_refused_and_those_before_it_stay() {
    const LIMIT: u64 = 150;
    let dataplane = KeptDataplane::start(&[]);
    let keeper = Pid::from_raw(dataplane.process.pid());
    let few = Rlimit { current: Some(LIMIT), maximum: getrlimit(Resource::Nofile).maximum };
    prlimit(keeper, Resource::Nofile, few).expect("our own child");
    let killed = dataplane.signal_relay(Signal::KILL).expect("a relay runs");
    dataplane.next_relay(killed);
    let mut control = dataplane.control(1);
    let peers = [Peer::new(1), Peer::new(2)];
    let mut made = 0;
    let refused = (1..=60).find_map(|number| {
        let refused = control.put(id(number), 1, phones_program(&peers)).err();
        made += u64::from(refused.is_none());
        refused
    });
    assert_eq!(refused.map(|error| error.code), Some(ErrorCode::NoPorts));
    assert!((5..LIMIT / 4).contains(&made), "{made} calls");
    // There is room for the next relay.
    let relay = dataplane.signal_relay(Signal::KILL).expect("the relay still runs");
    dataplane.next_relay(relay);
    let mut control = dataplane.control(1);
    assert_eq!(list(&mut control).len() as u64, made);
    control.delete(id(1));
    control.put(id(99), 1, phones_program(&peers)).expect("there is room again");
}

#[test]
fn a_relay_with_fewer_open_files_than_its_keeper_refuses_calls_and_lives() {
    let dataplane = KeptDataplane::start(&["dataplane_user=none"]);
    let mut control = dataplane.control(1);
    let peers = [Peer::new(1), Peer::new(2)];
    control.put(id(1), 1, phones_program(&peers)).expect("a relay");
    let relay = dataplane.relay().expect("a relay runs");
    let is_open = |number: &u64| fs::symlink_metadata(format!("/proc/{relay}/fd/{number}")).is_ok();
    let free = (0..).find(|number| !is_open(number)).expect("there is always a next number");
    // One socket of a pair fits.
    let none_left = Rlimit { current: Some(free + 1), maximum: getrlimit(Resource::Nofile).maximum };
    let had = prlimit(Pid::from_raw(relay), Resource::Nofile, none_left).expect("our own child");
    for number in 2..=5 {
        assert_eq!(control.put(id(number), 1, phones_program(&peers)).unwrap_err().code, ErrorCode::NoPorts);
    }
    assert_eq!(control.node().media_ports_used, 4, "what did not arrive was given back");
    prlimit(Pid::from_raw(relay), Resource::Nofile, had).expect("our own child");
    control.put(id(9), 1, phones_program(&peers)).expect("a relay");
    assert_eq!(dataplane.relay(), Some(relay));
}

#[test]
fn relays_that_die_while_they_drain_do_not_make_it_longer() {
    let dataplane = KeptDataplane::start(&["drain_timeout_s=3"]);
    let mut peers = [Peer::new(1), Peer::new(2)];
    call(&mut dataplane.control(1), &mut peers);
    dataplane.process.signal(Signal::TERM);
    let deadline = Deadline::seconds(20);
    while dataplane.process.wait_end(Deadline::seconds(1)).is_none() {
        assert!(!deadline.is_over(), "each relay begins to drain anew");
        dataplane.signal_relay(Signal::KILL);
    }
}

/// The kernel lets the ports of a ring go only some time after its process: with `webrtc_port` fixed, a dataplane that is started at once
/// met its own dead predecessor there. The media range has room for one pair, so that the calls need the very ports of the one before too.
#[test]
fn a_dataplane_that_was_killed_whole_is_followed_at_once_on_the_same_ports() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let data = format!("data_dir={}", folder.path().join("data").display());
    let mut dataplane = KeptDataplane::start(&[&data]);
    let mut sets: Option<[String; 3]> = None;
    for _ in 0..3 {
        let mut control = Control::connect(&folder.path().join("data/dataplane.sock"));
        control.hello(1, None);
        let mut peer = Peer::new(1);
        let echo = program(
            vec![rtp_leg(0, Some(peer.address()))],
            vec![audio_route(0, 0, 71, vec![same(8, Codec::Pcma, 8000, None)])],
        );
        let reply = control.put(id(1), 1, echo).expect("a relay");
        let port = rtp_port(&reply.legs[0].address);
        let deadline = Deadline::seconds(10);
        while peer.heard.len() < 10 {
            assert!(!deadline.is_over(), "it does not hear itself");
            peer.say(port);
            pause(Duration::from_millis(2));
            peer.hear();
        }
        let browsers = control.greeting.webrtc[0].port();
        let same = [
            format!("webrtc_port={browsers}"),
            format!("media_port_from={}", port.port()),
            format!("media_port_to={}", port.port() + 1),
        ];
        if let Some(sets) = &sets {
            assert_eq!(*sets, same, "the same ports as before");
        }
        dataplane.process.kill();
        let [webrtc, from, to] = &same;
        dataplane = KeptDataplane::start(&[&data, webrtc, from, to]);
        sets = Some(same);
    }
}

// The rest is of the keeper alone.
gangway_tests::also_on_epoll!(
    kills_while_a_relay_starts_cost_no_call,
    calls_that_no_relay_can_go_on_with_are_given_up_once_and_new_ones_work,
    a_browser_that_moves_after_a_kill_keeps_its_call,
    calls_beyond_the_limit_of_open_files_are_refused_and_those_before_it_stay,
    a_relay_with_fewer_open_files_than_its_keeper_refuses_calls_and_lives,
    a_dataplane_that_was_killed_whole_is_followed_at_once_on_the_same_ports,
);
