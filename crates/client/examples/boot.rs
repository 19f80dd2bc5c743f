//! Starts a VMM, boots a kernel, pauses it and lets it go on:
//!
//! ```text
//! cargo run -p sparkler-client --example boot -- target/debug/sparkler-vmm vmlinux [root.ext4]
//! ```
//!
//! The guest's console is on standard output. The VMM ends with the guest, or with this program.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use std::{env, thread};

use anyhow::Context;
use sparkler_client::Client;
use sparkler_client::api::{Action, BootSource, Drive, MachineConfig, VmState};

/// How long a VMM takes to start, at most.
const PATIENCE: Duration = Duration::from_secs(5);

fn main() -> anyhow::Result<()> {
    let mut args = env::args_os().skip(1).map(PathBuf::from);
    let usage = "usage: boot <sparkler-vmm> <kernel> [root file system]";
    let (program, kernel) = (args.next().context(usage)?, args.next().context(usage)?);
    let socket = env::temp_dir().join(format!("sparkler-boot-{}.sock", std::process::id()));
    let child = Command::new(&program)
        .arg("--api-sock")
        .arg(&socket)
        .stdin(Stdio::null())
        .spawn()
        .with_context(|| format!("start {}", program.display()))?;
    let mut vmm = Vmm { child, socket };

    let vm = Client::new(&vmm.socket);
    let instance = vm.wait_ready(PATIENCE)?;
    println!("{} speaks the API of Firecracker {}", instance.id, instance.vmm_version);
    vm.put_machine_config(&MachineConfig { mem_size_mib: 256, ..MachineConfig::default() })?;
    vm.put_boot_source(&BootSource {
        kernel_image_path: kernel.to_string_lossy().into_owned(),
        boot_args: Some("console=ttyS0 reboot=k panic=1".to_owned()),
        ..BootSource::default()
    })?;
    if let Some(root) = args.next() {
        vm.put_drive(&Drive {
            drive_id: "root".to_owned(),
            is_root_device: true,
            path_on_host: Some(root.to_string_lossy().into_owned()),
            ..Drive::default()
        })?;
    }
    vm.put_action(Action::InstanceStart)?;
    thread::sleep(Duration::from_millis(500));
    for state in [VmState::Paused, VmState::Resumed] {
        vm.patch_vm(state)?;
        println!("{:?}: the machine is {:?}", state, vm.instance()?.state);
    }
    let status = vmm.child.wait().context("wait for the VMM")?;
    println!("the VMM ended: {status}");
    Ok(())
}

/// A VMM, which ends with this program if it does not before.
struct Vmm {
    child: Child,
    socket: PathBuf,
}

impl Drop for Vmm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.socket);
    }
}
