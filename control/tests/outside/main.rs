//! Control from outside, over its real sockets, without a dataplane: limits, REST, pages, SIP over TCP.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

mod demo;
mod http;
mod limits;
mod pages;
mod rest;
mod sip;
mod tls;
mod websocket;

use std::{net::SocketAddr, time::Duration};

use gangway_control::{
    config::{Config, Sources},
    house::House,
};

/// Every wait ends with this.
const SOON: Duration = Duration::from_secs(20);

/// A control in this process, on ports that the kernel chose.
struct Control {
    house: House,
    dir: tempfile::TempDir,
}

impl Control {
    /// Starts one with `sets` over the settings of tests.
    fn start(sets: &[&str]) -> Self {
        Self::start_after("", sets)
    }

    /// Starts one where a former control left these lines in its journal.
    fn start_after(journal: &str, sets: &[&str]) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("journal"), journal).unwrap();
        let mut all: Vec<String> = ["ws.port", "wss.port", "http.port", "https.port", "sip_port", "webrtc_port"]
            .iter()
            .map(|key| format!("{key}=auto"))
            .collect();
        all.extend([
            format!("data_dir={}", dir.path().display()),
            "ip=127.0.0.1".to_owned(),
            "ip_local=127.0.0.1".to_owned(),
        ]);
        all.extend(sets.iter().map(|&set| set.to_owned()));
        let config = Config::parse("", "", Sources { sets: all, ..Sources::default() }).unwrap();
        let mut house = House::open(&config).unwrap();
        house.serve(&config, None);
        Control { house, dir }
    }

    fn ws(&self) -> SocketAddr {
        local(self.house.bound().ws)
    }

    fn wss(&self) -> SocketAddr {
        local(self.house.bound().wss)
    }

    fn http(&self) -> SocketAddr {
        local(self.house.bound().http)
    }

    fn sip(&self) -> SocketAddr {
        local(Some(self.house.sip_port()))
    }

    /// A number of the page for Prometheus, by its whole name with labels.
    async fn metric(&self, name: &str) -> u64 {
        let page = http::get(self.http(), "/metrics").await;
        assert_eq!(page.status, 200);
        let line = page.body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).map(str::to_owned);
        line.unwrap_or_else(|| panic!("{name} is not on the page\n{}", page.body)).parse().unwrap()
    }

    /// Waits until a number is at least `wanted`.
    async fn metric_reaches(&self, name: &str, wanted: u64) {
        let deadline = tokio::time::Instant::now() + SOON;
        while self.metric(name).await < wanted {
            assert!(tokio::time::Instant::now() < deadline, "{name} did not reach {wanted}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn local(port: Option<u16>) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port.expect("the port is on")))
}
