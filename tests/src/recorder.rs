//! What was sealed on a wire, as its receiver sees it: no key may ever meet the same index twice with different content, because two such
//! packets tell each other's content (RFC 3711 section 9.1), and with GCM the key of the tags too (RFC 7714 section 11.1).

use std::collections::BTreeMap;

use gangway_dataplane::{
    srtp::{MasterKey, Profile, RxStream, SrtpRx},
    wire::{BUFFER_LEN_BYTES, Packet, PacketKind, classify, rtcp, rtp},
};

/// Where a packet lies in the keystream of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Which key, in the order in which they were learnt.
    pub key: usize,
    /// SRTCP has a keystream of its own.
    pub is_rtcp: bool,
    /// SSRC.
    pub ssrc: u32,
    /// 48 bits of SRTP, 31 of SRTCP.
    pub index: u64,
}

/// What a packet is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sealed {
    /// One that did not come before.
    Fresh {
        /// Where it lies.
        place: Place,
        /// In clear.
        clear: Vec<u8>,
    },
    /// The same bytes came before.
    Again,
}

/// What must not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breach {
    /// Another packet was sealed there.
    Twice(Place),
    /// No key opens it at the index that a receiver takes it for.
    Unopened,
}

struct Key {
    master: MasterKey,
    rx: SrtpRx,
    streams: BTreeMap<u32, RxStream>,
}

/// See the module text. It never forgets.
#[derive(Default)]
pub struct Recorder {
    keys: Vec<Key>,
    sealed: BTreeMap<Place, Vec<u8>>,
}

impl Recorder {
    /// Packets may be sealed with this key from now on. One that is known changes nothing.
    ///
    /// # Panics
    /// When it is no key.
    pub fn learn(&mut self, master: &MasterKey) {
        if self.keys.iter().all(|key| key.master != *master) {
            let rx = SrtpRx::new(master).expect("a key");
            self.keys.push(Key { master: *master, rx, streams: BTreeMap::new() });
        }
    }

    /// Records an SRTP or SRTCP packet.
    ///
    /// # Errors
    /// [`Breach`].
    ///
    /// # Panics
    /// When it is neither by its first bytes.
    pub fn record(&mut self, bytes: &[u8]) -> Result<Sealed, Breach> {
        let is_rtcp = match classify(bytes) {
            Ok(PacketKind::Rtp) => false,
            Ok(PacketKind::Rtcp) => true,
            other => panic!("neither SRTP nor SRTCP: {other:?}"),
        };
        let ssrc = if is_rtcp { rtcp::sender_ssrc_of(bytes) } else { rtp::ssrc_of(bytes) };
        let mut there = None;
        // The newest key first, as a receiver does.
        for number in (0..self.keys.len()).rev() {
            let key = &mut self.keys[number];
            let mut stream = key.streams.get(&ssrc).copied().unwrap_or_else(|| RxStream::new(ssrc));
            let index = if is_rtcp {
                rtcp_index(&key.master, bytes)
            } else {
                rtp_index(stream.rtp_index(), rtp::sequence_of(bytes))
            };
            let place = Place { key: number, is_rtcp, ssrc, index };
            let mut buffer = [0; BUFFER_LEN_BYTES];
            buffer[..bytes.len()].copy_from_slice(bytes);
            let mut packet = Packet::new(&mut buffer, 0, bytes.len());
            let opened = if is_rtcp {
                key.rx.unprotect_rtcp(&mut stream, &mut packet)
            } else {
                key.rx.unprotect_rtp(&mut stream, &mut packet)
            };
            if opened.is_ok() {
                key.streams.insert(ssrc, stream);
                let clear = packet.bytes().to_vec();
                return match self.sealed.insert(place, bytes.to_vec()) {
                    None => Ok(Sealed::Fresh { place, clear }),
                    Some(_) => Err(Breach::Twice(place)),
                };
            }
            there = there.or(self.sealed.get(&place).map(|sealed| (place, sealed == bytes)));
        }
        match there {
            Some((_, true)) => Ok(Sealed::Again),
            Some((place, false)) => Err(Breach::Twice(place)),
            None => Err(Breach::Unopened),
        }
    }

    /// The highest SRTP index of an SSRC under the newest key that sealed it.
    #[must_use]
    pub fn top(&self, ssrc: u32) -> Option<u64> {
        self.keys.iter().rev().find_map(|key| key.streams.get(&ssrc)?.rtp_index())
    }

    /// How many SRTP and SRTCP packets were recorded.
    #[must_use]
    pub fn recorded(&self) -> [usize; 2] {
        let rtcp = self.sealed.keys().filter(|place| place.is_rtcp).count();
        [self.sealed.len() - rtcp, rtcp]
    }
}

/// The index that a receiver takes a packet for (RFC 3711 section 3.3.1 and appendix A).
fn rtp_index(top: Option<u64>, sequence: u16) -> u64 {
    let Some(top) = top else { return sequence.into() };
    let (rollover, last, sequence) = (top >> 16, top & 0xffff, u64::from(sequence));
    let rollover = if last < 0x8000 {
        rollover.saturating_sub(u64::from(sequence > last + 0x8000))
    } else {
        rollover + u64::from(last - 0x8000 > sequence)
    };
    rollover << 16 | sequence
}

