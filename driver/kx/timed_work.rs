// SPDX-License-Identifier: GPL-2.0-only

//! Work that an hrtimer starts: as exact as the clock, where delayed work waits for a jiffy and may be early by what the
//! jiffies lag behind.
//!
//! Joins `kernel::time::hrtimer` and `kernel::workqueue`.

use super::{
    charged::GFP_CHARGED,
    delayed_work::{DelayedTask, DelayedWork},
};
use kernel::{
    impl_has_hr_timer, new_spinlock,
    prelude::*,
    sync::{Arc, ArcBorrow, SpinLock},
    time::{
        hrtimer::{
            ArcHrTimerHandle, HrTimer, HrTimerCallback, HrTimerCallbackContext, HrTimerPointer,
            HrTimerRestart, RelativeMode,
        },
        Delta, Monotonic,
    },
};

/// A timer and the work that it starts. Shared by the owner and the handle of the started timer, which cancels it before
/// it goes.
#[pin_data]
struct Inner<T: DelayedTask + 'static> {
    #[pin]
    timer: HrTimer<Self>,
    #[pin]
    work: DelayedWork<T>,
}

impl_has_hr_timer! {
    impl{T: DelayedTask + 'static} HasHrTimer<Self> for Inner<T> {
        mode: RelativeMode<Monotonic>, field: self.timer
    }
}

impl<T: DelayedTask + 'static> HrTimerCallback for Inner<T> {
    type Pointer<'a> = Arc<Self>;

    fn run(this: ArcBorrow<'_, Self>, _: HrTimerCallbackContext<'_, Self>) -> HrTimerRestart {
        this.work.run_within(0);
        HrTimerRestart::NoRestart
    }
}

/// A task that runs in process context a given time after [`Self::start`]. When it is dropped, the task neither runs nor
/// will.
///
/// Lock: `started` (spinlock), taken under those of its users; the timer's callback takes none.
#[pin_data]
pub(crate) struct TimedWork<T: DelayedTask + 'static> {
    /// The timer as it was last started. Dropped first: it cancels the timer, which starts the work.
    #[pin]
    started: SpinLock<Option<ArcHrTimerHandle<Inner<T>>>>,
    inner: Arc<Inner<T>>,
}

impl<T: DelayedTask + 'static> TimedWork<T> {
    /// Work that is not started yet. `ENOMEM`.
    pub(crate) fn new(owner: T) -> impl PinInit<Self, Error> {
        pin_init!(Self {
            started <- new_spinlock!(None, "TimedWork::started"),
            inner: Arc::pin_init(
                pin_init!(Inner {
                    timer <- HrTimer::new(),
                    work <- DelayedWork::new(owner),
                }),
                GFP_CHARGED,
            )?,
        }? Error)
    }

    /// The task that runs.
    pub(crate) fn owner(&self) -> &T {
        self.inner.work.owner()
    }

    /// Lets the task run after `delay`, in place of an earlier start. Never sleeps.
    pub(crate) fn start(&self, delay: Delta) {
        let mut started = self.started.lock();
        // A handle cancels its timer when it is dropped, so the last one goes before the next start.
        drop(started.take());
        *started = Some(self.inner.clone().start(delay));
    }
}
