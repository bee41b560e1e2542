//! Control dies under a page of the vendor's SDK that asked for keepAlive: the sound goes on, the page comes back by its token, and hangs
//! up.

use gangway_tests::{browser::Browser, deadline::Deadline, gateway::Gateway, trunk::Trunk};
use serde_json::{Value, json};

use crate::sdk::start_session;

/// A second session of the page, by the token of the first.
const RESUME: &str = r#"
test.again = [];
test.sdk2 = Flashphoner.createSession({ urlServer: argument.ws, keepAlive: true, authToken: test.connection.authToken });
for (const status of ["ESTABLISHED", "DISCONNECTED", "FAILED"])
  test.sdk2.on(Flashphoner.constants.SESSION_STATUS[status], (first, connection) => {
    test.again.push(status);
    if (connection) test.login = connection.sipLogin;
  });
"#;

#[test]
fn a_kept_page_talks_on_while_control_is_started_anew_and_hangs_up_afterwards() {
    let mut gateway = Gateway::start(&[("dataplane_linger_s", "5")]);
    let trunk = Trunk::start();
    let Some(mut browser) = Browser::start() else { return };
    start_session(&mut browser, &gateway, Some(trunk.port()), &json!({ "keepAlive": true }));
    browser.eval("sdk", "test.dial('2001');", Value::Null);
    browser.wait("sdk", "return test.call.includes('ESTABLISHED');", 15);
    // The echo of its own beeps.
    browser.wait_heard("sdk", 400, 1, 15);
    gateway.kill_control();
    browser.wait("sdk", "return test.session.includes('DISCONNECTED');", 5);
    let hears_more = |browser: &mut Browser| {
        let heard = browser.eval("sdk", "return window.gangwayProbe.times(400);", Value::Null).as_u64().unwrap_or(0);
        browser.wait_heard("sdk", 400, u32::try_from(heard).unwrap_or(0) + 1, 15);
    };
    hears_more(&mut browser);
    gateway.start_control(&[]);
    browser.eval("sdk", RESUME, json!({ "ws": gateway.ws() }));
    browser.wait("sdk", "return test.again.includes('ESTABLISHED');", 10);
    assert_eq!(browser.eval("sdk", "return test.login;", Value::Null), "1001");
    hears_more(&mut browser);
    assert_eq!((trunk.living(), trunk.received().lost), (1, 0));
    browser.eval("sdk", "test.current.hangup();", Value::Null);
    Deadline::seconds(8).poll("BYE", || (trunk.living() == 0).then_some(()));
    gateway.wait_idle(Deadline::seconds(8));
    assert_eq!(browser.eval("sdk", "return test.again;", Value::Null), json!(["ESTABLISHED"]));
    browser.assert_quiet("sdk", &["demo.json"]);
}
