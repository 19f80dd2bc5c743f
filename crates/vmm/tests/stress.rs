//! Long work on the software CPU that checks itself: stress-ng on four processors, and a guest that
//! translates code of its own, whose results are compared with its interpreter's.
//!
//! What it looks for is rare: lost writes and wake-ups between processors, and code that runs on
//! although it was changed.

mod support;

use std::time::Duration;

use support::userland::{self, UserLand};

const NAME: &str = "stress";
/// How long a machine may take beyond what its script is told to.
const PATIENCE: Duration = Duration::from_secs(240);
/// What the script prints last if all was well.
const DONE: &str = "----- all is well";
/// What Linux says about itself where it finds that something is wrong.
const COMPLAINTS: [&str; 5] = ["BUG:", "Oops", "general protection", "double fault", "Call Trace:"];

/// Loops, tables, strings and calls in Lua, with code that is dropped and made anew all the time.
const LUA: &str = include_str!("data/stress.lua");

#[test]
fn four_processors_verify_what_they_did_for_20_seconds() {
    check("stress-ng", &stress_ng(20), 4, Duration::from_secs(20));
}

#[test]
#[ignore = "ten minutes"]
fn four_processors_verify_what_they_did_for_ten_minutes() {
    check("stress-ng", &stress_ng(600), 4, Duration::from_secs(600));
}

#[test]
fn a_guest_that_translates_computes_what_its_interpreter_does() {
    let script = format!(
        "cat > work.lua <<'LUA'\n{LUA}LUA\n\
         luajit -joff work.lua interpreter > expected && luajit work.lua translator > found \
         && cmp expected found && test $(wc -l < found) -eq 8 && echo '{DONE}' || cat expected found\n"
    );
    check("luajit", &script, 2, Duration::ZERO);
}

/// All stressors at once, two for each that computes and one for each that is about the kernel.
fn stress_ng(seconds: u32) -> String {
    format!(
        "stress-ng --verify --timeout {seconds}s --metrics-brief --cpu 2 --vm 2 --vm-bytes 64m \
         --signal 1 --pthread 1 --futex 1 --mutex 1 --sigsegv 1 --memcpy 1 && echo '{DONE}'\n"
    )
}

/// Runs the script to its end: it was content, and the kernel had nothing to complain of.
fn check(what: &str, script: &str, vcpus: u8, duration: Duration) {
    let Some((cache, kernel)) = support::kernel(NAME) else { return };
    let Some(land) = UserLand::new(NAME, &cache, &kernel) else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut guest = land.guest(&userland::script(folder.path(), script));
    guest.vcpus = vcpus;
    let ended = guest.run(duration + PATIENCE);
    println!("{what}: {}", ended.text);
    assert_eq!(ended.status, Some(0), "{what} did not end:\n{}", ended.text);
    assert!(ended.text.lines().any(|line| line == DONE), "{what} failed:\n{}", ended.text);
    let complaint = COMPLAINTS.iter().find(|complaint| ended.text.contains(*complaint));
    assert_eq!(complaint, None, "{what}: the kernel complains:\n{}", ended.text);
}
