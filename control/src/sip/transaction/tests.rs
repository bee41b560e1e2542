//! Every timer of RFC 3261 appendix A by name, at its exact instant.

use super::{
    client::{Client, Verdict},
    client_invite::{ClientInvite, Verdict as InviteVerdict},
    server::Server,
    server_invite::ServerInvite,
    *,
};
use crate::sip::message::Status;

const UDP: bool = false;
const TCP: bool = true;

fn at(millis: u64) -> Time {
    Time::from_millis(millis)
}

fn status(code: u16) -> Status {
    Status::literal(code)
}

/// Runs a machine from deadline to deadline and notes what fired when, in milliseconds.
macro_rules! fired_until {
    ($machine:expr, $end_ms:expr) => {{
        let mut fired = Vec::new();
        while let Some(due) = $machine.poll_timeout().filter(|due| *due <= at($end_ms)) {
            assert_eq!($machine.handle_timeout(due - Duration::from_micros(1)), None, "nothing fires early");
            let expiry = $machine.handle_timeout(due).expect("the deadline told by poll_timeout fires");
            fired.push((due.as_millis(), expiry));
            assert!(fired.len() < 100, "a machine that never comes to rest");
        }
        fired
    }};
}

use Expiry::{Retransmit, Terminated, TimedOut};

#[test]
fn timer_a_doubles_and_timer_b_ends_an_unanswered_invite() {
    let mut machine = ClientInvite::new(at(0), UDP, &Timers::default());
    let fired = fired_until!(machine, 100_000);
    let a = [500, 1_500, 3_500, 7_500, 15_500, 31_500].map(|millis| (millis, Retransmit));
    assert_eq!(fired, [&a[..], &[(32_000, TimedOut)]].concat());
    assert!(machine.is_terminated());
}

#[test]
fn timer_a_does_not_run_on_reliable_transports_but_timer_b_does() {
    let mut machine = ClientInvite::new(at(0), TCP, &Timers::default());
    assert_eq!(fired_until!(machine, 100_000), [(32_000, TimedOut)]);
}

#[test]
fn a_provisional_answer_stops_timers_a_and_b() {
    let mut machine = ClientInvite::new(at(0), UDP, &Timers::default());
    assert_eq!(machine.handle_response(at(100), status(100)), InviteVerdict::Deliver);
    assert_eq!(machine.poll_timeout(), None);
    assert!(machine.is_pending() && !machine.is_calling());
}

#[test]
fn timer_d_absorbs_repeated_finals_with_ack_for_32_s() {
    let mut machine = ClientInvite::new(at(0), UDP, &Timers::default());
    assert_eq!(machine.handle_response(at(200), status(486)), InviteVerdict::DeliverAndAck);
    assert_eq!(machine.handle_response(at(700), status(486)), InviteVerdict::Ack);
    assert_eq!(machine.handle_response(at(800), status(180)), InviteVerdict::Absorb);
    assert_eq!(machine.handle_response(at(900), status(200)), InviteVerdict::Absorb);
    assert_eq!(fired_until!(machine, 100_000), [(32_200, Terminated)]);
}

#[test]
fn timer_d_is_zero_on_reliable_transports() {
    let mut machine = ClientInvite::new(at(0), TCP, &Timers::default());
    assert_eq!(machine.handle_response(at(200), status(486)), InviteVerdict::DeliverAndAck);
    assert!(machine.is_terminated());
    assert_eq!(machine.poll_timeout(), None);
}

#[test]
fn timer_m_lets_every_2xx_of_every_fork_through() {
    for reliable in [UDP, TCP] {
        let mut machine = ClientInvite::new(at(0), reliable, &Timers::default());
        assert_eq!(machine.handle_response(at(200), status(200)), InviteVerdict::Deliver);
        assert_eq!(machine.handle_response(at(700), status(200)), InviteVerdict::Deliver);
        assert_eq!(machine.handle_response(at(800), status(486)), InviteVerdict::Absorb);
        assert_eq!(fired_until!(machine, 100_000), [(32_200, Terminated)]);
    }
}

#[test]
fn timer_e_doubles_up_to_t2_and_timer_f_ends_an_unanswered_request() {
    let mut machine = Client::new(at(0), UDP, &Timers::default());
    let e =
        [500, 1_500, 3_500, 7_500, 11_500, 15_500, 19_500, 23_500, 27_500, 31_500].map(|millis| (millis, Retransmit));
    assert_eq!(fired_until!(machine, 100_000), [&e[..], &[(32_000, TimedOut)]].concat());
}

