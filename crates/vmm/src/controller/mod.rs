//! What requests do: a state machine between the API (or a configuration file) and the machine.
//!
//! ```text
//!   Not started ──InstanceStart──▶ Running ◀──PATCH /vm──▶ Paused
//!     before_start                    └────── running ───────┘
//! ```
//!
//! The `Controller` owns the configuration as clients wrote it, and gives it back to them. It
//! checks each body, has the host open what it names (`Resources`), and only then takes it over:
//! a refused request changes nothing. Once the machine runs, requests go to it (`Running`).
//!
//! Refused, with Firecracker's words: what belongs to the other side of the start; and what this
//! version does not have: snapshots, mapped files, memory and devices that come and go.

mod host;
mod process;
#[cfg(test)]
mod tests;

use api::{
    BalloonError, BalloonStats, BalloonStatsUpdate, BalloonUpdate, BootSourceError, Configuration,
    Configure, DEVICE_NOT_FOUND, DriveError, DriveUpdate, Error, FIRECRACKER_VERSION,
    HintingStatus, InstanceInfo, InstanceState, MemoryHotplugError, Metadata, NetworkError,
    NetworkInterfaceUpdate, Operate, OperateBalloon, RateLimiter, Request, StartError, Tell,
    Version, VmState, VsockError,
};
use log::{info, warn};
use mmds::Store;
use serde::Serialize;
use spec::{InstanceId, VmSpec};

use crate::metrics;
use crate::server::Answer;
pub(crate) use host::in_firecrackers_words;
pub use process::{Process, ProcessError, StartTime};

/// What the host opens for a machine as it is configured, and what it makes of it all.
///
/// An error says why, in words for the client; the controller puts Firecracker's in front. What is
/// set again takes the place of what was set before under the same id.
pub(crate) trait Resources {
    /// A running machine.
    type Machine;

    /// The log goes elsewhere from now on, or says more or less.
    fn logger(&mut self, config: &api::Logger) -> Result<(), String>;
    /// The metrics go there from now on.
    fn metrics(&mut self, config: &api::Metrics) -> Result<(), String>;
    /// The kernel and its initial RAM disk.
    fn boot_source(&mut self, boot: &spec::BootSource) -> Result<(), BootSourceError>;
    /// A drive's file.
    fn drive(&mut self, drive: &spec::Drive) -> Result<(), String>;
    /// A network interface's tap.
    fn interface(&mut self, interface: &spec::NetworkInterface) -> Result<(), String>;
    /// The socket device's socket.
    fn vsock(&mut self, vsock: &spec::Vsock) -> Result<(), String>;
    /// Starts the machine. If that fails it can be tried again.
    fn start(&mut self, spec: VmSpec) -> Result<Self::Machine, String>;
}

/// What can be done with a machine that runs. It has the devices that it is asked for.
///
/// An error says why, in words for the client; the controller puts Firecracker's in front.
pub(crate) trait Running {
    /// Stops the guest between two instructions, if it does not stand still already.
    fn pause(&mut self) -> Result<(), String>;
    /// Lets the guest go on, if it stands still.
    fn resume(&mut self) -> Result<(), String>;
    /// Presses Ctrl, Alt and Del.
    fn send_ctrl_alt_del(&mut self) -> Result<(), String>;
    /// Puts another file behind a drive, or changes its limits, or both.
    fn update_drive(
        &mut self,
        id: &str,
        path: Option<&str>,
        limiter: Option<RateLimiter>,
    ) -> Result<(), String>;
    /// Changes a network interface's limits.
    fn update_interface(
        &mut self,
        id: &str,
        rx: Option<RateLimiter>,
        tx: Option<RateLimiter>,
    ) -> Result<(), String>;
    /// Changes the balloon's size.
    fn set_balloon(&mut self, amount_mib: u32) -> Result<(), String>;
    /// What the guest told last about its memory.
    fn balloon_stats(&mut self) -> Result<BalloonStats, String>;
    /// Changes how often it tells.
    fn set_balloon_stats_interval(&mut self, seconds: u16) -> Result<(), String>;
    /// Asks the guest which pages are free.
    fn start_hinting(&mut self, acknowledge_on_stop: bool) -> Result<(), String>;
    /// Asks no longer.
    fn stop_hinting(&mut self) -> Result<(), String>;
    /// How far the asking is.
    fn hinting_status(&mut self) -> Result<HintingStatus, String>;
}

