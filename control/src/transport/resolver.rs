//! Names to addresses: A and AAAA by the system's resolver, with a deadline.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::lookup_host,
    sync::Semaphore,
    time::{Instant, timeout_at},
};

use crate::{
    gateway::effects::Answer,
    metrics::Metrics,
    sip::{Transport, dialog::Target},
};

/// Looks names up.
#[derive(Clone, Debug)]
pub struct Resolver {
    timeout: Duration,
    has_ipv6: bool,
    running: Arc<Semaphore>,
    metrics: Arc<Metrics>,
}

/// Look-ups at once; each holds a thread of the runtime's pool.
const LOOKUPS_MAX: usize = 64;

/// Addresses of one name that are passed on.
const TARGETS_MAX: usize = 8;

impl Resolver {
    /// A resolver that gives up after `timeout`. Without IPv6 sockets it leaves IPv6 addresses out.
    #[must_use]
    pub fn new(timeout: Duration, has_ipv6: bool, metrics: Arc<Metrics>) -> Self {
        Resolver { timeout, has_ipv6, running: Arc::new(Semaphore::new(LOOKUPS_MAX)), metrics }
    }

    /// The answer for an address literal: no look-up is needed.
    #[must_use]
    pub fn literal(&self, host: &str, port: Option<u16>, transport: Option<Transport>) -> Option<Answer> {
        let ip: IpAddr = host.trim_start_matches('[').trim_end_matches(']').parse().ok()?;
        Some(self.answer(host, [ip].into_iter(), port, transport))
    }

    /// Looks `host` up. The end is the resolver's own deadline or `until`, whichever is first.
    pub async fn look_up(&self, host: &str, port: Option<u16>, transport: Option<Transport>, until: Instant) -> Answer {
        let until = until.min(Instant::now() + self.timeout);
        let lookup = async {
            let _permit = self.running.acquire().await;
            lookup_host((host, 0)).await
        };
        match timeout_at(until, lookup).await {
            Ok(Ok(found)) => self.answer(host, found.map(|address| address.ip()), port, transport),
            Ok(Err(error)) => self.unresolved(format!("{host} was not found: {error}")),
            Err(_) => self.unresolved(format!("{host}: the name service did not answer in time")),
        }
    }

    fn answer(
        &self,
        host: &str,
        found: impl Iterator<Item = IpAddr>,
        port: Option<u16>,
        transport: Option<Transport>,
    ) -> Answer {
        let transport = transport.unwrap_or(Transport::Udp);
        let port = port.unwrap_or(transport.default_port());
        let mut ips: Vec<IpAddr> = found.filter(|ip| ip.is_ipv4() || self.has_ipv6).collect();
        // IPv4 first: media towards SIP peers is IPv4 unless they say otherwise.
        ips.sort_by_key(IpAddr::is_ipv6);
        ips.dedup();
        ips.truncate(TARGETS_MAX);
        if ips.is_empty() {
            return self.unresolved(format!("{host} has no address that we can reach"));
        }
        let target = |ip| Target { transport, remote: SocketAddr::new(ip, port), flow: None };
        Answer::Resolved(ips.into_iter().map(target).collect())
    }

    fn unresolved(&self, reason: String) -> Answer {
        self.metrics.resolves_failed.add(1);
        Answer::Unresolved { reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolver() -> Resolver {
        Resolver::new(Duration::from_secs(5), true, Arc::default())
    }

    #[test]
    fn literals_need_no_lookup() {
        let target = |remote: &str, transport| {
            Answer::Resolved(vec![Target { transport, remote: remote.parse().unwrap(), flow: None }])
        };
        let resolver = resolver();
        assert_eq!(resolver.literal("192.0.2.1", None, None), Some(target("192.0.2.1:5060", Transport::Udp)));
        let tcp = resolver.literal("2001:db8::1", Some(5070), Some(Transport::Tcp));
        assert_eq!(tcp, Some(target("[2001:db8::1]:5070", Transport::Tcp)));
        assert_eq!(resolver.literal("sip.example.com", None, None), None);
    }

    #[test]
    fn ipv6_is_left_out_where_there_is_none() {
        let resolver = Resolver::new(Duration::from_secs(5), false, Arc::default());
        let answer = resolver.literal("2001:db8::1", None, None);
        assert!(matches!(answer, Some(Answer::Unresolved { .. })), "{answer:?}");
    }

    #[tokio::test]
    async fn a_name_is_found_and_a_silly_one_is_told() {
        let until = Instant::now() + Duration::from_secs(10);
        let found = resolver().look_up("localhost", Some(5060), None, until).await;
        assert!(matches!(&found, Answer::Resolved(targets) if targets[0].remote.ip().is_loopback()), "{found:?}");
        let lost = resolver().look_up("a..b", None, None, until).await;
        assert!(matches!(&lost, Answer::Unresolved { reason } if reason.starts_with("a..b")), "{lost:?}");
    }
}
