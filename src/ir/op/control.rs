//! Control flow: If, Loop, Scan. Their bodies are graphs among the node's attributes, inferred before the node itself; two
//! nodes with equal operators may still differ in their bodies. (ONNX Operators: If and Loop, since 1, 11, 13, 16, 19, 21,
//! 23, 24, 25; Scan, since 9, 11, 16, 19, 21, 23, 24, 25.)

use crate::ir::attr::{Attr, AttrReader, AttrValue};
use crate::ir::graph::Graph;
use crate::ir::infer::{Fact, Infer, axis};
use crate::ir::op::Operator;
use crate::ir::shape::{Dim, Shape, Type};

fn body<'a>(cx: &Infer<'a>, name: &str) -> Option<&'a Graph> {
    cx.node().attrs.iter().find(|a| a.name == name).and_then(|a| match &a.value {
        AttrValue::Graph(g) => Some(&**g),
        _ => None,
    })
}

/// What a body says of its outputs.
fn results(body: &Graph) -> Vec<Fact> {
    body.outputs().iter().map(|&v| body.value(v)).map(|v| Fact { ty: v.ty.clone(), ints: v.ints.clone() }).collect()
}

/// What holds of a value that is one or the other.
fn either(a: &Fact, b: &Fact) -> Fact {
    let dim = |(p, q): (&Dim, &Dim)| if p == q { p.clone() } else { Dim::Unknown };
    let ty = match (&a.ty, &b.ty) {
        (Some(Type::Tensor(d, s)), Some(Type::Tensor(e, t))) if d == e => {
            let same_rank = s.as_ref().zip(t.as_ref()).filter(|(s, t)| s.rank() == t.rank());
            Some(Type::Tensor(*d, same_rank.map(|(s, t)| Shape(s.0.iter().zip(&t.0).map(dim).collect()))))
        }
        (p, q) if p == q => p.clone(),
        _ => None,
    };
    let ints = match (&a.ints, &b.ints) {
        (Some(p), Some(q)) if p.len() == q.len() => Some(p.iter().zip(q).map(dim).collect()),
        _ => None,
    };
    Fact { ty, ints: None }.with_ints(ints)
}

/// What of a fact about one run of a body holds for another run: a symbol may stand for another number.
fn any_run(fact: &Fact) -> Fact {
    let number = |d: &Dim| d.known().map_or(Dim::Unknown, Dim::Known);
    match &fact.ty {
        Some(Type::Tensor(d, Some(s))) => Fact::tensor(Some(*d), Some(Shape(s.0.iter().map(number).collect()))),
        ty => Fact { ty: ty.clone(), ints: None },
    }
}

/// A fact about one slice as a fact about the slices stacked along a new axis.
fn stacked(slice: &Fact, n: Dim, at: i64) -> Result<Fact, String> {
    Ok(match &slice.ty {
        Some(Type::Tensor(d, Some(s))) => {
            let at = axis(at, s.rank() + 1)?;
            let mut dims = s.0.clone();
            dims.insert(at, n);
            Fact::tensor(Some(*d), Some(Shape(dims)))
        }
        Some(Type::Tensor(d, None)) => Fact::tensor(Some(*d), None),
        _ => Fact::unknown(),
    })
}

/// The outputs of one of two bodies, `then_branch` if the condition holds.
#[derive(Debug, Clone, PartialEq)]
pub struct If;

impl Operator for If {
    fn parse(_: &str, _: i64, attrs: &mut AttrReader<'_>) -> Option<Self> {
        (attrs.graph("then_branch").is_some() & attrs.graph("else_branch").is_some()).then_some(If)
    }

    fn op_type(&self) -> &'static str {
        "If"
    }

    fn attrs(&self, _: i64) -> Vec<Attr> {
        Vec::new()
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        let (Some(yes), Some(no)) = (body(cx, "then_branch"), body(cx, "else_branch")) else { return Ok(Vec::new()) };
        let (yes, no) = (results(yes), results(no));
        if yes.len() != no.len() {
            return Err(format!("one branch has {} outputs, the other {}", yes.len(), no.len()));
        }
        Ok(match cx.constant(0).and_then(|c| c.int_scalar()) {
            Some(0) => no,
            Some(_) => yes,
            None => yes.iter().zip(&no).map(|(a, b)| either(a, b)).collect(),
        })
    }
}

/// A body run a number of times: inputs count, condition, state…; the body maps (iteration, condition, state…) to
/// (condition, state…, slices…); outputs are the last state and the slices stacked.
#[derive(Debug, Clone, PartialEq)]
pub struct Loop;

impl Operator for Loop {
    fn parse(_: &str, _: i64, attrs: &mut AttrReader<'_>) -> Option<Self> {
        attrs.graph("body").map(|_| Loop)
    }

    fn op_type(&self) -> &'static str {
        "Loop"
    }

    fn attrs(&self, _: i64) -> Vec<Attr> {
        Vec::new()
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        let Some(body) = body(cx, "body") else { return Ok(Vec::new()) };
        let state = cx.n_inputs().saturating_sub(2);
        let results = results(body);
        let outputs = results.iter().skip(1).enumerate().map(|(i, inner)| {
            if i >= state {
                return stacked(&any_run(inner), Dim::Unknown, 0);
            }
            let start = Fact { ty: cx.ty(i + 2).cloned(), ints: None };
            Ok(either(&start, &any_run(inner)))
        });
        outputs.collect()
    }
}

