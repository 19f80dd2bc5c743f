//! The way out of a raw terminal.
//!
//! ```text
//!   Ctrl-A x        leave: the machine stops at once
//!   Ctrl-A Ctrl-A   one Ctrl-A for the guest
//!   Ctrl-A other    both for the guest
//! ```

use vmm::Wish;

/// The key that begins a sequence: Ctrl-A, as in QEMU and screen.
const PREFIX: u8 = 0x01;

/// Takes the sequences out of what is typed.
#[derive(Debug, Default)]
pub struct Keys {
    prefixed: bool,
}

impl Keys {
    /// Appends to `to_guest` what is the guest's of `typed`.
    pub fn feed(&mut self, typed: &[u8], to_guest: &mut Vec<u8>) -> Wish {
        for &key in typed {
            match (std::mem::take(&mut self.prefixed), key) {
                (false, PREFIX) => self.prefixed = true,
                (true, b'x' | b'X') => return Wish::Leave,
                (true, PREFIX) | (false, _) => to_guest.push(key),
                (true, _) => to_guest.extend([PREFIX, key]),
            }
        }
        Wish::GoOn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(typed: &[&[u8]], expected: &[u8], wish: Wish) {
        let (mut keys, mut sent, mut last) = (Keys::default(), Vec::new(), Wish::GoOn);
        for part in typed {
            last = keys.feed(part, &mut sent);
        }
        assert_eq!((&*sent, last), (expected, wish), "{typed:?}");
    }

    #[test]
    fn sequences() {
        check(&[b"ls\r"], b"ls\r", Wish::GoOn);
        check(&[b"a\x01x"], b"a", Wish::Leave);
        check(&[b"\x01", b"x"], b"", Wish::Leave);
        check(&[b"\x01\x01x"], b"\x01x", Wish::GoOn);
        check(&[b"\x01b\x03\xFF"], b"\x01b\x03\xFF", Wish::GoOn);
    }
}
