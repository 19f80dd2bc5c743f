//! The life of a process: it is configured, starts its machine, serves it, and ends.
//!
//! ```text
//!   socket ─▶ configuration file, or requests up to InstanceStart ─▶ Machine ─▶ its end
//! ```
//!
//! With a configuration file the machine starts at once; requests that come meanwhile wait. Without
//! an API the file is all there is.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::Duration;

use api::{CONFIG_FILE_MAX, CpuConfig, CpuConfigSource, Metadata, VmConfigFile};
use host::system;
use log::{info, warn};
use mmds::Store;
use serde_json::Value;
use spec::InstanceId;
use thiserror::Error;

use super::host::Host;
use super::{Controller, Next, Running};
use crate::event_loop::Requests;
use crate::server::{Inbox, ServerError, Socket};
use crate::{CpuOptions, End, Machine, metrics};

/// What a process is started with.
#[derive(Debug)]
pub struct Process {
    /// The machine's name.
    pub id: InstanceId,
    /// Which CPU runs it.
    pub cpu: CpuOptions,
    /// Where the API is offered; nowhere if there is no socket.
    pub api_socket: Option<PathBuf>,
    /// All of the machine, which then starts at once.
    pub config: Option<VmConfigFile>,
    /// What the metadata service holds from the start.
    pub metadata: Option<Value>,
    /// Bytes of a request's body.
    pub payload_bytes_max: usize,
    /// Bytes of all metadata.
    pub metadata_bytes_max: usize,
    /// Whether the guest can report the end of its boot.
    pub boot_timer: bool,
    /// When it was started.
    pub started: StartTime,
}

/// When a process was started, as its parent knows it.
#[derive(Debug, Clone, Copy, Default)]
pub struct StartTime {
    /// By the monotonic clock.
    pub wall: Option<Duration>,
    /// By the process's own CPU clock.
    pub cpu: Option<Duration>,
    /// CPU time that the parent spent on it before.
    pub parent_cpu: Option<Duration>,
}

/// Why a process ends before its time. The texts are Firecracker's as far as it has them.
#[derive(Debug, Error)]
pub enum ProcessError {
    /// The API cannot be offered.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The configuration file asks for what cannot be.
    #[error("Configuration for VMM from one single json failed: {0}")]
    ParseFromJson(api::Error),
    /// The file with the CPU's features that the configuration file names.
    #[error("Configuration for VMM from one single json failed: cpu-config: {why} (in {path})")]
    CpuConfigFile {
        /// The file.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// The configuration file describes what does not start.
    #[error("Could not Start MicroVM from one single json: {0}")]
    StartMicroVm(api::Error),
    /// The metadata that came with the flags is too large.
    #[error("Populating MMDS from file failed: {0}")]
    PopulateMmds(api::Error),
    /// A request cannot be undone, and failed.
    #[error("Failed to build MicroVM: {0}.")]
    BuildMicroVm(String),
    /// The API's thread has gone.
    #[error("the API's thread ended before the machine was started")]
    ApiGone,
    /// Neither a file nor an API.
    #[error("no machine is described; give a configuration file, or an API socket")]
    Nothing,
    /// The machine cannot go on.
    #[error("{0}")]
    Failed(crate::Error),
}

impl Process {
    /// Lives it, to its end.
    pub fn run(self) -> Result<(), ProcessError> {
        let Some(path) = &self.api_socket else { return self.live(None) };
        let socket = Socket::bind(path)?;
        report_start(self.started);
        let (server, inbox) = socket.serve(self.payload_bytes_max)?;
        let lived = self.live(Some(inbox));
        server.join();
        lived
    }