/// What follows a request before the machine runs.
#[derive(Debug)]
pub(crate) enum Next<M> {
    /// The next request.
    Configure,
    /// The machine runs.
    Run(M),
    /// The process ends, for this reason: what was done to it cannot be undone.
    End(String),
}

/// The state machine.
pub(crate) struct Controller {
    id: InstanceId,
    boot_timer: bool,
    state: InstanceState,
    config: Configuration,
    /// Something was configured with which a snapshot cannot be loaded any more.
    on_boot_path: bool,
    metadata: Store,
    /// Somebody put metadata there, or configured the service.
    has_metadata: bool,
}

impl Controller {
    /// A machine that nothing is known of but its name.
    pub fn new(id: InstanceId, boot_timer: bool, metadata: Store) -> Self {
        Self {
            id,
            boot_timer,
            state: InstanceState::NotStarted,
            config: Configuration::default(),
            on_boot_path: false,
            metadata,
            has_metadata: false,
        }
    }

    /// Carries out a request to a machine that does not run yet.
    pub fn before_start<R: Resources>(
        &mut self,
        request: Request,
        host: &mut R,
    ) -> (Answer, Next<R::Machine>) {
        let answer = match request {
            Request::Tell(what) => self.tell(what),
            Request::Metadata(request) => self.metadata(request),
            Request::Configure(body) => self.configure(body, host),
            Request::Start => match self.start(host) {
                Ok(machine) => return (Ok(None), Next::Run(machine)),
                Err(error) => Err(error),
            },
            Request::LoadSnapshot(_) => return self.load_snapshot(),
            Request::Operate(_) => Err(Error::BeforeStart),
        };
        (answer, Next::Configure)
    }

    /// Carries out a request to the running machine.
    pub fn running(&mut self, request: Request, machine: &mut dyn Running) -> Answer {
        match request {
            Request::Tell(what) => self.tell(what),
            Request::Metadata(request) if self.has_metadata => self.metadata(request),
            Request::Metadata(_) => Err(metadata_error(mmds::Error::NotInitialized)),
            Request::Operate(request) => self.operate(request, machine),
            Request::Configure(
                Configure::Drive(_) | Configure::NetworkInterface(_) | Configure::Pmem(_),
            ) => Err(Error::NoPci),
            Request::Configure(_) | Request::Start | Request::LoadSnapshot(_) => {
                Err(Error::AfterStart)
            }
        }
    }

    /// Starts the machine as it is configured.
    pub fn start<R: Resources>(&mut self, host: &mut R) -> Result<R::Machine, Error> {
        let spec = self.config.to_spec(self.id.clone())?;
        for notice in self.config.machine().notices() {
            warn!("{notice}");
        }
        let machine = host
            .start(VmSpec { boot_timer: self.boot_timer, ..spec })
            .map_err(|why| Error::Start(StartError::Failed(why)))?;
        self.state = InstanceState::Running;
        Ok(machine)
    }

    /// Takes a body over into the configuration, once the host has opened what it names.
    pub fn configure(&mut self, body: Configure, host: &mut impl Resources) -> Answer {
        self.on_boot_path |= is_for_boot(&body);
        match body {
            Configure::Logger(body) => done(host.logger(&body).map_err(Error::Logger)),
            Configure::Metrics(body) => done(host.metrics(&body).map_err(Error::Metrics)),
            Configure::Machine(body) => self.change(|config| config.update_machine(body.into())),
            Configure::MachineUpdate(body) => self.change(|config| config.update_machine(body)),
            Configure::Cpu(body) => self.change(|config| config.set_cpu(body)),
            Configure::Balloon(body) => self.change(|config| config.set_balloon(body)),
            Configure::Entropy(body) => self.change(|config| {
                config.set_entropy(body);
                Ok(())
            }),
            Configure::Serial(body) => self.change(|config| {
                config.set_serial(body);
                Ok(())
            }),
            Configure::Mmds(body) => {
                self.change(|config| config.set_mmds(body))?;
                self.has_metadata = true;
                Ok(None)
            }
            Configure::BootSource(body) => self.change(|config| {
                let boot = config.set_boot_source(body)?;
                host.boot_source(&boot).map_err(Error::BootSource)
            }),
            Configure::Drive(body) => self.change(|config| {
                let drive = config.put_drive(body)?;
                host.drive(&drive).map_err(|why| Error::Drive(DriveError::Open(why)))
            }),
            Configure::NetworkInterface(body) => self.change(|config| {
                let interface = config.put_interface(body)?;
                host.interface(&interface).map_err(|why| Error::Network(NetworkError::Open(why)))
            }),
            Configure::Vsock(body) => self.change(|config| {
                let vsock = config.set_vsock(body)?;
                host.vsock(&vsock).map_err(|why| Error::Vsock(VsockError::Open(why)))
            }),
            Configure::Pmem(_) => Err(Error::Pmem(NO_PMEM.into())),
            Configure::MemoryHotplug(body) => {
                body.check().map_err(Error::MemoryHotplugConfig)?;
                Err(Error::MemoryHotplugConfig(MemoryHotplugError::NotSupported))
            }
        }
    }

