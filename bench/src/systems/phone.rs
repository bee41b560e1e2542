//! The SIP phone at the far end of a whole gateway's calls: it answers every INVITE at once, and nothing else.

use std::{
    io,
    net::{Ipv4Addr, UdpSocket},
    time::Duration,
};

use super::sdp::{address_of, plain};
use crate::call::{Answer, EndSpec, Media};

/// See the module text.
pub(super) struct Phone {
    socket: UdpSocket,
    buffer: Vec<u8>,
    /// Its port.
    pub(super) port: u16,
}

impl Phone {
    /// A phone that listens. One look at it waits for at most `turn`.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn listen(turn: Duration) -> io::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_read_timeout(Some(turn))?;
        let port = socket.local_addr()?.port();
        Ok(Phone { socket, buffer: vec![0; 65_536], port })
    }

    /// Takes one datagram, if one comes soon. An INVITE is answered with where `end` listens; where it wants media itself is returned.
    ///
    /// # Errors
    /// When the answer cannot be sent.
    pub(super) fn turn(&mut self, end: &EndSpec, media: Media) -> io::Result<Option<Answer>> {
        let Ok((len, from)) = self.socket.recv_from(&mut self.buffer) else { return Ok(None) };
        let request = String::from_utf8_lossy(&self.buffer[..len]);
        if !request.starts_with("INVITE ") {
            return Ok(None);
        }
        self.socket.send_to(ok(&request, end, media, self.port).as_bytes(), from)?;
        let (_, body) = request.split_once("\r\n\r\n").unwrap_or_default();
        Ok(address_of(body).map(|(rtp, rtcp)| Answer { rtp, rtcp, key: None, ice: None }))
    }
}

/// 200 to an INVITE: its Via, Record-Route, From, Call-ID and CSeq as they are, a tag on To, and where the end listens.
fn ok(invite: &str, end: &EndSpec, media: Media, port: u16) -> String {
    let (head, _) = invite.split_once("\r\n\r\n").unwrap_or((invite, ""));
    let mut lines = vec!["SIP/2.0 200 OK".to_owned()];
    for line in head.lines().skip(1) {
        let name = line.split(':').next().unwrap_or_default().trim().to_ascii_lowercase();
        match name.as_str() {
            "via" | "v" | "record-route" | "from" | "f" | "call-id" | "i" | "cseq" => lines.push(line.to_owned()),
            "to" | "t" => lines.push(format!("{line};tag=bench")),
            _ => {}
        }
    }
    let body = plain(end, media);
    lines.push(format!("Contact: <sip:bench@127.0.0.1:{port}>"));
    lines.push("Content-Type: application/sdp".to_owned());
    lines.push(format!("Content-Length: {}", body.len()));
    lines.join("\r\n") + "\r\n\r\n" + &body
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Security;

    #[test]
    fn an_invite_is_answered_with_its_own_headers() {
        let invite = "INVITE sip:b0@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nMax-Forwards: 70\r\n\
                      From: <sip:a@h>;tag=1\r\nTo: <sip:b0@h>\r\nCall-ID: c\r\nCSeq: 1 INVITE\r\n\r\nv=0\r\n";
        let address = "127.0.0.1:4000".parse().unwrap();
        let end = EndSpec { rtp: address, rtcp: address, security: Security::Plain };
        let answer = ok(invite, &end, Media::Audio, 5070);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nFrom: <sip:a@h>;tag=1\r\n"));
        assert!(head.contains("\r\nTo: <sip:b0@h>;tag=bench\r\n") && !head.contains("Max-Forwards"), "{head}");
        assert!(head.ends_with(&format!("Content-Length: {}", body.len())) && body.contains("m=audio 4000 "), "{head}");
    }
}
