//! Type and shape inference: the engine. What an operator does to shapes is in its own file under `op/`.

use crate::ir::graph::{Graph, NodeId, ValueId};
use crate::ir::node::Node;
use crate::ir::op::reshape::Reshape;
use crate::ir::op::{Op, Operator};
use crate::ir::patch::Patch;
use crate::ir::shape::{DType, Dim, Shape, Type};
use crate::ir::tensor::{Tensor, elements};
use crate::ir::value::Source;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Integer tensors up to this size take part in shape arithmetic.
const MAX_INTS: usize = 64;

/// Whole numbers up to this one are exact in single precision (2²⁴).
pub const MAX_EXACT: f64 = (1 << 24) as f64;

/// What is known of a value.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Fact {
    /// Its type.
    pub ty: Option<Type>,
    /// Content of a small tensor of whole numbers, integers or floats, as far as it is known; row-major.
    pub ints: Option<Vec<Dim>>,
}

impl Fact {
    /// Nothing is known.
    pub fn unknown() -> Fact {
        Fact::default()
    }

    /// The type is known.
    pub fn of(ty: Type) -> Fact {
        Fact { ty: Some(ty), ints: None }
    }

    /// A tensor, of which less may be known.
    pub fn tensor(dtype: Option<DType>, shape: Option<Shape>) -> Fact {
        Fact { ty: dtype.map(|d| Type::Tensor(d, shape)), ints: None }
    }

    /// With the content of a small integer tensor.
    pub fn with_ints(mut self, ints: Option<Vec<Dim>>) -> Fact {
        self.ints = ints.filter(|i| i.len() <= MAX_INTS && i.iter().any(|d| *d != Dim::Unknown));
        self
    }
}

/// A node's inputs as inference sees them.
pub struct Infer<'a> {
    graph: &'a Graph,
    node: NodeId,
    inputs: Vec<Option<ValueId>>,
    /// Values that are taken to be constants.
    assumed: &'a [(ValueId, Tensor)],
}

impl<'a> Infer<'a> {
    /// What a rule sees of a node.
    pub fn new(graph: &'a Graph, node: NodeId) -> Infer<'a> {
        Infer { graph, node, inputs: graph.node_inputs(node), assumed: &[] }
    }

    /// The same, if these values were constants.
    pub fn assuming(self, assumed: &'a [(ValueId, Tensor)]) -> Infer<'a> {
        Infer { assumed, ..self }
    }

    /// The opset of ONNX that the node is of.
    pub fn opset(&self) -> i64 {
        self.graph.opset
    }

    /// Its inputs by slot; `None` where one is left out.
    pub fn inputs(&self) -> &[Option<ValueId>] {
        &self.inputs
    }

    /// Number of input slots, absent ones included.
    pub fn n_inputs(&self) -> usize {
        self.inputs.len()
    }

    /// How many outputs it has.
    pub fn n_outputs(&self) -> usize {
        self.graph.node(self.node).arity.1
    }

    /// The node.
    pub fn node(&self) -> &'a Node {
        self.graph.node(self.node)
    }

    /// Whether an input is given.
    pub fn has(&self, slot: usize) -> bool {
        self.inputs.get(slot).copied().flatten().is_some()
    }

    /// The type of an input, as far as it is known.
    pub fn ty(&self, slot: usize) -> Option<&'a Type> {
        self.graph.value(self.inputs.get(slot).copied()??).ty.as_ref()
    }

    /// The type of an input's elements, if it is known.
    pub fn dtype(&self, slot: usize) -> Option<DType> {
        self.ty(slot)?.dtype()
    }

