//! The two programs as an operator sees them: settings, signals, pages, and what is left when they end.

use std::time::Duration;

use gangway_tests::{
    dataplane::engine_name,
    deadline::{Deadline, pause},
    gateway::Gateway,
    media::Codecs,
    phone::Phone,
    sipp::Sipp,
};
use rustix::process::{Pid, test_kill_process};
use serde_json::json;

/// Processes whose command line names this folder.
fn processes_with(folder: &str) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&line).contains(folder) {
            found.push(pid);
        }
    }
    found
}

/// The ready line has everything interface.md promises, and no two gateways meet on a port.
#[test]
fn two_gateways_run_side_by_side_on_ports_of_the_kernel() {
    let (one, two) = (Gateway::start(&[]), Gateway::start(&[]));
    for gateway in [&one, &two] {
        let ready = gateway.ready();
        for key in ["ws", "wss", "rest", "pages", "pages_https"] {
            assert!(ready[key].as_str().is_some_and(|url| url.contains("://")), "{key} in {ready}");
        }
        assert_eq!(
            (&ready["dataplane"]["workers"], &ready["dataplane"]["engine"]),
            (&json!(1), &json!(engine_name())),
            "{ready}"
        );
        assert!(ready["sip"].as_array().is_some_and(|sip| sip.len() >= 2), "{ready}");
    }
    assert_ne!(one.ws(), two.ws());
    assert_ne!(one.webrtc(), two.webrtc());
}

/// SIGINT: BYE to all, exit within 3 s, and the dataplane goes too.
#[test]
fn ctrl_c_says_bye_and_leaves_no_process() {
    let Some(peer) = Sipp::uas("uas_answer", &[("RING_MS", "10")]) else { return };
    let gateway = Gateway::start(&[]);
    let folder = gateway.folder().display().to_string();
    let mut phone = Phone::unregistered(&gateway, peer.port());
    let call = phone.establish("2001", Codecs::PCMU);
    assert!(processes_with(&folder).len() >= 2, "control and dataplane");
    gateway.interrupt();
    peer.finish(Deadline::seconds(5));
    phone.expect_status(&call.id, "FINISH", Deadline::seconds(3));
    Deadline::seconds(8).poll("both programs to leave", || {
        processes_with(&folder)
            .iter()
            .all(|pid| Pid::from_raw(*pid).is_none_or(|pid| test_kill_process(pid).is_err()))
            .then_some(())
    });
}

/// The pages: ours at `/`, the vendor's under `/client2/`, and a plain GET on the wss port is told what that port is for.
#[test]
fn pages_are_served() {
    let gateway = Gateway::start(&[]);
    let (status, page) = gateway.http("/", None);
    assert!(status == 200 && page.contains("Gangway Phone"), "{status} {page}");
    for path in ["/phone.js", "/phone.css", "/client2/flashphoner.js", "/client2/examples/demo/sip/phone/phone.html"] {
        assert_eq!(gateway.http(path, None).0, 200, "{path}");
    }
    for path in ["/client2/../../../Cargo.toml", "/client2/%2e%2e/%2e%2e/package.json", "/no-such-page"] {
        assert_eq!(gateway.http(path, None).0, 404, "{path}");
    }
}

/// Bad REST requests get a status and words.
#[test]
fn rest_says_what_is_wrong() {
    let gateway = Gateway::start(&[]);
    for (method, body, status) in [
        ("/call/terminate", Some(json!({})), 400),
        ("/call/terminate", Some(json!({ "callId": 7 })), 400),
        ("/call/terminate", Some(json!([])), 400),
        ("/call/no_such_method", Some(json!({})), 404),
        ("/call/find_all", None, 404),
        ("/connection/find_all", None, 404),
    ] {
        let (got, answer) = gateway.rest(method, body.as_ref());
        assert_eq!(got, status, "{method} {body:?}: {answer}");
        assert!(answer["message"].as_str().is_some_and(|message| !message.is_empty()), "{method}: {answer}");
    }
}

/// A dataplane that is killed comes back, and the next call works.
#[test]
fn a_killed_dataplane_is_started_again() {
    let Some(peer) = Sipp::uas("uas_answer", &[("RING_MS", "10")]) else { return };
    let gateway = Gateway::start(&[]);
    let mut phone = Phone::unregistered(&gateway, peer.port());
    let folder = gateway.folder().display().to_string();
    let dataplane = |folder: &str| {
        processes_with(folder).into_iter().find(|pid| {
            std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.ends_with("gangway-dataplane"))
        })
    };
    let first = dataplane(&folder).expect("a dataplane");
    rustix::process::kill_process(Pid::from_raw(first).expect("a pid"), rustix::process::Signal::KILL)
        .expect("it was there");
    Deadline::seconds(10).poll("another dataplane", || dataplane(&folder).filter(|pid| *pid != first));
    Deadline::seconds(10)
        .poll("the wall to be up again", || (gateway.metric("gangway_dataplane_up", "") == 1.0).then_some(()));
    pause(Duration::from_millis(200));
    let call = phone.establish("2001", Codecs::PCMU);
    phone.hangup(&call.id);
    phone.expect_status(&call.id, "FINISH", Deadline::seconds(3));
    gateway.wait_idle(Deadline::seconds(8));
}
