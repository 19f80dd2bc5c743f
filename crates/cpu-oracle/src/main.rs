//! The long comparison: `cpu-oracle --cases 10000000 --seed 7`.

use std::time::{Duration, Instant};

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use cpu_oracle::{Oracle, Verdict, generate};

/// Compare the software CPU with this machine's own on random instructions.
#[derive(Parser)]
struct Arguments {
    /// How many cases to run.
    #[arg(long, default_value_t = 1_000_000)]
    cases: u64,
    /// Which cases: the same seed gives the same ones.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The number of the first case.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Stop after this many differences.
    #[arg(long, default_value_t = 20)]
    differences: u64,
    /// Leave all code to the interpreter. Otherwise every block is translated.
    #[arg(long)]
    no_jit: bool,
    /// Compare each translated block with the interpreter, too.
    #[arg(long)]
    verify: bool,
    /// Print each case before it runs.
    #[arg(long)]
    show: bool,
}

const PROGRESS: Duration = Duration::from_secs(10);

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let jit = softcpu::JitOptions {
        threshold: 0,
        verify: arguments.verify,
        ..softcpu::JitOptions::DEFAULT
    };
    let mut oracle = Oracle::new((!arguments.no_jit).then_some(jit))?;
    let (mut different, mut skipped, mut regular) = (0, 0, 0u64);
    let start = Instant::now();
    let mut reported = start;
    for number in arguments.first..arguments.first + arguments.cases {
        if arguments.show {
            println!("case {number}\n{}", generate::case(arguments.seed, number).listing());
        }
        match oracle.check(arguments.seed, number)? {
            Verdict::Same(end) => {
                let exception =
                    matches!(end, cpu_oracle::End::Exception { vector, .. } if vector != 3);
                regular += u64::from(!exception);
            }
            Verdict::Skipped => skipped += 1,
            Verdict::Different(report) => {
                println!("{report}");
                different += 1;
            }
        }
        if different == arguments.differences {
            break;
        }
        if reported.elapsed() > PROGRESS {
            reported = Instant::now();
            eprintln!("{number}: {different} different, {:.0?}", start.elapsed());
        }
    }
    println!(
        "{} cases in {:.0?}: {regular} to their end, {skipped} skipped, {different} different",
        arguments.cases,
        start.elapsed(),
    );
    Ok(if different == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
