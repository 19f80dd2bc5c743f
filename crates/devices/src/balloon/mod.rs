//! The virtio memory balloon (virtio 1.2, 5.5): the guest gives memory back to the host.
//!
//! | queue | the driver says | what happens |
//! | --- | --- | --- |
//! | inflate | these pages are in the balloon | they are discarded |
//! | deflate | these pages are used again | nothing: they are there when they are touched |
//! | statistics | how the guest's memory is used | the buffer is kept, and returned to ask again |
//! | hinting | these pages are free until you say done | they are discarded (module `hinting`) |
//! | reporting | these pages are free now | they are discarded before the driver goes on |
//!
//! The last three are there if they are asked for. A queue that the driver does not want is not
//! there, and those behind it move up, as Linux and QEMU count them. A page is discarded before
//! its request is returned: afterwards the driver may use it again.
//!
//! Addresses from the guest are taken as far as they name whole pages of RAM; the rest is counted
//! and ignored. Page poisoning is not offered: a driver that needs it reports no pages.

mod frames;
mod hinting;
mod stats;

use std::sync::Arc;
use std::time::Duration;

use memory::{DiscardError, GuestAddress, GuestMemory, GuestMemoryBackend, GuestMemoryRegion};
use metrics::{BalloonMetrics, Counter};
use thiserror::Error;
use virtio::bindings::virtio_ids::VIRTIO_ID_BALLOON;
use virtio::{
    Activated, Answer, Chain, Handler, Interrupt, MAX_QUEUE_SIZE, Outcome, Segment, VirtioDevice,
    copy_config,
};

use self::frames::{FRAME_LEN, FRAMES_MAX};
use self::hinting::Hinting;
pub use self::hinting::HintingStatus;
pub use self::stats::BalloonStats;
use self::stats::STATS_LEN_MAX;
use crate::Alarm;

/// The queue that the balloon's alarm has to have served.
pub const STATS_QUEUE: u32 = 2;

/// Feature bits (virtio 1.2, 5.5.3).
const F_STATS_VQ: u64 = 1 << 1;
const F_DEFLATE_ON_OOM: u64 = 1 << 2;
const F_FREE_PAGE_HINT: u64 = 1 << 3;
const F_PAGE_REPORTING: u64 = 1 << 5;

/// Configuration space (virtio 1.2, 5.5.4): how many pages the balloon should hold, how many it
/// holds, which the driver writes, and the host's hinting command.
const CONFIG_LEN: usize = 12;
const CONFIG_ACTUAL: u64 = 4;

/// Pages of 4 KiB in a MiB.
const PAGES_PER_MIB: u32 = 256;

/// Why the balloon does not do what the API asks for. The texts are those of Firecracker.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum BalloonError {
    /// The guest's driver is not there yet.
    #[error("Device not activated yet.")]
    NotActive,
    /// Hinting was not configured.
    #[error("Attempting to use hinting when not enabled")]
    HintingNotEnabled,
    /// Statistics were not configured.
    #[error("Received stats query when stats are disabled.")]
    StatsDisabled,
    /// Whether there are statistics is fixed.
    #[error("Statistics cannot be enabled/disabled after activation.")]
    StatsFixed,
    /// More than the guest has.
    #[error("Requested memory should be less than {0}MiB")]
    TooMuch(u32),
}

/// The device.
pub struct Balloon {
    settings: spec::Balloon,
    state: State,
    alarm: Box<dyn Alarm>,
    metrics: Arc<BalloonMetrics>,
    active: Option<Activated>,
}

/// What changes while the guest runs, besides the settings.
#[derive(Debug, Default)]
struct State {
    /// Pages that the driver says are in the balloon.
    actual_pages: u32,
    hinting: Hinting,
    stats: BalloonStats,
    /// The statistics buffer that the driver waits for.
    held: Option<u16>,
    /// When it is to be returned.
    due: Duration,
}

/// What a queue is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Inflate,
    Deflate,
    Stats,
    Hinting,
    Reporting,
}

