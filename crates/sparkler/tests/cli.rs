//! `sparkler` from outside, as far as no guest runs.

use std::process::{Command, Output};

fn sparkler(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sparkler")).args(args).output().expect("it starts")
}

/// Expects the code, and the texts on standard output and error.
fn check(args: &[&str], code: i32, stdout: &str, stderr: &str) {
    let output = sparkler(args);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{args:?}\n{out}{err}");
    assert!(out.contains(stdout), "{args:?}: {stdout:?} is not in {out:?}");
    assert!(err.contains(stderr), "{args:?}: {stderr:?} is not in {err:?}");
}

#[test]
fn what_needs_no_guest() {
    check(&["version"], 0, "sparkler 0.", "");
    check(&["--help"], 0, "doctor", "");
    check(&["completions", "bash"], 0, "_sparkler()", "");
    check(&["completions", "zsh"], 0, "#compdef sparkler", "");
    check(&["doctor"], 0, "KVM: ", "");
}

#[test]
fn doctor_speaks_json() {
    let output = sparkler(&["doctor", "--json"]);
    let findings: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let names: Vec<_> = findings.as_array().unwrap().iter().map(|f| &f["name"]).collect();
    for name in ["KVM", "memory", "tun", "user namespaces", "userfaultfd", "cgroups v2"] {
        assert!(names.iter().any(|known| *known == name), "{name} is not in {names:?}");
    }
    let statuses = ["ok", "limited", "missing"];
    for finding in findings.as_array().unwrap() {
        assert!(statuses.contains(&finding["status"].as_str().unwrap()), "{finding}");
    }
}

#[test]
fn what_cannot_be_run_is_refused_at_once() {
    check(&["run", "--cpus", "0"], 125, "", "sparkler: --cpus: vcpu_count is 0");
    check(&["run", "--cpus", "33"], 125, "", "vcpu_count is 33; it must be from 1 to 32");
    check(&["run", "--memory", "0"], 125, "", "mem_size_mib is 0");
    check(&["run", "--memory", "lots"], 125, "", "`lots` is no amount of memory");
    check(&["run", "--kernel", "/no/such/kernel"], 125, "", "/no/such/kernel");
    check(&["run", "--image", "/no/such/image"], 125, "", "/no/such/image");
    check(&["run", "--disk", "/tmp"], 125, "", "/tmp is a directory");
    check(&["run", "--flag"], 125, "", "--flag");
    check(&["frobnicate"], 125, "", "frobnicate");
}