    fn live(self, inbox: Option<Inbox>) -> Result<(), ProcessError> {
        let store = Store::new(self.metadata_bytes_max);
        let mut controller = Controller::new(self.id.clone(), self.boot_timer, store.clone());
        let mut host = Host::new(self.id, self.cpu, store);
        if let Some(metadata) = self.metadata {
            let put = controller.metadata(Metadata::Put(metadata));
            put.map_err(ProcessError::PopulateMmds)?;
            info!("Successfully added metadata to mmds from file");
        }
        let machine = match (self.config, &inbox) {
            (Some(config), _) => from_file(config, &mut controller, &mut host)?,
            (None, Some(inbox)) => from_requests(inbox, &mut controller, &mut host)?,
            (None, None) => return Err(ProcessError::Nothing),
        };
        metrics::flush_or_log();
        let end = match &inbox {
            Some(inbox) => machine.serve(&mut Served { inbox, controller: &mut controller }),
            None => machine.wait(),
        };
        info!("Vmm is stopping.");
        metrics::flush_or_log();
        match end {
            End::PowerOff | End::Reset | End::Stopped(_) => Ok(()),
            End::Failed(error) => Err(ProcessError::Failed(error)),
        }
    }
}

/// Configures and starts the machine that a file describes.
fn from_file(
    config: VmConfigFile,
    controller: &mut Controller,
    host: &mut Host,
) -> Result<Machine, ProcessError> {
    if config.machine_config.as_ref().is_some_and(|machine| machine.ht_enabled.is_some()) {
        warn!("machine-config: ht_enabled is deprecated; call it smt");
    }
    let cpu_config = config.cpu_config.clone().map(read_cpu_config).transpose()?;
    for body in config.requests(cpu_config) {
        if let Some(notice) = body.deprecation() {
            warn!("{notice}");
        }
        controller.configure(body, host).map_err(ProcessError::ParseFromJson)?;
    }
    let machine = controller.start(host).map_err(ProcessError::StartMicroVm)?;
    info!("Successfully started microvm that was configured from one single json");
    Ok(machine)
}

/// Changes to the CPU's features, which may be in a file of their own.
fn read_cpu_config(source: CpuConfigSource) -> Result<CpuConfig, ProcessError> {
    let path = match source {
        CpuConfigSource::Inline(config) => return Ok(config),
        CpuConfigSource::File(path) => path,
    };
    let failed = |why: String| ProcessError::CpuConfigFile { path: path.clone(), why };
    let mut text = String::new();
    File::open(&path)
        .and_then(|file| file.take(CONFIG_FILE_MAX).read_to_string(&mut text))
        .map_err(|error| failed(error.to_string()))?;
    serde_json::from_str(&text).map_err(|error| failed(error.to_string()))
}

/// Does what clients ask for until they start the machine.
fn from_requests(
    inbox: &Inbox,
    controller: &mut Controller,
    host: &mut Host,
) -> Result<Machine, ProcessError> {
    loop {
        let request = inbox.wait().ok_or(ProcessError::ApiGone)?;
        let (answer, next) = controller.before_start(request, host);
        inbox.answer(answer);
        match next {
            Next::Configure => {}
            Next::Run(machine) => return Ok(machine),
            Next::End(why) => return Err(ProcessError::BuildMicroVm(why)),
        }
    }
}

/// The requests to a machine that runs.
struct Served<'a> {
    inbox: &'a Inbox,
    controller: &'a mut Controller,
}

impl Requests for Served<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inbox.as_fd()
    }

    fn serve(&mut self, machine: &mut dyn Running) {
        while let Some(request) = self.inbox.next() {
            self.inbox.answer(self.controller.running(request, machine));
        }
    }
}

/// Notes how long it took from the process's start until clients can connect.
fn report_start(started: StartTime) {
    let metrics = &metrics::registry().api_server;
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    if let Some(wall) = started.wall {
        let taken = system::monotonic().saturating_sub(wall);
        metrics.process_startup_time_us.set(micros(taken));
    }
    if let Some(cpu) = started.cpu {
        let taken = system::process_cpu_time().saturating_sub(cpu);
        let with_parent = taken.saturating_add(started.parent_cpu.unwrap_or_default());
        metrics.process_startup_time_cpu_us.set(micros(with_parent));
    }
}
