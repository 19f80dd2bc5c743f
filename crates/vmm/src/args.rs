//! The flags of `sparkler-vmm`: Firecracker's, with its rules and its words.
//!
//! Scripts and supervisors match the texts of [`ArgError`] and its exit code, so a general parser
//! will not do. The rules: a flag is `--name` or `--name value`; a value does not start with
//! `--`; each flag comes once; what follows a lone `--` is ignored; `--help` and `--version` win
//! over everything else.

use std::fmt;

use thiserror::Error;

/// One flag: a row of [`FLAGS`].
#[derive(Debug)]
struct Flag {
    name: &'static str,
    takes_value: bool,
    default: Option<&'static str>,
    /// Another flag that must be there as well.
    requires: Option<&'static str>,
    /// Other flags that must not be there.
    forbids: &'static [&'static str],
    help: &'static str,
}

/// A flag without a value.
const fn switch(name: &'static str, help: &'static str) -> Flag {
    Flag { name, takes_value: false, default: None, requires: None, forbids: &[], help }
}

/// A flag with a value.
const fn value(name: &'static str, help: &'static str) -> Flag {
    Flag { takes_value: true, ..switch(name, help) }
}

/// All flags, by name.
const FLAGS: &[Flag] = &[
    Flag {
        default: Some("/run/firecracker.socket"),
        ..value("api-sock", "Path to the unix domain socket of the API.")
    },
    switch("boot-timer", "Log the time when the guest says that it has booted."),
    value(
        "code-cache",
        "MiB of translated code that the software CPU keeps for each vCPU [default: 32].",
    ),
    value("config-file", "Path to a JSON file that configures the machine, which starts at once."),
    Flag {
        default: Some("auto"),
        ..value("cpu", "What runs the guest's code: kvm, soft, or auto for the better one.")
    },
    value("describe-snapshot", "Print the version of a snapshot's file (not supported yet)."),
    switch("enable-pci", "Put the devices on a PCI bus (not supported yet)."),
    Flag {
        default: Some("51200"),
        ..value("http-api-max-payload-size", "Largest body of an API request, in bytes.")
    },
    Flag {
        default: Some("anonymous-instance"),
        ..value("id", "Identifier of the machine: letters, digits and '-', at most 64.")
    },
    value("level", "Least important level that is logged: Off, Error, Warn, Info, Debug, Trace."),
    value("log-path", "File or named pipe for the log, instead of standard output."),
    value("metadata", "Path to a JSON file with the first content of the metadata service."),
    value("metrics-path", "File or named pipe for the metrics."),
    value(
        "mmds-size-limit",
        "Largest content of the metadata service, in bytes [default: the largest body of an API request].",
    ),
    value("module", "Log only what comes from modules whose path starts so."),
    Flag {
        requires: Some("config-file"),
        ..switch("no-api", "Run without an API socket, from --config-file.")
    },
    switch("no-jit", "Run the software CPU without its translator."),
    switch("no-seccomp", "Run without system call filters (there are none yet)."),
    value("parent-cpu-time-us", "CPU time that the parent used before this process, in us."),
    switch("perf-map", "List translated code for perf in /tmp/perf-PID.map."),
    Flag {
        forbids: &["no-seccomp"],
        ..value("seccomp-filter", "Compiled system call filters (not applied yet).")
    },
    switch("show-level", "Name the level in each log line."),
    switch("show-log-origin", "Name the place in the source in each log line."),
    switch("snapshot-version", "Print the version of the snapshot format, and end."),
    value("start-time-cpu-us", "Process start by its CPU clock, in us."),
    value("start-time-us", "Process start by the monotonic clock, in us."),
    switch("stats", "Log what the software CPU did, at the end."),
    switch("verify", "Compare each translation of the software CPU with its interpreter; slow."),
    switch("version", "Print the version, and end."),
];

/// The command line could not be understood. The texts are Firecracker's.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ArgError {
    /// Two flags exclude each other.
    #[error("Argument '{1}' cannot be used together with argument '{0}'.")]
    ForbiddenArgument(String, String),
    /// A flag is needed.
    #[error("Argument '{0}' required, but not found.")]
    MissingArgument(String),
    /// A flag has no value.
    #[error("The argument '{0}' requires a value, but none was supplied.")]
    MissingValue(String),
    /// No such flag.
    #[error("Found argument '{0}' which wasn't expected, or isn't valid in this context.")]
    UnexpectedArgument(String),
    /// A flag came twice.
    #[error("The argument '{0}' was provided more than once.")]
    DuplicateArgument(String),
}

/// The flags that were given, checked.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    given: Vec<(&'static str, Option<String>)>,
    help: bool,
}

impl Arguments {
    /// Parses the command line, without the program's name.
    pub fn parse(args: &[String]) -> Result<Self, ArgError> {
        let end = args.iter().position(|arg| arg == "--").unwrap_or(args.len());
        let args = &args[..end];
        if args.iter().any(|arg| arg == "--help" || arg == "-h") {
            return Ok(Self { given: Vec::new(), help: true });
        }
        if args.iter().any(|arg| arg == "--version") {
            return Ok(Self { given: vec![("version", None)], help: false });
        }
        let parsed = Self { given: collect(args)?, help: false };
        parsed.check_companions()?;
        Ok(parsed)
    }

