//! What a client has configured so far: wire types on one side, a machine on the other.
//!
//! Each `set_` and `put_` checks one body, alone and against what is there already, and gives what
//! it means; a body that is refused may leave the configuration half changed, so that whoever keeps
//! one works on a copy. [`Configuration::to_spec`] makes the machine of it all. Serialising it gives
//! the answer to `GET /vm/config`: all keys, and null for what is not there.

use std::path::PathBuf;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use spec::{CommandLine, DeviceId, InitrdPart, InstanceId, MemoryMib, VcpuCount, VmSpec};

use crate::error::{
    BalloonError, BootSourceError, DriveError, MachineConfigError, MmdsConfigError, NetworkError,
    StartError, VsockError,
};
use crate::{
    Balloon, BootSource, CacheType, CpuConfig, Drive, DriveUpdate, Entropy, Error, HugePages,
    IoEngine, MachineConfig, MachineConfigUpdate, MmdsConfig, MmdsVersion, NetworkInterface,
    NetworkInterfaceUpdate, RateLimiter, Serial, TokenBucket, Vsock,
};

/// All of a machine, as clients write it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Configuration {
    balloon: Option<Balloon>,
    boot_source: Option<BootSource>,
    /// Changes to the CPU's features; a template that the machine's size names takes its place.
    cpu: Option<CpuConfig>,
    drives: Vec<Drive>,
    entropy: Option<Entropy>,
    machine: MachineConfig,
    mmds: Option<MmdsConfig>,
    network: Vec<NetworkInterface>,
    serial: Serial,
    vsock: Option<Vsock>,
}

impl Configuration {
    /// The machine's size.
    pub fn machine(&self) -> &MachineConfig {
        &self.machine
    }

    /// The balloon, if there is one.
    pub fn balloon(&self) -> Option<&Balloon> {
        self.balloon.as_ref()
    }

    /// The metadata service's configuration, if there is one.
    pub fn mmds(&self) -> Option<&MmdsConfig> {
        self.mmds.as_ref()
    }

    /// Whether there is a drive with this id.
    pub fn has_drive(&self, id: &str) -> bool {
        self.drives.iter().any(|drive| drive.drive_id == id)
    }

    /// Whether there is a network interface with this id.
    pub fn has_interface(&self, id: &str) -> bool {
        self.network.iter().any(|interface| interface.iface_id == id)
    }

    /// Changes the machine's size.
    pub fn update_machine(&mut self, update: MachineConfigUpdate) -> Result<(), Error> {
        let names_template = update.cpu_template.is_some();
        let machine = self.machine.updated(update);
        check_machine(&machine).map_err(Error::MachineConfig)?;
        let balloon_mib = self.balloon.map_or(0, |balloon| u64::from(balloon.amount_mib));
        if (machine.mem_size_mib as u64) < balloon_mib {
            return Err(Error::MachineConfig(MachineConfigError::SmallerThanBalloon));
        }
        self.machine = machine;
        self.cpu = self.cpu.take().filter(|_| !names_template);
        Ok(())
    }

    /// Sets changes to the CPU's features, in the place of a template.
    pub fn set_cpu(&mut self, body: CpuConfig) -> Result<(), Error> {
        spec::CpuTemplate::try_from(body.clone())
            .map_err(|error| Error::ConfigureCpu(error.to_string()))?;
        self.machine.cpu_template = None;
        self.cpu = Some(body);
        Ok(())
    }

    /// Sets what to boot.
    pub fn set_boot_source(&mut self, body: BootSource) -> Result<spec::BootSource, Error> {
        let boot = spec::BootSource::try_from(body.clone()).map_err(Error::BootSource)?;
        self.boot_source = Some(body);
        Ok(boot)
    }

    /// Adds a drive, or replaces the one with its id. The root comes first.
    pub fn put_drive(&mut self, body: Drive) -> Result<spec::Drive, Error> {
        let is_other_root = |other: &Drive| other.is_root_device && other.drive_id != body.drive_id;
        if body.is_root_device && self.drives.iter().any(is_other_root) {
            return Err(Error::Drive(DriveError::SecondRoot));
        }
        let drive = spec::Drive::try_from(body.clone()).map_err(Error::Drive)?;
        let told = Drive {
            is_read_only: Some(body.is_read_only.unwrap_or_default()),
            io_engine: Some(body.io_engine.unwrap_or_default()),
            rate_limiter: body.rate_limiter.and_then(RateLimiter::effective),
            ..body
        };
        put(&mut self.drives, told, |drive| &drive.drive_id);
        self.drives.sort_by_key(|drive| !drive.is_root_device);
        Ok(drive)
    }

