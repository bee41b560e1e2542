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
    let talk = Talk::begin(&gateway, &trunk, PHONES, CALLS_EACH, false);
    let calls = PHONES * CALLS_EACH;
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
    let held = trunk.hold(&sip_ids[0], Deadline::seconds(2));
    assert_eq!(held, 200, "a hold by re-INVITE");
    let began = Instant::now();
    for sip_id in &sip_ids[..calls / 2] {
        assert_eq!(trunk.hangup(sip_id, Deadline::seconds(2)), 200);
    }
    for call in listed(&gateway) {
        terminate(&gateway, call["callId"].as_str().expect("an id"));
    }
    Deadline::seconds(5).poll("a BYE for each call", || (trunk.living() == calls / 2).then_some(()));
    println!("{calls} calls ended in {} ms", began.elapsed().as_millis());
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
