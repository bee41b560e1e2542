//! What a stranger's browser can make the core keep.

use std::time::Duration;

use gangway_control::{
    gateway::{
        effects::{Input, RestCall, RestId, RestReply, SocketId},
        messages::{CallRequest, ClientMessage, ServerMessage},
    },
    sip::message::Method,
};
use serde_json::{Value, json};

use crate::world::{BROWSER_OFFER, World, account, config, phone_sdp};

/// What one `connection` or one `call` may have kept.
const KEPT_MAX_BYTES: usize = 16 * 1024;

fn kept(mut fields: Value) -> Value {
    fields["keepAlive"] = json!(true);
    fields
}

fn token(world: &World) -> String {
    let data = world.sent.iter().rev().find_map(|(_, message)| match message {
        ServerMessage::UserData(fields) => fields["authToken"].as_str().map(str::to_owned),
        _ => None,
    });
    data.expect("getUserData was sent")
}

/// The page goes away; gives the token of its session.
fn leave(world: &mut World, page: SocketId) -> String {
    let token = token(world);
    world.input(Input::SocketClosed { socket: page });
    world.forget();
    world.advance(Duration::from_millis(1));
    token
}

/// Whether a session can still be taken up by its token.
fn lives(world: &mut World, token: &str) -> bool {
    world.forget();
    let page = world.connect(json!({"authToken": token}));
    let lives = world.names().contains(&"getUserData".to_owned());
    world.input(Input::SocketClosed { socket: page });
    lives
}

#[test]
fn a_session_that_departs_counts_until_its_register_has_ended() {
    let mut settings = config();
    settings.max_sessions_per_ip = 2;
    let mut world = World::new(settings);
    for _ in 0..2 {
        let page = world.connect(account(true));
        world.request(&Method::Register);
        world.input(Input::SocketClosed { socket: page });
    }
    world.forget();
    world.connect(account(true));
    assert!(world.last_fail().contains("too many sessions from this address"));
    world.advance(Duration::from_secs(70));
    world.forget();
    world.connect(account(true));
    assert_eq!(world.names(), ["getUserData"]);
}

#[test]
fn many_sessions_with_much_to_echo_keep_a_bounded_number_of_bytes() {
    let mut settings = config();
    settings.max_detached_sessions = 20;
    let mut world = World::new(settings);
    // Arrays of nothing: as a tree of values they would take twenty times their text.
    let custom = json!(vec![Value::Array(Vec::new()); 5000]);
    let tokens: Vec<String> = (0..200)
        .map(|_| {
            let mut fields = kept(account(false));
            fields["custom"] = custom.clone();
            let page = world.connect(fields);
            let token = token(&world);
            world.input(Input::SocketClosed { socket: page });
            world.forget();
            token
        })
        .collect();
    let counts = world.gateway.counts();
    assert_eq!((counts.sessions, counts.sessions_detached, counts.sessions_displaced_total), (20, 20, 180));
    assert!(counts.kept_bytes <= 20 * KEPT_MAX_BYTES, "{} bytes are kept", counts.kept_bytes);
    assert!(!lives(&mut world, &tokens[0]) && lives(&mut world, &tokens[199]), "the oldest made room");
}

/// The most memory that this process ever had resident, in KiB (proc_pid_status(5)).
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn a_list_of_connections_takes_no_more_memory_than_its_text() {
    let mut world = World::new(config());
    // As trees, a megabyte each.
    let custom = json!(vec![json!([[]]); 3200]);
    for n in 0..200 {
        let mut fields = account(false);
        fields["custom"] = custom.clone();
        (fields["status"], fields["sessionId"]) = (json!("mine"), json!(n));
        world.connect(fields);
        world.forget();
    }
    let before = peak_kib();
    world.input(Input::Rest { request: RestId(1), call: RestCall::FindAllConnections });
    let Some(RestReply::Connections(connections)) = world.rest.pop() else { panic!("no connections") };
    let text = serde_json::to_string(&connections).unwrap();
    let grown = peak_kib() - before;
    assert!(grown < 32 * 1024, "{grown} KiB for {} bytes of text", text.len());
    assert_eq!((connections.len(), text.matches("\"status\":\"ESTABLISHED\"").count()), (200, 200));
    assert!(!text.contains("mine"), "a name is given twice");
}

