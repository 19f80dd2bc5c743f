//! `sparkler run`: a machine in this process, from the first key to the exit status.

pub mod plan;
mod timings;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, anyhow};
use host::SignalFd;
use host::signals::{SIGHUP, SIGINT, SIGTERM};
use vmm::{
    Control, CpuChoice, Decision, End, GuestEvent, GuestEvents, Machine, Observer, Setup, Stage,
    Stop,
};

use crate::cli::RunArgs;
use crate::failure::{self, SIGNALLED};
use crate::guest::session::{Kind, Session};
use plan::Plan;
use timings::{Moment, Timings};

/// What `kill -l PIPE` says.
const SIGPIPE: u8 = 13;

/// Runs the machine. `start` is when `main` was entered.
pub fn run(args: &RunArgs, start: Instant) -> anyhow::Result<ExitCode> {
    let timings = Timings::new(start);
    let plan = Plan::new(args)?;
    // After downloads, which Ctrl-C ends as usual; before the machine's threads, which would take
    // the signals if they were not blocked.
    let signals = SignalFd::new(&[SIGINT, SIGTERM, SIGHUP]).context("cannot watch signals")?;
    timings.note(Moment::Files);
    let (session, control) = (Session::new(), Control::new()?);
    let guest = Arc::new(Guest {
        session: session.clone(),
        control: control.clone(),
        timings: timings.clone(),
        talkative: plan.kind == Kind::Terminal,
        kernel: plan.kernel.clone(),
    });
    let setup = Setup {
        console: session.console(plan.kind, &control),
        control,
        signals: Some(signals),
        observer: guest.clone(),
        guest_events: Some(guest),
        ..Setup::plain()?
    };
    // A disk over an image goes when the machine has ended.
    let _root = plan.root;
    let machine = Machine::start_with(plan.spec, CpuChoice::from(args.cpu), setup)?;
    let terminal = match plan.kind {
        Kind::Terminal => host::terminal::raw().context("cannot set the terminal up")?,
        Kind::Framed | Kind::Plain => None,
    };
    let end = machine.wait();
    drop(terminal);
    timings.note(Moment::End);
    if args.timings {
        eprint!("{timings}");
    }
    conclude(end, &session, !args.command.is_empty())
}

/// The exit status, or why there is none.
fn conclude(end: End, session: &Session, command: bool) -> anyhow::Result<ExitCode> {
    if let Some(text) = session.last_words() {
        eprint!("{}", String::from_utf8_lossy(&text));
    }
    if session.broken_pipe() {
        return Ok(ExitCode::from(SIGNALLED + SIGPIPE));
    }
    match (end, session.status()) {
        (End::Failed(error), _) => Err(error.into()),
        (End::Stopped(Stop::Signal(signal)), _) => {
            let number = u8::try_from(signal).unwrap_or(0);
            Ok(ExitCode::from(SIGNALLED.saturating_add(number)))
        }
        (End::Stopped(Stop::User), _) => Ok(ExitCode::SUCCESS),
        (End::PowerOff | End::Reset | End::Stopped(Stop::Program), Some(status)) => {
            Ok(ExitCode::from(failure::guest_status(status)))
        }
        (End::PowerOff | End::Reset | End::Stopped(Stop::Program), None) if command => {
            Err(anyhow!(
                "the guest ended before the command did; what its kernel last wrote may say why"
            ))
        }
        (End::PowerOff | End::Reset | End::Stopped(Stop::Program), None) => Ok(ExitCode::SUCCESS),
    }
}

/// Listens to the machine's start and to the guest's init.
struct Guest {
    session: Session,
    control: Control,
    timings: Timings,
    /// Whether the user looks at a terminal that a machine is about to take over.
    talkative: bool,
    kernel: String,
}

impl Observer for Guest {
    fn cpu(&self, decision: &Decision) {
        // Why KVM will not do is said in any case: it makes the machine slower.
        if self.talkative || matches!(decision, Decision::SoftInstead(_)) {
            eprintln!("sparkler: {decision}");
        }
        if self.talkative {
            eprintln!("sparkler: kernel {}; Ctrl-A x leaves", self.kernel);
        }
    }

    fn stage(&self, stage: Stage) {
        self.timings.note(Moment::Machine(stage));
    }
}

impl GuestEvents for Guest {
    fn event(&self, event: GuestEvent) {
        match event {
            GuestEvent::InitStarted => self.timings.note(Moment::Init),
            GuestEvent::ProgramStarted => self.timings.note(Moment::Program),
            GuestEvent::Exited(status) => self.session.set_status(status),
            // Nothing is lost from here on: the guest need not go through its own restart.
            GuestEvent::Ended => self.control.end(End::Stopped(Stop::Program)),
        }
    }
}
