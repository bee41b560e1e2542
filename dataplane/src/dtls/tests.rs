#![allow(
    clippy::disallowed_methods,
    reason = "the crate under test takes Instant; one is read as the base of virtual time"
)]

use std::collections::BTreeMap;

use gangway_shared::entropy::{Entropy, SeededEntropy};

use super::*;

const LEG: LegKey = LegKey { worker: 0, leg: LegHandle { slot: 3, generation: 1 } };

fn path() -> Path {
    Path { port: PortId(0), remote: "192.0.2.1:4000".parse().unwrap() }
}

/// A browser and our table in virtual time.
struct Pair {
    client: Dtls,
    client_fingerprint: Fingerprint,
    table: Handshakes,
    base: (Time, Instant),
    now: Time,
    connected: bool,
    client_keys: Option<(Vec<u8>, SrtpProfile)>,
    keys: Option<DtlsKeys>,
    failed: Option<DtlsFailure>,
    closed: bool,
    doubted: bool,
    client_closed: bool,
}

impl Pair {
    fn new() -> Self {
        let base = (Time::from_millis(5000), Instant::now());
        let certificate = Certificate::generate().unwrap();
        let (client, client_fingerprint) = client(base.1);
        let mut table = Handshakes::new(certificate, Duration::from_secs(30), base);
        table.handle_path(base.0, LEG, path(), &[]);
        Pair {
            client,
            client_fingerprint,
            table,
            base,
            now: base.0,
            connected: false,
            client_keys: None,
            keys: None,
            failed: None,
            closed: false,
            doubted: false,
            client_closed: false,
        }
    }

    fn instant(&self) -> Instant {
        instant(self.base, self.now)
    }

    /// What the browser sends now, and its next timer.
    fn client_output(&mut self) -> (Vec<Vec<u8>>, Time) {
        let mut sent = Vec::new();
        let mut buffer = [0; 2048];
        loop {
            match self.client.poll_output(&mut buffer) {
                Output::Packet(datagram) => sent.push(datagram.to_vec()),
                Output::Timeout(at) => return (sent, time_of(self.base, at)),
                Output::Connected => self.connected = true,
                Output::KeyingMaterial(block, profile) => self.client_keys = Some((block.to_vec(), profile)),
                Output::CloseNotify => self.client_closed = true,
                _ => {}
            }
        }
    }

    fn client_hello(&mut self) -> Vec<u8> {
        let at = self.instant();
        self.client.handle_timeout(at).unwrap();
        let (mut sent, _) = self.client_output();
        assert_eq!(sent.len(), 1);
        sent.remove(0)
    }

    /// What we send now; other actions are noted.
    fn our_output(&mut self) -> Vec<Vec<u8>> {
        let mut sent = Vec::new();
        while let Some(action) = self.table.poll_action() {
            match action {
                Action::Send { datagram, path: to, .. } => {
                    assert_eq!(to, path());
                    sent.push(datagram);
                }
                Action::Keys { keys, .. } => self.keys = Some(keys),
                Action::Failed { cause, .. } => self.failed = Some(cause),
                Action::Closed { .. } => self.closed = true,
                Action::Doubted { .. } => self.doubted = true,
            }
        }
        sent
    }

    fn give(&mut self, datagram: &[u8]) {
        self.table.handle_datagram(self.now, LEG, path(), datagram);
    }

    fn give_client(&mut self, datagram: &[u8]) {
        let at = self.instant();
        self.client.handle_timeout(at).unwrap();
        self.client.handle_packet(datagram).unwrap();
    }

    /// Both sides go on, through a network that loses so many datagrams in thousand, until both are done or `limit` has passed.
    fn run(&mut self, limit: Duration, loss_permille: u32, entropy: &mut SeededEntropy) {
        let end = self.now + limit;
        let mut on_the_way: BTreeMap<(Time, u64), (bool, Vec<u8>)> = BTreeMap::new();
        let mut number = 0;
        while self.now < end {
            let (to_us, client_timer) = self.client_output();
            let to_client = self.our_output();
            let both =
                to_us.into_iter().map(|sent| (true, sent)).chain(to_client.into_iter().map(|sent| (false, sent)));
            for (to_us, sent) in both {
                number += 1;
                if entropy.below(1000) >= loss_permille {
                    on_the_way.insert((self.now + Duration::from_millis(1), number), (to_us, sent));
                }
            }
            if self.connected && self.keys.is_some() {
                return;
            }
            let arrival = on_the_way.first_key_value().map(|(&(at, _), _)| at);
            let next = [arrival, Some(client_timer), self.table.next_deadline()].into_iter().flatten().min().unwrap();
            self.now = self.now.max(next);
            self.table.handle_timeout(self.now);
            let at = self.instant();
            self.client.handle_timeout(at).unwrap();
            while let Some(entry) = on_the_way.first_entry()
                && entry.key().0 <= self.now
            {
                let (to_us, datagram) = entry.remove();
                if to_us { self.give(&datagram) } else { self.give_client(&datagram) }
            }
        }
    }

