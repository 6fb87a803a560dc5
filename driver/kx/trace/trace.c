// SPDX-License-Identifier: GPL-2.0-only
/* Defines the trace events and what Rust calls to emit them. */
#define CREATE_TRACE_POINTS
#define CREATE_RUST_TRACE_POINTS
#include "dmaplane_trace.h"
