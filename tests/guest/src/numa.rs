// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the suites of placement share.

use std::ops::ControlFlow;
use std::time::Duration;

use dmaplane::topology::{NumaNode, numa_nodes};
use dmaplane::{Buffer, Context, Errno, Placement, Pool};
use dmaplane_testkit::{Result, bail, ensure, frames, pattern, poll, sys};

/// Bytes of a MiB.
pub const MIB: u64 = 1 << 20;
/// Bytes of a page.
pub const PAGE: u64 = 4096;

/// The nodes that have memory, by id.
///
/// # Errors
/// When sysfs cannot be read.
pub fn nodes_with_memory() -> Result<Vec<NumaNode>> {
    let mut nodes = numa_nodes()?;
    nodes.retain(|node| node.total_bytes > 0);
    Ok(nodes)
}

/// The node of each page, as get_mempolicy(2) says. Touches all of them, with `tag` in their contents.
///
/// # Errors
/// When the call fails.
pub fn page_nodes(buffer: &Buffer, tag: u64) -> Result<Vec<u32>> {
    // Every page is touched first: get_mempolicy sees mapped pages only.
    pattern::fill_memory(buffer, 0, buffer.len(), tag, 0);
    sys::page_nodes(buffer.as_ptr(), pages(buffer), 4096)
}

/// Waits until a pool has `wanted` parts taken: an operation releases its part only after its completion is visible.
///
/// # Errors
/// When it never has.
pub fn carved(pool: &Pool, wanted: u32, limit: Duration) -> Result<()> {
    let seen = poll::until(limit, || Ok((pool.query()?.carved == wanted).then_some(())))?;
    ensure!(
        seen.is_some(),
        "not {wanted} parts taken, but {:?}",
        pool.query()?
    );
    Ok(())
}

/// The buffer's pages.
pub fn pages(buffer: &Buffer) -> usize {
    usize::try_from(buffer.len() / PAGE).unwrap_or(usize::MAX)
}

/// Fails unless driver and get_mempolicy(2) agree on every page's node, and on how many pages are not on the node that
/// `wanted` gives for their index. Returns that number.
///
/// # Errors
/// What they disagree on.
pub fn misses(buffer: &Buffer, wanted: impl Fn(usize) -> Option<u32>) -> Result<u64> {
    let seen = page_nodes(buffer, 1)?;
    let residency = buffer.residency()?;
    let mut by_node = vec![0; residency.pages_by_node.len()];
    let mut misses = 0;
    for (page, node) in seen.iter().enumerate() {
        by_node[*node as usize] += 1;
        misses += u64::from(wanted(page).is_some_and(|wanted| wanted != *node));
    }
    ensure!(
        by_node == residency.pages_by_node,
        "the kernel sees {by_node:?}, the driver {residency:?}"
    );
    ensure!(
        residency.misplaced_pages == misses,
        "{misses} pages are elsewhere: {residency:?}"
    );
    let mut misplaced = 0;
    for (node, pages) in by_node.iter().enumerate() {
        let folios = buffer.folios(u32::try_from(node)?)?;
        ensure!(
            folios.pages_by_order.iter().sum::<u64>() == *pages,
            "{folios:?} of {pages} pages"
        );
        misplaced += folios.misplaced_pages;
    }
    ensure!(
        misplaced == misses,
        "{misplaced} misplaced by node, {misses} in all"
    );
    Ok(misses)
}

/// Fails unless the driver's report of orders is what the kernel says of the pages' frames. Gives pages by order, and those
/// in smaller folios than there was room for.
///
/// # Errors
/// What they disagree on.
pub fn orders(buffer: &Buffer) -> Result<(Vec<u64>, u64)> {
    pattern::fill_memory(buffer, 0, buffer.len(), 2, 0);
    let mut wanted = frames::by_order(&frames::of(buffer.as_ptr(), pages(buffer))?)?;
    let mut reported = Vec::new();
    let mut small = 0;
    for node in 0..buffer.residency()?.pages_by_node.len() {
        let folios = buffer.folios(u32::try_from(node)?)?;
        reported.resize(folios.pages_by_order.len(), 0);
        for (sum, pages) in reported.iter_mut().zip(&folios.pages_by_order) {
            *sum += pages;
        }
        small += folios.small_pages;
    }
    let beyond: u64 = wanted.split_off(reported.len()).iter().sum();
    ensure!(
        reported == wanted && beyond == 0,
        "the kernel sees {wanted:?}, the driver {reported:?}"
    );
    Ok((reported, small))
}

/// Strict buffers until the node gives no more, in ever smaller pieces.
///
/// # Errors
/// When a buffer is refused for another reason than want of memory.
pub fn fill_up(context: &Context, node: u32) -> Result<Vec<Buffer>> {
    let mut buffers = Vec::new();
    for piece in [64 * MIB, 16 * MIB, 4 * MIB, MIB] {
        fill(context, node, piece, &mut buffers)?;
    }
    Ok(buffers)
}

/// Strict buffers of one size until the node gives no more.
///
/// # Errors
/// As [`fill_up`].
pub fn fill(context: &Context, node: u32, piece: u64, buffers: &mut Vec<Buffer>) -> Result<()> {
    loop {
        match Buffer::create(context, piece, Placement::Strict(node)) {
            Ok(buffer) => buffers.push(buffer),
            Err(error) if error.errno() == Some(Errno::NOMEM) => return Ok(()),
            Err(error) => bail!("instead of ENOMEM: {error}"),
        }
    }
}

/// Tries on a node that was filled up until an attempt ends with `Break`: whatever the node still had room for is kept,
/// in `filled`. A node that gives no more may give more a little later: the kernel keeps up to an eighth of it as free
/// pages on lists of each processor, which neither it nor [`fill_up`] sees until those of another processor are
/// drained.
///
/// # Errors
/// What an attempt fails with, and when the node gave more than it has.
pub fn until_full<T>(
    node: &NumaNode,
    filled: &mut Vec<Buffer>,
    mut attempt: impl FnMut() -> Result<ControlFlow<T, Buffer>>,
) -> Result<T> {
    let mut more = 0;
    loop {
        match attempt()? {
            ControlFlow::Break(done) => return Ok(done),
            ControlFlow::Continue(buffer) => {
                let pages = buffer.residency()?.pages_by_node[node.id as usize];
                ensure!(pages > 0, "nothing of it is on node {}", node.id);
                more += pages * PAGE;
                ensure!(
                    more < node.total_bytes,
                    "a full node took {more} bytes more: {node:?}"
                );
                filled.push(buffer);
            }
        }
    }
}
