//! Sound that the relay makes while a source gives none.

use gangway_dataplane::{
    srtp::Profile,
    wire::{
        DropReason, PacketKind, classify,
        rtcp::{self, Compound, RtcpPacket},
    },
};
use gangway_shared::{
    ids::LegId,
    rcp::{Codec, Event, Fill, LegKind, Payload, RelayProgram, Sound, Tone},
};

use crate::{
    phone::{BROWSER, PHONE, connected, phone_heard, phone_port},
    world::{Browser, CERTIFICATE, Fed, Heard, MUX, Source, World, addr, call, hear, payload, ports, relay_id},
};

const ULAW_SILENCE: u8 = 0xff;

fn pcmu() -> Payload {
    payload(0, Codec::Pcmu, 8000)
}

fn silence(payload: Payload, start_after_ms: u32) -> Option<Fill> {
    Some(Fill { sound: Sound::Silence, payload, ptime_ms: 20, start_after_ms })
}

fn ringback() -> Option<Fill> {
    let tone = Tone { frequencies_hz: vec![425], on_ms: 1000, off_ms: 4000 };
    Some(Fill { sound: Sound::Tone(tone), payload: pcmu(), ptime_ms: 20, start_after_ms: 0 })
}

/// A call whose phone hears silence while the browser gives nothing for 100 ms.
fn filled_call() -> RelayProgram {
    let mut program = call(Some(CERTIFICATE), Some(PHONE));
    program.routes[0].fill = silence(pcmu(), 100);
    program
}

/// What the browser was sent since the last look, without reports.
fn browser_heard(world: &mut World, browser: &mut Browser) -> Vec<Heard> {
    let sent = std::mem::take(&mut world.out.sent);
    let media = sent.iter().filter(|(port, _, bytes)| *port == MUX && classify(bytes) == Ok(PacketKind::Rtp));
    media.map(|(_, _, bytes)| browser.hear(bytes)).collect()
}

#[track_caller]
fn assert_unbroken(heard: &[Heard], step: u32) {
    for pair in heard.windows(2) {
        assert_eq!(pair[1].sequence, pair[0].sequence.wrapping_add(1));
        assert_eq!(pair[1].timestamp, pair[0].timestamp.wrapping_add(step));
        assert_eq!((pair[1].ssrc, pair[1].marker), (pair[0].ssrc, false));
    }
}

#[test]
fn silence_begins_when_a_source_is_missing_and_goes_on_in_steps_of_the_packet_time() {
    let (mut world, _) = connected(&filled_call());
    world.advance_ms(99);
    assert_eq!(phone_heard(&mut world), []);
    world.advance_ms(401);
    let heard = phone_heard(&mut world);
    assert_eq!(heard.len(), 21, "at 100 ms and every 20 ms up to 500");
    assert!(heard[0].marker && heard[0].sequence < 0x8000);
    assert!(
        heard.iter().all(|packet| packet.pt == 0 && packet.payload == [ULAW_SILENCE; 160] && packet.ssrc == 0x1001)
    );
    assert_unbroken(&heard, 160);
    let flow = world.relays().flows().next().unwrap();
    assert_eq!(flow.forwarded, 0, "what nobody said keeps no orphan alive");
    assert_eq!(world.relays().stats(relay_id(1)).unwrap().legs[1].sent.packets, 21);
}

