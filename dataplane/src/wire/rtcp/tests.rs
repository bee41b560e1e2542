use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn only(bytes: &[u8]) -> RtcpPacket<'_> {
    let compound = Compound::parse(bytes).expect("well-formed");
    let mut packets = compound.packets();
    let first = packets.next().expect("one packet");
    assert_eq!(packets.next(), None);
    first
}

fn report() -> impl Strategy<Value = ReportBlock> {
    (any::<(u32, u8, u32, u32, u32, u32)>(), -0x80_0000i32..0x80_0000).prop_map(|(fields, cumulative_lost)| {
        let (ssrc, fraction_lost, highest_sequence, jitter, last_sr, delay_since_last_sr) = fields;
        ReportBlock { ssrc, fraction_lost, cumulative_lost, highest_sequence, jitter, last_sr, delay_since_last_sr }
    })
}

proptest! {
    #[test]
    fn reports_that_were_written_are_read_back(
        fields in any::<(u32, u64, u32, u32, u32)>(),
        blocks in prop::collection::vec(report(), 0..=31),
        cname in prop::collection::vec(1u8.., 0..=255),
        is_sender in any::<bool>(),
    ) {
        let (ssrc, ntp, rtp_timestamp, packet_count, octet_count) = fields;
        let info = SenderInfo { ssrc, ntp, rtp_timestamp, packet_count, octet_count };
        let mut out = [0xff; 2048];
        let len = if is_sender {
            write_sender_report(&mut out, &info, &blocks, &cname)
        } else {
            write_receiver_report(&mut out, ssrc, &blocks, &cname)
        };
        let len = len.expect("it fits");
        let compound = Compound::parse(&out[..len]).expect("well-formed");
        let packets: Vec<_> = compound.packets().collect();
        prop_assert_eq!(packets.len(), 2);
        let reports = match packets[0] {
            RtcpPacket::SenderReport { info: read, reports } if is_sender => {
                prop_assert_eq!(read, info);
                reports
            }
            RtcpPacket::ReceiverReport { ssrc: read, reports } if !is_sender => {
                prop_assert_eq!(read, ssrc);
                reports
            }
            other => return Err(TestCaseError::fail(format!("{other:?}"))),
        };
        prop_assert_eq!(reports.iter().collect::<Vec<_>>(), blocks.clone());
        let RtcpPacket::SourceDescription(sdes) = packets[1] else { panic!("no SDES: {:?}", packets[1]) };
        prop_assert_eq!(sdes.cnames().collect::<Vec<_>>(), vec![(ssrc, &cname[..])]);

        let mut small = vec![0; len - 1];
        let short = if is_sender {
            write_sender_report(&mut small, &info, &blocks, &cname)
        } else {
            write_receiver_report(&mut small, ssrc, &blocks, &cname)
        };
        prop_assert_eq!(short, None);
    }

    #[test]
    fn arbitrary_compounds_are_read_inside_or_refused(
        packets in prop::collection::vec((0u8..0x40, 198u8..210, 0u16..12, prop::collection::vec(any::<u8>(), 0..48)), 1..4),
    ) {
        let mut bytes = Vec::new();
        for (flags, packet_type, words, body) in packets {
            bytes.extend([0x80 | flags, packet_type]);
            bytes.extend(words.to_be_bytes());
            bytes.extend(body);
        }
        if let Ok(compound) = Compound::parse(&bytes) {
            for packet in compound.packets() {
                let items = match packet {
                    RtcpPacket::SenderReport { reports, .. } | RtcpPacket::ReceiverReport { reports, .. } => reports.iter().count(),
                    RtcpPacket::SourceDescription(sdes) => sdes.cnames().map(|(_, cname)| cname.len()).sum(),
                    RtcpPacket::Bye(words) | RtcpPacket::BandwidthEstimate { media: words, .. } => words.iter().count(),
                    RtcpPacket::FullIntra { entries, .. } => entries.iter().count(),
                    RtcpPacket::Nack { lost, .. } => lost.sequences().count() / 17,
                    _ => 0,
                };
                prop_assert!(items <= bytes.len());
            }
        }
    }
}

#[test]
fn requests_for_a_keyframe_and_goodbyes_are_read_back() {
    let mut out = [0; 64];
    let len = write_pli(&mut out, 1, 2).expect("room");
    assert_eq!(only(&out[..len]), RtcpPacket::PictureLoss { sender: 1, media: 2 });
    let len = write_fir(&mut out, 3, 4, 5).expect("room");
    let RtcpPacket::FullIntra { sender: 3, entries } = only(&out[..len]) else { panic!("no FIR") };
    assert_eq!(entries.iter().collect::<Vec<_>>(), [(4, 5)]);
    let len = write_bye(&mut out, 6).expect("room");
    let RtcpPacket::Bye(ssrcs) = only(&out[..len]) else { panic!("no BYE") };
    assert_eq!(ssrcs.iter().collect::<Vec<_>>(), [6]);
    for room in 0..8 {
        assert_eq!(write_bye(&mut out[..room], 6), None);
    }
    assert_eq!(sender_ssrc_of(&out), 6);
}

#[test]
fn a_nack_names_its_first_packet_and_those_of_its_mask_over_the_wrap() {
    let nack = [0x81, 205, 0, 3, 0, 0, 0, 1, 0, 0, 0, 2, 0xff, 0xfe, 0x80, 0x05];
    let RtcpPacket::Nack { sender: 1, media: 2, lost } = only(&nack) else { panic!("no NACK") };
    assert_eq!(lost.sequences().collect::<Vec<_>>(), [65_534, 65_535, 1, 14]);
}

