// SPDX-License-Identifier: GPL-2.0-only

//! A kernel thread that ends with its owner.

use super::raw;
use core::{marker::PhantomData, ptr::NonNull};
use kernel::{
    bindings,
    error::{from_err_ptr, to_result},
    ffi::{c_int, c_void},
    prelude::*,
};

/// A thread that was started.
///
/// # Invariants
///
/// A reference of `task` is ours until drop. `start` is what the thread was given: its own once it runs, ours again when it
/// was stopped before it ran, and then `discard` frees it.
pub(crate) struct Thread {
    task: NonNull<bindings::task_struct>,
    start: NonNull<c_void>,
    discard: unsafe fn(NonNull<c_void>),
}

// SAFETY: Any thread may wake or stop another.
unsafe impl Send for Thread {}
// SAFETY: As above.
unsafe impl Sync for Thread {}

/// The memory cgroup of whoever started the thread, which pays for what the thread allocates.
///
/// # Invariants
///
/// Null, or a reference of ours until drop.
struct Payer(*mut bindings::mem_cgroup);

// SAFETY: Memory cgroups are counted and not tied to a thread.
unsafe impl Send for Payer {}

impl Payer {
    fn of_caller() -> Self {
        // SAFETY: Reads the calling thread's own. INVARIANT: The reference is ours.
        Self(unsafe { raw::dmaplane_memcg_of_caller() })
    }

    /// Charges the calling kernel thread's accounted allocations to it. It has to outlive them.
    fn charge(&self) {
        // SAFETY: By the type invariant it is alive; the caller is a thread of this file, which resets it at its end.
        unsafe { raw::dmaplane_charge_to(self.0) };
    }
}

impl Drop for Payer {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the reference is ours, and null is ignored.
        unsafe { raw::dmaplane_memcg_put(self.0) };
    }
}

struct Start<F> {
    body: F,
    payer: Payer,
}

/// What a thread may do to itself. Only its body gets one.
pub(crate) struct Me(PhantomData<*mut ()>);

impl Me {
    /// Whether its owner waits for its end.
    pub(crate) fn should_stop(&self) -> bool {
        // SAFETY: The calling thread is a kernel thread, because only the body of one has a `Me`.
        unsafe { bindings::kthread_should_stop() }
    }

    /// Lets others run. Not longer than it takes to look again.
    pub(crate) fn breathe(&self) {
        // SAFETY: Process context without locks, which a body sees to.
        unsafe { raw::dmaplane_breathe() };
    }

    /// Sleeps until it is woken or stopped, unless `ready` says that there is something to do. What is made ready before a
    /// wake is never slept over. `ready` must not sleep.
    pub(crate) fn rest(&self, ready: impl FnOnce() -> bool) {
        // SAFETY: Process context without locks. The state is set before the last look, so that a wake in between makes
        // the thread runnable again, and it is running again afterwards.
        unsafe {
            raw::dmaplane_about_to_sleep();
            if !ready() && !self.should_stop() {
                bindings::schedule();
            }
            raw::dmaplane_awake();
        }
    }
}

impl Thread {
    /// Starts a thread on the processors of `node`, or on any for `None`. `EINVAL` for a node without processors.
    pub(crate) fn start<F>(name: &'static CStr, node: Option<i32>, body: F) -> Result<Self>
    where
        F: FnOnce(&Me) + Send + 'static,
    {
        let node = node.unwrap_or(bindings::NUMA_NO_NODE);
        // SAFETY: Any number may be passed.
        if node != bindings::NUMA_NO_NODE && !unsafe { raw::dmaplane_node_has_processors(node) } {
            return Err(EINVAL);
        }
        let payer = Payer::of_caller();
        let start = KBox::into_raw(KBox::new(Start { body, payer }, GFP_KERNEL)?);
        // SAFETY: `run::<F>` takes over what it is given. The name is copied.
        let task = from_err_ptr(unsafe {
            raw::dmaplane_thread_create(Some(run::<F>), start.cast(), node, name.as_char_ptr())
        });
        let task = match task.and_then(|task| NonNull::new(task).ok_or(ENOMEM)) {
            Ok(task) => task,
            Err(error) => {
                // SAFETY: No thread has seen it.
                drop(unsafe { KBox::from_raw(start) });
                return Err(error);
            }
        };
        // INVARIANT: Creation took a reference for us. The box is not null.
        let thread = Self {
            task,
            start: NonNull::new(start.cast()).ok_or(ENOMEM)?,
            discard: discard::<F>,
        };
        thread.wake();
        Ok(thread)
    }

    /// Ends its rest.
    pub(crate) fn wake(&self) {
        // SAFETY: By the type invariant the task is alive.
        unsafe { bindings::wake_up_process(self.task.as_ptr()) };
    }
}

impl Drop for Thread {
    /// Has it end and waits for that. Not from the thread itself.
    fn drop(&mut self) {
        // SAFETY: By the type invariant the reference is ours, and it is given back here.
        let result = to_result(unsafe { bindings::kthread_stop_put(self.task.as_ptr()) });
        if result == Err(EINTR) {
            // SAFETY: The thread ended before it ran, so that nobody else has taken it.
            unsafe { (self.discard)(self.start) };
        }
    }
}

/// # Safety
///
/// `start` is a [`Start<F>`] that [`Thread::start`] boxed, and nobody else takes it.
unsafe fn discard<F>(start: NonNull<c_void>) {
    // SAFETY: By this function's contract.
    drop(unsafe { KBox::from_raw(start.cast::<Start<F>>().as_ptr()) });
}

/// # Safety
///
/// As [`discard`]; called by the new thread.
unsafe extern "C" fn run<F: FnOnce(&Me)>(start: *mut c_void) -> c_int {
    // SAFETY: By this function's contract.
    let start = unsafe { KBox::from_raw(start.cast::<Start<F>>()) };
    let Start { body, payer } = KBox::into_inner(start);
    payer.charge();
    body(&Me(PhantomData));
    // SAFETY: Nobody pays from here on.
    unsafe { raw::dmaplane_charge_to(core::ptr::null_mut()) };
    0
}
