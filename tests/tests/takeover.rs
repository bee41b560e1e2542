//! Control dies while people talk: no packet is lost, and the next control ends, holds and lists every call. Each test has the machine
//! to itself: a hundred calls with every packet followed leave nothing of two cores.

#![allow(clippy::disallowed_methods, reason = "how long the new control takes is what is promised")]

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use gangway_tests::{
    deadline::{Deadline, pause},
    gateway::{Gateway, connection},
    media::Codecs,
    phone::{Call, Phone},
    process::{children, cpu_time},
    stream_peer::StreamPeer,
    trunk::Trunk,
};
use serde_json::{Value, json};

/// What a new control has from its start until every call is listed.
const LISTED_WITHIN: Duration = Duration::from_secs(2);
/// Sessions of the large test, and calls of each.
const PHONES: usize = 20;
const CALLS_EACH: usize = 5;
/// Frames of 20 ms that each phone has heard before control dies, and hears more afterwards.
const FRAMES: usize = 50;

/// What a control says that found the journal of a former one.
const TAKEN_OVER: &str = "a former control's journal is taken over";

/// Phones that talk to the trunk.
struct Talk {
    phones: Vec<Phone>,
    calls: Vec<Call>,
}

impl Talk {
    #[track_caller]
    fn begin(gateway: &Gateway, trunk: &Trunk, phones: usize, calls_each: usize, keep_alive: bool) -> Self {
        let begin = || {
            let mut fields = connection("1001", "secret-1001", trunk.port(), false);
            fields["keepAlive"] = json!(keep_alive);
            let mut phone = Phone::connect(gateway, &fields);
            let calls: Vec<Call> = (0..calls_each).map(|_| phone.establish("2001", Codecs::PCMU)).collect();
            (phone, calls)
        };
        let began: Vec<(Phone, Vec<Call>)> = thread::scope(|scope| {
            let phones: Vec<_> = (0..phones).map(|_| scope.spawn(begin)).collect();
            phones.into_iter().map(|phone| phone.join().expect("a phone in its calls")).collect()
        });
        let mut talk = Talk { phones: Vec::new(), calls: Vec::new() };
        for (phone, calls) in began {
            talk.phones.push(phone);
            talk.calls.extend(calls);
        }
        talk.hear_more();
        talk
    }

    /// Every phone hears so many frames more.
    #[track_caller]
    fn hear_more(&self) {
        let more: Vec<usize> = self.calls.iter().map(|call| call.media.seen().received + FRAMES).collect();
        let deadline = Deadline::seconds(30);
        for (call, frames) in self.calls.iter().zip(more) {
            call.media.wait_received(frames, deadline);
        }
    }

    fn lost(&self) -> u64 {
        self.calls.iter().map(|call| call.media.seen().lost).sum()
    }

    fn token(&self, phone: usize) -> &str {
        self.phones[phone].user_data["authToken"].as_str().expect("a token")
    }
}

fn listed(gateway: &Gateway) -> Vec<Value> {
    let (status, calls) = gateway.rest("/call/find_all", None);
    if status == 404 { Vec::new() } else { calls.as_array().cloned().unwrap_or_default() }
}

fn ids(calls: &[Value]) -> Vec<String> {
    calls.iter().map(|call| call["callId"].as_str().expect("an id").to_owned()).collect()
}

fn terminate(gateway: &Gateway, call_id: &str) {
    let (status, answer) = gateway.rest("/call/terminate", Some(&json!({ "callId": call_id })));
    assert_eq!(status, 200, "{answer}");
}

/// The SIP Call-ID of a call, as the journal tells it.
fn sip_call_id(gateway: &Gateway, call_id: &str) -> String {
    let lines = gateway.journal();
    let record = lines.iter().rev().filter_map(|line| serde_json::from_str::<Value>(line).ok()).find_map(|line| {
        (line["entry"] == "call" && line["call"] == call_id).then(|| line["record"]["dialog"]["call_id"].clone())
    });
    record.and_then(|id| id.as_str().map(str::to_owned)).unwrap_or_else(|| panic!("{call_id} is not in the journal"))
}