#[test]
fn a_nack_is_written_with_a_mask_for_what_follows_within_sixteen() {
    let mut out = [0; 512];
    let len = write_nack(&mut out, 1, 2, [65_534, 65_535, 1, 14, 15, 40].into_iter()).expect("room");
    assert_eq!(out[..16], [0x81, 205, 0, 5, 0, 0, 0, 1, 0, 0, 0, 2, 0xff, 0xfe, 0x80, 0x05]);
    assert_eq!(out[16..len], [0, 15, 0, 0, 0, 40, 0, 0]);
    assert_eq!(write_nack(&mut out, 1, 2, std::iter::empty()), None);
    let len = write_nack(&mut out, 1, 2, (0..2000).step_by(17)).expect("room");
    let RtcpPacket::Nack { lost, .. } = only(&out[..len]) else { panic!("no NACK") };
    assert_eq!(lost.sequences().count(), NACKED_MAX);
    assert_eq!(write_nack(&mut out[..12], 1, 2, [7].into_iter()), None);
}

#[test]
fn a_limit_is_written_as_the_draft_lays_it_out() {
    let mut out = [0; 64];
    let len = write_remb(&mut out, 1, 256_000, &[9]).expect("room");
    let expected = [0x8f, 206, 0, 5, 0, 0, 0, 1, 0, 0, 0, 0, b'R', b'E', b'M', b'B', 1, 3, 0xe8, 0, 0, 0, 0, 9];
    assert_eq!(out[..len], expected, "256000 is 0x3e800 and needs no exponent");
    for bitrate in [0, 1, 0x3_ffff, 0x4_0000, 2_500_000, u64::MAX] {
        let len = write_remb(&mut out, 1, bitrate, &[9, 10]).expect("room");
        let RtcpPacket::BandwidthEstimate { bitrate_bps, media, .. } = only(&out[..len]) else { panic!("no REMB") };
        assert!(bitrate_bps <= bitrate && bitrate - bitrate_bps <= bitrate >> 17, "{bitrate} as {bitrate_bps}");
        assert_eq!(media.iter().collect::<Vec<_>>(), [9, 10]);
    }
}

#[test]
fn a_bandwidth_estimate_is_mantissa_times_power_of_two_and_saturates() {
    let mut remb = [0x8f, 206, 0, 5, 0, 0, 0, 1, 0, 0, 0, 0, b'R', b'E', b'M', b'B', 1, 3 << 2 | 1, 0, 2, 0, 0, 0, 9];
    let RtcpPacket::BandwidthEstimate { sender: 1, bitrate_bps, media } = only(&remb) else { panic!("no REMB") };
    assert_eq!((bitrate_bps, media.iter().collect::<Vec<_>>()), (0x1_0002 << 3, vec![9]));
    remb[17] = 0xff;
    let RtcpPacket::BandwidthEstimate { bitrate_bps, .. } = only(&remb) else { panic!("no REMB") };
    assert_eq!(bitrate_bps, u64::MAX);
    remb[16] = 2;
    assert_eq!(Compound::parse(&remb).err(), Some(DropReason::RtcpMalformed), "two SSRCs announced, one there");
}

#[test]
fn transport_feedback_and_unknown_packets_are_recognised_and_skipped() {
    let twcc = [0x8f, 205, 0, 3, 0, 0, 0, 1, 0, 0, 0, 2, 9, 9, 9, 9];
    let app = [0x80, 204, 0, 2, 0, 0, 0, 1, b'n', b'a', b'm', b'e'];
    let both = [&twcc[..], &app].concat();
    let compound = Compound::parse(&both).expect("well-formed");
    let packets: Vec<_> = compound.packets().collect();
    assert_eq!(
        packets,
        [RtcpPacket::TransportCongestion { sender: 1, media: 2 }, RtcpPacket::Other { packet_type: 204 }]
    );
}

#[test]
fn padding_is_taken_on_the_last_packet_alone() {
    let padded = [0xa1, 203, 0, 2, 0, 0, 0, 7, 0, 0, 0, 4];
    let RtcpPacket::Bye(ssrcs) = only(&padded) else { panic!("no BYE") };
    assert_eq!(ssrcs.iter().collect::<Vec<_>>(), [7]);
    let twice = [padded, padded].concat();
    assert_eq!(Compound::parse(&twice).err(), Some(DropReason::RtcpMalformed));
    for bad in [0, 3, 12] {
        let mut bytes = padded;
        bytes[11] = bad;
        assert_eq!(Compound::parse(&bytes).err(), Some(DropReason::RtcpMalformed), "padding of {bad}");
    }
}

#[test]
fn the_round_trip_is_what_passed_less_the_peers_delay() {
    let sent = 0x1234_5678_8000_0000u64;
    let now = ntp_add(sent, Duration::from_millis(750));
    let delay = delay_since_last_report(Duration::from_millis(500));
    let rtt = round_trip_time(now, ntp_middle(sent), delay).expect("an answer");
    assert!(rtt.abs_diff(Duration::from_millis(250)) < Duration::from_micros(50), "{rtt:?}");
    assert_eq!(round_trip_time(now, 0, 0), None);
    assert_eq!(round_trip_time(now, ntp_middle(sent), u32::MAX), None);
    assert_eq!(delay_since_last_report(Duration::from_secs(86_400)), u32::MAX);
}
