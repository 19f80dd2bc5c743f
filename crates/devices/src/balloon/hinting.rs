//! Free page hinting (virtio 1.2, 5.5.6.5): host and driver agree by command ids on which hints
//! still hold.
//!
//! ```text
//!   host:    start ── id n ──────────────────────────────────▶ DONE: pages may be used again
//!   driver:           └▶ id n, hint, hint, hint, STOP ──────────┘ by itself if asked to
//! ```
//!
//! The driver holds the pages that it hinted at until the host says DONE. A hint counts only while
//! the command that the host gave last is the one that the driver answers: any other may name
//! pages that are in use again.

/// Nothing is asked for (the host), or there is no more to come (the driver).
pub const STOP: u32 = 0;
/// The driver may use all pages again.
pub const DONE: u32 = 1;
/// The first id that begins a run.
const FIRST: u32 = 2;

/// Where host and driver are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HintingStatus {
    /// What the host said last: 0 for nothing yet, 1 for done, more for a run.
    pub host_cmd: u32,
    /// What the driver said last, if it has said anything.
    pub guest_cmd: Option<u32>,
}

/// The protocol's state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hinting {
    status: HintingStatus,
    /// The id of the last run.
    last: u32,
    /// Whether the host says DONE when the driver says STOP.
    acknowledge: bool,
    /// The driver answered the run with its id, and goes on.
    answered: bool,
}

impl Hinting {
    /// Begins a run.
    pub fn start(&mut self, acknowledge: bool) {
        self.last = self.last.wrapping_add(1).max(FIRST);
        self.status.host_cmd = self.last;
        self.acknowledge = acknowledge;
        self.answered = false;
    }

    /// Lets the driver have its pages back.
    pub fn stop(&mut self) {
        self.status.host_cmd = DONE;
        self.answered = false;
    }

    /// The driver forgot everything.
    pub fn reset(&mut self) {
        self.status = HintingStatus::default();
        self.answered = false;
    }

    /// Where host and driver are.
    pub fn status(&self) -> HintingStatus {
        self.status
    }

    /// The driver says `command`. True if the host says DONE to that, by itself.
    pub fn hear(&mut self, command: u32) -> bool {
        // STOP is news only for a run that the driver answered and the host has not given up.
        let ends = self.answered && matches!(command, STOP | DONE);
        self.status.guest_cmd = Some(command);
        self.answered = self.status.host_cmd >= FIRST && command == self.status.host_cmd;
        if ends && self.acknowledge {
            self.stop();
            return true;
        }
        false
    }

    /// Whether a hint that comes now names pages that the driver holds.
    pub fn holds(&self) -> bool {
        self.answered
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_run_goes_from_start_to_done() {
        let mut hinting = Hinting::default();
        assert!(!hinting.holds());
        hinting.start(true);
        assert_eq!(hinting.status(), HintingStatus { host_cmd: 2, guest_cmd: None });
        assert!(!hinting.holds());
        assert!(!hinting.hear(2) && hinting.holds());
        assert!(hinting.hear(STOP) && !hinting.holds());
        assert_eq!(hinting.status(), HintingStatus { host_cmd: DONE, guest_cmd: Some(STOP) });
        hinting.start(false);
        assert!(!hinting.hear(3) && hinting.holds());
        assert!(!hinting.hear(STOP) && !hinting.holds());
        assert_eq!(hinting.status().host_cmd, 3);
    }

    #[test]
    fn ids_skip_those_with_a_meaning() {
        let mut hinting = Hinting { last: u32::MAX, ..Hinting::default() };
        hinting.start(false);
        assert_eq!(hinting.status().host_cmd, FIRST);
    }

    proptest! {
        /// Whatever happens, a hint counts only if the driver spoke the host's last id after the
        /// host did, and did not stop since.
        #[test]
        fn stale_hints_never_count(events in prop::collection::vec((0u8..4, 0u32..6, any::<bool>()), 0..40)) {
            let mut hinting = Hinting::default();
            let mut running = None;
            let mut answered = false;
            for (event, command, acknowledge) in events {
                match event {
                    0 => {
                        hinting.start(acknowledge);
                        running = Some(hinting.status().host_cmd);
                        answered = false;
                    }
                    1 => (hinting.stop(), running = None).0,
                    2 => (hinting.reset(), (running, answered) = (None, false)).0,
                    _ => {
                        if hinting.hear(command) {
                            running = None;
                        }
                        answered = running == Some(command);
                    }
                }
                prop_assert_eq!(hinting.holds(), running.is_some() && answered);
            }
        }
    }
}
