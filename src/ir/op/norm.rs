//! Normalization. (ONNX Operators: BatchNormalization, since 7, 9, 14, 15; InstanceNormalization, since 6, 22;
//! LayerNormalization, since 17; GroupNormalization, since 18, 21; RMSNormalization, since 23; LpNormalization, since 1,
//! 22; MeanVarianceNormalization, since 9, 13; LRN, since 1, 13.)

use crate::ir::attr::{Attr, AttrReader};
use crate::ir::infer::{Fact, Infer, axis};
use crate::ir::op::Operator;
use crate::ir::op::reshape::axes;
use crate::ir::shape::{DType, Dim, Shape};
use crate::ir::ties::{self, Change, Kept, Ties};

const EPSILON: f32 = 1e-5;

fn float(name: &str, value: f32, default: f32) -> Option<Attr> {
    (value != default).then(|| Attr::float(name, value))
}

fn int(name: &str, value: i64, default: i64) -> Option<Attr> {
    (value != default).then(|| Attr::int(name, value))
}

fn list<const N: usize>(attrs: [Option<Attr>; N]) -> Vec<Attr> {
    attrs.into_iter().flatten().collect()
}

/// Y = (X − mean) / √(var + epsilon) · scale + bias, by channel: inputs X[N, C, …], scale[C], bias[C], mean[C], var[C].
///
/// Below opset 14 a node with more than one output computes them and the statistics from the batch, as if `training`.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchNorm {
    pub epsilon: f32,
    pub momentum: f32,
    /// Statistics from the batch, not from the inputs (since 14).
    pub training: bool,
    /// One statistic a channel; else one for every element of a sample (below 9).
    pub spatial: bool,
}

impl Operator for BatchNorm {
    fn parse(_: &str, opset: i64, attrs: &mut AttrReader<'_>) -> Option<Self> {
        Some(BatchNorm {
            epsilon: attrs.float_or("epsilon", EPSILON),
            momentum: attrs.float_or("momentum", 0.9),
            training: opset >= 14 && attrs.flag("training_mode"),
            spatial: opset >= 9 || attrs.int_or("spatial", 1) != 0,
        })
    }

    fn op_type(&self) -> &'static str {
        "BatchNormalization"
    }

    fn attrs(&self, _: i64) -> Vec<Attr> {
        list([
            float("epsilon", self.epsilon, EPSILON),
            float("momentum", self.momentum, 0.9),
            int("spatial", self.spatial as i64, 1),
            int("training_mode", self.training as i64, 0),
        ])
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        let mut y = cx.shape(0).cloned();
        let mut statistics = None;
        for slot in 1..cx.n_inputs() {
            let Some(s) = cx.shape(slot) else { continue };
            if self.spatial && s.rank() != 1 {
                return Err(format!("input {slot} of shape {s} must have one number a channel"));
            }
            if let (true, Some(c)) = (self.spatial, y.as_mut().and_then(|x| x.0.get_mut(1))) {
                if !c.agrees(&s.0[0]) {
                    return Err(format!("input {slot} of shape {s} against {c} channels"));
                }
                *c = c.refine(&s.0[0]);
            }
            statistics = statistics.or_else(|| Some(s.clone()));
        }
        let dtype = cx.dtype(3).or(cx.dtype(0));
        let mut out = vec![Fact::tensor(cx.dtype(0), y)];
        out.resize(cx.n_outputs().max(1), Fact::tensor(dtype, statistics));
        Ok(out)
    }

    fn ties(&self, t: &mut dyn Ties) -> bool {
        if !self.spatial {
            return false;
        }
        ties::elementwise(t);
        (1..t.cx().n_inputs()).for_each(|slot| t.pass((slot, 0), (0, 1)));
        (1..t.cx().n_outputs()).for_each(|output| t.pass((0, 1), (output, 0)));
        true
    }
}

/// Normalization whose result has the type of its input, and nothing else.
#[derive(Debug, Clone, PartialEq)]
pub enum Norm {
    /// By sample and channel: inputs X[N, C, …], scale[C], bias[C].
    Instance { epsilon: f32 },
    /// By sample and group of channels: inputs X[N, C, …], scale, bias ([C]; one a group below opset 21).
    Group { epsilon: f32, groups: i64, stash: i64 },
    /// x / ‖x‖ₚ along an axis.
    Lp { axis: i64, p: i64 },
    /// (x − mean) / standard deviation over some axes.
    MeanVariance { axes: Vec<i64> },
    /// Local response normalization over `size` channels.
    Lrn { alpha: f32, beta: f32, bias: f32, size: i64 },
}

