//! What each stage of the packet walk takes, without a kernel: `cargo bench --workspace --bench stages`.

#![allow(missing_docs, reason = "criterion's macros make functions without")]
#![allow(clippy::disallowed_methods, reason = "a bench reads a clock")]

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use criterion::{Criterion, criterion_group, criterion_main};
use gangway_bench::pipeline::{Arrival, Pipeline, Protection};
use gangway_dataplane::{
    ice_lite::{LocalCredentials, respond},
    srtp::{MasterKey, Profile, RxStream, SrtpRx, SrtpTx, TxStream},
    wire::{
        BUFFER_LEN_BYTES, Packet, classify, rtp,
        stun::{BindingRequest, IceRole},
    },
};
use gangway_shared::rcp::SrtpSuite;

/// Calls whose packets take turns: their state does not fit the first cache, as in a relay at work.
const CALLS: u32 = 1000;

fn stages(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("stage");
    let packet = sound(1);
    group.bench_function("classify", |bencher| bencher.iter(|| classify(black_box(&packet[..172]))));
    group.bench_function("parse", |bencher| {
        bencher.iter(|| rtp::Rtp::parse(black_box(&packet[..172])).map(|rtp| rtp.ssrc()));
    });
    // The fields that a route writes, at the places where it writes them.
    group.bench_function("rewrite of a header", |bencher| {
        let mut buffer = packet;
        bencher.iter(|| {
            let mut packet = Packet::new(&mut buffer, 0, 172);
            rtp::strip_extensions(&mut packet).expect("RTP");
            let bytes = packet.bytes_mut();
            rtp::set_payload_type(bytes, 8);
            rtp::set_sequence(bytes, black_box(7));
            rtp::set_timestamp(bytes, black_box(160));
            rtp::set_ssrc(bytes, black_box(9));
            black_box(bytes)[0]
        });
    });

    let credentials = LocalCredentials::new(b"ufrag", b"passwordpasswordpassword").expect("credentials");
    let request = BindingRequest {
        transaction: [1; 12],
        username: b"ufrag:load",
        password: b"passwordpasswordpassword",
        priority: 1,
        role: IceRole::Controlling(1),
        use_candidate: false,
    };
    let mut check = [0; BUFFER_LEN_BYTES];
    let len = request.encode(&mut check).expect("a check fits");
    let from = "10.0.0.1:4000".parse().expect("an address");
    group.bench_function("stun respond", |bencher| {
        bencher.iter(|| {
            let mut buffer = check;
            let mut packet = Packet::new(&mut buffer, 0, len);
            black_box(respond(&mut packet, from, &credentials, Some(b"load"))).is_ok()
        });
    });
    for profile in Profile::ALL {
        let (key, salt) = (vec![1; profile.key_len()], vec![2; profile.salt_len()]);
        let master = MasterKey::new(profile, &key, &salt).expect("a key");
        let (tx, rx) = (SrtpTx::new(&master).expect("a key"), SrtpRx::new(&master).expect("a key"));
        let mut sending = TxStream::new(7);
        let mut sequence = 0;
        group.bench_function(format!("protect {}", profile.sdes_name()), |bencher| {
            bencher.iter(|| {
                sequence += 1;
                let mut buffer = sound(sequence as u16);
                tx.protect_rtp(&mut sending, &mut Packet::new(&mut buffer, 0, 172)).expect("a fresh index");
                buffer[180]
            });
        });
        group.bench_function(format!("unprotect {}", profile.sdes_name()), |bencher| {
            let (mut sending, mut receiving, mut sequence) = (TxStream::new(7), RxStream::new(7), 0u64);
            bencher.iter_custom(|rounds| {
                let mut sealed: Vec<[u8; BUFFER_LEN_BYTES]> = Vec::new();
                let mut took = Duration::ZERO;
                let mut left = rounds;
                while left > 0 {
                    let now = left.min(1000);
                    sealed.clear();
                    for _ in 0..now {
                        sequence += 1;
                        let mut buffer = sound(sequence as u16);
                        tx.protect_rtp(&mut sending, &mut Packet::new(&mut buffer, 0, 172)).expect("a fresh index");
                        sealed.push(buffer);
                    }
                    let start = Instant::now();
                    for buffer in &mut sealed {
                        let mut packet = Packet::new(buffer, 0, 172 + profile.tag_len());
                        rx.unprotect_rtp(&mut receiving, &mut packet).expect("genuine");
                    }
                    took += start.elapsed();
                    left -= now;
                }
                took
            });
        });
    }
    group.finish();
}

fn walks(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("walk");
    let suites = [
        ("plain", Protection::Plain),
        ("gcm", Protection::Srtp(SrtpSuite::AeadAes128Gcm)),
        ("cm", Protection::Srtp(SrtpSuite::AesCm128HmacSha1_80)),
    ];
    for (name, protection) in suites {
        let mut pipeline = Pipeline::new(CALLS, protection);
        // Lookup and rewrite are in both; the second adds opening, the third sealing.
        for (way, from_first) in [("open", true), ("seal", false)] {
            group.bench_function(format!("{name} {way}"), |bencher| {
                bencher.iter_custom(|rounds| timed(&mut pipeline, rounds, |pipeline| pipeline.round(from_first)));
            });
        }
    }
    // The first packet of each call finds a leg that knows nobody yet; relays are made anew for each thousand of them.
    group.bench_function("plain latch", |bencher| {
        bencher.iter_custom(|rounds| {
            let (mut took, mut left) = (Duration::ZERO, rounds);
            while left > 0 {
                let mut pipeline = Pipeline::new(CALLS, Protection::Plain);
                let mut packets = pipeline.round(true);
                let count = left.min(packets.len() as u64);
                let start = Instant::now();
                black_box(pipeline.walk(&mut packets[..count as usize]));
                took += start.elapsed();
                left -= count;
            }
            took
        });
    });
    let mut browsers = Pipeline::new(CALLS, Protection::Browser);
    let checks = browsers.checks();
    group.bench_function("check", |bencher| {
        bencher.iter_custom(|rounds| timed(&mut browsers, rounds, |_| checks.clone()));
    });
    group.bench_function("lookup of a stranger", |bencher| {
        bencher.iter_custom(|rounds| timed(&mut browsers, rounds, Pipeline::strangers));
    });
    group.finish();
}

/// Time of walking `rounds` packets; making them does not count.
fn timed(pipeline: &mut Pipeline, rounds: u64, mut make: impl FnMut(&mut Pipeline) -> Vec<Arrival>) -> Duration {
    let (mut took, mut left) = (Duration::ZERO, rounds);
    while left > 0 {
        let mut packets = make(pipeline);
        let count = left.min(packets.len() as u64);
        let start = Instant::now();
        black_box(pipeline.walk(&mut packets[..count as usize]));
        took += start.elapsed();
        pipeline.tick();
        left -= count;
    }
    took
}

fn sound(sequence: u16) -> [u8; BUFFER_LEN_BYTES] {
    let mut buffer = [0x55; BUFFER_LEN_BYTES];
    rtp::begin_header(&mut buffer);
    rtp::set_payload_type(&mut buffer, 0);
    rtp::set_sequence(&mut buffer, sequence);
    rtp::set_ssrc(&mut buffer, 7);
    buffer
}

criterion_group!(benches, stages, walks);
criterion_main!(benches);
