//! From an HTTP request to what is wanted of the machine.
//!
//! ```text
//!   method, path, body ──route──▶ Request (typed body)   or   RequestError (a fault message)
//! ```
//!
//! The first word of a path chooses the route; what follows it is an id or a part of the resource.
//! Whether the request can be granted is for others to say: here only its form is looked at.

use serde::de::{DeserializeOwned, Error as _};
use serde_json::Value;
use thiserror::Error;

use crate::http::{self, Method};
use crate::{
    Action, ActionBody, Balloon, BalloonStatsUpdate, BalloonUpdate, BootSource, CpuConfig, Drive,
    DriveUpdate, Entropy, HintingStart, Logger, MachineConfig, MachineConfigUpdate, MemoryHotplug,
    MemoryHotplugUpdate, Metrics, MmdsConfig, MmdsVersion, NetworkInterface,
    NetworkInterfaceUpdate, Pmem, PmemUpdate, Serial, SnapshotCreate, SnapshotLoad, VmState,
    VmStateUpdate, Vsock,
};

/// What a client wants, by when it can have it.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// To be told something, at any time.
    Tell(Tell),
    /// To read or write the guest's metadata, at any time.
    Metadata(Metadata),
    /// To configure the machine before it starts.
    Configure(Configure),
    /// `PUT /actions`: to start it.
    Start,
    /// `PUT /snapshot/load`: to start it where another one was.
    LoadSnapshot(SnapshotLoad),
    /// To do something with the machine that runs.
    Operate(Operate),
}

/// What a machine tells at any time: a variant is a path of a GET.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the paths")]
pub enum Tell {
    Instance,
    Version,
    VmConfig,
    MachineConfig,
    Balloon,
}

/// What is done with metadata.
#[derive(Debug, Clone, PartialEq)]
pub enum Metadata {
    /// It is read.
    Get,
    /// It is replaced.
    Put(Value),
    /// It is changed by a merge patch (RFC 7396).
    Patch(Value),
}

/// What is configured: a variant is a path of a PUT, with its body.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the names are the paths")]
pub enum Configure {
    Balloon(Balloon),
    BootSource(BootSource),
    Cpu(CpuConfig),
    Drive(Drive),
    Entropy(Entropy),
    Logger(Logger),
    Machine(MachineConfig),
    /// The PATCH of the same path.
    MachineUpdate(MachineConfigUpdate),
    MemoryHotplug(MemoryHotplug),
    Metrics(Metrics),
    Mmds(MmdsConfig),
    NetworkInterface(NetworkInterface),
    Pmem(Pmem),
    Serial(Serial),
    Vsock(Vsock),
}

/// What is done with a machine that runs.
#[derive(Debug, Clone, PartialEq)]
pub enum Operate {
    /// `PATCH /vm`
    VmState(VmState),
    /// `PUT /actions`
    FlushMetrics,
    /// `PUT /actions`
    SendCtrlAltDel,
    /// `PUT /snapshot/create`
    CreateSnapshot(SnapshotCreate),
    /// `PATCH /drives/{id}`
    Drive(DriveUpdate),
    /// `PATCH /network-interfaces/{id}`
    NetworkInterface(NetworkInterfaceUpdate),
    /// `PATCH /pmem/{id}`
    Pmem(PmemUpdate),
    /// DELETE of one of these three.
    Unplug,
    /// `GET` and `PATCH` of what is below `/balloon`
    Balloon(OperateBalloon),
    /// `GET /hotplug/memory`
    MemoryHotplugStatus,
    /// `PATCH /hotplug/memory`
    MemoryHotplug(MemoryHotplugUpdate),
}

/// What is done with the balloon of a machine that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OperateBalloon {
    /// `PATCH /balloon`
    Resize(BalloonUpdate),
    /// `GET /balloon/statistics`
    Stats,
    /// `PATCH /balloon/statistics`
    SetStats(BalloonStatsUpdate),
    /// `PATCH /balloon/hinting/start`
    StartHinting(HintingStart),
    /// `PATCH /balloon/hinting/stop`
    StopHinting,
    /// `GET /balloon/hinting/status`
    HintingStatus,
}