#[test]
fn silence_gives_way_to_the_first_packet_and_comes_back_with_numbers_unbroken_both_ways() {
    let (mut world, mut browser) = connected(&filled_call());
    world.advance_ms(207);
    let mut all = phone_heard(&mut world);
    assert_eq!(all.len(), 6);
    for _ in 0..50 {
        all.push(hear(&browser.say(&mut world, b"voice").bytes()));
        world.advance_ms(20);
        all.extend(phone_heard(&mut world));
    }
    assert_eq!(all.len(), 56, "nothing is made while the source speaks");
    assert!(all[6].marker, "a talk spurt begins");
    all[6].marker = false;
    assert_unbroken(&all, 160);
    world.advance_ms(300);
    let made = phone_heard(&mut world);
    assert_eq!(made.len(), 12, "from 100 ms after the last packet, which was 20 ms ago");
    assert_eq!(made[0].sequence, all[55].sequence + 1);
    // The first real packet came 7 ms into the sound before it and was told behind it: those 13 ms are caught up here.
    assert_eq!(made[0].timestamp, all[55].timestamp + 800 - 104);
    assert!(made[0].marker);
    assert_unbroken(&made[1..], 160);
    let next = hear(&browser.say(&mut world, b"voice").bytes());
    assert_eq!((next.sequence, next.marker), (made[11].sequence + 1, true));
    assert_eq!(next.timestamp, made[11].timestamp + 160);
}

#[test]
fn packets_that_come_late_find_their_place_before_what_was_made() {
    let (mut world, mut browser) = connected(&filled_call());
    let first = hear(&browser.say(&mut world, b"one").bytes());
    let late = browser.talk(b"late");
    let third = hear(&browser.say(&mut world, b"three").bytes());
    world.advance_ms(100);
    let made = phone_heard(&mut world);
    assert_eq!((made.len(), made[0].sequence), (1, third.sequence + 1));
    let late = hear(&world.feed(MUX, browser.at, &late).bytes());
    assert_eq!((late.sequence, late.timestamp), (first.sequence + 1, first.timestamp + 160));
    world.advance_ms(100);
    let made = phone_heard(&mut world);
    assert_eq!((made.len(), made[0].sequence), (1, third.sequence + 2), "a late packet too is a packet of the source");
}

#[test]
fn a_held_route_is_filled_and_its_source_takes_over_when_it_is_resumed() {
    let mut program = filled_call();
    let (mut world, mut browser) = connected(&program);
    let mut last = hear(&browser.say(&mut world, b"voice").bytes());
    program.routes[0].paused = true;
    world.put(1, 2, &program);
    for _ in 0..10 {
        world.advance_ms(20);
        assert_eq!(browser.say(&mut world, b"held"), Fed::Dropped(DropReason::LegHeld));
    }
    let made = phone_heard(&mut world);
    assert_eq!(made.len(), 6);
    assert_eq!(made[0].sequence, last.sequence + 1);
    last = made[5].clone();
    program.routes[0].paused = false;
    world.put(1, 3, &program);
    let back = hear(&browser.say(&mut world, b"voice").bytes());
    assert_eq!((back.sequence, back.payload), (last.sequence + 1, b"voice".to_vec()));
    assert_eq!(back.timestamp, last.timestamp + 160);
}

#[test]
fn sound_waits_for_a_receiver_that_can_be_sent_to() {
    let mut program = call(None, Some(PHONE));
    program.routes[1].fill = ringback();
    let mut world = World::new();
    let handle = world.put(1, 1, &program).legs[0].1;
    let mut browser = Browser::new(1, 0, handle, BROWSER, Profile::AeadAes128Gcm, 7);
    world.advance_ms(200);
    browser.connect(&mut world);
    world.advance_ms(200);
    assert_eq!(browser_heard(&mut world, &mut browser), [], "its certificate is not known yet");
    program.legs[0].kind = crate::world::ice_leg(0, Some(CERTIFICATE)).kind;
    world.put(1, 2, &program);
    world.advance_ms(100);
    let heard = browser_heard(&mut world, &mut browser);
    assert_eq!(heard.len(), 5);
    assert!(heard[0].marker && heard[0].payload[1..20].iter().any(|sample| *sample != ULAW_SILENCE), "from its start");
    assert_unbroken(&heard, 160);
}