#[test]
fn a_connection_with_too_much_to_echo_is_refused_by_its_longest_field() {
    let long = "x".repeat(KEPT_MAX_BYTES);
    for (field, value) in [
        ("custom", json!({"a": long.clone()})),
        ("clientInfo", json!(vec![0; KEPT_MAX_BYTES])),
        ("appKey", json!(long.clone())),
        ("sipProxy", json!(long.clone())),
        ("sipPassword", json!(long)),
    ] {
        let mut world = World::new(config());
        let mut fields = account(true);
        fields[field] = value;
        let page = world.connect(fields);
        let fail = world.last_fail();
        assert!(fail.starts_with(&format!("ConnectionStatusEvent FAILED {field}: ")), "{fail}");
        assert!(fail.len() < 256, "{fail}");
        assert_eq!(world.names(), ["fail"]);
        assert_eq!(world.closed, [(page, 1000)]);
        assert_eq!(world.gateway.counts().kept_bytes, 0);
    }
    let mut world = World::new(config());
    let mut fields = account(false);
    fields["y".repeat(KEPT_MAX_BYTES)] = json!(1);
    world.connect(fields);
    assert!(world.last_fail().len() < 256, "{}", world.last_fail());
}

#[test]
fn what_is_kept_is_echoed_as_it_came() {
    let mut world = World::new(config());
    let mut fields = kept(account(false));
    fields["custom"] = json!({"b": [1, null, 2.5], "a": "\u{e9}"});
    let page = world.connect(fields.clone());
    let token = token(&world);
    world.input(Input::SocketClosed { socket: page });
    world.forget();
    world.connect(json!({"authToken": token}));
    let Some((_, ServerMessage::UserData(echo))) = world.sent.front() else { panic!("no getUserData") };
    assert_eq!(echo["custom"], fields["custom"]);
    assert_eq!((&echo["status"], &echo["nodeId"]), (&json!("ESTABLISHED"), &json!("0000")));
    let listed = world.sent.front().map(|(_, message)| message.data()).unwrap();
    assert!(!listed[0].to_string().contains("secret"));
}

#[test]
fn a_call_with_too_much_to_echo_is_refused_and_less_comes_back() {
    let mut world = World::new(config());
    let page = world.session();
    let request = |id: &str, custom: Value, name: String| CallRequest {
        call_id: id.to_owned(),
        callee: Some("600".to_owned()),
        sdp: Some(BROWSER_OFFER.to_owned()),
        custom: Some(custom),
        visible_name: Some(name),
        ..CallRequest::default()
    };
    let long = "x".repeat(KEPT_MAX_BYTES);
    for (field, request) in
        [("custom", request("c1", json!(long.clone()), String::new())), ("visibleName", request("c1", json!(1), long))]
    {
        let mut world = World::new(config());
        let page = world.session();
        world.say(page, ClientMessage::Call(Box::new(request)));
        assert!(world.last_fail().starts_with(&format!("CallStatusEvent FAILED {field}: ")), "{}", world.last_fail());
        assert_eq!(world.names(), ["fail", "finish FAILED"]);
        assert!(world.sip.is_empty());
    }
    let custom = json!({"order": [7]});
    world.say(page, ClientMessage::Call(Box::new(request("c2", custom.clone(), String::new()))));
    assert_eq!(world.last_call().custom.map(|kept| kept.value()), Some(custom));
}

#[test]
fn sessions_without_use_make_room_first_and_those_with_calls_last() {
    let mut settings = config();
    settings.max_detached_sessions = 3;
    let mut world = World::new(settings);
    // The page reloads while its REGISTER is out.
    let page = world.connect(kept(account(true)));
    let registering = leave(&mut world, page);
    let page = world.connect(kept(account(false)));
    let token_of_talk = token(&world);
    world.established(page, "c1");
    world.input(Input::SocketClosed { socket: page });
    let page = world.connect(kept(account(false)));
    let idle = leave(&mut world, page);
    let page = world.connect(kept(account(false)));
    let idler = leave(&mut world, page);
    assert_eq!(world.gateway.counts().sessions_detached, 3);
    assert!(!lives(&mut world, &idle));
    let page = world.connect(kept(account(true)));
    let second = leave(&mut world, page);
    assert!(!lives(&mut world, &idler), "it has neither registered nor called");
    let page = world.connect(kept(account(true)));
    let third = leave(&mut world, page);
    assert!(!lives(&mut world, &registering), "the oldest of those with an account");
    assert_eq!(world.gateway.counts().calls_established, 1);
    assert!(lives(&mut world, &second) && lives(&mut world, &third) && lives(&mut world, &token_of_talk));
}

