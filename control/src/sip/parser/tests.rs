use proptest::prelude::*;

use super::*;
use crate::sip::uri::SipUri;

const MINIMAL: [&str; 5] = [
    "Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK1;rport",
    "From: <sip:a@h>;tag=1",
    "To: <sip:b@h>",
    "Call-ID: c@h",
    "CSeq: 1 OPTIONS",
];

fn message(start: &str, headers: &[&str], body: &str) -> Vec<u8> {
    format!("{start}\r\n{}\r\n\r\n{body}", headers.join("\r\n")).into_bytes()
}

fn options(more: &[&str]) -> Vec<u8> {
    message("OPTIONS sip:b@h SIP/2.0", &[&MINIMAL, more].concat(), "")
}

/// The minimal request with the header `replaced` starts with in its place.
fn with_header(replaced: &str) -> Vec<u8> {
    let name = replaced.split(':').next().unwrap();
    let keep = MINIMAL.iter().copied().filter(|line| !line.starts_with(&format!("{name}:")));
    let headers: Vec<&str> = keep.chain([replaced]).collect();
    message("OPTIONS sip:b@h SIP/2.0", &headers, "")
}

fn request(bytes: &[u8]) -> Request {
    match parse(bytes) {
        Ok(Message::Request(request)) => request,
        other => panic!("{other:?} from {}", String::from_utf8_lossy(bytes)),
    }
}

fn fault(bytes: &[u8]) -> String {
    parse(bytes).expect_err("an error").to_string()
}

#[test]
fn a_tortuous_invite_is_read_whole() {
    // In the manner of RFC 4475 section 3.1.1.1: every freedom of the grammar at once.
    let text = concat!(
        "INVITE sip:vivekg@chair-dnrc.example.com;unknownparam SIP/2.0\r\n",
        "TO :\r\n sip:vivekg@chair-dnrc.example.com ;   tag    = 1918181833n\r\n",
        "from   : \"J Rosenberg \\\\\\\"\"       <sip:jdrosen@example.com>\r\n  ;\r\n  tag = 98asjd8\r\n",
        "MaX-fOrWaRdS: 0068\r\n",
        "Call-ID: wsinv.ndaksdj@192.0.2.1\r\n",
        "cseq: 0009\r\n  INVITE\r\n",
        "Via  : SIP  /   2.0\r\n /UDP\r\n    192.0.2.2;branch=390skdjuw\r\n",
        "s :\r\n",
        "NewFangledHeader:   newfangled value\r\n continued newfangled value\r\n",
        "UnknownHeaderWithUnusualValue: ;;,,;;,;\r\n",
        "Content-Type: application/sdp\r\n",
        "Route:\r\n <sip:services.example.com;lr;unknownwith=value;unknown-no-value>\r\n",
        "v:  SIP  / 2.0  / TCP     spindle.example.com   ;\r\n  branch  =   z9hG4bK9ikj8  ,\r\n",
        " SIP  /    2.0   / UDP  192.168.255.111   ; branch=\r\n z9hG4bK30239\r\n",
        "m:\"Quoted string \\\"\\\"\" <sip:jdrosen@example.com> ; newparam =\r\n      newvalue ;\r\n  secondparam ; q = 0.33\r\n",
        "l: 4\r\n\r\nv=0\n"
    );
    let request = request(text.as_bytes());
    assert_eq!(request.method, Method::Invite);
    assert!(request.uri.as_sip().is_some_and(|uri| uri.params.contains("unknownparam")));
    assert_eq!(request.headers.to().unwrap().tag(), Some("1918181833n"));
    let from = request.headers.from().unwrap();
    assert_eq!((from.display_name.as_deref(), from.tag()), (Some("J Rosenberg \\\""), Some("98asjd8")));
    assert_eq!(request.headers.max_forwards(), Ok(Some(68)));
    assert_eq!(request.headers.cseq().unwrap().number, 9);
    let vias = request.headers.vias().unwrap();
    assert_eq!(vias.len(), 3);
    assert_eq!(vias[0].branch(), Some("390skdjuw"));
    assert_eq!((vias[1].transport.as_str(), vias[2].branch()), ("TCP", Some("z9hG4bK30239")));
    assert_eq!(request.headers.value(&HeaderName::Subject), Some(""));
    let unknown = HeaderName::parse("newfangledheader").unwrap();
    assert_eq!(request.headers.value(&unknown), Some("newfangled value continued newfangled value"));
    let contact = request.headers.contact().unwrap();
    assert_eq!(
        (contact.display_name.as_deref(), contact.params.value("q")),
        (Some("Quoted string \"\""), Some("0.33"))
    );
    assert_eq!(request.headers.routes().unwrap().len(), 1);
    assert_eq!(request.body, b"v=0\n");
    assert_eq!(parse(&request.to_bytes()), Ok(Message::Request(request)));
}

