//! Recurrent layers. (ONNX Operators: LSTM, GRU, RNN, since 7, 14, 22.)

use crate::ir::attr::{Attr, AttrReader};
use crate::ir::infer::{Fact, Infer};
use crate::ir::op::conv::product;
use crate::ir::op::{Operator, Role, Sizes, WeightInput};
use crate::ir::shape::{Dim, Shape};
use crate::ir::ties::{Change, Kept, Ties, open_weight};

/// X[steps, batch, input], W[directions, gates·hidden, input], R[directions, gates·hidden, hidden], … to
/// Y[steps, directions, batch, hidden], the last state [directions, batch, hidden] and (LSTM) the last cell.
#[derive(Debug, Clone, PartialEq)]
pub struct Rnn {
    pub cell: Cell,
    pub hidden: Option<i64>,
    pub direction: Direction,
    /// The batch comes first: X[batch, steps, input], Y[batch, steps, directions, hidden], states [batch, directions,
    /// hidden] (`layout = 1`, since 14).
    pub batch_first: bool,
    pub clip: Option<f32>,
    /// As the file has them; empty stands for the cell's own.
    pub activations: Vec<String>,
    pub activation_alpha: Vec<f32>,
    pub activation_beta: Vec<f32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cell {
    Rnn,
    Gru { linear_before_reset: bool },
    Lstm { input_forget: bool },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Forward,
    Reverse,
    Bidirectional,
}

impl Operator for Rnn {
    fn parse(op_type: &str, opset: i64, attrs: &mut AttrReader<'_>) -> Option<Self> {
        let cell = match op_type {
            "RNN" => Cell::Rnn,
            "GRU" => Cell::Gru { linear_before_reset: attrs.flag("linear_before_reset") },
            "LSTM" => Cell::Lstm { input_forget: attrs.flag("input_forget") },
            _ => return None,
        };
        let direction = match attrs.str("direction").as_deref() {
            None | Some("forward") => Direction::Forward,
            Some("reverse") => Direction::Reverse,
            Some("bidirectional") => Direction::Bidirectional,
            Some(_) => return None,
        };
        Some(Rnn {
            cell,
            hidden: attrs.int("hidden_size"),
            direction,
            batch_first: opset >= 14 && attrs.flag("layout"),
            clip: attrs.float("clip"),
            activations: attrs.strs("activations").unwrap_or_default(),
            activation_alpha: attrs.floats("activation_alpha").unwrap_or_default(),
            activation_beta: attrs.floats("activation_beta").unwrap_or_default(),
        })
    }

    fn op_type(&self) -> &'static str {
        match self.cell {
            Cell::Rnn => "RNN",
            Cell::Gru { .. } => "GRU",
            Cell::Lstm { .. } => "LSTM",
        }
    }

    fn attrs(&self, _: i64) -> Vec<Attr> {
        let floats = |name, v: &[f32]| (!v.is_empty()).then(|| Attr::floats(name, v));
        let direction = match self.direction {
            Direction::Forward => None,
            Direction::Reverse => Some(Attr::str("direction", "reverse")),
            Direction::Bidirectional => Some(Attr::str("direction", "bidirectional")),
        };
        let own = match self.cell {
            Cell::Gru { linear_before_reset: true } => Some(Attr::int("linear_before_reset", 1)),
            Cell::Lstm { input_forget: true } => Some(Attr::int("input_forget", 1)),
            _ => None,
        };
        let all = [
            floats("activation_alpha", &self.activation_alpha),
            floats("activation_beta", &self.activation_beta),
            (!self.activations.is_empty()).then(|| Attr::strs("activations", &self.activations)),
            self.clip.map(|c| Attr::float("clip", c)),
            direction,
            self.hidden.map(|h| Attr::int("hidden_size", h)),
            self.batch_first.then(|| Attr::int("layout", 1)),
            own,
        ];
        let mut out: Vec<_> = all.into_iter().flatten().collect();
        out.sort_by(|a, b| a.name.cmp(&b.name));
        out
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        let directions = Dim::Known(if self.direction == Direction::Bidirectional { 2 } else { 1 });
        for slot in [1, 2] {
            let Some(w) = cx.shape(slot) else { continue };
            if w.rank() != 3 || !w.0[0].agrees(&directions) {
                return Err(format!("input {slot} of shape {w} for {directions} directions"));
            }
        }
        let hidden = match self.hidden.and_then(|h| u64::try_from(h).ok()) {
            Some(h) => Dim::Known(h),
            None => cx.shape(2).map_or(Dim::Unknown, |r| r.0[2].clone()),
        };
        let rows = hidden.known().map_or(Dim::Unknown, |h| Dim::Known(h.saturating_mul(self.gates() as u64)));
        let read = cx.shape(0).and_then(|x| x.0.get(2)).unwrap_or(&Dim::Unknown);
        for (slot, columns) in [(1, read), (2, &hidden)] {
            let Some(w) = cx.shape(slot) else { continue };
            if !w.0[1].agrees(&rows) || !w.0[2].agrees(columns) {
                return Err(format!("input {slot} of shape {w}, where it should be [{directions}, {rows}, {columns}]"));
            }
        }
        let (steps, batch) = match cx.shape(0).map(|x| x.0.as_slice()) {
            Some([batch, steps, _]) if self.batch_first => (steps.clone(), batch.clone()),
            Some([steps, batch, _]) => (steps.clone(), batch.clone()),
            Some(_) => return Err("the input must have three axes".into()),
            None => (Dim::Unknown, Dim::Unknown),
        };
        let (y, state) = if self.batch_first {
            (vec![batch.clone(), steps, directions.clone(), hidden.clone()], vec![batch, directions, hidden])
        } else {
            (vec![steps, directions.clone(), batch.clone(), hidden.clone()], vec![directions, batch, hidden])
        };
        let state = Fact::tensor(cx.dtype(0), Some(Shape(state)));
        Ok(vec![Fact::tensor(cx.dtype(0), Some(Shape(y))), state.clone(), state])
    }

