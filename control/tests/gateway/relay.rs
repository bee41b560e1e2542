//! The wall goes down and comes back.

use gangway_control::{
    gateway::{effects::Input, messages::CallStatus},
    sip::message::Method,
};
use gangway_shared::{
    ids::{Generation, RelayId},
    rcp::{ErrorCode, Event, ReapReason, RelayError, RelayProgram, Request},
};

use crate::world::{World, config, phone_sdp, relay_up};

#[test]
fn programs_are_put_again_and_strangers_deleted_when_the_wall_comes_back() {
    let mut world = World::new(config());
    let page = world.session();
    world.established(page, "c1");
    let ours = world.only_relay();
    world.input(Input::RelayDown);
    // Made by this control for a call that is over.
    let stranger = RelayId::new(0, 1, 99);
    world.relay.relays.insert(stranger, (Generation(1), RelayProgram::default()));
    world.hold_requests = true;
    world.input(relay_up(1));
    let verbs: Vec<_> = world.requests.iter().map(|(_, request)| request.clone()).collect();
    assert!(matches!(&verbs[..], [Request::Put { relay, .. }, Request::List { .. }] if *relay == ours), "{verbs:?}");
    world.hold_requests = false;
    while !world.requests.is_empty() {
        world.answer_request();
    }
    assert!(!world.relay.relays.contains_key(&stranger));
    assert_eq!(world.gateway.counts().calls_established, 1);
    assert!(world.names().is_empty());
}

#[test]
fn a_dataplane_that_started_anew_has_lost_the_call() {
    let mut world = World::new(config());
    let page = world.session();
    world.established(page, "c1");
    world.input(Input::RelayDown);
    world.relay.relays.clear();
    world.relay.incarnation += 1;
    world.input(relay_up(1));
    assert_eq!(world.last_call().status, CallStatus::Failed);
    world.request(&Method::Bye);
    world.assert_clean();
}

#[test]
fn a_call_that_ends_while_the_wall_is_down_is_deleted_afterwards() {
    let mut world = World::new(config());
    let page = world.session();
    world.established(page, "c1");
    world.input(Input::RelayDown);
    world.hangup(page, "c1");
    assert_eq!(world.relay.relays.len(), 1);
    world.input(relay_up(1));
    world.assert_clean();
}

#[test]
fn an_answer_waits_for_the_wall_and_gives_up_in_time() {
    for comes_back in [true, false] {
        let mut world = World::new(config());
        let page = world.session();
        world.call(page, "c1", "600");
        let invite = world.request(&Method::Invite);
        world.input(Input::RelayDown);
        world.respond(&invite, 200, Some(&phone_sdp(4000, "0")));
        if comes_back {
            world.input(relay_up(1));
            assert_eq!(world.relay.relays.values().next().unwrap().1.routes.len(), 2);
            world.advance(std::time::Duration::from_secs(6));
            assert_eq!(world.gateway.counts().calls_established, 1);
        } else {
            world.advance(std::time::Duration::from_secs(6));
            assert_eq!(world.last_call().status, CallStatus::Failed);
            world.input(relay_up(1));
            world.assert_clean();
        }
    }
}

#[test]
fn calls_without_a_wall_fail_at_once() {
    let mut world = World::new(config());
    let page = world.session();
    world.input(Input::RelayDown);
    world.call(page, "c1", "600");
    assert_eq!(world.names(), ["notifyTryingResponse", "finish FAILED"]);
    assert!(world.sip.is_empty());
}

#[test]
fn reaped_relays_and_lost_workers_end_their_calls() {
    for reaped in [true, false] {
        let mut world = World::new(config());
        let page = world.session();
        world.established(page, "c1");
        let relay = world.only_relay();
        let event = if reaped {
            Event::RelayReaped { relay, reason: ReapReason::Poisonous }
        } else {
            Event::WorkerLost { worker: 0, relays: vec![relay, RelayId::new(0, 9, 9)] }
        };
        world.input(Input::RelayEvent { event });
        assert_eq!(world.last_call().info.as_deref(), Some("Failed by error"));
        world.request(&Method::Bye);
        world.assert_clean();
    }
}

#[test]
fn a_relay_that_is_missing_after_a_gap_in_the_events_is_lost() {
    for missing in [false, true] {
        let mut world = World::new(config());
        let page = world.session();
        world.established(page, "c1");
        if missing {
            world.relay.relays.clear();
            world.relay.incarnation += 1;
        }
        world.input(Input::RelayGap);
        assert_eq!(world.gateway.counts().calls_established, usize::from(!missing));
    }
}

#[test]
fn a_list_that_the_dataplane_refuses_is_asked_again() {
    let mut world = World::new(config());
    let stranger = RelayId::new(0, 1, 99);
    world.relay.relays.insert(stranger, (Generation(1), RelayProgram::default()));
    world.hold_requests = true;
    world.input(Input::RelayGap);
    let (id, list) = world.requests.pop_front().unwrap();
    assert!(matches!(list, Request::List { .. }), "{list:?}");
    world.input(Input::RelayReply { id, result: Err(RelayError::new(ErrorCode::Full, "", "scripted")) });
    assert!(world.requests.is_empty(), "not at once");
    world.hold_requests = false;
    world.advance(std::time::Duration::from_secs(6));
    assert!(world.relay.relays.is_empty());
}