    fn assert_agreed(&self) {
        assert!(self.connected, "the browser is not connected");
        let keys = self.keys.expect("no keys came out");
        assert_eq!(keys.peer_fingerprint, self.client_fingerprint);
        let (block, profile) = self.client_keys.as_ref().unwrap();
        assert_eq!(*profile, SrtpProfile::AEAD_AES_256_GCM);
        let expected = Exported::as_server(block, *profile).unwrap();
        assert!(keys.ours == expected.ours && keys.theirs == expected.theirs, "both sides cut the same keys");
    }

    fn complete(&mut self) {
        self.run(Duration::from_secs(20), 0, &mut SeededEntropy::new(0));
        self.assert_agreed();
    }

    /// Completes it step by step: the last flight of each side.
    fn complete_and_note(&mut self) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
        let hello = self.client_hello();
        self.give(&hello);
        self.our_output().iter().for_each(|datagram| self.give_client(datagram));
        let (theirs, _) = self.client_output();
        theirs.iter().for_each(|datagram| self.give(datagram));
        let ours = self.our_output();
        ours.iter().for_each(|datagram| self.give_client(datagram));
        self.client_output();
        self.assert_agreed();
        (theirs, ours)
    }
}

fn client(at: Instant) -> (Dtls, Fingerprint) {
    let certificate = dimpl::certificate::generate_self_signed_certificate().unwrap();
    let fingerprint = fingerprint_of(&certificate.certificate);
    let config = Config::builder().flight_start_rto(Duration::from_millis(50)).flight_retries(8).build().unwrap();
    let mut client = Dtls::new_12(Arc::new(config), certificate, at);
    client.set_active(true);
    (client, fingerprint)
}

/// A record with the piece `from..to` of the one message in `record`.
fn cut(record: &[u8], from: usize, to: usize) -> Vec<u8> {
    let (header, message) = record.split_at(13);
    let (head, body) = message.split_at(12);
    let number = |value: usize| [(value >> 16) as u8, (value >> 8) as u8, value as u8];
    let len = ((12 + to - from) as u16).to_be_bytes();
    [&header[..11], &len, &head[..6], &number(from), &number(to - from), &body[from..to]].concat()
}

fn body_len(record: &[u8]) -> usize {
    record.len() - 25
}

fn record(kind: u8, epoch: u8, body: &[u8]) -> Vec<u8> {
    [&[kind, 254, 253, 0, epoch, 0, 0, 0, 0, 1, 0][..], &(body.len() as u16).to_be_bytes(), body].concat()
}

#[test]
fn a_clean_handshake_agrees_on_gcm_keys_and_the_certificate() {
    Pair::new().complete();
}

#[test]
fn case_a_first_part_then_all_again_cut_elsewhere() {
    for first in [1, 40, 80] {
        let mut pair = Pair::new();
        let hello = pair.client_hello();
        let end = body_len(&hello);
        for (from, to) in [(0, first), (0, first + 7), (first + 7, end)] {
            pair.give(&cut(&hello, from, to));
        }
        pair.complete();
    }
}

#[test]
fn case_b_last_part_then_all_again_cut_elsewhere() {
    let mut pair = Pair::new();
    let hello = pair.client_hello();
    let end = body_len(&hello);
    for (from, to) in [(60, end), (0, 31), (31, 70), (70, end)] {
        pair.give(&cut(&hello, from, to));
    }
    pair.complete();
}

#[test]
fn case_c_last_part_then_the_whole_message() {
    let mut pair = Pair::new();
    let hello = pair.client_hello();
    pair.give(&cut(&hello, 60, body_len(&hello)));
    pair.give(&hello);
    pair.complete();
}

#[test]
fn fragments_swapped_and_doubled_are_answered() {
    let mut pair = Pair::new();
    let hello = pair.client_hello();
    let (first, last) = (cut(&hello, 0, 80), cut(&hello, 80, body_len(&hello)));
    for datagram in [&last, &last, &first, &first] {
        pair.give(datagram);
    }
    pair.complete();
}

#[test]
fn a_fifth_of_all_datagrams_lost_both_ways_still_completes() {
    for seed in 0..40 {
        let mut pair = Pair::new();
        pair.run(Duration::from_secs(25), 200, &mut SeededEntropy::new(seed));
        assert!(pair.connected && pair.keys.is_some(), "seed {seed}");
        pair.assert_agreed();
    }
}

