//! CPU per SRTP packet, ours against `webrtc-srtp` in the same run: each profile, both directions, three sizes.
//!
//! The two take turns in short rounds, so that a noisy neighbour meets both; the cheapest round of each counts.

use bytes::Bytes;
use gangway_bench::sys::thread_cpu_ns;
use gangway_dataplane::{
    srtp::{MAX_OVERHEAD_LEN, MasterKey, Profile, RxStream, SrtpRx, SrtpTx, TxStream},
    wire::{Packet, rtp},
};
use webrtc_srtp::{context::Context, option::srtp_replay_protection, protection_profile::ProtectionProfile};

/// Packets timed at once: some hundred microseconds, above the clock's resolution and below a time slice.
const PACKETS_PER_ROUND: u16 = 1000;

/// Rounds of each; the cheapest counts.
const ROUNDS: u16 = 60;

/// Whole packets in bytes: a silent Opus frame, 20 ms of G.711, video.
const SIZES: [usize; 3] = [100, 172, 1200];

const SSRC: u32 = 0x1122_3344;

/// CPU nanoseconds per packet.
#[derive(Clone, Copy)]
struct Cost {
    ours: u64,
    theirs: u64,
}

fn main() {
    println!("{:<26}{:>6}  {:<10}{:>9}{:>14}{:>8}", "profile", "bytes", "", "ours ns", "webrtc-srtp", "ratio");
    for profile in Profile::ALL {
        for size in SIZES {
            let (protect, unprotect) = measure(profile, size);
            for (name, cost) in [("protect", protect), ("unprotect", unprotect)] {
                let ratio = cost.theirs as f64 / cost.ours as f64;
                let suite = profile.sdes_name();
                println!("{suite:<26}{size:>6}  {name:<10}{:>9}{:>14}{ratio:>7.1}x", cost.ours, cost.theirs);
            }
        }
    }
}

fn measure(profile: Profile, size: usize) -> (Cost, Cost) {
    let key: [u8; 46] = std::array::from_fn(|index| index as u8);
    let (key, salt) = (&key[..profile.key_len()], &key[32..32 + profile.salt_len()]);
    let master = MasterKey::new(profile, key, salt).expect("a key of the right length");
    let (tx, rx) = (SrtpTx::new(&master).expect("a key"), SrtpRx::new(&master).expect("a key"));
    let (mut sent, mut received) = (TxStream::new(SSRC), RxStream::new(SSRC));
    let (mut their_tx, mut their_rx) = (peer(profile, key, salt), peer(profile, key, salt));

    let none = Cost { ours: u64::MAX, theirs: u64::MAX };
    let (mut protect, mut unprotect) = (none, none);
    for round in 0..ROUNDS {
        let clear: Vec<Vec<u8>> = (0..PACKETS_PER_ROUND).map(|n| packet(round * PACKETS_PER_ROUND + n, size)).collect();
        let mut buffers: Vec<[u8; 2048]> = clear.iter().map(|bytes| buffer(bytes)).collect();
        let sealed_len = size + profile.tag_len();

        let our_time = cost(|| {
            for buf in &mut buffers {
                tx.protect_rtp(&mut sent, &mut Packet::new(buf, 0, size)).expect("a fresh index");
            }
        });
        let mut sealed: Vec<Bytes> = Vec::with_capacity(clear.len());
        let their_time = cost(|| {
            for bytes in &clear {
                sealed.push(their_tx.encrypt_rtp(bytes).expect("the peer seals"));
            }
        });
        for (buf, bytes) in buffers.iter().zip(&sealed) {
            assert_eq!(buf[..sealed_len], bytes[..], "both must seal alike, or the comparison is worth nothing");
        }
        protect.take(our_time, their_time);

        let our_time = cost(|| {
            for buf in &mut buffers {
                rx.unprotect_rtp(&mut received, &mut Packet::new(buf, 0, sealed_len)).expect("genuine");
            }
        });
        let their_time = cost(|| {
            for bytes in &sealed {
                std::hint::black_box(their_rx.decrypt_rtp(bytes).expect("genuine"));
            }
        });
        for (buf, bytes) in buffers.iter().zip(&clear) {
            assert_eq!(buf[..size], bytes[..], "what was opened is what was sealed");
        }
        unprotect.take(our_time, their_time);
    }
    (protect, unprotect)
}

impl Cost {
    fn take(&mut self, ours: u64, theirs: u64) {
        self.ours = self.ours.min(ours);
        self.theirs = self.theirs.min(theirs);
    }
}

/// CPU nanoseconds per packet of one round.
fn cost(round: impl FnOnce()) -> u64 {
    let before = thread_cpu_ns();
    round();
    (thread_cpu_ns() - before) / u64::from(PACKETS_PER_ROUND)
}

fn packet(sequence: u16, size: usize) -> Vec<u8> {
    let mut bytes = vec![0x5a; size];
    bytes[..2].copy_from_slice(&[0x80, 111]);
    rtp::set_sequence(&mut bytes, sequence);
    rtp::set_timestamp(&mut bytes, u32::from(sequence) * 160);
    rtp::set_ssrc(&mut bytes, SSRC);
    bytes
}

fn buffer(bytes: &[u8]) -> [u8; 2048] {
    let mut buf = [0; 2048];
    assert!(bytes.len() + MAX_OVERHEAD_LEN <= buf.len(), "a packet and its tag fit a buffer");
    buf[..bytes.len()].copy_from_slice(bytes);
    buf
}

fn peer(profile: Profile, key: &[u8], salt: &[u8]) -> Context {
    let theirs = match profile {
        Profile::AeadAes256Gcm => ProtectionProfile::AeadAes256Gcm,
        Profile::AeadAes128Gcm => ProtectionProfile::AeadAes128Gcm,
        Profile::AesCm128HmacSha1_80 => ProtectionProfile::Aes128CmHmacSha1_80,
    };
    Context::new(key, salt, theirs, Some(srtp_replay_protection(128)), None).expect("a key of the right length")
}
