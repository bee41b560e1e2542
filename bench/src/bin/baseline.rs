//! A relay to compare with: `baseline bare | webrtc-srtp | tokio-uring`. Takes calls as one line of JSON, answers with their ports, and
//! forwards until it is ended.

use std::io::{self, Write};

use gangway_bench::{
    baseline::{bare, open, tokio_ring},
    call::CallSpec,
    process::raise_file_limit,
};

fn main() -> io::Result<()> {
    let mode = std::env::args().nth(1).unwrap_or_default();
    raise_file_limit();
    let calls: Vec<CallSpec> = serde_json::from_reader(io::stdin().lock())?;
    let (legs, answers) = open(&calls)?;
    let mut stdout = io::stdout().lock();
    serde_json::to_writer(&mut stdout, &answers)?;
    writeln!(stdout)?;
    stdout.flush()?;
    drop(stdout);
    match mode.as_str() {
        "bare" => bare::run(&legs, &mut []),
        "webrtc-srtp" => {
            let protection: io::Result<Vec<_>> = calls.iter().map(bare::Protection::of).collect();
            bare::run(&legs, &mut protection?)
        }
        "tokio-uring" => tokio_ring::run(legs),
        other => Err(io::Error::other(format!("{other:?} is none of bare, webrtc-srtp, tokio-uring"))),
    }
}
