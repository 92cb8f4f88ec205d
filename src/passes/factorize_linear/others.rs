//! Weights of others than layers: tables that Gather looks up rows of, alone or with heads that share them, and what recurrent
//! layers make of their inputs.

use crate::analysis::cost::{Cost, batch_symbol};
use crate::analysis::readers::{self, Reader};
use crate::ir::names::derived;
use crate::ir::op::Role;
use crate::ir::op::gather::Gather;
use crate::ir::op::gemm::{Gemm, MatMul};
use crate::ir::op::transpose::Transpose;
use crate::ir::{Graph, NodeId, Op, Patch, Ref, Use, ValueId};
use crate::math::Rank;
use crate::passes::budget::Budget;
use crate::passes::split::{self, WeightMatrix, factorize};
use crate::passes::{Choice, Offer, Offers, Site};
use ndarray::{Array2, ArrayView2};

/// A weight that can be split, seen as a matrix.
pub struct Other<'a> {
    value: ValueId,
    weight: WeightMatrix<'a>,
    rows: usize,
    columns: usize,
    used_by: WeightUse,
}

/// Who reads a weight.
enum WeightUse {
    /// Nodes that look up rows, and layers that multiply by the same table, transposed: a head that shares it.
    Table(Vec<NodeId>, Vec<TiedHead>),
    /// A node that sums over the columns.
    Recurrent(NodeId),
}

/// A layer that multiplies by a transposed table.
enum TiedHead {
    /// As it is, transposed by the layer.
    Gemm(NodeId),
    /// As a node transposes it.
    MatMul(NodeId),
}

impl TiedHead {
    fn node(&self) -> NodeId {
        let (TiedHead::Gemm(n) | TiedHead::MatMul(n)) = *self;
        n
    }
}

/// The weights that such nodes read, in the order in which they are read: others than layers, at least among others.
pub fn values(graph: &Graph) -> Vec<ValueId> {
    let other = |r: &Reader| matches!(r.role, Role::Table | Role::Recurrent);
    let shared = |r: &Reader| matches!(r.role, Role::Table | Role::Layer);
    let ours = |v: &ValueId| {
        readers::readers(graph, *v).is_ok_and(|r| r.iter().any(other) && (r.iter().all(other) || r.iter().all(shared)))
    };
    readers::constants(graph).into_iter().filter(ours).collect()
}

impl<'a> Other<'a> {
    /// The weight at a site.
    ///
    /// # Errors
    /// Why it stays whole.
    pub fn at(graph: &'a Graph, site: &Site, min_side: usize) -> Result<Other<'a>, String> {
        let Site::Weight(value) = *site else { return Err("it is not a layer".into()) };
        let (used_by, node, slot) = used_by(graph, value)?;
        let weight = WeightMatrix::at(graph, node, slot)?;
        let (rows, columns) = match (weight.tensor.shape(), &used_by) {
            (&[rows, columns], _) => (rows, columns),
            (&[directions, gates, columns], WeightUse::Recurrent(_)) => (directions * gates, columns),
            (_, WeightUse::Table(..)) => return Err("its entries are no vectors".into()),
            (_, WeightUse::Recurrent(_)) => return Err("it is no matrix".into()),
        };
        if rows.min(columns) < min_side {
            return Err(format!("it is {rows} × {columns}, narrower than `min-side` = {min_side}"));
        }
        Ok(Other { value, weight, rows, columns, used_by })
    }

    fn matrix(&self) -> Result<ArrayView2<'_, f32>, String> {
        ArrayView2::from_shape((self.rows, self.columns), &self.weight.data).map_err(|e| e.to_string())
    }

    /// Why so many terms are no gain, as far as that takes little to find out.
    pub fn no_gain(&self, rank: Rank) -> Option<String> {
        split::no_gain(rank, self.rows, self.columns, &self.weight)
    }