/// Control is killed and started again; how long it takes until every call is listed.
#[track_caller]
fn restart(gateway: &mut Gateway, arguments: &[&str], calls: usize) -> Duration {
    let began = Instant::now();
    gateway.start_control(arguments);
    Deadline::seconds(5).poll("every call in the list", || (listed(gateway).len() == calls).then_some(()));
    began.elapsed()
}

fn a_hundred_calls(mut gateway: Gateway) {
    let trunk = Trunk::start();
    let control = gateway.control();
    let before = cpu_time(control);
    let talk = Talk::begin(&gateway, &trunk, PHONES, CALLS_EACH, false);
    let calls = PHONES * CALLS_EACH;
    let used = (cpu_time(control) - before) / u32::try_from(calls).expect("a hundred");
    println!("control used {} us of CPU for each call that was set up", used.as_micros());
    let before = listed(&gateway);
    assert_eq!((before.len(), trunk.living()), (calls, calls));
    gateway.kill_control();
    talk.hear_more();
    let took = restart(&mut gateway, &[], calls);
    println!("{calls} calls listed {} ms after the start of the next control", took.as_millis());
    assert!(took < LISTED_WITHIN, "{took:?}");
    assert_eq!(listed(&gateway), before, "as they were before, in the same order");
    talk.hear_more();
    let received = trunk.received();
    assert_eq!((received.lost, received.repeated, talk.lost()), (0, 0, 0), "{received:?}");

    let sip_ids = trunk.call_ids();
    assert_eq!(sip_ids.len(), calls);
    let began = Instant::now();
    for sip_id in &sip_ids {
        assert_eq!(trunk.hold(sip_id, Deadline::after(LISTED_WITHIN)), 200, "a hold by re-INVITE");
    }
    println!("{calls} calls held in {} ms", began.elapsed().as_millis());
    assert_eq!(listed(&gateway).len(), calls, "a call on hold goes on");
    let began = Instant::now();
    for sip_id in &sip_ids[..calls / 2] {
        assert_eq!(trunk.hangup(sip_id, Deadline::after(LISTED_WITHIN)), 200);
    }
    let rest = ids(&listed(&gateway));
    assert_eq!(rest.len(), calls - calls / 2, "a call that its peer ended is listed no more");
    let order: Vec<String> = ids(&before).into_iter().filter(|id| rest.contains(id)).collect();
    assert_eq!(rest, order, "those that are left, in their order");
    rest.iter().for_each(|id| terminate(&gateway, id));
    Deadline::after(LISTED_WITHIN).poll("a BYE for each call", || (trunk.living() == calls / 2).then_some(()));
    println!("{calls} calls ended in {} ms", began.elapsed().as_millis());
    Deadline::after(LISTED_WITHIN).poll("an empty list", || listed(&gateway).is_empty().then_some(()));
    assert!(sip_ids[calls / 2..].iter().all(|sip_id| trunk.is_ended(sip_id)));
    gateway.wait_idle(Deadline::seconds(10));
}

/// Managed: control started the dataplane, which outlives it.
#[test]
fn no_packet_of_a_hundred_calls_is_lost_when_control_is_killed() {
    a_hundred_calls(Gateway::start(&[("log_level", "info"), ("dataplane_linger_s", "5")]));
}

/// A service manager runs the dataplane, and control attaches to it.
#[test]
fn nor_with_a_dataplane_that_control_did_not_start() {
    a_hundred_calls(Gateway::start_with_dataplane(&[("log_level", "info")]));
}

