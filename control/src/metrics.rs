//! Numbers for operators, in Prometheus text: the adapters' own counters, the core's, and the dataplane's.

use std::{
    fmt::Write as _,
    sync::atomic::{AtomicU64, Ordering},
};

use gangway_shared::rcp::{NodeStats, WorkerStats};

use crate::hub::Numbers;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts `more`.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// The number now.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counters of the adapters: what was refused or dropped before the core saw it, and traffic.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Websockets closed because the browser did not read.
    pub sockets_slow: Counter,
    /// Websockets closed because they sent too many messages.
    pub sockets_over_rate: Counter,
    /// Websockets closed because of a message over the limit.
    pub sockets_oversize: Counter,
    /// TLS handshakes that failed or took too long.
    pub tls_handshakes_failed: Counter,
    /// HTTP connections that ended in an error: bad requests, slow headers, resets.
    pub http_connections_failed: Counter,
    /// REST requests of pages that nobody allowed.
    pub rest_pages_refused: Counter,
    /// SIP messages received.
    pub sip_received: Counter,
    /// SIP messages sent.
    pub sip_sent: Counter,
    /// SIP datagrams dropped because the hub's queue was full.
    pub sip_overload: Counter,
    /// SIP datagrams that the kernel did not take.
    pub sip_send_failed: Counter,
    /// SIP streams that broke the grammar or a limit.
    pub sip_streams_invalid: Counter,
    /// SIP connections refused beyond the limit.
    pub sip_connections_refused: Counter,
    /// SIP connections that could not be made.
    pub sip_connects_failed: Counter,
    /// SIP messages dropped because a connection's queue was full.
    pub sip_queue_full: Counter,
    /// Names that could not be resolved.
    pub resolves_failed: Counter,
    /// Journal lines that could not be written.
    pub journal_lost: Counter,
    /// Times the journal was so slow that what it was about left before it was written.
    pub journal_late: Counter,
    /// Times the wall came up.
    pub relay_connects: Counter,
    /// Dataplane processes started.
    pub dataplane_starts: Counter,
}

/// What is known besides the adapters' counters.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// The core's.
    pub numbers: Numbers,
    /// The dataplane's; absent while the wall is down.
    pub node: Option<NodeStats>,
    /// Arrivals that the hub refused.
    pub hub_refused: u64,
    /// TCP connections of browsers and REST.
    pub connections_open: usize,
    /// Such connections refused.
    pub connections_refused: u64,
    /// SIP connections.
    pub sip_connections_open: usize,
}

impl Metrics {
    /// The page for Prometheus (text format 0.0.4).
    #[must_use]
    pub fn render(&self, snapshot: &Snapshot) -> String {
        let mut page = Page(String::with_capacity(8192));
        let counts = &snapshot.numbers.counts;
        page.family("gangway_calls", "gauge", "calls by status");
        for (status, value) in
            [("trying", counts.calls_trying), ("ring", counts.calls_ring), ("established", counts.calls_established)]
        {
            page.sample("gangway_calls", &[("status", status)], value);
        }
        page.gauge("gangway_sessions", "browser sessions", counts.sessions);
        page.gauge("gangway_sessions_detached", "browser sessions without a websocket", counts.sessions_detached);
        page.gauge("gangway_kept_bytes", "bytes of JSON kept to give it back to browsers", counts.kept_bytes);
        page.gauge("gangway_sockets", "websockets", counts.sockets);
        page.gauge("gangway_registrations", "registrations in force", counts.registrations);
        page.gauge("gangway_relays", "relays that control owns", counts.relays);
        page.gauge(
            "gangway_dialogs",
            "SIP dialogs, early ones and those that wait for the answer to a BYE included",
            counts.dialogs,
        );
        page.gauge("gangway_asks", "questions to the world without an answer", counts.asks);
        page.family("gangway_calls_ended_total", "counter", "calls ended, by their last status");
        for (status, value) in [("finish", counts.calls_finished_total), ("failed", counts.calls_failed_total)] {
            page.sample("gangway_calls_ended_total", &[("status", status)], value);
        }
        page.counter("gangway_calls_refused_total", "calls refused before they existed", counts.calls_refused_total);
        page.counter("gangway_frames_refused_total", "malformed websocket frames", counts.frames_refused_total);
        page.counter(
            "gangway_registrations_failed_total",
            "REGISTER attempts that failed",
            counts.registrations_failed_total,
        );
        page.gauge("gangway_connections", "TCP connections of browsers and REST", snapshot.connections_open);
        page.gauge("gangway_sip_connections", "SIP connections", snapshot.sip_connections_open);
        self.render_drops(&mut page, snapshot);
        page.family("gangway_sip_drops_total", "counter", "what the SIP core dropped or refused, by reason");
        for &(reason, value) in &snapshot.numbers.sip {
            page.sample("gangway_sip_drops_total", &[("reason", reason)], value);
        }
        page.family(
            "gangway_sip_long_requests_total",
            "counter",
            "SIP requests too long for a datagram, by what became of them",
        );
        for &(way, value) in &snapshot.numbers.sip_long {
            page.sample("gangway_sip_long_requests_total", &[("way", way)], value);
        }
        page.counter("gangway_sip_received_total", "SIP messages received", self.sip_received.value());
        page.counter("gangway_sip_sent_total", "SIP messages sent", self.sip_sent.value());
        page.counter(
            "gangway_journal_late_total",
            "times the journal was not waited for any longer because the disk was too slow",
            self.journal_late.value(),
        );
        page.counter("gangway_relay_connects_total", "times the wall came up", self.relay_connects.value());
        page.counter("gangway_dataplane_starts_total", "dataplane processes started", self.dataplane_starts.value());
        page.gauge("gangway_dataplane_up", "1 while the dataplane answers", u64::from(snapshot.node.is_some()));
        if let Some(node) = &snapshot.node {
            render_node(&mut page, node);
        }
        page.0
    }

