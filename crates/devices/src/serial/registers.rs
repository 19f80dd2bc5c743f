//! The registers of a 16550A (PC16550D data sheet, 8), as a map from offset to register.

/// One register, as an access reaches it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Register {
    /// RBR: the next byte received (read).
    ReceiverBuffer,
    /// THR: the byte to send (write).
    TransmitterHolding,
    /// IER: which interrupts are enabled.
    InterruptEnable,
    /// IIR: the most urgent interrupt (read).
    InterruptIdentification,
    /// FCR: controls the FIFOs (write).
    FifoControl,
    /// LCR: the line's format, and the latch bit that swaps registers.
    LineControl,
    /// MCR: outputs to the modem, and loopback.
    ModemControl,
    /// LSR: the state of sender and receiver.
    LineStatus,
    /// MSR: inputs from the modem.
    ModemStatus,
    /// SCR: a byte for the driver's own use.
    Scratch,
    /// DLL: the baud rate divisor's low byte.
    DivisorLow,
    /// DLM: the baud rate divisor's high byte.
    DivisorHigh,
}

impl Register {
    /// The register that a read at `offset` reaches, given the latch bit of LCR.
    pub(super) fn read_at(offset: u64, latch: bool) -> Option<Self> {
        Some(match (offset, latch) {
            (0, true) => Self::DivisorLow,
            (1, true) => Self::DivisorHigh,
            (0, false) => Self::ReceiverBuffer,
            (1, false) => Self::InterruptEnable,
            (2, _) => Self::InterruptIdentification,
            (3, _) => Self::LineControl,
            (4, _) => Self::ModemControl,
            (5, _) => Self::LineStatus,
            (6, _) => Self::ModemStatus,
            (7, _) => Self::Scratch,
            (8.., _) => return None,
        })
    }

    /// The register that a write at `offset` reaches, given the latch bit of LCR.
    pub(super) fn write_at(offset: u64, latch: bool) -> Option<Self> {
        Some(match (offset, latch) {
            (0, false) => Self::TransmitterHolding,
            (2, _) => Self::FifoControl,
            // Reserved for writing.
            (5 | 6, _) => return None,
            (offset, latch) => return Self::read_at(offset, latch),
        })
    }
}

/// IER: a byte was received.
pub(super) const IER_RECEIVED: u8 = 1 << 0;
/// IER: the transmitter holding register is empty.
pub(super) const IER_TRANSMITTER_EMPTY: u8 = 1 << 1;
/// IER: an error was received.
pub(super) const IER_LINE_STATUS: u8 = 1 << 2;
/// IER: a modem input changed.
pub(super) const IER_MODEM_STATUS: u8 = 1 << 3;
/// IER: the bits that exist.
pub(super) const IER_MASK: u8 =
    IER_RECEIVED | IER_TRANSMITTER_EMPTY | IER_LINE_STATUS | IER_MODEM_STATUS;

/// IIR: nothing pending.
pub(super) const IIR_NONE: u8 = 0b0001;
/// IIR: a modem input changed.
pub(super) const IIR_MODEM_STATUS: u8 = 0b0000;
/// IIR: the transmitter holding register is empty.
pub(super) const IIR_TRANSMITTER_EMPTY: u8 = 0b0010;
/// IIR: a byte was received.
pub(super) const IIR_RECEIVED: u8 = 0b0100;
/// IIR: an error was received.
pub(super) const IIR_LINE_STATUS: u8 = 0b0110;
/// IIR: the FIFOs are on; by these bits drivers know a 16550A.
pub(super) const IIR_FIFO: u8 = 0b1100_0000;

/// FCR: the FIFOs are on.
pub(super) const FCR_ENABLE: u8 = 1 << 0;
/// FCR: empty the receiver's FIFO.
pub(super) const FCR_CLEAR_RECEIVER: u8 = 1 << 1;

/// LCR: offsets 0 and 1 reach the divisor.
pub(super) const LCR_LATCH: u8 = 1 << 7;

/// MCR: the bits that exist.
pub(super) const MCR_MASK: u8 = 0b0001_1111;
/// MCR: Data Terminal Ready.
pub(super) const MCR_DTR: u8 = 1 << 0;
/// MCR: Request To Send.
pub(super) const MCR_RTS: u8 = 1 << 1;
/// MCR: the first auxiliary output.
pub(super) const MCR_OUT1: u8 = 1 << 2;
/// MCR: the second auxiliary output.
pub(super) const MCR_OUT2: u8 = 1 << 3;
/// MCR: what is sent comes back.
pub(super) const MCR_LOOPBACK: u8 = 1 << 4;

/// LSR: a byte can be read.
pub(super) const LSR_DATA_READY: u8 = 1 << 0;
/// LSR: a byte was lost because nobody read.
pub(super) const LSR_OVERRUN: u8 = 1 << 1;
/// LSR: the transmitter takes a byte.
pub(super) const LSR_TRANSMITTER_EMPTY: u8 = 1 << 5;
/// LSR: nothing is being sent.
pub(super) const LSR_IDLE: u8 = 1 << 6;

/// MSR: shift from a level bit to the bit that says it changed.
pub(super) const MSR_CHANGED_SHIFT: u8 = 4;
/// MSR: Ring Indicator changed; reported on the trailing edge only.
pub(super) const MSR_RING_ENDED: u8 = 1 << 2;
/// MSR: Clear To Send.
pub(super) const MSR_CTS: u8 = 1 << 4;
/// MSR: Data Set Ready.
pub(super) const MSR_DSR: u8 = 1 << 5;
/// MSR: Ring Indicator.
pub(super) const MSR_RING: u8 = 1 << 6;
/// MSR: Data Carrier Detect.
pub(super) const MSR_DCD: u8 = 1 << 7;