/// Makes requests of their kinds.
macro_rules! into_request {
    ($($kind:ident)+) => {$(
        impl From<$kind> for Request {
            fn from(request: $kind) -> Self {
                Self::$kind(request)
            }
        }
    )+};
}
into_request!(Tell Metadata Configure Operate);

impl From<OperateBalloon> for Request {
    fn from(request: OperateBalloon) -> Self {
        Self::Operate(Operate::Balloon(request))
    }
}

/// A request that is none. The texts are Firecracker's.
#[derive(Debug, Error)]
pub enum RequestError {
    /// No such method on such a path.
    #[error("Invalid request method and/or path: {0} {1}.")]
    Route(Method, String),
    /// A GET with a body.
    #[error("GET request cannot have a body.")]
    Body,
    /// Another one without.
    #[error("Empty {0} request.")]
    NoBody(&'static str),
    /// A path that ends where an id should be.
    #[error("The ID cannot be empty.")]
    NoId,
    /// An id with other characters.
    #[error("API Resource IDs can only contain alphanumeric characters and underscores.")]
    Id,
    /// Two ids for one device.
    #[error("The id from the path does not match the id from the body!")]
    OtherId,
    /// Two ids for one network interface.
    #[error("The id from the path [{0}] does not match the id from the body [{1}]!")]
    OtherInterfaceId(String, String),
    /// No such part of a resource.
    #[error("Unrecognized {0} request path `{1}`.")]
    Part(Method, String),
    /// A snapshot to be neither made nor loaded.
    #[error("Missing snapshot operation type.")]
    SnapshotPart,
    /// A body that is not of the form that the path wants.
    #[error("An error occurred when deserializing the json body of a request: {0}.")]
    Json(#[from] serde_json::Error),
}

impl Request {
    /// What `request` wants.
    pub fn parse(request: &http::Request) -> Result<Self, RequestError> {
        let mut parts = request.path.trim_start_matches('/').split_terminator('/');
        let first = parts.next().unwrap_or_default();
        let routed = match (request.method, request.body.as_deref()) {
            (Method::Get, None) => get(first, &mut parts)?,
            (Method::Get, Some(_)) => return Err(RequestError::Body),
            (Method::Put, Some(body)) => put(first, &mut parts, body)?,
            (Method::Put, None) => return Err(RequestError::NoBody("PUT")),
            (Method::Patch, body) => patch(first, &mut parts, body)?,
            (Method::Delete, None) => delete(first, &mut parts)?,
            (Method::Delete, Some(_)) => None,
        };
        routed.ok_or_else(|| RequestError::Route(request.method, first.to_owned()))
    }

    /// What the request uses that will go away, for the log.
    pub fn deprecation(&self) -> Option<&'static str> {
        match self {
            Self::Configure(body) => body.deprecation(),
            Self::LoadSnapshot(body) => body.deprecation(),
            Self::Tell(_) | Self::Metadata(_) | Self::Start | Self::Operate(_) => None,
        }
    }
}

impl Configure {
    /// What the body uses that will go away, for the log.
    pub fn deprecation(&self) -> Option<&'static str> {
        let uses = [
            (
                matches!(self, Self::Machine(body) if body.cpu_template.is_some()),
                "PUT /machine-config: cpu_template field is deprecated.",
            ),
            (
                matches!(self, Self::MachineUpdate(body) if body.cpu_template.is_some()),
                "PATCH /machine-config: cpu_template field is deprecated.",
            ),
            (
                matches!(self, Self::Mmds(body) if body.version == MmdsVersion::V1),
                "PUT /mmds/config: V1 is deprecated. Use V2 instead.",
            ),
            (
                matches!(self, Self::Vsock(body) if body.vsock_id.is_some()),
                "PUT /vsock: vsock_id field is deprecated.",
            ),
        ];
        uses.into_iter().find(|(used, _)| *used).map(|(_, notice)| notice)
    }
}

