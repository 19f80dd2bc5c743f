//! Linux in `sparkler-vmm`, from a configuration file, on the software CPU
//! (`SPARKLER_TEST_CPU=kvm` chooses KVM). Without a kernel in the cache the tests say that they
//! are skipped: `cargo xtask test` pulls one.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use image::kernel::{self, Kernel, Source};
use image::{Cache, Quiet, starter};
use serde_json::{Value, json};

/// The guest's first process is busybox with these arguments.
const COMMAND_LINE: &str = "console=ttyS0 quiet reboot=k panic=1 i8042.noaux cryptomgr.notests \
                            rdinit=/bin/busybox --";

/// A kernel of the cache, Debian's if there is one.
fn kernel() -> Option<(Cache, Kernel)> {
    let cache = Cache::open().expect("a cache folder");
    for source in [Source::Debian, Source::Built] {
        if let Some(kernel) = kernel::list(&cache, source).ok()?.into_iter().next() {
            return Some((cache, kernel));
        }
    }
    eprintln!("SKIPPED: no kernel in the cache; run `cargo xtask test` or `sparkler kernel pull`");
    None
}

/// A machine that runs busybox with `arguments`.
fn config(cache: &Cache, kernel: &Kernel, arguments: &str) -> Value {
    json!({
        "boot-source": {
            "kernel_image_path": kernel.vmlinux,
            "initrd_path": starter::initramfs(cache, kernel, &Quiet).unwrap(),
            "boot_args": format!("{COMMAND_LINE} {arguments}"),
        },
        "drives": [],
        "machine-config": {"vcpu_count": 1, "mem_size_mib": 128},
    })
}

fn run(folder: &Path, config: &Value, flags: &[&str]) -> Output {
    let path: PathBuf = folder.join("vm.json");
    std::fs::write(&path, config.to_string()).unwrap();
    let cpu = std::env::var("SPARKLER_TEST_CPU").unwrap_or_else(|_| "soft".to_owned());
    Command::new(env!("CARGO_BIN_EXE_sparkler-vmm"))
        .args(["--no-api", "--cpu", &cpu, "--config-file"])
        .arg(&path)
        .args(flags)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Expects the exit code, and all of the texts on standard output.
fn check(output: &Output, code: i32, texts: &[&str]) {
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{out}{err}");
    for text in texts {
        assert!(out.contains(text), "{text:?} is not in {out}");
    }
}

#[test]
fn power_off_and_reboot_end_the_process_with_0() {
    let Some((cache, kernel)) = kernel() else { return };
    let folder = tempfile::tempdir().unwrap();
    for arguments in ["poweroff -f", "reboot -f"] {
        let output = run(folder.path(), &config(&cache, &kernel, arguments), &[]);
        check(
            &output,
            0,
            &[
                "Successfully started microvm that was configured from one single json",
                "Vmm is stopping.",
                "Firecracker exiting successfully. exit_code=0",
            ],
        );
    }
}

#[test]
fn the_kernels_compressed_form_boots_too() {
    let Some((cache, kernel)) = kernel() else { return };
    let Some(vmlinuz) = &kernel.vmlinuz else {
        eprintln!("SKIPPED: the kernel in the cache came without a bzImage");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(&cache, &kernel, "poweroff -f");
    config["boot-source"]["kernel_image_path"] = json!(vmlinuz);
    check(&run(folder.path(), &config, &[]), 0, &["exit_code=0"]);
}

#[test]
fn a_file_written_for_firecracker_boots_with_notices() {
    let Some((cache, kernel)) = kernel() else { return };
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("odd.img");
    std::fs::write(&disk, vec![0; (1 << 20) + 7]).unwrap();
    let mut config = config(&cache, &kernel, "poweroff -f");
    config["machine-config"] = json!({"vcpu_count": 2, "mem_size_mib": 256, "ht_enabled": false});
    config["drives"] = json!([{"drive_id": "d", "path_on_host": disk, "is_root_device": false,
                               "is_read_only": true}]);
    let output = run(folder.path(), &config, &["--show-level", "--boot-timer"]);
    check(
        &output,
        0,
        &[
            ":WARN] machine-config: ht_enabled is deprecated",
            "odd.img: its last 7 bytes make no 512-byte sector",
            "CPU: ",
        ],
    );
}

#[test]
fn an_initrd_larger_than_memory_is_refused() {
    let Some((cache, kernel)) = kernel() else { return };
    let folder = tempfile::tempdir().unwrap();
    let initrd = folder.path().join("huge.cpio");
    std::fs::File::create(&initrd).unwrap().set_len(200 << 20).unwrap();
    let mut config = config(&cache, &kernel, "true");
    config["boot-source"]["initrd_path"] = json!(initrd);
    let output = run(folder.path(), &config, &[]);
    check(&output, 1, &["huge.cpio", "exit_code=1"]);
}

#[test]
fn a_kernel_that_is_cut_short_is_refused() {
    let Some((cache, kernel)) = kernel() else { return };
    let folder = tempfile::tempdir().unwrap();
    let whole = std::fs::read(&kernel.vmlinux).unwrap();
    for len in [64, 4096, 1 << 20, whole.len() / 2] {
        let cut = folder.path().join("cut");
        std::fs::write(&cut, &whole[..len]).unwrap();
        let mut config = config(&cache, &kernel, "true");
        config["boot-source"]["kernel_image_path"] = json!(cut);
        let output = run(folder.path(), &config, &[]);
        check(&output, 1, &["cut", "exit_code=1"]);
    }
}
