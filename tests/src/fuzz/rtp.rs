//! RTP and RTCP: what parses lies inside the packet; stripping keeps the payload; setters change one field; reports that were
//! read and written again are read the same.

use gangway_dataplane::wire::{
    Packet, PacketKind, classify,
    rtcp::{Compound, RtcpPacket, write_fir, write_pli, write_receiver_report, write_sender_report},
    rtp::{self, Rtp},
};

use super::Target;

/// See the module.
pub const TARGET: Target = Target {
    name: "rtp",
    seeds,
    words: &[
        b"\xbe\xde\x00\x01",
        b"\x80\xc8",
        b"\x81\xc9",
        b"\x81\xca",
        b"\x81\xcb",
        b"\x81\xcd",
        b"\x8f\xce",
        b"REMB",
    ],
    law,
};

fn seeds() -> Vec<Vec<u8>> {
    let seeds: [&[u8]; 4] = [
        b"\x80\x6f\x00\x01\x00\x00\x03\xc0\x11\x22\x33\x44opus",
        b"\xb2\xef\xff\xff\x00\x00\x03\xc0\x11\x22\x33\x44\0\0\0\x01\0\0\0\x02\xbe\xde\x00\x02\x10\xff\x22\x01\x02\x03\x00\x00frame\0\0\x03",
        // A sender report with one block and its CNAME, then a BYE.
        b"\x81\xc8\x00\x0c\x11\x22\x33\x44\xe0\0\0\0\x80\0\0\0\0\0\x03\xc0\0\0\0\x05\0\0\0\x64\x55\x66\x77\x88\x10\xff\xff\xff\
          \0\x01\x00\x09\0\0\0\x07\0\0\0\x01\0\0\0\x02\x81\xca\x00\x03\x11\x22\x33\x44\x01\x04name\0\0\x81\xcb\x00\x01\x11\x22\x33\x44",
        // PLI, FIR, NACK and REMB in one compound.
        b"\x81\xce\x00\x02\0\0\0\x01\0\0\0\x02\x84\xce\x00\x04\0\0\0\x01\0\0\0\0\0\0\0\x02\x07\0\0\0\
          \x81\xcd\x00\x03\0\0\0\x01\0\0\0\x02\xff\xf0\x80\x01\x8f\xce\x00\x05\0\0\0\x01\0\0\0\0REMB\x01\x0a\x00\x01\0\0\0\x02",
    ];
    seeds.iter().map(|seed| seed.to_vec()).collect()
}

fn law(input: &[u8]) {
    let input = &input[..input.len().min(2048)];
    match classify(input) {
        Ok(PacketKind::Rtp) => rtp_law(input),
        Ok(PacketKind::Rtcp) => rtcp_law(input),
        _ => {}
    }
}

fn rtp_law(input: &[u8]) {
    let mut buf = [0xee; 2048];
    buf[..input.len()].copy_from_slice(input);
    let mut packet = Packet::new(&mut buf, 0, input.len());
    let stripped = rtp::strip_extensions(&mut packet);
    let Ok(before) = Rtp::parse(input) else {
        if let Ok(removed) = stripped {
            assert_eq!(packet.bytes()[rtp::FIXED_HEADER_LEN..], input[rtp::FIXED_HEADER_LEN + removed..]);
        }
        return;
    };
    assert_eq!(rtp::header_len(input), Ok(before.header_len()));
    assert_eq!(stripped, Ok(before.header_len() - rtp::FIXED_HEADER_LEN));
    rtp::set_sequence(packet.bytes_mut(), !before.sequence());
    rtp::set_payload_type(packet.bytes_mut(), 0xff);
    let after = Rtp::parse(packet.bytes()).expect("stripping keeps a packet well-formed");
    assert_eq!((after.header_len(), after.payload()), (rtp::FIXED_HEADER_LEN, before.payload()));
    assert_eq!((after.sequence(), after.payload_type()), (!before.sequence(), 0x7f));
    assert_eq!((after.marker(), after.timestamp(), after.ssrc()), (before.marker(), before.timestamp(), before.ssrc()));
}

fn rtcp_law(input: &[u8]) {
    let Ok(compound) = Compound::parse(input) else { return };
    let mut count = 0;
    for packet in compound.packets() {
        count += 1;
        again(packet);
    }
    assert!(count > 0 && count <= input.len() / 4, "{count} packets in {} bytes", input.len());
}

/// Writes what the relay can originate and reads it back.
fn again(packet: RtcpPacket<'_>) {
    let mut out = [0xee; 2048];
    let len = match packet {
        RtcpPacket::SenderReport { info, reports } => {
            let blocks: Vec<_> = reports.iter().collect();
            write_sender_report(&mut out, &info, &blocks, b"cname")
        }
        RtcpPacket::ReceiverReport { ssrc, reports } => {
            let blocks: Vec<_> = reports.iter().collect();
            write_receiver_report(&mut out, ssrc, &blocks, b"cname")
        }
        RtcpPacket::PictureLoss { sender, media } => write_pli(&mut out, sender, media),
        RtcpPacket::FullIntra { sender, entries } => {
            let Some((media, command)) = entries.iter().next() else { return };
            let len = write_fir(&mut out, sender, media, command).expect("room");
            let read = Compound::parse(&out[..len]).expect("our own FIR").packets().next();
            let Some(RtcpPacket::FullIntra { sender: read_sender, entries }) = read else { panic!("no FIR: {read:?}") };
            assert_eq!((read_sender, entries.iter().next()), (sender, Some((media, command))));
            return;
        }
        RtcpPacket::SourceDescription(description) => {
            return assert!(description.cnames().all(|(_, cname)| cname.len() <= 255));
        }
        RtcpPacket::Nack { lost, .. } => return assert!(lost.sequences().count() <= 17 * 512),
        RtcpPacket::Bye(_)
        | RtcpPacket::BandwidthEstimate { .. }
        | RtcpPacket::TransportCongestion { .. }
        | RtcpPacket::Other { .. } => return,
    };
    let len = len.expect("room for what fitted a datagram");
    let read = Compound::parse(&out[..len]).expect("our own compound").packets().next();
    assert_eq!(read, Some(packet));
}