impl Role {
    /// The role of queue `index` for a driver that accepted `features`.
    fn of(index: usize, features: u64) -> Option<Self> {
        let roles = [
            (Role::Inflate, true),
            (Role::Deflate, true),
            (Role::Stats, features & F_STATS_VQ != 0),
            (Role::Hinting, features & F_FREE_PAGE_HINT != 0),
            (Role::Reporting, features & F_PAGE_REPORTING != 0),
        ];
        roles.into_iter().filter(|(_, there)| *there).nth(index).map(|(role, _)| role)
    }
}

impl Balloon {
    /// A balloon as `settings` say; `alarm` has queue [`STATS_QUEUE`] served.
    pub fn new(
        settings: spec::Balloon,
        alarm: Box<dyn Alarm>,
        metrics: Arc<BalloonMetrics>,
    ) -> Self {
        Self { settings, state: State::default(), alarm, metrics, active: None }
    }

    /// The settings, as they are now.
    pub fn settings(&self) -> spec::Balloon {
        self.settings
    }

    /// Sets how much the guest is to give back; through `MmioTransport::update_config`.
    pub fn set_amount(&mut self, mib: u32) -> Result<(), BalloonError> {
        let active = self.active.as_ref().ok_or(BalloonError::NotActive)?;
        let bytes: u64 = active.memory.iter().map(|region| region.len()).sum();
        if u64::from(mib) > bytes >> 20 {
            return Err(BalloonError::TooMuch(mib));
        }
        self.settings.amount_mib = mib;
        Ok(())
    }

    /// The balloon, and what the guest said last about its memory.
    pub fn stats(&self) -> Result<BalloonStats, BalloonError> {
        if self.settings.stats_interval_s == 0 {
            return Err(BalloonError::StatsDisabled);
        }
        Ok(BalloonStats {
            target_pages: self.target_pages(),
            actual_pages: self.state.actual_pages,
            target_mib: self.settings.amount_mib,
            actual_mib: self.state.actual_pages / PAGES_PER_MIB,
            ..self.state.stats.clone()
        })
    }

    /// Sets how often the guest is asked for statistics, and asks at once. Through
    /// `MmioTransport::update`.
    pub fn set_stats_interval(&mut self, seconds: u16) -> Result<(), BalloonError> {
        let old = self.settings.stats_interval_s;
        if old == seconds {
            return Ok(());
        }
        if old == 0 || seconds == 0 {
            return Err(BalloonError::StatsFixed);
        }
        self.settings.stats_interval_s = seconds;
        self.state.due = self.alarm.now();
        self.alarm.set(Duration::ZERO);
        Ok(())
    }

    /// Asks the guest which of its pages are free, and discards those. With `acknowledge`, the
    /// guest may use them again as soon as it has named all; otherwise after
    /// [`Balloon::stop_hinting`]. Through `MmioTransport::update_config`.
    pub fn start_hinting(&mut self, acknowledge: bool) -> Result<(), BalloonError> {
        self.hinting()?;
        self.active.as_ref().ok_or(BalloonError::NotActive)?;
        self.state.hinting.start(acknowledge);
        Ok(())
    }

    /// Lets the guest use all its pages again; through `MmioTransport::update_config`.
    pub fn stop_hinting(&mut self) -> Result<(), BalloonError> {
        self.hinting()?;
        self.active.as_ref().ok_or(BalloonError::NotActive)?;
        self.state.hinting.stop();
        Ok(())
    }

    /// How far hinting is.
    pub fn hinting_status(&self) -> Result<HintingStatus, BalloonError> {
        self.hinting().map(Hinting::status)
    }

    fn hinting(&self) -> Result<&Hinting, BalloonError> {
        match self.settings.free_page_hinting {
            true => Ok(&self.state.hinting),
            false => Err(BalloonError::HintingNotEnabled),
        }
    }

    fn target_pages(&self) -> u32 {
        self.settings.amount_mib.saturating_mul(PAGES_PER_MIB)
    }
}