#[test]
fn unknown_headers_keep_their_place() {
    let request = request(&options(&["X-B: 1", "x-a: 2, 3", "Subject: s", "X-b: 4"]));
    let tail: Vec<String> = request.headers.iter().skip(5).map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(tail, ["X-B=1", "x-a=2, 3", "Subject=s", "X-b=4"]);
    assert_eq!(request.headers.values(&HeaderName::parse("X-B").unwrap()).collect::<Vec<_>>(), ["1", "4"]);
}

#[test]
fn commas_inside_quotes_and_brackets_do_not_split() {
    let request =
        request(&options(&["m: \"a, b\" <sip:x@h;p=1,2>, <sip:y@h>", "Record-Route: <sip:p1;lr>,<sip:p2;lr>"]));
    assert!(matches!(request.headers.contacts(), Ok(crate::sip::headers::Contacts::List(list)) if list.len() == 2));
    assert_eq!(request.headers.record_routes().unwrap().len(), 2);
}

#[test]
fn bare_line_feeds_and_leading_blank_lines_are_tolerated() {
    let text = String::from_utf8(options(&[])).unwrap().replace("\r\n", "\n");
    assert_eq!(request(format!("\r\n\n{text}").as_bytes()), request(&options(&[])));
}

#[test]
fn bytes_after_content_length_are_dropped_and_missing_ones_refused() {
    let with_body =
        |length: &str| message("OPTIONS sip:b@h SIP/2.0", &[&MINIMAL[..], &[length]].concat(), "0123456789");
    assert_eq!(request(&with_body("Content-Length: 4")).body, b"0123");
    assert_eq!(request(&with_body("X: 4")).body, b"0123456789");
    assert_eq!(fault(&with_body("l: 11")), "body: body shorter than announced");
    assert_eq!(fault(&with_body("Content-Length: -999")), "Content-Length: malformed");
    assert_eq!(fault(&with_body("Content-Length: 4294967296")), "Content-Length: out of range");
    assert_eq!(fault(&with_body("Content-Length: 4\r\nl: 4")), "Content-Length: repeated");
}

#[test]
fn what_would_create_state_is_strict() {
    for (bytes, error) in [
        (with_header("Via: SIP/2.0/UDP 192.0.2.15;;,;,,"), "Via: malformed"),
        (with_header("Via: SIP/2.0/UDP 192.0.2.15;branch="), "Via: malformed"),
        (with_header("From: \"Bell <sip:a@h>;tag=1"), "From: malformed"),
        (with_header("To: \"Watson, Thomas\" < sip:t@h"), "To: malformed"),
        (with_header("To: <sip:t@h>;tag=a;tag=b"), "To: malformed"),
        (with_header("Call-ID: a b"), "Call-ID: malformed"),
        (with_header("Call-ID: "), "Call-ID: malformed"),
        (with_header("CSeq: 1 INVITE"), "CSeq: malformed"),
        (with_header("CSeq: 36893488147419103232 OPTIONS"), "CSeq: out of range"),
        (options(&["Max-Forwards: 300"]), "Max-Forwards: out of range"),
        (options(&["From: <sip:x@h>;tag=2"]), "From: repeated"),
        (options(&["CSeq: 2 OPTIONS"]), "CSeq: repeated"),
        (options(&["no colon here"]), "header line 6: malformed"),
        (options(&["bad name: x"]), "header line 6: malformed"),
        (message("OPTIONS sip:b@h SIP/2.0", &MINIMAL[1..], ""), "Via: missing"),
        (message("OPTIONS sip:b@h SIP/2.0", &MINIMAL[..4], ""), "CSeq: missing"),
    ] {
        assert_eq!(fault(&bytes), error, "{}", String::from_utf8_lossy(&bytes));
    }
}