impl Operator for Norm {
    fn parse(op_type: &str, opset: i64, attrs: &mut AttrReader<'_>) -> Option<Self> {
        match op_type {
            "InstanceNormalization" => Some(Norm::Instance { epsilon: attrs.float_or("epsilon", EPSILON) }),
            "GroupNormalization" if opset >= 18 => {
                let stash = if opset >= 21 { attrs.int_or("stash_type", 1) } else { 1 };
                let groups = attrs.int("num_groups").filter(|&g| g > 0)?;
                Some(Norm::Group { epsilon: attrs.float_or("epsilon", EPSILON), groups, stash })
            }
            "LpNormalization" => Some(Norm::Lp { axis: attrs.int_or("axis", -1), p: attrs.int_or("p", 2) }),
            "MeanVarianceNormalization" if opset >= 9 => {
                Some(Norm::MeanVariance { axes: attrs.ints("axes").unwrap_or_else(|| vec![0, 2, 3]) })
            }
            "LRN" => Some(Norm::Lrn {
                alpha: attrs.float_or("alpha", 1e-4),
                beta: attrs.float_or("beta", 0.75),
                bias: attrs.float_or("bias", 1.0),
                size: attrs.int("size").filter(|&s| s > 0)?,
            }),
            _ => None,
        }
    }

    fn op_type(&self) -> &'static str {
        match self {
            Norm::Instance { .. } => "InstanceNormalization",
            Norm::Group { .. } => "GroupNormalization",
            Norm::Lp { .. } => "LpNormalization",
            Norm::MeanVariance { .. } => "MeanVarianceNormalization",
            Norm::Lrn { .. } => "LRN",
        }
    }

    fn attrs(&self, _: i64) -> Vec<Attr> {
        match self {
            Norm::Instance { epsilon } => list([float("epsilon", *epsilon, EPSILON)]),
            Norm::Group { epsilon, groups, stash } => list([
                float("epsilon", *epsilon, EPSILON),
                Some(Attr::int("num_groups", *groups)),
                int("stash_type", *stash, 1),
            ]),
            Norm::Lp { axis, p } => list([int("axis", *axis, -1), int("p", *p, 2)]),
            Norm::MeanVariance { axes } => list([(axes != &[0, 2, 3]).then(|| Attr::ints("axes", axes))]),
            Norm::Lrn { alpha, beta, bias, size } => list([
                float("alpha", *alpha, 1e-4),
                float("beta", *beta, 0.75),
                float("bias", *bias, 1.0),
                Some(Attr::int("size", *size)),
            ]),
        }
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        Ok(vec![Fact { ty: cx.ty(0).cloned(), ints: None }])
    }

    /// What it works across stays whole; the channels of a group of GroupNormalization go together.
    fn ties(&self, t: &mut dyn Ties) -> bool {
        let rank = t.cx().shape(0).map_or(0, Shape::rank);
        if let Norm::Group { groups, .. } = self
            && let Some(size) = group_size(t.cx(), *groups)
        {
            t.pass((0, 0), (0, 0));
            t.pass((0, 1), (0, 1));
            t.tie((0, 1), (0, 1), &|i| i / size * size);
            // Before opset 21 scale and bias have a number a group.
            let by_group = t.cx().opset() < 21;
            for slot in [1, 2] {
                t.tie((0, 1), (slot, 0), &|i| if by_group { i / size } else { i });
            }
            return true;
        }
        let across = match self {
            Norm::Instance { .. } => (2..rank).collect(),
            Norm::Group { .. } => (1..rank).collect(),
            Norm::Lp { axis, .. } => axes(&[*axis], rank).unwrap_or((0..rank).collect()),
            Norm::MeanVariance { axes: all } => axes(all, rank).unwrap_or((0..rank).collect()),
            Norm::Lrn { .. } => vec![1],
        };
        (0..rank).filter(|a| !across.contains(a)).for_each(|a| t.pass((0, a), (0, a)));
        if let Norm::Instance { .. } = self {
            t.pass((1, 0), (0, 1));
            t.pass((2, 0), (0, 1));
        }
        true
    }

    /// A GroupNormalization has as many groups as are left.
    fn shrink(&self, kept: &dyn Kept) -> Option<Vec<Change>> {
        let Norm::Group { epsilon, groups, stash } = self else { return Some(Vec::new()) };
        let Some(stay) = kept.input((0, 1)) else { return Some(Vec::new()) };
        let size = group_size(kept.cx(), *groups)?;
        let groups = i64::try_from(stay.len() / size).ok()?;
        Some(vec![Change::Op(Norm::Group { epsilon: *epsilon, groups, stash: *stash }.into())])
    }
}

/// LayerNormalization and RMSNormalization: over `axis` and all axes after it; inputs X, scale, and bias (layer only).
#[derive(Debug, Clone, PartialEq)]
pub struct LayerNorm {
    pub axis: i64,
    pub epsilon: f32,
    /// Type the statistics are computed in, by its number.
    pub stash: i64,
    /// Divide by the root of the mean square alone, without taking the mean away.
    pub rms: bool,
}

