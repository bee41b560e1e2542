//! The demo service, by a SIP phone that is nothing but text.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use gangway_control::{
    config::{Config, Sources},
    demo::DemoService,
};
use tokio::{net::UdpSocket, time::timeout};

use crate::SOON;

struct Phone {
    socket: UdpSocket,
    service: SocketAddr,
    me: SocketAddr,
    number: &'static str,
    sent: u32,
}

struct Message {
    start: String,
    headers: BTreeMap<String, String>,
    body: String,
}

impl Message {
    fn code(&self) -> u16 {
        self.start.strip_prefix("SIP/2.0 ").and_then(|rest| rest.get(..3)).map_or(0, |code| code.parse().unwrap())
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no {name} in {} {:?}", self.start, self.headers))
    }
}

impl Phone {
    async fn new(service: SocketAddr, number: &'static str) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let me = socket.local_addr().unwrap();
        Phone { socket, service, me, number, sent: 0 }
    }

    async fn send(&mut self, method: &str, to: &str, to_tag: &str, extra: &str, body: &str) {
        self.sent += 1;
        let (me, number, sent, service) = (self.me, self.number, self.sent, self.service);
        let cseq = if method == "ACK" { 1 } else { sent };
        let text = format!(
            "{method} sip:{to}@{service} SIP/2.0\r\nVia: SIP/2.0/UDP {me};branch=z9hG4bK{number}x{sent};rport\r\n\
             Max-Forwards: 70\r\nFrom: <sip:{number}@127.0.0.1>;tag={number}\r\nTo: <sip:{to}@127.0.0.1>{to_tag}\r\n\
             Call-ID: {number}-{to}\r\nCSeq: {cseq} {method}\r\nContact: <sip:{number}@{me}>\r\n{extra}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.socket.send_to(text.as_bytes(), service).await.unwrap();
    }

    async fn receive(&self) -> Message {
        let mut buffer = [0; 8192];
        let (len, _) = timeout(SOON, self.socket.recv_from(&mut buffer)).await.expect("something comes").unwrap();
        let text = String::from_utf8(buffer[..len].to_vec()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let mut lines = head.lines();
        let start = lines.next().unwrap().to_owned();
        let headers =
            lines.filter_map(|line| line.split_once(": ")).map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
        Message { start, headers, body: body.to_owned() }
    }

    /// The next answer that is no 100.
    async fn answer(&self) -> Message {
        loop {
            let message = self.receive().await;
            if message.code() != 100 {
                return message;
            }
        }
    }

    async fn invite(&mut self, to: &str, rtp: SocketAddr) {
        self.sent = 0;
        let body = format!(
            "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio {} RTP/AVP 0 8 101\r\n\
             a=rtpmap:101 telephone-event/8000\r\n",
            rtp.port()
        );
        self.send("INVITE", to, "", "Content-Type: application/sdp\r\n", &body).await;
    }
}

async fn service() -> SocketAddr {
    DemoService::start(&Config::parse("", "", Sources::default()).unwrap()).await.unwrap()
}

async fn rtp() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").await.unwrap()
}

fn media_port(sdp: &str) -> u16 {
    let line = sdp.lines().find_map(|line| line.strip_prefix("m=audio ")).unwrap_or_else(|| panic!("{sdp}"));
    line.split(' ').next().unwrap().parse().unwrap()
}

fn to_tag(answer: &Message) -> String {
    answer.header("To").split_once(";tag=").map(|(_, tag)| format!(";tag={tag}")).unwrap()
}

#[tokio::test]
async fn each_number_answers_as_the_table_says() {
    let service = service().await;
    let rtp = rtp().await;
    for (to, codes) in [
        ("602", &[486][..]),
        ("603", &[180]),
        ("604", &[404]),
        ("1002", &[480]),
        ("600", &[180, 200]),
        ("605", &[183, 200]),
    ] {
        let mut phone = Phone::new(service, "1001").await;
        phone.invite(to, rtp.local_addr().unwrap()).await;
        for code in codes {
            assert_eq!(phone.answer().await.code(), *code, "{to}");
        }
    }
}

#[tokio::test]
async fn the_echo_number_sends_back_what_it_hears_until_bye() {
    let rtp = rtp().await;
    let mut phone = Phone::new(service().await, "1001").await;
    phone.invite("600", rtp.local_addr().unwrap()).await;
    let answer = loop {
        let answer = phone.answer().await;
        if answer.code() == 200 {
            break answer;
        }
    };
    let tag = to_tag(&answer);
    phone.send("ACK", "600", &tag, "", "").await;
    let packet = [0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7, 1, 2, 3, 4];
    let to = SocketAddr::from(([127, 0, 0, 1], media_port(&answer.body)));
    rtp.send_to(&packet, to).await.unwrap();
    let mut buffer = [0; 100];
    let (len, _) = timeout(SOON, rtp.recv_from(&mut buffer)).await.unwrap().unwrap();
    assert_eq!(buffer[..len], packet);
    phone.send("BYE", "600", &tag, "", "").await;
    assert_eq!(phone.answer().await.code(), 200);
    // The port is closed: on loopback that is told by an error, or by silence.
    let gone = async {
        rtp.connect(to).await.unwrap();
        while rtp.send(&packet).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(SOON, gone).await.expect("the echo ends with the call");
}

#[tokio::test]
async fn the_menu_plays_tones_in_g711() {
    let rtp = rtp().await;
    let mut phone = Phone::new(service().await, "1001").await;
    phone.invite("601", rtp.local_addr().unwrap()).await;
    let mut buffer = [0; 400];
    let (len, _) = timeout(SOON, rtp.recv_from(&mut buffer)).await.unwrap().unwrap();
    assert_eq!((len, buffer[0], buffer[1] & 0x7f), (172, 0x80, 0));
    assert!(buffer[12..len].iter().any(|&sample| sample != 0xff), "the first packet is silent");
}

#[tokio::test]
async fn a_registered_phone_is_rung_with_the_callers_offer() {
    let service = service().await;
    let rtp = rtp().await;
    let mut callee = Phone::new(service, "1002").await;
    callee.send("REGISTER", "1002", "", "", "").await;
    let challenge = callee.answer().await;
    assert_eq!(challenge.code(), 401);
    let nonce =
        challenge.header("WWW-Authenticate").split("nonce=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let hex = |text: String| {
        use md5::{Digest as _, Md5};
        Md5::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let secret = hex("1002:gangway-demo:1002".to_owned());
    let response = hex(format!("{secret}:{nonce}:00000001:c:auth:{}", hex(format!("REGISTER:sip:{service}"))));
    let authorization = format!(
        "Authorization: Digest username=\"1002\", realm=\"gangway-demo\", nonce=\"{nonce}\", uri=\"sip:{service}\", \
         response=\"{response}\", qop=auth, nc=00000001, cnonce=\"c\"\r\n"
    );
    callee.send("REGISTER", "1002", "", &authorization, "").await;
    assert_eq!(callee.answer().await.code(), 200);
    let mut caller = Phone::new(service, "1001").await;
    caller.invite("1002", rtp.local_addr().unwrap()).await;
    let invite = callee.receive().await;
    assert!(invite.start.starts_with("INVITE sip:1002@"), "{}", invite.start);
    assert!(invite.header("From").contains("sip:1001@"), "{}", invite.header("From"));
    assert_eq!(media_port(&invite.body), rtp.local_addr().unwrap().port());
    let refusal = format!(
        "SIP/2.0 486 Busy Here\r\nVia: {}\r\nFrom: {}\r\nTo: {};tag=callee\r\nCall-ID: {}\r\nCSeq: {}\r\nContent-Length: 0\r\n\r\n",
        invite.header("Via"),
        invite.header("From"),
        invite.header("To"),
        invite.header("Call-ID"),
        invite.header("CSeq"),
    );
    callee.socket.send_to(refusal.as_bytes(), service).await.unwrap();
    assert_eq!(caller.answer().await.code(), 486);
}
