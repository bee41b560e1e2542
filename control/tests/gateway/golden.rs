//! Lines of the journal, of every version so far: they are read for ever, and a core makes calls of them.
//!
//! `control/golden/journal/v1` was written by the scenes below when version 1 was current (`GANGWAY_WRITE_GOLDEN=1` writes files that
//! are missing). A file of a former version never changes; what its lines meant stays written in [`SCENES`].

use std::{fs, path::PathBuf};

use gangway_control::gateway::{
    effects::Input,
    journal::{FORMAT, JournalEntry, Standing},
};
use gangway_shared::ids::EventSeq;

use crate::{
    video::camera_offer,
    world::{World, account, config, phone_sdp, relay_up},
};
use gangway_control::sip::message::{HeaderName, Method};

/// What a core makes of a file: sessions, registrations, calls that talk, calls that ring, dialogs.
type Made = [usize; 5];
/// What a scene does in a world.
type Scene = fn(&mut World);

/// A file of lines, and what is made of it while its relays are there.
const SCENES: [(&str, Scene, Made); 5] = [
    ("talking", talking, [1, 0, 1, 0, 1]),
    ("ringing", ringing, [1, 0, 0, 1, 0]),
    ("calling", calling, [1, 0, 0, 0, 0]),
    ("unacknowledged", unacknowledged, [1, 0, 1, 0, 1]),
    ("registered", registered, [1, 1, 0, 0, 0]),
];

fn talking(world: &mut World) {
    let page = world.session();
    world.call_with(page, "c1", "600", &camera_offer());
    let invite = world.request(&Method::Invite);
    world.respond(&invite, 200, Some(&format!("{}{}", phone_sdp(4000, "0 101"), crate::video::VP8_PHONE)));
    world.keys_ready();
    world.input(Input::RelaySeen { instance: "d".to_owned(), seq: EventSeq(3) });
}

fn ringing(world: &mut World) {
    let page = world.session();
    let key = world.contact_key(page);
    world.invite(&format!("sip:{key}@10.0.0.1:5060"), "in1", Some(&phone_sdp(4000, "0")));
}

fn calling(world: &mut World) {
    let page = world.session();
    world.call(page, "c1", "600");
}

fn unacknowledged(world: &mut World) {
    let page = world.session();
    let key = world.contact_key(page);
    world.invite(&format!("sip:{key}@10.0.0.1:5060"), "in1", Some(&phone_sdp(4000, "0")));
    let call_id = world.last_call().call_id;
    world.answer(page, &call_id, "0");
}

fn registered(world: &mut World) {
    world.connect(account(true));
    let register = world.request(&Method::Register);
    world.respond_as(&register, 200, "reg", None, &[(HeaderName::Expires, "3600")]);
}

fn file(version: u16, name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("golden/journal/v{version}/{name}.jsonl"))
}

/// The lines that the scene writes now, from the first to the last.
fn written_now(scene: Scene) -> (World, Vec<String>) {
    let mut world = World::new(config());
    scene(&mut world);
    let lines = world.journal.iter().map(|entry| serde_json::to_string(entry).unwrap()).collect();
    (world, lines)
}

#[test]
fn the_lines_of_every_version_become_sessions_and_calls() {
    for version in 1..=FORMAT {
        for (name, scene, made) in SCENES {
            let (donor, lines) = written_now(scene);
            let path = file(version, name);
            if std::env::var_os("GANGWAY_WRITE_GOLDEN").is_some() && version == FORMAT && !path.exists() {
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(&path, lines.join("\n") + "\n").unwrap();
            }
            let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let read = |line: &str| {
                let entry: JournalEntry =
                    serde_json::from_str(line).unwrap_or_else(|error| panic!("{name}: {error}: {line}"));
                entry
            };
            let standing = Standing::of(text.lines().map(read));
            assert!(standing.entries().count() > 0, "{name} is empty");
            let mut world = World::new(config());
            // The relays are those of the scene, by whatever id the file knows them.
            let ids: Vec<_> = standing.entries().filter_map(JournalEntry::relay).collect();
            world.relay.relays.extend(ids.into_iter().zip(donor.relay.relays.into_values()));
            world.standing = standing;
            world.kill_unchecked();
            world.input(relay_up(2));
            let counts = world.gateway.counts();
            let now =
                [counts.sessions, counts.registrations, counts.calls_established, counts.calls_ring, counts.dialogs];
            assert_eq!(now, made, "v{version}/{name}: {counts:?}");
        }
    }
}

/// What this version writes is what its files say: a change of the lines is one of the version.
#[test]
fn the_lines_of_this_version_have_the_fields_of_its_files() {
    let shape = |line: &str| {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        let fields = |value: &serde_json::Value| {
            value.as_object().map(|object| object.keys().cloned().collect::<Vec<_>>()).unwrap_or_default()
        };
        (value["entry"].as_str().unwrap().to_owned(), fields(&value), fields(&value["record"]))
    };
    for (name, scene, _) in SCENES {
        let (_, lines) = written_now(scene);
        let text = fs::read_to_string(file(FORMAT, name)).unwrap();
        let mut pinned: Vec<_> = text.lines().map(shape).collect();
        let mut now: Vec<_> = lines.iter().map(|line| shape(line)).collect();
        // In which order a turn writes them is no matter of the version: what is read is what is in force behind the last.
        pinned.sort();
        now.sort();
        assert_eq!(now, pinned, "{name}");
    }
}
