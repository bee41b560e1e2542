//! Registrations: wcs-protocol.md 5.2 and 5.9.

use std::time::Duration;

use gangway_control::{
    gateway::{
        effects::{Answer, Input},
        journal::JournalEntry,
    },
    sip::message::{HeaderName, Method, Request},
};

use crate::world::{PEER, SILENT, World, account, config};

const CHALLENGE: &str = "Digest realm=\"example.com\", nonce=\"n1\", algorithm=MD5, qop=\"auth\"";

fn expires(request: &Request) -> u32 {
    request.headers.expires_s().unwrap()
}

/// Answers the REGISTER with 200 and this lifetime.
fn accept(world: &mut World, register: &Request, seconds: &str) {
    world.respond_as(register, 200, "reg", None, &[(HeaderName::Expires, seconds)]);
}

fn registered() -> (World, gangway_control::gateway::effects::SocketId, Request) {
    let mut world = World::new(config());
    let page = world.connect(account(true));
    let register = world.request(&Method::Register);
    accept(&mut world, &register, "3600");
    assert_eq!(world.names(), ["getUserData", "registered"]);
    (world, page, register)
}

#[test]
fn register_is_challenged_answered_and_announced_after_get_user_data() {
    let mut world = World::new(config());
    world.connect(account(true));
    assert_eq!(world.names(), ["getUserData"]);
    let first = world.request(&Method::Register);
    assert_eq!(first.uri.to_string(), "sip:example.com");
    assert_eq!(expires(&first), 3600);
    world.respond_as(&first, 401, "reg", None, &[(HeaderName::WwwAuthenticate, CHALLENGE)]);
    let second = world.request(&Method::Register);
    assert!(second.headers.value(&HeaderName::Authorization).unwrap().contains("username=\"auth1001\""));
    accept(&mut world, &second, "3600");
    assert_eq!(world.names(), ["registered"]);
    assert_eq!(world.gateway.counts().registrations, 1);
    assert!(world.journal.iter().any(|entry| matches!(entry, JournalEntry::Registration { .. })));
}

#[test]
fn a_refresh_keeps_call_id_and_counts_on_before_the_binding_ends() {
    let (mut world, _, first) = registered();
    world.advance(Duration::from_secs(3600 * 3 / 4 - 1));
    assert!(world.sip.is_empty());
    world.advance(Duration::from_secs(2));
    let second = world.request(&Method::Register);
    assert_eq!(second.headers.call_id().unwrap(), first.headers.call_id().unwrap());
    assert!(second.headers.cseq().unwrap().number > first.headers.cseq().unwrap().number);
    world.forget();
    accept(&mut world, &second, "60");
    assert!(!world.names().contains(&"registered".to_owned()), "registered is told once");
    // The shortened lifetime counts.
    world.advance(Duration::from_secs(46));
    world.request(&Method::Register);
}

#[test]
fn an_interval_too_brief_is_raised_once() {
    let mut world = World::new(config());
    world.connect(account(true));
    let first = world.request(&Method::Register);
    world.respond_as(&first, 423, "reg", None, &[(HeaderName::MinExpires, "7200")]);
    let second = world.request(&Method::Register);
    assert_eq!(expires(&second), 7200);
    accept(&mut world, &second, "7200");
    assert_eq!(world.names(), ["getUserData", "registered"]);
}

#[test]
fn an_absurd_or_endless_423_is_a_failure() {
    for min in ["999999999", "3600", "0"] {
        let mut world = World::new(config());
        world.connect(account(true));
        let first = world.request(&Method::Register);
        world.respond_as(&first, 423, "reg", None, &[(HeaderName::MinExpires, min)]);
        assert_eq!(world.names(), ["getUserData", "fail"], "{min}");
        assert_eq!(world.closed.len(), 1);
    }
}

#[test]
fn a_wrong_password_is_fail_then_close_and_no_storm() {
    for refusal in [401, 403] {
        let mut world = World::new(config());
        let page = world.connect(account(true));
        let first = world.request(&Method::Register);
        world.respond_as(&first, 401, "reg", None, &[(HeaderName::WwwAuthenticate, CHALLENGE)]);
        let second = world.request(&Method::Register);
        world.respond_as(&second, refusal, "reg", None, &[(HeaderName::WwwAuthenticate, CHALLENGE)]);
        assert_eq!(world.last_fail(), "RegistrationStatusEvent FAILED AUTHENTICATION_FAIL");
        assert_eq!(world.names(), ["getUserData", "fail"]);
        assert_eq!(world.closed, [(page, 1000)]);
        world.forget();
        world.advance(Duration::from_secs(3600));
        assert!(world.sip.is_empty(), "no REGISTER ever again");
        assert_eq!(world.gateway.counts().sessions + world.gateway.counts().sessions_departing, 0);
    }
}