impl VirtioDevice for Balloon {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_BALLOON
    }

    fn device_features(&self) -> u64 {
        [
            (F_STATS_VQ, self.settings.stats_interval_s > 0),
            (F_DEFLATE_ON_OOM, self.settings.deflate_on_oom),
            (F_FREE_PAGE_HINT, self.settings.free_page_hinting),
            (F_PAGE_REPORTING, self.settings.free_page_reporting),
        ]
        .into_iter()
        .filter(|(_, offered)| *offered)
        .fold(0, |features, (bit, _)| features | bit)
    }

    fn queue_sizes(&self) -> &[u16] {
        const SIZES: [u16; 5] = [MAX_QUEUE_SIZE; 5];
        let features = self.device_features();
        let count = (0..SIZES.len()).take_while(|i| Role::of(*i, features).is_some()).count();
        &SIZES[..count]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let fields =
            [self.target_pages(), self.state.actual_pages, self.state.hinting.status().host_cmd];
        let mut config = [0; CONFIG_LEN];
        for (to, field) in config.as_chunks_mut().0.iter_mut().zip(fields) {
            *to = field.to_le_bytes();
        }
        copy_config(&config, offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        match data.try_into() {
            Ok(bytes) if offset == CONFIG_ACTUAL => {
                self.state.actual_pages = u32::from_le_bytes(bytes);
            }
            _ => log::debug!("virtio-balloon: {} bytes written at {offset:#x}", data.len()),
        }
    }

    fn activate(&mut self, activated: Activated) {
        if activated.features & F_STATS_VQ != 0 {
            let interval = Duration::from_secs(self.settings.stats_interval_s.into());
            self.state.due = self.alarm.now().saturating_add(interval);
            self.alarm.set(interval);
        }
        self.active = Some(activated);
    }

    fn process_queue(&mut self, index: usize) -> Outcome {
        let Self { settings, state, alarm, metrics, active } = self;
        let Some(Activated { memory, queues, interrupt, features }) = active else {
            return Outcome::Done;
        };
        let (Some(role), Some(queue)) = (Role::of(index, *features), queues.get_mut(index)) else {
            return Outcome::Done;
        };
        match role {
            Role::Inflate => {
                metrics.inflate_count.inc();
                queue.serve(memory, interrupt, |chain| {
                    inflate(memory, chain, metrics);
                    Answer::Used(0)
                })
            }
            Role::Deflate => {
                metrics.deflate_count.inc();
                queue.serve(memory, interrupt, |_| Answer::Used(0))
            }
            Role::Stats => {
                metrics.stats_updates_count.inc();
                let interval = Duration::from_secs(settings.stats_interval_s.into());
                let alarm = alarm.as_ref();
                let mut poll = Poll { state, metrics, memory, alarm, interval, older: Vec::new() };
                queue.serve_by(memory, interrupt, &mut poll)
            }
            Role::Hinting => {
                let hinting = &mut state.hinting;
                queue.serve(memory, interrupt, |chain| {
                    hint(memory, chain, hinting, interrupt, metrics);
                    Answer::Used(0)
                })
            }
            Role::Reporting => queue.serve(memory, interrupt, |chain| {
                let freed = Freed {
                    count: &metrics.free_page_report_count,
                    freed: &metrics.free_page_report_freed,
                    fails: &metrics.free_page_report_fails,
                };
                freed.discard_all(memory, chain.writable());
                Answer::Used(0)
            }),
        }
    }

    fn reset(&mut self) {
        self.active = None;
        self.state.actual_pages = 0;
        self.state.held = None;
        self.state.hinting.reset();
    }

    fn activated(&self) -> Option<&Activated> {
        self.active.as_ref()
    }
}

