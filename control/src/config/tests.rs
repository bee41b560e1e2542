use std::fmt::Write as _;

use super::{table::State, *};

fn config(text: &str, sets: &[&str]) -> Result<Config, ConfigError> {
    let sets = sets.iter().map(|&set| set.to_owned()).collect();
    Config::parse("test.properties", text, Sources { sets, ..Sources::default() })
}

#[test]
fn every_default_is_allowed_and_every_name_stands_once() {
    let config = config("", &[]).unwrap();
    assert_eq!(config.port("ws.port"), Port::Fixed(8080));
    assert_eq!(config.seconds("ring_timeout"), Duration::from_secs(60));
    assert_eq!(config.millis("keep_alive.server_interval"), Duration::from_secs(5));
    assert_eq!(config.ip_local(), ["0.0.0.0".parse::<IpAddr>().unwrap(), "::".parse().unwrap()]);
    for (at, key) in KEYS.iter().enumerate() {
        assert!(KEYS[..at].iter().all(|other| other.name != key.name), "{} stands twice", key.name);
    }
}

#[test]
fn a_bad_value_names_file_line_key_value_and_what_is_allowed() {
    let error = config("\nring_timeout=soon\n", &[]).unwrap_err();
    let text = "test.properties:2: ring_timeout = \"soon\": a whole number from 1 to 3600 is allowed";
    assert_eq!(error.to_string(), text);
}

#[test]
fn every_kind_refuses_what_it_does_not_take() {
    for set in [
        "ws.port=70000",
        "ip=999.1.1.1",
        "ip=10.0.0.1=x",
        "ip_local=here",
        "early_media=perhaps",
        "rtp_activity_detecting=maybe",
        "rtp_activity_detecting=true,0",
        "rtp_activity_detecting=true,86401",
        "rtp_activity_detecting=true,",
        "rtp_activity_detecting=false,30",
        "ringback=loud",
        "sip_trusted=10.0.0.0/33",
        "rest_allowed_origins=app.example.com",
        "rest_allowed_origins=https://app.example.com/",
        "sdp_origin=a\u{1}b",
        "codecs=opus,a b",
        "media_port_to=31001",
        "tls.cert=/tmp/cert.pem",
    ] {
        let (key, _) = set.split_once('=').unwrap();
        let error = config("", &[set]).expect_err(set).to_string();
        assert!(error.starts_with("--set: ") || error.contains("is set, so this"), "{set}: {error}");
        assert!(error.contains(key), "{set}: {error}");
    }
}

#[test]
fn a_secret_is_neither_shown_in_an_error_nor_in_the_report() {
    let long = format!("rest_hook_secret_key={}", "hunter2".repeat(60));
    assert!(!config("", &[&long]).unwrap_err().to_string().contains("hunter2"));
    let shown = report(&config("", &["rest_hook_secret_key=hunter2"]).unwrap());
    assert!(!shown.contains("hunter2"));
    assert!(shown.contains("rest_hook_secret_key = [redacted]  (--set; accepted without effect"));
}

#[test]
fn unknown_keys_are_told_and_unknown_trunk_keys_stop_the_start() {
    let config_ = config("colour=blue\ntrunk.a.proxy=sip.example.com\ntrunk.a.match=a.test\n", &[]).unwrap();
    assert_eq!(config_.unknown_keys().map(|(key, _)| key).collect::<Vec<_>>(), ["colour"]);
    let shown = report(&config_);
    assert!(shown.contains("colour = blue  (test.properties:1; unknown)"), "{shown}");
    assert!(shown.contains("trunk.a.proxy = sip.example.com  (test.properties:2; accepted without effect"), "{shown}");
    for (line, reason) in [
        ("trunk.a.colour=blue", "with one of match, transport, udp_only"),
        ("trunk..match=a", "with one of"),
        ("trunk.a.udp_only=perhaps", "true or false"),
        ("trunk.a.transport=tls", "udp or tcp"),
        ("trunk.a.match=10.0.0.0/40", "address ranges joined by commas"),
        ("trunk.a.max_calls=many", "a whole number"),
        ("trunk.a.udp_only=true", "trunk.a.match must say whom it is for; only trunk.default goes without"),
    ] {
        let error = config(&format!("{line}\n"), &[]).unwrap_err().to_string();
        let (key, value) = line.split_once('=').unwrap();
        assert!(error.starts_with(&format!("test.properties:1: {key} = \"{value}\"")), "{error}");
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn trunks_are_read_by_name() {
    let text = "trunk.office.match=pbx.example.com,192.0.2.0/24\ntrunk.office.udp_only=true\ntrunk.office.codecs=alaw,vp8\n\
                trunk.default.transport=tcp\n";
    let read = config(text, &[]).unwrap();
    assert!(report(&read).contains("trunk.office.udp_only = true  (test.properties:2; used)"), "{}", report(&read));
    let gateway = read.gateway(crate::sip::ua::UaConfig::new(Vec::new()));
    let office = gateway.trunks.of(&["pbx.example.com"], None).unwrap();
    assert!(office.udp_only && office.codecs.is_some() && office.transport.is_none());
    assert_eq!(office.name, "office");
    let other = gateway.trunks.of(&["elsewhere.test"], None).unwrap();
    assert_eq!((other.name.as_str(), other.transport), ("default", Some(crate::sip::Transport::Tcp)));
    assert!(!other.udp_only && other.codecs.is_none());
}

#[test]
fn what_a_trunk_cannot_mean_stops_the_start() {
    let read = |lines: &str| config(lines, &[]).map(drop).map_err(|error| error.to_string());
    let error = read("trunk.a.match=a.test\ntrunk.a.transport=tcp\ntrunk.a.udp_only=true\n").unwrap_err();
    assert!(error.starts_with("test.properties:3: trunk.a.udp_only") && error.contains("only false"), "{error}");
    assert_eq!(read("trunk.a.match=a.test\ntrunk.a.transport=udp\ntrunk.a.udp_only=true\n"), Ok(()));
    assert_eq!(read("trunk.default.udp_only=true\n"), Ok(()));
    assert!(read("trunk.a.match=\ntrunk.a.codecs=alaw\n").unwrap_err().contains("trunk.a.match must say"));
}

#[test]
fn the_codec_list_of_a_trunk_is_warned_of_like_that_of_all() {
    let warnings = |text: &str| {
        let read = config(text, &[]).unwrap();
        read.gateway(crate::sip::ua::UaConfig::new(Vec::new())).codec_warnings()
    };
    assert!(warnings("").is_empty());
    let of_all = warnings("codecs=alaw,bogus\n");
    assert_eq!(of_all.len(), 1, "{of_all:?}");
    let of_one = warnings("trunk.a.match=a.test\ntrunk.a.codecs=alaw,bogus\n");
    assert_eq!(of_one, [format!("trunk.a: {}", of_all[0])]);
}

#[test]
fn the_report_names_each_key_with_origin_and_state() {
    let shown = report(&config("ring_timeout=7\n", &["sip_port=auto"]).unwrap());
    for key in KEYS {
        assert!(shown.lines().any(|line| line.starts_with(&format!("{} = ", key.name))), "{}", key.name);
    }
    assert!(shown.contains("ring_timeout = 7  (test.properties:1; used)"));
    assert!(shown.contains("sip_port = auto  (--set; used)"));
    assert!(shown.contains("ice_timeout = 30  (default; used)"));
}

#[test]
fn a_taken_port_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let all_auto =
        ["ws.port=0", "wss.port=0", "https.port=0", "sip_port=auto", "webrtc_port=auto", "media_port_from=auto"];
    let mut sets = all_auto.to_vec();
    let http = format!("http.port={port}");
    sets.push(&http);
    let problems = unbindable_ports(&config("", &sets).unwrap());
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].starts_with(&format!("http.port: tcp 127.0.0.1:{port} cannot be bound: ")), "{problems:?}");
}

