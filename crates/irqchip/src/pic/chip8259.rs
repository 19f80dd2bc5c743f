//! One 8259A (Intel 8259A data sheet).
//!
//! ```text
//!   PowerOn ──ICW1──▶ Icw2 ──▶ Icw3 ──▶ Icw4 ──▶ Ready
//!                      (ICW3 and ICW4 only if ICW1 asks for them;
//!                       an ICW1 at any time starts over)
//! ```
//!
//! An edge-triggered request stays latched when its line falls before it is
//! acknowledged, as in KVM and QEMU; a level-triggered one does not. Nothing is
//! requested until the chip is `Ready`: no firmware has run, and the vectors
//! are unknown. ICW1's own level bit is ignored in favour of the ELCR, as on
//! every chip set that has one.

/// Where the chip is in its initialisation sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InitStep {
    /// Never initialised.
    #[default]
    PowerOn,
    /// ICW2 (the vector base) comes next.
    Icw2,
    /// ICW3 (the cascade) comes next.
    Icw3,
    /// ICW4 (the modes) comes next.
    Icw4,
    /// Working.
    Ready,
}

/// Everything that a snapshot needs of one 8259A. Bit `n` of a byte is the
/// chip's input `n`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chip8259State {
    /// The levels of the inputs.
    pub lines: u8,
    /// Rises of edge-triggered inputs that were not yet acknowledged.
    pub edges: u8,
    /// The in-service register.
    pub in_service: u8,
    /// The interrupt mask register.
    pub mask: u8,
    /// The edge/level control register: set bits are level-triggered.
    pub level_select: u8,
    /// The high five bits of the vectors.
    pub vector_base: u8,
    /// Initialisation.
    pub init: InitStep,
    /// Whether ICW1 announced an ICW4.
    pub expects_icw4: bool,
    /// Whether ICW1 said that there is no cascade, and so no ICW3.
    pub single: bool,
    /// The input with the lowest priority; the one after it has the highest.
    pub lowest_priority: u8,
    /// An acknowledged request does not enter the in-service register.
    pub auto_eoi: bool,
    /// Priorities rotate at each automatic EOI.
    pub rotate_on_auto_eoi: bool,
    /// A masked input in service does not block lower ones.
    pub special_mask: bool,
    /// The cascade input may interrupt its own service.
    pub special_fully_nested: bool,
    /// The command port reads the in-service register, not the requests.
    pub read_in_service: bool,
    /// The next read of either port acknowledges, by OCW3's poll command.
    pub poll: bool,
}

impl Default for Chip8259State {
    fn default() -> Self {
        Self {
            lines: 0,
            edges: 0,
            in_service: 0,
            mask: 0,
            level_select: 0,
            vector_base: 0,
            init: InitStep::PowerOn,
            expects_icw4: false,
            single: false,
            lowest_priority: 7,
            auto_eoi: false,
            rotate_on_auto_eoi: false,
            special_mask: false,
            special_fully_nested: false,
            read_in_service: false,
            poll: false,
        }
    }
}

const ICW1: u8 = 1 << 4;
const ICW1_EXPECTS_ICW4: u8 = 1 << 0;
const ICW1_SINGLE: u8 = 1 << 1;
const ICW4_AUTO_EOI: u8 = 1 << 1;
const ICW4_SPECIAL_FULLY_NESTED: u8 = 1 << 4;
const OCW3: u8 = 1 << 3;
const OCW3_POLL: u8 = 1 << 2;
const POLL_PENDING: u8 = 1 << 7;

/// A write to the command port, decoded.
enum Command {
    Icw1(u8),
    Ocw2(u8),
    Ocw3(u8),
}

impl Command {
    fn decode(value: u8) -> Self {
        if value & ICW1 != 0 {
            Self::Icw1(value)
        } else if value & OCW3 != 0 {
            Self::Ocw3(value)
        } else {
            Self::Ocw2(value)
        }
    }
}

impl Chip8259State {
    /// Drives input `irq` (0 to 7).
    pub(super) fn set_line(&mut self, irq: u8, level: bool) {
        let bit = 1 << (irq & 7);
        if level {
            self.edges |= bit & !self.lines;
            self.lines |= bit;
        } else {
            self.lines &= !bit;
        }
    }

    /// The interrupt request register. Inputs of `follow` are level-triggered
    /// whatever the ELCR says: on the master, the slave's output.
    fn requests(&self, follow: u8) -> u8 {
        let level = self.level_select | follow;
        self.edges & !level | self.lines & level
    }

    /// The request that the chip would give now, if any.
    pub(super) fn pending(&self, follow: u8) -> Option<u8> {
        if self.init != InitStep::Ready {
            return None;
        }
        let requested = self.rank(self.requests(follow) & !self.mask)?;
        let hidden = if self.special_mask { self.mask } else { 0 };
        let irq = self.irq_of_rank(requested);
        match self.rank(self.in_service & !hidden) {
            Some(serving) if serving < requested => None,
            Some(serving) if serving == requested => {
                (self.special_fully_nested && follow & 1 << irq != 0).then_some(irq)
            }
            Some(_) | None => Some(irq),
        }
    }