/// Discards the pages that `chain` lists.
fn inflate(memory: &GuestMemory, chain: &Chain, metrics: &BalloonMetrics) {
    let mut list = [0; FRAMES_MAX * FRAME_LEN];
    let len = usize::try_from(chain.readable_len()).unwrap_or(usize::MAX);
    let list = list.get_mut(..len).and_then(|list| {
        chain.read_at(memory, 0, list).ok()?;
        Some(&*list)
    });
    let Some(list) = list else {
        log::debug!("virtio-balloon: a list of {len} bytes ignored");
        metrics.event_fails.inc();
        return;
    };
    let is_ram = |frame: u64| memory.address_in_range(GuestAddress(frame * memory::PAGE_SIZE));
    for range in frames::ranges(list, is_ram) {
        let (start, len) = (range.start, range.end - range.start);
        let start = GuestAddress(start * memory::PAGE_SIZE);
        if let Err(error) = memory::discard(memory, start, len * memory::PAGE_SIZE) {
            complain(&error);
            metrics.event_fails.inc();
        }
    }
}

/// Takes the driver's command, or discards the pages that it hints at.
fn hint(
    memory: &GuestMemory,
    chain: &Chain,
    hinting: &mut Hinting,
    interrupt: &Interrupt,
    metrics: &BalloonMetrics,
) {
    let mut command = [0; 4];
    if chain.readable_len() == 4 && chain.read_at(memory, 0, &mut command).is_ok() {
        if hinting.hear(u32::from_le_bytes(command)) {
            // The driver reads the host's command again. One field of four bytes changed, which
            // it reads at once: the configuration's generation stays.
            interrupt.signal_config();
        }
    } else if hinting.holds() {
        let freed = Freed {
            count: &metrics.free_page_hint_count,
            freed: &metrics.free_page_hint_freed,
            fails: &metrics.free_page_hint_fails,
        };
        freed.discard_all(memory, chain.writable());
    }
}

/// Where to count pages that are discarded because they are free.
struct Freed<'a> {
    count: &'a Counter,
    freed: &'a Counter,
    fails: &'a Counter,
}

impl Freed<'_> {
    fn discard_all(&self, memory: &GuestMemory, segments: &[Segment]) {
        for segment in segments {
            self.count.inc();
            match memory::discard(memory, segment.address, segment.len.into()) {
                Ok(bytes) => self.freed.add(bytes),
                Err(error) => {
                    complain(&error);
                    self.fails.inc();
                }
            }
        }
    }
}

/// What the guest does wrong is of less interest than what the host does.
fn complain(error: &DiscardError) {
    match error {
        DiscardError::NotRam { .. } => log::debug!("virtio-balloon: {error}"),
        DiscardError::Host { .. } => log::warn!("virtio-balloon: {error}"),
    }
}

/// One turn on the statistics queue: takes what the driver has to say, and asks again when the time
/// has come.
struct Poll<'a> {
    state: &'a mut State,
    metrics: &'a BalloonMetrics,
    memory: &'a GuestMemory,
    alarm: &'a dyn Alarm,
    interval: Duration,
    /// A driver has one buffer; one that has more gets these back.
    older: Vec<u16>,
}

impl Handler for Poll<'_> {
    fn handle(&mut self, chain: &mut Chain) -> Answer {
        self.read(chain);
        self.older.extend(self.state.held.replace(chain.head()));
        Answer::Kept
    }

    fn settle(&mut self, ended: &mut Vec<(u16, u32)>) {
        ended.extend(self.older.drain(..).map(|head| (head, 0)));
        let now = self.alarm.now();
        if now >= self.state.due {
            ended.extend(self.state.held.take().map(|head| (head, 0)));
            self.state.due = now.saturating_add(self.interval);
            self.alarm.set(self.interval);
        }
    }
}

impl Poll<'_> {
    fn read(&mut self, chain: &Chain) {
        let len = chain.readable_len().min(STATS_LEN_MAX) as usize;
        let mut bytes = [0; STATS_LEN_MAX as usize];
        let bytes = &mut bytes[..len];
        let unknown = match chain.read_at(self.memory, 0, bytes) {
            Ok(()) => self.state.stats.update(bytes),
            Err(error) => {
                log::debug!("virtio-balloon: statistics ignored: {error}");
                1
            }
        };
        self.metrics.stats_update_fails.add(unknown);
    }
}