/// Junk that anybody can send from the browser's address.
fn junk(entropy: &mut SeededEntropy) -> Vec<Vec<u8>> {
    let mut random = vec![0; 200];
    entropy.fill(&mut random);
    let handshake = |kind: u8, sequence: u8, body: &[u8]| {
        let len = body.len() as u8;
        record(22, 0, &[&[kind, 0, 0, len, 0, sequence, 0, 0, 0, 0, 0, len][..], body].concat())
    };
    vec![
        record(21, 0, &[2, 40]),
        record(21, 0, &[1, 0]),
        record(23, 0, b"application data"),
        record(22, 0, &random),
        record(22, 1, &random),
        record(21, 1, &random),
        record(26, 0, &[0, 0]),
        handshake(2, 0, &random[..100]),
        handshake(20, 3, &random[..12]),
        handshake(99, 1, &random[..12]),
        [&[0x2e][..], &random].concat(),
        random[..1].to_vec(),
        vec![22],
        vec![22; 13],
        Vec::new(),
        random,
    ]
}

#[test]
fn junk_before_the_client_hello_does_no_harm() {
    let mut pair = Pair::new();
    let mut entropy = SeededEntropy::new(1);
    for _ in 0..100 {
        junk(&mut entropy).iter().for_each(|datagram| pair.give(datagram));
    }
    assert!(pair.our_output().is_empty(), "junk is not answered");
    assert!(pair.table.filtered() > 100);
    pair.complete();
}

#[test]
fn junk_in_mid_handshake_does_no_harm() {
    let mut pair = Pair::new();
    let mut entropy = SeededEntropy::new(2);
    let hello = pair.client_hello();
    pair.give(&hello);
    let flight = pair.our_output();
    assert!(!flight.is_empty());
    for _ in 0..40 {
        // Without what the crate must judge itself: records that claim to be encrypted.
        junk(&mut entropy).iter().filter(|sent| sent.get(4) != Some(&1)).for_each(|datagram| pair.give(datagram));
    }
    flight.iter().for_each(|datagram| pair.give_client(datagram));
    pair.complete();
}

#[test]
fn a_false_client_hello_fragment_costs_a_retransmission_at_most() {
    let mut pair = Pair::new();
    let hello = pair.client_hello();
    let mut forged = cut(&hello, 0, 50);
    forged[30..].fill(0xee);
    pair.give(&forged);
    pair.give(&hello);
    pair.complete();
}

#[test]
fn a_handshake_that_met_an_error_begins_anew_with_the_next_client_hello() {
    let mut pair = Pair::new();
    let hello = pair.client_hello();
    // A complete ClientHello that offers nothing we can do.
    let mut hopeless = hello.clone();
    hopeless[13 + 12 + 2 + 32..].fill(0);
    pair.give(&hopeless);
    pair.now = pair.now + Duration::from_millis(50);
    pair.complete();
}

#[test]
fn an_established_session_survives_everything_and_answers_little() {
    let mut pair = Pair::new();
    pair.complete();
    pair.our_output();
    let mut entropy = SeededEntropy::new(3);
    let (mut other, _) = client(pair.instant());
    other.handle_timeout(pair.instant()).unwrap();
    let mut buffer = [0; 2048];
    let Output::Packet(foreign_hello) = other.poll_output(&mut buffer) else { panic!("no ClientHello") };
    let foreign_hello = foreign_hello.to_vec();
    for _ in 0..300 {
        junk(&mut entropy).iter().for_each(|datagram| pair.give(datagram));
        pair.give(&foreign_hello);
    }
    let answers: usize = pair.our_output().iter().map(Vec::len).sum();
    assert!(answers < 2000, "{answers} bytes of answers to junk");
    assert!(!pair.closed && pair.failed.is_none());
    pair.client.close().unwrap();
    let (sent, _) = pair.client_output();
    sent.iter().for_each(|datagram| pair.give(datagram));
    pair.our_output();
    assert!(pair.closed, "the session still understands its peer");
}

#[test]
fn no_handshake_in_time_is_reported_once_and_a_late_client_hello_is_still_answered() {
    let mut pair = Pair::new();
    assert_eq!(pair.table.in_progress(), 1);
    pair.now = pair.table.next_deadline().unwrap();
    assert_eq!(pair.now, pair.base.0 + Duration::from_secs(30));
    pair.table.handle_timeout(pair.now);
    pair.our_output();
    assert_eq!((pair.failed.take(), pair.table.in_progress()), (Some(DtlsFailure::Timeout), 0));
    assert_eq!(pair.table.next_deadline(), None);
    pair.complete();
    assert_eq!(pair.failed, None);
}