    /// Acknowledges `irq`: from requested to in service.
    pub(super) fn acknowledge(&mut self, irq: u8) {
        let bit = 1 << (irq & 7);
        self.edges &= !bit;
        if !self.auto_eoi {
            self.in_service |= bit;
        } else if self.rotate_on_auto_eoi {
            self.lowest_priority = irq & 7;
        }
    }

    pub(super) fn vector(&self, irq: u8) -> u8 {
        self.vector_base | irq & 7
    }

    /// Reads the command port.
    pub(super) fn read_command(&mut self, follow: u8) -> u8 {
        if self.poll {
            self.finish_poll(follow)
        } else if self.read_in_service {
            self.in_service
        } else {
            self.requests(follow)
        }
    }

    /// Reads the data port.
    pub(super) fn read_data(&mut self, follow: u8) -> u8 {
        if self.poll { self.finish_poll(follow) } else { self.mask }
    }

    pub(super) fn write_command(&mut self, value: u8) {
        match Command::decode(value) {
            Command::Icw1(value) => self.write_icw1(value),
            Command::Ocw2(value) => self.write_ocw2(value),
            Command::Ocw3(value) => self.write_ocw3(value),
        }
    }

    pub(super) fn write_data(&mut self, value: u8) {
        match self.init {
            InitStep::PowerOn | InitStep::Ready => self.mask = value,
            InitStep::Icw2 => {
                self.vector_base = value & 0xf8;
                let next = if self.single { InitStep::Icw4 } else { InitStep::Icw3 };
                self.advance(next);
            }
            // The cascade is wired to input 2 and cannot be moved.
            InitStep::Icw3 => self.advance(InitStep::Icw4),
            InitStep::Icw4 => {
                self.auto_eoi = value & ICW4_AUTO_EOI != 0;
                self.special_fully_nested = value & ICW4_SPECIAL_FULLY_NESTED != 0;
                self.init = InitStep::Ready;
            }
        }
    }

    fn advance(&mut self, next: InitStep) {
        let skip = next == InitStep::Icw4 && !self.expects_icw4;
        self.init = if skip { InitStep::Ready } else { next };
    }

    /// Starts over; only the lines and the ELCR stay. Inputs must rise anew.
    fn write_icw1(&mut self, value: u8) {
        *self = Self {
            lines: self.lines,
            level_select: self.level_select,
            vector_base: self.vector_base,
            init: InitStep::Icw2,
            expects_icw4: value & ICW1_EXPECTS_ICW4 != 0,
            single: value & ICW1_SINGLE != 0,
            ..Self::default()
        };
    }

    /// Ends interrupts and rotates priorities (data sheet, "OCW2").
    fn write_ocw2(&mut self, value: u8) {
        let irq = value & 7;
        match value >> 5 {
            0b000 => self.rotate_on_auto_eoi = false,
            0b100 => self.rotate_on_auto_eoi = true,
            0b001 => drop(self.end_highest()),
            0b101 => {
                if let Some(ended) = self.end_highest() {
                    self.lowest_priority = ended;
                }
            }
            0b011 => self.in_service &= !(1 << irq),
            0b111 => {
                self.in_service &= !(1 << irq);
                self.lowest_priority = irq;
            }
            0b110 => self.lowest_priority = irq,
            _ => {}
        }
    }

    fn write_ocw3(&mut self, value: u8) {
        match value >> 5 & 3 {
            0b10 => self.special_mask = false,
            0b11 => self.special_mask = true,
            _ => {}
        }
        self.poll = value & OCW3_POLL != 0;
        match value & 3 {
            0b10 => self.read_in_service = false,
            0b11 => self.read_in_service = true,
            _ => {}
        }
    }

    /// The non-specific EOI. In special mask mode it passes over masked inputs.
    fn end_highest(&mut self) -> Option<u8> {
        let hidden = if self.special_mask { self.mask } else { 0 };
        let irq = self.rank(self.in_service & !hidden).map(|rank| self.irq_of_rank(rank))?;
        self.in_service &= !(1 << irq);
        Some(irq)
    }

    fn finish_poll(&mut self, follow: u8) -> u8 {
        self.poll = false;
        let Some(irq) = self.pending(follow) else {
            return 0;
        };
        self.acknowledge(irq);
        POLL_PENDING | irq
    }

    /// The priority of the most urgent of `bits`: 0 is the highest.
    fn rank(&self, bits: u8) -> Option<u8> {
        let first = u32::from(self.lowest_priority & 7) + 1;
        (bits != 0).then(|| bits.rotate_right(first).trailing_zeros() as u8)
    }

    fn irq_of_rank(&self, rank: u8) -> u8 {
        ((self.lowest_priority & 7) + 1 + rank) & 7
    }
}
