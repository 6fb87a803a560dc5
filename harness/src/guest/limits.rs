// SPDX-License-Identifier: MIT OR Apache-2.0
//! Time limits, in one order, so that one cause has one signature:
//! RCU stall < soft lockup < hung task < test < guest. All of them scale with how slow the guest is.

use std::time::Duration;

use crate::guest::accel::Accel;
use crate::kernel::Profile;

/// The time limits of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// What a limit for plain hardware is multiplied by.
    pub scale: u32,
    /// Seconds after which the kernel reports a stalled grace period.
    pub rcu_stall_s: u32,
    /// The kernel reports a soft lockup after twice this many seconds; 60 is its maximum.
    pub watchdog_thresh_s: u32,
    /// Seconds after which the kernel reports an unregistered network interface that is still referenced.
    pub netdev_s: u32,
    /// Seconds after which the kernel reports a blocked task.
    pub hung_task_s: u32,
    /// Seconds after which a test is killed.
    pub test_s: u32,
    /// From the start to the runner's first line.
    pub boot: Duration,
    /// For all jobs together, unless the caller says otherwise.
    pub jobs: Duration,
    /// After the jobs: leak checks, two scans of kmemleak, power-off.
    pub end: Duration,
}

impl Limits {
    /// The limits for guests of this kind.
    pub fn new(accel: Accel, profile: Profile) -> Self {
        let scale = match (accel, profile) {
            (Accel::Kvm, Profile::Stock | Profile::Base) => 1,
            (Accel::Tcg, Profile::Stock | Profile::Base) => 3,
            (Accel::Kvm, Profile::Debug) => 5,
            (Accel::Tcg, Profile::Debug) => 15,
        };
        let hung_task_s = (60 * scale).min(240);
        Self {
            scale,
            rcu_stall_s: (20 * scale).min(100),
            watchdog_thresh_s: (15 * scale).min(60),
            // At least the kernel's own 10 s. rxe holds an interface until its device is gone, which takes an emulated
            // debug kernel 5 s.
            netdev_s: (3 * scale).max(10),
            hung_task_s,
            // The kernel looks for blocked tasks once in each period, so it may take two to see one.
            test_s: 2 * hung_task_s + 30,
            // Five times the boot time on a busy host; a boot that takes longer hangs, and trying again is cheaper.
            boot: Duration::from_secs(30 + 10 * u64::from(scale)),
            jobs: Duration::from_secs(700) * scale,
            end: Duration::from_secs(30) * scale,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_holds_everywhere() {
        for accel in [Accel::Kvm, Accel::Tcg] {
            for profile in [Profile::Stock, Profile::Base, Profile::Debug] {
                let limits = Limits::new(accel, profile);
                let soft_lockup = 2 * limits.watchdog_thresh_s;
                assert!(limits.rcu_stall_s < soft_lockup, "{limits:?}");
                assert!(soft_lockup < limits.hung_task_s, "{limits:?}");
                assert!(limits.netdev_s < limits.hung_task_s, "{limits:?}");
                assert!(limits.hung_task_s < limits.test_s, "{limits:?}");
                assert!(
                    u64::from(limits.test_s) < limits.jobs.as_secs(),
                    "{limits:?}"
                );
            }
        }
    }
}
