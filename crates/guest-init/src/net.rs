//! The address from `ip=`, for kernels that do not set it themselves.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;

use crate::options::IpConfig;
use crate::sys::{self, Interface};

/// Brings up the loopback interface and sets the address, unless the kernel
/// has done so (CONFIG_IP_PNP).
pub fn configure(ip: Option<&IpConfig>) {
    if let Err(error) = loopback() {
        eprintln!("init: cannot bring up the loopback interface: {error}");
    }
    let Some(ip) = ip else { return };
    if let Err(error) = set(ip) {
        eprintln!("init: cannot give {} to {}: {error}", ip.address, ip.device);
    }
    if !ip.name_servers.is_empty() {
        write_resolver(&ip.name_servers);
    }
}

fn loopback() -> io::Result<()> {
    let socket = sys::network_socket()?;
    Interface { socket: socket.as_fd(), name: "lo" }.bring_up()
}

fn set(ip: &IpConfig) -> io::Result<()> {
    let socket = sys::network_socket()?;
    let interface = Interface { socket: socket.as_fd(), name: &ip.device };
    if interface.address().is_ok_and(|address| address == ip.address) {
        return Ok(());
    }
    interface.set_address(ip.address)?;
    interface.set_netmask(ip.mask)?;
    interface.bring_up()?;
    match ip.gateway {
        Some(gateway) => sys::add_default_route(socket.as_fd(), gateway),
        None => Ok(()),
    }
}

/// Names name servers where the image has no resolver file of its own.
fn write_resolver(servers: &[Ipv4Addr]) {
    let path = "/etc/resolv.conf";
    if fs::metadata(path).is_ok_and(|file| file.len() > 0) {
        return;
    }
    // A read-only disk keeps what it has.
    let _ = fs::write(path, resolver(servers));
}

/// Lets the name servers be known for as long as the machine runs, whatever file the disk has: that
/// one is to stay as it is.
pub fn cover_resolver(ip: &IpConfig) {
    let (cover, path) = ("/dev/shm/resolv.conf", "/etc/resolv.conf");
    let covered = fs::write(cover, resolver(&ip.name_servers))
        // There must be a file to be covered.
        .and_then(|()| fs::OpenOptions::new().append(true).create(true).open(path).map(drop))
        .and_then(|()| Ok(rustix::mount::mount_bind(cover, path)?));
    if let Err(error) = covered {
        eprintln!("init: cannot name the name servers in {path}: {error}");
    }
}

fn resolver(servers: &[Ipv4Addr]) -> String {
    servers.iter().map(|server| format!("nameserver {server}\n")).collect()
}