#[test]
fn a_tone_keeps_its_cadence_over_another_program_and_over_another_process() {
    let mut program = call(Some(CERTIFICATE), Some(PHONE));
    program.routes[1].fill = ringback();
    let (mut world, mut browser) = connected(&program);
    let mut heard = Vec::new();
    for second in 0..12 {
        world.advance_ms(1000);
        heard.extend(browser_heard(&mut world, &mut browser));
        match second {
            2 => world.restart(),
            6 => {
                program.label = "another".into();
                world.put(1, 2, &program);
            }
            _ => {}
        }
    }
    assert_eq!(heard.len(), 601, "at the beginning and the end of 12 s, and every 20 ms between");
    for (at, packet) in heard.iter().enumerate() {
        let is_on = at % 250 < 50;
        assert_eq!(packet.payload.iter().any(|sample| *sample != ULAW_SILENCE), is_on, "packet {at}");
    }
    let skips = heard.windows(2).filter(|pair| pair[1].sequence != pair[0].sequence.wrapping_add(1));
    assert_eq!(skips.count(), 1, "an encrypted stream skips once at a restart");
    for pair in heard.windows(2) {
        assert_eq!(pair[1].timestamp, pair[0].timestamp.wrapping_add(160));
    }
}

#[test]
fn another_sound_takes_the_place_of_one_that_plays_and_none_ends_it() {
    let mut program = call(Some(CERTIFICATE), Some(PHONE));
    program.routes[1].fill = ringback();
    let (mut world, mut browser) = connected(&program);
    world.advance_ms(100);
    let tone = browser_heard(&mut world, &mut browser);
    program.routes[1].fill = silence(pcmu(), 0);
    world.put(1, 2, &program);
    world.advance_ms(100);
    let quiet = browser_heard(&mut world, &mut browser);
    assert!(quiet.iter().all(|packet| packet.payload == [ULAW_SILENCE; 160]));
    assert_unbroken(&[&tone[..], &quiet[..]].concat(), 160);
    program.routes[1].fill = None;
    world.put(1, 3, &program);
    world.advance_ms(1000);
    assert_eq!(browser_heard(&mut world, &mut browser), []);
}

#[test]
fn a_source_that_told_its_silence_is_given_more_time() {
    let opus = payload(111, Codec::Opus, 48_000);
    let noise = payload(13, Codec::ComfortNoise, 8000);
    for (of, quiet, loud) in [(opus, &[0xf8][..], &[1; 3][..]), (noise, &[70][..], &[70, 1][..])] {
        let is_noise = of.codec == Codec::ComfortNoise;
        let mut program = filled_call();
        program.routes[0] = crate::world::route(0, 1, 0x1001, &[(of.clone(), of.clone())]);
        program.routes[0].fill = silence(of.clone(), 100);
        let (mut world, mut browser) = connected(&program);
        browser.source.pt = of.pt;
        browser.say(&mut world, quiet);
        world.advance_ms(999);
        assert_eq!(phone_heard(&mut world), []);
        world.advance_ms(1);
        assert_eq!(phone_heard(&mut world).len(), 1);
        browser.say(&mut world, loud);
        world.advance_ms(100);
        assert_eq!(phone_heard(&mut world).len(), usize::from(!is_noise), "sound that stops is missed at once");
    }
}

#[test]
fn comfort_noise_is_one_packet_in_eight_without_a_marker() {
    let mut program = filled_call();
    program.routes[0].fill = silence(payload(13, Codec::ComfortNoise, 8000), 100);
    let (mut world, mut browser) = connected(&program);
    world.advance_ms(100 + 3 * 160);
    let heard = phone_heard(&mut world);
    assert_eq!(heard.len(), 4);
    assert!(heard.iter().all(|packet| (packet.pt, packet.payload.len(), packet.marker) == (13, 1, false)));
    assert_unbroken(&heard, 1280);
    world.advance_ms(20);
    let next = hear(&browser.say(&mut world, b"voice").bytes());
    assert_eq!((next.timestamp, next.marker), (heard[3].timestamp + 160, true), "noise takes no time of its own");
}

