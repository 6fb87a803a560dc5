// SPDX-License-Identifier: GPL-2.0-only

//! What an open file holds, in /proc/PID/fdinfo/FD: `name: value` lines, each name beginning with `dmaplane-`.

use super::Context;
use kernel::seq_file::{seq_print, SeqFile};

/// Writes the lines of a context.
pub(super) fn fdinfo(context: &Context, file: &SeqFile) {
    let holds = context.holdings();
    seq_print!(file, "dmaplane-context:\t{}\n", context.serial());
    seq_print!(file, "dmaplane-buffers:\t{}\n", holds.buffers);
    seq_print!(file, "dmaplane-bytes:\t{}\n", holds.bytes);
    seq_print!(file, "dmaplane-pools:\t{}\n", holds.pools);
    seq_print!(file, "dmaplane-channels:\t{}\n", holds.channels);
    seq_print!(file, "dmaplane-listeners:\t{}\n", holds.listeners);
    seq_print!(file, "dmaplane-endpoints:\t{}\n", holds.endpoints);
    seq_print!(file, "dmaplane-grants:\t{}\n", holds.grants);
    seq_print!(file, "dmaplane-peer-grants:\t{}\n", holds.peer_grants);
}
