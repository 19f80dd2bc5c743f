//! `sparkler`: Linux virtual machines in a click.
//!
//! `cli` is the command line as it is typed, `cmd` what its verbs do, `guest` the host's half of
//! what is spoken with a guest, `failure` the exit codes. All ends meet in [`main`].
#![forbid(unsafe_code)]

mod cli;
mod cmd;
mod failure;
mod guest;
mod progress;

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;

use cli::{Cli, Verb};

fn main() -> ExitCode {
    let start = Instant::now();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return failure::usage(&error),
    };
    dispatch(&cli.verb, start).unwrap_or_else(|error| failure::report(&error))
}

fn dispatch(verb: &Verb, start: Instant) -> anyhow::Result<ExitCode> {
    let done = match verb {
        Verb::Run(args) => return cmd::run::run(args, start),
        Verb::Doctor(args) => cmd::doctor::run(args),
        Verb::Image(verb) => cmd::image::run(verb),
        Verb::Kernel(verb) => cmd::kernel::run(verb),
        Verb::Completions { shell } => cmd::completions::run(*shell),
        Verb::Version => {
            cmd::version::run();
            Ok(())
        }
    };
    done.map(|()| ExitCode::SUCCESS)
}
