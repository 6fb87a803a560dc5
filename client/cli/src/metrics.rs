// SPDX-License-Identifier: MIT OR Apache-2.0

//! `dmaplane metrics`.

use anyhow::{Context as _, Result};
use dmaplane::terminal;
use dmaplane_observe::metrics;
use dmaplane_observe::state::{self, State};
use serde::Serialize;

use crate::output;

#[derive(Serialize)]
struct Report {
    counts: std::collections::BTreeMap<String, u64>,
    state: Option<State>,
}

/// Prints everything that can be counted.
pub(crate) fn run(json: bool) -> Result<()> {
    let counts = state::numbers("counts")
        .with_context(|| format!("no {}: is the module loaded?", state::SYSFS))?;
    let state = State::read();
    if let Err(error) = &state {
        terminal::note(format_args!(
            "dmaplane: only what everybody may see; {}: {error}. Endpoints and latencies need root and a mounted debugfs",
            state::DEBUGFS
        ));
    }
    let state = state.ok();
    if json {
        output::json(&Report { counts, state })
    } else {
        output::text(&metrics::render(&counts, state.as_ref()))
    }
}
