//! `sparkler-vmm`: one microVM in one process, with the flags, log lines and exit codes of the
//! `firecracker` binary.
//!
//! ```text
//!   flags ──args──▶ Arguments ──▶ log ──▶ configuration file ──api──▶ VmSpec ──▶ vmm::run
//! ```
//!
//! All ends meet in [`main`]: it logs how the process ends, says why on standard error, and picks
//! the exit code. The API socket is not there yet, so a configuration file is.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::Read;
use std::process;

use log::{error, info, warn};
use sparkler_vmm::args::{ArgError, Arguments, Help};
use sparkler_vmm::{
    CpuChoice, End, ExitCode, FIRECRACKER_VERSION, Machine, SNAPSHOT_VERSION, logger,
};
use thiserror::Error;

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
    #[error("Invalid value for --cpu: {0}")]
    InvalidCpu(String),
    #[error("Logger error: {0}")]
    Logger(String),
    #[error("The API socket is not available yet: {0}")]
    NoApi(&'static str),
    #[error("Configuration for VMM from one single json failed: {0}")]
    ParseFromJson(String),
    #[error("Could not start the microVM from one single json: {0}")]
    StartMicroVm(String),
    #[error("RunWithoutApiError error: {0}")]
    RunWithoutApi(String),
}

impl Failure {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::ParseArguments(_) => ExitCode::ArgumentParsing,
            Self::InvalidLogLevel(_) => ExitCode::BadConfiguration,
            Self::InvalidInstanceId(_)
            | Self::InvalidCpu(_)
            | Self::Logger(_)
            | Self::NoApi(_)
            | Self::ParseFromJson(_)
            | Self::StartMicroVm(_)
            | Self::RunWithoutApi(_) => ExitCode::Generic,
        }
    }
}

fn run(args: &[String]) -> Result<(), Failure> {
    let parsed = Arguments::parse(args);
    // A name that is refused below must not get into the log's lines either.
    let id = parsed.as_ref().ok().and_then(|args| args.value("id"));
    let id = id.filter(|id| spec::InstanceId::new(*id).is_ok()).unwrap_or("anonymous-instance");
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
    configure_log(&args)?;
    run_machine(&args)
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

fn run_machine(args: &Arguments) -> Result<(), Failure> {
    let id = args.value("id").unwrap_or_default();
    let id =
        spec::InstanceId::new(id).map_err(|error| Failure::InvalidInstanceId(error.to_string()))?;
    let cpu: CpuChoice =
        args.value("cpu").unwrap_or_default().parse().map_err(Failure::InvalidCpu)?;
    if !args.has("no-api") {
        return Err(Failure::NoApi("start with --no-api --config-file FILE"));
    }
    // Without --config-file, --no-api is refused as Firecracker refuses it.
    let path = args.value("config-file").unwrap_or_default();
    let config = read_config(path)?;
    let mut spec = config
        .to_spec(id)
        .map_err(|error| Failure::ParseFromJson(format!("{error} (in {path})")))?;
    spec.boot_timer = args.has("boot-timer");
    // There is no network device yet; the file's notices said so.
    spec.network = spec::NetworkInterfaces::default();
    if args.has("metrics-path") {
        warn!("metrics are not written by this version");
    }
    let machine =
        Machine::start(spec, cpu).map_err(|error| Failure::StartMicroVm(error.to_string()))?;
    info!("Successfully started microvm that was configured from one single json");
    let end = machine.wait();
    info!("Vmm is stopping.");
    match end {
        End::PowerOff | End::Reset | End::Stopped(_) => Ok(()),
        End::Failed(error) => Err(Failure::RunWithoutApi(error.to_string())),
    }
}

fn read_config(path: &str) -> Result<api::VmConfigFile, Failure> {
    let failed = |why: String| Failure::ParseFromJson(format!("{why} (in {path})"));
    let file =
        File::open(path).map_err(|error| failed(format!("cannot open the file: {error}")))?;
    let mut text = String::new();
    file.take(api::CONFIG_FILE_MAX + 1)
        .read_to_string(&mut text)
        .map_err(|error| failed(format!("cannot read the file: {error}")))?;
    if text.len() as u64 > api::CONFIG_FILE_MAX {
        return Err(failed(format!("the file is larger than {} bytes", api::CONFIG_FILE_MAX)));
    }
    let config = api::VmConfigFile::parse(&text).map_err(|error| failed(error.to_string()))?;
    if let Some(logger) = &config.logger {
        logger::configure(logger).map_err(|error| Failure::Logger(error.to_string()))?;
    }
    for notice in config.notices() {
        warn!("{notice}");
    }
    Ok(config)
}
