//! The limit of open files, which is a limit of calls: each leg towards a SIP peer has two sockets.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{config::Config, ports::MediaRange};

/// Sockets of a leg towards a SIP peer: RTP and RTCP.
const PER_LEG: u64 = 2;

/// Files of a worker besides sockets: its engine, its wake-up, its memory.
pub(crate) const PER_WORKER: u64 = 8;

/// Everything else: the log, the control socket and who is connected to it, sockets that are closing.
pub(crate) const OTHERS: u64 = 64;

/// Raises the limit to what this process may have, and warns when that is less than the settings promise.
pub fn raise_limit(config: &Config) {
    let before = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: before.maximum, maximum: before.maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) if before.current == before.maximum => {}
        Ok(()) => tracing::info!(from = ?before.current, to = ?before.maximum, "raised the limit of open files"),
        Err(error) => tracing::warn!(limit = ?before.current, %error, "the limit of open files could not be raised"),
    }
    if let Some(limit) = getrlimit(Resource::Nofile).current
        && let Some(calls) = calls_short_of(limit, config)
    {
        let advice = "ulimit -Hn, or LimitNOFILE= of the service, raises it";
        tracing::warn!(
            limit,
            calls,
            advice,
            "open files are enough for so many calls of one SIP leg, fewer than the settings allow"
        );
    }
}

/// How many calls of one SIP leg a limit of open files leaves, when the settings allow more.
fn calls_short_of(limit: u64, config: &Config) -> Option<u64> {
    let workers = u64::from(config.workers);
    let per_worker = PER_WORKER + config.addresses.len() as u64;
    let possible = limit.saturating_sub(OTHERS + workers * per_worker) / PER_LEG;
    let relays = u64::from(config.limits.relays) * workers;
    let allowed = match config.media {
        MediaRange::Fixed(from, to) => relays.min((u64::from(to) + 1 - u64::from(from)) / PER_LEG),
        MediaRange::Auto => relays,
    };
    (possible < allowed).then_some(possible)
}

#[cfg(test)]
mod tests {
    use gangway_shared::settings::Settings;

    use super::*;
    use crate::config::Machine;

    fn config(text: &str) -> Config {
        let machine = Machine { cores: vec![0, 1, 2], default_ip: None, uid: 0, is_local: |_| true };
        Config::read(&Settings::parse("", text, &[]).unwrap(), &machine).unwrap()
    }

    #[test]
    fn a_limit_below_the_settings_is_told_in_calls() {
        let small = config("dataplane_workers=2\nip=127.0.0.1");
        assert_eq!(calls_short_of(1024, &small), Some((1024 - 64 - 2 * 9) / 2));
        assert_eq!(calls_short_of(20_000, &small), None, "the ports end before the files");
        let large = config("dataplane_workers=2\nip=127.0.0.1\nmedia_port_from=auto");
        assert_eq!(calls_short_of(20_000, &large), None);
        assert_eq!(calls_short_of(16_000, &large), Some(7959));
        assert_eq!(calls_short_of(10, &large), Some(0));
    }
}
