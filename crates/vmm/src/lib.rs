//! A process that runs one machine: threads, event loop, console, log, and the choice of the CPU.
//!
//! ```text
//!   main thread     epoll: stdin, doorbells, signals, Control
//!   fc_vcpu 0…n     Vcpu::run ──▶ devices, on this thread
//! ```
//!
//! [`Machine::start`] opens what the specification names on the host, chooses the CPU, has
//! `machine` put the guest together, and starts its threads; [`Machine::wait`] is the main
//! thread's event loop. [`Control`] stops, pauses and resumes from any thread.
//!
//! The library serves two programs: `sparkler-vmm`, which stands in for the `firecracker` binary,
//! and `sparkler run`. JSON does not come further than `sparkler-vmm`'s `main`.
#![forbid(unsafe_code)]

mod alarm;
pub mod args;
mod console;
mod control;
pub mod controller;
mod cpu;
mod error;
mod event_loop;
mod exit;
mod guest;
pub mod logger;
mod metadata;
pub mod metrics;
mod resources;
mod run;
mod server;
mod threads;
mod watches;
mod wiring;

pub use api::{FIRECRACKER_VERSION, SNAPSHOT_VERSION};
pub use console::{Console, Input, Wish};
pub use control::{Control, End, Stop};
pub use cpu::{CHOICES, CpuChoice, CpuOptions, Decision, decide, parse_code_cache};
pub use devices::status_port::{GuestEvent, GuestEvents};
pub use error::Error;
pub use exit::{ExitCode, FATAL_SIGNALS};
pub use resources::Resources;
pub use run::{Machine, Observer, Setup, Stage};
pub use softcpu::JitOptions;