/// The same, with few calls and more that happens meanwhile.
#[test]
fn no_packet_is_lost_with_a_dataplane_of_its_own_and_both_sides_may_end_calls_meanwhile() {
    let mut gateway = Gateway::start_with_dataplane(&[("log_level", "info"), ("client_timeout", "60000")]);
    let trunk = Trunk::start();
    let talk = Talk::begin(&gateway, &trunk, 3, 2, true);
    let ids: Vec<String> = talk.calls.iter().map(|call| call.id.clone()).collect();
    let sip_ids: Vec<String> = ids.iter().map(|id| sip_call_id(&gateway, id)).collect();
    gateway.kill_control();
    // A peer's BYE that nobody hears, and a browser that is gone.
    let bye = trunk.begin_hangup(&sip_ids[0]);
    talk.calls[1].media.vanish();
    // Longer than its silence is borne (`rtp_activity_timeout_ms`): the dataplane says so to nobody.
    pause(Duration::from_millis(4500));
    assert_eq!(bye.status(), None);
    gateway.start_control(&[]);
    assert_eq!(bye.wait(Deadline::seconds(2)), 200, "the repeated BYE is served");
    Deadline::seconds(2).poll("the BYE of the browser that left", || trunk.is_ended(&sip_ids[1]).then_some(()));
    Deadline::seconds(2).poll("four calls in the list", || (listed(&gateway).len() == 4).then_some(()));
    for call in &talk.calls[2..] {
        call.media.wait_received(call.media.seen().received + FRAMES, Deadline::seconds(10));
        assert_eq!(call.media.seen().lost, 0);
    }
    assert_eq!(trunk.received().lost, 0);
    // The page of the ended calls comes back and hears of both.
    let fields = json!({ "keepAlive": true, "authToken": talk.token(0) });
    let mut page = Phone::connect(&gateway, &fields);
    for _ in 0..2 {
        let finish = page.socket.expect("finish", Deadline::seconds(2)).first().clone();
        assert!(ids[..2].iter().any(|id| finish["callId"] == id.as_str()), "{finish}");
    }
    // Another one comes back, hears that its calls go on, and hangs up.
    let fields = json!({ "keepAlive": true, "authToken": talk.token(1) });
    let mut page = Phone::connect(&gateway, &fields);
    for _ in 0..2 {
        page.socket.expect("talk", Deadline::seconds(2));
    }
    page.hangup(&ids[2]);
    page.expect_status(&ids[2], "FINISH", Deadline::seconds(2));
    Deadline::seconds(2).poll("its BYE", || trunk.is_ended(&sip_ids[2]).then_some(()));
    for id in &ids[3..] {
        terminate(&gateway, id);
    }
    gateway.wait_idle(Deadline::seconds(8));
}

/// A call whose lines are lost: nobody lists it, its peer is told so, and its relay goes after the grace.
#[test]
fn a_call_that_the_journal_does_not_know_is_ended_and_released_after_its_grace() {
    let mut gateway = Gateway::start(&[("orphan_grace_s", "2"), ("dataplane_linger_s", "5")]);
    let trunk = Trunk::start();
    let talk = Talk::begin(&gateway, &trunk, 1, 2, true);
    let ids: Vec<String> = talk.calls.iter().map(|call| call.id.clone()).collect();
    let lost = sip_call_id(&gateway, &ids[0]);
    gateway.kill_control();
    let kept: Vec<String> =
        gateway.journal().into_iter().filter(|line| !line.contains(&ids[0]) && !line.contains(&lost)).collect();
    fs::write(gateway.journal_file(), kept.join("\n") + "\n").expect("the journal");
    gateway.start_control(&[]);
    Deadline::seconds(2).poll("the other call", || (listed(&gateway).len() == 1).then_some(()));
    assert_eq!(gateway.metric("gangway_dataplane_relays", ""), 2.0, "its people may be talking");
    talk.calls[0].media.wait_received(talk.calls[0].media.seen().received + 20, Deadline::seconds(5));
    assert_eq!(trunk.hangup(&lost, Deadline::seconds(2)), 481);
    Deadline::seconds(6).poll("its end", || (gateway.metric("gangway_dataplane_relays", "") == 1.0).then_some(()));
    terminate(&gateway, &ids[1]);
    gateway.wait_idle(Deadline::seconds(8));
}