    fn operate(&mut self, request: Operate, machine: &mut dyn Running) -> Answer {
        match request {
            Operate::VmState(state) => self.pause_or_resume(state, machine),
            Operate::FlushMetrics => {
                let flushed = metrics::flush();
                done(flushed.map_err(|error| Error::Internal(format!("Metrics error: {error}"))))
            }
            Operate::SendCtrlAltDel => {
                let sent = machine.send_ctrl_alt_del();
                done(sent.map_err(|why| Error::Internal(format!("I8042 error: {why}"))))
            }
            Operate::Drive(update) => self.update_drive(&update, machine),
            Operate::NetworkInterface(update) => self.update_interface(&update, machine),
            Operate::Balloon(request) => self.operate_balloon(request, machine),
            Operate::CreateSnapshot(_) => Err(Error::CreateSnapshot(NO_SNAPSHOTS.into())),
            Operate::Pmem(_) => Err(Error::Pmem(NO_PMEM.into())),
            Operate::Unplug => Err(Error::NoPci),
            Operate::MemoryHotplugStatus => Err(Error::Internal(DEVICE_NOT_FOUND.into())),
            Operate::MemoryHotplug(_) => Err(Error::MemoryHotplugUpdate(DEVICE_NOT_FOUND.into())),
        }
    }

    fn operate_balloon(&mut self, request: OperateBalloon, machine: &mut dyn Running) -> Answer {
        if self.config.balloon().is_none() {
            let failed = balloon_failure(request);
            return Err(failed(DEVICE_NOT_FOUND.into()));
        }
        let failed = |why: String| balloon_failure(request)(format!("Balloon: {why}"));
        match request {
            OperateBalloon::Resize(BalloonUpdate { amount_mib }) => {
                self.config.check_balloon(amount_mib).map_err(|error| failed(error.to_string()))?;
                machine.set_balloon(amount_mib).map_err(failed)?;
                self.config.balloon_resized(amount_mib);
                Ok(None)
            }
            OperateBalloon::SetStats(BalloonStatsUpdate { stats_polling_interval_s: seconds }) => {
                machine.set_balloon_stats_interval(seconds).map_err(failed)?;
                self.config.balloon_stats_interval_changed(seconds);
                Ok(None)
            }
            OperateBalloon::Stats => json(&machine.balloon_stats().map_err(failed)?),
            OperateBalloon::StartHinting(start) => {
                done(machine.start_hinting(start.acknowledge_on_stop).map_err(failed))
            }
            OperateBalloon::StopHinting => done(machine.stop_hinting().map_err(failed)),
            OperateBalloon::HintingStatus => json(&machine.hinting_status().map_err(failed)?),
        }
    }

    fn tell(&self, what: Tell) -> Answer {
        match what {
            Tell::Instance => json(&InstanceInfo {
                id: self.id.to_string(),
                state: self.state,
                vmm_version: FIRECRACKER_VERSION.to_owned(),
                app_name: "Firecracker".to_owned(),
            }),
            Tell::Version => json(&Version { firecracker_version: FIRECRACKER_VERSION.to_owned() }),
            Tell::VmConfig => json(&self.config),
            Tell::MachineConfig => json(self.config.machine()),
            Tell::Balloon => match (self.config.balloon(), self.state) {
                (Some(balloon), _) => json(balloon),
                (None, InstanceState::NotStarted) => {
                    Err(Error::BalloonConfig(BalloonError::NotFound))
                }
                (None, InstanceState::Running | InstanceState::Paused) => {
                    Err(Error::Internal(DEVICE_NOT_FOUND.into()))
                }
            },
        }
    }

    /// Reads or writes metadata.
    pub fn metadata(&mut self, request: Metadata) -> Answer {
        match request {
            Metadata::Get => json(&self.metadata.get()),
            Metadata::Put(value) => {
                self.metadata.put(value).map_err(metadata_error)?;
                self.has_metadata = true;
                Ok(None)
            }
            Metadata::Patch(value) => done(self.metadata.patch(value).map_err(metadata_error)),
        }
    }

