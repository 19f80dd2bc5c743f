//! The vCPUs' threads: `fc_vcpu 0`, `fc_vcpu 1`, …, as supervisors know them.

use std::sync::Arc;
use std::thread;

use bus::IoSpace;
use vcpu::{Exit, Vcpu};

use crate::control::{Control, End, Gate};
use crate::{Error, metrics};

/// Starts a thread for each vCPU. They run until the machine ends.
pub(crate) fn start(
    vcpus: Vec<Box<dyn Vcpu>>,
    io: &Arc<IoSpace>,
    control: &Control,
) -> Result<(), Error> {
    for (id, vcpu) in vcpus.into_iter().enumerate() {
        let (io, own_control) = (io.clone(), control.clone());
        control.add_thread(vcpu.kicker());
        let started = thread::Builder::new()
            .name(format!("fc_vcpu {id}"))
            .spawn(move || run(id, vcpu, &io, &own_control));
        if let Err(source) = started {
            control.remove_thread();
            return Err(Error::Thread { id, source });
        }
    }
    Ok(())
}

fn run(id: usize, mut vcpu: Box<dyn Vcpu>, io: &Arc<IoSpace>, control: &Control) {
    while control.gate() == Gate::Run {
        match vcpu.run(io) {
            Ok(Exit::Kicked) => {}
            Ok(Exit::Reset) => control.end(End::Reset),
            Ok(Exit::TripleFault) => fail(control, Error::TripleFault { id }),
            Err(error) => fail(control, error.into()),
        }
    }
    drop(vcpu);
    control.remove_thread();
}

fn fail(control: &Control, error: Error) {
    metrics::registry().vcpu.failures.inc();
    control.end(End::Failed(error));
}