#[test]
fn sound_of_our_own_hides_no_silence_of_the_peers() {
    let mut program = filled_call();
    program.legs[0].media_timeout_ms = Some(5000);
    program.legs[1].media_timeout_ms = Some(5000);
    program.routes[1].fill = silence(pcmu(), 0);
    let (mut world, _) = connected(&program);
    world.events();
    world.advance_ms(5000);
    let told: Vec<Event> = [0, 1].map(|leg| Event::MediaTimeout { relay: relay_id(1), leg: LegId(leg) }).into();
    assert_eq!(world.events(), told);
}

#[test]
fn an_announced_silence_ends_no_call_until_something_else_was_said() {
    for (pt, quiet) in [(0, None), (13, Some(&[70][..]))] {
        let mut program = call(Some(CERTIFICATE), Some(PHONE));
        program.legs[1].media_timeout_ms = Some(5000);
        let (mut world, _) = connected(&program);
        let mut phone = Source::new(0xf0, pt);
        world.feed(phone_port(), addr(PHONE), &phone.packet(quiet.unwrap_or(&[ULAW_SILENCE; 160])));
        world.events();
        world.advance_ms(24_999);
        let silent = [Event::MediaTimeout { relay: relay_id(1), leg: LegId(1) }];
        assert_eq!(world.events(), if quiet.is_some() { &[] } else { &silent[..] });
        phone.pt = 0;
        world.feed(phone_port(), addr(PHONE), &phone.packet(&[0; 160]));
        // The browser's consent runs out meanwhile, which is another matter.
        world.advance_ms(10_100);
        assert!(world.events().contains(&silent[0]), "it was loud again and stopped");
    }
}

#[test]
fn a_peer_that_announced_its_silence_is_gone_when_nothing_at_all_comes_of_it() {
    let mut program = call(Some(CERTIFICATE), Some(PHONE));
    program.legs[1].media_timeout_ms = Some(5000);
    let (mut world, _) = connected(&program);
    let silent = Event::MediaTimeout { relay: relay_id(1), leg: LegId(1) };
    let told = |world: &mut World, ms| {
        world.advance_ms(ms);
        world.events().iter().filter(|event| **event == silent).count()
    };
    let mut phone = Source::new(0xf0, 13);
    let mut report = [0; 64];
    let len = rtcp::write_receiver_report(&mut report, 0xf0, &[], b"phone").unwrap();
    let (rtp, rtcp) = ports(1, LegId(1));
    let reports_at = addr("192.0.2.50:4001");
    world.feed(rtcp, reports_at, &report[..len]);
    world.feed(rtp, addr(PHONE), &phone.packet(&[70]));
    assert_eq!(told(&mut world, 24_000), 0);
    world.feed(rtp, addr(PHONE), &phone.packet(&[70]));
    assert_eq!(told(&mut world, 24_000), 0, "comfort noise is a sign of life");
    world.feed(rtcp, reports_at, &report[..len]);
    assert_eq!(told(&mut world, 24_999), 0, "so is a report");
    assert_eq!(told(&mut world, 1), 1);
    assert_eq!(told(&mut world, 60_000), 0, "told once");
}

#[test]
fn an_announced_silence_ends_with_the_peer_that_announced_it() {
    let mut program = call(Some(CERTIFICATE), Some(PHONE));
    program.legs[1].media_timeout_ms = Some(5000);
    let silent = Event::MediaTimeout { relay: relay_id(1), leg: LegId(1) };
    for is_moved in [false, true] {
        let (mut world, _) = connected(&program);
        world.feed(phone_port(), addr(PHONE), &Source::new(0xf0, 13).packet(&[70]));
        world.advance_ms(10_000);
        assert!(!world.events().contains(&silent));
        let mut changed = program.clone();
        if is_moved {
            changed.legs[1].kind = crate::world::rtp_leg(1, Some("192.0.2.60:4000")).kind;
        } else {
            changed.routes[1].paused = true;
            world.put(1, 2, &changed);
            changed.routes[1].paused = false;
        }
        world.put(1, 3, &changed);
        world.advance_ms(4999);
        assert!(!world.events().contains(&silent), "it counts from now on");
        world.advance_ms(1);
        assert!(world.events().contains(&silent), "nobody said that this one would be silent; moved: {is_moved}");
    }
}

