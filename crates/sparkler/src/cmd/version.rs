//! `sparkler version`.

/// Prints sparkler's own version, and whose contract it keeps.
pub fn run() {
    println!("sparkler {}", env!("CARGO_PKG_VERSION"));
    println!("Firecracker's configuration and flags: {}", vmm::FIRECRACKER_VERSION);
}