    /// Adds a network interface, or replaces the one with its id.
    pub fn put_interface(
        &mut self,
        body: NetworkInterface,
    ) -> Result<spec::NetworkInterface, Error> {
        let has_mac = |other: &NetworkInterface| {
            other.iface_id != body.iface_id && other.guest_mac == body.guest_mac
        };
        if let Some(mac) = &body.guest_mac
            && self.network.iter().any(has_mac)
        {
            return Err(Error::Network(NetworkError::MacInUse(mac.clone())));
        }
        let interface = spec::NetworkInterface::try_from(body.clone())
            .map_err(|error| Error::Network(NetworkError::Value(error)))?;
        let told = NetworkInterface {
            rx_rate_limiter: body.rx_rate_limiter.and_then(RateLimiter::effective),
            tx_rate_limiter: body.tx_rate_limiter.and_then(RateLimiter::effective),
            ..body
        };
        put(&mut self.network, told, |interface| &interface.iface_id);
        Ok(interface)
    }

    /// Sets the socket device.
    pub fn set_vsock(&mut self, body: Vsock) -> Result<spec::Vsock, Error> {
        let vsock = spec::Vsock::new(body.guest_cid, &body.uds_path)
            .map_err(|error| Error::Vsock(VsockError::Value(error)))?;
        self.vsock = Some(Vsock { vsock_id: None, ..body });
        Ok(vsock)
    }

    /// Sets the balloon.
    pub fn set_balloon(&mut self, body: Balloon) -> Result<(), Error> {
        self.check_balloon(body.amount_mib).map_err(Error::BalloonConfig)?;
        self.balloon = Some(body);
        Ok(())
    }

    /// Checks the size of a balloon against the machine's memory.
    pub fn check_balloon(&self, amount_mib: u32) -> Result<(), BalloonError> {
        let fits = u64::from(amount_mib) <= self.machine.mem_size_mib as u64;
        if fits { Ok(()) } else { Err(BalloonError::TooLarge) }
    }

    /// Sets the metadata service.
    pub fn set_mmds(&mut self, body: MmdsConfig) -> Result<(), Error> {
        let address = body.ipv4_address.unwrap_or(MmdsConfig::DEFAULT_ADDRESS);
        let known = |id: &String| self.has_interface(id);
        let wrong = if !is_link_local(address) {
            Some(MmdsConfigError::NotLinkLocal)
        } else if body.network_interfaces.is_empty() {
            Some(MmdsConfigError::NoInterfaces)
        } else if !body.network_interfaces.iter().all(known) {
            Some(MmdsConfigError::UnknownInterface)
        } else {
            None
        };
        if let Some(wrong) = wrong {
            return Err(Error::MmdsConfig(wrong));
        }
        self.mmds = Some(MmdsConfig { ipv4_address: Some(address), ..body });
        Ok(())
    }

    /// Sets the source of random numbers.
    pub fn set_entropy(&mut self, body: Entropy) {
        let rate_limiter = body.rate_limiter.and_then(RateLimiter::effective);
        self.entropy = Some(Entropy { rate_limiter });
    }

    /// Sets where the console's output goes.
    pub fn set_serial(&mut self, body: Serial) {
        self.serial = body;
    }

    /// Notes what was changed about a drive of the running machine.
    pub fn drive_updated(&mut self, update: &DriveUpdate) {
        let named = |drive: &&mut Drive| drive.drive_id == update.drive_id;
        if let Some(drive) = self.drives.iter_mut().find(named) {
            if update.path_on_host.is_some() {
                drive.path_on_host.clone_from(&update.path_on_host);
            }
            drive.rate_limiter = update_limits(drive.rate_limiter, update.rate_limiter);
        }
    }

