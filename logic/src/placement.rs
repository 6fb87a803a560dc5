// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Which node each page of a buffer is wanted on.

/// Cuts a row of pages into units that take turns among nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turns {
    unit_order: u32,
    nodes: usize,
}

impl Turns {
    /// Turns of `count` pages among `nodes` nodes: the unit is the largest power of two of pages that gives each node
    /// one, at most of order `max_order`. One node has all turns.
    pub const fn new(count: usize, nodes: usize, max_order: u32) -> Self {
        let share = match count.checked_div(nodes) {
            Some(share) => share,
            None => 0,
        };
        let unit_order = match share.checked_ilog2() {
            Some(order) if order < max_order => order,
            Some(_) => max_order,
            None => 0,
        };
        Self { unit_order, nodes }
    }

    /// Order of a unit.
    pub const fn unit_order(self) -> u32 {
        self.unit_order
    }

    /// The node whose turn a page is, as an index into the row of nodes, and the first page of the next turn. With
    /// fewer than two nodes there is one turn without an end.
    pub const fn turn(self, page: usize) -> (usize, usize) {
        if self.nodes < 2 {
            return (0, usize::MAX);
        }
        let turn = page >> self.unit_order;
        let next = match turn.checked_add(1) {
            Some(next) if next <= usize::MAX >> self.unit_order => next << self.unit_order,
            _ => usize::MAX,
        };
        match turn.checked_rem(self.nodes) {
            Some(place) => (place, next),
            None => (0, next),
        }
    }
}

/// The nearest of some nodes by their distances, the first of equals.
pub fn nearest(distances: impl Iterator<Item = (i32, i32)>) -> Option<i32> {
    distances
        .min_by_key(|(_, distance)| *distance)
        .map(|(node, _)| node)
}