/// A control that hangs holds lock and ports; `--takeover` ends it and goes on.
#[test]
fn a_control_that_hangs_is_taken_over_while_people_talk() {
    let mut gateway = Gateway::start(&[("dataplane_linger_s", "5")]);
    let trunk = Trunk::start();
    let talk = Talk::begin(&gateway, &trunk, 2, 2, true);
    gateway.hang_control();
    let took = restart(&mut gateway, &["--takeover"], 4);
    assert!(took < LISTED_WITHIN, "{took:?}");
    talk.hear_more();
    let received = trunk.received();
    assert_eq!((received.lost, received.repeated, talk.lost()), (0, 0, 0), "{received:?}");
    for call in &talk.calls {
        terminate(&gateway, &call.id);
    }
    gateway.wait_idle(Deadline::seconds(8));
    assert_eq!(trunk.living(), 0);
}

/// The same where a service manager runs the dataplane: that one is not touched, and both sides can end the calls.
#[test]
fn a_control_that_hangs_is_taken_over_beside_a_dataplane_of_its_own() {
    let mut gateway = Gateway::start_with_dataplane(&[]);
    assert_eq!(gateway.log(TAKEN_OVER), Vec::<String>::new(), "there was no former control");
    let trunk = Trunk::start();
    let talk = Talk::begin(&gateway, &trunk, 2, 2, true);
    let sip_ids: Vec<String> = talk.calls.iter().map(|call| sip_call_id(&gateway, &call.id)).collect();
    let dataplane = gateway.dataplane().expect("it was started on its own").pid();
    let relay = children(dataplane);
    gateway.hang_control();
    let took = restart(&mut gateway, &["--takeover"], 4);
    assert!(took < LISTED_WITHIN, "{took:?}");
    assert_eq!(gateway.log(TAKEN_OVER).len(), 1);
    talk.hear_more();
    let received = trunk.received();
    assert_eq!((received.lost, received.repeated, talk.lost()), (0, 0, 0), "{received:?}");
    for sip_id in &sip_ids[..2] {
        assert_eq!(trunk.hangup(sip_id, Deadline::seconds(2)), 200);
    }
    for call in &talk.calls[2..] {
        terminate(&gateway, &call.id);
    }
    Deadline::seconds(5).poll("the BYEs", || (trunk.living() == 2).then_some(()));
    assert!(sip_ids[2..].iter().all(|sip_id| trunk.is_ended(sip_id)), "those that REST ended");
    gateway.wait_idle(Deadline::seconds(8));
    assert_eq!(children(dataplane), relay, "the dataplane was left alone");
}

fn resume(gateway: &Gateway, token: &str) -> Phone {
    Phone::connect(gateway, &json!({ "keepAlive": true, "authToken": token }))
}

/// Our registration over TCP: the connection dies with control, the binding is made again over another at once, and the registrar calls
/// over that one. A call that came over the old one goes on and is ended over the new one, by either side.
#[test]
fn a_registration_over_tcp_goes_on_over_another_connection() {
    let peer = StreamPeer::start();
    let mut gateway = Gateway::start(&[("dataplane_linger_s", "5")]);
    let mut phone = peer.register(&gateway);
    let token = phone.user_data["authToken"].as_str().expect("a token").to_owned();
    let before = peer.wait_registered(1, Deadline::seconds(2));
    let (first, first_id) = peer.reach(&mut phone, before.connection, &before.contact);
    let (second, second_id) = peer.reach(&mut phone, before.connection, &before.contact);
    gateway.kill_control();
    Deadline::seconds(2).poll("the connection's end", || (!peer.is_open(before.connection)).then_some(()));
    gateway.start_control(&[]);
    let after = peer.wait_registered(2, Deadline::after(LISTED_WITHIN));
    assert_ne!(after.connection, before.connection);
    assert_eq!((&after.call_id, &after.contact), (&before.call_id, &before.contact), "the same binding");
    assert!(after.cseq > before.cseq, "{before:?} {after:?}");
    Deadline::seconds(2).poll("both calls in the list", || (listed(&gateway).len() == 2).then_some(()));
    let mut page = resume(&gateway, &token);
    let (third, third_id) = peer.reach(&mut page, after.connection, &after.contact);
    for call in [&first, &second] {
        call.media.wait_received(call.media.seen().received + FRAMES, Deadline::seconds(5));
        assert_eq!(call.media.seen().lost, 0);
    }
    assert_eq!(peer.hangup(after.connection, &first_id, Deadline::seconds(2)), 200);
    assert_eq!(peer.hangup(after.connection, &third_id, Deadline::seconds(2)), 200);
    page.hangup(&second.id);
    let ended = Deadline::seconds(2).poll("its BYE", || peer.ended_on(&second_id));
    assert!(peer.is_open(ended), "over a connection of now");
    drop(third);
    gateway.wait_idle(Deadline::seconds(8));
}

