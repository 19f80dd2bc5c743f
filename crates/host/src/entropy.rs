//! Random bytes from the kernel's generator.

use std::io;

use devices::rng::EntropySource;
use rustix::rand::{GetRandomFlags, getrandom};

/// getrandom(2).
#[derive(Debug, Default, Clone, Copy)]
pub struct HostEntropy;

impl EntropySource for HostEntropy {
    fn fill(&mut self, mut bytes: &mut [u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match getrandom(&mut *bytes, GetRandomFlags::empty()) {
                Ok(n) => bytes = &mut bytes[n..],
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fills_all_of_a_large_buffer() {
        let mut bytes = vec![0; 100_000];
        HostEntropy.fill(&mut bytes).unwrap();
        // 256 zero bytes in a row would come once in 10^600 times.
        assert!(bytes.chunks(256).all(|chunk| chunk.iter().any(|&b| b != 0)));
    }
}