#[test]
fn a_silent_registrar_is_told_within_the_sip_timeout() {
    let mut world = World::new(config());
    let page = world.connect(account(true));
    world.advance(Duration::from_secs(33));
    assert_eq!(world.last_fail(), "RegistrationStatusEvent FAILED REGISTER_EXPIRE");
    assert_eq!(world.closed, [(page, 1000)]);
}

#[test]
fn silent_addresses_of_a_registrar_share_one_sip_timeout() {
    let mut world = World::new(config());
    let addresses = [SILENT, "10.0.0.4:5060", "10.0.0.5:5060", PEER];
    world.addresses = addresses.map(|text| text.parse().unwrap()).to_vec();
    let page = world.connect(account(true));
    for address in addresses {
        assert!(world.sent_to(address), "{address}");
        assert_eq!(world.gateway.counts().registrations_failed_total, 0);
        world.advance(Duration::from_secs(8));
    }
    assert_eq!(world.last_fail(), "RegistrationStatusEvent FAILED REGISTER_EXPIRE");
    assert_eq!(world.closed, [(page, 1000)]);
    assert_eq!(world.gateway.counts().registrations_failed_total, 1);
    world.forget();
    world.advance(Duration::from_secs(64));
    assert!(world.sip.is_empty(), "nothing is repeated to addresses that were given up");
}

#[test]
fn an_address_that_fails_at_once_leaves_its_time_to_the_others() {
    let mut world = World::new(config()).with_a_silent_address();
    let page = world.connect(account(true));
    world.refuse_transport(SILENT);
    world.advance(Duration::from_millis(31_999));
    assert!(world.closed.is_empty() && world.sent_to(PEER));
    world.advance(Duration::from_millis(1));
    assert_eq!(world.closed, [(page, 1000)]);
}

#[test]
fn a_challenge_does_not_start_the_time_of_a_first_registration_anew() {
    let mut world = World::new(config());
    let page = world.connect(account(true));
    let first = world.request(&Method::Register);
    world.advance(Duration::from_secs(20));
    world.respond_as(&first, 401, "reg", None, &[(HeaderName::WwwAuthenticate, CHALLENGE)]);
    world.advance(Duration::from_millis(11_999));
    assert!(world.closed.is_empty());
    world.advance(Duration::from_millis(1));
    assert_eq!(world.last_fail(), "RegistrationStatusEvent FAILED REGISTER_EXPIRE");
    assert_eq!(world.closed, [(page, 1000)]);
}

#[test]
fn an_unresolvable_registrar_is_a_connection_error() {
    let mut world = World::new(config());
    world.hold_asks = true;
    let page = world.connect(account(true));
    world.answer_ask();
    let (ask, _) = world.asks.pop_front().unwrap();
    world.input(Input::Answer { ask, answer: Answer::Unresolved { reason: "NXDOMAIN".to_owned() } });
    assert_eq!(world.last_fail(), "RegistrationStatusEvent FAILED CONNECTION_ERROR");
    assert_eq!(world.closed, [(page, 1000)]);
}

#[test]
fn a_registration_lost_later_backs_off_warns_once_and_recovers() {
    let (mut world, _, _) = registered();
    world.advance(Duration::from_secs(2701));
    let mut attempts = 0;
    for _ in 0..3 {
        let register = world.request(&Method::Register);
        world.sip.clear();
        attempts += 1;
        world.respond(&register, 500, None);
        world.advance(Duration::from_secs(21));
    }
    assert_eq!(attempts, 3);
    assert_eq!(world.last_fail(), "RegistrationStatusEvent UNREGISTERED REGISTER_EXPIRE");
    assert!(world.closed.is_empty(), "the session stays");
    let waits = world.names().iter().filter(|name| *name == "fail").count();
    assert_eq!(waits, 1);
    let register = world.request(&Method::Register);
    accept(&mut world, &register, "3600");
    assert!(world.names().contains(&"registered".to_owned()));
}