    /// The shape of an input, if its rank is known.
    pub fn shape(&self, slot: usize) -> Option<&'a Shape> {
        self.ty(slot)?.shape()
    }

    /// The input's tensor, if it is constant.
    pub fn constant(&self, slot: usize) -> Option<&'a Tensor> {
        let v = self.inputs.get(slot).copied()??;
        self.assumed.iter().find(|a| a.0 == v).map(|a| &a.1).or_else(|| self.graph.value(v).constant())
    }

    /// Whether the file has content for the input that a caller may feed another in place of.
    pub fn is_overridable(&self, slot: usize) -> bool {
        let value = self.inputs.get(slot).copied().flatten().map(|v| self.graph.value(v));
        value.is_some_and(|v| matches!(v.source, Source::Input { default: Some(_) }))
    }

    /// Whether the input is a sparse initializer, which is only carried.
    pub fn is_sparse(&self, slot: usize) -> bool {
        let value = self.inputs.get(slot).copied().flatten().map(|v| self.graph.value(v));
        value.is_some_and(|v| matches!(v.source, Source::Carried))
    }

    /// Content of a small input of whole numbers and rank 0 or 1, as far as it is known.
    pub fn ints(&self, slot: usize) -> Option<Vec<Dim>> {
        self.content(slot).filter(|_| self.shape(slot).is_none_or(|s| s.rank() <= 1))
    }

    /// Content of a small input of whole numbers, as far as it is known; row-major.
    pub fn content(&self, slot: usize) -> Option<Vec<Dim>> {
        match self.constant(slot) {
            Some(t) if t.len() > MAX_INTS => None,
            Some(t) if t.dtype().is_float() => Some(t.iter_floats()?.map(float_dim).collect()),
            Some(t) => Some(t.ints()?.into_iter().map(int_dim).collect()),
            None => self.graph.value(self.inputs.get(slot).copied()??).ints.clone(),
        }
    }

    /// Content of output 0 of an operator that does nothing but move the elements of input 0.
    pub fn moved(&self, operator: &dyn Operator) -> Option<Vec<Dim>> {
        let content = self.content(0)?;
        let dims: Option<Vec<usize>> = self.shape(0)?.dims()?.into_iter().map(|d| usize::try_from(d).ok()).collect();
        let dims = dims.filter(|d| elements(d) == Some(content.len()))?;
        let places = Tensor::from_ints(DType::I64, dims, 0..content.len() as i64);
        let rest = (1..self.n_inputs()).map(|slot| match self.constant(slot) {
            None if self.has(slot) => None,
            tensor => Some(tensor),
        });
        let inputs: Vec<Option<&Tensor>> = std::iter::once(Some(Some(&places))).chain(rest).collect::<Option<_>>()?;
        let moved = operator.eval(&inputs)?.first()?.ints()?;
        moved.into_iter().map(|p| content.get(usize::try_from(p).ok()?).cloned()).collect()
    }

    /// Content of an integer input where every number is known (negative ones too, from constants).
    pub fn known_ints(&self, slot: usize) -> Option<Vec<i64>> {
        if let Some(t) = self.constant(slot) {
            return if t.len() <= 4096 { t.ints() } else { None };
        }
        self.ints(slot)?.iter().map(|d| d.known().and_then(|n| i64::try_from(n).ok())).collect()
    }

    /// Content of an integer input, negative numbers too, as far as it is known; what is not a number as its dim.
    pub fn numbers(&self, slot: usize) -> Option<Vec<Result<i64, Dim>>> {
        if self.constant(slot).is_some_and(|t| !t.dtype().is_float()) {
            return Some(self.known_ints(slot)?.into_iter().map(Ok).collect());
        }
        let number = |d: Dim| d.known().and_then(|n| i64::try_from(n).ok()).ok_or(d);
        Some(self.ints(slot)?.into_iter().map(number).collect())
    }
}

/// A number of a shape tensor as a dim: negative numbers (the -1 of Reshape) are no dims.
fn int_dim(n: i64) -> Dim {
    u64::try_from(n).map_or(Dim::Unknown, Dim::Known)
}

/// A whole number among floats as a dim, if it is small enough to be computed with.
fn float_dim(x: f64) -> Dim {
    if (0.0..=MAX_EXACT).contains(&x) && x.fract() == 0.0 { Dim::Known(x as u64) } else { Dim::Unknown }
}

/// An axis counted from the front; `Err` if it is out of range.
pub fn axis(axis: i64, rank: usize) -> Result<usize, String> {
    let at = if axis < 0 { axis + rank as i64 } else { axis };
    usize::try_from(at).ok().filter(|&a| a < rank).ok_or_else(|| format!("axis {axis} is out of range for rank {rank}"))
}

/// Shape of the elementwise combination of two tensors. ONNX Broadcasting, multidirectional.
pub fn broadcast(a: &Shape, b: &Shape) -> Result<Shape, String> {
    let rank = a.rank().max(b.rank());
    let at = |s: &Shape, i: usize| match (i + s.rank()).checked_sub(rank) {
        Some(j) => s.0[j].clone(),
        None => Dim::Known(1),
    };
    let dim = |i| match (at(a, i), at(b, i)) {
        (Dim::Known(1), d) | (d, Dim::Known(1)) => Ok(d),
        (Dim::Known(x), Dim::Known(y)) if x != y => {
            Err(format!("the shapes {a} and {b} do not broadcast: {x} against {y}"))
        }
        (Dim::Known(x), _) | (_, Dim::Known(x)) => Ok(Dim::Known(x)),
        (x, y) if x == y => Ok(x),
        _ => Ok(Dim::Unknown),
    };
    (0..rank).map(dim).collect::<Result<Vec<_>, _>>().map(Shape)
}

