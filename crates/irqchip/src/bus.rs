//! The way from a message to the inboxes of the vCPUs that it names.
//!
//! The bus reads only what the vCPUs published ([`IrqInbox::routing`]), so any
//! thread may send. It wakes nobody itself: each call is handed a `wake`
//! closure that gets the index of every vCPU that needs a kick.

use std::sync::Arc;

use crate::inbox::IrqInbox;
use crate::message::{DeliveryMode, Ipi, Message, Shorthand};

/// All inboxes of a VM, by vCPU index. Cloning shares them.
#[derive(Clone, Debug)]
pub struct ApicBus {
    inboxes: Arc<[Arc<IrqInbox>]>,
}

impl ApicBus {
    /// A bus over the inboxes of all vCPUs, in index order.
    pub fn new(inboxes: Vec<Arc<IrqInbox>>) -> Self {
        Self { inboxes: inboxes.into() }
    }

    /// The inbox of vCPU `index`.
    pub fn inbox(&self, index: usize) -> Option<&Arc<IrqInbox>> {
        self.inboxes.get(index)
    }

    /// Delivers a message of the I/O APIC or of a device.
    pub fn deliver(&self, message: &Message, wake: impl FnMut(usize)) {
        let matches = |index: usize| self.inboxes[index].routing().matches(message);
        self.post(message, matches, wake);
    }

    /// Delivers an IPI of vCPU `sender`.
    pub fn send_ipi(&self, sender: usize, ipi: &Ipi, wake: impl FnMut(usize)) {
        match ipi.shorthand {
            Shorthand::Destination => self.deliver(&ipi.message, wake),
            Shorthand::SelfOnly => self.post(&ipi.message, |index| index == sender, wake),
            Shorthand::AllIncludingSelf => self.post(&ipi.message, |_| true, wake),
            Shorthand::AllExcludingSelf => {
                self.post(&ipi.message, |index| index != sender, wake);
            }
        }
    }

    /// Sets the level of LINT0 on every vCPU, as the 8259A pair's INTR output
    /// is wired to all. Only those that accept external interrupts are woken.
    pub fn set_extint(&self, level: bool, mut wake: impl FnMut(usize)) {
        for (index, inbox) in self.inboxes.iter().enumerate() {
            if inbox.set_extint(level) && level && inbox.routing().extint_enabled {
                wake(index);
            }
        }
    }

    fn post(
        &self,
        message: &Message,
        matches: impl Fn(usize) -> bool,
        mut wake: impl FnMut(usize),
    ) {
        let targets = (0..self.inboxes.len()).filter(|&index| matches(index));
        match message.delivery {
            // The processor with the lowest priority is only known to its own
            // thread; the first that can take the interrupt does as well.
            DeliveryMode::LowestPriority => self.post_each(
                message,
                targets.filter(|&index| self.inboxes[index].routing().software_enabled).take(1),
                &mut wake,
            ),
            DeliveryMode::Fixed
            | DeliveryMode::Smi
            | DeliveryMode::Nmi
            | DeliveryMode::Init
            | DeliveryMode::StartUp
            | DeliveryMode::ExtInt => self.post_each(message, targets, &mut wake),
        }
    }

    fn post_each(
        &self,
        message: &Message,
        targets: impl Iterator<Item = usize>,
        wake: &mut impl FnMut(usize),
    ) {
        for index in targets {
            if self.inboxes[index].post(message) {
                wake(index);
            }
        }
    }
}