impl Operator for LayerNorm {
    fn parse(op_type: &str, opset: i64, attrs: &mut AttrReader<'_>) -> Option<Self> {
        let rms = op_type == "RMSNormalization";
        let norm = LayerNorm {
            axis: attrs.int_or("axis", -1),
            epsilon: attrs.float_or("epsilon", EPSILON),
            stash: attrs.int_or("stash_type", 1),
            rms,
        };
        (opset >= if rms { 23 } else { 17 }).then_some(norm)
    }

    fn op_type(&self) -> &'static str {
        if self.rms { "RMSNormalization" } else { "LayerNormalization" }
    }

    fn attrs(&self, _: i64) -> Vec<Attr> {
        list([int("axis", self.axis, -1), float("epsilon", self.epsilon, EPSILON), int("stash_type", self.stash, 1)])
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        let mut out = vec![Fact { ty: cx.ty(0).cloned(), ints: None }];
        let statistics = match cx.shape(0) {
            Some(x) => {
                let kept = axis(self.axis, x.rank())?;
                let ones = std::iter::repeat_n(Dim::Known(1), x.rank() - kept);
                Some(Shape(x.0[..kept].iter().cloned().chain(ones).collect()))
            }
            None => None,
        };
        if !self.rms {
            let dtype = i32::try_from(self.stash).ok().map(DType);
            out.resize(3, Fact::tensor(dtype, statistics));
        }
        Ok(out)
    }

    /// Axes before `axis` pass; what is normalized over stays whole.
    fn ties(&self, t: &mut dyn Ties) -> bool {
        let rank = t.cx().shape(0).map_or(0, Shape::rank);
        (0..axis(self.axis, rank).unwrap_or(0)).for_each(|a| t.pass((0, a), (0, a)));
        true
    }
}

/// Channels in each group of a GroupNormalization.
fn group_size(cx: &Infer<'_>, groups: i64) -> Option<usize> {
    let channels = usize::try_from(cx.shape(0)?.0.get(1)?.known()?).ok()?;
    let groups = usize::try_from(groups).ok()?;
    (channels > 0 && channels.is_multiple_of(groups)).then(|| channels / groups)
}

#[cfg(test)]
mod tests {
    use super::BatchNorm;
    use crate::ir::Op;
    use crate::ir::op::testing::{graph, ty};

    #[test]
    fn batch() {
        let p = "input %x : f16[N,?,H] input %s : f32[3] input %m : f32[3]";
        let y = |opset, attrs: &str| ty(opset, &format!("{p} %y : ? = BatchNormalization{attrs}(%x, %s, %s, %m, %m)"));
        assert_eq!(y(15, ""), "f16[N,3,H]");
        assert_eq!(y(7, "<spatial=0>"), "f16[N,?,H]");
        assert_eq!(y(9, "<spatial=0>"), "opaque");
        assert_eq!(y(13, "<training_mode=1>"), "opaque");
        let mean = "%x2 : ?, %y : ?, %v : ? = BatchNormalization<training_mode=1>(%x, %s, %s, %m, %m)";
        assert_eq!(ty(15, &format!("{p} {mean}")), "f32[3]");
        let g = graph(14, &format!("{p} %y : ? = BatchNormalization<epsilon=0.001>(%x, %s, %s, %m, %m)"));
        let n = g.nodes().next().unwrap();
        let want = BatchNorm { epsilon: 0.001, momentum: 0.9, training: false, spatial: true };
        assert_eq!(g.node(n).op, Op::BatchNorm(want));
    }

    #[test]
    fn others() {
        let x = "input %x : f32[N,4,8] input %s : f32[4] input %t : f32[8]";
        let y = |opset, node: &str| ty(opset, &format!("{x} {node}"));
        assert_eq!(y(7, "%y : ? = InstanceNormalization(%x, %s, %s)"), "f32[N,4,8]");
        assert_eq!(y(7, "%y : ? = LRN<size=3>(%x)"), "f32[N,4,8]");
        assert_eq!(y(7, "%y : ? = LRN(%x)"), "opaque");
        assert_eq!(y(21, "%y : ? = GroupNormalization<num_groups=2>(%x, %s, %s)"), "f32[N,4,8]");
        assert_eq!(y(18, "%y : ? = GroupNormalization<num_groups=2, stash_type=1>(%x, %s, %s)"), "opaque");
        assert_eq!(y(17, "%z : ?, %y : ? = LayerNormalization(%x, %t)"), "f32[N,4,1]");
        assert_eq!(y(17, "%z : ?, %y : ? = LayerNormalization<axis=1>(%x, %t)"), "f32[N,1,1]");
        assert_eq!(y(17, "%y : ? = LayerNormalization<axis=3>(%x, %t)"), "?");
        assert_eq!(y(22, "%y : ? = RMSNormalization(%x, %t)"), "opaque");
        assert_eq!(y(23, "%y : ? = RMSNormalization(%x, %t)"), "f32[N,4,8]");
    }
}