/// The index that an SRTCP packet says: behind the tag of GCM (RFC 7714 section 9.1), before that of HMAC (RFC 3711 section 3.4).
fn rtcp_index(key: &MasterKey, bytes: &[u8]) -> u64 {
    let behind = match key.profile() {
        Some(Profile::AesCm128HmacSha1_80) => Profile::AesCm128HmacSha1_80.tag_len(),
        _ => 0,
    };
    let word = bytes.len().checked_sub(behind + 4).and_then(|at| bytes[at..].first_chunk::<4>());
    word.map_or(0, |word| u64::from(u32::from_be_bytes(*word) & 0x7fff_ffff))
}

#[cfg(test)]
mod tests {
    use gangway_dataplane::srtp::{SrtpTx, TxStream};

    use super::*;

    const SSRC: u32 = 7;

    fn key(profile: Profile, seed: u8) -> MasterKey {
        MasterKey::new(profile, &vec![seed; profile.key_len()], &vec![seed; profile.salt_len()]).unwrap()
    }

    fn sealed(key: &MasterKey, stream: &mut TxStream, sequence: u16, content: u8) -> Vec<u8> {
        let mut buffer = [0; BUFFER_LEN_BYTES];
        let packet = [&[0x80, 8][..], &sequence.to_be_bytes(), &[0; 4], &SSRC.to_be_bytes(), &[content; 20]].concat();
        buffer[..packet.len()].copy_from_slice(&packet);
        let mut packet = Packet::new(&mut buffer, 0, packet.len());
        SrtpTx::new(key).unwrap().protect_rtp(stream, &mut packet).unwrap();
        packet.bytes().to_vec()
    }

    fn sealed_rtcp(key: &MasterKey, stream: &mut TxStream, content: u8) -> Vec<u8> {
        let mut buffer = [0; BUFFER_LEN_BYTES];
        let packet = [&[0x80, 201, 0, 2][..], &SSRC.to_be_bytes(), &[content; 4]].concat();
        buffer[..packet.len()].copy_from_slice(&packet);
        let mut packet = Packet::new(&mut buffer, 0, packet.len());
        SrtpTx::new(key).unwrap().protect_rtcp(stream, &mut packet).unwrap();
        packet.bytes().to_vec()
    }

    fn index(sealed: Result<Sealed, Breach>) -> u64 {
        match sealed {
            Ok(Sealed::Fresh { place, .. }) => place.index,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_index_that_a_key_meets_twice_is_found_and_a_packet_that_comes_twice_is_not() {
        for profile in Profile::ALL {
            let key = key(profile, 1);
            let (mut recorder, mut first) = (Recorder::default(), TxStream::new(SSRC));
            recorder.learn(&key);
            // Across a rollover, and back to before it.
            for sequence in [65_500, 65_535, 0, 65_534, 40] {
                let packet = sealed(&key, &mut first, sequence, 1);
                let expected = if sequence < 100 { 0x1_0000 } else { 0 } + u64::from(sequence);
                assert_eq!(index(recorder.record(&packet)), expected);
                assert_eq!(recorder.record(&packet), Ok(Sealed::Again));
            }
            // Who begins anew and says something else.
            let again = sealed(&key, &mut TxStream::new(SSRC), 65_534, 2);
            let place = Place { key: 0, is_rtcp: false, ssrc: SSRC, index: 65_534 };
            assert_eq!(recorder.record(&again), Err(Breach::Twice(place)));
            let mut first = TxStream::new(SSRC);
            assert_eq!(index(recorder.record(&sealed_rtcp(&key, &mut first, 1))), 0);
            assert_eq!(index(recorder.record(&sealed_rtcp(&key, &mut first, 1))), 1);
            let again = sealed_rtcp(&key, &mut TxStream::new(SSRC), 2);
            assert_eq!(recorder.record(&again), Err(Breach::Twice(Place { is_rtcp: true, index: 0, ..place })));
            assert_eq!((recorder.recorded(), recorder.top(SSRC)), ([5, 2], Some(0x1_0000 + 40)));
        }
    }

    #[test]
    fn each_key_has_its_own_indexes_and_what_none_opens_is_told() {
        let (old, new) = (key(Profile::AeadAes128Gcm, 1), key(Profile::AeadAes128Gcm, 2));
        let mut recorder = Recorder::default();
        recorder.learn(&old);
        let (mut old_stream, mut new_stream) = (TxStream::new(SSRC), TxStream::new(SSRC));
        for sequence in 1..=3 {
            index(recorder.record(&sealed(&old, &mut old_stream, sequence, 1)));
        }
        let by_new = sealed(&new, &mut new_stream, 3, 2);
        assert_eq!(
            recorder.record(&by_new),
            Err(Breach::Twice(Place { key: 0, is_rtcp: false, ssrc: SSRC, index: 3 }))
        );
        recorder.learn(&new);
        recorder.learn(&old);
        assert_eq!(index(recorder.record(&by_new)), 3);
        assert_eq!(index(recorder.record(&sealed(&old, &mut old_stream, 4, 1))), 4);
        let strange = sealed(&key(Profile::AeadAes128Gcm, 3), &mut TxStream::new(SSRC), 9, 1);
        assert_eq!(recorder.record(&strange), Err(Breach::Unopened));
    }
}
