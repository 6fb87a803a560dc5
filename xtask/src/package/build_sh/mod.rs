// SPDX-License-Identifier: MIT OR Apache-2.0
//! The build script of the driver's package, `packaging/dmaplane-dkms/build.sh`, against headers that are made up.
//!
//! | file | concept |
//! |---|---|
//! | fake.rs | the headers and tools |
//! | refusals.rs | what is refused, and how |
//! | metadata.rs | the mode in which xtask runs it, for the stock kernel |

mod fake;
mod metadata;
mod refusals;
