// SPDX-License-Identifier: MIT OR Apache-2.0

//! Placement: where pages are, as the driver says and as get_mempolicy(2) says.

use std::fs;
use std::ops::ControlFlow;

use dmaplane::topology::numa_nodes;
use dmaplane::{Buffer, Context, Errno, Placement};
use dmaplane_guest_tests::numa::{MIB, fill_up, nodes_with_memory, until_full};
use dmaplane_guest_tests::refusal;
use dmaplane_observe::tracefs::Recording;
use dmaplane_testkit::{ErrorContext as _, Result, Topology, ensure, pattern, sys, test};

/// Fails unless driver and get_mempolicy(2) see each page of the buffer on `node`.
fn all_on(buffer: &Buffer, page_bytes: u32, node: u32) -> Result<()> {
    let pages = buffer.len() / u64::from(page_bytes);
    let residency = buffer.residency()?;
    for (id, count) in residency.pages_by_node.iter().enumerate() {
        let wanted = if id == node as usize { pages } else { 0 };
        ensure!(
            *count == wanted,
            "{residency:?}, but node {node} was asked for"
        );
    }
    ensure!(residency.misplaced_pages == 0, "{residency:?}");
    // Every page is touched first: get_mempolicy sees mapped pages only.
    pattern::fill_memory(buffer, 0, buffer.len(), u64::from(node), 0);
    let seen = sys::page_nodes(
        buffer.as_ptr(),
        usize::try_from(pages)?,
        page_bytes as usize,
    )?;
    let wrong = seen.iter().position(|id| *id != node);
    ensure!(
        wrong.is_none(),
        "page {wrong:?} of node {node}'s buffer is elsewhere"
    );
    ensure!(pattern::mismatch_in_memory(buffer, 0, buffer.len(), u64::from(node), 0).is_none());
    Ok(())
}

#[test]
fn numa_each_node() {
    test(|guest| {
        let context = Context::open()?;
        let page_bytes = context.limits().page_bytes;
        let nodes = nodes_with_memory()?;
        let expected = match guest.topology {
            Topology::Numa2 => 2,
            Topology::Numa4 => 4,
            _ => 1,
        };
        ensure!(nodes.len() == expected, "nodes with memory: {nodes:?}");
        let mut buffers = Vec::new();
        for node in &nodes {
            for placement in [Placement::Strict(node.id), Placement::Preferred(node.id)] {
                // An odd number of pages, so that no folio size divides it.
                let bytes = guest.pick(8, 2) * MIB + 4096;
                let buffer = Buffer::create(&context, bytes, placement)?;
                all_on(&buffer, page_bytes, node.id).with_context(|| format!("{placement:?}"))?;
                buffers.push((buffer, node.id));
            }
        }
        // All of them live now: none has taken another's place.
        for (buffer, id) in &buffers {
            let wrong = pattern::mismatch_in_memory(buffer, 0, buffer.len(), u64::from(*id), 0);
            ensure!(
                wrong.is_none(),
                "byte {wrong:?} of node {id}'s buffer was overwritten"
            );
        }
        Ok(())
    });
}

#[test]
fn numa_any_counts_every_page() {
    test(|_| {
        let context = Context::open()?;
        let buffer = Buffer::create(&context, 3 * MIB, Placement::Any)?;
        let residency = buffer.residency()?;
        let pages: u64 = residency.pages_by_node.iter().sum();
        ensure!(pages == 3 * MIB / 4096, "{residency:?}");
        ensure!(residency.pages_by_node.len() == context.limits().node_ids as usize);
        Ok(())
    });
}

#[test]
fn numa_bad_nodes() {
    test(|_| {
        let context = Context::open()?;
        let ids = context.limits().node_ids;
        for node in [ids, ids + 1, 1000, u32::MAX] {
            for placement in [Placement::Strict(node), Placement::Preferred(node)] {
                let errno = refusal(Buffer::create(&context, 4096, placement))?;
                ensure!(errno == Errno::INVAL, "{placement:?}: {errno}");
            }
        }
        for node in numa_nodes()?.iter().filter(|node| node.total_bytes == 0) {
            let errno = refusal(Buffer::create(&context, 4096, Placement::Strict(node.id)))?;
            ensure!(
                errno == Errno::INVAL,
                "node {} without memory: {errno}",
                node.id
            );
        }
        Ok(())
    });
}

fn out_of_memory_kills() -> Result<u64> {
    let text = fs::read_to_string("/proc/vmstat")?;
    let kills = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    kills
        .context("vmstat has no oom_kill")?
        .parse()
        .context("oom_kill is no number")
}

#[test]
fn numa_strict_fails_and_preferred_spills_on_a_full_node() {
    test(|guest| {
        guest.require(
            &[Topology::Numa2, Topology::Numa4],
            "filling the only node kills the guest",
        )?;
        let context = Context::open()?;
        let nodes = nodes_with_memory()?;
        let node = nodes.last().context("a node")?;
        let full = node.id;
        let other = nodes.first().context("a node")?.id;
        let kills = out_of_memory_kills()?;

        let mut buffers = fill_up(&context, full)?;
        let bytes: u64 = buffers.iter().map(Buffer::len).sum();
        ensure!(bytes > 64 * MIB, "node {full} gave {bytes} bytes only");
        for buffer in &buffers {
            let pages = buffer.residency()?.pages_by_node[full as usize];
            ensure!(pages * 4096 == buffer.len(), "a strict buffer spilled");
        }

        let recording = Recording::start(&["buffer_misplaced"])?;
        let mut spilled = 0;
        until_full(node, &mut buffers, || {
            let buffer = Buffer::create(&context, 64 * MIB, Placement::Preferred(full))?;
            let residency = buffer.residency()?;
            let elsewhere = residency.pages_by_node.iter().sum::<u64>()
                - residency.pages_by_node[full as usize];
            ensure!(residency.misplaced_pages == elsewhere, "{residency:?}");
            spilled = elsewhere;
            Ok(match elsewhere {
                0 => ControlFlow::Continue(buffer),
                _ => ControlFlow::Break(()),
            })
        })?;
        // One event, for the one buffer that is not where it should be.
        let events = recording.events()?;
        let pages: Vec<_> = events.iter().map(|event| event.number("pages")).collect();
        ensure!(pages == [Some(spilled)], "{events:?}");

        Buffer::create(&context, 4 * MIB, Placement::Strict(other)).context("the other node")?;
        drop(buffers);
        Buffer::create(&context, 4 * MIB, Placement::Strict(full)).context("after all is freed")?;
        ensure!(
            out_of_memory_kills()? == kills,
            "the kernel killed a process"
        );
        Ok(())
    });
}
