use super::*;
use crate::sip::{message::Message, parser};

fn request(text: &str) -> Request {
    match parser::parse(text.replace('\n', "\r\n").as_bytes()) {
        Ok(Message::Request(request)) => request,
        other => panic!("{other:?}"),
    }
}

fn response(text: &str) -> Response {
    match parser::parse(text.replace('\n', "\r\n").as_bytes()) {
        Ok(Message::Response(response)) => response,
        other => panic!("{other:?}"),
    }
}

const INVITE: &str = "INVITE sip:bob@example.com SIP/2.0
Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKa
From: \"A\" <sip:alice@example.com>;tag=at
To: <sip:bob@example.com>
Call-ID: call@h
CSeq: 7 INVITE
Contact: <sip:alice@192.0.2.1:5070>
Record-Route: <sip:p2.example.com;lr>, <sip:192.0.2.9;lr>

";

const OK: &str = "SIP/2.0 200 OK
Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKa
From: \"A\" <sip:alice@example.com>;tag=at
To: <sip:bob@example.com>;tag=bt
Call-ID: call@h
CSeq: 7 INVITE
Contact: <sip:bob@192.0.2.5:5080;transport=tcp>
Record-Route: <sip:192.0.2.9;lr>, <sip:p1.example.com;lr>

";

fn target(transport: Transport, remote: &str, flow: Option<u64>) -> Target {
    Target { transport, remote: remote.parse().unwrap(), flow }
}

fn udp() -> Target {
    target(Transport::Udp, "192.0.2.100:5060", None)
}

/// A program that can send everything.
fn all(_: Transport, _: IpAddr) -> bool {
    true
}

fn caller(ok: &str) -> Dialog {
    Dialog::from_response(&request(INVITE), &response(ok), udp(), all).unwrap()
}

#[test]
fn the_callers_dialog_follows_rfc3261_12_1_2() {
    let mut dialog = caller(OK);
    assert_eq!(dialog.id, DialogId { call_id: "call@h".into(), local_tag: "at".into(), remote_tag: "bt".into() });
    assert_eq!((dialog.state, dialog.local_cseq, dialog.remote_cseq), (DialogState::Confirmed, 7, None));
    let bye = dialog.request(Method::Bye);
    assert_eq!(bye.uri.to_string(), "sip:bob@192.0.2.5:5080;transport=tcp");
    let routes: Vec<&str> = bye.headers.values(&HeaderName::Route).collect();
    assert_eq!(routes, ["<sip:p1.example.com;lr>", "<sip:192.0.2.9;lr>"]);
    assert_eq!(bye.headers.cseq().unwrap().number, 8);
    assert_eq!((bye.headers.from().unwrap().tag(), bye.headers.to().unwrap().tag()), (Some("at"), Some("bt")));
    assert_eq!(bye.headers.value(&HeaderName::MaxForwards), Some("70"));
    assert_eq!(bye.headers.value(&HeaderName::Contact), None);
    assert_eq!(dialog.request(Method::Invite).headers.value(&HeaderName::Contact), Some("<sip:alice@192.0.2.1:5070>"));
    let ack = dialog.ack(7);
    assert_eq!((ack.method, ack.headers.cseq().unwrap().number), (Method::Ack, 7));
    assert_eq!(dialog.local_cseq, 9, "ACK takes no number");
}

#[test]
fn the_callees_dialog_follows_rfc3261_12_1_1() {
    let contact: NameAddr = "<sip:key@192.0.2.7>".parse().unwrap();
    let mut dialog = Dialog::from_request(&request(INVITE), "mine", contact, udp(), all).unwrap();
    assert_eq!(dialog.id, DialogId { call_id: "call@h".into(), local_tag: "mine".into(), remote_tag: "at".into() });
    assert_eq!((dialog.state, dialog.role), (DialogState::Early, Role::Callee));
    let info = dialog.request(Method::Info);
    assert_eq!(info.uri.to_string(), "sip:alice@192.0.2.1:5070");
    let routes: Vec<&str> = info.headers.values(&HeaderName::Route).collect();
    assert_eq!(routes, ["<sip:p2.example.com;lr>", "<sip:192.0.2.9;lr>"]);
    assert_eq!(info.headers.from().unwrap().to_string(), "<sip:bob@example.com>;tag=mine");
    assert_eq!(info.headers.to().unwrap().to_string(), "\"A\" <sip:alice@example.com>;tag=at");
    assert_eq!(info.headers.cseq().unwrap().number, 1);
}

#[test]
fn the_peers_cseq_must_grow() {
    let contact: NameAddr = "<sip:key@192.0.2.7>".parse().unwrap();
    let mut dialog = Dialog::from_request(&request(INVITE), "mine", contact, udp(), all).unwrap();
    assert!(!dialog.accept_cseq(6) && !dialog.accept_cseq(7));
    assert!(dialog.accept_cseq(9) && !dialog.accept_cseq(8));
    assert!(caller(OK).accept_cseq(0), "the first may be any");
}