    fn render_drops(&self, page: &mut Page, snapshot: &Snapshot) {
        page.family("gangway_control_drops_total", "counter", "what control dropped or refused, by reason");
        for (reason, value) in [
            ("hub_queue_full", snapshot.hub_refused),
            ("connection_limit", snapshot.connections_refused),
            ("session_displaced", snapshot.numbers.counts.sessions_displaced_total),
            ("socket_slow", self.sockets_slow.value()),
            ("socket_over_rate", self.sockets_over_rate.value()),
            ("socket_oversize", self.sockets_oversize.value()),
            ("tls_handshake", self.tls_handshakes_failed.value()),
            ("http_connection", self.http_connections_failed.value()),
            ("rest_page", self.rest_pages_refused.value()),
            ("sip_overload", self.sip_overload.value()),
            ("sip_send", self.sip_send_failed.value()),
            ("sip_stream_invalid", self.sip_streams_invalid.value()),
            ("sip_connection_limit", self.sip_connections_refused.value()),
            ("sip_connect", self.sip_connects_failed.value()),
            ("sip_queue_full", self.sip_queue_full.value()),
            ("resolve", self.resolves_failed.value()),
            ("journal", self.journal_lost.value()),
        ] {
            page.sample("gangway_control_drops_total", &[("reason", reason)], value);
        }
    }
}

fn render_node(page: &mut Page, node: &NodeStats) {
    page.gauge("gangway_dataplane_relays", "relays in force", node.relays);
    page.family("gangway_media_ports", "gauge", "media ports towards SIP peers, by state");
    for (state, value) in [
        ("used", node.media_ports_used),
        ("quarantined", node.media_ports_quarantined),
        ("total", node.media_ports_total),
    ] {
        page.sample("gangway_media_ports", &[("state", state)], value);
    }
    page.gauge("gangway_dtls_handshakes", "DTLS handshakes in progress", node.dtls_handshakes);
    page.gauge("gangway_dataplane_draining", "1 once no new relay is taken", u64::from(node.draining));
    type Row = (&'static str, &'static str, fn(&WorkerStats) -> u64);
    let numbers: [Row; 4] = [
        ("gangway_worker_relays", "relays of a worker", |worker| worker.relays),
        ("gangway_worker_received_total", "packets received", |worker| worker.received),
        ("gangway_worker_sent_total", "packets sent", |worker| worker.sent),
        ("gangway_worker_batches_total", "rounds that brought a packet", |worker| worker.batches),
    ];
    for (name, help, value) in numbers {
        page.family(name, if name.ends_with("_total") { "counter" } else { "gauge" }, help);
        for worker in &node.workers {
            page.sample(name, &[("worker", &worker.worker.to_string())], value(worker));
        }
    }
    page.family("gangway_worker_busy_seconds_total", "counter", "processor time of a worker");
    for worker in &node.workers {
        let number = worker.worker.to_string();
        page.sample("gangway_worker_busy_seconds_total", &[("worker", &number)], seconds(worker.busy_us));
    }
    page.family("gangway_worker_engine_total", "counter", "what happened to a worker's engine");
    for worker in &node.workers {
        for (event, value) in &worker.engine {
            let clean: String = event.chars().filter(|at| at.is_ascii_alphanumeric() || *at == '_').collect();
            let number = worker.worker.to_string();
            page.sample("gangway_worker_engine_total", &[("worker", &number), ("event", &clean)], value);
        }
    }
    render_latency(page, node);
    page.family("gangway_dataplane_drops_total", "counter", "packets that the dataplane dropped, by reason");
    for worker in &node.workers {
        page.drops(&worker.worker.to_string(), node.worker_drops(worker));
    }
    page.drops("manager", node.drops.iter().map(|(reason, value)| (reason.as_str(), *value)));
}

