use super::*;

fn headers(fields: &[(HeaderName, &str)]) -> Headers {
    let mut headers = Headers::new();
    for (name, value) in fields {
        headers.push(name.clone(), *value);
    }
    headers
}

fn fault_of<T>(result: Result<T, HeaderError>) -> HeaderFault {
    result.err().map(|error| error.fault).expect("an error")
}

#[test]
fn via_is_read_with_white_space_and_ipv6() {
    let via: Via =
        "SIP / 2.0 / tcp [2001:db8::9:1] : 5061 ;branch = z9hG4bK1;received=2001:db8::9:255;rport".parse().unwrap();
    assert_eq!(via.transport, "TCP");
    assert_eq!((via.host.to_string().as_str(), via.port), ("[2001:db8::9:1]", Some(5061)));
    assert_eq!(via.branch(), Some("z9hG4bK1"));
    assert_eq!(via.received(), Some("2001:db8::9:255".parse().unwrap()));
    assert_eq!(via.rport(), None);
    assert!(via.params.contains("rport"));
    assert_eq!(via.to_string(), "SIP/2.0/TCP [2001:db8::9:1]:5061;branch=z9hG4bK1;received=2001:db8::9:255;rport");
}

#[test]
fn malformed_vias_are_refused() {
    for text in [
        "",
        "SIP/2.0/UDP",
        "SIP/3.0/UDP h",
        "HTTP/2.0/UDP h",
        "SIP/2.0/UDP h;;branch=x",
        "SIP/2.0/UDP h;branch",
        "SIP/2.0/UDP h;branch=a b",
        "SIP/2.0/UDP h;branch=a;branch=b",
        "SIP/2.0/UDP h:99999",
        "SIP/2.0/U DP h",
    ] {
        assert!(text.parse::<Via>().is_err(), "{text}");
    }
}

#[test]
fn cseq_is_strict() {
    let cseq = |value: &str| headers(&[(HeaderName::CSeq, value)]).cseq();
    assert_eq!(cseq("0009  INVITE"), Ok(CSeq { number: 9, method: Method::Invite }));
    assert_eq!(cseq("2147483647 NEW"), Ok(CSeq { number: MAX_CSEQ, method: Method::Other("NEW".into()) }));
    assert_eq!(fault_of(cseq("2147483648 INVITE")), HeaderFault::OutOfRange);
    assert_eq!(fault_of(cseq("36893488147419103232 REGISTER")), HeaderFault::OutOfRange);
    for value in ["INVITE", "9INVITE", "-1 INVITE", "+1 INVITE", "1 IN VITE", "1 ", ""] {
        assert_eq!(fault_of(cseq(value)), HeaderFault::Malformed, "{value}");
    }
}

#[test]
fn what_stands_once_may_not_stand_twice_or_never() {
    let twice = headers(&[(HeaderName::CallId, "a"), (HeaderName::CallId, "a")]);
    assert_eq!(fault_of(twice.call_id()), HeaderFault::Repeated);
    assert_eq!(fault_of(Headers::new().from()), HeaderFault::Missing);
    assert_eq!(fault_of(Headers::new().top_via()), HeaderFault::Missing);
}

#[test]
fn tags_must_be_tokens() {
    for value in ["<sip:a@h>;tag=", "<sip:a@h>;tag", "<sip:a@h>;tag=\"a b\""] {
        assert_eq!(fault_of(headers(&[(HeaderName::From, value)]).from()), HeaderFault::Malformed, "{value}");
    }
}

#[test]
fn max_forwards_is_at_most_255() {
    let hops = |value: &str| headers(&[(HeaderName::MaxForwards, value)]).max_forwards();
    assert_eq!(hops("0068"), Ok(Some(68)));
    assert_eq!(Headers::new().max_forwards(), Ok(None));
    assert_eq!(fault_of(hops("256")), HeaderFault::OutOfRange);
    assert_eq!(fault_of(hops("-1")), HeaderFault::Malformed);
}

