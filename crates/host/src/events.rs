//! Waiting for many things at once: epoll, eventfd and timerfd.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{EventfdFlags, epoll};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

/// At most so many events come out of one [`Poller::wait`]; the rest come with the next.
const BATCH: usize = 32;

/// One descriptor that became ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// The token it was added with.
    pub token: u64,
    /// There is something to read, or the other end closed.
    pub readable: bool,
    /// There is room to write.
    pub writable: bool,
    /// The other end closed, or the descriptor failed.
    pub hung_up: bool,
}

/// An epoll set: each descriptor in it carries a token of its owner's choice.
#[derive(Debug)]
pub struct Poller {
    epoll: OwnedFd,
}

impl Poller {
    /// An empty set.
    pub fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(epoll::CreateFlags::CLOEXEC)? })
    }

    /// Watches `fd` for input. [`io::ErrorKind::PermissionDenied`] says that the descriptor is a
    /// regular file or the like, which is always ready and cannot be watched.
    pub fn add_input(&self, fd: impl AsFd, token: u64) -> io::Result<()> {
        let data = epoll::EventData::new_u64(token);
        Ok(epoll::add(&self.epoll, fd, data, epoll::EventFlags::IN)?)
    }

    /// Watches `fd` for new input: each time that something arrives, however much of what came
    /// before is still unread. Counters and timers watched so need never be read.
    pub fn add_edge(&self, fd: impl AsFd, token: u64) -> io::Result<()> {
        let data = epoll::EventData::new_u64(token);
        Ok(epoll::add(&self.epoll, fd, data, epoll::EventFlags::IN | epoll::EventFlags::ET)?)
    }

    /// Watches `fd`, which is in the set, for these things from now on; that the other end closed
    /// is always told.
    pub fn change(&self, fd: impl AsFd, token: u64, input: bool, output: bool) -> io::Result<()> {
        let mut flags = epoll::EventFlags::empty();
        flags.set(epoll::EventFlags::IN, input);
        flags.set(epoll::EventFlags::OUT, output);
        Ok(epoll::modify(&self.epoll, fd, epoll::EventData::new_u64(token), flags)?)
    }

    /// Watches `fd` no longer.
    pub fn remove(&self, fd: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.epoll, fd)?)
    }

    /// Waits until something is ready, or until `timeout` has passed (`None`: for ever), and puts
    /// what is ready into `ready`. A signal that interrupts the wait makes it return early.
    pub fn wait(&self, ready: &mut Vec<Event>, timeout: Option<Duration>) -> io::Result<()> {
        ready.clear();
        let timeout = timeout.map(timespec);
        let mut batch: Vec<epoll::Event> = Vec::with_capacity(BATCH);
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut batch), timeout.as_ref())
        {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        ready.extend(batch.iter().map(to_event));
        Ok(())
    }
}

fn to_event(event: &epoll::Event) -> Event {
    let flags = event.flags;
    let hung_up = flags.intersects(epoll::EventFlags::HUP | epoll::EventFlags::ERR);
    Event {
        token: event.data.u64(),
        readable: hung_up || flags.contains(epoll::EventFlags::IN),
        writable: flags.contains(epoll::EventFlags::OUT),
        hung_up,
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}

/// A counter that one thread raises and another waits for.
#[derive(Debug)]
pub struct EventFd {
    fd: OwnedFd,
}

impl EventFd {
    /// A counter at zero; reading it never blocks.
    pub fn new() -> io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self { fd: rustix::event::eventfd(0, flags)? })
    }

    /// Raises the counter. It cannot fail in a way that matters: a full counter is ready already.
    pub fn signal(&self) {
        let _ = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
    }

    /// Sets the counter back to zero, and says whether it was raised.
    pub fn clear(&self) -> bool {
        let mut count = [0; 8];
        matches!(rustix::io::read(&self.fd, &mut count), Ok(8))
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A timer of the monotonic clock.
#[derive(Debug)]
pub struct TimerFd {
    fd: OwnedFd,
}

impl TimerFd {
    /// A timer that is not running.
    pub fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        Ok(Self { fd: timerfd_create(TimerfdClockId::Monotonic, flags)? })
    }

    /// Fires once, `delay` from now; a zero delay stops the timer.
    pub fn arm(&self, delay: Duration) -> io::Result<()> {
        let once = Itimerspec { it_interval: timespec(Duration::ZERO), it_value: timespec(delay) };
        timerfd_settime(&self.fd, TimerfdTimerFlags::empty(), &once)?;
        Ok(())
    }

    /// Takes note of an expiry, and says whether there was one.
    pub fn clear(&self) -> bool {
        let mut count = [0; 8];
        matches!(rustix::io::read(&self.fd, &mut count), Ok(8))
    }
}

impl AsFd for TimerFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_eventfd_wakes_the_poller_once() {
        let poller = Poller::new().unwrap();
        let event = EventFd::new().unwrap();
        poller.add_input(&event, 7).unwrap();
        let mut ready = Vec::new();
        poller.wait(&mut ready, Some(Duration::ZERO)).unwrap();
        assert!(ready.is_empty());
        event.signal();
        event.signal();
        poller.wait(&mut ready, Some(Duration::from_secs(5))).unwrap();
        assert_eq!(ready.len(), 1);
        assert!(ready[0].token == 7 && ready[0].readable && !ready[0].hung_up);
        assert!(event.clear() && !event.clear());
    }

    #[test]
    fn edges_come_again_without_reading() {
        let poller = Poller::new().unwrap();
        let (event, timer) = (EventFd::new().unwrap(), TimerFd::new().unwrap());
        poller.add_edge(&event, 1).unwrap();
        poller.add_edge(&timer, 2).unwrap();
        let mut ready = Vec::new();
        for _ in 0..3 {
            event.signal();
            poller.wait(&mut ready, Some(Duration::from_secs(5))).unwrap();
            assert_eq!(ready.iter().map(|e| e.token).collect::<Vec<_>>(), [1]);
            timer.arm(Duration::from_millis(1)).unwrap();
            poller.wait(&mut ready, Some(Duration::from_secs(5))).unwrap();
            assert_eq!(ready.iter().map(|e| e.token).collect::<Vec<_>>(), [2]);
            poller.wait(&mut ready, Some(Duration::ZERO)).unwrap();
            assert!(ready.is_empty());
        }
    }

    #[test]
    fn a_timer_fires_after_its_delay() {
        let poller = Poller::new().unwrap();
        let timer = TimerFd::new().unwrap();
        poller.add_input(&timer, 1).unwrap();
        timer.arm(Duration::from_millis(5)).unwrap();
        let mut ready = Vec::new();
        poller.wait(&mut ready, Some(Duration::from_secs(5))).unwrap();
        assert_eq!(ready.len(), 1);
        assert!(timer.clear());
    }

    #[test]
    fn a_regular_file_cannot_be_watched() {
        let file = tempfile::tempfile().unwrap();
        let error = Poller::new().unwrap().add_input(&file, 0).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    }
}