#[test]
fn sound_of_our_own_does_not_come_between_the_packets_of_a_source() {
    let mut program = filled_call();
    program.routes[0].fill = silence(pcmu(), 0);
    let (mut world, mut browser) = connected(&program);
    world.advance_ms(40);
    assert_eq!(phone_heard(&mut world).len(), 3, "nobody speaks: at once");
    for gap_ms in [20, 40, 10, 59, 20] {
        browser.say(&mut world, b"voice");
        world.advance_ms(gap_ms);
        assert_eq!(phone_heard(&mut world), [], "{gap_ms} ms are jitter");
    }
    world.advance_ms(40);
    assert_eq!(phone_heard(&mut world).len(), 1, "60 ms are none");
    world.advance_ms(20);
    assert_eq!(phone_heard(&mut world).len(), 1);
}

#[test]
fn sound_that_stops_soon_after_an_announced_silence_is_missed_in_time() {
    let mut program = filled_call();
    program.routes[0].payloads.push(gangway_shared::rcp::PayloadMap {
        from: payload(13, Codec::ComfortNoise, 8000),
        to: payload(13, Codec::ComfortNoise, 8000),
    });
    let (mut world, mut browser) = connected(&program);
    browser.source.pt = 13;
    browser.say(&mut world, &[70]);
    world.advance_ms(500);
    assert_eq!(phone_heard(&mut world), []);
    browser.source.pt = 0;
    browser.say(&mut world, b"voice");
    world.advance_ms(99);
    assert_eq!(phone_heard(&mut world), []);
    world.advance_ms(1);
    assert_eq!(phone_heard(&mut world).len(), 1);
}

#[test]
fn pictures_that_stop_are_no_missing_sound() {
    let mut program = call(Some(CERTIFICATE), Some(PHONE));
    program.legs[0].media_timeout_ms = Some(5000);
    program.routes[0].media = gangway_shared::rcp::Media::Video;
    let (mut world, mut browser) = connected(&program);
    browser.say(&mut world, b"picture");
    world.events();
    world.advance_ms(20_000);
    assert_eq!(world.events(), []);
}

#[test]
fn reports_tell_the_clock_of_what_is_made() {
    let (mut world, _) = connected(&filled_call());
    world.advance_ms(20_000);
    let sent = std::mem::take(&mut world.out.sent);
    let mut newest: Option<Heard> = None;
    let mut reports = 0;
    for (port, _, bytes) in sent.iter().filter(|(port, ..)| *port != MUX) {
        if classify(bytes) == Ok(PacketKind::Rtp) {
            newest = Some(hear(bytes));
            continue;
        }
        assert_eq!(*port, ports(1, LegId(1)).1);
        for packet in Compound::parse(bytes).unwrap().packets() {
            let RtcpPacket::SenderReport { info, .. } = packet else { continue };
            let behind = info.rtp_timestamp.wrapping_sub(newest.as_ref().unwrap().timestamp);
            assert!(behind <= 160, "{behind} ticks behind the newest packet");
            reports += 1;
        }
    }
    assert!(reports >= 2);
}

