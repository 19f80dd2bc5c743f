//! From what a client wrote to what a machine is: each body is checked once, here.

use spec::{CommandLine, DeviceId, InitrdPart, InstanceId, MemoryMib, VcpuCount, VmSpec};

use crate::error::{DriveError, MachineConfigError};
use crate::{
    BootSource, CacheType, CpuTemplate, Drive, Entropy, Error, HugePages, IoEngine, MachineConfig,
    NetworkInterface, RateLimiter, TokenBucket, VmConfigFile,
};

impl VmConfigFile {
    /// The machine that the file describes. `id` comes from the command line, as in Firecracker.
    ///
    /// The parts are looked at in Firecracker's order, so that of several faults the same one is
    /// reported.
    pub fn to_spec(&self, id: InstanceId) -> Result<VmSpec, Error> {
        let machine = self.machine_config.clone().unwrap_or_default();
        let (vcpus, memory) = machine.try_into().map_err(Error::MachineConfig)?;
        let boot = self.boot_source.clone().try_into().map_err(Error::BootSource)?;
        let mut spec = VmSpec { vcpus, memory, ..VmSpec::new(id, boot) };
        for drive in &self.drives {
            let drive = drive.clone().try_into().map_err(Error::Drive)?;
            spec.drives.put(drive).map_err(|error| Error::Drive(error.into()))?;
        }
        for interface in &self.network_interfaces {
            let interface = interface.clone().try_into().map_err(Error::Network)?;
            spec.network.put(interface).map_err(Error::Network)?;
        }
        spec.entropy = self.entropy.clone().map(Into::into);
        self.refuse_unsupported()?;
        Ok(spec)
    }

    fn refuse_unsupported(&self) -> Result<(), Error> {
        let vhost_user = self.drives.iter().any(|drive| drive.socket.is_some());
        let asked = [
            ("cpu-config", self.cpu_config.is_some()),
            ("a vhost-user drive (socket)", vhost_user),
            ("vsock", self.vsock.is_some()),
            ("balloon", self.balloon.is_some()),
            ("mmds-config", self.mmds_config.is_some()),
            ("pmem", !self.pmem.is_empty()),
            ("memory-hotplug", self.memory_hotplug.is_some()),
        ];
        match asked.iter().find(|(_, asked)| *asked) {
            Some((name, _)) => Err(Error::Unsupported(name)),
            None => Ok(()),
        }
    }

    /// What the user should know about a file that is accepted: deprecated names, and requests
    /// that change nothing in this version. One sentence each.
    pub fn notices(&self) -> Vec<String> {
        let mut notices = Vec::new();
        if let Some(machine) = &self.machine_config {
            notices.extend(machine_notices(machine));
        }
        for interface in &self.network_interfaces {
            let id = &interface.iface_id;
            notices.push(format!(
                "network interface {id} is left out: this version has no network device"
            ));
        }
        if self.metrics.is_some() {
            notices.push("metrics are not written by this version".to_owned());
        }
        notices
    }
}

fn machine_notices(machine: &MachineConfig) -> Vec<String> {
    let mut notices = Vec::new();
    if machine.ht_enabled.is_some() {
        notices.push("machine-config: ht_enabled is deprecated; call it smt".to_owned());
    }
    if let Some(template) = machine.cpu_template {
        notices.push("machine-config: cpu_template is deprecated; use cpu-config".to_owned());
        if template != CpuTemplate::None {
            notices.push(format!("cpu_template {template:?} has no effect in this version"));
        }
    }
    if machine.huge_pages != HugePages::None {
        notices.push("machine-config: huge_pages has no effect in this version".to_owned());
    }
    notices
}

impl TryFrom<MachineConfig> for (VcpuCount, MemoryMib) {
    type Error = MachineConfigError;

    fn try_from(config: MachineConfig) -> Result<Self, MachineConfigError> {
        let count = config.vcpu_count;
        let sizes = (VcpuCount::new(count.into())?, MemoryMib::new(config.mem_size_mib)?);
        if config.threads_share_cores() && count > 1 && count % 2 == 1 {
            return Err(MachineConfigError::OddWithSmt(count));
        }
        if config.huge_pages != HugePages::None && config.mem_size_mib % 2 == 1 {
            return Err(MachineConfigError::OddWithHugePages(config.mem_size_mib));
        }
        Ok(sizes)
    }
}

impl TryFrom<BootSource> for spec::BootSource {
    type Error = spec::Error;

    fn try_from(body: BootSource) -> Result<Self, spec::Error> {
        let command_line = body.boot_args.map(CommandLine::new).transpose()?.unwrap_or_default();
        let mut boot = Self::new(body.kernel_image_path, command_line)?;
        if let Some(initrd) = body.initrd_path {
            boot.push_initrd(InitrdPart::File(initrd.into()))?;
        }
        Ok(boot)
    }
}

impl TryFrom<Drive> for spec::Drive {
    type Error = DriveError;

    fn try_from(body: Drive) -> Result<Self, DriveError> {
        let id = DeviceId::new("drive_id", body.drive_id.as_str())?;
        let backend = match (body.path_on_host, body.socket) {
            (Some(path), None) => spec::DriveBackend::File(path.into()),
            (None, Some(socket)) => spec::DriveBackend::VhostUser(socket.into()),
            (None, None) | (Some(_), Some(_)) => {
                return Err(DriveError::OneBackend(body.drive_id));
            }
        };
        let mut drive = Self::new(id, backend)?;
        if let Some(partuuid) = body.partuuid {
            drive.set_partuuid(partuuid)?;
        }
        drive.is_root = body.is_root_device;
        drive.read_only = body.is_read_only.unwrap_or(false);
        drive.cache = match body.cache_type {
            CacheType::Unsafe => spec::CacheType::Unsafe,
            CacheType::Writeback => spec::CacheType::Writeback,
        };
        drive.io_engine = match body.io_engine.unwrap_or_default() {
            IoEngine::Sync => spec::IoEngine::Sync,
            IoEngine::Async => spec::IoEngine::Async,
        };
        drive.rate_limiter = body.rate_limiter.unwrap_or_default().into();
        Ok(drive)
    }
}

impl TryFrom<NetworkInterface> for spec::NetworkInterface {
    type Error = spec::Error;

    fn try_from(body: NetworkInterface) -> Result<Self, spec::Error> {
        let mut interface =
            Self::new(DeviceId::new("iface_id", body.iface_id)?, body.host_dev_name)?;
        if let Some(mtu) = body.mtu {
            interface.set_mtu(mtu)?;
        }
        interface.guest_mac = body.guest_mac.map(|mac| mac.parse()).transpose()?;
        interface.rx_rate_limiter = body.rx_rate_limiter.unwrap_or_default().into();
        interface.tx_rate_limiter = body.tx_rate_limiter.unwrap_or_default().into();
        Ok(interface)
    }
}

impl From<Entropy> for spec::Entropy {
    fn from(body: Entropy) -> Self {
        Self { rate_limiter: body.rate_limiter.unwrap_or_default().into() }
    }
}

impl From<RateLimiter> for spec::RateLimiter {
    fn from(body: RateLimiter) -> Self {
        let bucket = |bucket: Option<TokenBucket>| bucket.and_then(TokenBucket::to_spec);
        Self { bandwidth: bucket(body.bandwidth), ops: bucket(body.ops) }
    }
}

impl TokenBucket {
    /// The bucket, unless it means "no limit".
    pub fn to_spec(self) -> Option<spec::TokenBucket> {
        spec::TokenBucket::new(self.size, self.one_time_burst.unwrap_or(0), self.refill_time)
    }
}