    fn weights(&self, _: &Infer<'_>) -> Vec<WeightInput> {
        let gates = |slot| WeightInput { slot, role: Role::Recurrent, outputs: 1, inputs: Some(2), bias: Some(3) };
        vec![gates(1), gates(2)]
    }

    fn macs(&self, sizes: &Sizes) -> Option<u64> {
        let weights = product(sizes.input(1)?)?.checked_add(product(sizes.input(2)?)?)?;
        weights.checked_mul(product(sizes.input(0)?.get(..2)?)?)
    }

    /// Every gate of every direction sums over what comes in, and over the hidden units of the step before. A unit has a place in
    /// every gate, in the states and in the peepholes; it goes out of both directions.
    fn ties(&self, t: &mut dyn Ties) -> bool {
        t.contract((0, 2), (1, 2), 1);
        if let Some(open) = (1..4).chain([7]).find(|&slot| t.cx().has(slot) && !t.is_weight(slot)) {
            let why = open_weight(t.cx(), open);
            t.make_none(&why);
            return true;
        }
        let Some(hidden) = self.units(t.cx()) else {
            t.make_none("has weights whose sizes do not go together");
            return true;
        };
        t.produce((2, 2), (0, 3), 1);
        t.pass((2, 2), (1, 2));
        t.pass((2, 2), (2, 2));
        t.contract((2, 2), (2, 2), 1);
        let given: Vec<usize> = (0..8).filter(|&slot| t.cx().has(slot)).collect();
        for slot in [2, 1, 3, 7].into_iter().filter(|slot| given.contains(slot)) {
            t.tie((slot, 1), (2, 2), &|i| i % hidden);
        }
        t.made_by((1, 1));
        t.made_by((2, 1));
        for slot in [5, 6].into_iter().filter(|slot| given.contains(slot)) {
            t.tie((slot, 2), (2, 2), &|i| i);
        }
        true
    }

    fn shrink(&self, kept: &dyn Kept) -> Option<Vec<Change>> {
        let (Some(stay), Some(_)) = (kept.input((2, 2)), self.hidden) else { return Some(Vec::new()) };
        let hidden = Some(i64::try_from(stay.len()).ok()?);
        Some(vec![Change::Op(Rnn { hidden, ..self.clone() }.into())])
    }
}

impl Rnn {
    fn gates(&self) -> usize {
        match self.cell {
            Cell::Rnn => 1,
            Cell::Gru { .. } => 3,
            Cell::Lstm { .. } => 4,
        }
    }

    /// Hidden units, if the sizes of all weights say the same.
    fn units(&self, cx: &Infer<'_>) -> Option<usize> {
        let size = |slot, axis: usize| usize::try_from(cx.shape(slot)?.0.get(axis)?.known()?).ok();
        let hidden = size(2, 2).filter(|&h| h > 0)?;
        let holds = |slot, blocks: usize| !cx.has(slot) || size(slot, 1) == blocks.checked_mul(hidden);
        let fits = holds(1, self.gates()) && holds(2, self.gates()) && holds(3, 2 * self.gates()) && holds(7, 3);
        (fits && self.hidden.is_none_or(|h| usize::try_from(h) == Ok(hidden))).then_some(hidden)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::op::testing::ty;

    #[test]
    fn shapes() {
        let p = "input %x : f32[S,B,3] const %w : f32[1,20,3] const %r : f32[1,20,5]";
        assert_eq!(ty(7, &format!("{p} %y : ? = LSTM<hidden_size=5>(%x, %w, %r)")), "f32[S,1,B,5]");
        assert_eq!(ty(7, &format!("{p} _, _, %y : ? = LSTM<hidden_size=5>(%x, %w, %r)")), "f32[1,B,5]");
        assert_eq!(ty(14, &format!("{p} %y : ? = LSTM<hidden_size=5, layout=1>(%x, %w, %r)")), "f32[S,B,1,5]");
        assert_eq!(ty(13, &format!("{p} %y : ? = LSTM<hidden_size=5, layout=1>(%x, %w, %r)")), "opaque");
        assert_eq!(ty(7, &format!("{p} %y : ? = LSTM<direction=\"bidirectional\">(%x, %w, %r)")), "?");
        for wrong in [
            "input %x : f32[S,B,4] const %w : f32[1,20,3] const %r : f32[1,20,5]",
            "input %x : f32[S,B,3] const %w : f32[1,24,3] const %r : f32[1,20,5]",
            "input %x : f32[S,B,3] const %w : f32[1,20,3] const %r : f32[1,20,6]",
        ] {
            assert_eq!(ty(7, &format!("{wrong} %y : ? = LSTM<hidden_size=5>(%x, %w, %r)")), "?", "{wrong}");
        }
        let g = "input %x : f32[7,B,3] const %w : f32[2,15,3] const %r : f32[2,15,5]";
        assert_eq!(ty(7, &format!("{g} %y : ? = GRU<direction=\"bidirectional\">(%x, %w, %r)")), "f32[7,2,B,5]");
    }

    #[test]
    fn macs() {
        let lstm = Rnn::parse("LSTM", 14, &mut AttrReader::new(&[])).unwrap();
        let inputs = vec![Some(vec![7, 1, 3]), Some(vec![1, 20, 3]), Some(vec![1, 20, 5])];
        assert_eq!(lstm.macs(&Sizes { inputs, outputs: Vec::new() }), Some(7 * (60 + 100)));
    }
}
