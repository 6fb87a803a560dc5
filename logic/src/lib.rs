// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The driver's arithmetic and state machines, free of the kernel so that the host can test them.

#![no_std]
