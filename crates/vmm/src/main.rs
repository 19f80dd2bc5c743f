//! `sparkler-vmm`: one microVM in one process, with the flags, log lines and exit codes of the
//! `firecracker` binary.
//!
//! ```text
//!   flags ──args──▶ Arguments ──▶ log, metrics ──▶ files that flags name ──▶ controller::Process
//! ```
//!
//! All ends meet in [`main`]: it logs how the process ends, says why on standard error, and picks
//! the exit code.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::process;
use std::time::Duration;

use log::{error, info, warn};
use serde_json::Value;
use sparkler_vmm::args::{ArgError, Arguments, Help};
use sparkler_vmm::controller::{Process, ProcessError, StartTime};
use sparkler_vmm::{
    CpuChoice, CpuOptions, ExitCode, FIRECRACKER_VERSION, JitOptions, SNAPSHOT_VERSION, logger,
    metrics, parse_code_cache,
};
use spec::InstanceId;
use thiserror::Error;

/// Largest file with metadata, in bytes, that is read.
const METADATA_FILE_MAX: u64 = 16 << 20;

fn main() -> process::ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(()) => {
            info!("Firecracker exiting successfully. exit_code=0");
            ExitCode::Ok.into()
        }
        Err(failure) => {
            let code = failure.exit_code();
            error!("{failure}");
            eprintln!("Error: {failure:?}");
            error!("Firecracker exiting with error. exit_code={}", code as u8);
            code.into()
        }
    }
}

/// Why the process ends with an error. The texts and names are those that tooling matches.
#[derive(Debug, Error)]
enum Failure {
    #[error("Arguments parsing error: {0} \n\nFor more information try --help.")]
    ParseArguments(ArgError),
    #[error("Invalid value for logger level: {0}")]
    InvalidLogLevel(api::UnknownLevel),
    #[error("Invalid instance ID: {0}")]
    InvalidInstanceId(String),
    #[error("Invalid value for --code-cache: {0}")]
    InvalidCodeCache(String),
    #[error("Invalid value for --cpu: {0}")]
    InvalidCpu(String),
    #[error("'{0}' parameter expected to be of '{1}' type.")]
    InvalidNumber(&'static str, &'static str),
    #[error("Logger error: {0}")]
    Logger(String),
    #[error("Could not initialize metrics: {0}")]
    MetricsInitialization(String),
    #[error("Unable to open or read from the {what}: {why} (in {path})")]
    ReadFile { what: &'static str, path: String, why: String },
    #[error("{0} is not supported by this version: {1}; leave it out")]
    Unsupported(&'static str, &'static str),
    #[error("Configuration for VMM from one single json failed: {0}")]
    ParseFromJson(String),
    #[error("MMDS error: metadata provided not valid json: {0}")]
    ParseMetadata(String),
    #[error("RunWithApiError error: {0}")]
    RunWithApi(ProcessError),
    #[error("RunWithoutApiError error: {0}")]
    RunWithoutApi(ProcessError),
}

impl Failure {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::ParseArguments(_) => ExitCode::ArgumentParsing,
            Self::InvalidLogLevel(_) => ExitCode::BadConfiguration,
            Self::InvalidInstanceId(_)
            | Self::InvalidCodeCache(_)
            | Self::InvalidCpu(_)
            | Self::InvalidNumber(..)
            | Self::Logger(_)
            | Self::MetricsInitialization(_)
            | Self::Unsupported(..)
            | Self::ReadFile { .. }
            | Self::ParseFromJson(_)
            | Self::ParseMetadata(_)
            | Self::RunWithApi(_)
            | Self::RunWithoutApi(_) => ExitCode::Generic,
        }
    }
}

fn run(args: &[String]) -> Result<(), Failure> {
    let parsed = Arguments::parse(args);
    // A name that is refused below must not get into the log's lines either.
    let id = parsed.as_ref().ok().and_then(|args| args.value("id"));
    let id = id.filter(|id| InstanceId::new(*id).is_ok()).unwrap_or("anonymous-instance");
    logger::start(id);
    let args = parsed.map_err(Failure::ParseArguments)?;
    if args.help_wanted() {
        println!("sparkler-vmm: one microVM, with Firecracker's flags\n\n{Help}");
        return Ok(());
    }
    if args.has("version") {
        // The first line is for programs, which know Firecracker's versions.
        println!("Firecracker v{FIRECRACKER_VERSION}");
        println!("sparkler-vmm v{}", env!("CARGO_PKG_VERSION"));
        return Ok(());
    }
    if args.has("snapshot-version") {
        println!("v{SNAPSHOT_VERSION}");
        return Ok(());
    }
    if args.has("describe-snapshot") {
        return Err(Failure::Unsupported("--describe-snapshot", "there are no snapshots yet"));
    }
    if args.has("enable-pci") {
        return Err(Failure::Unsupported("--enable-pci", "devices are on MMIO only"));
    }
    configure_log(&args)?;
    if args.has("seccomp-filter") {
        warn!("--seccomp-filter is not applied: this version has no system call filters");
    }
    metrics::flush_on_panic();
    let process = configure(&args)?;
    let failure = if args.has("no-api") { Failure::RunWithoutApi } else { Failure::RunWithApi };
    process.run().map_err(failure)
}

