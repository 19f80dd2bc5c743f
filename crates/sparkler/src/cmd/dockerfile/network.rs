//! The network of a step: passt(1), which needs neither root nor anything set up on the host.
//!
//! The guest reaches what the host's user can, by IPv4, but not the host's loopback addresses;
//! nothing reaches the guest. Names are resolved by the host's first name server.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use host::Passt;

/// The program, and Debian's package with it.
pub const PROGRAM: &str = "passt";
/// The socket's name in the step's folder.
const SOCKET: &str = "passt.sock";
const GUEST: &str = "10.0.2.15";
const GATEWAY: &str = "10.0.2.2";
const NAME_SERVER: &str = "10.0.2.3";
const MASK: &str = "255.255.255.0";
/// How long passt may take to start.
const PATIENCE: Duration = Duration::from_secs(5);

/// A running passt, which ends when this is dropped.
pub struct Network {
    child: Child,
    socket: PathBuf,
}

/// What the guest's command line says.
pub fn option() -> String {
    format!("ip={GUEST}::{GATEWAY}:{MASK}::eth0:off:{NAME_SERVER}")
}

/// Whether the program is installed.
pub fn is_installed() -> bool {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders).any(|folder| folder.join(PROGRAM).is_file())
}

impl Network {
    /// Starts passt with its socket in this folder.
    pub fn start(folder: &Path) -> Result<Self> {
        let socket = folder.join(SOCKET);
        let mut command = Command::new(PROGRAM);
        command.args(["--foreground", "--quiet", "--one-off", "-4", "--no-map-gw"]);
        command.args(["-t", "none", "-u", "none", "-a", GUEST, "-n", MASK, "-g", GATEWAY]);
        command.args(["--dns-forward", NAME_SERVER]).arg("--socket").arg(&socket);
        if host::probe::is_root() {
            // It would become `nobody`, who may not reach the folder.
            command.args(["--runas", "0"]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().with_context(|| format!("cannot run {PROGRAM}"))?;
        Ok(Network { child, socket })
    }

    /// Connects to it, once it listens.
    pub fn connect(&mut self) -> Result<Passt> {
        let start = Instant::now();
        loop {
            let listens = fs::metadata(&self.socket).is_ok_and(|file| file.file_type().is_socket());
            match Passt::connect(&self.socket) {
                Ok(passt) => return Ok(passt),
                Err(error) if listens && error.kind() != io::ErrorKind::ConnectionRefused => {
                    return Err(error).with_context(|| format!("cannot connect to {PROGRAM}"));
                }
                Err(_) => {}
            }
            if let Some(status) = self.child.try_wait()? {
                bail!(
                    "{PROGRAM} ended ({status}); run it by hand to see why, or use --network none"
                );
            }
            if start.elapsed() > PATIENCE {
                bail!("{PROGRAM} does not start; use --network none to do without");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // It may have ended with its connection.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.socket);
    }
}
