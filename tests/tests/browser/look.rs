//! How our phone pages look and read in every state, at the widths of phones and desktops, light and dark: nothing without a
//! name, nothing too small to touch, nothing too faint to read, nothing that jumps.

use std::path::PathBuf;

use gangway_tests::browser::{Browser, View};
use serde_json::{Value, json};

use crate::scripted::{connect, open, open_video, problem, ring_out};

/// Finds what WCAG 2.2 AA forbids and what a thumb misses. Measures what is shown, in the colours that are shown.
const AUDIT: &str = r#"
const problems = [];
const paint = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
const rgba = (colour) => {
  paint.clearRect(0, 0, 1, 1);
  paint.fillStyle = colour;
  paint.fillRect(0, 0, 1, 1);
  const [r, g, b, a] = paint.getImageData(0, 0, 1, 1).data;
  return [r, g, b, a / 255];
};
const over = (top, under) => top.slice(0, 3).map((part, at) => part * top[3] + under[at] * (1 - top[3])).concat(1);
const luminance = (colour) => {
  const [r, g, b] = colour.map((part) => (part / 255 <= 0.04045 ? part / 255 / 12.92 : ((part / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const contrast = (a, b) => {
  const [high, low] = [luminance(a), luminance(b)].sort((x, y) => y - x);
  return (high + 0.05) / (low + 0.05);
};
const ground = (element) => {
  const layers = [];
  for (let at = element; at; at = at.parentElement) layers.unshift(rgba(getComputedStyle(at).backgroundColor));
  return layers.reduce((under, top) => over(top, under), [255, 255, 255, 1]);
};
const isShown = (element) => element.checkVisibility({ visibilityProperty: true }) && element.getClientRects().length > 0 && !element.closest(".unseen, .media, .sprite");
const label = (element) => element.id || element.className.baseVal || element.className || element.tagName;
const shown = [...document.body.querySelectorAll("*")].filter(isShown);
const floor = (what, element, value, least) => { if (value < least - 0.005) problems.push(`${what} of ${label(element)}: ${value.toFixed(2)} < ${least}`); };

for (const element of shown) {
  if (element.closest(":disabled")) continue;
  const style = getComputedStyle(element);
  const hasText = [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim()) || (element.matches("input, select") && element.type !== "checkbox");
  if (hasText) {
    const size = parseFloat(style.fontSize);
    const isLarge = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    floor("contrast", element, contrast(over(rgba(style.color), ground(element)), ground(element)), isLarge ? 3 : 4.5);
    if (element.placeholder) floor("contrast of the placeholder", element, contrast(rgba(getComputedStyle(element, "::placeholder").color), ground(element)), 4.5);
    if (size < 10) problems.push(`${label(element)} is written in ${size} px`);
  }
  if (element.matches("svg.mark, button svg, .avatar svg, .problem svg")) floor("contrast", element, contrast(rgba(style.color), ground(element)), 3);
  if (element.matches(".chart .line")) floor("contrast", element, contrast(rgba(style.stroke), ground(element.closest(".chart"))), 3);
  if (element.matches("input:not([type=checkbox]):not(#number), select")) floor("contrast of the edge", element, contrast(rgba(style.borderTopColor), ground(element.parentElement)), 3);
}
const focus = rgba(getComputedStyle(document.documentElement).getPropertyValue("--focus").trim());
for (const place of [".card", "body"]) floor("contrast of the focus", document.querySelector(place), contrast(focus, ground(document.querySelector(place))), 3);

const controls = shown.filter((element) => element.matches("button, input, select, summary, a[href]"));
for (const control of controls) {
  const named = control.getAttribute("aria-label") || (control.labels && control.labels[0] && control.labels[0].textContent.trim()) || control.textContent.trim();
  if (!named) problems.push(`${label(control)} has no name`);
  const touched = control.type === "checkbox" ? control.labels[0] : control;
  const { width, height } = touched.getBoundingClientRect();
  if (!control.matches("a") && (width < 43.9 || height < 43.9)) problems.push(`${label(control)} is ${width} x ${height} px`);
  if (control.tabIndex < 0) problems.push(`${label(control)} is not reached by keyboard`);
}
for (const region of document.querySelectorAll("[aria-labelledby], [aria-describedby], [aria-controls], label[for]")) {
  for (const name of ["aria-labelledby", "aria-describedby", "aria-controls", "for"]) {
    const id = region.getAttribute(name);
    if (id && !document.getElementById(id)) problems.push(`${name} of ${label(region)} leads nowhere: ${id}`);
  }
}
const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) problems.push(`two elements are ${id}`);
if (document.querySelectorAll("h1").length !== 1 || !document.querySelector("main")) problems.push("a page has one h1 and one main");
const { scrollWidth, clientWidth } = document.documentElement;
if (scrollWidth > clientWidth) problems.push(`it scrolls sideways: ${scrollWidth} > ${clientWidth}`);
for (const element of shown) {
  const { left, right } = element.getBoundingClientRect();
  if (element.matches("button, input, select, p, h2, td, th, span") && (left < -0.5 || right > clientWidth + 0.5)) problems.push(`${label(element)} is cut off`);
}
const view = document.querySelector(".view:not([hidden])");
if (view && !view.querySelector("details[open]") && view.scrollHeight > view.clientHeight + 1) problems.push(`the view ${view.id} does not fit: ${view.scrollHeight} > ${view.clientHeight}`);
return problems;
"#;

/// Where the phone's frame and the button at its foot are, px.
const PLACE: &str = r##"
const box = (element) => { const { x, y, width, height } = element.getBoundingClientRect(); return [x, y + scrollY, width, height].map(Math.round); };
return [box(document.querySelector("#stage")), box(document.querySelector(".view:not([hidden]) .bottom"))];
"##;

/// What each state looks like: sound, no jump. `visit` is called with its name.
fn walk(browser: &mut Browser, visit: &mut dyn FnMut(&mut Browser, &str)) {
    visit(browser, "1-idle");
    browser.click("phone", "summary");
    visit(browser, "1-idle-more");
    browser.click("phone", "summary");
    connect(browser);
    visit(browser, "2-connected");
    ring_out(browser);
    visit(browser, "3-ringing");
    browser.eval("phone", "gateway.talks();", json!(null));
    browser.wait_text("phone", "#call-status", "In call", 5);
    browser.wait("phone", "return document.querySelector('#counters td:last-child').textContent;", 5);
    visit(browser, "4-call");
    browser.click("phone", "#mute");
    visit(browser, "4-call-muted");
    // The scripted gateway takes no telephone events, so the button is off.
    browser.eval(
        "phone",
        "const key = document.querySelector('#keypad'); key.disabled = false; key.click();",
        json!(null),
    );
    visit(browser, "4-call-keypad");
    browser.click("phone", "#hangup");
    browser.wait("phone", "return !document.querySelector('#dial').hidden;", 5);
    browser.eval("phone", "gateway.end = { status: 'FAILED', info: 'Failed by ICE error' };", json!(null));
    browser.fill("phone", "#number", "600");
    browser.press("phone", "Enter");
    problem(browser);
    visit(browser, "5-failure");
    browser.eval("phone", "gateway.calls('in-1', '1002');", json!(null));
    browser.wait_text("phone", "#incoming-name", "1002", 5);
    visit(browser, "6-incoming");
    browser.click("phone", "#reject");
    browser.wait("phone", "return !document.querySelector('#dial').hidden;", 5);
    visit(browser, "7-after");
    // A caller's name is foreign text: it may be long, and it is no markup.
    let name = "<img src=x onerror=alert(1)> Bartholomew of the Exchange in the Department of Very Long Names";
    browser.eval("phone", "gateway.calls('in-2', argument);", json!(name));
    browser.wait_text("phone", "#incoming-name", name, 5);
    visit(browser, "8-long-name");
    browser.click("phone", "#reject");
    browser.wait("phone", "return !document.querySelector('#dial').hidden;", 5);
    assert_eq!(browser.text("phone", "#history .name"), name);
    visit(browser, "9-long-name-after");
}

/// The same of the page with pictures.
fn walk_video(browser: &mut Browser, visit: &mut dyn FnMut(&mut Browser, &str)) {
    visit(browser, "1-idle");
    connect(browser);
    visit(browser, "2-connected");
    ring_out(browser);
    visit(browser, "3-ringing");
    browser.eval("phone", "await gateway.talksBack();", json!(null));
    browser.wait("phone", "return document.querySelector('#picture').dataset.seen === 'yes';", 15);
    let line = "return document.querySelector('#picture-charts [data-chart=received] .line').getAttribute('d').split('L').length >= 3;";
    browser.wait("phone", line, 15);
    visit(browser, "4-call");
    browser.click("phone", "#mute");
    browser.click("phone", "#statistics-sound");
    browser.click("phone", "#own-hide");
    visit(browser, "4-call-muted");
    browser.wait("phone", "return !document.querySelector('#keypad').disabled;", 5);
    browser.click("phone", "#keypad");
    visit(browser, "4-call-keypad");
    browser.click("phone", "#keypad");
    browser.click("phone", "#share");
    browser.wait("phone", "return document.querySelector('#own').dataset.source === 'screen';", 10);
    visit(browser, "4-call-screen");
    browser.click("phone", "#hangup");
    browser.wait("phone", "return !document.querySelector('#dial').hidden;", 5);
    ring_out(browser);
    browser.eval("phone", "await gateway.talksBack({ video: false });", json!(null));
    browser.wait("phone", "return document.querySelector('#picture-note').textContent;", 10);
    visit(browser, "5-no-pictures");
    browser.click("phone", "#hangup");
    browser.wait("phone", "return !document.querySelector('#dial').hidden;", 5);
    browser.eval("phone", "gangwayProbe.denyMicrophone = true;", json!(null));
    browser.fill("phone", "#number", "600");
    browser.press("phone", "Enter");
    problem(browser);
    visit(browser, "6-failure");
    let name = "<img src=x onerror=alert(1)> Bartholomew of the Exchange in the Department of Very Long Names";
    browser.eval(
        "phone",
        "gangwayProbe.denyMicrophone = false; await gateway.callsWithPicture('in-1', argument);",
        json!(name),
    );
    browser.wait_text("phone", "#incoming-name", name, 5);
    visit(browser, "7-incoming");
    browser.click("phone", "#answer-sound");
    browser.wait("phone", "return document.querySelector('#picture').dataset.seen === 'yes';", 15);
    visit(browser, "8-long-name");
    browser.click("phone", "#hangup");
    browser.wait("phone", "return !document.querySelector('#dial').hidden;", 5);
    visit(browser, "9-after");
}

fn walk_at(size: (u32, u32), dark: bool) {
    let Some(mut browser) = Browser::start() else { return };
    open(&mut browser, &View { size: Some(size), dark, reduced: true, ..View::default() });
    check("phone", size, dark, &mut browser, walk);
}

fn walk_video_at(size: (u32, u32), dark: bool) {
    let Some(mut browser) = Browser::start() else { return };
    open_video(&mut browser, &View { size: Some(size), dark, reduced: true, ..View::default() });
    check("video", size, dark, &mut browser, walk_video);
}

/// Shows each state of a walk to whoever is called back with its name.
type Walk = fn(&mut Browser, &mut dyn FnMut(&mut Browser, &str));

fn check(page: &str, size: (u32, u32), dark: bool, browser: &mut Browser, walk: Walk) {
    let mut place = Value::Null;
    walk(browser, &mut |browser, state| {
        let found = browser.eval("phone", AUDIT, json!(null));
        assert_eq!(found, json!([]), "{size:?}, dark {dark}, {state}");
        let here = browser.eval("phone", PLACE, json!(null));
        // With the fields under More open, the button may be further down.
        if state != "1-idle-more" {
            if place.is_null() {
                place = here.clone();
            }
            assert_eq!(here, place, "{size:?}, {state}: the phone or its button has moved");
        }
        if let Some(folder) = std::env::var_os("GANGWAY_SCREENSHOTS") {
            let scheme = if dark { "dark" } else { "light" };
            browser.screenshot("phone", &PathBuf::from(folder).join(format!("{page}-{}-{scheme}-{state}.png", size.0)));
        }
    });
    // The SDK writes an error of its own when it gets no camera.
    browser.assert_quiet("phone", &["demo.json", "ERROR core"]);
}

#[test]
fn the_video_page_fits_a_phone_and_is_labelled() {
    walk_video_at((390, 844), true);
}

#[test]
fn the_video_page_fits_the_smallest_phone_in_daylight() {
    walk_video_at((360, 740), false);
}

#[test]
fn the_video_page_fits_a_desktop() {
    walk_video_at((1280, 860), false);
}

#[test]
fn the_video_page_fits_a_desktop_at_night() {
    walk_video_at((1280, 860), true);
}

#[test]
fn the_video_page_fits_a_tablet_held_upright() {
    walk_video_at((768, 1024), false);
}

#[test]
fn the_video_page_fits_a_tablet_at_night() {
    walk_video_at((900, 800), true);
}

#[test]
fn the_page_fits_a_phone_and_is_labelled() {
    walk_at((390, 844), true);
}

#[test]
fn the_page_fits_the_smallest_phone_in_daylight() {
    walk_at((360, 740), false);
}

#[test]
fn the_page_fits_a_desktop() {
    walk_at((1280, 860), false);
}

#[test]
fn the_page_fits_a_desktop_at_night() {
    walk_at((1280, 860), true);
}

#[test]
fn the_page_fits_a_large_phone_and_a_tablet() {
    walk_at((430, 932), false);
    walk_at((900, 800), true);
}