#[test]
fn start_lines_are_strict() {
    for (start, error) in [
        ("OPTIONS  sip:b@h SIP/2.0", "start line: malformed"),
        ("OPTIONS <sip:b@h> SIP/2.0", "start line: malformed"),
        ("OPTIONS sip:b@h; lr SIP/2.0", "start line: malformed"),
        ("OPT(IONS sip:b@h SIP/2.0", "start line: malformed"),
        ("OPTIONS sip:b@h HTTP/1.1", "start line: malformed"),
        ("OPTIONS sip:b@h SIP/7.0", "start line: version not supported"),
        ("OPTIONS", "start line: malformed"),
        ("SIP/2.0 4294967301 better not break the receiver", "start line: malformed"),
        ("SIP/2.0 99 x", "start line: malformed"),
        ("SIP/2.0 700 x", "start line: malformed"),
        ("SIP/3.0 200 OK", "start line: version not supported"),
    ] {
        assert_eq!(fault(&message(start, &MINIMAL, "")), error, "{start}");
    }
    for (start, reason) in [("SIP/2.0 200", ""), ("sip/2.0 200 ", ""), ("SIP/2.0 183 = 2**3 * 3 (Ю)", "= 2**3 * 3 (Ю)")]
    {
        let Ok(Message::Response(response)) = parse(&message(start, &MINIMAL, "")) else { panic!("{start}") };
        assert_eq!(response.reason, reason);
    }
    assert_eq!(request(&message("OPTIONS sip:b@h SIP/2.0 ", &MINIMAL, "")).method, Method::Options);
}

#[test]
fn methods_and_users_may_be_strange() {
    let headers: Vec<String> =
        MINIMAL.iter().map(|line| line.replace("1 OPTIONS", "1 !interesting-Method0123456789_*+`.%indeed'~")).collect();
    let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
    let start = "!interesting-Method0123456789_*+`.%indeed'~ sip:1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*:&it+has=1,weird!*pas$wo~d_too.(doesn't-it)@example.com SIP/2.0";
    let request = request(&message(start, &headers, ""));
    assert!(matches!(request.method, Method::Other(_)));
    assert!(request.uri.as_sip().unwrap().password.is_some());
    assert_eq!(parse(&request.to_bytes()), Ok(Message::Request(request)));
    // Method names are case-sensitive.
    assert_eq!(Method::parse("invite"), Some(Method::Other("invite".into())));
}

#[test]
fn text_that_is_no_utf8_is_refused_only_where_it_would_matter() {
    let mut bytes = options(&["Subject: caf"]);
    let at = bytes.windows(3).position(|window| window == b"caf").unwrap() + 3;
    bytes.insert(at, 0xe9);
    assert_eq!(request(&bytes).headers.value(&HeaderName::Subject), Some("caf\u{fffd}"));
    let mut bytes = options(&[]);
    let at = bytes.windows(3).position(|window| window == b"c@h").unwrap();
    bytes[at] = 0xe9;
    assert_eq!(fault(&bytes), "Call-ID: malformed");
}