/// A phone that calls over a connection of its own and is not reached otherwise: when it is back over another one, its calls are held and
/// ended by it, and it is told over that one when we end them.
#[test]
fn a_phone_behind_its_own_connection_comes_back_over_another() {
    let peer = StreamPeer::start();
    let mut gateway = Gateway::start(&[("dataplane_linger_s", "5")]);
    let mut phone = peer.register(&gateway);
    let token = phone.user_data["authToken"].as_str().expect("a token").to_owned();
    let uri = peer.wait_registered(1, Deadline::seconds(2)).contact;
    let own = peer.connect(gateway.sip_port());
    let (first, first_id) = peer.reach(&mut phone, own, &uri);
    let (second, second_id) = peer.reach(&mut phone, own, &uri);
    gateway.kill_control();
    Deadline::seconds(2).poll("the connection's end", || (!peer.is_open(own)).then_some(()));
    gateway.start_control(&[]);
    Deadline::seconds(2).poll("both calls in the list", || (listed(&gateway).len() == 2).then_some(()));
    let own = peer.connect(gateway.sip_port());
    assert_eq!(peer.hold(own, &first_id, Deadline::seconds(2)), 200);
    terminate(&gateway, &first.id);
    let ended = Deadline::seconds(2).poll("the BYE", || peer.ended_on(&first_id));
    assert_eq!(ended, own, "the phone listens nowhere else");
    assert_eq!(peer.hangup(own, &second_id, Deadline::seconds(2)), 200);
    let mut page = resume(&gateway, &token);
    for _ in 0..2 {
        let finish = page.socket.expect("finish", Deadline::seconds(2)).first().clone();
        assert!([&first.id, &second.id].iter().any(|id| finish["callId"] == id.as_str()), "{finish}");
    }
    let (third, third_id) = peer.reach(&mut page, own, &uri);
    page.hangup(&third.id);
    let ended = Deadline::seconds(2).poll("the BYE", || peer.ended_on(&third_id));
    assert_eq!(ended, own);
    gateway.wait_idle(Deadline::seconds(8));
}

/// Random enough for instants, the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// Pages that dial, each several calls, as fast as they can.
fn dial(phones: &mut [Phone]) -> Vec<Call> {
    let calls = phones.iter_mut().flat_map(|phone| {
        (0..CALLS_EACH).map(|_| phone.send_call("2001", Codecs::PCMU, &json!({}))).collect::<Vec<Call>>()
    });
    calls.collect()
}

