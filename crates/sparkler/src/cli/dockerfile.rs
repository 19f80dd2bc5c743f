//! What `sparkler image build` takes for Dockerfiles.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{Cpu, parse_memory};

/// How a Dockerfile is built.
#[derive(Debug, Args)]
#[command(next_help_heading = "Dockerfiles")]
pub struct DockerfileArgs {
    /// The Dockerfile, for which SOURCE is the context; by default that in SOURCE, if there is one
    #[arg(short, long, value_name = "PATH")]
    pub file: Option<PathBuf>,
    /// The value of an ARG; without one, that of the variable of this name here
    #[arg(long = "build-arg", value_name = "NAME[=VALUE]", value_parser = parse_argument)]
    pub arguments: Vec<(String, String)>,
    /// The stage that becomes the image; by default the last
    #[arg(long, value_name = "STAGE")]
    pub target: Option<String>,
    /// Do all steps again
    #[arg(long)]
    pub no_cache: bool,
    /// Stop a RUN after so many seconds
    #[arg(long, value_name = "SECONDS", value_parser = parse_timeout)]
    pub timeout: Option<Duration>,
    /// What RUN steps reach: by default what this user does, if passt is installed
    #[arg(long, value_enum, value_name = "NETWORK", default_value_t = Network::User)]
    pub network: Network,
    /// The kernel that RUN steps run under, as for `sparkler run`
    #[arg(long, value_name = "K")]
    pub kernel: Option<String>,
    /// Virtual CPUs of a RUN step
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub cpus: u64,
    /// Memory of a RUN step, with a unit or in MiB
    #[arg(short, long, value_name = "M", default_value = "1G", value_parser = parse_memory)]
    pub memory: u64,
    /// What runs the guest's code
    #[arg(long, value_enum, value_name = "CPU", default_value_t = Cpu::Auto)]
    pub cpu: Cpu,
}

/// What a step reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Network {
    /// What the user of this process does, through passt
    User,
    /// Nothing
    None,
}

fn parse_argument(text: &str) -> Result<(String, String), String> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, value.to_owned()),
        None => {
            let value = std::env::var(text);
            (text, value.map_err(|_| format!("there is no variable {text} here; give a value"))?)
        }
    };
    match name {
        "" => Err("an argument needs a name".to_owned()),
        name => Ok((name.to_owned(), value)),
    }
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| *seconds > 0);
    let seconds = seconds.ok_or_else(|| format!("`{text}` is no number of seconds"))?;
    Ok(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_and_times() {
        let pair = |name: &str, value: &str| Some((name.to_owned(), value.to_owned()));
        for (text, expected) in [
            ("A=1", pair("A", "1")),
            ("A=", pair("A", "")),
            ("A=b=c", pair("A", "b=c")),
            ("=1", None),
            ("SPARKLER_THAT_NOBODY_SETS", None),
        ] {
            assert_eq!(parse_argument(text).ok(), expected, "{text}");
        }
        for (text, seconds) in [("30", Some(30)), ("0", None), ("-1", None), ("1m", None)] {
            assert_eq!(parse_timeout(text).ok(), seconds.map(Duration::from_secs), "{text}");
        }
    }
}