    /// Whether the help is asked for.
    pub fn help_wanted(&self) -> bool {
        self.help
    }

    /// Whether the flag was given.
    pub fn has(&self, name: &str) -> bool {
        self.given.iter().any(|(given, _)| *given == name)
    }

    /// The flag's value: the one that was given, or its default.
    pub fn value(&self, name: &str) -> Option<&str> {
        let given = self.given.iter().find(|(given, _)| *given == name);
        match given {
            Some((_, value)) => value.as_deref(),
            None => FLAGS.iter().find(|flag| flag.name == name).and_then(|flag| flag.default),
        }
    }

    fn check_companions(&self) -> Result<(), ArgError> {
        for flag in FLAGS.iter().filter(|flag| self.has(flag.name)) {
            if let Some(needed) = flag.requires.filter(|needed| !self.has(needed)) {
                return Err(ArgError::MissingArgument(needed.to_owned()));
            }
            if let Some(other) = flag.forbids.iter().find(|other| self.has(other)) {
                return Err(ArgError::ForbiddenArgument(flag.name.into(), (*other).into()));
            }
        }
        Ok(())
    }
}

/// Pairs each flag with its value.
fn collect(args: &[String]) -> Result<Vec<(&'static str, Option<String>)>, ArgError> {
    let mut given: Vec<(&'static str, Option<String>)> = Vec::new();
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        let name = arg.strip_prefix("--").unwrap_or(arg);
        let flag = FLAGS
            .iter()
            .find(|flag| arg.starts_with("--") && flag.name == name)
            .ok_or_else(|| ArgError::UnexpectedArgument(name.to_owned()))?;
        if given.iter().any(|(other, _)| *other == flag.name) {
            return Err(ArgError::DuplicateArgument(name.to_owned()));
        }
        let value = match flag.takes_value {
            false => None,
            true => Some(
                rest.next()
                    .filter(|value| !value.starts_with("--"))
                    .cloned()
                    .ok_or_else(|| ArgError::MissingValue(name.to_owned()))?,
            ),
        };
        given.push((flag.name, value));
    }
    Ok(given)
}

/// The text that `--help` prints: one line a flag.
#[derive(Debug, Clone, Copy)]
pub struct Help;

impl fmt::Display for Help {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = FLAGS.iter().map(usage).collect();
        let width = names.iter().map(String::len).max().unwrap_or(0);
        writeln!(f, "optional arguments:")?;
        for (flag, name) in FLAGS.iter().zip(&names) {
            write!(f, "  {name:width$}   {}", flag.help)?;
            match flag.default {
                Some(default) => writeln!(f, " [default: \"{default}\"]")?,
                None => writeln!(f)?,
            }
        }
        Ok(())
    }
}

fn usage(flag: &Flag) -> String {
    match flag.takes_value {
        true => format!("--{0} <{0}>", flag.name),
        false => format!("--{}", flag.name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, ArgError> {
        let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Arguments::parse(&args)
    }

    #[test]
    fn what_is_wrong_has_firecrackers_words() {
        let unexpected = |x| {
            format!("Found argument '{x}' which wasn't expected, or isn't valid in this context.")
        };
        let cases = [
            ("--frobnicate", unexpected("frobnicate")),
            ("-x", unexpected("-x")),
            ("stray", unexpected("stray")),
            ("--no-api", "Argument 'config-file' required, but not found.".into()),
            (
                "--config-file",
                "The argument 'config-file' requires a value, but none was supplied.".into(),
            ),
            (
                "--config-file --no-api",
                "The argument 'config-file' requires a value, but none was supplied.".into(),
            ),
            ("--id a --id b", "The argument 'id' was provided more than once.".into()),
        ];
        for (line, expected) in cases {
            assert_eq!(parse(line).unwrap_err().to_string(), expected, "{line}");
        }
    }

    #[test]
    fn values_and_defaults() {
        let args = parse("--no-api --config-file a.json --boot-timer -- --whatever").unwrap();
        assert!(args.has("no-api") && args.has("boot-timer") && !args.has("show-level"));
        assert_eq!(args.value("config-file"), Some("a.json"));
        assert_eq!(args.value("id"), Some("anonymous-instance"));
        assert_eq!(args.value("log-path"), None);
    }

    #[test]
    fn version_and_help_win() {
        assert!(parse("--nonsense --version").unwrap().has("version"));
        assert!(parse("--nonsense --help --version").unwrap().help_wanted());
        assert!(parse("-- --help").is_ok_and(|args| !args.help_wanted()));
    }

    #[test]
    fn the_help_lists_every_flag_in_order() {
        let help = Help.to_string();
        assert!(FLAGS.is_sorted_by_key(|flag| flag.name));
        for flag in FLAGS {
            assert!(help.contains(&format!("--{} ", flag.name)), "{}", flag.name);
        }
    }
}
