// SPDX-License-Identifier: GPL-2.0-only

//! A kernel thread that ends with its owner.
//!
//! Would become `kernel::kthread`.

use super::{
    charged::{Payer, GFP_CHARGED},
    completion::Completion,
    raw,
};
use core::{marker::PhantomData, ptr::NonNull};
use kernel::{
    bindings,
    error::{from_err_ptr, to_result},
    ffi::{c_int, c_void},
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{Atomic, Relaxed},
        Arc,
    },
    task::Task,
};

/// A thread that was started.
///
/// # Invariants
///
/// A reference to `task` is ours until drop. `start` is the argument of the thread, which owns it once it runs. If the
/// thread was stopped before it ran, `start` is ours again, and `discard` frees it.
pub(crate) struct Thread {
    task: NonNull<bindings::task_struct>,
    start: NonNull<c_void>,
    discard: unsafe fn(NonNull<c_void>),
}

// SAFETY: Any thread may wake or stop another.
unsafe impl Send for Thread {}
// SAFETY: Any thread may wake or stop another.
unsafe impl Sync for Thread {}

struct Start<F> {
    body: F,
    payer: Payer,
    owner: ARef<Task>,
    node: i32,
    placed: Arc<Placed>,
}

/// Whether a thread has moved to where it is to run. Kept by the thread and by the code that starts it.
struct Placed {
    done: Arc<Completion>,
    /// 0, or a negative errno.
    result: Atomic<i32>,
}

/// What a thread may do to itself. Only its body gets one.
pub(crate) struct Kthread(PhantomData<*mut ()>);

impl Kthread {
    /// Whether its owner waits for its end.
    pub(crate) fn should_stop(&self) -> bool {
        // SAFETY: The calling thread is a kernel thread, because only the body of one has a `Kthread`.
        unsafe { bindings::kthread_should_stop() }
    }

    /// Relaxes the processor and lets other threads run, for a moment at most.
    pub(crate) fn relax(&self) {
        // SAFETY: Process context without locks, which the body ensures.
        unsafe { raw::dmaplane_relax() };
    }

    /// Sleeps until it is woken or stopped, unless `ready` returns true, because there is something to do. What becomes
    /// ready before a wake-up is never missed. `ready` must not sleep.
    pub(crate) fn sleep_unless(&self, ready: impl FnOnce() -> bool) {
        // SAFETY: Process context without locks. The state is set before the last check, so a wake-up in between makes
        // the thread runnable again, and the thread is running again afterwards.
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
    /// Starts a thread where the caller may run, and so in its cpuset: on the processors of `node`, or on all of those for
    /// `None`. `EINVAL` for a node without processors that the caller may use, `EINTR` when the caller is killed meanwhile.
    pub(crate) fn start<F>(name: &'static CStr, node: Option<i32>, body: F) -> Result<Self>
    where
        F: FnOnce(&Kthread) + Send + 'static,
    {
        let node = node.unwrap_or(bindings::NUMA_NO_NODE);
        // SAFETY: Any number may be passed.
        if node != bindings::NUMA_NO_NODE && !unsafe { raw::dmaplane_node_has_processors(node) } {
            return Err(EINVAL);
        }
        let payer = Payer::of_caller();
        let placed = Arc::new(
            Placed {
                done: Completion::new()?,
                result: Atomic::new(0),
            },
            GFP_CHARGED,
        )?;
        let start = Start {
            body,
            payer,
            owner: ARef::from(&**kernel::current!()),
            node,
            placed: placed.clone(),
        };
        let start = KBox::into_raw(KBox::new(start, GFP_CHARGED)?);
        // SAFETY: `run::<F>` takes over what it is given. The name is copied.
        let task = from_err_ptr(unsafe {
            raw::dmaplane_thread_create(Some(run::<F>), start.cast(), name.as_char_ptr())
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
        if !placed.done.wait_killable() {
            return Err(EINTR);
        }
        // Dropping a thread that could not be placed waits for its end.
        to_result(placed.result.load(Relaxed)).map(|()| thread)
    }

    /// Wakes it.
    pub(crate) fn wake(&self) {
        // SAFETY: By the type invariant the task is alive.
        unsafe { bindings::wake_up_process(self.task.as_ptr()) };
    }
}

impl Drop for Thread {
    /// Stops it and waits for its end. Must not be called by the thread itself.
    fn drop(&mut self) {
        // SAFETY: By the type invariant the reference is ours, and it is given back here.
        let result = to_result(unsafe { bindings::kthread_stop_put(self.task.as_ptr()) });
        if result == Err(EINTR) {
            // SAFETY: The thread ended before it ran, so nobody else has taken it.
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
/// Called by the new thread. `start` is a [`Start<F>`] that [`Thread::start`] boxed, and nobody else takes it.
unsafe extern "C" fn run<F: FnOnce(&Kthread)>(start: *mut c_void) -> c_int {
    // SAFETY: By this function's contract.
    let start = unsafe { KBox::from_raw(start.cast::<Start<F>>()) };
    let Start {
        body,
        payer,
        owner,
        node,
        placed,
    } = KBox::into_inner(start);
    // SAFETY: The owner is alive, as there is a reference to it, and the calling thread is a kernel thread that nobody has
    // bound to one processor.
    let result = unsafe { raw::dmaplane_thread_follow(owner.as_ptr(), node) };
    // A thread must not keep its owner's task for as long as it runs.
    drop(owner);
    placed.result.store(result, Relaxed);
    placed.done.set();
    if result == 0 {
        payer.pays(|| body(&Kthread(PhantomData)));
    }
    0
}
