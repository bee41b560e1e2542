//! SIP messages: what parses is printed to something that parses to the same and that a stream frames whole; nothing of a value
//! becomes a header of its own; what is refused but answerable keeps what an answer repeats.

use gangway_control::sip::{
    message::{HeaderName, Message},
    parser::{self, Framing, MAX_HEADERS, MAX_MESSAGE_BYTES},
};

use super::Target;

/// See the module.
pub const TARGET: Target = Target {
    name: "sip",
    seeds,
    words: &[
        b"\r\n",
        b"\r\n\r\n",
        b"\r\n ",
        b"\r",
        b"\n",
        b";branch=z9hG4bK",
        b";rport",
        b";tag=",
        b"<sip:",
        b">",
        b"\"",
        b"\\\"",
        b"%0d%0a",
        b"[::1]",
        b"Content-Length: 99999999999\r\n",
        b"l: 0\r\n",
        b"v: SIP/2.0/UDP a",
        b", ",
        b"SIP/2.0",
        b"\xff\xfe",
        b"\0",
        b"Route: <sip:p;lr>\r\n",
    ],
    law,
};

fn seeds() -> Vec<Vec<u8>> {
    let seeds: [&[u8]; 6] = [
        b"INVITE sip:600@example.com;transport=tcp SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKabc;rport\r\nMax-Forwards: 70\r\n\
          From: \"A \\\"quoted\\\" name\" <sip:1001@example.com>;tag=1\r\nTo: <sip:600@example.com>\r\nCall-ID: x@y\r\nCSeq: 1 INVITE\r\n\
          Contact: <sip:1001@192.0.2.1:5060>\r\nContent-Type: application/sdp\r\nContent-Length: 5\r\n\r\nv=0\r\n",
        b"SIP/2.0 401 Unauthorized\r\nVia: SIP/2.0/TCP host;branch=z9hG4bKd;received=198.51.100.2;rport=5061\r\nVia: SIP/2.0/UDP [2001:db8::1]\r\n\
          f: <sip:a@b>;tag=2\r\nt: sip:c@d;tag=3\r\ni: 7\r\nCSeq: 2 REGISTER\r\nWWW-Authenticate: Digest realm=\"r, x\", nonce=\"n\", qop=\"auth,auth-int\"\r\n\
          WWW-Authenticate: Digest realm=\"r\", algorithm=SHA-256, nonce=\"m\"\r\nl: 0\r\n\r\n",
        b"REGISTER sip:example.com SIP/2.0\r\nv: SIP/2.0/UDP 10.0.0.1;branch=z9hG4bK1\r\nMax-Forwards: 70\r\nFrom: <sip:a%20b@e>;tag=t\r\nTo: <sip:a%20b@e>\r\n\
          Call-ID: r\r\nCSeq: 1 REGISTER\r\nm: *\r\nExpires: 0\r\n\r\n",
        b"BYE sip:x@[::1]:5070;lr SIP/2.0\r\nVia: SIP/2.0/UDP a;branch=z9hG4bK2\r\nFrom: sip:a@b;tag=1\r\nTo: sip:c@d\r\n ;tag=2\r\nCall-ID: f\r\n\
          CSeq: 3 BYE\r\nMax-Forwards: 1\r\nReason: SIP;cause=200;text=\"Call completed elsewhere\"\r\nX-Unknown: kept\r\n\r\n",
        b"ACK sip:x@y SIP/2.0\r\nVia: SIP/2.0/UDP a;branch=z9hG4bK3\r\nFrom: sip:a@b;tag=1\r\nTo: sip:c@d;tag=2\r\nCall-ID: f\r\nCSeq: 3 ACK\r\n\r\n",
        b"\r\n\r\nOPTIONS sip:x SIP/2.0\r\nVia: SIP/2.0/UDP a;branch=z9hG4bK4\r\nFrom: sip:a@b;tag=1\r\nTo: sip:c@d\r\nCall-ID: f\r\n\
          CSeq: 4294967295 OPTIONS\r\nMax-Forwards: 0\r\nRoute: <sip:p1;lr>, <sip:p2;lr>\r\nContent-Length: 0\r\n\r\nrest",
    ];
    seeds.iter().map(|seed| seed.to_vec()).collect()
}

fn law(input: &[u8]) {
    match parser::frame(input) {
        Framing::Message(len) | Framing::KeepAlive(len) => {
            assert!((1..=input.len()).contains(&len), "a frame outside the buffer");
        }
        Framing::Incomplete => assert!(input.len() <= 2 * MAX_MESSAGE_BYTES, "a stream is buffered beyond the limit"),
        Framing::Invalid(_) => {}
    }
    let Ok(message) = parser::parse(input) else {
        if let Some(request) = parser::salvage(input) {
            for name in [HeaderName::Via, HeaderName::From, HeaderName::To, HeaderName::CallId, HeaderName::CSeq] {
                assert!(request.headers.value(&name).is_some(), "an answer could not repeat {name:?}");
            }
        }
        return;
    };
    let headers = message.headers();
    assert!(headers.len() <= MAX_HEADERS, "{} headers were taken", headers.len());
    let printed = message.to_bytes();
    let again = parser::parse(&printed)
        .unwrap_or_else(|error| panic!("our own print is refused: {error}\n{}", String::from_utf8_lossy(&printed)));
    assert_eq!(again, message, "print and parse changed the message");
    assert_eq!(parser::frame(&printed), Framing::Message(printed.len()), "our own print is not framed whole");
    let body = match &message {
        Message::Request(request) => &request.body,
        Message::Response(response) => &response.body,
    };
    let head = &printed[..printed.len() - body.len()];
    let lines = head.split(|byte| *byte == b'\n').count();
    assert!(
        !head.split(|byte| *byte == b'\n').any(|line| line[..line.len().saturating_sub(1)].contains(&b'\r')),
        "a CR inside a line"
    );
    // The start line, one line a header, Content-Length, the blank line, and what `split` sees after it.
    assert!(lines <= headers.len() + 4, "a value became a line of its own");
}
