//! REGISTER with a real registrar: digest, refusals, silence, refresh and the end.

use std::{net::UdpSocket, time::Duration};

use gangway_tests::{
    deadline::{Deadline, pause},
    gateway::{Gateway, connection},
    kamailio::{self, Kamailio},
    phone::Phone,
    socket::End,
};
use serde_json::json;

/// Checks 6 and 10: digest by the authentication name, ESTABLISHED before REGISTERED, the echo without the password.
#[test]
fn registers_by_digest_and_echoes_the_connection() {
    let Some(kamailio) = Kamailio::start(&kamailio::Options::default()) else { return };
    let gateway = Gateway::start(&[]);
    let mut phone = Phone::register(&gateway, kamailio.port());
    assert_eq!(phone.socket.names(), ["getUserData", "registered"]);
    kamailio.wait_registered("1001", true, Deadline::seconds(3));
    assert_eq!(kamailio.requests("REGISTER").len(), 2, "one challenge, one answer");
    assert!(kamailio.requests("REGISTER")[1].contains("user=1001"), "{:?}", kamailio.requests("REGISTER"));
    assert_eq!(phone.user_data["sipLogin"], "1001");
    assert_eq!(phone.user_data.get("sipPassword"), None, "the password is not echoed");
    assert_eq!(phone.user_data["sipDomain"], "127.0.0.1");
    let (status, connections) = gateway.rest("/connection/find_all", None);
    assert_eq!((status, &connections[0]["sipLogin"]), (200, &json!("1001")));
    assert!(!connections.to_string().contains("secret-1001"));
    // The password stands in no log.
    assert!(gateway.log("secret-1001").is_empty());
    // The close ends the registration (section 5.10 row 10).
    phone.socket.close();
    phone.socket.expect_end(Deadline::seconds(3));
    kamailio.wait_registered("1001", false, Deadline::seconds(5));
    assert_eq!(gateway.metric("gangway_sessions", ""), 0.0);
}

/// The authentication name may differ from the login.
#[test]
fn the_authentication_name_is_used_for_the_digest() {
    let options = kamailio::Options::default();
    let Some(kamailio) = Kamailio::start(&options) else { return };
    let gateway = Gateway::start(&[]);
    let mut fields = connection("1001", "secret-1002", kamailio.port(), true);
    fields["sipAuthenticationName"] = "1002".into();
    let mut phone = Phone::connect(&gateway, &fields);
    phone.socket.expect("registered", Deadline::seconds(5));
    Deadline::seconds(5).poll("a REGISTER of 1001 by the name 1002", || {
        kamailio
            .requests("REGISTER")
            .iter()
            .find(|line| line.contains("from=1001") && line.contains("user=1002"))
            .map(drop)
    });
}

/// Check 7: `fail`, then a close with 1000; no second try with the same password.
#[test]
fn a_wrong_password_ends_the_session_without_a_storm() {
    let Some(kamailio) = Kamailio::start(&kamailio::Options::default()) else { return };
    let gateway = Gateway::start(&[("register_backoff_ms", "100")]);
    let mut phone = Phone::connect(&gateway, &connection("1001", "wrong", kamailio.port(), true));
    let fail = phone.socket.expect("fail", Deadline::seconds(5)).first().clone();
    assert_eq!(fail["apiMethod"], "RegistrationStatusEvent");
    assert_eq!((&fail["status"], &fail["info"]), (&json!("FAILED"), &json!("AUTHENTICATION_FAIL")));
    assert_eq!(phone.socket.expect_end(Deadline::seconds(3)), End::Closed(1000));
    assert!(!phone.socket.names().contains(&"registered".to_owned()));
    let tries = kamailio.seen("REGISTER");
    assert!(tries <= 3, "{tries} REGISTERs");
    pause(Duration::from_secs(2));
    assert_eq!(kamailio.seen("REGISTER"), tries, "a REGISTER storm");
    assert_eq!(gateway.metric("gangway_registrations", ""), 0.0);
}

/// Check 8: nobody answers.
#[test]
fn a_silent_registrar_ends_the_session_within_the_sip_timeout() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let gateway = Gateway::start(&[]);
    let mut phone = Phone::connect(&gateway, &connection("1001", "x", silent.local_addr().unwrap().port(), true));
    // Timer F is 64 x 50 ms here.
    let fail = phone.socket.expect("fail", Deadline::seconds(6)).first().clone();
    assert_eq!(fail["apiMethod"], "RegistrationStatusEvent");
    let info = fail["info"].as_str().unwrap_or_default();
    assert!(["REGISTER_EXPIRE", "CONNECTION_ERROR"].contains(&info), "{info}");
    assert_eq!(phone.socket.expect_end(Deadline::seconds(3)), End::Closed(1000));
}

/// Check 9, first half: no REGISTER when it is not asked for.
#[test]
fn without_register_required_nothing_is_registered() {
    let Some(kamailio) = Kamailio::start(&kamailio::Options::default()) else { return };
    let gateway = Gateway::start(&[]);
    let mut phone = Phone::unregistered(&gateway, kamailio.port());
    pause(Duration::from_secs(1));
    assert_eq!(kamailio.seen("REGISTER"), 0);
    assert_eq!(phone.socket.names(), ["getUserData"]);
}

/// Step 7 of section 5.2: the binding is refreshed before it ends; a shortened expiry in the 200 counts.
#[test]
fn a_registration_is_refreshed_before_it_expires() {
    let options = kamailio::Options { max_expires_s: 3, ..kamailio::Options::default() };
    let Some(kamailio) = Kamailio::start(&options) else { return };
    let gateway = Gateway::start(&[("register_expires", "60")]);
    let mut phone = Phone::register(&gateway, kamailio.port());
    let before = kamailio.seen("REGISTER");
    pause(Duration::from_secs(5));
    assert!(kamailio.seen("REGISTER") > before, "no refresh");
    assert!(kamailio.is_registered("1001"));
    assert_eq!(phone.socket.names(), ["getUserData", "registered"], "a refresh is no event for the page");
}

/// 423 Interval Too Brief (RFC 3261 section 10.2.8): asked again with the registrar's minimum.
#[test]
fn too_brief_an_interval_is_asked_again_with_the_minimum() {
    let options = kamailio::Options { min_expires_s: 120, ..kamailio::Options::default() };
    let Some(kamailio) = Kamailio::start(&options) else { return };
    let gateway = Gateway::start(&[("register_expires", "30")]);
    let _phone = Phone::register(&gateway, kamailio.port());
    kamailio.wait_registered("1001", true, Deadline::seconds(3));
    assert!((3..=5).contains(&kamailio.seen("REGISTER")), "{:?}", kamailio.requests("REGISTER"));
}

/// One binding per session: two sessions of one account are two contacts.
#[test]
fn two_sessions_of_an_account_have_two_bindings() {
    let Some(kamailio) = Kamailio::start(&kamailio::Options::default()) else { return };
    let gateway = Gateway::start(&[]);
    let first = Phone::register(&gateway, kamailio.port());
    let _second = Phone::register(&gateway, kamailio.port());
    let contacts: std::collections::BTreeSet<String> = kamailio
        .requests("REGISTER")
        .iter()
        .filter_map(|line| Some(line.split("contact=").nth(1)?.split(['>', ';']).next()?.to_owned()))
        .collect();
    assert_eq!(contacts.len(), 2, "{contacts:?}");
    first.socket.close();
    Deadline::seconds(5).poll("one session", || (gateway.metric("gangway_sessions", "") == 1.0).then_some(()));
    assert!(kamailio.is_registered("1001"), "the other binding stays");
}