/// A body run over slices: inputs state…, sequences…; the body maps (state…, slices…) to (state…, slices…); outputs are
/// the last state and the slices stacked.
#[derive(Debug, Clone, PartialEq)]
pub struct Scan {
    /// How many of the inputs are sequences.
    pub sequences: i64,
    /// Axis and direction (1 is backward) by sequence; empty stands for zeros.
    pub input_axes: Vec<i64>,
    pub input_directions: Vec<i64>,
    pub output_axes: Vec<i64>,
    pub output_directions: Vec<i64>,
}

impl Operator for Scan {
    fn parse(_: &str, opset: i64, attrs: &mut AttrReader<'_>) -> Option<Self> {
        attrs.graph("body")?;
        let scan = Scan {
            sequences: attrs.int("num_scan_inputs").filter(|&n| n > 0)?,
            input_axes: attrs.ints("scan_input_axes").unwrap_or_default(),
            input_directions: attrs.ints("scan_input_directions").unwrap_or_default(),
            output_axes: attrs.ints("scan_output_axes").unwrap_or_default(),
            output_directions: attrs.ints("scan_output_directions").unwrap_or_default(),
        };
        (opset >= 9).then_some(scan)
    }

    fn op_type(&self) -> &'static str {
        "Scan"
    }

    fn attrs(&self, _: i64) -> Vec<Attr> {
        let list = |name, v: &[i64]| v.iter().any(|&x| x != 0).then(|| Attr::ints(name, v));
        let lists = [
            list("scan_input_axes", &self.input_axes),
            list("scan_input_directions", &self.input_directions),
            list("scan_output_axes", &self.output_axes),
            list("scan_output_directions", &self.output_directions),
        ];
        std::iter::once(Attr::int("num_scan_inputs", self.sequences)).chain(lists.into_iter().flatten()).collect()
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        let Some(body) = body(cx, "body") else { return Ok(Vec::new()) };
        let state = usize::try_from(self.sequences).ok().and_then(|n| cx.n_inputs().checked_sub(n));
        let state = state.ok_or("more sequences than inputs")?;
        let at = |axes: &[i64], i: usize| axes.get(i).copied().unwrap_or(0);
        let mut length = Dim::Unknown;
        for (i, slot) in (state..cx.n_inputs()).enumerate() {
            let Some(x) = cx.shape(slot) else { continue };
            let n = &x.0[axis(at(&self.input_axes, i), x.rank())?];
            if !length.agrees(n) {
                return Err(format!("sequences of {length} and of {n} slices"));
            }
            length = length.refine(n);
        }
        let results = results(body);
        let outputs = results.iter().enumerate().map(|(i, inner)| match i.checked_sub(state) {
            None => Ok(either(&Fact { ty: cx.ty(i).cloned(), ints: None }, &any_run(inner))),
            Some(k) => stacked(&any_run(inner), length.clone(), at(&self.output_axes, k)),
        });
        outputs.collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::ir::op::testing::ty;

    fn branches(cond: &str, yes: &str, no: &str) -> String {
        let branch = |name, value: &str| format!("{name} \"b\" {{ %z_{name} : ? = {value} output %z_{name} }}");
        let x = "input %x : f32[N,4] input %w : f32[2,4] input %i : i64[N,4]";
        let bodies = [branch("then_branch", yes), branch("else_branch", no)].join(" ");
        ty(13, &format!("{x} {cond} %y : ? = If(%c) {{ {bodies} }}"))
    }

    #[test]
    fn branches_of_an_if_are_merged() {
        let open = "input %c : bool[]";
        assert_eq!(branches(open, "Relu(%x)", "Neg(%x)"), "f32[N,4]");
        assert_eq!(branches(open, "Relu(%x)", "Neg(%w)"), "f32[?,4]");
        assert_eq!(branches(open, "Relu(%x)", "ReduceSum<keepdims=0>(%w)"), "f32[*]");
        assert_eq!(branches(open, "Relu(%x)", "Neg(%i)"), "?");
        assert_eq!(branches("const %c : bool[] = {1}", "Relu(%x)", "Neg(%w)"), "f32[N,4]");
        assert_eq!(branches("const %c : bool[1] = {0}", "Relu(%x)", "Neg(%w)"), "f32[2,4]");
    }

    #[test]
    fn loops() {
        let run = |outputs: &str| {
            ty(
                13,
                &format!(
                    "const %n : i64[] = {{3}} input %s : f32[2,N] {outputs} = Loop(%n, _, %s) {{
                        body \"b\" {{
                            input %i : i64[] input %k : bool[] input %a : f32[2,M]
                            %go : ? = Identity(%k) %b : ? = Relu(%a) %each : ? = Neg(%a)
                            output %go output %b output %each
                        }}
                    }}"
                ),
            )
        };
        assert_eq!(run("%y : ?, %each2 : ?"), "f32[2,?]");
        assert_eq!(run("%last : ?, %y : ?"), "f32[?,2,?]");
    }

    #[test]
    fn scans() {
        let run = |outputs: &str| {
            ty(
                13,
                &format!(
                    "input %s : f32[4] input %x : f32[4,T] {outputs} = Scan<num_scan_inputs=1, scan_input_axes=[1]>(%s, %x) {{
                        body \"b\" {{
                            input %a : f32[4] input %p : f32[4]
                            %sum : ? = Add(%a, %p) %each : ? = Neg(%sum)
                            output %sum output %each
                        }}
                    }}"
                ),
            )
        };
        assert_eq!(run("%y : ?, %each2 : ?"), "f32[4]");
        assert_eq!(run("%last : ?, %y : ?"), "f32[T,4]");
    }
}