impl Graph {
    /// Infers the outputs of one node and stores what is new. Says which values changed.
    ///
    /// What the file declares is kept where inference knows nothing, and corrected where it says something else: a number
    /// may be left from before an input was made dynamic.
    fn infer_node(&mut self, id: NodeId) -> Result<Vec<ValueId>, String> {
        let outputs = self.node_outputs(id);
        let facts = match self.node(id).op.operator() {
            Some(op) => op.infer(&Infer::new(self, id))?,
            None => vec![Fact::unknown(); outputs.len()],
        };
        let mut changed = Vec::new();
        for (value, fact) in outputs.into_iter().zip(facts) {
            let Some(value) = value else { continue };
            let v = self.value_mut(value);
            let mut ty = match (fact.ty, &v.ty) {
                (Some(new), Some(old)) if new.agrees(old) => Some(new.or(old)),
                (Some(new), Some(old)) => Some(merge_rank(&new, old)),
                (Some(new), None) => Some(new),
                (None, old) => old.clone(),
            };
            if let Some(Type::Tensor(_, Some(shape))) = &mut ty {
                shape.open();
            }
            if v.ty != ty || v.ints != fact.ints {
                v.ty = ty;
                v.ints = fact.ints;
                changed.push(value);
            }
        }
        Ok(changed)
    }

    /// Infers the whole graph, from the types of its inputs and constants. A node at which the file contradicts
    /// itself keeps its declared output types; returns those nodes with what is wrong.
    pub(crate) fn infer_all(&mut self) -> crate::Result<Vec<(NodeId, String)>> {
        let mut wrong = Vec::new();
        for v in self.inputs().to_vec() {
            if let Some(Type::Tensor(_, Some(shape))) = &mut self.value_mut(v).ty {
                shape.open();
            }
        }
        for id in self.topological()? {
            self.infer_bodies(id)?;
            if let Err(why) = self.infer_node(id) {
                self.node_mut(id).inconsistent = true;
                wrong.push((id, why));
            }
        }
        Ok(wrong)
    }

    /// The same graph with inputs of these dims, by name: for counting what one sample costs, and for training on batches.
    /// Whatever has a symbol of these dims gets its number. Where the file fixes a batch of one, so may constants that it
    /// reshapes to: these follow.
    ///
    /// # Errors
    /// If the graph has a cycle.
    pub fn at_sizes(&self, inputs: &[(String, Vec<usize>)]) -> crate::Result<Graph> {
        let mut graph = self.clone();
        let one = |name: &String| self.find_value(name).is_some_and(|v| self.begins_with_one(v));
        if inputs.iter().any(|(name, dims)| one(name) && dims.first().is_some_and(|&d| d > 1)) {
            graph.open_targets()?;
        }
        let numbers = self.numbers_of_symbols(inputs);
        for v in graph.values().collect::<Vec<_>>() {
            if let Some(Type::Tensor(_, Some(shape))) = &mut graph.value_mut(v).ty {
                for d in &mut shape.0 {
                    *d = numbers.get(d).unwrap_or(d).clone();
                }
            }
        }
        for (name, dims) in inputs {
            if let Some(id) = graph.find_value(name) {
                let value = graph.value_mut(id);
                value.ty =
                    value.ty.as_ref().and_then(Type::dtype).map(|d| Type::tensor(d, Shape::from(dims.as_slice())));
            }
        }
        graph.infer_all()?;
        Ok(graph)
    }

    /// What the symbols of inputs are if the inputs have these dims; a symbol that would be two numbers is not there.
    fn numbers_of_symbols(&self, inputs: &[(String, Vec<usize>)]) -> HashMap<Dim, Dim> {
        let mut numbers: HashMap<Dim, Dim> = HashMap::new();
        let mut torn: HashSet<Dim> = HashSet::new();
        for (name, dims) in inputs {
            let Some(shape) = self.find_value(name).and_then(|v| self.value(v).ty.as_ref()?.shape()) else { continue };
            for (symbol, &n) in shape.0.iter().zip(dims).filter(|d| d.0.is_named()) {
                let number = Dim::Known(n as u64);
                if *numbers.entry(symbol.clone()).or_insert(number.clone()) != number {
                    torn.insert(symbol.clone());
                }
            }
        }
        numbers.retain(|symbol, _| !torn.contains(symbol));
        numbers
    }

    fn begins_with_one(&self, v: ValueId) -> bool {
        let shape = self.value(v).ty.as_ref().and_then(Type::shape);
        shape.is_some_and(|s| s.0.first() == Some(&Dim::Known(1)))
    }