#[test]
fn demo_announces_loopback_first_and_yields_to_what_is_set() {
    let sources = Sources { demo: true, ..Sources::default() };
    let demo = Config::parse("", "", sources.clone()).unwrap();
    assert_eq!(demo.ip()[0].local, IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));
    assert!(demo.dataplane_arguments().iter().any(|argument| argument.starts_with("ip=127.0.0.1")));
    let set = Config::parse("", "ip=10.0.0.9=198.51.100.9\n", sources).unwrap();
    assert_eq!(set.ip()[0].advertised, "198.51.100.9".parse::<IpAddr>().unwrap());
    assert!(!set.dataplane_arguments().iter().any(|argument| argument.starts_with("ip=")));
}

#[test]
fn timers_without_a_value_follow_t1() {
    let timers = config("", &["sip_t1_ms=10", "sip_timer_f_ms=99"]).unwrap().sip_timers();
    assert_eq!(timers.b, Duration::from_millis(640));
    assert_eq!(timers.f, Duration::from_millis(99));
}

#[test]
fn activity_is_a_switch_that_may_name_its_seconds() {
    let timeout = |sets: &[&str]| config("", sets).unwrap().activity_timeout();
    assert_eq!(timeout(&[]), Some(Duration::from_secs(60)));
    assert_eq!(timeout(&["rtp_activity_timeout_ms=1500"]), Some(Duration::from_millis(1500)));
    assert_eq!(
        timeout(&["rtp_activity_detecting=true,30", "rtp_activity_timeout_ms=1500"]),
        Some(Duration::from_secs(30))
    );
    assert_eq!(timeout(&["rtp_activity_detecting=True, 86400"]), Some(Duration::from_secs(86_400)));
    assert_eq!(timeout(&["rtp_activity_detecting=false"]), None);
    let shown = report(&config("rtp_activity_detecting=true,30\n", &[]).unwrap());
    assert!(shown.contains("rtp_activity_detecting = true,30  (test.properties:1; used)"), "{shown}");
}

/// The tables as docs/OPERATIONS.md has them.
fn table_page(keys: &[Key]) -> String {
    let mut out = String::from("| key | default | meaning | state |\n|---|---|---|---|\n");
    for key in keys {
        let default = match (key.computed, key.default) {
            (Some(words), _) => words.to_owned(),
            (None, "") => "-".to_owned(),
            (None, text) => format!("`{text}`"),
        };
        let state = match key.state {
            State::Used => "used".to_owned(),
            State::WithoutEffect(why) => format!("accepted without effect: {why}"),
        };
        writeln!(out, "| `{}` | {default} | {} | {state} |", key.name, key.doc).unwrap();
    }
    out
}

#[test]
fn the_operators_page_has_the_table() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/OPERATIONS.md");
    let page = std::fs::read_to_string(path).unwrap();
    for (keys, name) in [(KEYS, "settings"), (TRUNK_KEYS, "trunks")] {
        let table = table_page(keys);
        if !page.contains(&table) {
            let expected = std::env::temp_dir().join(format!("gangway-{name}-table.md"));
            std::fs::write(&expected, table).unwrap();
            panic!("docs/OPERATIONS.md lacks the table of {name}; {} has it", expected.display());
        }
    }
}

#[test]
fn the_default_port_of_an_origin_is_left_out_as_browsers_do() {
    let config =
        config("", &["rest_allowed_origins=https://App.example:443,http://a.example:80,https://b.example:80"]).unwrap();
    assert_eq!(
        config.list("rest_allowed_origins"),
        ["https://app.example", "http://a.example", "https://b.example:80"]
    );
}
