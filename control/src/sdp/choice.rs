//! In words for the log: which codec a medium has, and why.

use super::{MediaAgreement, PayloadRoute};

impl MediaAgreement {
    /// The payload types that were joined, with the reason. `is_incoming`: the SIP peer offered and the browser chose.
    #[must_use]
    pub fn choice(&self, is_incoming: bool) -> String {
        if self.is_stopped {
            return "stopped by the SIP peer with port 0".to_owned();
        }
        let routes = self.to_sip();
        let Some(route) = routes.first() else { return "none".to_owned() };
        let chosen = if is_incoming {
            "the browser's first that reaches the SIP peer"
        } else {
            "the SIP peer's first that the browser has"
        };
        let PayloadRoute { from_pt, from, to_pt, to, .. } = route;
        format!("{from} {from_pt} and {to} {to_pt}: {chosen}, {}", joined(route))
    }
}

/// Why the two codecs of a route are one stream.
fn joined(route: &PayloadRoute) -> String {
    match (route.from.h264, route.to.h264) {
        (Some(from), Some(to)) if from == to => {
            let named = route.to_fmtp.as_deref().is_some_and(|fmtp| fmtp.contains("packetization-mode"));
            format!("both {from}{}", if named { "" } else { " (the SIP peer names no mode, which is 0)" })
        }
        (Some(from), Some(to)) => format!("{from} and {to} serve each other"),
        _ if route.from.encoding != route.to.encoding => "mapped by the table of G.711".to_owned(),
        _ => "the same codec".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sdp::{Codec, Direction, Encoding, LegPayload, Repair};

    fn agreed(browser: (u8, Encoding, Option<&str>), sip: (u8, Encoding, Option<&str>)) -> MediaAgreement {
        let leg = |(pt, encoding, fmtp): (u8, Encoding, Option<&str>)| {
            let codec = Codec::usual(encoding).with_fmtp(fmtp);
            vec![LegPayload { codec, fmtp: fmtp.map(str::to_owned), send_pt: pt, receive_pts: vec![pt] }]
        };
        MediaAgreement {
            browser: leg(browser),
            browser_direction: Direction::SendRecv,
            sip: leg(sip),
            sip_direction: Direction::SendRecv,
            sip_remote: None,
            sip_ptime_ms: None,
            is_stopped: false,
            browser_repair: Repair::default(),
            sip_feedback: Vec::new(),
            sip_limit_kbps: None,
        }
    }

    #[test]
    fn each_way_of_joining_has_its_words() {
        let h264 = |fmtp| (98, Encoding::H264, fmtp);
        let baseline = Some("profile-level-id=42001f;packetization-mode=1");
        let constrained = Some("profile-level-id=42e01f;packetization-mode=1");
        let mode_0 = Some("profile-level-id=42e01f;packetization-mode=0");
        for (browser, sip, words) in [
            (
                (96, Encoding::Vp8, None),
                (97, Encoding::Vp8, None),
                "VP8/90000 96 and VP8/90000 97: CHOSEN, the same codec",
            ),
            (
                (0, Encoding::Pcmu, None),
                (8, Encoding::Pcma, None),
                "PCMU/8000 0 and PCMA/8000 8: CHOSEN, mapped by the table of G.711",
            ),
            (
                h264(constrained),
                h264(constrained),
                "H264/90000 98 and H264/90000 98: CHOSEN, both ConstrainedBaseline mode 1",
            ),
            (
                h264(mode_0),
                h264(Some("profile-level-id=42e01f")),
                "H264/90000 98 and H264/90000 98: CHOSEN, both ConstrainedBaseline mode 0 (the SIP peer names no mode, which is 0)",
            ),
            (
                h264(constrained),
                h264(baseline),
                "H264/90000 98 and H264/90000 98: CHOSEN, ConstrainedBaseline mode 1 and Baseline mode 1 serve each other",
            ),
        ] {
            let agreed = agreed(browser, sip);
            let outgoing = words.replace("CHOSEN", "the SIP peer's first that the browser has");
            assert_eq!(agreed.choice(false), outgoing);
            assert_eq!(agreed.choice(true), words.replace("CHOSEN", "the browser's first that reaches the SIP peer"));
        }
        let stopped =
            MediaAgreement { is_stopped: true, ..agreed((0, Encoding::Pcmu, None), (0, Encoding::Pcmu, None)) };
        assert_eq!(stopped.choice(false), "stopped by the SIP peer with port 0");
    }
}