/// The histogram of each worker. It has no sum: the counts are of spans, not of times.
fn render_latency(page: &mut Page, node: &NodeStats) {
    let name = "gangway_worker_latency_seconds";
    page.family(name, "histogram", "from the kernel's receive time to the end of sending, of packets that have one");
    for worker in &node.workers {
        let number = worker.worker.to_string();
        let ends = node.latency_bounds_us.iter().map(|end| seconds(*end)).chain(["+Inf".to_owned()]);
        let mut total = 0;
        for (end, count) in ends.zip(&worker.latency) {
            total += count;
            page.sample(&format!("{name}_bucket"), &[("worker", &number), ("le", &end)], total);
        }
        page.sample(&format!("{name}_count"), &[("worker", &number)], total);
    }
}

fn seconds(micros: u64) -> String {
    format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000)
}

/// Prometheus text being written.
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}"));
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl std::fmt::Display) {
        self.family(name, "gauge", help);
        self.sample(name, &[], value);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "counter", help);
        self.sample(name, &[], value);
    }

    /// Label values here are our own words and numbers: nothing needs to be escaped.
    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let labels: Vec<String> = labels.iter().map(|(label, text)| format!("{label}=\"{text}\"")).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        self.line(format_args!("{name}{labels} {value}"));
    }

    fn drops<'a>(&mut self, worker: &str, drops: impl Iterator<Item = (&'a str, u64)>) {
        for (reason, value) in drops {
            let clean: String = reason.chars().filter(|at| at.is_ascii_alphanumeric() || *at == '_').collect();
            self.sample("gangway_dataplane_drops_total", &[("worker", worker), ("reason", &clean)], value);
        }
    }

    fn line(&mut self, text: std::fmt::Arguments<'_>) {
        writeln!(self.0, "{text}").expect("writing to a string cannot fail");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::effects::Counts;

    #[test]
    fn every_counter_and_every_drop_of_the_dataplane_is_on_the_page() {
        let metrics = Metrics::default();
        metrics.sockets_slow.add(3);
        let (drops, latency) = (vec![5, 0], vec![1, 0, 2]);
        let engine = [("out_of_buffers".to_owned(), 4)].into_iter().collect();
        let worker = WorkerStats {
            worker: 1,
            relays: 2,
            received: 7,
            sent: 6,
            drops,
            batches: 3,
            busy_us: 2_000_250,
            latency,
            engine,
        };
        let drop_reasons = vec!["stun_bad_integrity".to_owned(), "no_route".to_owned()];
        let (workers, latency_bounds_us) = (vec![worker], vec![2, 3]);
        let node = NodeStats { drop_reasons, workers, latency_bounds_us, media_ports_used: 4, ..NodeStats::default() };
        let counts = Counts { calls_ring: 9, ..Counts::default() };
        let numbers = Numbers { counts, sip: vec![("stray_responses", 8)], sip_long: vec![("shortened", 2)] };
        let page = metrics.render(&Snapshot { numbers, node: Some(node), ..Snapshot::default() });
        for line in [
            "gangway_calls{status=\"ring\"} 9",
            "gangway_control_drops_total{reason=\"socket_slow\"} 3",
            "gangway_dataplane_drops_total{worker=\"1\",reason=\"stun_bad_integrity\"} 5",
            "gangway_dataplane_drops_total{worker=\"1\",reason=\"no_route\"} 0",
            "gangway_media_ports{state=\"used\"} 4",
            "gangway_worker_received_total{worker=\"1\"} 7",
            "gangway_worker_batches_total{worker=\"1\"} 3",
            "gangway_worker_busy_seconds_total{worker=\"1\"} 2.000250",
            "gangway_worker_engine_total{worker=\"1\",event=\"out_of_buffers\"} 4",
            "gangway_worker_latency_seconds_bucket{worker=\"1\",le=\"0.000002\"} 1",
            "gangway_worker_latency_seconds_bucket{worker=\"1\",le=\"0.000003\"} 1",
            "gangway_worker_latency_seconds_bucket{worker=\"1\",le=\"+Inf\"} 3",
            "gangway_worker_latency_seconds_count{worker=\"1\"} 3",
            "gangway_sip_drops_total{reason=\"stray_responses\"} 8",
            "gangway_sip_long_requests_total{way=\"shortened\"} 2",
            "gangway_dataplane_up 1",
        ] {
            assert!(page.lines().any(|at| at == line), "{line} is missing in\n{page}");
        }
        for line in page.lines().filter(|line| !line.starts_with('#')) {
            let name = line.split(['{', ' ']).next().unwrap();
            let of_histogram = ["_bucket", "_count"].iter().find_map(|end| name.strip_suffix(end));
            let has_type = |name: &str, kind: &str| page.contains(&format!("# TYPE {name} {kind}"));
            let is_typed = has_type(name, "") || of_histogram.is_some_and(|name| has_type(name, "histogram"));
            assert!(is_typed, "{name} has no type");
        }
    }
}