    /// Takes over a changed configuration if nothing is wrong with it.
    fn change(&mut self, change: impl FnOnce(&mut Configuration) -> Result<(), Error>) -> Answer {
        let mut config = self.config.clone();
        change(&mut config)?;
        self.config = config;
        Ok(None)
    }

    fn load_snapshot<M>(&self) -> (Answer, Next<M>) {
        if self.on_boot_path {
            let why = "Loading a microVM snapshot not allowed after configuring boot-specific \
                       resources.";
            info!("{why}");
            return (Err(Error::LoadSnapshot(why.into())), Next::Configure);
        }
        (
            Err(Error::LoadSnapshot(NO_SNAPSHOTS.into())),
            Next::End("Loading snapshot failed.".into()),
        )
    }

    fn pause_or_resume(&mut self, wanted: VmState, machine: &mut dyn Running) -> Answer {
        let (done, state) = match wanted {
            VmState::Paused => (machine.pause(), InstanceState::Paused),
            VmState::Resumed => (machine.resume(), InstanceState::Running),
        };
        done.map_err(Error::Internal)?;
        self.state = state;
        Ok(None)
    }

    fn update_drive(&mut self, update: &DriveUpdate, machine: &mut dyn Running) -> Answer {
        let (id, path) = (&update.drive_id, update.path_on_host.as_deref());
        let failed = |why: String| Error::Drive(DriveError::Update(why));
        if !self.config.has_drive(id) {
            return Err(failed(DEVICE_NOT_FOUND.into()));
        }
        if path.is_none() && update.rate_limiter.is_none() {
            // That would be meant for a vhost-user drive.
            return Err(failed("Block: Running method expected different backend.".into()));
        }
        machine
            .update_drive(id, path, update.rate_limiter)
            .map_err(|why| failed(format!("Block: Virtio backend error: {why}")))?;
        self.config.drive_updated(update);
        Ok(None)
    }

    fn update_interface(
        &mut self,
        update: &NetworkInterfaceUpdate,
        machine: &mut dyn Running,
    ) -> Answer {
        let failed = |why: String| Error::Network(NetworkError::Update(why));
        if !self.config.has_interface(&update.iface_id) {
            return Err(failed(DEVICE_NOT_FOUND.into()));
        }
        let (rx, tx) = (update.rx_rate_limiter, update.tx_rate_limiter);
        machine.update_interface(&update.iface_id, rx, tx).map_err(failed)?;
        self.config.interface_updated(update);
        Ok(None)
    }
}

const NO_SNAPSHOTS: &str = "snapshots are not supported by this version";
const NO_PMEM: &str = "pmem devices are not supported by this version; use a drive";

/// Whether a body is about what only a machine that boots has. Whether it is taken does not matter.
fn is_for_boot(body: &Configure) -> bool {
    match body {
        Configure::Cpu(_) | Configure::Logger(_) | Configure::Metrics(_) | Configure::Serial(_) => {
            false
        }
        Configure::Balloon(_)
        | Configure::BootSource(_)
        | Configure::Drive(_)
        | Configure::Entropy(_)
        | Configure::Machine(_)
        | Configure::MachineUpdate(_)
        | Configure::MemoryHotplug(_)
        | Configure::Mmds(_)
        | Configure::NetworkInterface(_)
        | Configure::Pmem(_)
        | Configure::Vsock(_) => true,
    }
}

/// What a failure is called of a request to the balloon.
fn balloon_failure(request: OperateBalloon) -> fn(String) -> Error {
    match request {
        OperateBalloon::Stats => Error::Internal,
        OperateBalloon::Resize(_)
        | OperateBalloon::SetStats(_)
        | OperateBalloon::StartHinting(_)
        | OperateBalloon::StopHinting
        | OperateBalloon::HintingStatus => Error::BalloonUpdate,
    }
}

/// There is nothing to tell.
fn done<T>(result: Result<T, Error>) -> Answer {
    result.map(|_| None)
}

fn json(value: &impl Serialize) -> Answer {
    // The types that come here become JSON whatever they hold.
    Ok(Some(serde_json::to_string(value).unwrap_or_default()))
}

fn metadata_error(error: mmds::Error) -> Error {
    let text = error.to_string();
    let too_large = error == mmds::Error::LimitExceeded;
    if too_large { Error::MmdsLimit(text) } else { Error::Mmds(text) }
}
