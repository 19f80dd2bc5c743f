//! The memory that translated code lies in: one memfd, mapped twice.
//!
//! Code is written through one mapping, which is not executable, and run through the other, which
//! is not writable; no page is ever both. What is written is only ever the translator's output, at
//! offsets that are handed out once, or a jump's distance that the translator left open.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;

/// Where pieces of code start: whole cache lines are not worth their holes.
const ALIGNMENT: usize = 16;

/// Two mappings of the same memory.
pub struct CodeMemory {
    writable: NonNull<u8>,
    executable: NonNull<u8>,
    len: usize,
    used: usize,
}

// SAFETY: both mappings belong to this value alone and stay where they are.
unsafe impl Send for CodeMemory {}

impl CodeMemory {
    /// Maps `len` bytes. Fails where the host refuses executable memory.
    pub fn new(len: usize) -> io::Result<Self> {
        // SAFETY: the name is a string with its terminator; the result is checked.
        let raw = unsafe { libc::memfd_create(c"sparkler-code".as_ptr(), libc::MFD_CLOEXEC) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made, and nobody else has it.
        let file = unsafe { OwnedFd::from_raw_fd(raw) };
        // SAFETY: no memory is involved.
        if unsafe { libc::ftruncate(file.as_raw_fd(), len as libc::off_t) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let writable = map(&file, len, libc::PROT_READ | libc::PROT_WRITE)?;
        let executable = match map(&file, len, libc::PROT_READ | libc::PROT_EXEC) {
            Ok(executable) => executable,
            Err(error) => {
                unmap(writable, len);
                return Err(error);
            }
        };
        Ok(Self { writable, executable, len, used: 0 })
    }

    /// Bytes in use.
    pub fn used(&self) -> usize {
        self.used
    }

    /// Where the next piece will lie, as an offset.
    pub fn next(&self) -> u32 {
        self.used as u32
    }

    /// The address at which the byte at `offset` runs.
    pub fn address(&self, offset: u32) -> u64 {
        self.executable.as_ptr() as u64 + u64::from(offset)
    }

    /// Appends a piece of code at [`CodeMemory::next`]. False, with nothing done, if it is full.
    #[must_use]
    pub fn append(&mut self, code: &[u8]) -> bool {
        if code.len() > self.len - self.used {
            return false;
        }
        // SAFETY: the bytes behind `used` are inside the mapping (checked above), and no other
        // reference to it exists.
        unsafe {
            let target = self.writable.as_ptr().add(self.used);
            std::ptr::copy_nonoverlapping(code.as_ptr(), target, code.len());
        }
        self.used = (self.used + code.len()).next_multiple_of(ALIGNMENT).min(self.len);
        true
    }

    /// Makes the jump whose distance lies at `site` lead to `target`. Both are in use.
    pub fn link(&mut self, site: u32, target: u32) {
        assert!(site as usize + 4 <= self.used && (target as usize) < self.used);
        let distance = target.wrapping_sub(site + 4);
        // SAFETY: the four bytes lie in the mapping (asserted above). The code runs on this thread
        // only, so nobody executes them meanwhile.
        unsafe {
            let at = self.writable.as_ptr().add(site as usize);
            std::ptr::copy_nonoverlapping(distance.to_le_bytes().as_ptr(), at, 4);
        }
    }

    /// Forgets all code. No pointer to it may be left.
    pub fn clear(&mut self) {
        self.used = 0;
    }
}

impl Drop for CodeMemory {
    fn drop(&mut self) {
        unmap(self.writable, self.len);
        unmap(self.executable, self.len);
    }
}

fn map(file: &OwnedFd, len: usize, protection: i32) -> io::Result<NonNull<u8>> {
    // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
    let at = unsafe {
        libc::mmap(std::ptr::null_mut(), len, protection, libc::MAP_SHARED, file.as_raw_fd(), 0)
    };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(NonNull::new(at.cast()).expect("the kernel maps nothing at 0"))
}

fn unmap(at: NonNull<u8>, len: usize) {
    // SAFETY: the mapping is `map`'s, of this very length, and its owner is done with it.
    unsafe { libc::munmap(at.as_ptr().cast(), len) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_runs_and_what_does_not_fit_is_refused() {
        let mut memory = CodeMemory::new(4096).unwrap();
        // jmp +0; mov eax, 42; ret
        assert!(memory.append(&[0xE9, 0, 0, 0, 0, 0xB8, 42, 0, 0, 0, 0xC3]));
        // mov eax, 43; ret
        assert_eq!(memory.next(), 16);
        assert!(memory.append(&[0xB8, 43, 0, 0, 0, 0xC3]));
        assert!(!memory.append(&[0; 4096]));
        // SAFETY: the bytes above are a function of this type.
        let run =
            || unsafe { std::mem::transmute::<u64, extern "C" fn() -> i32>(memory.address(0))() };
        assert_eq!(run(), 42);
        memory.link(1, 16);
        // SAFETY: as above.
        let run =
            || unsafe { std::mem::transmute::<u64, extern "C" fn() -> i32>(memory.address(0))() };
        assert_eq!(run(), 43);
    }
}