    /// Two factors in place of the weight, and how that reads in a report.
    ///
    /// # Errors
    /// Why they are no gain.
    pub fn split(&self, graph: &Graph, rank: Rank) -> Result<(Patch, String), String> {
        let (factors, what) = factorize(rank, self.matrix()?, &self.weight)?;
        let name = &graph.value(self.value).name;
        let mut patch = Patch::at_value(graph, self.value);
        let tensor = |shape: &[usize], f: &Array2<f32>| self.weight.like(shape, f.iter().copied());
        let (left, right) = (factors.left, factors.right);
        match &self.used_by {
            WeightUse::Table(nodes, heads) => {
                let thin = patch.constant_named(derived(name, "down"), tensor(left.shape(), &left));
                let wide = patch.constant_named(derived(name, "up"), tensor(right.shape(), &right));
                for &n in nodes {
                    let (Some(ids), Some(y)) = (graph.input(n, 1), graph.output(n)) else {
                        return Err("a node that looks up its rows is incomplete".into());
                    };
                    let label = graph.label(n);
                    let lookup = [Some(thin), Some(Ref::Old(ids))];
                    let rows = patch.node_named(&derived(label, "down"), Gather::default(), &lookup);
                    let all = patch.node_named(&derived(label, "up"), MatMul, &[Some(rows), Some(wide)]);
                    patch.replace(y, all);
                }
                for head in heads {
                    head.split(graph, &mut patch, thin, wide)?;
                }
            }
            WeightUse::Recurrent(n) => {
                let shape = [&self.weight.tensor.shape()[..2], &[left.ncols()]].concat();
                let up = patch.constant_named(derived(name, "up"), tensor(&shape, &left));
                let right = right.reversed_axes();
                let down = patch.constant_named(derived(name, "down"), tensor(right.shape(), &right));
                let mut inputs: Vec<_> = graph.node_inputs(*n).into_iter().map(|v| v.map(Ref::Old)).collect();
                let label = derived(graph.label(*n), "down");
                inputs[0] = Some(patch.node_named(&label, MatMul, &[inputs[0], Some(down)]));
                inputs[1] = Some(up);
                patch.set_inputs(*n, &inputs);
            }
        }
        Ok((patch, what))
    }

    /// What each rank costs and loses; nothing is lost where any loss will do.
    ///
    /// # Errors
    /// Why there is nothing to choose.
    pub fn offers(&self, sized: &Graph, budget: Option<Budget>, any: bool) -> Result<Offers, String> {
        let (whole, term) = (self.weight.tensor.len(), self.rows + self.columns);
        let (before, after) = match (&self.used_by, budget) {
            (WeightUse::Table(_, heads), Some(Budget::Macs(_))) if heads.is_empty() => {
                return Err("rows of it are looked up: factors take more multiply-accumulates, not fewer".into());
            }
            (WeightUse::Table(nodes, heads), _) => {
                let looked = nodes.iter().map(|&n| positions(sized, sized.input(n, 1)?, 0)).sum::<Option<u64>>();
                let fed = heads.iter().map(|h| positions(sized, sized.input(h.node(), 0)?, 1)).sum::<Option<u64>>();
                let after = looked.zip(fed).map(|(looked, fed)| looked * self.columns as u64 + fed * term as u64);
                (fed.map(|fed| fed * whole as u64), after)
            }
            (WeightUse::Recurrent(n), _) => {
                let steps = sized.input(*n, 0).and_then(|x| positions(sized, x, 1));
                (steps.map(|p| p * whole as u64), steps.map(|p| p * term as u64))
            }
        };
        let width = self.weight.tensor.byte_len() / whole.max(1);
        let cost = |parameters: usize, macs| {
            let stored = (parameters * width) as u64;
            Cost { parameters: parameters as u64, macs, stored }
        };
        let full = self.rows.min(self.columns);
        let lost = if any { Some(vec![0.0; full + 1]) } else { split::plain_lost(self.matrix()?) };
        let lost = lost.ok_or(split::NO_SVD)?;
        let ranks = lost.iter().enumerate().skip(1).take_while(|(rank, _)| rank * term < whole);
        let offer = |(rank, &loss): (usize, &f64)| Offer {
            choice: Choice::LowRank(rank),
            cost: cost(rank * term, after.map(|a| a * rank as u64)),
            loss,
        };
        Ok(Offers { whole: cost(whole, before), list: ranks.map(offer).collect() })
    }
}

