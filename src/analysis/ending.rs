//! How an output comes about, as far as its last nodes say.

use crate::ir::op::binary::BinaryKind;
use crate::ir::op::softmax::SoftmaxKind;
use crate::ir::op::unary::Unary;
use crate::ir::{Graph, NodeId, Op, ValueId};

/// The end of the way to an output.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Ending {
    /// The last operator that does more than move elements, scale them or add a constant.
    pub op: Option<End>,
    /// The same in ONNX's words; empty for an output that is an input or a constant.
    pub op_type: String,
    /// Where along the output the channels of the last layer lie.
    pub channels: ChannelAxis,
}

/// The kinds of last operators that say something of an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Softmax,
    Sigmoid,
    /// A convolution or a matrix product.
    Linear,
    /// Pooling of a convolution's channels that are a score a class, as far as one can see.
    PooledScores,
    /// A norm of features, pooling, or an activation: no scores come out of these.
    Features,
    /// A recurrent layer.
    State,
}

/// Where the channels of an output are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ChannelAxis {
    Axis(usize),
    /// There is one, without an axis.
    One,
    #[default]
    Unknown,
}

/// Widths of features are multiples of this; numbers of classes are hardly ever.
const FEATURES: u64 = 16;

/// Whether what a node gives is an output of the graph, but for what moves, scales or squashes it on its way.
pub fn answers(graph: &Graph, node: NodeId) -> bool {
    let mut next = Some(node);
    // A graph with a cycle must not hold this up.
    for _ in graph.nodes() {
        let Some(y) = next.and_then(|n| graph.output(n)) else { return false };
        if graph.outputs().contains(&y) {
            return true;
        }
        next = graph.sole_use(y).map(|u| u.node()).filter(|&n| {
            let squashes = matches!(&graph.node(n).op, Op::Softmax(_)) || graph.node(n).op_type == "Sigmoid";
            squashes || !step(graph, n).told
        });
    }
    false
}

/// How output `index` of a graph comes about.
pub fn ending(graph: &Graph, index: usize) -> Ending {
    let Some(&output) = graph.outputs().get(index) else { return Ending::default() };
    let mut end = Ending::default();
    // Where each axis of the value looked at is in the output.
    let mut axes: Option<Vec<usize>> = graph.value(output).rank().map(|r| (0..r).collect());
    let mut v = output;
    // A graph with a cycle must not hold this up.
    for _ in graph.nodes() {
        let Some((n, slot)) = graph.producer(v) else { break };
        let node = graph.node(n);
        if let (Op::If(_), Some(body)) = (&node.op, node.bodies().next()) {
            let inner = ending(body, slot);
            if end.op_type.is_empty() {
                (end.op, end.op_type) = (inner.op, inner.op_type);
            }
            end.channels = if v == output { inner.channels } else { ChannelAxis::Unknown };
            return end;
        }
        let step = step(graph, n);
        if end.op_type.is_empty() && step.told {
            let scores = pools_scores(graph, n).then_some(End::PooledScores);
            (end.op, end.op_type) = (scores.or(step.end), node.op_type.clone());
        }
        if let Some(axis) = step.channels {
            end.channels = match &axes {
                Some(axes) => axes.get(axis).map_or(ChannelAxis::Unknown, |&a| ChannelAxis::Axis(a)),
                None if size(graph, v, axis) == Some(1) => ChannelAxis::One,
                None => ChannelAxis::Unknown,
            };
            return end;
        }
        match (&node.op, axes.as_ref().map(Vec::len)) {
            (Op::Transpose(t), Some(rank)) => {
                let order = t.order(rank).ok();
                axes = order.zip(axes).map(|(order, axes)| {
                    let mut before = vec![0; axes.len()];
                    order.iter().enumerate().for_each(|(i, &from)| before[from] = axes[i]);
                    before
                });
            }
            (Op::Reshape(_) | Op::Flatten(_) | Op::Squeeze(_) | Op::Unsqueeze(_) | Op::Reduce(_), _) => axes = None,
            _ => {}
        }
        match step.from {
            Some(from) => v = from,
            None => break,
        }
    }
    end
}

