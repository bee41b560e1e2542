//! Sessions that a restart found, of pages that asked for no keepAlive: they hold their place for a page that comes back by its token,
//! and for nobody else.

use std::time::Duration;

use gangway_control::{
    gateway::{
        GatewayConfig,
        effects::{Input, SocketId},
    },
    sip::message::{HeaderName, Method, Request},
};
use gangway_shared::{ids::LegId, rcp::Event};
use serde_json::{Value, json};

use crate::world::{World, account, config};

fn of_user(user: &str, register: bool) -> Value {
    let mut fields = account(register);
    fields["sipLogin"] = json!(user);
    fields
}

fn kept(mut fields: Value) -> Value {
    fields["keepAlive"] = json!(true);
    fields
}

/// A page whose account is registered; gives its REGISTER.
fn registered(world: &mut World, fields: Value) -> (SocketId, Request) {
    let page = world.connect(fields);
    let register = world.request(&Method::Register);
    world.respond_as(&register, 200, "reg", None, &[(HeaderName::Expires, "3600")]);
    world.forget();
    (page, register)
}

fn contact(register: &Request) -> String {
    let contact = register.headers.value(&HeaderName::Contact).unwrap();
    contact.split(['@', ':']).nth(1).unwrap().to_owned()
}

#[test]
fn a_page_that_connects_anew_takes_the_place_of_what_it_left() {
    let mut world = World::new(config());
    let (_, before) = registered(&mut world, account(true));
    world.restart();
    world.connect(account(true));
    let (goodbye, register) = (world.request(&Method::Register), world.request(&Method::Register));
    assert_eq!((goodbye.headers.expires_s(), contact(&goodbye)), (Some(0), contact(&before)));
    assert!(register.headers.expires_s() > Some(0) && contact(&register) != contact(&before));
    world.respond_as(&goodbye, 200, "reg", None, &[]);
    world.respond_as(&register, 200, "reg", None, &[(HeaderName::Expires, "3600")]);
    let counts = world.gateway.counts();
    assert_eq!((counts.sessions, counts.sessions_departing, counts.registrations), (1, 0, 1));
    world.advance(Duration::from_secs(3000));
    while let Some(refresh) = world.next_request(&Method::Register) {
        assert_eq!(contact(&refresh), contact(&register), "the binding of before takes nothing back");
    }
}

#[test]
fn only_who_has_the_accounts_password_takes_its_place_and_only_of_what_asked_for_nothing() {
    let mut stranger = account(false);
    stranger["sipPassword"] = json!("a guess");
    let mut elsewhere = account(false);
    elsewhere["sipDomain"] = json!("example.org");
    for (left, comes) in [
        (account(false), stranger),
        (account(false), elsewhere),
        (account(false), of_user("1002", false)),
        (kept(account(false)), account(false)),
    ] {
        let mut world = World::new(config());
        world.connect(left);
        world.restart();
        world.connect(comes.clone());
        assert_eq!(world.gateway.counts().sessions, 2, "{comes}");
    }
    let mut world = World::new(config());
    world.connect(account(false));
    world.connect(account(false));
    assert_eq!(world.gateway.counts().sessions, 2, "two pages of one account stay two without a restart");
}

#[test]
fn a_page_that_nobody_may_be_ends_nothing() {
    let mut world = World::new(config());
    world.connect(account(false));
    world.restart();
    world.hold_asks = true;
    world.connect(account(false));
    let (ask, _) = world.asks.pop_front().unwrap();
    let answer = gangway_control::gateway::effects::Answer::Denied { info: String::new() };
    world.input(Input::Answer { ask, answer });
    assert_eq!((world.gateway.counts().sessions, world.gateway.counts().sessions_departing), (1, 0));
}

#[test]
fn what_talks_is_left_alone_until_its_last_call_is_over() {
    let mut world = World::new(config());
    let (page, _) = registered(&mut world, account(true));
    world.established(page, "c1");
    world.keys_ready();
    let relay = world.only_relay();
    world.restart();
    let (_, register) = registered(&mut world, account(true));
    assert!(register.headers.expires_s() > Some(0), "nothing was given back");
    assert_eq!((world.gateway.counts().sessions, world.gateway.counts().calls_established), (2, 1));
    world.input(Input::RelayEvent { event: Event::ConsentLost { relay, leg: LegId(0) } });
    world.request(&Method::Bye);
    assert_eq!(world.request(&Method::Register).headers.expires_s(), Some(0));
    assert_eq!(world.gateway.counts().sessions, 1);
    world.assert_clean();
}

#[test]
fn what_nobody_came_back_to_counts_in_no_limit() {
    let mut world = World::new(GatewayConfig { max_sessions_per_ip: 2, ..config() });
    for user in ["1001", "1002"] {
        registered(&mut world, of_user(user, true));
    }
    world.restart();
    for user in ["1003", "1004"] {
        world.connect(of_user(user, false));
        assert_eq!(world.names(), ["getUserData"]);
    }
    world.connect(of_user("1005", false));
    assert_eq!(world.names(), ["fail"], "two of this address have come");
    assert_eq!(world.gateway.counts().sessions, 4);
}

#[test]
fn where_there_is_no_room_the_oldest_that_nobody_came_back_to_goes() {
    let mut world = World::new(GatewayConfig { max_sessions: 3, ..config() });
    let before: Vec<String> = ["1001", "1002"]
        .map(|user| {
            let (_, register) = registered(&mut world, of_user(user, true));
            contact(&register)
        })
        .to_vec();
    world.connect(kept(of_user("1003", false)));
    world.restart();
    for gone in &before {
        world.forget();
        world.connect(of_user("1004", false));
        assert_eq!(world.names(), ["getUserData"]);
        let goodbye = world.request(&Method::Register);
        assert_eq!((goodbye.headers.expires_s(), &contact(&goodbye)), (Some(0), gone));
    }
    assert_eq!((world.gateway.counts().sessions, world.gateway.counts().sessions_departing), (3, 2));
    world.connect(of_user("1005", false));
    assert_eq!(world.names(), ["fail"], "the rest asked to be kept or has come");
}
