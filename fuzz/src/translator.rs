//! Any code on the software CPU, with every block translated: it may ruin its guest, but it must
//! neither fault on the host, nor reach beyond the guest's RAM, nor go on after a kick.

use softcpu::JitOptions;

/// Runs the code that `data` describes, as `decoder` does.
pub fn run(data: &[u8]) {
    let every_block = JitOptions { threshold: 0, ..JitOptions::DEFAULT };
    crate::decoder::run_with(data, Some(every_block));
}
