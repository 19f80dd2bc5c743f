//! The source of RDRAND and RDSEED: the host kernel's generator.
//!
//! Values are drawn in batches. A batch belongs to the thread and not to the vCPU's state, so that
//! machines made from one snapshot never share values.

use std::cell::RefCell;
use std::fs::File;
use std::io::Read;
use std::sync::OnceLock;

const BATCH: usize = 64;

static SOURCE: OnceLock<Option<File>> = OnceLock::new();

thread_local! {
    static POOL: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// Opens the generator, so that it can be read after the process gave up its right to open files.
/// False if there is none: RDRAND then fails as the SDM allows, with CF = 0.
pub fn prepare() -> bool {
    source().is_some()
}

/// A random value, or `None` while the host has none.
pub fn next() -> Option<u64> {
    POOL.with_borrow_mut(|pool| {
        if pool.is_empty() {
            refill(pool)?;
        }
        pool.pop()
    })
}

fn source() -> Option<&'static File> {
    SOURCE.get_or_init(|| File::open("/dev/urandom").ok()).as_ref()
}

fn refill(pool: &mut Vec<u64>) -> Option<()> {
    let mut bytes = [0; BATCH * 8];
    let mut file = source()?;
    file.read_exact(&mut bytes).ok()?;
    let word = |chunk: &[u8]| chunk.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
    pool.extend(bytes.chunks_exact(8).map(word));
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_differ() {
        assert!(prepare());
        let mut values: Vec<_> = (0..3 * BATCH).map(|_| next()).collect();
        values.sort_unstable();
        values.dedup();
        assert_eq!(values.len(), 3 * BATCH);
    }
}