/// The size of a value along an axis, whether its other sizes are known or not.
fn size(graph: &Graph, v: ValueId, axis: usize) -> Option<u64> {
    graph.value(v).ty.as_ref()?.shape()?.0.get(axis)?.known()
}

/// Whether a node pools the channels of a convolution that has one for each class, as in SqueezeNet: a pointwise one with
/// nothing between but an activation and Dropout, of a width that features do not have; or any without an activation.
fn pools_scores(graph: &Graph, pool: NodeId) -> bool {
    if !matches!(graph.node(pool).op, Op::Pool(_) | Op::GlobalPool(_) | Op::Reduce(_)) {
        return false;
    }
    let (mut at, mut activated) = (graph.input(pool, 0), false);
    // A graph with a cycle must not hold this up.
    for _ in graph.nodes() {
        let Some((n, _)) = at.and_then(|v| graph.producer(v)) else { return false };
        match &graph.node(n).op {
            Op::Unary(Unary("Identity")) | Op::Dropout(_) | Op::Cast(_) => {}
            Op::Unary(Unary("Relu")) | Op::Clip(_) | Op::Activation(_) => activated = true,
            Op::Conv(_) => {
                let shape = graph.input(n, 1).and_then(|w| graph.value(w).constant()).map(|t| t.shape());
                let Some([outputs, _, taps @ ..]) = shape else { return false };
                let width = graph.output(pool).and_then(|v| size(graph, v, 1));
                let own = width == Some(*outputs as u64);
                let classes = !(*outputs as u64).is_multiple_of(FEATURES) && taps.iter().all(|&t| t == 1);
                return own && *outputs > 1 && (!activated || classes);
            }
            _ => return false,
        }
        at = graph.input(n, 0);
    }
    false
}

/// What one node says, on the way back from an output.
struct NodeEnding {
    end: Option<End>,
    /// Whether it is an operator worth a name.
    told: bool,
    /// The axis of its output along which it makes channels, if it is a layer.
    channels: Option<usize>,
    /// Where the way goes on.
    from: Option<ValueId>,
}

fn step(graph: &Graph, n: NodeId) -> NodeEnding {
    let rank = graph.output(n).and_then(|v| graph.value(v).rank());
    let last = rank.and_then(|r| r.checked_sub(1));
    let first = graph.input(n, 0);
    let tell = |end, channels| NodeEnding { end: Some(end), told: true, channels, from: first };
    match &graph.node(n).op {
        Op::Softmax(s) => {
            let axis = if s.axis < 0 { rank.map(|r| r as i64 + s.axis) } else { Some(s.axis) };
            let axis = axis.and_then(|a| usize::try_from(a).ok());
            match s.function {
                SoftmaxKind::Hardmax => NodeEnding { end: None, told: true, channels: axis, from: None },
                _ => tell(End::Softmax, axis),
            }
        }
        Op::Unary(Unary("Identity")) | Op::Cast(_) | Op::CastLike(_) | Op::Dropout(_) | Op::Clip(_) => pass(first),
        Op::Transpose(_) | Op::Reshape(_) | Op::Flatten(_) | Op::Squeeze(_) | Op::Unsqueeze(_) => pass(first),
        Op::DequantizeLinear(_) | Op::QuantizeLinear(_) => pass(first),
        Op::Unary(Unary("Sigmoid")) => tell(End::Sigmoid, None),
        Op::Unary(_) | Op::Activation(_) | Op::Gelu(_) => tell(End::Features, None),
        Op::Conv(_) | Op::ConvTranspose(_) | Op::QConv(_) => tell(End::Linear, Some(1)),
        Op::Gemm(_) | Op::MatMul(_) | Op::QMatMul(_) | Op::Einsum(_) => tell(End::Linear, last),
        Op::LayerNorm(_) => tell(End::Features, last),
        Op::BatchNorm(_) | Op::Norm(_) | Op::Pool(_) | Op::GlobalPool(_) => tell(End::Features, Some(1)),
        Op::Reduce(_) => tell(End::Features, None),
        Op::Rnn(_) => tell(End::State, last),
        Op::Binary(b) if matches!(b.0, BinaryKind::Add | BinaryKind::Sub | BinaryKind::Mul | BinaryKind::Div) => {
            let inputs: Vec<ValueId> = graph.node_inputs(n).into_iter().flatten().collect();
            let mut computed = inputs.iter().filter(|&&v| graph.value(v).constant().is_none());
            match (computed.next(), computed.next()) {
                (Some(&one), None) => pass(Some(one)),
                _ => NodeEnding { end: None, told: true, channels: None, from: None },
            }
        }
        _ => NodeEnding { end: None, told: true, channels: None, from: None },
    }
}

