//! The suite on every back end that this host has.

use std::path::Path;
use std::sync::Arc;

use guest_suite::{MakeVm, VCPUS, Verdict, nested, run_all};
use memory::GuestMemory;

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

#[test]
fn the_software_cpu() {
    check(&|memory: Arc<GuestMemory>| {
        softcpu::SoftVm::new(memory, softcpu::Options { vcpus: VCPUS })
    });
}

#[test]
fn kvm_where_it_is_fit() {
    let fitness = kvm::probe::probe();
    if !fitness.usable {
        println!("skipped: {}", fitness.reason);
        return;
    }
    check(&|memory: Arc<GuestMemory>| {
        let options = kvm::Options { vcpu_count: VCPUS, ..Default::default() };
        kvm::KvmVm::new(memory, options)
    });
}

/// Needs a static `guest-suite`, whose path is in `GUEST_SUITE_STATIC`.
#[test]
#[ignore = "boots QEMU, and needs GUEST_SUITE_STATIC"]
fn kvm_in_a_nested_machine() {
    let program = std::env::var("GUEST_SUITE_STATIC").expect("the path of a static guest-suite");
    let command = "/guest-suite --probe --patient && /guest-suite --cpu kvm --on-tcg";
    let output = nested::run(command, &[(Path::new(&program), "/guest-suite")]).unwrap();
    println!("{}", output.text);
    assert_eq!(output.status, 0, "{}", output.text);
}

#[test]
#[ignore = "boots QEMU"]
fn a_nested_machine_runs_commands() {
    let dir = std::env::temp_dir().join(format!("sparkler-nested-test-{}", std::process::id()));
    std::fs::write(&dir, "some text\n").unwrap();
    let output = nested::run("cat /a/b/file; test -e /dev/kvm; exit 7", &[(&dir, "/a/b/file")]);
    std::fs::remove_file(&dir).unwrap();
    let expected = nested::Output { text: "some text\n".to_string(), status: 7 };
    assert_eq!(output.unwrap(), expected);
}
