//! The relay process is killed under the whole gateway: control comes back to the next one, and calls go on.

use std::time::Duration;

use gangway_tests::{
    baresip::{self, Baresip},
    deadline::Deadline,
    gateway::Gateway,
    kamailio::{self, Kamailio},
    kept::damage_arenas,
    media::Codecs,
    phone::{Phone, TONE_HZ},
    process::children,
};
use rustix::process::{Pid, Signal, kill_process};

/// Length of tone that both sides must hear.
const HEARD: Duration = Duration::from_millis(400);

/// The relay's process: the keeper's child.
fn relay(gateway: &Gateway) -> Option<i32> {
    let [_, keeper] = gateway.pids();
    children(keeper).into_iter().next()
}

#[test]
fn a_call_goes_on_over_kills_of_the_relay_and_ends_in_order() {
    let Some(kamailio) = Kamailio::start(&kamailio::Options::default()) else { return };
    let Some(mut callee) = Baresip::start(&baresip::Options::new(kamailio.port(), "PCMU/8000/1")) else { return };
    let gateway = Gateway::start(&[]);
    let mut phone = Phone::register(&gateway, kamailio.port());
    let call = phone.establish("2001", Codecs::PCMU);
    callee.wait_event("CALL_ESTABLISHED", Deadline::seconds(5));
    callee.wait_heard(TONE_HZ, HEARD, Deadline::seconds(10));
    let [control, keeper] = gateway.pids();
    for kill in 1..=3 {
        let killed = relay(&gateway).expect("a relay runs");
        kill_process(Pid::from_raw(killed).expect("a pid"), Signal::KILL).expect("it was there");
        Deadline::seconds(10).poll("another relay", || relay(&gateway).filter(|pid| *pid != killed));
        let is_back = || (gateway.metric("gangway_relay_connects_total", "") >= f64::from(kill + 1)).then_some(());
        Deadline::seconds(10).poll("control to be back", is_back);
        let frames = call.media.seen().received;
        call.media.wait_received(frames + 25, Deadline::seconds(10));
    }
    call.media.wait_heard(660.0, HEARD, Deadline::seconds(10));
    callee.wait_heard(TONE_HZ, HEARD, Deadline::seconds(10));
    assert_eq!(gateway.pids(), [control, keeper], "neither control nor keeper was started again");
    // Another call is made by what is there now, and both end as ever.
    phone.hangup(&call.id);
    phone.expect_status(&call.id, "FINISH", Deadline::seconds(3));
    callee.wait_event("CALL_CLOSED", Deadline::seconds(5));
    let again = phone.establish("2001", Codecs::PCMU);
    again.media.wait_heard(660.0, HEARD, Deadline::seconds(10));
    phone.hangup(&again.id);
    phone.expect_status(&again.id, "FINISH", Deadline::seconds(3));
    gateway.wait_idle(Deadline::seconds(8));
}

#[test]
fn a_call_that_the_keeper_gives_up_ends_on_both_sides_and_another_is_made() {
    let Some(kamailio) = Kamailio::start(&kamailio::Options::default()) else { return };
    let Some(mut callee) = Baresip::start(&baresip::Options::new(kamailio.port(), "PCMU/8000/1")) else { return };
    let gateway = Gateway::start(&[]);
    let mut phone = Phone::register(&gateway, kamailio.port());
    let call = phone.establish("2001", Codecs::PCMU);
    callee.wait_event("CALL_ESTABLISHED", Deadline::seconds(5));
    let [control, keeper] = gateway.pids();
    damage_arenas(keeper);
    let killed = relay(&gateway).expect("a relay runs");
    kill_process(Pid::from_raw(killed).expect("a pid"), Signal::KILL).expect("it was there");
    // The dataplane comes back without the call.
    phone.expect_status(&call.id, "FAILED", Deadline::seconds(10));
    callee.wait_event("CALL_CLOSED", Deadline::seconds(5));
    let again = phone.establish("2001", Codecs::PCMU);
    again.media.wait_heard(660.0, HEARD, Deadline::seconds(10));
    callee.wait_heard(TONE_HZ, HEARD, Deadline::seconds(10));
    phone.hangup(&again.id);
    phone.expect_status(&again.id, "FINISH", Deadline::seconds(3));
    assert_eq!(gateway.pids(), [control, keeper], "neither control nor keeper was started again");
    gateway.wait_idle(Deadline::seconds(8));
}