fn configure_log(args: &Arguments) -> Result<(), Failure> {
    let level =
        args.value("level").map(str::parse).transpose().map_err(Failure::InvalidLogLevel)?;
    let config = api::Logger {
        log_path: args.value("log-path").map(str::to_owned),
        level,
        show_level: args.has("show-level").then_some(true),
        show_log_origin: args.has("show-log-origin").then_some(true),
        module: args.value("module").map(str::to_owned),
    };
    logger::configure(&config).map_err(|error| Failure::Logger(error.to_string()))?;
    info!("Running Firecracker v{FIRECRACKER_VERSION}");
    info!("sparkler-vmm v{}", env!("CARGO_PKG_VERSION"));
    Ok(())
}

/// What the flags say about the CPU.
fn cpu_options(args: &Arguments) -> Result<CpuOptions, Failure> {
    let choice: CpuChoice =
        args.value("cpu").unwrap_or_default().parse().map_err(Failure::InvalidCpu)?;
    let cache_bytes = args.value("code-cache").map(parse_code_cache).transpose();
    let jit = JitOptions {
        cache_bytes: cache_bytes
            .map_err(Failure::InvalidCodeCache)?
            .unwrap_or(JitOptions::DEFAULT.cache_bytes),
        verify: args.has("verify"),
        perf_map: args.has("perf-map"),
        ..JitOptions::DEFAULT
    };
    let jit = (!args.has("no-jit")).then_some(jit);
    Ok(CpuOptions { choice, jit, stats: args.has("stats") })
}

/// All that the flags say about the process, read and checked.
fn configure(args: &Arguments) -> Result<Process, Failure> {
    let id = InstanceId::new(args.value("id").unwrap_or_default())
        .map_err(|error| Failure::InvalidInstanceId(error.to_string()))?;
    let cpu = cpu_options(args)?;
    if let Some(path) = args.value("metrics-path") {
        let config =
            api::Metrics { metrics_path: path.to_owned(), emit_id: false, properties: None };
        metrics::configure(id.as_str(), &config)
            .map_err(|error| Failure::MetricsInitialization(error.to_string()))?;
    }
    let payload_bytes_max =
        number(args, "http-api-max-payload-size", "usize")?.unwrap_or(api::http::PAYLOAD_BYTES_MAX);
    let micros = |name| Ok(number(args, name, "u64")?.map(Duration::from_micros));
    let started = StartTime {
        wall: micros("start-time-us")?,
        cpu: micros("start-time-cpu-us")?,
        parent_cpu: micros("parent-cpu-time-us")?,
    };
    let config = args.value("config-file").map(read_config).transpose()?;
    let metadata = args.value("metadata").map(read_metadata).transpose()?;
    let api_socket = args.value("api-sock").filter(|_| !args.has("no-api")).map(PathBuf::from);
    Ok(Process {
        id,
        cpu,
        api_socket,
        config,
        metadata,
        payload_bytes_max,
        metadata_bytes_max: number(args, "mmds-size-limit", "usize")?.unwrap_or(payload_bytes_max),
        boot_timer: args.has("boot-timer"),
        started,
    })
}

fn number<T: std::str::FromStr>(
    args: &Arguments,
    name: &'static str,
    kind: &'static str,
) -> Result<Option<T>, Failure> {
    let parse = |text: &str| text.parse().map_err(|_| Failure::InvalidNumber(name, kind));
    args.value(name).map(parse).transpose()
}

fn read_config(path: &str) -> Result<api::VmConfigFile, Failure> {
    let text = read_file("configuration file", path, api::CONFIG_FILE_MAX)?;
    api::VmConfigFile::parse(&text)
        .map_err(|error| Failure::ParseFromJson(format!("{error} (in {path})")))
}

fn read_metadata(path: &str) -> Result<Value, Failure> {
    let text = read_file("mmds content file", path, METADATA_FILE_MAX)?;
    serde_json::from_str(&text)
        .map_err(|error| Failure::ParseMetadata(format!("{error} (in {path})")))
}

/// The text of a file that a flag names, if it has at most `max` bytes.
fn read_file(what: &'static str, path: &str, max: u64) -> Result<String, Failure> {
    let failed = |why: String| Failure::ReadFile { what, path: path.to_owned(), why };
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(max + 1).read_to_string(&mut text))
        .map_err(|error| failed(error.to_string()))?;
    if text.len() as u64 > max {
        return Err(failed(format!("it is larger than {max} bytes")));
    }
    Ok(text)
}