#[test]
fn without_a_buffer_nothing_is_sent_and_the_sound_goes_on_later() {
    let (mut world, _) = connected(&filled_call());
    world.advance_ms(200);
    let before = phone_heard(&mut world);
    world.out.is_full = true;
    world.advance_ms(100);
    assert_eq!(world.drops(DropReason::BuffersExhausted), 5);
    world.out.is_full = false;
    world.advance_ms(100);
    let after = phone_heard(&mut world);
    assert_eq!((before.len(), after.len()), (6, 5));
    assert_eq!(after[0].sequence, before[5].sequence + 1);
    assert_eq!(after[0].timestamp, before[5].timestamp + 6 * 160);
}

#[test]
fn a_worker_that_stood_still_sends_what_is_due_now_and_keeps_the_beat() {
    for still_ms in [19, 20, 39, 90, 10_000, 10_007] {
        let (mut world, _) = connected(&filled_call());
        world.advance_ms(100);
        let first = phone_heard(&mut world).pop().unwrap();
        world.sleep_ms(still_ms);
        let beats = still_ms / 20;
        let heard = phone_heard(&mut world);
        assert_eq!(heard.len() as u64, beats.min(1), "no burst after {still_ms} ms");
        if let Some(heard) = heard.first() {
            assert_eq!(heard.sequence, first.sequence + 1);
            assert_eq!(heard.timestamp, first.timestamp.wrapping_add(160 * beats as u32));
            assert_eq!(heard.marker, beats > 1, "after a gap a spurt begins");
        }
        world.advance_ms(20 - still_ms % 20 - 1);
        assert_eq!(phone_heard(&mut world), [], "not before its time, after {still_ms} ms");
        world.advance_ms(1);
        let next = phone_heard(&mut world);
        assert_eq!(next.len(), 1, "on the beat after {still_ms} ms");
        assert_eq!(next[0].timestamp, first.timestamp.wrapping_add(160 * (beats as u32 + 1)));
        assert!(!next[0].marker);
    }
}

#[test]
fn a_tone_of_a_worker_that_stood_still_keeps_its_cadence() {
    let mut program = filled_call();
    program.routes[0].fill = ringback();
    let (mut world, _) = connected(&program);
    let is_loud = |world: &mut World| {
        world.advance_ms(20);
        phone_heard(world).pop().unwrap().payload.iter().any(|sample| *sample != ULAW_SILENCE)
    };
    assert!(is_loud(&mut world));
    world.sleep_ms(1980);
    assert!(!is_loud(&mut world), "2 s after its beginning it pauses");
    world.sleep_ms(2980);
    assert!(is_loud(&mut world), "5 s after it, it sounds again");
}

#[test]
fn streams_that_were_spread_over_the_packet_time_stay_so_when_a_worker_stood_still() {
    const STREAMS: u64 = 8;
    let mut world = World::new();
    let mut program = filled_call();
    program.routes[0].fill = silence(pcmu(), 0);
    for number in 1..=STREAMS {
        world.put(number, 1, &program);
        world.advance_ms(2);
    }
    let beat = |world: &mut World| -> Vec<usize> {
        let each = (0..20).map(|_| {
            world.out.sent.clear();
            world.advance_ms(1);
            world.out.sent.iter().filter(|(.., bytes)| classify(bytes) == Ok(PacketKind::Rtp)).count()
        });
        each.collect()
    };
    let before = beat(&mut world);
    assert_eq!((before.iter().sum::<usize>(), before.iter().max()), (STREAMS as usize, Some(&1)), "{before:?}");
    world.sleep_ms(10_013);
    world.advance_ms(7);
    assert_eq!(beat(&mut world), before);
}

#[test]
fn a_phone_that_is_not_known_yet_gets_nothing() {
    let mut program = filled_call();
    let LegKind::Rtp(leg) = &mut program.legs[1].kind else { unreachable!("leg 1 is the phone's") };
    leg.remote = None;
    let (mut world, _) = connected(&program);
    world.advance_ms(1000);
    assert_eq!(phone_heard(&mut world), []);
    world.put(1, 2, &filled_call());
    world.advance_ms(20);
    assert_eq!(phone_heard(&mut world).len(), 1);
}