#[test]
fn a_call_that_rings_at_a_detached_session_keeps_it() {
    let mut settings = config();
    settings.max_detached_sessions = 2;
    let mut world = World::new(settings);
    let page = world.connect(kept(account(true)));
    let rung = token(&world);
    let key = world.contact_key(page);
    world.input(Input::SocketClosed { socket: page });
    world.advance(Duration::from_millis(1));
    world.invite(&format!("sip:{key}@10.0.0.1:5060"), "in1", Some(&phone_sdp(4000, "0")));
    let [second, third] = [(); 2].map(|()| {
        let page = world.connect(kept(account(true)));
        leave(&mut world, page)
    });
    assert_eq!(world.gateway.counts().calls_ring, 1);
    assert!(!lives(&mut world, &second) && lives(&mut world, &rung) && lives(&mut world, &third));
}

#[test]
fn a_detached_session_whose_call_is_over_no_longer_outranks_others() {
    let mut settings = config();
    settings.max_detached_sessions = 2;
    let mut world = World::new(settings);
    let page = world.connect(kept(account(false)));
    let talked = token(&world);
    world.established(page, "c1");
    world.input(Input::SocketClosed { socket: page });
    world.advance(Duration::from_millis(1));
    let page = world.connect(kept(account(true)));
    let second = leave(&mut world, page);
    let call = RestCall::TerminateCall { call_id: "c1".to_owned() };
    world.input(Input::Rest { request: RestId(1), call });
    let page = world.connect(kept(account(true)));
    let third = leave(&mut world, page);
    assert!(!lives(&mut world, &talked), "it left first, and nothing makes it worth more");
    assert!(lives(&mut world, &second) && lives(&mut world, &third));
}

#[test]
fn no_detached_session_is_kept_where_none_is_allowed() {
    let mut settings = config();
    settings.max_detached_sessions = 0;
    let mut world = World::new(settings);
    let page = world.connect(kept(account(false)));
    world.input(Input::SocketClosed { socket: page });
    assert_eq!(world.gateway.counts().sessions, 0);
}

#[test]
fn one_address_has_a_share_of_the_sessions() {
    let mut settings = config();
    settings.max_sessions_per_ip = 2;
    let mut world = World::new(settings);
    let mut connect = |remote: &str| {
        let page = world.open_from(remote);
        let fields = serde_json::from_value(kept(account(false))).unwrap();
        world.say(page, ClientMessage::Connection(Box::new(fields)));
        let refused = world.closed.contains(&(page, 1000));
        world.input(Input::SocketClosed { socket: page });
        !refused
    };
    // Detached ones count too.
    assert!(connect("192.0.2.9:1") && connect("192.0.2.9:2"));
    assert!(!connect("192.0.2.9:3"));
    assert!(connect("192.0.2.10:1"));
    assert!(connect("[2001:db8::1]:1") && connect("[2001:db8::2]:1"));
    assert!(!connect("[2001:db8::3]:1"), "a subscriber has a /64");
    assert!(connect("[2001:db8:0:1::1]:1"));
    assert_eq!(world.last_fail(), "ConnectionStatusEvent FAILED too many sessions from this address");
}

#[test]
fn a_session_that_departs_keeps_nothing_to_echo() {
    let mut world = World::new(config());
    let page = world.connect(account(true));
    world.request(&Method::Register);
    assert!(world.gateway.counts().kept_bytes > 0);
    world.input(Input::SocketClosed { socket: page });
    let counts = world.gateway.counts();
    assert_eq!((counts.sessions_departing, counts.kept_bytes), (1, "null".len()));
}
