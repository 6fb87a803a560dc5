// SPDX-License-Identifier: GPL-2.0-only

//! The folder `state` in the driver's debugfs folder: a line of `name=value` pairs for each live object.

use super::list;
use crate::{
    logic::histogram::BUCKETS,
    observe::{Kind, Stage, ENABLED},
};
use kernel::{
    debugfs::{Dir, Scope},
    fmt,
    prelude::*,
};

/// The data of the files, all of which is global.
pub(crate) struct State;

static STATE: State = State;

fn contexts(_: &State, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    list::each(|context| context.show(f))
}

fn buffers(_: &State, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    list::each(|context| context.show_buffers(f))
}

fn pools(_: &State, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    list::each(|context| context.show_pools(f))
}

fn regions(_: &State, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    list::each(|context| context.show_regions(f))
}

fn endpoints(_: &State, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    list::each(|context| {
        context.each_shown_endpoint(|handle, endpoint| {
            write!(f, "context={} handle={handle} ", context.serial())?;
            endpoint.show(f)
        })
    })
}

fn credits(_: &State, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    list::each(|context| context.each_shown_endpoint(|_, endpoint| endpoint.show_credits(f)))
}

fn grants(_: &State, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    list::each(|context| context.each_shown_endpoint(|_, endpoint| endpoint.show_grants(f)))
}

fn operations(_: &State, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    list::each(|context| {
        context.each_shown_endpoint(|_, endpoint| endpoint.show_operations(f))?;
        context.show_watches(f)
    })
}

fn totals(_: &State, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    list::each(|context| {
        context.each_shown_endpoint(|_, endpoint| {
            let record = endpoint.record();
            for (kind, name) in Kind::each() {
                let (ended, failed, bytes) = record.totals(kind);
                if ended > 0 {
                    let serial = record.serial();
                    write!(f, "endpoint={serial} op={name} ended={ended}")?;
                    writeln!(f, " failed={failed} bytes={bytes}")?;
                }
            }
            Ok(())
        })
    })
}

fn histograms(_: &State, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    // Allocated once for all endpoints; too large for the stack.
    let Ok(mut counts) = KBox::new([0u64; BUCKETS], GFP_KERNEL) else {
        return writeln!(f, "no memory");
    };
    list::each(|context| {
        context.each_shown_endpoint(|_, endpoint| {
            let record = endpoint.record();
            for (kind, name) in Kind::each() {
                for (stage, stage_name) in Stage::ALL {
                    if !record.has_latencies(kind, stage) {
                        continue;
                    }
                    counts.fill(0);
                    let all = record.latencies(kind, stage, false, &mut counts);
                    let serial = record.serial();
                    write!(f, "endpoint={serial} op={name} stage={stage_name}")?;
                    write!(
                        f,
                        " count={} p50_ns={} p99_ns={}",
                        all.count, all.p50, all.p99
                    )?;
                    write!(
                        f,
                        " p999_ns={} max_ns={} lost={}",
                        all.p999,
                        all.max,
                        record.lost()
                    )?;
                    // Lets a reader compute what was counted between two readings.
                    write!(f, " buckets=")?;
                    let counted = counts.iter().enumerate().filter(|(_, count)| **count != 0);
                    for (nth, (bucket, count)) in counted.enumerate() {
                        let comma = if nth == 0 { "" } else { "," };
                        write!(f, "{comma}{bucket}:{count}")?;
                    }
                    writeln!(f)?;
                }
            }
            Ok(())
        })
    })
}

/// The folder, and the switch `histograms_enabled` in it: 0 stops the counting of latencies.
pub(crate) fn debugfs(dir: &Dir) -> impl PinInit<Scope<&'static State>> + '_ {
    dir.scope(&STATE, c"state", |state, dir| {
        let state: &'static State = state;
        dir.read_callback_file(c"contexts", state, &contexts);
        dir.read_callback_file(c"buffers", state, &buffers);
        dir.read_callback_file(c"pools", state, &pools);
        dir.read_callback_file(c"regions", state, &regions);
        dir.read_callback_file(c"endpoints", state, &endpoints);
        dir.read_callback_file(c"credits", state, &credits);
        dir.read_callback_file(c"grants", state, &grants);
        dir.read_callback_file(c"operations", state, &operations);
        dir.read_callback_file(c"totals", state, &totals);
        dir.read_callback_file(c"histograms", state, &histograms);
        dir.read_write_file(c"histograms_enabled", &ENABLED);
    })
}