#[test]
fn contacts_are_a_list_or_a_star_alone() {
    assert_eq!(headers(&[(HeaderName::Contact, "*")]).contacts(), Ok(Contacts::All));
    assert!(headers(&[(HeaderName::Contact, "*"), (HeaderName::Contact, "<sip:a@h>")]).contacts().is_err());
    let list = headers(&[(HeaderName::Contact, "<sip:a@h>;expires=4294967297"), (HeaderName::Contact, "sip:b@h")]);
    let Ok(Contacts::List(list)) = list.contacts() else { panic!("a list") };
    assert_eq!(list.len(), 2);
    assert_eq!(list[0].expires_s(), Some(u32::MAX));
    assert_eq!(Headers::new().contacts(), Ok(Contacts::List(vec![])));
    assert_eq!(fault_of(Headers::new().contact()), HeaderFault::Missing);
}

#[test]
fn seconds_are_read_and_nonsense_is_left_aside() {
    let one = |name: HeaderName, value: &str| headers(&[(name, value)]);
    assert_eq!(one(HeaderName::Expires, "3600").expires_s(), Some(3600));
    assert_eq!(one(HeaderName::Expires, "99999999999").expires_s(), Some(u32::MAX));
    assert_eq!(one(HeaderName::Expires, "soon").expires_s(), None);
    assert_eq!(one(HeaderName::MinExpires, "60").min_expires_s(), Some(60));
    assert_eq!(one(HeaderName::RetryAfter, "120 (I'm in a meeting);duration=3").retry_after_s(), Some(120));
    assert_eq!(one(HeaderName::RetryAfter, "7;duration=3").retry_after_s(), Some(7));
}

#[test]
fn content_type_is_lower_case_without_parameters() {
    let kind = |value: &str| headers(&[(HeaderName::ContentType, value)]).content_type();
    assert_eq!(kind("Application / SDP ; charset=utf-8").as_deref(), Some("application/sdp"));
    assert_eq!(kind("sdp"), None);
}

#[test]
fn token_lists_span_fields() {
    let allow = headers(&[(HeaderName::Allow, "INVITE, ACK ,"), (HeaderName::Allow, "BYE")]);
    assert_eq!(allow.tokens(&HeaderName::Allow), ["INVITE", "ACK", "BYE"]);
}

#[test]
fn reasons_are_read_and_printed() {
    let reasons =
        headers(&[(HeaderName::Reason, "Q.850 ;cause=16 ;text=\"Terminated, \\\"ok\\\"\", SIP;cause=200")]).reasons();
    assert_eq!(reasons.len(), 2);
    assert_eq!((reasons[0].protocol.as_str(), reasons[0].cause), ("Q.850", Some(16)));
    assert_eq!(reasons[0].text.as_deref(), Some("Terminated, \"ok\""));
    assert_eq!(reasons[0].to_string(), "Q.850;cause=16;text=\"Terminated, \\\"ok\\\"\"");
    assert_eq!(reasons[1].cause, Some(200));
}

#[test]
fn several_challenges_in_one_field_are_told_apart() {
    let found = headers(&[
        (
            HeaderName::WwwAuthenticate,
            "Digest realm=\"a, b=\\\"c\\\"\", nonce=\"n1\", qop=\"auth,auth-int\", NTLM, Digest realm=x,nonce = \"n=2==\" , algorithm=SHA-256",
        ),
        (HeaderName::WwwAuthenticate, "Bearer abc=="),
        (HeaderName::WwwAuthenticate, "Digest realm=\"broken"),
        (HeaderName::WwwAuthenticate, "Digest realm=\"r\", realm=\"r\""),
    ])
    .auth(&HeaderName::WwwAuthenticate);
    let schemes: Vec<&str> = found.iter().map(|auth| auth.scheme.as_str()).collect();
    assert_eq!(schemes, ["Digest", "NTLM", "Digest", "Bearer"]);
    assert_eq!(found[0].params.value("realm"), Some("a, b=\"c\""));
    assert_eq!(found[0].params.value("qop"), Some("auth,auth-int"));
    assert_eq!(found[2].params.value("nonce"), Some("n=2=="));
    assert_eq!(found[2].params.value("algorithm"), Some("SHA-256"));
}