    /// Notes what was changed about a network interface of the running machine.
    pub fn interface_updated(&mut self, update: &NetworkInterfaceUpdate) {
        let named = |interface: &&mut NetworkInterface| interface.iface_id == update.iface_id;
        if let Some(interface) = self.network.iter_mut().find(named) {
            let (rx, tx) = (&mut interface.rx_rate_limiter, &mut interface.tx_rate_limiter);
            *rx = update_limits(*rx, update.rx_rate_limiter);
            *tx = update_limits(*tx, update.tx_rate_limiter);
        }
    }

    /// Notes the balloon's new size.
    pub fn balloon_resized(&mut self, amount_mib: u32) {
        if let Some(balloon) = &mut self.balloon {
            balloon.amount_mib = amount_mib;
        }
    }

    /// Notes the new interval between the balloon's statistics.
    pub fn balloon_stats_interval_changed(&mut self, interval_s: u16) {
        if let Some(balloon) = &mut self.balloon {
            balloon.stats_polling_interval_s = interval_s;
        }
    }

    /// The machine that all this describes.
    pub fn to_spec(&self, id: InstanceId) -> Result<VmSpec, Error> {
        let no_kernel = || Error::Start(StartError::NoKernel);
        let boot = self.boot_source.clone().ok_or_else(no_kernel)?;
        let boot = boot.try_into().map_err(Error::BootSource)?;
        let mut spec = VmSpec {
            vcpus: VcpuCount::new(self.machine.vcpu_count.into())
                .map_err(|_| Error::MachineConfig(MachineConfigError::VcpuCount))?,
            memory: MemoryMib::new(self.machine.mem_size_mib as u64)
                .map_err(|error| Error::Start(StartError::Memory(error)))?,
            cpu_template: self.cpu_template().map_err(Error::Start)?,
            smt: self.machine.smt,
            track_dirty_pages: self.machine.track_dirty_pages,
            balloon: self.balloon.map(Into::into),
            entropy: self.entropy.clone().map(Into::into),
            serial: self.serial.clone().into(),
            ..VmSpec::new(id, boot)
        };
        for drive in &self.drives {
            let drive = drive.clone().try_into().map_err(Error::Drive)?;
            spec.drives.put(drive).map_err(|error| Error::Drive(error.into()))?;
        }
        let network = |error| Error::Network(NetworkError::Value(error));
        for interface in &self.network {
            spec.network.put(interface.clone().try_into().map_err(network)?).map_err(network)?;
        }
        if let Some(vsock) = &self.vsock {
            let vsock = spec::Vsock::new(vsock.guest_cid, &vsock.uds_path);
            spec.vsock = Some(vsock.map_err(|error| Error::Vsock(VsockError::Value(error)))?);
        }
        spec.mmds = self.mmds.as_ref().map(mmds_spec).transpose()?;
        Ok(spec)
    }
}

impl Configuration {
    fn cpu_template(&self) -> Result<spec::CpuTemplate, StartError> {
        let template = match (&self.cpu, self.machine.cpu_template) {
            (Some(changes), _) => changes.clone().try_into(),
            (None, Some(name)) => name.try_into(),
            (None, None) => Ok(spec::CpuTemplate::default()),
        };
        template.map_err(StartError::CpuTemplate)
    }
}

impl Serialize for Configuration {
    /// All keys in Firecracker's order. What is never told is null there too.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        const NEVER_TOLD: Option<()> = None;
        let boot_source = self.boot_source.clone().unwrap_or_default();
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("balloon", &self.balloon)?;
        map.serialize_entry("drives", &self.drives)?;
        map.serialize_entry("boot-source", &boot_source)?;
        map.serialize_entry("cpu-config", &NEVER_TOLD)?;
        map.serialize_entry("logger", &NEVER_TOLD)?;
        map.serialize_entry("machine-config", &self.machine)?;
        map.serialize_entry("metrics", &NEVER_TOLD)?;
        map.serialize_entry("mmds-config", &self.mmds)?;
        map.serialize_entry("network-interfaces", &self.network)?;
        map.serialize_entry("vsock", &self.vsock)?;
        map.serialize_entry("entropy", &self.entropy)?;
        map.serialize_entry("pmem", &[(); 0])?;
        map.serialize_entry("memory-hotplug", &NEVER_TOLD)?;
        map.end()
    }
}