#[test]
fn the_end_of_a_session_gives_the_binding_back() {
    let (mut world, page, first) = registered();
    world.forget();
    world.input(Input::SocketClosed { socket: page });
    let last = world.request(&Method::Register);
    assert_eq!(expires(&last), 0);
    assert_eq!(last.headers.call_id().unwrap(), first.headers.call_id().unwrap());
    assert_eq!(world.gateway.counts().sessions_departing, 1);
    world.respond_as(&last, 401, "reg", None, &[(HeaderName::WwwAuthenticate, CHALLENGE)]);
    let again = world.request(&Method::Register);
    assert!(again.headers.value(&HeaderName::Authorization).is_some());
    world.respond(&again, 200, None);
    assert_eq!(world.gateway.counts().sessions_departing, 0);
}

#[test]
fn a_session_that_ends_while_registering_unregisters_afterwards() {
    let mut world = World::new(config());
    let page = world.connect(account(true));
    let first = world.request(&Method::Register);
    world.input(Input::SocketClosed { socket: page });
    assert!(world.sip.is_empty());
    accept(&mut world, &first, "3600");
    let last = world.request(&Method::Register);
    assert_eq!(expires(&last), 0);
    world.respond(&last, 200, None);
    assert_eq!(world.gateway.counts().sessions_departing, 0);
}

#[test]
fn without_register_required_no_register_is_sent() {
    let mut world = World::new(config());
    world.connect(account(false));
    assert_eq!(world.names(), ["getUserData"]);
    assert!(world.sip.is_empty());
}

/// How an address fails.
const FAILURES: [fn(&mut World, &Request); 3] = [
    |world, _| world.advance(Duration::from_secs(16)),
    |world, _| world.refuse_transport(SILENT),
    |world, request| world.respond(request, 503, None),
];

#[test]
fn a_registrar_address_that_fails_gives_way_to_the_next_and_the_one_that_serves_is_kept() {
    for fail in FAILURES {
        let mut world = World::new(config()).with_a_silent_address();
        let page = world.connect(account(true));
        let first = world.request(&Method::Register);
        assert!(world.sent_to(SILENT));
        fail(&mut world, &first);
        let second = world.last_request(&Method::Register);
        assert!(world.sent_to(PEER));
        assert_eq!(second.headers.call_id(), first.headers.call_id());
        assert!(second.headers.cseq().unwrap().number > first.headers.cseq().unwrap().number);
        accept(&mut world, &second, "3600");
        assert_eq!(world.names(), ["getUserData", "registered"]);
        assert_eq!(world.gateway.counts().registrations_failed_total, 0);
        // The refresh and the end go where the binding is.
        world.sip.clear();
        world.advance(Duration::from_secs(2701));
        let refresh = world.last_request(&Method::Register);
        assert!(world.sent_to(PEER));
        accept(&mut world, &refresh, "3600");
        world.input(Input::SocketClosed { socket: page });
        assert_eq!(expires(&world.last_request(&Method::Register)), 0);
        assert!(world.sent_to(PEER));
    }
}

#[test]
fn a_registrar_that_fails_at_every_address_is_told_once_with_the_last_failure() {
    let mut world = World::new(config()).with_a_silent_address();
    let page = world.connect(account(true));
    world.advance(Duration::from_secs(16));
    world.refuse_transport(PEER);
    assert_eq!(world.names(), ["getUserData", "fail"]);
    assert_eq!(world.closed, [(page, 1000)]);
    assert_eq!(world.gateway.counts().registrations_failed_total, 1);
}

#[test]
fn a_refusal_is_the_registrars_and_no_other_address_is_asked() {
    let mut world = World::new(config()).with_a_silent_address();
    world.connect(account(true));
    let register = world.request(&Method::Register);
    world.respond(&register, 403, None);
    assert_eq!(world.last_fail(), "RegistrationStatusEvent FAILED AUTHENTICATION_FAIL");
    assert!(world.sip.is_empty());
}

#[test]
fn an_address_of_a_family_that_we_lack_is_left_out() {
    let mut world = World::new(config());
    world.addresses.insert(0, "[2001:db8::2]:5060".parse().unwrap());
    world.connect(account(true));
    world.request(&Method::Register);
    assert!(world.sent_to(PEER));
}

#[test]
fn an_un_register_goes_where_the_binding_is_though_a_refresh_failed_elsewhere() {
    let mut world = World::new(config()).with_a_silent_address();
    world.addresses.reverse();
    let page = world.connect(account(true));
    let register = world.request(&Method::Register);
    accept(&mut world, &register, "3600");
    world.advance(Duration::from_secs(2701));
    world.refuse_transport(PEER);
    assert!(world.sent_to(SILENT));
    world.refuse_transport(SILENT);
    world.sip.clear();
    world.input(Input::SocketClosed { socket: page });
    assert_eq!(expires(&world.last_request(&Method::Register)), 0);
    assert!(world.sent_to(PEER));
}
