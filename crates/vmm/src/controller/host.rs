//! What the host opens when it is configured, so that a client learns at once what is wrong.

use std::fs::File;

use api::BootSourceError;
use host::DiskError;
use spec::{InitrdPart, InstanceId, VmSpec};

use super::Resources;
use crate::{CpuOptions, Error, Machine, Setup, logger, metrics, resources};

/// This host, and what it opened so far.
pub(super) struct Host {
    /// The machine's name in its metrics.
    id: InstanceId,
    /// Which CPU runs it.
    cpu: CpuOptions,
    metadata: mmds::Store,
    opened: resources::Resources,
}

impl Host {
    /// A host on which nothing is open.
    pub fn new(id: InstanceId, cpu: CpuOptions, metadata: mmds::Store) -> Self {
        Self { id, cpu, metadata, opened: resources::Resources::default() }
    }
}

impl Resources for Host {
    type Machine = Machine;

    fn logger(&mut self, config: &api::Logger) -> Result<(), String> {
        logger::configure(config).map_err(|error| error.to_string())
    }

    fn metrics(&mut self, config: &api::Metrics) -> Result<(), String> {
        metrics::configure(self.id.as_str(), config).map_err(|error| error.to_string())
    }

    fn boot_source(&mut self, boot: &spec::BootSource) -> Result<(), BootSourceError> {
        let path = boot.kernel().clone();
        File::open(&path)
            .map_err(|error| BootSourceError::Kernel { path, reason: error.to_string() })?;
        for part in boot.initrd() {
            if let InitrdPart::File(path) = part {
                let path = path.clone();
                File::open(&path)
                    .map_err(|error| BootSourceError::Initrd { path, reason: error.to_string() })?;
            }
        }
        Ok(())
    }

    fn drive(&mut self, drive: &spec::Drive) -> Result<(), String> {
        self.opened.drive(drive).map_err(|error| in_firecrackers_words(&error))
    }

    fn interface(&mut self, interface: &spec::NetworkInterface) -> Result<(), String> {
        self.opened.interface(interface).map_err(|error| error.to_string())
    }

    fn vsock(&mut self, vsock: &spec::Vsock) -> Result<(), String> {
        self.opened.vsock(vsock).map_err(|error| error.to_string())
    }

    fn start(&mut self, spec: VmSpec) -> Result<Machine, String> {
        let resources = std::mem::take(&mut self.opened);
        let metadata = self.metadata.clone();
        let setup = Setup::plain().map_err(|error| error.to_string())?;
        let setup = Setup { resources, metadata, ..setup };
        Machine::start(spec, self.cpu, setup).map_err(|error| error.to_string())
    }
}

/// What went wrong, as far as possible in Firecracker's words.
pub(crate) fn in_firecrackers_words(error: &Error) -> String {
    match error {
        Error::Disk(error) => disk_error(error),
        error => error.to_string(),
    }
}

/// Why a disk cannot be had, as far as possible in Firecracker's words.
fn disk_error(error: &DiskError) -> String {
    match error {
        DiskError::Open { path, source, .. } => {
            format!("Error manipulating the backing file: {source} {}", path.display())
        }
        DiskError::Kind { .. }
        | DiskError::Small { .. }
        | DiskError::NoUring { .. }
        | DiskError::InUse { .. } => error.to_string(),
    }
}
