//! A headless browser as a test sees it: pages by name, scripts in them, what they hear, and what went wrong in them.
//! The work is done by `tests/browser/driver.mjs` for Chromium, by `tests/browser/firefox.mjs` for Firefox.

use std::{path::Path, process::Command, time::Duration};

use serde_json::{Value, json};

use crate::{
    deadline::Deadline,
    process::{Process, peer},
    source::root,
};

/// How long one command may take in the driver, on top of the time it is itself told to wait.
const COMMAND_WITHIN: Duration = Duration::from_secs(30);

/// A running browser with its driver.
pub struct Browser {
    driver: Process,
    commands: u64,
}

/// Where the parts of a page come from and how it is shown.
#[derive(Debug, Clone, Default)]
pub struct View<'a> {
    /// Width and height, pixels; a desktop's when absent.
    pub size: Option<(u32, u32)>,
    /// Dark instead of light.
    pub dark: bool,
    /// For somebody who asked for less motion.
    pub reduced: bool,
    /// URL prefixes that are answered with the files of a folder instead of by a server.
    pub files: &'a [(&'a str, &'a Path)],
}

impl Browser {
    /// Starts Chromium; `None` when it is not installed.
    pub fn start() -> Option<Self> {
        let chromium = peer("chromium")?;
        let node = peer("node")?;
        let mut command = Command::new(node);
        command.arg(root().join("tests/browser/driver.mjs")).env("GANGWAY_CHROMIUM", chromium);
        Some(Self::launch("chromium", command))
    }

    /// Starts Firefox; `None` when it is not installed. `command` makes the command of a program, in the network that it is to run in:
    /// Firefox does not reach a gateway on 127.0.0.1. Of [`View`] it knows the size; it hears by `gangwayProbe.rows` alone.
    pub fn start_firefox(command: impl FnOnce(&Path) -> Command) -> Option<Self> {
        let firefox = peer("firefox-esr")?;
        let node = peer("node")?;
        let mut command = command(&node);
        command.arg(root().join("tests/browser/firefox.mjs")).env("GANGWAY_FIREFOX", firefox);
        Some(Self::launch("firefox", command))
    }

    fn launch(name: &str, command: Command) -> Self {
        let mut driver = Process::start(name, command);
        driver.wait_line(name, Deadline::seconds(60), |line| line.starts_with("{\"ready\""));
        Self { driver, commands: 0 }
    }

    /// One command of the driver; its answer or its error.
    ///
    /// # Errors
    /// What the browser said, e.g. that a wait was in vain.
    ///
    /// # Panics
    /// When the driver itself does not answer.
    #[track_caller]
    pub fn try_command(&mut self, command: &str, mut body: Value, within: Duration) -> Result<Value, String> {
        self.commands += 1;
        body["id"] = self.commands.into();
        body["command"] = command.into();
        self.driver.write_line(&body.to_string());
        let start = format!("{{\"id\":{},", self.commands);
        let line = self.driver.wait_line(
            &format!("the browser's {command}"),
            Deadline::after(within + COMMAND_WITHIN),
            |line| line.starts_with(&start),
        );
        let answer: Value = serde_json::from_str(&line).expect("the driver answers in JSON");
        match answer.get("error") {
            Some(error) => Err(error.as_str().unwrap_or("").to_owned()),
            None => Ok(answer["value"].clone()),
        }
    }

    #[track_caller]
    fn command(&mut self, command: &str, body: Value) -> Value {
        let shown = body.to_string();
        self.try_command(command, body, Duration::ZERO).unwrap_or_else(|error| panic!("{command} {shown}: {error}"))
    }

    /// Opens `url` in a fresh context under the name `page`.
    #[track_caller]
    pub fn open(&mut self, page: &str, url: &str) {
        self.open_as(page, url, &View::default());
    }

    /// Opens `url` shown as `view` says.
    #[track_caller]
    pub fn open_as(&mut self, page: &str, url: &str, view: &View<'_>) {
        let files: serde_json::Map<String, Value> =
            view.files.iter().map(|(prefix, folder)| ((*prefix).to_owned(), json!(folder))).collect();
        let size = view.size.map(|(width, height)| json!({ "width": width, "height": height }));
        self.command("open", json!({ "page": page, "url": url, "viewport": size, "dark": view.dark, "reduced": view.reduced, "files": files }));
    }