impl TiedHead {
    /// Two products in the place of one: by the wide factor, then by the thin one, both transposed.
    fn split(&self, graph: &Graph, patch: &mut Patch, thin: Ref, wide: Ref) -> Result<(), String> {
        let n = self.node();
        let (Some(x), Some(y)) = (graph.input(n, 0), graph.output(n)) else {
            return Err("a layer that shares it is incomplete".into());
        };
        let label = graph.label(n);
        let all = match (self, &graph.node(n).op) {
            (TiedHead::Gemm(_), Op::Gemm(gemm)) => {
                let first = Gemm { alpha: 1.0, beta: 1.0, ..gemm.clone() };
                let few = patch.node_named(&derived(label, "down"), first, &[Some(Ref::Old(x)), Some(wide)]);
                let second = Gemm { trans_a: false, ..gemm.clone() };
                let inputs: Vec<_> =
                    [Some(few), Some(thin)].into_iter().chain(graph.input(n, 2).map(|b| Some(Ref::Old(b)))).collect();
                patch.node_named(&derived(label, "up"), second, &inputs)
            }
            _ => [("down", wide), ("up", thin)].into_iter().fold(Ref::Old(x), |data, (suffix, factor)| {
                let turned = patch.node_named(&derived(label, &format!("{suffix}.turned")), turn(), &[Some(factor)]);
                patch.node_named(&derived(label, suffix), MatMul, &[Some(data), Some(turned)])
            }),
        };
        patch.replace(y, all);
        Ok(())
    }
}

fn turn() -> Transpose {
    Transpose { perm: vec![1, 0] }
}

/// The products by what a node makes of a table, if it transposes it and nothing else reads that.
fn products(graph: &Graph, n: NodeId) -> Option<Vec<TiedHead>> {
    let Op::Transpose(op) = &graph.node(n).op else { return None };
    let y = graph.output(n).filter(|&y| op.order(2).is_ok_and(|o| o == [1, 0]) && !graph.is_held(y))?;
    let product = |u: Use| match u {
        Use::Input(m, 1) if matches!(graph.node(m).op, Op::MatMul(_)) && !graph.node(m).inconsistent => {
            Some(TiedHead::MatMul(m))
        }
        _ => None,
    };
    graph.uses(y).into_iter().map(product).collect()
}

/// What reads a weight, with the first node and the slot where it does.
fn used_by(graph: &Graph, value: ValueId) -> Result<(WeightUse, NodeId, usize), String> {
    if graph.is_held(value) {
        return Err("it is an output of the model, or named outside the graph".into());
    }
    let uses = graph.uses(value);
    let (mut places, mut heads) = (Vec::new(), Vec::new());
    for u in &uses {
        let n = u.node();
        let (kind, label) = (graph.node(n).kind(), graph.label(n));
        let Use::Input(_, slot) = *u else {
            return Err(format!("a body of {kind} \"{label}\" reads it: factors would have to be there, too"));
        };
        if graph.node(n).inconsistent {
            return Err("the file contradicts the operator's definition here".into());
        }
        if let Some(products) = products(graph, n) {
            heads.extend(products);
            continue;
        }
        match &graph.node(n).op {
            Op::Gather(op) if op.axis == 0 && slot == 0 => {}
            Op::Gemm(op) if slot == 1 && op.trans_b && graph.opset >= 11 => {
                heads.push(TiedHead::Gemm(n));
                continue;
            }
            Op::Gather(_) => return Err(format!("Gather \"{label}\" looks up columns of it, not rows")),
            Op::Rnn(_) if slot == 1 && uses.len() == 1 => {}
            Op::Rnn(_) if slot == 1 => return Err(format!("several nodes share it, {kind} \"{label}\" among them")),
            Op::Rnn(_) => {
                return Err(format!(
                    "{kind} \"{label}\" feeds its hidden units back through it and takes it whole; `prune-channels` \
                     makes it smaller"
                ));
            }
            _ => {
                return Err(format!(
                    "{kind} \"{label}\" gives it another form first, which `clean` may do once for all"
                ));
            }
        }
        places.push((n, slot));
    }
    let &(first, slot) = places.first().ok_or("nothing reads it")?;
    match graph.node(first).op {
        Op::Rnn(_) => Ok((WeightUse::Recurrent(first), first, slot)),
        _ => Ok((WeightUse::Table(places.into_iter().map(|p| p.0).collect(), heads), first, slot)),
    }
}

/// Elements of a value but for its last `less` axes, for one sample, if that is known.
fn positions(sized: &Graph, value: ValueId, less: usize) -> Option<u64> {
    let batch = batch_symbol(sized);
    let dims = &sized.value(value).ty.as_ref()?.shape()?.0;
    dims[..dims.len().checked_sub(less)?].iter().try_fold(1u64, |all, d| all.checked_mul(d.of_one(batch.as_ref())?))
}
