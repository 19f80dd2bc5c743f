//! Agreement between vCPUs on which pages hold code.
//!
//! Before a vCPU decodes from a page, no other may be able to write it without asking. It marks
//! the page first, so that nobody caches it as writable from then on, and then asks those that did
//! before ([`memory::PageState::writers`]) to drop their entries. It waits until each has done so or
//! is outside of guest code, where it looks at requests before it enters again. While it waits it
//! answers requests itself, so that two vCPUs that wait for one another both go on.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use crate::cpu::Cpu;

impl Cpu {
    /// Marks that this vCPU runs guest code, and answers requests that came before.
    pub fn enter_guest(&mut self) {
        let waker = &self.port.waker;
        if !waker.in_guest.load(Ordering::Relaxed) {
            waker.in_guest.store(true, Ordering::SeqCst);
        }
        if waker.protect_pending.load(Ordering::SeqCst) {
            self.protect_requested();
        }
    }

    /// Marks that this vCPU is outside of guest code.
    pub fn leave_guest(&mut self) {
        self.port.waker.in_guest.store(false, Ordering::SeqCst);
    }

    fn protect_requested(&mut self) {
        let waker = self.port.waker.clone();
        let mut frames = waker.protect.lock().unwrap_or_else(PoisonError::into_inner);
        for frame in frames.drain(..) {
            self.tlb.protect_frame(frame);
        }
        waker.protect_pending.store(false, Ordering::SeqCst);
    }

    /// Makes `len` bytes at `physical` a place that may be decoded: every later write to them
    /// raises the page's version. The bytes lie in one page of RAM; others are left alone.
    pub fn claim_code(&mut self, physical: u64, len: u64) {
        let frame = physical >> 12;
        let shared = self.shared.clone();
        let _one_at_a_time = loop {
            match shared.code_lock.try_lock() {
                Ok(guard) => break guard,
                Err(std::sync::TryLockError::Poisoned(poisoned)) => break poisoned.into_inner(),
                Err(std::sync::TryLockError::WouldBlock) => self.answer_and_yield(),
            }
        };
        let Some(page) = self.port.ram.page(frame) else { return };
        if !page.state.note_code(physical & 0xFFF, len) {
            return;
        }
        let writers = page.state.writers();
        page.state.retract_writers(writers);
        if writers == 0 {
            return;
        }
        self.tlb.protect_frame(frame);
        for (id, waker) in shared.wakers().iter().enumerate() {
            if id != usize::from(self.id) && writers & 1 << id != 0 {
                waker.protect.lock().unwrap_or_else(PoisonError::into_inner).push(frame);
                waker.protect_pending.store(true, Ordering::SeqCst);
            }
        }
        for (id, waker) in shared.wakers().iter().enumerate() {
            if id == usize::from(self.id) {
                continue;
            }
            while waker.protect_pending.load(Ordering::SeqCst)
                && waker.in_guest.load(Ordering::SeqCst)
            {
                self.answer_and_yield();
            }
        }
    }

    fn answer_and_yield(&mut self) {
        if self.port.waker.protect_pending.load(Ordering::SeqCst) {
            self.protect_requested();
        }
        std::thread::yield_now();
    }
}
