//! Which arithmetic flags matter where.
//!
//! Translated code leaves the flags where the guest's own instructions put them, in the host's.
//! Everything that it adds (TLB checks, the budget) destroys them, so they are put away before that
//! into the frame's word if anything may still read them, and taken back when something does. At
//! the boundaries of blocks they are in the word, or nobody reads them any more.

use iced_x86::{Decoder, FlowControl, Instruction, Mnemonic, OpKind, RflagsBits};

use crate::decode::OPTIONS;
use crate::flags::{FX_AF, FX_CF, FX_OF, FX_PF, FX_SF, FX_ZF};
use crate::select::{always_sets_flags, ends_block};

/// All six.
pub const ALL: u32 = RflagsBits::OF
    | RflagsBits::SF
    | RflagsBits::ZF
    | RflagsBits::AF
    | RflagsBits::CF
    | RflagsBits::PF;
/// Instructions looked at behind a jump.
const AHEAD_MAX: usize = 8;

/// The flags that `i` reads.
pub fn reads(i: &Instruction) -> u32 {
    i.rflags_read() & ALL
}

/// The flags that `i` sets or may set.
pub fn modifies(i: &Instruction) -> u32 {
    match i.mnemonic() {
        // They leave OF undefined where the count is a multiple of what is rotated, and hosts set it.
        Mnemonic::Rcl | Mnemonic::Rcr => RflagsBits::CF | RflagsBits::OF,
        _ => i.rflags_modified() & ALL,
    }
}

/// The flags that `i` sets whatever its operands are, on all hosts.
pub fn kills(i: &Instruction) -> u32 {
    match i.mnemonic() {
        Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc => RflagsBits::CF,
        Mnemonic::Mul | Mnemonic::Imul => RflagsBits::CF | RflagsBits::OF,
        Mnemonic::Rcl | Mnemonic::Rcr => 0,
        // All are undefined.
        Mnemonic::Div | Mnemonic::Idiv => ALL,
        Mnemonic::Shl | Mnemonic::Sal | Mnemonic::Shr | Mnemonic::Sar if shifts(i) => modifies(i),
        _ if always_sets_flags(i) => modifies(i),
        _ => 0,
    }
}

/// Whether a shift is by an immediate that is not zero.
fn shifts(i: &Instruction) -> bool {
    let mask = if i.op0_register().size() == 8 || i.memory_size().size() == 8 { 63 } else { 31 };
    i.op1_kind() == OpKind::Immediate8 && i.immediate8() & mask != 0
}

/// `matter` as bits of the frame's word, which is as `Cpu::fx`.
pub fn in_frame(matter: u32) -> u16 {
    const BITS: [(u32, u16); 6] = [
        (RflagsBits::OF, FX_OF),
        (RflagsBits::SF, FX_SF),
        (RflagsBits::ZF, FX_ZF),
        (RflagsBits::AF, FX_AF),
        (RflagsBits::CF, FX_CF),
        (RflagsBits::PF, FX_PF),
    ];
    BITS.iter().filter(|(flag, _)| matter & flag != 0).fold(0, |word, (_, bit)| word | bit)
}

/// The flags that matter before `i`, if `after` do behind it.
pub fn before(i: &Instruction, after: u32) -> u32 {
    after & !kills(i) | reads(i)
}

/// The flags that matter to the code in `bytes`, as far as it can be seen.
pub fn matter_to(bytes: &[u8]) -> u32 {
    let mut decoder = Decoder::with_ip(64, bytes, 0, OPTIONS);
    let (mut matter, mut open) = (0, ALL);
    for _ in 0..AHEAD_MAX {
        let i = decoder.decode();
        if i.is_invalid() {
            break;
        }
        matter |= reads(&i) & open;
        open &= !kills(&i);
        if open == 0 {
            return matter;
        }
        if i.flow_control() != FlowControl::Next || ends_block(&i) {
            break;
        }
    }
    matter | open
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_matters_is_seen_through_a_few_instructions() {
        let check = |bytes: &[u8], expected| {
            assert_eq!(matter_to(bytes), expected, "{bytes:02x?}");
        };
        check(&[0x48, 0x01, 0xD8], 0); // add rax, rbx
        check(&[0x48, 0x89, 0xD8, 0x48, 0x01, 0xD8], 0); // mov rax, rbx; add rax, rbx
        check(&[0x48, 0x11, 0xD8], RflagsBits::CF); // adc rax, rbx
        check(&[0x48, 0xFF, 0xC0, 0x48, 0x11, 0xD8], RflagsBits::CF); // inc rax; adc rax, rbx
        check(&[0x74, 0x00, 0x48, 0x01, 0xD8], ALL); // je: what lies behind is not known
        check(&[0xC3], ALL);
        check(&[], ALL);
        check(&[0x48, 0xD3, 0xE0, 0x48, 0x01, 0xD8], 0); // shl rax, cl reads nothing; add sets all
    }
}
