//! SRTP and SRTCP in place: what nobody sealed is refused and changes no state; what was sealed is opened to the same bytes, once;
//! any change to it is refused.

use gangway_dataplane::{
    srtp::{MasterKey, Profile, RxStream, SrtpRx, SrtpTx, TxStream},
    wire::{DropReason, Packet, rtcp, rtp},
};

use super::Target;

/// See the module.
pub const TARGET: Target = Target { name: "srtp", seeds, words: &[b"\xbe\xde\x00\x01", b"\x80\x00\x00\x01"], law };

const SSRC: u32 = 0x1122_3344;

fn seeds() -> Vec<Vec<u8>> {
    // The first byte chooses profile and protocol, the second where a bit is turned; a packet follows.
    let packets: [&[u8]; 3] = [
        b"\x80\x6f\x00\x01\x00\x00\x03\xc0\x11\x22\x33\x44some opus",
        b"\x91\xef\xff\xff\x00\x00\x03\xc0\x11\x22\x33\x44\0\0\0\x01\xbe\xde\x00\x01\x10\xff\0\0video",
        b"\x80\xc9\x00\x03\x11\x22\x33\x44\0\0\0\0\0\0\0\0",
    ];
    (0..6).flat_map(|choice| packets.map(|packet| [&[choice, 30], packet].concat())).collect()
}

fn law(input: &[u8]) {
    let Some((&[choice, at], packet)) = input.split_first_chunk() else { return };
    let is_rtcp = choice / 3 % 2 == 1;
    let mut packet = packet[..packet.len().min(1500)].to_vec();
    if packet.len() < if is_rtcp { rtcp::HEADER_LEN } else { rtp::FIXED_HEADER_LEN } {
        return;
    }
    let ssrc_at = if is_rtcp { 4 } else { 8 };
    packet[ssrc_at..ssrc_at + 4].copy_from_slice(&SSRC.to_be_bytes());
    let profile = Profile::ALL[usize::from(choice % 3)];
    let key = MasterKey::new(profile, &[5; 32][..profile.key_len()], &[6; 14][..profile.salt_len()]);
    let key = key.expect("a key of the right length");
    let (tx, rx) = (SrtpTx::new(&key).expect("a key"), SrtpRx::new(&key).expect("a key"));
    let (mut sent, mut received) = (TxStream::new(SSRC), RxStream::new(SSRC));
    let open =
        |received: &mut RxStream, bytes: &[u8]| {
            in_place(bytes, |packet| {
                if is_rtcp { rx.unprotect_rtcp(received, packet) } else { rx.unprotect_rtp(received, packet) }
            })
        };

    assert!(open(&mut received, &packet).is_err(), "what nobody sealed was opened");
    assert_eq!(received, RxStream::new(SSRC), "a refused packet changed the stream");

    let sealed =
        in_place(
            &packet,
            |packet| {
                if is_rtcp { tx.protect_rtcp(&mut sent, packet) } else { tx.protect_rtp(&mut sent, packet) }
            },
        );
    let Ok(sealed) = sealed else {
        return assert_eq!(sent, TxStream::new(SSRC), "a packet that was not sealed used an index");
    };
    assert_eq!(sealed.len(), packet.len() + profile.tag_len() + if is_rtcp { 4 } else { 0 });

    let mut changed = sealed.clone();
    let turned = usize::from(at) % sealed.len();
    changed[turned] ^= 1 << (at & 7);
    // A changed SSRC is another stream's packet: the leg looks the state up by it.
    if !(ssrc_at..ssrc_at + 4).contains(&turned) {
        assert!(open(&mut received, &changed).is_err(), "byte {turned} was changed unnoticed");
        assert_eq!(received, RxStream::new(SSRC), "a refused packet changed the stream");
    }

    assert_eq!(open(&mut received, &sealed), Ok(packet));
    let replayed = if is_rtcp { DropReason::SrtcpReplayed } else { DropReason::SrtpReplayed };
    assert_eq!(open(&mut received, &sealed), Err(replayed));
}

fn in_place(
    bytes: &[u8],
    change: impl FnOnce(&mut Packet<'_>) -> Result<(), DropReason>,
) -> Result<Vec<u8>, DropReason> {
    let mut buf = [0xee; 2048];
    buf[..bytes.len()].copy_from_slice(bytes);
    let mut packet = Packet::new(&mut buf, 0, bytes.len());
    change(&mut packet)?;
    Ok(packet.bytes().to_vec())
}
