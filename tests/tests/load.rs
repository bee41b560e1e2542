//! 200 calls at ten a second, half of them out and half of them in: none fails, and what both programs hold returns to what they
//! held before.

use std::{thread, time::Duration};

use gangway_tests::{
    deadline::{Deadline, pause},
    gateway::{Gateway, connection},
    kamailio::{self, Kamailio},
    media::Codecs,
    phone::{Call, Phone, TONE_HZ},
    process::{Held, held},
    sipp::{self, Sipp},
};

/// Calls in each direction.
const CALLS: usize = 100;
/// Of those, the ones that are made first, so that both programs have what they keep for good.
const WARM_UP: usize = 10;
/// New calls a second in each direction.
const PER_S: u32 = 5;
/// How long a SIPp that called talks, ms: long enough for [`FRAMES`] on a busy machine. Some 35 calls run at once.
const TALK_MS: &str = "4000";
/// Frames of 20 ms that a phone must have received before it hangs up.
const FRAMES: usize = 120;
/// Sound of its own, echoed by SIPp, that each phone must have heard.
const HEARD: Duration = Duration::from_secs(1);

/// What each program's resident memory may have grown by, KiB; 20 KiB a call, which is less than the state of one. It does grow: the
/// tables of the dataplane have their size from the start, but a page of them becomes resident when the first call hashes into
/// it; and the allocator of control keeps what the busiest moment needed.
const GROWN_KB: u64 = 4096;

/// What both programs hold, and what `/metrics` says of them.
#[derive(Debug)]
struct Holdings {
    programs: [Held; 2],
    gauges: Vec<(&'static str, f64)>,
}

impl Holdings {
    fn now(gateway: &Gateway) -> Self {
        let names = [
            ("gangway_calls", ""),
            ("gangway_dialogs", ""),
            ("gangway_relays", ""),
            ("gangway_dataplane_relays", ""),
            ("gangway_asks", ""),
            ("gangway_sessions", ""),
            ("gangway_sockets", ""),
            ("gangway_registrations", ""),
            ("gangway_media_ports", "state=\"used\""),
            ("gangway_media_ports", "state=\"quarantined\""),
        ];
        let gauges = names.map(|(name, label)| (name, gateway.metric(name, label))).to_vec();
        Self { programs: gateway.pids().map(held), gauges }
    }

    /// Whether all is as it was before, but for memory, which may have grown by [`GROWN_KB`].
    fn is_within(&self, before: &Self) -> bool {
        let mut programs = self.programs.iter().zip(&before.programs);
        self.gauges == before.gauges
            && programs.all(|(now, then)| {
                (now.descriptors, now.threads) == (then.descriptors, then.threads)
                    && now.resident_kb <= then.resident_kb + GROWN_KB
            })
    }
}

/// A call out, heard, and ended by the phone.
fn call_out(gateway: &Gateway, port: u16) {
    let mut phone = Phone::unregistered(gateway, port);
    let call = phone.establish("2001", Codecs::PCMU);
    hears_itself(&call);
    phone.hangup(&call.id);
    phone.expect_status(&call.id, "FINISH", Deadline::seconds(5));
}

/// A call in, heard, and ended by the caller.
fn take_call(phone: &mut Phone) {
    let incoming = phone.incoming(Deadline::seconds(40));
    let call = phone.answer(&incoming, Codecs::PCMU);
    hears_itself(&call);
    phone.expect_status(&call.id, "FINISH", Deadline::seconds(10));
}

fn hears_itself(call: &Call) {
    call.media.wait_received(FRAMES, Deadline::seconds(10));
    let heard = call.media.seen().sound.heard(TONE_HZ);
    assert!(heard >= HEARD, "{}: {heard:?} of its tone", call.id);
}

/// As many calls out as there are phones, and one to each of them.
fn wave(gateway: &Gateway, registrar: &Kamailio, phones: &mut [Phone]) -> Option<()> {
    let calls = u32::try_from(phones.len()).expect("a few phones");
    let answers = sipp::Options { scenario: "uas_answer", target: None, words: &[("RING_MS", "50")], calls };
    let answers = Sipp::start(&answers)?;
    // SIPp counts its calls from 1, and so are the accounts.
    let words = [("CALLEE", "u[call_number]"), ("TALK_MS", TALK_MS)];
    let calling = sipp::Options { scenario: "uac_call", target: Some(registrar.port()), words: &words, calls };
    let calling = Sipp::start_at(&calling, PER_S, calls)?;
    thread::scope(|scope| {
        for phone in phones {
            scope.spawn(move || take_call(phone));
        }
        for _ in 0..calls {
            scope.spawn(|| call_out(gateway, answers.port()));
            // The pace of the load is what is asked for; nothing is waited for here.
            pause(Duration::from_secs(1) / PER_S);
        }
    });
    calling.finish(Deadline::seconds(15));
    answers.finish(Deadline::seconds(15));
    gateway.wait_idle(Deadline::seconds(10));
    Some(())
}

#[test]
fn two_hundred_calls_leave_nothing() {
    let accounts = (1..=CALLS).map(|number| (format!("u{number}"), format!("secret-{number}"))).collect();
    let options = kamailio::Options { accounts, challenge_invite: false, ..kamailio::Options::default() };
    let Some(registrar) = Kamailio::start(&options) else { return };
    let gateway = Gateway::start(&[("log_level", "info")]);
    let mut phones: Vec<Phone> = (1..=CALLS)
        .map(|number| {
            let fields = connection(&format!("u{number}"), &format!("secret-{number}"), registrar.port(), true);
            let mut phone = Phone::connect(&gateway, &fields);
            phone.socket.expect("registered", Deadline::seconds(10));
            phone
        })
        .collect();
    let Some(()) = wave(&gateway, &registrar, &mut phones[..WARM_UP]) else { return };
    let quarantined = || gateway.metric("gangway_media_ports", "state=\"quarantined\"");
    Deadline::seconds(5).poll("the end of the quarantine", || (quarantined() == 0.0).then_some(()));
    let before = Holdings::now(&gateway);
    let Some(()) = wave(&gateway, &registrar, &mut phones) else { return };
    let mut after = Holdings::now(&gateway);
    // Closed websockets and the quarantine of media ports take a moment.
    let deadline = Deadline::seconds(10);
    while !after.is_within(&before) {
        assert!(!deadline.is_over(), "before: {before:#?}\nafter {} calls: {after:#?}", 2 * CALLS);
        pause(Duration::from_millis(50));
        after = Holdings::now(&gateway);
    }
    println!(
        "resident before and after: {:?}",
        [before.programs, after.programs].map(|both| both.map(|one| one.resident_kb))
    );
}