#[test]
fn timer_e_runs_at_t2_after_a_provisional_answer() {
    let mut machine = Client::new(at(0), UDP, &Timers::default());
    assert_eq!(machine.handle_response(at(100), status(100)), Verdict::Deliver);
    let fired = fired_until!(machine, 9_000);
    assert_eq!(fired, [(500, Retransmit), (4_500, Retransmit), (8_500, Retransmit)]);
}

#[test]
fn timer_k_absorbs_repeated_answers_for_t4() {
    let mut machine = Client::new(at(0), UDP, &Timers::default());
    assert_eq!(machine.handle_response(at(100), status(200)), Verdict::Deliver);
    assert_eq!(machine.handle_response(at(200), status(200)), Verdict::Absorb);
    assert_eq!(fired_until!(machine, 100_000), [(5_100, Terminated)]);
    let mut machine = Client::new(at(0), TCP, &Timers::default());
    assert_eq!(fired_until!(machine, 31_999), []);
    assert_eq!(machine.handle_response(at(31_999), status(200)), Verdict::Deliver);
    assert!(machine.is_terminated());
}

#[test]
fn timer_g_repeats_a_failure_and_timer_h_gives_up_on_its_ack() {
    let mut machine = ServerInvite::new(UDP, &Timers::default());
    assert!(machine.handle_answer(at(0), status(180)));
    assert_eq!(machine.poll_timeout(), None);
    assert!(machine.handle_answer(at(1_000), status(486)));
    assert!(!machine.handle_answer(at(1_000), status(500)), "answered already");
    let g =
        [1_500, 2_500, 4_500, 8_500, 12_500, 16_500, 20_500, 24_500, 28_500, 32_500].map(|millis| (millis, Retransmit));
    assert_eq!(fired_until!(machine, 100_000), [&g[..], &[(33_000, TimedOut)]].concat());
}

#[test]
fn timer_i_absorbs_repeated_acks_for_t4() {
    let mut machine = ServerInvite::new(UDP, &Timers::default());
    assert!(!machine.handle_ack(at(0)), "nothing to acknowledge yet");
    machine.handle_answer(at(0), status(486));
    assert!(machine.handle_ack(at(100)));
    assert!(!machine.repeats_answer());
    assert!(machine.handle_ack(at(200)));
    assert_eq!(fired_until!(machine, 100_000), [(5_100, Terminated)]);
    let mut machine = ServerInvite::new(TCP, &Timers::default());
    machine.handle_answer(at(0), status(486));
    assert_eq!(machine.poll_timeout(), Some(at(32_000)));
    assert!(machine.handle_ack(at(100)) && machine.is_terminated());
}

#[test]
fn timer_l_absorbs_repeated_invites_after_a_2xx() {
    let mut machine = ServerInvite::new(UDP, &Timers::default());
    machine.handle_answer(at(0), status(200));
    assert!(!machine.repeats_answer(), "the user repeats a 2xx");
    assert!(!machine.handle_ack(at(10)), "its ACK is the user's");
    assert_eq!(fired_until!(machine, 100_000), [(32_000, Terminated)]);
}

#[test]
fn timer_j_absorbs_repeated_requests_for_32_s() {
    let mut machine = Server::new(UDP, &Timers::default());
    assert!(!machine.repeats_answer());
    assert!(machine.handle_answer(at(0), status(100)) && machine.repeats_answer());
    assert!(machine.handle_answer(at(500), status(200)) && machine.repeats_answer());
    assert!(!machine.handle_answer(at(600), status(500)));
    assert_eq!(fired_until!(machine, 100_000), [(32_500, Terminated)]);
    let mut machine = Server::new(TCP, &Timers::default());
    assert!(machine.handle_answer(at(0), status(200)) && machine.is_terminated());
}

#[test]
fn a_clock_that_jumps_costs_one_repeat_and_not_a_burst() {
    let mut machine = Client::new(at(0), UDP, &Timers::default());
    assert_eq!(machine.handle_timeout(at(20_000)), Some(Retransmit));
    assert_eq!(machine.handle_timeout(at(19_999)), None);
}

#[test]
fn timers_scale_with_t1() {
    let timers = Timers::from_t1(Duration::from_millis(5));
    assert_eq!((timers.t2, timers.t4), (Duration::from_millis(40), Duration::from_millis(50)));
    assert_eq!([timers.b, timers.d, timers.f, timers.h, timers.j, timers.l, timers.m], [Duration::from_millis(320); 7]);
    assert_eq!(Timers::default().t2, Duration::from_secs(4));
}