impl SnapshotLoad {
    /// What the body uses that will go away.
    fn deprecation(&self) -> Option<&'static str> {
        let uses = [
            (
                self.mem_file_path.is_some(),
                "PUT /snapshot/load: mem_file_path field is deprecated.",
            ),
            (
                self.enable_diff_snapshots,
                "PUT /snapshot/load: enable_diff_snapshots field is deprecated.",
            ),
        ];
        uses.into_iter().find(|(used, _)| *used).map(|(_, notice)| notice)
    }
}

/// The words of a path behind the first.
type Parts<'a> = dyn Iterator<Item = &'a str> + 'a;

/// A request; none where the path leads nowhere.
type Routed = Result<Option<Request>, RequestError>;

fn get(first: &str, parts: &mut Parts<'_>) -> Routed {
    Ok(Some(match first {
        "" => Tell::Instance.into(),
        "version" => Tell::Version.into(),
        "vm" if parts.next() == Some("config") => Tell::VmConfig.into(),
        "machine-config" => Tell::MachineConfig.into(),
        "mmds" => Metadata::Get.into(),
        "hotplug" if parts.next() == Some("memory") => Operate::MemoryHotplugStatus.into(),
        "balloon" => match parts.next() {
            None => Tell::Balloon.into(),
            Some("statistics") => OperateBalloon::Stats.into(),
            Some("hinting") => match parts.next() {
                Some("status") => OperateBalloon::HintingStatus.into(),
                other => return Err(no_hinting(Method::Get, other)),
            },
            Some(other) => return Err(RequestError::Part(Method::Get, other.to_owned())),
        },
        _ => return Ok(None),
    }))
}

fn put(first: &str, parts: &mut Parts<'_>, body: &[u8]) -> Routed {
    Ok(Some(match first {
        "actions" => action(read(body)?),
        "balloon" => Configure::Balloon(read(body)?).into(),
        "boot-source" => Configure::BootSource(read(body)?).into(),
        "cpu-config" => Configure::Cpu(read(body)?).into(),
        "drives" => Configure::Drive(device(parts, body, |drive: &Drive| &drive.drive_id)?).into(),
        "entropy" => Configure::Entropy(read(body)?).into(),
        "hotplug" if parts.next() == Some("memory") => Configure::MemoryHotplug(read(body)?).into(),
        "logger" => Configure::Logger(read(body)?).into(),
        "machine-config" => Configure::Machine(read(body)?).into(),
        "metrics" => Configure::Metrics(read(body)?).into(),
        "mmds" => match parts.next() {
            None => Metadata::Put(read(body)?).into(),
            Some("config") => Configure::Mmds(read(body)?).into(),
            Some(other) => return Err(RequestError::Part(Method::Put, other.to_owned())),
        },
        "network-interfaces" => {
            let body = interface(parts, body, |body: &NetworkInterface| &body.iface_id)?;
            Configure::NetworkInterface(body).into()
        }
        "pmem" => Configure::Pmem(device(parts, body, |pmem: &Pmem| &pmem.id)?).into(),
        "serial" => Configure::Serial(read(body)?).into(),
        "snapshot" => match parts.next() {
            Some("create") => Operate::CreateSnapshot(read(body)?).into(),
            Some("load") => Request::LoadSnapshot(snapshot_load(body)?),
            Some(other) => {
                return Err(RequestError::Route(Method::Put, format!("/snapshot/{other}")));
            }
            None => return Err(RequestError::SnapshotPart),
        },
        "vsock" => Configure::Vsock(read(body)?).into(),
        _ => return Ok(None),
    }))
}

fn action(body: ActionBody) -> Request {
    match body.action_type {
        Action::InstanceStart => Request::Start,
        Action::FlushMetrics => Operate::FlushMetrics.into(),
        Action::SendCtrlAltDel => Operate::SendCtrlAltDel.into(),
    }
}

