//! What SIP peers took before, for offers that must be short.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
};

use crate::sdp::{Agreement, Taken};

/// Most peers remembered; beyond, the one whose first answer is longest ago makes room.
const PEERS_MAX: usize = 256;

/// The codecs of each peer's last answer.
#[derive(Debug, Default)]
pub(super) struct TakenByPeer {
    peers: BTreeMap<SocketAddr, Taken>,
    order: VecDeque<SocketAddr>,
}

impl TakenByPeer {
    /// This peer answered so. An answer without pictures says nothing about the codec of those.
    pub(super) fn note(&mut self, peer: SocketAddr, agreement: &Agreement) {
        let known = self.peers.entry(peer).or_insert_with(|| {
            self.order.push_back(peer);
            Taken::default()
        });
        known.audio = agreement.audio.sip.first().map(|payload| payload.codec.clone());
        let video = agreement.video.as_ref().filter(|video| !video.is_stopped);
        if let Some(payload) = video.and_then(|video| video.sip.first()) {
            known.video = Some(payload.codec.clone());
        }
        if self.order.len() > PEERS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.peers.remove(&oldest);
        }
    }

    /// What this peer took; nothing of one that is not known.
    pub(super) fn of(&self, peer: SocketAddr) -> Taken {
        self.peers.get(&peer).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sdp::{
        BrowserSide, Codec, CodecPolicy, Direction, Encoding, Payload, TrunkDescription, leg::offered_leg,
    };

    #[test]
    fn the_last_answer_counts_and_the_table_is_bounded() {
        let browser = [Encoding::Pcmu, Encoding::Pcma].map(|encoding| Payload::new(0, Codec::usual(encoding)));
        let browser = BrowserSide::of_audio(offered_leg(&browser));
        let ours = CodecPolicy::default().sip_offer(&browser);
        let agreed = |pt: u8| {
            let answer = format!("v=0\r\nc=IN IP4 192.0.2.9\r\nm=audio 4000 RTP/AVP {pt}\r\n");
            let answer = TrunkDescription::parse(&answer).unwrap();
            Agreement::answered_by_sip(&browser, &ours, &answer, Direction::SendRecv).unwrap()
        };
        let peer = |port: u16| SocketAddr::from(([192, 0, 2, 1], port));
        let mut taken = TakenByPeer::default();
        assert_eq!(taken.of(peer(1)), Taken::default());
        taken.note(peer(1), &agreed(0));
        taken.note(peer(1), &agreed(8));
        assert_eq!(taken.of(peer(1)).audio, Some(Codec::usual(Encoding::Pcma)));
        for port in 2..=PEERS_MAX as u16 + 1 {
            taken.note(peer(port), &agreed(0));
        }
        assert_eq!((taken.peers.len(), taken.order.len()), (PEERS_MAX, PEERS_MAX));
        assert_eq!(taken.of(peer(1)), Taken::default(), "the first made room");
    }
}
