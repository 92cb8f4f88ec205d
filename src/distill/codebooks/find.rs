//! Finds weights that codes and codebooks decode to.

use super::Coded;
use crate::analysis::evaluate::Evaluator;
use crate::ir::op::binary::BinaryKind;
use crate::ir::{DType, Graph, NodeId, Op, Tensor, Use, ValueId};

/// What a lookup decodes, if it is one, and the last value that only has its numbers, in another order perhaps.
pub(super) fn coded(graph: &Graph, n: NodeId, evaluator: &mut Evaluator<'_>) -> Option<(Coded, ValueId)> {
    if !matches!(&graph.node(n).op, Op::Gather(op) if op.axis == 0) {
        return None;
    }
    let (codes, groups) = codes(graph, graph.input(n, 1)?)?;
    let Table { books, digits, length } = table(graph, graph.input(n, 0)?)?;
    let own = |v: ValueId| graph.sole_use(v).and(graph.value(v).constant());
    let (bytes, book) = (own(codes)?.shape().to_vec(), own(books)?.as_f32()?.into_owned());
    let (per_byte, levels) = (digits.len() / 256, book.len().checked_div(groups * length)?);
    let run = per_byte * if groups > 1 { *bytes.last()? } else { bytes.iter().product() };
    let inside = per_byte == 1 || digits.iter().all(|&d| usize::from(d) < levels);
    if run == 0 || !(1..=256).contains(&levels) || book.len() != groups * levels * length || !inside {
        return None;
    }
    let decoded = graph.output(n)?;
    let (end, order) = end(graph, decoded, evaluator.tensor(decoded)?.shape())?;
    // Codebooks by the digits of bytes are looked up themselves, and are no weights.
    let looked_up = |u: Use| matches!(u, Use::Input(n, 0) if matches!(graph.node(n).op, Op::Gather(_)));
    if graph.uses(end).into_iter().any(looked_up) {
        return None;
    }
    let mut behind = evaluator.tensor(decoded)?.as_f32()?.into_owned();
    behind.truncate((*order.iter().max()? as usize + 1).next_multiple_of(length));
    let stayed = order.len() == behind.len() && order.iter().zip(0..).all(|(&at, i)| at == i);
    let coded = Coded {
        codes,
        books,
        digits,
        per_byte,
        levels,
        length,
        groups,
        run,
        half: graph.value(books).constant()?.dtype() == DType::F16,
        order: (!stayed).then_some(order),
        parameter: 0,
        behind,
        centroids: Vec::new(),
        code_of: Vec::new(),
        rows: Vec::new(),
    };
    Some((coded.with_book(&book), end))
}

fn made_by(graph: &Graph, v: ValueId, is: impl Fn(&Op) -> bool) -> Option<NodeId> {
    graph.producer(v).map(|p| p.0).filter(|&n| is(&graph.node(n).op))
}

/// The bytes that a value is a cast of.
fn bytes(graph: &Graph, v: ValueId) -> Option<ValueId> {
    cast_of(graph, v).filter(|&v| graph.value(v).constant().is_some_and(|t| t.dtype() == DType::U8))
}

fn cast_of(graph: &Graph, v: ValueId) -> Option<ValueId> {
    graph.input(made_by(graph, v, |op| matches!(op, Op::Cast(_)))?, 0)
}

/// The codes that an index is made of, and of how many groups they are.
fn codes(graph: &Graph, index: ValueId) -> Option<(ValueId, usize)> {
    let Some(add) = made_by(graph, index, |op| matches!(op, Op::Binary(op) if op.0 == BinaryKind::Add)) else {
        return Some((bytes(graph, index)?, 1));
    };
    Some((bytes(graph, graph.input(add, 0)?)?, graph.input_constant(add, 1)?.len()))
}

/// What a lookup is in.
struct Table {
    books: ValueId,
    /// The codes that each byte stands for.
    digits: Vec<u8>,
    /// Numbers of a row of the codebooks.
    length: usize,
}

fn table(graph: &Graph, mut table: ValueId) -> Option<Table> {
    if let Some(reshape) = made_by(graph, table, |op| matches!(op, Op::Reshape(_))) {
        table = graph.input(reshape, 0)?;
    }
    let (mut books, mut digits, mut axis) = (table, (0..=u8::MAX).collect(), 0);
    if let Some(gather) = made_by(graph, table, |op| matches!(op, Op::Gather(_))) {
        let Op::Gather(op) = &graph.node(gather).op else { return None };
        let stored = graph.value(bytes(graph, graph.input(gather, 1)?)?).constant()?.ints()?;
        digits = stored.into_iter().map(u8::try_from).collect::<Result<Vec<u8>, _>>().ok()?;
        (books, axis) = (graph.input(gather, 0)?, usize::try_from(op.axis).ok()?);
    }
    books = cast_of(graph, books).unwrap_or(books);
    let length = graph.value(books).constant()?.shape().get(axis + 1..)?.iter().product();
    (!digits.is_empty() && digits.len().is_multiple_of(256) && length > 0).then_some(Table { books, digits, length })
}

/// From a value of this shape on through what only moves its numbers, or cuts some off: the last value, and where each of its
/// numbers was.
fn end(graph: &Graph, mut v: ValueId, shape: &[usize]) -> Option<(ValueId, Vec<u32>)> {
    let count: usize = shape.iter().product();
    let mut from = Tensor::from_ints(DType::I32, shape, 0..i64::try_from(count).ok()?);
    while let Some(Use::Input(n, 0)) = graph.sole_use(v) {
        let moves = matches!(&graph.node(n).op, Op::Reshape(_) | Op::Slice(_) | Op::Transpose(_));
        let Some(y) = graph.output(n).filter(|&y| moves && !graph.is_held(y)) else { break };
        let others: Vec<_> =
            graph.node_inputs(n).into_iter().map(|v| v.and_then(|v| graph.value(v).constant())).collect();
        let inputs: Vec<_> = std::iter::once(Some(&from)).chain(others.into_iter().skip(1)).collect();
        let Some(moved) = graph.node(n).op.operator().and_then(|op| op.eval(&inputs)?.into_iter().next()) else {
            break;
        };
        (v, from) = (y, moved);
    }
    Some((v, from.ints()?.into_iter().map(|i| i as u32).collect()))
}
