//! A timer finer than tokio's, whose resolution of 1 ms would be most of the latency measured on a local network.

use std::{io, os::fd::OwnedFd};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::{Instant, sleep_until},
};

/// A `timerfd(2)`, or tokio's timer where there is no descriptor left for one.
pub(crate) struct Timer(Option<AsyncFd<OwnedFd>>);

impl Timer {
    pub(crate) fn new() -> Self {
        let create = || {
            let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
            register(timer)
        };
        Self(create().inspect_err(|error| tracing::warn!(%error, "no precise timer")).ok())
    }

    /// Waits until `deadline`. May be dropped and called again at any time.
    pub(crate) async fn sleep_until(&self, deadline: Instant) {
        if let Some(timer) = &self.0
            && let Err(error) = wait(timer, deadline).await
        {
            tracing::warn!(%error, "precise timer failed");
        }
        // Returns at once if the time has come.
        if Instant::now() < deadline {
            sleep_until(deadline).await;
        }
    }
}

#[expect(unsafe_code, reason = "tokio cannot tell whose descriptor it is given")]
fn register(timer: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is the sole owner of its descriptor, which is always the same and closed when it is dropped,
    // after `AsyncFd` has let go of it.
    Ok(unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE) }?)
}

async fn wait(timer: &AsyncFd<OwnedFd>, deadline: Instant) -> io::Result<()> {
    let remaining = deadline.saturating_duration_since(Instant::now());
    if remaining.is_zero() {
        // Zero would disarm the timer. Others get their turn as they do when there is something to wait for.
        tokio::task::yield_now().await;
        return Ok(());
    }
    let it_value = Timespec::try_from(remaining).map_err(|_| io::ErrorKind::InvalidInput)?;
    let it_interval = Timespec { tv_sec: 0, tv_nsec: 0 };
    // Also forgets an expiration nobody has read.
    timerfd_settime(timer, TimerfdTimerFlags::empty(), &Itimerspec { it_interval, it_value })?;
    loop {
        let mut ready = timer.readable().await?;
        let mut expirations = [0; 8];
        if let Ok(read) = ready.try_io(|timer| Ok(rustix::io::read(timer, &mut expirations)?)) {
            return read.map(drop);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn never_early_and_reusable_after_being_dropped() {
        let timer = Timer::new();
        for micros in [0, 300, 5_000] {
            let deadline = Instant::now() + Duration::from_micros(micros);
            timer.sleep_until(deadline).await;
            assert!(Instant::now() >= deadline);
            let never = timer.sleep_until(Instant::now() + Duration::from_secs(3600));
            assert!(tokio::time::timeout(Duration::from_millis(1), never).await.is_err());
        }
    }
}