/// Control is killed while calls are set up, each time at another instant: afterwards each call of the list has its relay and its peer,
/// and nothing is left of the others. Whatever a peer was told is known: it is in a call of the list, which it can end, or it has its BYE.
#[test]
fn calls_that_were_being_set_up_are_whole_or_gone() {
    const PAGES: usize = 4;
    const CALLS: usize = PAGES * CALLS_EACH;
    const ROUNDS: usize = 24;
    let settings = [("orphan_grace_s", "1"), ("dataplane_linger_s", "5"), ("ice_timeout", "30"), ("log_level", "info")];
    let mut gateway = Gateway::start(&settings);
    let trunk = Trunk::start();
    let pages = |gateway: &Gateway| -> Vec<Phone> {
        let mut fields = connection("1001", "secret-1001", trunk.port(), false);
        fields["keepAlive"] = json!(true);
        (0..PAGES).map(|_| Phone::connect(gateway, &fields)).collect()
    };
    let open = || trunk.call_ids().iter().filter(|id| !trunk.is_over(id)).count();
    let end_all = |gateway: &Gateway| {
        for call in listed(gateway) {
            terminate(gateway, call["callId"].as_str().expect("an id"));
        }
        gateway.wait_idle(Deadline::seconds(8));
        Deadline::seconds(2).poll("the BYEs", || (open() == 0).then_some(()));
    };
    // How long it takes undisturbed on this machine now.
    let mut phones = pages(&gateway);
    let began = Instant::now();
    let dialled = dial(&mut phones);
    let deadline = Deadline::seconds(10);
    while trunk.living() < CALLS {
        assert!(!deadline.is_over(), "only {} calls are set up", trunk.living());
        pause(Duration::from_millis(1));
    }
    let whole_time = began.elapsed();
    drop((dialled, phones));
    end_all(&gateway);
    let (mut dice, mut kept) = (Dice(4), 0);
    for _ in 0..ROUNDS {
        let mut phones = pages(&gateway);
        let instant = whole_time.mul_f64(dice.below(1000) as f64 / 1000.0);
        let dialled = thread::scope(|scope| {
            let dialling = scope.spawn(|| dial(&mut phones));
            pause(instant);
            gateway.kill_control();
            dialling.join().expect("pages that dial")
        });
        let began = open();
        gateway.start_control(&[]);
        let seen = || {
            let numbers = ["gangway_relays", "gangway_dataplane_relays", "gangway_dialogs"];
            (listed(&gateway), trunk.unanswered(), numbers.map(|name| gateway.metric(name, "")))
        };
        let is_whole = |(listed, unanswered, numbers): &(Vec<Value>, usize, [f64; 3])| {
            let is_talking = listed.iter().all(|call| call["status"] == "ESTABLISHED");
            is_talking && *unanswered == 0 && numbers.iter().all(|number| *number == listed.len() as f64)
        };
        let deadline = Deadline::seconds(10);
        while !is_whole(&seen()) {
            assert!(!deadline.is_over(), "killed after {instant:?}: {:?}", seen());
            pause(Duration::from_millis(20));
        }
        let listed_now = listed(&gateway);
        let known: Vec<String> =
            listed_now.iter().map(|call| sip_call_id(&gateway, call["callId"].as_str().expect("an id"))).collect();
        assert!(known.iter().all(|sip_id| !trunk.is_ended(sip_id)), "each call of the list has its peer");
        assert_eq!(open(), known.len(), "killed after {instant:?}: the others talk to nobody");
        assert_eq!(trunk.given_up(), 0, "killed after {instant:?}: a 200 without its ACK");
        for sip_id in known.iter().step_by(2) {
            assert_eq!(trunk.hangup(sip_id, Deadline::seconds(2)), 200);
        }
        let talking = known.len();
        println!("killed after {instant:?} of {whole_time:?}: {talking} of {began} that had begun go on");
        kept += talking;
        drop(dialled);
        end_all(&gateway);
    }
    assert!(kept > 0 && kept < ROUNDS * CALLS, "{kept} calls went on: no kill lay within a set-up");
}

/// With keepAlive a page may lose its websocket, by its own word or by TCP's, and talk on; without it its calls end at once.
#[test]
fn a_websocket_that_goes_away_ends_the_calls_of_those_that_asked_for_nothing_else() {
    for (keep_alive, says_so) in [(false, true), (false, false), (true, true), (true, false)] {
        let gateway = Gateway::start(&[("client_timeout_check_interval", "100")]);
        let trunk = Trunk::start();
        let mut talk = Talk::begin(&gateway, &trunk, 1, 1, keep_alive);
        let phone = talk.phones.remove(0);
        if says_so {
            phone.socket.close();
        }
        // The connection breaks with the socket.
        drop(phone);
        if keep_alive {
            // Longer than a session without calls would live.
            pause(Duration::from_millis(1500));
            talk.hear_more();
            assert_eq!(trunk.living(), 1, "says so: {says_so}");
            talk.calls[0].media.vanish();
        }
        Deadline::seconds(8).poll("BYE", || (trunk.living() == 0).then_some(()));
        gateway.wait_idle(Deadline::seconds(8));
        Deadline::seconds(4)
            .poll("the session's end", || (gateway.metric("gangway_sessions", "") == 0.0).then_some(()));
    }
}