#[test]
fn limits_hold() {
    let many: Vec<String> = (0..MAX_HEADERS - 5).map(|number| format!("X: {number}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(request(&options(&many)).headers.len(), MAX_HEADERS);
    assert_eq!(fault(&options(&[&many[..], &["X: 1"]].concat())), "header line 129: too long");
    let commas = format!("Contact: {}", vec!["<sip:a@h>"; 200].join(","));
    assert_eq!(fault(&options(&[&commas])), "Contact: too long");
    let long = format!("X: {}", "x".repeat(MAX_LINE_BYTES));
    assert_eq!(fault(&options(&[&long])), "header line 6: too long");
    let folded = format!("X: {}", "x\r\n ".repeat(MAX_LINE_BYTES / 2));
    assert_eq!(fault(&options(&[&folded])), "header line 6: too long");
    let mut bytes = options(&[]);
    bytes.resize(MAX_MESSAGE_BYTES + 1, b'x');
    assert_eq!(fault(&bytes), "message: too long");
}

#[test]
fn header_injection_is_impossible() {
    let mut request = request(&options(&[]));
    request.headers.push(HeaderName::Subject, "a\r\nVia: SIP/2.0/UDP evil\r\n\r\nbody\0");
    request.headers.push(HeaderName::Other("X\r\nY".into()), "z");
    request.uri = SipUri::new(Some("u\r\nX: y"), crate::sip::uri::Host::V4([192, 0, 2, 9].into()), None).into();
    let mut response = Response::new(Status::literal(400));
    response.reason = "no\r\nX: y".into();
    for bytes in [request.to_bytes(), response.to_bytes()] {
        let text = String::from_utf8(bytes).unwrap();
        for line in text.split("\r\n") {
            assert!(!line.starts_with("Via: SIP/2.0/UDP evil") && !line.starts_with("X: y") && !line.starts_with("Y"));
            assert!(line.bytes().all(|byte| byte >= 0x20), "{line:?}");
        }
    }
}

#[test]
fn frames_are_cut_from_a_stream() {
    let bytes = message("OPTIONS sip:b@h SIP/2.0", &[&MINIMAL[..], &["l : 3"]].concat(), "abc");
    assert_eq!(frame(&bytes), Framing::Message(bytes.len()));
    for len in 0..bytes.len() {
        assert_eq!(frame(&bytes[..len]), Framing::Incomplete, "{len}");
    }
    assert_eq!(frame(&[&bytes[..], b"INVITE"].concat()), Framing::Message(bytes.len()));
    assert_eq!(frame(b"\r\n\r\n"), Framing::KeepAlive(4));
    assert_eq!(frame(b"\r\nOPTIONS"), Framing::KeepAlive(2));
}

#[test]
fn streams_that_make_no_sense_are_closed() {
    let invalid = |bytes: &[u8]| match frame(bytes) {
        Framing::Invalid(error) => error.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!(invalid(b"GET / HTTP/1.1\r\n"), "start line: malformed");
    assert_eq!(invalid(b"\x16\x03\x01\n"), "start line: malformed");
    assert_eq!(invalid(&options(&[])), "Content-Length: missing");
    assert_eq!(invalid(&options(&["Content-Length: 65537"])), "Content-Length: out of range");
    assert_eq!(invalid(&options(&["Content-Length: 65500"])), "message: too long");
    assert_eq!(invalid(&options(&["Content-Length: 1", "l: 1"])), "Content-Length: repeated");
    assert_eq!(invalid(&vec![b'x'; MAX_LINE_BYTES + 1]), "message: too long");
    let endless = format!("OPTIONS sip:b@h SIP/2.0\r\n{}", "X: y\r\n".repeat(MAX_HEADERS + 1));
    assert_eq!(invalid(endless.as_bytes()), "message: too long");
}

#[test]
fn a_malformed_request_says_enough_to_be_answered() {
    let request = salvage(&with_header("CSeq: 99999999999 OPTIONS")).expect("enough headers");
    assert_eq!(request.headers.value(&HeaderName::CSeq), Some("99999999999 OPTIONS"));
    assert_eq!(request.headers.top_via().unwrap().branch(), Some("z9hG4bK1"));
    assert_eq!(salvage(&message("OPTIONS sip:b@h SIP/2.0", &MINIMAL[..4], "")), None);
    assert_eq!(salvage(&with_header("Via: nonsense")), None);
    assert_eq!(salvage(&message("SIP/2.0 999 x", &MINIMAL, "")), None);
    assert_eq!(salvage(&message("ACK sip:b@h SIP/2.0", &MINIMAL, "")), None);
}

fn any_value() -> impl Strategy<Value = String> {
    "[ -~é]{0,30}".prop_map(|text| text.trim().to_owned())
}

fn any_request() -> impl Strategy<Value = Request> {
    let unknown = proptest::collection::vec(("X-[A-Za-z0-9]{1,8}", any_value()), 0..8);
    let body = proptest::collection::vec(any::<u8>(), 0..64);
    ("\\PC{1,12}", "[a-z0-9]{1,12}", any::<u16>(), unknown, body, "\\PC{0,12}").prop_map(
        |(user, token, port, unknown, body, name)| {
            let host = crate::sip::uri::Host::V4([192, 0, 2, 1].into());
            let uri = SipUri::new(Some(&user), host, Some(port));
            let address = crate::sip::uri::NameAddr::new(uri.clone()).with_display_name(&name);
            let mut request = Request::new(Method::Invite, uri.into());
            request.headers.push(HeaderName::Via, format!("SIP/2.0/UDP h;branch=z9hG4bK{token}"));
            request.headers.push(HeaderName::From, address.clone().with_tag(&token).to_string());
            request.headers.push(HeaderName::To, address.to_string());
            request.headers.push(HeaderName::CallId, token);
            request.headers.push(HeaderName::CSeq, format!("{port} INVITE"));
            for (name, value) in unknown {
                request.headers.push(HeaderName::parse(&name).unwrap(), value);
            }
            request.body = body;
            request
        },
    )
}

proptest! {
    #[test]
    fn what_is_printed_reads_the_same(request in any_request()) {
        prop_assert_eq!(parse(&request.to_bytes()), Ok(Message::Request(request)));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse(&bytes);
        let _ = salvage(&bytes);
        if let Framing::Message(len) = frame(&bytes) {
            prop_assert!(len <= bytes.len());
        }
    }

    #[test]
    fn damaged_messages_never_panic_and_what_is_read_prints_the_same(
        request in any_request(),
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = request.to_bytes();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = salvage(&bytes);
        if let Ok(message) = parse(&bytes) {
            prop_assert_eq!(parse(&message.to_bytes()), Ok(message));
        }
    }

    #[test]
    fn a_frame_is_a_message_of_the_same_length(request in any_request()) {
        let bytes = request.to_bytes();
        prop_assert_eq!(frame(&bytes), Framing::Message(bytes.len()));
    }
}