fn patch(first: &str, parts: &mut Parts<'_>, body: Option<&[u8]>) -> Routed {
    if first == "balloon" {
        return Ok(Some(patch_balloon(parts, body)?.into()));
    }
    let body = body.ok_or(NO_PATCH)?;
    Ok(Some(match first {
        "drives" => {
            Operate::Drive(device(parts, body, |drive: &DriveUpdate| &drive.drive_id)?).into()
        }
        "hotplug" if parts.next() == Some("memory") => Operate::MemoryHotplug(read(body)?).into(),
        "machine-config" => match read(body)? {
            update if update == MachineConfigUpdate::default() => return Err(NO_PATCH),
            update => Configure::MachineUpdate(update).into(),
        },
        "mmds" => Metadata::Patch(read(body)?).into(),
        "network-interfaces" => {
            let body = interface(parts, body, |body: &NetworkInterfaceUpdate| &body.iface_id)?;
            Operate::NetworkInterface(body).into()
        }
        "pmem" => Operate::Pmem(device(parts, body, |pmem: &PmemUpdate| &pmem.id)?).into(),
        "vm" => Operate::VmState(read::<VmStateUpdate>(body)?.state).into(),
        _ => return Ok(None),
    }))
}

fn patch_balloon(
    parts: &mut Parts<'_>,
    body: Option<&[u8]>,
) -> Result<OperateBalloon, RequestError> {
    Ok(match (parts.next(), body) {
        (Some("statistics"), Some(body)) => OperateBalloon::SetStats(read(body)?),
        (Some("hinting"), body) => match parts.next() {
            Some("start") => {
                OperateBalloon::StartHinting(body.map(read).transpose()?.unwrap_or_default())
            }
            Some("stop") => OperateBalloon::StopHinting,
            other => return Err(no_hinting(Method::Patch, other)),
        },
        (_, Some(body)) => OperateBalloon::Resize(read(body)?),
        (_, None) => return Err(NO_PATCH),
    })
}

fn delete(first: &str, parts: &mut Parts<'_>) -> Routed {
    match first {
        "drives" | "network-interfaces" | "pmem" => {
            id(parts)?;
            Ok(Some(Operate::Unplug.into()))
        }
        _ => Err(RequestError::NoBody("Delete")),
    }
}

const NO_PATCH: RequestError = RequestError::NoBody("PATCH");

fn no_hinting(method: Method, part: Option<&str>) -> RequestError {
    RequestError::Part(method, format!("/hinting/{}", part.unwrap_or_default()))
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, RequestError> {
    Ok(serde_json::from_slice(body)?)
}

/// The id that a path ends with.
fn id<'a>(parts: &mut Parts<'a>) -> Result<&'a str, RequestError> {
    let id = parts.next().filter(|id| !id.is_empty()).ok_or(RequestError::NoId)?;
    let good = id.chars().all(|c| c == '_' || c.is_alphanumeric());
    good.then_some(id).ok_or(RequestError::Id)
}

/// The body of a device whose id the path has as well.
fn device<T: DeserializeOwned>(
    parts: &mut Parts<'_>,
    body: &[u8],
    own_id: impl Fn(&T) -> &String,
) -> Result<T, RequestError> {
    let id = id(parts)?;
    let device = read(body)?;
    if own_id(&device) == id { Ok(device) } else { Err(RequestError::OtherId) }
}

/// The body of a network interface whose id the path has as well.
fn interface<T: DeserializeOwned>(
    parts: &mut Parts<'_>,
    body: &[u8],
    own_id: impl Fn(&T) -> &String,
) -> Result<T, RequestError> {
    let id = id(parts)?;
    let interface = read(body)?;
    match own_id(&interface) {
        own if own == id => Ok(interface),
        own => Err(RequestError::OtherInterfaceId(id.to_owned(), own.clone())),
    }
}

/// The body of `/snapshot/load`: exactly one of two fields says where the memory is.
fn snapshot_load(body: &[u8]) -> Result<SnapshotLoad, RequestError> {
    let load: SnapshotLoad = read(body)?;
    let wrong = match (&load.mem_backend, &load.mem_file_path) {
        (Some(_), None) | (None, Some(_)) => return Ok(load),
        (None, None) => "missing field: either `mem_backend` or `mem_file_path` is required",
        (Some(_), Some(_)) => {
            "too many fields: either `mem_backend` or `mem_file_path` exclusively is required"
        }
    };
    Err(serde_json::Error::custom(wrong).into())
}
