use proptest::prelude::*;

use super::*;

fn uri(text: &str) -> SipUri {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn every_part_of_a_uri_is_read() {
    let uri = uri("sips:a%20b;x:p%40ss@[2001:DB8::1]:5071;Transport=TCP;lr;x=%61?Subject=hi%20you&b=");
    assert!(uri.secure && uri.is_loose_router());
    assert_eq!(uri.user.as_deref(), Some("a b;x"));
    assert_eq!(uri.password.as_deref(), Some("p@ss"));
    assert_eq!(uri.host, Host::V6("2001:db8::1".parse().unwrap()));
    assert_eq!(uri.port, Some(5071));
    assert_eq!(uri.transport(), Some(Transport::Tcp));
    assert_eq!(uri.params.value("X"), Some("a"));
    assert_eq!(uri.headers.value("subject"), Some("hi you"));
    assert_eq!(uri.to_string(), "sips:a%20b;x:p%40ss@[2001:db8::1]:5071;Transport=TCP;lr;x=a?Subject=hi%20you&b=");
}

#[test]
fn dial_strings_with_a_hash_are_taken_and_printed_escaped() {
    assert_eq!(uri("sip:*55#@pbx").to_string(), "sip:*55%23@pbx");
}

#[test]
fn a_proxys_own_parameter_comes_back_as_it_was() {
    let text = "sip:192.0.2.1;lr;did=a41.8c==;ftag=x-1";
    assert_eq!(uri(text).to_string(), text);
}

#[test]
fn malformed_uris_are_refused_with_the_part_at_fault() {
    for (text, fault) in [
        ("bob@example.com", UriError::NoScheme),
        ("http://example.com", UriError::NoScheme),
        ("sip:@host", UriError::User),
        ("sip:a@b@host", UriError::User),
        ("sip:a%4@host", UriError::User),
        ("sip:a%zz@host", UriError::User),
        ("sip:a%FF@host", UriError::User),
        ("sip:a b@host", UriError::User),
        ("sip:a\r\nb@host", UriError::User),
        ("sip:", UriError::Host),
        ("sip:a@", UriError::Host),
        ("sip:a@-ok..x", UriError::Host),
        ("sip:a@300.1.1.1", UriError::Host),
        ("sip:a@[::g]", UriError::Host),
        ("sip:a@[::1", UriError::Host),
        ("sip:a@host:", UriError::Port),
        ("sip:a@host:+5", UriError::Port),
        ("sip:a@host:65536", UriError::Port),
        ("sip:a@host;", UriError::Parameter),
        ("sip:a@host;lr;LR", UriError::Parameter),
        ("sip:a@host;x=<y>", UriError::Parameter),
        ("sip:a@host?", UriError::Header),
        ("sip:a@host?a=b&&c=d", UriError::Header),
    ] {
        assert_eq!(text.parse::<SipUri>(), Err(fault), "{text}");
    }
}

#[test]
fn comparison_follows_rfc3261_19_1_4() {
    let equal = [
        ("sip:%61lice@atlanta.com;transport=TCP", "sip:alice@AtlanTa.CoM;Transport=tcp"),
        ("sip:carol@chicago.com", "sip:carol@chicago.com;newparam=5"),
        ("sip:carol@chicago.com;newparam=5", "sip:carol@chicago.com;security=on"),
        (
            "sip:biloxi.com;transport=tcp;method=REGISTER?to=sip:bob%40biloxi.com",
            "sip:biloxi.com;method=REGISTER;transport=tcp?to=sip:bob%40biloxi.com",
        ),
        (
            "sip:alice@atlanta.com?subject=project%20x&priority=urgent",
            "sip:alice@atlanta.com?priority=urgent&subject=project%20x",
        ),
    ];
    for (a, b) in equal {
        assert!(uri(a).matches(&uri(b)) && uri(b).matches(&uri(a)), "{a} = {b}");
    }
    let different = [
        ("SIP:ALICE@AtLanTa.CoM;Transport=udp", "sip:alice@AtlanTa.CoM;Transport=UDP"),
        ("sip:bob@biloxi.com", "sip:bob@biloxi.com:5060"),
        ("sip:bob@biloxi.com", "sip:bob@biloxi.com;transport=udp"),
        ("sip:bob@biloxi.com", "sip:bob@biloxi.com:6000;transport=tcp"),
        ("sip:carol@chicago.com", "sip:carol@chicago.com?Subject=next%20meeting"),
        ("sip:bob@phone21.boxesbybob.com", "sip:bob@192.0.2.4"),
        ("sip:carol@chicago.com;security=on", "sip:carol@chicago.com;security=off"),
        ("sip:a@h", "sips:a@h"),
    ];
    for (a, b) in different {
        assert!(!uri(a).matches(&uri(b)) && !uri(b).matches(&uri(a)), "{a} != {b}");
    }
}

#[test]
fn other_schemes_are_kept_as_they_are() {
    assert_eq!("tel:+1-201;phone-context=x".parse(), Ok(Uri::Other("tel:+1-201;phone-context=x".into())));
    assert!("1tel:5".parse::<Uri>().is_err());
    assert!("tel:".parse::<Uri>().is_err());
    assert!("tel:5>x".parse::<Uri>().is_err());
}

#[test]
fn name_addr_forms_are_read() {
    for (text, name, uri, tag) in [
        (
            "\"J Rosenberg \\\\\\\"\" <sip:jdr@lucent.com> ; tag = 98asjd8",
            Some("J Rosenberg \\\""),
            "sip:jdr@lucent.com",
            Some("98asjd8"),
        ),
        ("caller<sip:c@h>;tag=\"1\"", Some("caller"), "sip:c@h", Some("1")),
        ("Watson, Thomas < sip:t@h >", Some("Watson, Thomas"), "sip:t@h", None),
        ("<sip:a@h;x=y>", None, "sip:a@h;x=y", None),
        ("sip:a@h;tag=7", None, "sip:a@h", Some("7")),
        ("\"\" <sip:a@h>", None, "sip:a@h", None),
        ("\"a<b>c;,\" <sip:a@h>", Some("a<b>c;,"), "sip:a@h", None),
        ("Jürgen <tel:5>", Some("Jürgen"), "tel:5", None),
    ] {
        let address: NameAddr = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(address.display_name.as_deref(), name, "{text}");
        assert_eq!(address.uri.to_string(), uri, "{text}");
        assert_eq!(address.tag(), tag, "{text}");
    }
}

#[test]
fn ambiguous_name_addrs_are_refused() {
    for text in [
        "\"Mr. J. <sip:a@h>",
        "\"a\" sip:a@h",
        "\"a\"x <sip:a@h>",
        "a\"b\" <sip:a@h>",
        "<sip:a@h",
        "<sip:a@h> x",
        "<sip:a@h>;",
        "<sip:a@h>;;tag=1",
        "<sip:a@h>;tag=1;tag=2",
        "<sip:a@h>;tag=\"1",
        "<sip:a@h>;ta g=1",
        "sip:a@h?x=y",
        "sip:a@h,sip:b@h",
        "",
        "<>",
    ] {
        assert!(text.parse::<NameAddr>().is_err(), "{text}");
    }
}

#[test]
fn display_names_are_quoted_whatever_they_hold() {
    let address = NameAddr::new(uri("sip:a@h")).with_display_name("\"<x>\"\\\r\nVia: evil");
    assert_eq!(address.to_string(), "\"\\\"<x>\\\"\\\\  Via: evil\" <sip:a@h>");
}

#[test]
fn logins_may_hold_only_what_stands_unescaped_in_user() {
    assert_eq!(is_valid_login("1001"), Ok(()));
    assert_eq!(is_valid_login("a-_.!~*'()&=+$,;?/9"), Ok(()));
    for (login, character, position) in [
        ("10 01", ' ', 2),
        ("a<b", '<', 1),
        (">", '>', 0),
        ("a@b", '@', 1),
        ("a%41", '%', 1),
        ("é", 'é', 0),
        ("a:b", ':', 1),
    ] {
        assert_eq!(is_valid_login(login), Err(LoginError { character: Some(character), position }), "{login}");
    }
    assert_eq!(is_valid_login(""), Err(LoginError { character: None, position: 0 }));
    assert_eq!(is_valid_login("a b").unwrap_err().to_string(), "character ' ' at position 1 is not allowed");
}

#[test]
fn addresses_are_text_in_the_journal() {
    let address: NameAddr = "\"B\" <sip:b@h;lr>;tag=x".parse().unwrap();
    let json = serde_json::to_string(&address).unwrap();
    assert_eq!(json, r#""\"B\" <sip:b@h;lr>;tag=x""#);
    assert_eq!(serde_json::from_str::<NameAddr>(&json).unwrap(), address);
}

proptest! {
    #[test]
    fn any_user_survives_printing(user in "\\PC{1,20}", port in proptest::option::of(any::<u16>())) {
        let uri = SipUri::new(Some(&user), Host::V4([192, 0, 2, 1].into()), port);
        prop_assert_eq!(uri.to_string().parse::<SipUri>(), Ok(uri));
    }

    #[test]
    fn any_display_name_and_parameter_survive_printing(name in "\\PC{1,20}", value in "\\PC{0,20}") {
        let mut address = NameAddr::new(uri("sip:a@h")).with_display_name(&name);
        address.params.set("x", Some(value));
        prop_assert_eq!(address.to_string().parse::<NameAddr>(), Ok(address));
    }

    #[test]
    fn what_was_read_is_printed_so_that_it_reads_the_same(text in "sips?:[!-~]{1,40}") {
        if let Ok(uri) = text.parse::<SipUri>() {
            prop_assert_eq!(uri.to_string().parse::<SipUri>(), Ok(uri));
        }
    }
}
