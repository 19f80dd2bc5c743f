//! The PC's pair of 8259A interrupt controllers: the slave's output is the
//! master's input 2, the master's output is the CPU's INTR.
//!
//! The master's input 2 follows the slave's output as a level, and the output
//! is computed from the state, so that no request is lost between the two
//! whatever the order of EOIs, and a withdrawn one is not seen. A CPU that
//! acknowledges when nothing is requested gets the spurious interrupt 7.

mod chip8259;

#[cfg(test)]
mod tests;

pub use chip8259::{Chip8259State, InitStep};

/// A port of the pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PicPort {
    /// 0x20.
    MasterCommand,
    /// 0x21.
    MasterData,
    /// 0xa0.
    SlaveCommand,
    /// 0xa1.
    SlaveData,
    /// 0x4d0.
    MasterLevelSelect,
    /// 0x4d1.
    SlaveLevelSelect,
}

/// Everything that a snapshot needs of the pair.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PicState {
    /// Interrupts 0 to 7.
    pub master: Chip8259State,
    /// Interrupts 8 to 15.
    pub slave: Chip8259State,
}

/// Number of interrupt lines, of which number 2 is the cascade.
pub(crate) const PIC_LINE_COUNT: u32 = 16;

const CASCADE_IRQ: u8 = 2;
const CASCADE: u8 = 1 << CASCADE_IRQ;
/// The chip's inputs that follow another chip's output.
const MASTER_FOLLOWS: u8 = CASCADE;
const SLAVE_FOLLOWS: u8 = 0;
const SPURIOUS_IRQ: u8 = 7;

/// Lines that can be level-triggered: not the timer, keyboard, cascade,
/// clock and coprocessor.
const MASTER_LEVEL_SELECTABLE: u8 = 0xf8;
const SLAVE_LEVEL_SELECTABLE: u8 = 0xde;

/// The pair of interrupt controllers.
#[derive(Clone, Debug, Default)]
pub struct Pic {
    state: PicState,
}

impl Pic {
    /// A pair that was never initialised.
    pub fn new() -> Self {
        Self::default()
    }

    /// A pair as it was saved.
    pub fn from_state(state: PicState) -> Self {
        Self { state }
    }

    /// The state to save.
    pub fn state(&self) -> &PicState {
        &self.state
    }

    /// Drives a line, 0 to 15. Line 2 is the cascade's own, and what does not
    /// exist is ignored.
    pub fn set_line(&mut self, irq: u8, level: bool) {
        match irq {
            CASCADE_IRQ => {}
            0..=7 => self.state.master.set_line(irq, level),
            8..=15 => self.state.slave.set_line(irq - 8, level),
            16.. => {}
        }
        self.update_cascade();
    }

    /// The output to the CPU.
    pub fn intr(&self) -> bool {
        self.state.master.pending(MASTER_FOLLOWS).is_some()
    }

    /// The CPU's interrupt acknowledge cycle: the vector to take.
    pub fn ack(&mut self) -> u8 {
        let vector = match self.state.master.pending(MASTER_FOLLOWS) {
            Some(CASCADE_IRQ) => {
                self.state.master.acknowledge(CASCADE_IRQ);
                self.ack_slave()
            }
            Some(irq) => {
                self.state.master.acknowledge(irq);
                self.state.master.vector(irq)
            }
            None => self.state.master.vector(SPURIOUS_IRQ),
        };
        self.update_cascade();
        vector
    }

    /// Reads a port. Polling acknowledges, so a read can change the state.
    pub fn read(&mut self, port: PicPort) -> u8 {
        let PicState { master, slave } = &mut self.state;
        let value = match port {
            PicPort::MasterCommand => master.read_command(MASTER_FOLLOWS),
            PicPort::MasterData => master.read_data(MASTER_FOLLOWS),
            PicPort::SlaveCommand => slave.read_command(SLAVE_FOLLOWS),
            PicPort::SlaveData => slave.read_data(SLAVE_FOLLOWS),
            PicPort::MasterLevelSelect => master.level_select,
            PicPort::SlaveLevelSelect => slave.level_select,
        };
        self.update_cascade();
        value
    }

    /// Writes a port.
    pub fn write(&mut self, port: PicPort, value: u8) {
        let PicState { master, slave } = &mut self.state;
        match port {
            PicPort::MasterCommand => master.write_command(value),
            PicPort::MasterData => master.write_data(value),
            PicPort::SlaveCommand => slave.write_command(value),
            PicPort::SlaveData => slave.write_data(value),
            PicPort::MasterLevelSelect => master.level_select = value & MASTER_LEVEL_SELECTABLE,
            PicPort::SlaveLevelSelect => slave.level_select = value & SLAVE_LEVEL_SELECTABLE,
        }
        self.update_cascade();
    }

    /// The second half of the acknowledge cycle. A slave that has nothing any
    /// more answers with its own spurious interrupt, which only the master has
    /// in service.
    fn ack_slave(&mut self) -> u8 {
        match self.state.slave.pending(SLAVE_FOLLOWS) {
            Some(irq) => {
                self.state.slave.acknowledge(irq);
                self.state.slave.vector(irq)
            }
            None => self.state.slave.vector(SPURIOUS_IRQ),
        }
    }

    fn update_cascade(&mut self) {
        let output = self.state.slave.pending(SLAVE_FOLLOWS).is_some();
        self.state.master.set_line(CASCADE_IRQ, output);
    }
}
