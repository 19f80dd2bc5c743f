//! The suite on every back end that this host has.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use guest_suite::nested::NestedError;
use guest_suite::{MakeVm, VCPUS, Verdict, nested, run_all};
use memory::GuestMemory;
use softcpu::JitOptions;

fn check(make_vm: MakeVm<'_>) {
    let failed: Vec<String> = run_all(make_vm)
        .into_iter()
        .filter_map(|result| match result.verdict {
            Verdict::Failed(why) => Some(format!("{}: {why:.400}", result.name)),
            Verdict::Passed | Verdict::Skipped(_) => None,
        })
        .collect();
    assert!(failed.is_empty(), "{} cases failed:\n{}", failed.len(), failed.join("\n"));
}

/// As machines have it, without the translator, and with every block translated.
#[test]
fn the_software_cpu() {
    let every_block = JitOptions { threshold: 0, ..JitOptions::DEFAULT };
    for jit in [Some(JitOptions::DEFAULT), None, Some(every_block)] {
        check(&|memory: Arc<GuestMemory>| {
            let options = softcpu::Options { vcpus: VCPUS, jit, ..Default::default() };
            softcpu::SoftVm::new(memory, options)
        });
    }
}

/// On the host's own KVM if that is fit, else in a machine inside QEMU that has a fit one.
#[test]
fn kvm() {
    let fitness = kvm::probe::probe();
    if fitness.usable {
        return check(&|memory: Arc<GuestMemory>| {
            let options = kvm::Options { vcpu_count: VCPUS, ..Default::default() };
            kvm::KvmVm::new(memory, options)
        });
    }
    say(&format!("KVM runs in a nested machine, not on the host's: {}", fitness.reason));
    let program = Path::new(env!("CARGO_BIN_EXE_guest-suite"));
    let libraries = nested::libraries(program).unwrap();
    let mut files: Vec<(&Path, &str)> =
        libraries.iter().map(|path| (path.as_path(), path.to_str().unwrap())).collect();
    files.push((program, "/guest-suite"));
    let command = "/guest-suite --probe --patient && /guest-suite --cpu kvm --on-tcg";
    match nested::run(command, &files) {
        Ok(output) => assert_eq!(output.status, 0, "{}", output.text),
        Err(missing @ NestedError::Missing(_)) => say(&format!("SKIPPED kvm: {missing}")),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_nested_machine_runs_commands() {
    let file = std::env::temp_dir().join(format!("sparkler-nested-test-{}", std::process::id()));
    std::fs::write(&file, "some text\n").unwrap();
    let output = nested::run("cat /a/b/file; test -e /dev/kvm; exit 7", &[(&file, "/a/b/file")]);
    std::fs::remove_file(&file).unwrap();
    let expected = nested::Output { text: "some text\n".to_string(), status: 7 };
    match output {
        Err(missing @ NestedError::Missing(_)) => {
            say(&format!("SKIPPED nested machine: {missing}"))
        }
        output => assert_eq!(output.unwrap(), expected),
    }
}

/// Past the test harness, which hides what tests print.
fn say(text: &str) {
    writeln!(std::io::stderr(), "{text}").ok();
}
