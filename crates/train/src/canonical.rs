use std::ops::Range;

use muster_c10d::Group;
use muster_plan::{Node, TreeSum, tree_nodes};
use muster_types::BatchSlots;
use tch::{Device, Kind, TchError, Tensor};

use crate::StepError;

/// Sums the gradients of a batch's slots along one tree over them, whatever the ranks: the bits depend on the slots alone.
///
/// Each rank sums its own run of slots as far as the tree allows, to a few partial sums. Each rank then gets one slice of
/// everyone's partial sums (all-to-all), sums them up to the root, and gives the slice of the result to all (all-gather). Where
/// each rank's run is one node of the tree, that moves as many bytes as a ring's all-reduce.
///
/// G is the number of parameters, W the world size, S = ceil(G / W).
pub struct CanonicalSum {
    slots: u32,
    rank: usize,
    /// The parts that each rank's run sums up to, by rank.
    parts: Vec<Vec<Node>>,
    /// Where each parameter lies in a flat gradient, and its shape.
    layout: Vec<(Range<i64>, Vec<i64>)>,
    /// S.
    slice: i64,
    device: Device,
    sum: TreeSum<Tensor>,
    /// Flat gradients, [W * S], that are free.
    free: Vec<Tensor>,
}

impl CanonicalSum {
    /// For these parameters, and `dealt` slots: contiguous runs, by rank.
    pub fn new(parameters: &[Tensor], dealt: &[BatchSlots], rank: usize) -> Self {
        let mut at = 0;
        let layout = parameters.iter().map(|parameter| {
            let start = at;
            at += parameter.numel() as i64;
            (start..at, parameter.size())
        });
        let layout = layout.collect();
        let run = |slots: &BatchSlots| slots.first..slots.first + slots.count;
        let slots = dealt.iter().map(|slots| slots.count).sum();
        let own = dealt.get(rank).map_or(0..0, run);
        Self {
            slots,
            rank,
            parts: dealt.iter().map(|it| tree_nodes(slots, run(it))).collect(),
            layout,
            slice: (at + dealt.len() as i64 - 1) / dealt.len().max(1) as i64,
            device: parameters.first().map_or(Device::Cpu, Tensor::device),
            sum: TreeSum::new(slots, own),
            free: Vec::new(),
        }
    }

    /// Forgets what was added: a new step begins.
    pub fn begin(&mut self) {
        let run = self.own_run();
        let old = std::mem::replace(&mut self.sum, TreeSum::new(self.slots, run));
        self.free
            .extend(old.into_parts().into_iter().map(|(_, part)| part));
    }

    /// Adds one slot's gradients, in the order of the parameters; a rank's slots come in order.
    ///
    /// # Errors
    /// libtorch's.
    pub fn add(&mut self, slot: u32, gradients: &[Tensor]) -> Result<(), StepError> {
        let flat = match self.free.pop() {
            Some(flat) => flat,
            // Zeros where slices go beyond the last parameter.
            None => self.flat().map_err(StepError::torch("canonical sum"))?,
        };
        muster_ops::copy_(&self.views(&flat)?, gradients)?;
        let free = &mut self.free;
        let added = self.sum.push(Node::leaf(slot), flat, |left, right| {
            add_in_place(&left, &right)?;
            free.push(right);
            Ok(left)
        });
        added.map_err(StepError::torch("canonical sum"))
    }

    /// Sums what all ranks have added, and writes it to `gradients`. `group` is absent where there is one rank.
    ///
    /// # Errors
    /// [`StepError::Collective`], or libtorch's.
    pub fn finish(&mut self, group: Option<&Group>, gradients: &[Tensor]) -> Result<(), StepError> {
        let run = self.own_run();
        let own = std::mem::replace(&mut self.sum, TreeSum::new(self.slots, run));
        let own: Vec<_> = own.into_parts().into_iter().map(|(_, part)| part).collect();
        let summed = match (group, own.as_slice()) {
            (Some(group), own) => self.exchange(group, own)?,
            // Alone, a rank's run is the whole tree.
            (None, [root]) => root.shallow_clone(),
            (None, _) => {
                return Err(StepError::torch("canonical sum")(TchError::Shape(
                    "slots are missing".into(),
                )));
            }
        };
        muster_ops::copy_(gradients, &self.views(&summed)?)?;
        self.free.extend(own);
        Ok(())
    }

    fn exchange(&self, group: &Group, own: &[Tensor]) -> Result<Tensor, StepError> {
        let world = self.parts.len() as i64;
        let counts: Vec<i64> = self.parts.iter().map(|parts| parts.len() as i64).collect();
        let total: i64 = counts.iter().sum();
        let (input, output) = (|| {
            let sliced: Result<Vec<_>, _> = own
                .iter()
                .map(|part| part.f_view([world, self.slice]))
                .collect();
            // [W, own parts, S]: what each rank gets lies together.
            let input = Tensor::f_stack(&sliced?, 1)?.f_view([-1, self.slice])?;
            let output = Tensor::f_empty([total, self.slice], (Kind::Float, self.device))?;
            Ok((input, output))
        })()
        .map_err(StepError::torch("canonical sum"))?;
        let to = vec![own.len() as i64; self.parts.len()];
        group.all_to_all(&output, &input, &counts, &to)?;

        let mut sum = TreeSum::new(self.slots, 0..self.slots);
        let nodes = self.parts.iter().flatten();
        let added = nodes.zip(0i64..).try_for_each(|(node, row)| {
            sum.push(*node, output.f_select(0, row)?, |left, right| {
                add_in_place(&left, &right)?;
                Ok::<_, TchError>(left)
            })
        });
        added.map_err(StepError::torch("canonical sum"))?;
        let flat = self.flat().map_err(StepError::torch("canonical sum"))?;
        if let Some((_, slice)) = sum.into_parts().first() {
            group.all_gather_into(&flat, slice)?;
        }
        Ok(flat)
    }

    fn own_run(&self) -> Range<u32> {
        let covers = |node: &Node| node.covers(self.slots);
        let own = &self.parts[self.rank];
        match (own.first(), own.last()) {
            (Some(first), Some(last)) => covers(first).start..covers(last).end,
            _ => 0..0,
        }
    }

    /// A flat gradient, [W * S], of zeros.
    fn flat(&self) -> Result<Tensor, TchError> {
        let length = self.slice * self.parts.len() as i64;
        Tensor::f_zeros([length], (Kind::Float, self.device))
    }

    /// A flat gradient's part of each parameter, in its shape.
    fn views(&self, flat: &Tensor) -> Result<Vec<Tensor>, StepError> {
        let view = |(range, shape): &(Range<i64>, Vec<i64>)| {
            flat.f_narrow(0, range.start, range.end - range.start)?
                .f_view(shape.as_slice())
        };
        let views: Result<_, _> = self.layout.iter().map(view).collect();
        views.map_err(StepError::torch("canonical sum"))
    }
}

fn add_in_place(left: &Tensor, right: &Tensor) -> Result<(), TchError> {
    // The handle is another one on the same storage.
    left.shallow_clone().f_add_(right).map(drop)
}
