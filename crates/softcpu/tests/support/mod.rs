//! A bare 64-bit guest around a few instructions, for tests and benches: identity-mapped memory,
//! ring 0, interrupts off. The guest ends by writing to port [`END_PORT`], which kicks it.

use std::sync::Arc;

use bus::{Device, IoSpace};
use memory::{Bytes, GuestAddress};
use vcpu::{CpuState, Exit, Kick, Segment, Vcpu, Vm};

/// Where the code lies.
pub const CODE: u64 = 0x10_0000;
/// A stretch of memory for the code's own use.
#[allow(dead_code)] // Not every test has data.
pub const DATA: u64 = 0x20_0000;
/// Writing any byte here ends the run.
pub const END_PORT: u16 = 0x10;

const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const RAM: u64 = 4 << 20;

/// A guest that is ready to run.
pub struct Guest {
    #[allow(dead_code)] // Not every test writes to it.
    pub memory: Arc<memory::GuestMemory>,
    vcpu: Box<dyn Vcpu>,
    io: Arc<IoSpace>,
    state: CpuState,
    _vm: Arc<dyn Vm>,
}

struct End(Arc<dyn Kick>);

impl Device for End {
    fn read(&self, _: u64, _: &mut [u8]) {}
    fn write(&self, _: u64, _: &[u8]) {
        self.0.kick();
    }
}

impl Guest {
    /// A guest with `code` at [`CODE`].
    #[allow(dead_code)] // Not every test takes the CPU as it comes.
    pub fn new(code: &[u8]) -> Self {
        Self::with(code, sparkler_softcpu::Options::default())
    }

    /// A guest with `code` at [`CODE`], on a CPU with these options.
    pub fn with(code: &[u8], options: sparkler_softcpu::Options) -> Self {
        let memory = Arc::new(memory::allocate(&memory::ranges(RAM)).unwrap());
        memory.write_obj(PDPT | 7, GuestAddress(PML4)).unwrap();
        // One page of 1 GiB maps everything onto itself.
        memory.write_obj(0x87u64, GuestAddress(PDPT)).unwrap();
        memory.write_slice(code, GuestAddress(CODE)).unwrap();
        let vm = sparkler_softcpu::SoftVm::new(memory.clone(), options).unwrap();
        let vcpu = vm.vcpu(0).unwrap();
        let mut io = IoSpace::default();
        io.ports.insert(u64::from(END_PORT), 1, Arc::new(End(vcpu.kicker()))).unwrap();
        Self { memory, vcpu, io: Arc::new(io), state: first_state(), _vm: vm }
    }

    /// Runs from [`CODE`] to the end, and gives the state there.
    pub fn run(&mut self) -> CpuState {
        self.vcpu.set_state(&self.state).unwrap();
        assert_eq!(self.vcpu.run(&self.io).unwrap(), Exit::Kicked);
        self.vcpu.state().unwrap()
    }
}

fn first_state() -> CpuState {
    let code =
        Segment { selector: 8, base: 0, limit: u32::MAX, attributes: 0xA9B, unusable: false };
    let data = Segment { selector: 16, attributes: 0xC93, ..code };
    CpuState {
        rip: CODE,
        segments: [data, code, data, data, data, data],
        cr0: 0x8000_0011,
        cr3: PML4,
        cr4: 0x620,
        efer: 0x500,
        gpr: std::array::from_fn(|i| if i == 4 { RAM - 0x1000 } else { 0 }),
        ..CpuState::default()
    }
}
