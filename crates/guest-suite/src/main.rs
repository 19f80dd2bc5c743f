//! Runs the suite on one CPU back end and prints a line for each case.
//!
//! | arguments | what it does |
//! | --- | --- |
//! | `--cpu CPU [--only PART] [--on-tcg]` | runs the cases whose name has PART; status 0 if none failed |
//! | `--probe [--patient]` | the fitness probe of this host's KVM; status 0 if it is fit |
//! | `--nested COMMAND [FILE]...` | runs COMMAND in a nested machine, with FILEs in its /files |
//!
//! CPU is `kvm`; `soft`, the software CPU as machines have it; `interpreter`, without its translator;
//! `translator`, with every block translated when it first runs; or `verify`, which also compares
//! each with the interpreter.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use guest_suite::{Case, CaseResult, MakeVm, VCPUS, Verdict, nested};
use kvm::probe::{Fitness, Limits};
use memory::GuestMemory;
use softcpu::JitOptions;
use vcpu::{Error, Vm};

const USAGE: &str = "usage: guest-suite --cpu kvm|soft|interpreter|translator|verify [--only PART-OF-A-NAME] [--on-tcg] | --probe [--patient] | \
                     --nested COMMAND [FILE]...";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let mut args: Vec<&str> = args.iter().map(String::as_str).collect();
    let on_tcg = args.last() == Some(&"--on-tcg");
    if on_tcg {
        args.pop();
    }
    let (cpu, only) = match args[..] {
        ["--probe"] => return show(&kvm::probe::probe()),
        ["--probe", "--patient"] => return show(&kvm::probe::probe_within(PATIENT)),
        ["--nested", command, ref files @ ..] => return nested(command, files),
        ["--cpu", cpu] => (cpu, ""),
        ["--cpu", cpu, "--only", only] => (cpu, only),
        _ => return usage(),
    };
    let make_vm: MakeVm<'_> = match cpu {
        "kvm" => &make_kvm,
        "soft" => &|memory| make_soft(memory, Some(JitOptions::default())),
        "interpreter" => &|memory| make_soft(memory, None),
        "translator" => &|memory| make_soft(memory, Some(EVERY_BLOCK)),
        "verify" => &|memory| make_soft(memory, Some(JitOptions { verify: true, ..EVERY_BLOCK })),
        _ => return usage(),
    };
    let cases = guest_suite::all().iter().filter(|c| c.name.contains(only));
    let results: Vec<CaseResult> =
        cases.map(|case| run(case, make_vm, on_tcg)).inspect(print).collect();
    let count = |of: fn(&Verdict) -> bool| results.iter().filter(|r| of(&r.verdict)).count();
    let failed = count(|v| matches!(v, Verdict::Failed(_)));
    let passed = count(|v| matches!(v, Verdict::Passed));
    let skipped = count(|v| matches!(v, Verdict::Skipped(_)));
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    ExitCode::from(u8::from(failed > 0))
}

/// Runs a case. Inside QEMU's TCG, what that gets wrong is no failure of the back end.
fn run(case: &Case, make_vm: MakeVm<'_>, on_tcg: bool) -> CaseResult {
    let mut result = guest_suite::run_case(case, make_vm);
    if let (true, Some(flaw), Verdict::Failed(why)) = (on_tcg, case.tcg_flaw, &result.verdict) {
        result.verdict = Verdict::Skipped(format!("QEMU's TCG gets {flaw} wrong: {why}"));
    }
    result
}

fn print(result: &CaseResult) {
    let ms = result.took.as_millis();
    match &result.verdict {
        Verdict::Passed => println!("pass {} ({ms} ms)", result.name),
        Verdict::Failed(why) => println!("FAIL {} ({ms} ms): {why}", result.name),
        Verdict::Skipped(why) => println!("skip {}: {why}", result.name),
    }
}

fn make_kvm(memory: Arc<GuestMemory>) -> Result<Arc<dyn Vm>, Error> {
    let options = kvm::Options { vcpu_count: VCPUS, ..Default::default() };
    kvm::KvmVm::new(memory, options)
}

/// Translates every block when it first runs.
const EVERY_BLOCK: JitOptions = JitOptions { threshold: 0, ..JitOptions::DEFAULT };

fn make_soft(memory: Arc<GuestMemory>, jit: Option<JitOptions>) -> Result<Arc<dyn Vm>, Error> {
    softcpu::SoftVm::new(memory, softcpu::Options { vcpus: VCPUS, jit, ..Default::default() })
}

/// Limits for a KVM inside QEMU's TCG.
const PATIENT: Limits = Limits {
    loop_max: Duration::from_secs(5),
    guest_max: Duration::from_secs(10),
    thread_max: Duration::from_secs(20),
};

fn show(found: &Fitness) -> ExitCode {
    println!("{found:?}");
    ExitCode::from(u8::from(!found.usable))
}

/// Runs a command in a nested machine, and passes its status on.
fn nested(command: &str, files: &[&str]) -> ExitCode {
    let target = |file: &&str| {
        let name = Path::new(file).file_name().unwrap_or_default().to_string_lossy().into_owned();
        format!("/files/{name}")
    };
    let targets: Vec<String> = files.iter().map(target).collect();
    let pairs: Vec<(&Path, &str)> =
        files.iter().map(Path::new).zip(targets.iter().map(String::as_str)).collect();
    match nested::run(command, &pairs) {
        Ok(output) => {
            print!("{}", output.text);
            ExitCode::from(u8::try_from(output.status).unwrap_or(1))
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}
