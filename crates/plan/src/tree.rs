use std::ops::Range;

/// A place in the one tree over a batch's slots: it covers `2^level` slots from `index * 2^level` on, as far as there are any.
///
/// The tree depends on the number of slots alone. What is summed along it comes out the same, to the bit, whoever summed which
/// part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node {
    level: u32,
    index: u32,
}

impl Node {
    /// The leaf of one slot.
    pub fn leaf(slot: u32) -> Self {
        Self {
            level: 0,
            index: slot,
        }
    }

    /// The slots that it covers, of `slots` in all.
    pub fn covers(self, slots: u32) -> Range<u32> {
        let bound = |index: u64| (index << self.level).min(u64::from(slots));
        let (start, end) = (bound(self.index.into()), bound(u64::from(self.index) + 1));
        // Neither is above `slots`.
        start as u32..end as u32
    }

    fn parent(self) -> Self {
        Self {
            level: self.level + 1,
            index: self.index / 2,
        }
    }

    fn sibling(self) -> Self {
        Self {
            level: self.level,
            index: self.index ^ 1,
        }
    }
}

/// Sums the values of a run of slots along the tree, as far as the run alone can: what is left are the largest nodes within it.
#[derive(Clone, Debug)]
pub struct TreeSum<T> {
    slots: u32,
    run: Range<u32>,
    parts: Vec<(Node, T)>,
}

impl<T> TreeSum<T> {
    /// Of the slots `run`, of `slots` in all.
    pub fn new(slots: u32, run: Range<u32>) -> Self {
        Self {
            slots,
            run,
            parts: Vec::new(),
        }
    }

    /// Adds the next node's value; nodes come from left to right, none left out. `add` gets a left and a right sum.
    ///
    /// # Errors
    /// Those of `add`; nothing can be added any more then.
    pub fn push<E>(
        &mut self,
        mut node: Node,
        mut value: T,
        mut add: impl FnMut(T, T) -> Result<T, E>,
    ) -> Result<(), E> {
        loop {
            let parent = node.parent().covers(self.slots);
            let is_within = parent.start >= self.run.start && parent.end <= self.run.end;
            if node.covers(self.slots) == (0..self.slots) || !is_within {
                break;
            }
            let is_right = node.index % 2 == 1;
            if is_right {
                match self.parts.pop_if(|(last, _)| *last == node.sibling()) {
                    Some((_, left)) => value = add(left, value)?,
                    None => break,
                }
            } else if !node.sibling().covers(self.slots).is_empty() {
                break;
            }
            // A left child without a sibling is its parent.
            node = node.parent();
        }
        self.parts.push((node, value));
        Ok(())
    }

    /// What the run's slots sum up to, from left to right.
    pub fn into_parts(self) -> Vec<(Node, T)> {
        self.parts
    }
}

/// The nodes that a run of slots sums up to.
pub fn tree_nodes(slots: u32, run: Range<u32>) -> Vec<Node> {
    let mut sum = TreeSum::new(slots, run.clone());
    for slot in run {
        let pushed = sum.push(Node::leaf(slot), (), |(), ()| {
            Ok::<_, std::convert::Infallible>(())
        });
        match pushed {
            Ok(()) => {}
            Err(never) => match never {},
        }
    }
    sum.into_parts()
        .into_iter()
        .map(|(node, ())| node)
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    fn add(left: String, right: String) -> Result<String, Infallible> {
        Ok(format!("({left}+{right})"))
    }

    /// The sum of a range by the tree's definition: halves, the left one the largest power of two below it.
    fn by_definition(range: Range<u32>) -> String {
        let length = range.end - range.start;
        if length == 1 {
            return range.start.to_string();
        }
        let half = range.start + length.next_power_of_two() / 2;
        let (left, right) = (
            by_definition(range.start..half),
            by_definition(half..range.end),
        );
        format!("({left}+{right})")
    }

    /// As ranks do: each sums its run, and the parts are summed along the same tree.
    fn by_ranks(slots: u32, cuts: &[u32]) -> (String, usize) {
        let ends = cuts.iter().copied().chain([slots]);
        let starts = [0].into_iter().chain(cuts.iter().copied());
        let mut all = TreeSum::new(slots, 0..slots);
        let mut most = 0;
        for run in starts.zip(ends).map(|(start, end)| start..end) {
            let mut mine = TreeSum::new(slots, run.clone());
            for slot in run.clone() {
                mine.push(Node::leaf(slot), slot.to_string(), add).unwrap();
            }
            most = most.max(mine.parts.len());
            let nodes: Vec<_> = mine.parts.iter().map(|(node, _)| *node).collect();
            assert_eq!(nodes, tree_nodes(slots, run));
            for (node, part) in mine.into_parts() {
                all.push(node, part, add).unwrap();
            }
        }
        let mut parts = all.into_parts();
        assert_eq!(parts.len(), 1);
        (parts.remove(0).1, most)
    }

    #[test]
    fn an_aligned_run_is_one_part() {
        assert_eq!(tree_nodes(8, 4..8), [Node { level: 2, index: 1 }]);
        assert_eq!(tree_nodes(8, 0..8), [Node { level: 3, index: 0 }]);
        assert_eq!(tree_nodes(6, 4..6).len(), 1);
        assert_eq!(tree_nodes(8, 1..7).len(), 4);
        assert_eq!(tree_nodes(1, 0..1), [Node { level: 0, index: 0 }]);
    }

    proptest! {
        #[test]
        fn however_slots_are_dealt_the_same_is_added_to_the_same(
            slots in 1u32..70,
            cuts in prop::collection::btree_set(1u32..70, 0..9),
        ) {
            let cuts: Vec<_> = cuts.into_iter().filter(|cut| *cut < slots).collect();
            let (sum, most) = by_ranks(slots, &cuts);
            prop_assert_eq!(sum, by_definition(0..slots));
            // Up one side of the tree and down the other.
            prop_assert!(most <= 2 * (slots.ilog2() as usize + 1));
        }
    }
}