fn pass(from: Option<ValueId>) -> NodeEnding {
    NodeEnding { end: None, told: false, channels: None, from }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::text::parse;

    fn graph(body: &str) -> Graph {
        parse::model(&format!("model \"m\" opset 17 {{\n{body}\n}}")).unwrap().graph
    }

    #[test]
    fn a_pooled_convolution_has_scores_or_features() {
        let end = |outputs: usize, taps: usize, between: &str, pool: &str| {
            let g = graph(&format!(
                "input %x : f32[N,4,6,6]
                 const %w : f32[{outputs},4,{taps},{taps}] = seed(1)
                 const %s : f32[{outputs}] = seed(2)
                 %c : ? = Conv(%x, %w)
                 {between}
                 %p : ? = {pool}
                 %y : ? = Flatten(%p)
                 output %y"
            ));
            ending(&g, 0).op
        };
        let (relu, mean) = ("%r : ? = Relu(%c)", "GlobalAveragePool(%r)");
        assert_eq!(end(10, 1, relu, mean), Some(End::PooledScores));
        assert_eq!(end(1000, 1, relu, "ReduceMean<axes=[2,3]>(%r)"), Some(End::PooledScores));
        assert_eq!(end(64, 1, relu, mean), Some(End::Features));
        assert_eq!(end(10, 3, relu, mean), Some(End::Features));
        assert_eq!(end(64, 3, "", "GlobalAveragePool(%c)"), Some(End::PooledScores));
        let normalised = "%b : ? = BatchNormalization(%c, %s, %s, %s, %s) %r : ? = Relu(%b)";
        assert_eq!(end(10, 1, normalised, mean), Some(End::Features));
    }

    #[test]
    fn endings_say_what_comes_last_and_where_channels_lie() {
        let g = graph(
            "input %x : f32[N,4,6,6]
             const %w : f32[3,4,1,1] = seed(1)
             const %one : f32[1,4,1,1] = seed(2)
             const %shape : i64[3] = {-1,6,6}
             %c : f32[N,3,6,6] = Conv(%x, %w)
             %t : f32[N,6,6,3] = Transpose<perm=[0,2,3,1]>(%c)
             %s : f32[N,6,6,3] = Softmax<axis=3>(%t)
             %h : f32[N,1,6,6] = Conv(%x, %one)
             %g : f32[N,1,6,6] = Sigmoid(%h)
             %r : f32[N,6,6] = Reshape(%g, %shape)
             output %t
             output %s
             output %r
             output %x",
        );
        let got: Vec<_> = (0..4).map(|i| ending(&g, i)).map(|e| (e.op, e.channels)).collect();
        assert_eq!(got[0], (Some(End::Linear), ChannelAxis::Axis(3)));
        assert_eq!(got[1], (Some(End::Softmax), ChannelAxis::Axis(3)));
        assert_eq!(got[2], (Some(End::Sigmoid), ChannelAxis::One));
        assert_eq!(got[3], (None, ChannelAxis::Unknown));
    }
}