#[test]
fn a_strict_router_gets_its_own_uri() {
    let strict = OK.replace(", <sip:p1.example.com;lr>", ", <sip:p1.example.com>");
    let bye = caller(&strict).request(Method::Bye);
    assert_eq!(bye.uri.to_string(), "sip:p1.example.com");
    let routes: Vec<&str> = bye.headers.values(&HeaderName::Route).collect();
    assert_eq!(routes, ["<sip:192.0.2.9;lr>", "<sip:bob@192.0.2.5:5080;transport=tcp>"]);
}

#[test]
fn the_destination_follows_an_address_and_stays_for_a_name() {
    assert_eq!(caller(OK).destination, udp(), "the first route is a name: somebody may resolve it");
    let hop = caller(OK).next_hop().unwrap();
    assert_eq!((hop.host.to_string().as_str(), hop.transport), ("p1.example.com", Transport::Udp));
    let by_address = OK.replace(", <sip:p1.example.com;lr>", "");
    assert_eq!(caller(&by_address).destination, target(Transport::Udp, "192.0.2.9:5060", None));
    let direct = by_address.replace("Record-Route: <sip:192.0.2.9;lr>\n", "");
    assert_eq!(caller(&direct).destination, target(Transport::Tcp, "192.0.2.5:5080", None));
}

#[test]
fn a_connection_is_kept_while_the_peer_stays_at_its_address() {
    let direct = OK.replace("Record-Route: <sip:192.0.2.9;lr>, <sip:p1.example.com;lr>\n", "");
    let made = |from: &str| {
        let target = target(Transport::Tcp, from, Some(3));
        Dialog::from_response(&request(INVITE), &response(&direct), target, all).unwrap().destination.flow
    };
    assert_eq!(made("192.0.2.5:40000"), Some(3));
    assert_eq!(made("192.0.2.6:40000"), None);
}

#[test]
fn without_a_transport_parameter_the_next_hop_is_udp_unless_it_is_the_peer_of_the_stream() {
    let bare =
        OK.replace("Record-Route: <sip:192.0.2.9;lr>, <sip:p1.example.com;lr>\n", "").replace(";transport=tcp", "");
    let made = |from: Target| Dialog::from_response(&request(INVITE), &response(&bare), from, all).unwrap().destination;
    let stream = |remote, flow| target(Transport::Tcp, remote, flow);
    assert_eq!(made(stream("192.0.2.5:5060", Some(3))), stream("192.0.2.5:5080", Some(3)), "the peer left it out");
    assert_eq!(made(stream("192.0.2.6:5060", Some(3))), target(Transport::Udp, "192.0.2.5:5080", None));
    assert_eq!(made(udp()), target(Transport::Udp, "192.0.2.5:5080", None));
}

#[test]
fn a_next_hop_that_cannot_be_reached_leaves_the_destination() {
    let direct = OK.replace("Record-Route: <sip:192.0.2.9;lr>, <sip:p1.example.com;lr>\n", "");
    let by_udp = |transport: Transport, ip: IpAddr| transport == Transport::Udp && ip.is_ipv4();
    for contact in [
        "sip:bob@192.0.2.5;transport=tls",
        "sips:bob@192.0.2.5",
        "sip:bob@192.0.2.5;transport=ws",
        "sip:bob@[2001:db8::5]",
    ] {
        let ok = direct.replace("sip:bob@192.0.2.5:5080;transport=tcp", contact);
        let dialog = Dialog::from_response(&request(INVITE), &response(&ok), udp(), by_udp).unwrap();
        assert_eq!(dialog.destination, udp(), "{contact}");
        assert_eq!(dialog.ack(7).uri.to_string(), contact, "whoever is there routes by it");
    }
}

#[test]
fn an_early_dialog_takes_the_routes_of_the_2xx_and_a_refresh_its_contact() {
    let early =
        OK.replace("200 OK", "180 Ringing").replace("Record-Route: <sip:192.0.2.9;lr>, <sip:p1.example.com;lr>\n", "");
    let mut dialog = caller(&early);
    assert_eq!((dialog.state, dialog.route_set.len()), (DialogState::Early, 0));
    dialog.confirm(&response(OK), all);
    assert_eq!((dialog.state, dialog.route_set.len()), (DialogState::Confirmed, 2));
    dialog.refresh_target(&request(&INVITE.replace("sip:alice@192.0.2.1:5070", "sip:new@192.0.2.1")).headers, all);
    assert_eq!(dialog.remote_target.to_string(), "sip:new@192.0.2.1");
    assert_eq!(dialog.route_set.len(), 2, "routes never change once confirmed");
}

#[test]
fn a_2xx_without_contact_can_still_be_acknowledged() {
    let bare = OK.replace("Contact: <sip:bob@192.0.2.5:5080;transport=tcp>\n", "");
    assert_eq!(caller(&bare).ack(7).uri.to_string(), "sip:bob@example.com");
}

#[test]
fn the_journal_gives_back_the_same_dialog() {
    let mut dialog = caller(OK);
    dialog.account = Some(12);
    let json = serde_json::to_string(&dialog).unwrap();
    assert!(!json.contains('\n'));
    assert_eq!(serde_json::from_str::<Dialog>(&json).unwrap(), dialog);
    // Connections do not survive a restart.
    dialog.destination.flow = Some(9);
    let json = serde_json::to_string(&dialog).unwrap();
    assert_eq!(serde_json::from_str::<Dialog>(&json).unwrap().destination.flow, None);
}