/// Replaces the item with the same id, or adds it at the end.
fn put<T>(items: &mut Vec<T>, item: T, id: impl Fn(&T) -> &String) {
    match items.iter_mut().find(|other| id(other) == id(&item)) {
        Some(other) => *other = item,
        None => items.push(item),
    }
}

fn update_limits(limits: Option<RateLimiter>, update: Option<RateLimiter>) -> Option<RateLimiter> {
    limits.unwrap_or_default().updated(update.unwrap_or_default()).effective()
}

fn check_machine(machine: &MachineConfig) -> Result<(), MachineConfigError> {
    let count = machine.vcpu_count;
    VcpuCount::new(count.into()).map_err(|_| MachineConfigError::VcpuCount)?;
    if machine.smt && count > 1 && count % 2 == 1 {
        return Err(MachineConfigError::VcpuCount);
    }
    let page_mib = match machine.huge_pages {
        HugePages::None => 1,
        HugePages::Transparent | HugePages::Hugetlbfs2M => 2,
    };
    match machine.mem_size_mib {
        0 => Err(MachineConfigError::MemorySize),
        size if size % page_mib != 0 => Err(MachineConfigError::MemorySize),
        _ => Ok(()),
    }
}

/// Whether an address is of the kind that metadata services have: RFC 3927 keeps the first and the
/// last 256 of 169.254.0.0/16 for itself.
fn is_link_local(address: std::net::Ipv4Addr) -> bool {
    let [_, _, third, _] = address.octets();
    address.is_link_local() && (1..=254).contains(&third)
}

fn mmds_spec(config: &MmdsConfig) -> Result<spec::Mmds, Error> {
    let id = |id: &String| DeviceId::new("network_interfaces", id);
    let interfaces: Result<_, _> = config.network_interfaces.iter().map(id).collect();
    let unknown = |_| Error::MmdsConfig(MmdsConfigError::UnknownInterface);
    Ok(spec::Mmds {
        interfaces: interfaces.map_err(unknown)?,
        version: match config.version {
            MmdsVersion::V1 => spec::MmdsVersion::V1,
            MmdsVersion::V2 => spec::MmdsVersion::V2,
        },
        address: config.ipv4_address.unwrap_or(MmdsConfig::DEFAULT_ADDRESS),
        imds_compat: config.imds_compat,
    })
}

impl TryFrom<BootSource> for spec::BootSource {
    type Error = BootSourceError;

    fn try_from(body: BootSource) -> Result<Self, BootSourceError> {
        let command_line = body.boot_args.map(CommandLine::new).transpose();
        let command_line = command_line.map_err(BootSourceError::CommandLine)?;
        let path = PathBuf::from(body.kernel_image_path);
        let mut boot = Self::new(&path, command_line.unwrap_or_default())
            .map_err(|error| BootSourceError::Kernel { path, reason: error.to_string() })?;
        if let Some(path) = body.initrd_path.map(PathBuf::from) {
            boot.push_initrd(InitrdPart::File(path.clone()))
                .map_err(|error| BootSourceError::Initrd { path, reason: error.to_string() })?;
        }
        Ok(boot)
    }
}

impl TryFrom<Drive> for spec::Drive {
    type Error = DriveError;

    fn try_from(body: Drive) -> Result<Self, DriveError> {
        let id = DeviceId::new("drive_id", body.drive_id)?;
        let path = match (body.path_on_host, body.socket) {
            (Some(path), None) => path,
            (None, Some(_)) => return Err(DriveError::VhostUser),
            (None, None) | (Some(_), Some(_)) => return Err(DriveError::OneBackend),
        };
        let mut drive = Self::new(id, spec::DriveBackend::File(path.into()))?;
        if let Some(partuuid) = body.partuuid {
            drive.set_partuuid(partuuid)?;
        }
        drive.is_root = body.is_root_device;
        drive.read_only = body.is_read_only.unwrap_or_default();
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

impl From<Serial> for spec::Serial {
    fn from(body: Serial) -> Self {
        let file = body.serial_out_path.map(|path| spec::SerialOutput::File(path.into()));
        Self {
            output: file.unwrap_or_default(),
            rate_limiter: body.rate_limiter.and_then(TokenBucket::to_spec),
        }
    }
}