#[test]
fn an_alert_in_clear_names_the_cause_when_time_is_up() {
    let mut pair = Pair::new();
    let hello = pair.client_hello();
    pair.give(&hello);
    pair.give(&record(21, 0, &[2, 42]));
    assert!(pair.our_output().len() == 1 && pair.failed.is_none());
    for _ in 0..100 {
        let Some(next) = pair.table.next_deadline() else { break };
        pair.now = next;
        pair.table.handle_timeout(next);
        pair.our_output();
    }
    assert_eq!(pair.failed, Some(DtlsFailure::Alert));
}

#[test]
fn close_notify_is_reported_and_answered() {
    let mut pair = Pair::new();
    pair.complete();
    pair.our_output();
    pair.client.close().unwrap();
    let (sent, _) = pair.client_output();
    sent.iter().for_each(|datagram| pair.give(datagram));
    let answer = pair.our_output();
    assert!(pair.closed && !answer.is_empty());
    pair.give(&sent[0]);
    assert!(pair.our_output().is_empty(), "a closed session is silent");
}

#[test]
fn a_handshake_that_is_long_over_leaves_its_last_flight_and_doubt() {
    let mut pair = Pair::new();
    let (finished, ours) = pair.complete_and_note();
    let settled = pair.table.next_deadline().expect("its object goes");
    assert_eq!(settled, pair.now + SETTLED_AFTER);
    pair.now = settled;
    pair.table.handle_timeout(settled);
    assert!(pair.table.sessions[&LEG].dtls.is_none() && pair.table.next_deadline().is_none());
    for _ in 0..3 {
        finished.iter().for_each(|datagram| pair.give(datagram));
    }
    assert_eq!(pair.our_output(), ours, "once, however often it is asked for");
    pair.now = pair.now + FLIGHT_RTO;
    finished.iter().for_each(|datagram| pair.give(datagram));
    assert_eq!(pair.our_output(), ours);
    let filtered = pair.table.filtered();
    pair.give(&record(21, 0, &[1, 0]));
    pair.give(b"\x17\xfe\xfd");
    assert_eq!((pair.doubted, pair.table.filtered()), (false, filtered + 2), "anybody could have said that");
    pair.client.close().unwrap();
    let (sent, _) = pair.client_output();
    sent.iter().for_each(|datagram| pair.give(datagram));
    assert!(pair.our_output().is_empty() && pair.doubted && !pair.closed);
    // Another certificate by signalling still begins anew.
    pair.table.handle_path(pair.now, LEG, path(), &[Fingerprint([7; 32])]);
    assert_eq!(pair.table.in_progress(), 1);
}

#[test]
fn another_certificate_in_signalling_begins_a_fresh_handshake_and_the_same_does_not() {
    let mut pair = Pair::new();
    pair.complete();
    let same = pair.client_fingerprint;
    pair.table.handle_path(pair.now, LEG, path(), &[same]);
    assert_eq!(pair.table.in_progress(), 0, "an ICE restart keeps the keys");
    (pair.client, pair.client_fingerprint) = client(pair.instant());
    (pair.connected, pair.keys) = (false, None);
    let expected = [pair.client_fingerprint];
    pair.table.handle_path(pair.now, LEG, path(), &expected);
    assert_eq!(pair.table.in_progress(), 1);
    pair.complete();
}

#[test]
fn a_leg_that_agreed_with_the_process_before_may_move_without_another_handshake() {
    let mut pair = Pair::new();
    pair.table.remove(LEG);
    pair.table.adopt(LEG, pair.client_fingerprint);
    let expected = [pair.client_fingerprint];
    let elsewhere = Path { remote: "192.0.2.9:4009".parse().unwrap(), ..path() };
    pair.table.handle_path(pair.now, LEG, elsewhere, &expected);
    let hello = pair.client_hello();
    pair.table.handle_datagram(pair.now, LEG, elsewhere, &hello);
    assert_eq!((pair.table.in_progress(), pair.table.next_deadline()), (0, None));
    pair.table.handle_timeout(pair.now + Duration::from_secs(31));
    assert!(pair.table.poll_action().is_none());
    // A restart from signalling brings another certificate, and is one.
    pair.table.handle_path(pair.now, LEG, path(), &[Fingerprint([7; 32])]);
    assert_eq!(pair.table.in_progress(), 1);
    pair.give(&hello);
    assert!(!pair.our_output().is_empty(), "it is answered");
}

#[test]
fn datagrams_of_a_leg_without_session_are_dropped_and_counted() {
    let mut pair = Pair::new();
    let hello = pair.client_hello();
    pair.table.remove(LEG);
    pair.give(&hello);
    assert!(pair.our_output().is_empty());
    assert_eq!((pair.table.filtered(), pair.table.next_deadline()), (1, None));
}