    /// Runs the body of an async function in the page (its parameter is `argument`) and hands back what it returns.
    #[track_caller]
    pub fn eval(&mut self, page: &str, script: &str, argument: Value) -> Value {
        self.command("eval", json!({ "page": page, "script": script, "argument": argument }))
    }

    /// Waits until the body of a function returns something true in the page, and hands that back.
    ///
    /// # Panics
    /// When it does not within `seconds`; the message shows the page's last log lines.
    #[track_caller]
    pub fn wait(&mut self, page: &str, script: &str, seconds: u64) -> Value {
        let body = json!({ "page": page, "script": script, "timeout": seconds * 1000 });
        match self.try_command("wait", body, Duration::from_secs(seconds)) {
            Ok(value) => value,
            Err(error) => {
                let logs = self.command("logs", json!({ "page": page }));
                panic!("page {page}: waited {seconds} s in vain for `{script}`: {error}\n{logs:#}");
            }
        }
    }

    /// Waits until the text of the element is `text`.
    #[track_caller]
    pub fn wait_text(&mut self, page: &str, selector: &str, text: &str, seconds: u64) {
        let script = format!(
            "const e = document.querySelector({}); return e && e.textContent.trim() === {};",
            json!(selector),
            json!(text)
        );
        self.wait(page, &script, seconds);
    }

    /// The text of an element, trimmed.
    #[track_caller]
    pub fn text(&mut self, page: &str, selector: &str) -> String {
        let script = "const e = document.querySelector(argument); return e ? e.textContent.trim() : '';";
        self.eval(page, script, json!(selector)).as_str().unwrap_or("").to_owned()
    }

    /// Clicks an element once it is visible and enabled.
    #[track_caller]
    pub fn click(&mut self, page: &str, selector: &str) {
        self.command("click", json!({ "page": page, "selector": selector }));
    }

    /// Types into a field.
    #[track_caller]
    pub fn fill(&mut self, page: &str, selector: &str, value: &str) {
        self.command("fill", json!({ "page": page, "selector": selector, "value": value }));
    }

    /// Ticks or unticks a box.
    #[track_caller]
    pub fn set_checked(&mut self, page: &str, selector: &str, value: bool) {
        self.command("setChecked", json!({ "page": page, "selector": selector, "value": value }));
    }

    /// Drags an element by the mouse, by so many pixels to the right and down.
    #[track_caller]
    pub fn drag(&mut self, page: &str, selector: &str, by: (i32, i32)) {
        self.command("drag", json!({ "page": page, "selector": selector, "by": [by.0, by.1] }));
    }

    /// Presses a key, e.g. `Enter`.
    #[track_caller]
    pub fn press(&mut self, page: &str, key: &str) {
        self.command("press", json!({ "page": page, "key": key }));
    }

    /// Waits until the page has heard `hz` from the other side for about `times` times 20 ms.
    #[track_caller]
    pub fn wait_heard(&mut self, page: &str, hz: u32, times: u32, seconds: u64) {
        self.wait(page, &format!("return window.gangwayProbe.times({hz}) >= {times};"), seconds);
    }

    /// Writes a picture of the whole page.
    #[track_caller]
    pub fn screenshot(&mut self, page: &str, file: &Path) {
        self.command("screenshot", json!({ "page": page, "file": file }));
    }

    /// Closes a page as a user does.
    #[track_caller]
    pub fn close(&mut self, page: &str) {
        self.command("close", json!({ "page": page }));
    }

    /// Check 53: no uncaught error, no unhandled rejection, no console error, no "Unknown server message" so far, but for
    /// what contains one of `allowed`.
    #[track_caller]
    pub fn assert_quiet(&mut self, page: &str, allowed: &[&str]) {
        // A browser asks for a favicon on its own; the SDK says itself that it does not know these two.
        let known = ["favicon.ico", "Unknown server message getVersion", "Unknown server message busy"];
        let problems = self.command("problems", json!({ "page": page }));
        let unexpected: Vec<&Value> = problems
            .as_array()
            .into_iter()
            .flatten()
            .filter(|problem| {
                let text = problem["text"].as_str().unwrap_or("");
                !known.iter().chain(allowed).any(|allowed| text.contains(allowed))
            })
            .collect();
        assert!(unexpected.is_empty(), "page {page} had problems: {unexpected:#?}");
    }
}