    /// Has reshapes of what begins with a dim of one take that dim over, where they say 1.
    fn open_targets(&mut self) -> crate::Result<()> {
        let mut patch = Patch::at_graph(self).revealing();
        for n in self.nodes() {
            let slots = self.input(n, 0).zip(self.input(n, 1));
            let (Op::Reshape(Reshape { allow_zero: false }), Some((x, target))) = (&self.node(n).op, slots) else {
                continue;
            };
            let wanted = self.value(target).constant().and_then(Tensor::ints).filter(|_| self.begins_with_one(x));
            if let Some([1, rest @ ..]) = wanted.as_deref() {
                let open = [&[0], rest].concat();
                let open = patch.constant("target", Tensor::from_ints(DType::I64, [open.len()], open));
                patch.set_inputs(n, &[Some(x.into()), Some(open)]);
            }
        }
        self.apply(patch).map(drop)
    }

    /// Infers the bodies of a control-flow node, from the types of what they capture.
    fn infer_bodies(&mut self, id: NodeId) -> crate::Result<()> {
        if !self.node(id).has_bodies() {
            return Ok(());
        }
        let captured: Vec<_> =
            self.node_captures(id).into_iter().map(|(b, i, v)| (b, i, self.value(v).clone())).collect();
        for (b, body) in self.node_mut(id).bodies_mut().enumerate() {
            for (_, i, outer) in captured.iter().filter(|c| c.0 == b) {
                let inner = body.captures()[*i];
                let v = body.value_mut(inner);
                v.ty = outer.ty.clone();
                v.ints = outer.ints.clone();
            }
            body.infer_all()?;
        }
        Ok(())
    }

    /// Infers `from` and whatever their results reach. Returns the nodes visited, in order.
    ///
    /// # Errors
    /// If a node that was consistent in the file no longer is: an edit was wrong. An edit that only `reveals` what the
    /// file says anyway cannot be: it is the file that contradicts itself there.
    pub(in crate::ir) fn infer_from(&mut self, from: &[NodeId], reveals: bool) -> crate::Result<Vec<NodeId>> {
        let mut queue: BTreeSet<_> = from.iter().map(|&n| (self.node(n).order, n)).collect();
        let mut seen = BTreeSet::new();
        // A node may be visited before what feeds it is up to date: it is wrong only if it stays so.
        let mut wrong = BTreeMap::new();
        while let Some((order, id)) = queue.pop_first() {
            seen.insert((order, id));
            match self.infer_node(id) {
                Ok(changed) => {
                    wrong.remove(&(order, id));
                    for v in changed {
                        queue.extend(self.readers(v).map(|u| (self.node(u).order, u)));
                    }
                }
                Err(_) if self.node(id).inconsistent => {}
                Err(why) => {
                    wrong.insert((order, id), why);
                }
            }
        }
        if reveals {
            wrong.keys().for_each(|&(_, id)| self.node_mut(id).inconsistent = true);
        } else if let Some(((_, id), why)) = wrong.pop_first() {
            let at = format!("{} \"{}\"", self.node(id).kind(), self.label(id));
            return Err(crate::Error::internal("a rewrite broke the graph").at(at).because(why));
        }
        Ok(seen.into_iter().map(|s| s.1).collect())
    }
}

/// A type that contradicts the old one: only its unknown dims, if the rank is the same, are taken from the old.
fn merge_rank(new: &Type, old: &Type) -> Type {
    match (new, old) {
        (Type::Tensor(a, Some(s)), Type::Tensor(b, Some(t))) if a == b && s.rank() == t.rank() => {
            Type::Tensor(*a, Some(s.or(t)))
        }
        _ => new.clone(),
    }
}

#[cfg(test)]
mod tests {
    use crate::ir::text::parse;

    #[test]
    fn a_batch_of_one_opens() {
        for target in ["1,-1", "1,32"] {
            let text = format!(
                "model m opset 17 {{
                    input %x : f32[1,2,4,4] const %t : i64[2] = {{{target}}} const %w : f32[3,32] = seed(1)
                    %f : f32[1,32] = Reshape(%x, %t)
                    %y : f32[1,3] = Gemm<transB=1>(%f, %w)
                    output %y
                }}"
            );
            let graph = parse::model(&text).unwrap().graph;
            let sized = graph.at_sizes(&[("x".into(), vec![5, 2, 4, 4])]).unwrap();
            let output = sized.value(sized.outputs()[0]);
            assert_eq!(output.ty.as_ref().unwrap().to_string(), "f32[5,3]", "{target}");
        }
    }
}
