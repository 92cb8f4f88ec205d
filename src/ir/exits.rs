//! Early exits: answers that a network gives before it is through, when it is sure of them.
//!
//! In the IR such a network is flat: all of it is computed, the heads of its exits hang on the trunk, and every [`Exit`]
//! names the value that answers and the condition under which it does. So passes see every weight once, wherever it is
//! read. In a file an exit is an `If`, in whose else branch the rest of the network is: [`Graph::nested`] makes that form,
//! [`Graph::flatten`] takes it back.

use crate::error::{Error, Result};
use crate::ir::attr::{Attr, AttrValue};
use crate::ir::graph::{Graph, NodeId, ValueId};
use crate::ir::names::{Taken, derived};
use crate::ir::op::binary::{Binary, BinaryKind};
use crate::ir::op::control::If;
use crate::ir::op::unary::Unary;
use crate::ir::value::{Form, Source, Value};
use crate::ir::{DType, Model, Node, Op, Tensor};
use std::borrow::Cow;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

/// One exit: the model's output is `answer` where `sure` holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// The value that answers.
    pub answer: ValueId,
    /// One bool: a confidence is greater than a constant, the threshold.
    pub sure: ValueId,
}

impl Model {
    /// The model as files have it: no exits but `If` nodes.
    ///
    /// # Errors
    /// Internal ones: exits that do not come before the output.
    pub fn nested(&self) -> Result<Cow<'_, Model>> {
        if self.graph.exits().is_empty() {
            return Ok(Cow::Borrowed(self));
        }
        let mut model = Model { graph: self.graph.nested()?, ..self.clone() };
        model.raise_ir();
        Ok(Cow::Owned(model))
    }
}

impl Graph {
    /// Exits in the order they are asked.
    pub fn exits(&self) -> &[Exit] {
        &self.exits
    }

    /// Adds an exit that is asked after the others.
    pub fn add_exit(&mut self, exit: Exit) {
        for v in [exit.answer, exit.sure] {
            self.value_mut(v).pinned = true;
        }
        self.exits.push(exit);
    }

    /// Confidence and threshold of an exit.
    pub fn threshold(&self, exit: Exit) -> Option<(ValueId, f32)> {
        let (n, _) = self.producer(exit.sure)?;
        (self.node(n).op == Op::Binary(Binary(BinaryKind::Greater))).then_some(())?;
        Some((self.input(n, 0)?, self.input_constant(n, 1)?.float_scalar()? as f32))
    }

    /// The constant that holds the threshold of an exit.
    pub fn threshold_value(&self, exit: Exit) -> Option<ValueId> {
        self.threshold(exit).and_then(|_| self.input(self.producer(exit.sure)?.0, 1))
    }

    /// Which exit every node comes before: 0 for what runs always, the number of exits for what only the last answer takes.
    ///
    /// # Errors
    /// If the graph has a cycle.
    pub fn levels(&self) -> Result<HashMap<NodeId, usize>> {
        let mut levels = HashMap::new();
        for (level, exit) in self.exits().iter().enumerate() {
            let mut open: Vec<ValueId> = vec![exit.answer, exit.sure];
            while let Some(v) = open.pop() {
                let Some((n, _)) = self.producer(v).filter(|(n, _)| !levels.contains_key(n)) else { continue };
                levels.insert(n, level);
                open.extend(self.node_inputs(n).into_iter().flatten());
                open.extend(self.node_captures(n).into_iter().map(|c| c.2));
            }
        }
        let last = self.exits().len();
        for n in self.nodes() {
            levels.entry(n).or_insert(last);
        }
        Ok(levels)
    }

    /// The graph with an `If` for every exit, the rest of the network in its else branch.
    ///
    /// # Errors
    /// Internal ones: exits that do not come before the output.
    pub fn nested(&self) -> Result<Graph> {
        let mut g = self.clone();
        let exits = std::mem::take(&mut g.exits);
        let mut taken = Taken::of(&g);
        let (levels, order) = (self.levels()?, self.topological()?);
        let mut inside: Vec<NodeId> = order.iter().copied().filter(|n| levels[n] == exits.len()).collect();
        if let Some(name) = g.exit_output.take() {
            let number = g.number(&mut taken, &name, exits.len())?;
            let called = fresh(&mut taken, &name);
            let exit = g.add_value(Value::new(name, Source::Node))?;
            inside.push(g.add_node(
                Node::new(called, Unary::IDENTITY.into(), g.opset),
                u32::MAX,
                &[Some(number)],
                &[Some(exit)],
            ));
            g.add_output(exit);
        }
        let outputs = g.outputs().to_vec();
        for (level, exit) in exits.iter().enumerate().rev() {
            let mut answers = vec![exit.answer];
            if outputs.len() > 1 {
                answers.push(g.number(&mut taken, &g.value(exit.answer).name.clone(), level)?);
            }
            let node = g.nest(&inside, *exit, &answers, &mut taken)?;
            inside = order.iter().copied().filter(|n| levels[n] == level).collect();
            inside.push(node);
        }
        g.infer_all()?;
        Ok(g)
    }

    /// A constant that says which exit is taken.
    fn number(&mut self, taken: &mut Taken, site: &str, exit: usize) -> Result<ValueId> {
        let name = fresh(taken, &derived(site, "number"));
        self.add_value(Value::new(name, Source::Constant(Tensor::scalar_i64(exit as i64), Form::INITIALIZER)))
    }

    /// Moves nodes, in the order they run, into the else branch of an `If` that gives the graph's outputs.
    fn nest(&mut self, inside: &[NodeId], exit: Exit, answers: &[ValueId], taken: &mut Taken) -> Result<NodeId> {
        let outputs = self.outputs().to_vec();
        let at = inside.iter().map(|&n| self.node(n).order.0).min().unwrap_or(u32::MAX);
        let mut rest = Branch::new("rest", self, inside);
        for &n in inside {
            rest.place_node(self, n, &outputs, taken)?;
        }
        let mut early = Branch::new("exit", self, &[]);
        for (&answer, &output) in answers.iter().zip(&outputs) {
            let from = early.place(self, answer)?;
            let name = fresh(taken, &derived(&self.value(output).name, "exit"));
            let to = early.body.add_value(Value::new(name.clone(), Source::Node))?;
            early.body.add_node(Node::new(name, Unary::IDENTITY.into(), self.opset), 0, &[Some(from)], &[Some(to)]);
            early.body.add_output(to);
        }
        for output in &outputs {
            let inner = rest.placed.get(output).copied();
            let inner = inner.ok_or_else(|| Error::internal("an exit comes after the output that it answers for"))?;
            rest.body.add_output(inner);
        }
        for &n in inside {
            let made: Vec<ValueId> = self.node_outputs(n).into_iter().flatten().collect();
            self.remove_node(n);
            made.into_iter().filter(|v| !outputs.contains(v)).for_each(|v| self.remove_value(v));
        }
        for branch in [&early, &rest] {
            branch.moved.iter().for_each(|&v| self.remove_value(v));
        }
        let name = fresh(taken, &derived(&self.value(exit.answer).name, "if"));
        let mut node = Node::new(name, Op::If(If), self.opset);
        let branches = [("then_branch", early), ("else_branch", rest)].map(|(name, branch)| {
            node.attrs.push(Attr::new(name, AttrValue::Graph(Box::new(branch.body))));
            branch.captured
        });
        let slots: Vec<_> = outputs.into_iter().map(Some).collect();
        let id = self.add_node(node, at, &[Some(exit.sure)], &slots);
        for (b, captured) in branches.into_iter().enumerate() {
            captured.into_iter().enumerate().for_each(|(i, v)| self.connect_capture(id, b, i, v));
        }
        Ok(id)
    }

    /// Takes every `If` that is an exit apart: the rest of the network comes out of its else branch. Says how many there were.
    ///
    /// # Errors
    /// Internal ones only.
    pub fn flatten(&mut self) -> Result<usize> {
        if self.find_exit(0).is_none() {
            return Ok(0);
        }
        let mut flat = self.clone();
        let mut found = 0;
        while let Some((node, exit)) = flat.find_exit(found) {
            flat.unnest(node)?;
            flat.add_exit(exit);
            found += 1;
        }
        if flat.outputs().len() > 1 {
            let number = flat.outputs()[1];
            if flat.exit_number(number) != Some(found as i64) || flat.is_used(number) {
                // What says which way was taken says something else, or to others too: these are no exits of ours.
                return Ok(0);
            }
            flat.remove_output(1);
            flat.exit_output = Some(flat.value(number).name.clone());
            if let Some((n, _)) = flat.producer(number) {
                let read = flat.node_inputs(n);
                flat.remove_node(n);
                let unread: Vec<ValueId> = read.into_iter().flatten().filter(|&v| flat.is_unused(v)).collect();
                unread.into_iter().for_each(|v| flat.remove_value(v));
            }
            flat.remove_value(number);
        }
        flat.infer_all()?;
        *self = flat;
        Ok(found)
    }

    /// The `If` that gives all outputs of the graph, as [`Graph::nested`] writes it for the exit of this number.
    fn find_exit(&self, number: usize) -> Option<(NodeId, Exit)> {
        let (n, 0) = self.producer(*self.outputs().first()?)? else { return None };
        let slots: Option<Vec<ValueId>> = self.node_outputs(n).into_iter().collect();
        let node = self.node(n);
        let bodies: Vec<(&str, &Graph)> = node.attrs.iter().map(|a| a.name.as_str()).zip(node.bodies()).collect();
        let [("then_branch", early), ("else_branch", rest)] = bodies[..] else { return None };
        let shaped = node.op == Op::If(If) && slots.as_deref() == Some(self.outputs()) && !node.inconsistent;
        let once = |v: ValueId| rest.outputs().iter().filter(|&&o| o == v).count() == 1;
        let made = |v: ValueId| rest.producer(v).is_some() || rest.exit_number(v).is_some();
        let plain = early.nodes().all(|n| early.node(n).op == Op::Unary(Unary::IDENTITY)) && early.inputs().is_empty();
        let whole = rest.inputs().is_empty()
            && rest.outputs().iter().all(|&v| made(v) && once(v))
            && rest.outputs().first().is_some_and(|&v| rest.producer(v).is_some())
            && self.outputs().len() <= 2;
        let told = early.input(early.producer(*early.outputs().first()?)?.0, 0)?;
        let answer =
            self.node_captures(n).into_iter().find(|c| c.0 == 0 && early.captures().get(c.1) == Some(&told))?.2;
        self.producer(answer)?;
        let numbered = early.outputs().iter().skip(1).all(|&v| early.exit_number(v) == Some(number as i64));
        let exit = Exit { answer, sure: self.input(n, 0)? };
        (shaped && plain && whole && numbered && self.threshold(exit).is_some()).then_some((n, exit))
    }

    /// The number in a constant int64 scalar, or in what an `Identity` makes of one.
    fn exit_number(&self, v: ValueId) -> Option<i64> {
        let source = match self.producer(v) {
            Some((n, _)) if self.node(n).op == Op::Unary(Unary::IDENTITY) => self.input(n, 0)?,
            _ => v,
        };
        let tensor = self.value(source).constant()?;
        tensor.int_scalar().filter(|_| tensor.dtype() == DType::I64 && tensor.rank() == 0)
    }

    /// Puts the nodes of the else branch in the place of their `If`.
    fn unnest(&mut self, node: NodeId) -> Result<()> {
        let Some(body) = self.node(node).bodies().nth(1).cloned() else {
            return Err(Error::internal("no else branch"));
        };
        let slots = self.node_outputs(node);
        let mut here: HashMap<ValueId, ValueId> = HashMap::new();
        let captures = self.node_captures(node).into_iter().filter(|c| c.0 == 1);
        here.extend(captures.map(|(_, i, v)| (body.captures()[i], v)));
        let at = self.node(node).order.0;
        self.remove_node(node);
        for (&inner, outer) in body.outputs().iter().zip(slots.into_iter().flatten()) {
            if body.producer(inner).is_none() {
                self.value_mut(outer).source = body.value(inner).source.clone();
            }
            here.insert(inner, outer);
        }
        for v in body.values() {
            if let Entry::Vacant(place) = here.entry(v) {
                let mut value = body.value(v).clone();
                value.name = self.free_name(&value.name);
                place.insert(self.add_value(value)?);
            }
        }
        for n in body.topological()? {
            let map = |slots: Vec<Option<ValueId>>| slots.into_iter().map(|v| v.map(|v| here[&v])).collect::<Vec<_>>();
            let (reads, makes) = (map(body.node_inputs(n)), map(body.node_outputs(n)));
            let mut inner = body.node(n).clone();
            inner.name = self.free_node_name(&inner.name);
            let id = self.add_node(inner, at, &reads, &makes);
            body.node_captures(n).into_iter().for_each(|(b, i, v)| self.connect_capture(id, b, i, here[&v]));
        }
        Ok(())
    }
}

/// A body in the making.
struct Branch {
    body: Graph,
    inside: HashSet<NodeId>,
    placed: HashMap<ValueId, ValueId>,
    /// What it reads from around it, in order.
    captured: Vec<ValueId>,
    /// Constants that only it reads, and takes along.
    moved: Vec<ValueId>,
}

impl Branch {
    fn new(title: &str, around: &Graph, inside: &[NodeId]) -> Branch {
        Branch {
            body: Graph::new(title, around.opset),
            inside: inside.iter().copied().collect(),
            placed: HashMap::new(),
            captured: Vec::new(),
            moved: Vec::new(),
        }
    }

    /// A value of the graph around as this body knows it.
    fn place(&mut self, around: &Graph, v: ValueId) -> Result<ValueId> {
        if let Some(&there) = self.placed.get(&v) {
            return Ok(there);
        }
        let value = around.value(v);
        let own = |n| self.inside.contains(&n);
        // Without nodes of its own a body answers with what is made for it alone.
        let alone = if self.inside.is_empty() { !around.is_used(v) } else { around.is_read_only_within(v, own) };
        let there = match &value.source {
            Source::Constant(tensor, form) if alone => {
                self.moved.push(v);
                let form = match form {
                    Form::Initializer { carried, .. } => Form::Initializer { listed: false, carried: carried.clone() },
                    form => form.clone(),
                };
                self.body.add_value(Value { source: Source::Constant(tensor.clone(), form), ..value.clone() })?
            }
            _ => {
                self.captured.push(v);
                self.body.add_capture(&value.name)?
            }
        };
        self.placed.insert(v, there);
        Ok(there)
    }

    fn place_node(&mut self, around: &Graph, n: NodeId, outputs: &[ValueId], taken: &mut Taken) -> Result<()> {
        let reads = around.node_inputs(n).into_iter().map(|v| v.map(|v| self.place(around, v)).transpose());
        let reads = reads.collect::<Result<Vec<_>>>()?;
        let captures = around.node_captures(n);
        let captured = captures.iter().map(|c| self.place(around, c.2)).collect::<Result<Vec<_>>>()?;
        let mut makes = Vec::new();
        for v in around.node_outputs(n) {
            let Some(v) = v else {
                makes.push(None);
                continue;
            };
            let mut value = around.value(v).clone();
            value.pinned = false;
            if outputs.contains(&v) {
                value.name = fresh(taken, &derived(&value.name, "rest"));
                value.listing = Default::default();
            }
            let there = self.body.add_value(value)?;
            self.placed.insert(v, there);
            makes.push(Some(there));
        }
        let id = self.body.add_node(around.node(n).clone(), around.node(n).order.0, &reads, &makes);
        captures.into_iter().zip(captured).for_each(|((b, i, _), v)| self.body.connect_capture(id, b, i, v));
        Ok(())
    }
}

/// A name that nothing in or around has.
fn fresh(taken: &mut Taken, wanted: &str) -> String {
    let name = taken.fresh(wanted);
    taken.value(&name, true);
    name
}

#[cfg(test)]
mod tests {
    use crate::ir::text::{parse, print};

    const FLAT: &str = "model \"m\" opset 13 {
  input %x : f32[N,16]
  const %w1 : f32[16,16]
  const %w2 : f32[16,16]
  const %shared : f32[16]
  const %t1 : f32[] = {0.5}
  const %t2 : f32[] = {0.25}

  %a : f32[N,16] = MatMul(%x, %w1)
  %c1 : f32[] = ReduceMax<keepdims=0>(%a)
  %s1 : bool[] = Greater(%c1, %t1)
  %b : f32[N,16] = Add(%a, %shared)
  %c2 : f32[] = ReduceMax<keepdims=0>(%b)
  %s2 : bool[] = Greater(%c2, %t2)
  %d : f32[N,16] = MatMul(%b, %w2)
  %y : f32[N,16] = Mul(%d, %shared)

  output %y
  exit %a when %s1
  exit %b when %s2
}
";

    /// What a file has: every exit an `If`, the second inside the first's else branch, with the constants that only it reads.
    const NESTED: &str = "model \"m\" opset 13 {
  input %x : f32[N,16]
  const %w1 : f32[16,16]
  const %t1 : f32[] = {0.5}

  %a : f32[N,16] = MatMul(%x, %w1)
  %c1 : f32[] = ReduceMax<keepdims=0>(%a)
  %s1 : bool[] = Greater(%c1, %t1)
  %y : f32[N,16] = If(%s1) @a.if {
    then_branch \"exit\" {

      %y.exit_2 : f32[N,16] = Identity(%a)

      output %y.exit_2
    }
    else_branch \"rest\" {
      const %shared : f32[16]
      const %t2 : f32[] = {0.25}

      %b : f32[N,16] = Add(%a, %shared)
      %c2 : f32[] = ReduceMax<keepdims=0>(%b)
      %s2 : bool[] = Greater(%c2, %t2)
      %y.rest_2 : f32[N,16] = If(%s2) @b.if {
        then_branch \"exit\" {

          %y.exit : f32[N,16] = Identity(%b)

          output %y.exit
        }
        else_branch \"rest\" {
          const %w2 : f32[16,16]

          %d : f32[N,16] = MatMul(%b, %w2)
          %y.rest : f32[N,16] = Mul(%d, %shared) @y

          output %y.rest
        }
      }

      output %y.rest_2
    }
  }

  output %y
}
";

    #[test]
    fn exits_become_nested_ifs_and_come_back() {
        let flat = parse::model(FLAT).unwrap();
        assert_eq!(print::model(&flat), FLAT);
        let nested = flat.nested().unwrap().into_owned();
        nested.graph.verify().unwrap();
        assert_eq!(print::model(&nested), NESTED);
        let mut back = parse::model(NESTED).unwrap();
        assert_eq!(back.graph.flatten().unwrap(), 2);
        back.graph.verify().unwrap();
        let lines = |text: &str| {
            let mut lines: Vec<String> = text.lines().map(str::to_string).collect();
            lines.sort();
            lines
        };
        assert_eq!(lines(&print::model(&back)), lines(FLAT));
    }

    #[test]
    fn the_number_of_the_exit_is_an_output_of_files_alone() {
        let mut flat = parse::model(FLAT).unwrap();
        flat.graph.exit_output = Some("which".into());
        assert_eq!(flat.graph.outputs().len(), 1);
        let nested = flat.nested().unwrap().into_owned();
        nested.graph.verify().unwrap();
        let outputs: Vec<_> = nested.graph.outputs().iter().map(|&v| nested.graph.value(v)).collect();
        assert_eq!(outputs[1].name, "which");
        assert_eq!(outputs[1].ty.as_ref().unwrap().to_string(), "i64[]");
        let mut back = nested.clone();
        assert_eq!(back.graph.flatten().unwrap(), 2);
        assert_eq!(back.graph.exit_output.as_deref(), Some("which"));
        assert_eq!(back.graph.outputs().len(), 1);
        back.graph.verify().unwrap();
        assert_eq!(print::model(&back.nested().unwrap()), print::model(&nested));
    }

    /// As `clean` leaves it: the numbers are constants, and no longer named again.
    #[test]
    fn numbers_may_be_folded() {
        let mut flat = parse::model(FLAT).unwrap();
        flat.graph.exit_output = Some("which".into());
        let mut text = print::model(&flat.nested().unwrap());
        for line in text.clone().lines().filter(|l| l.contains("= Identity(%") && l.contains("number")) {
            let name = line.trim().split(' ').next().unwrap();
            let of = line.split("Identity(").nth(1).unwrap().split(')').next().unwrap();
            let value = text
                .lines()
                .find(|l| l.contains(&format!("const {of} :")))
                .unwrap()
                .split('=')
                .nth(1)
                .unwrap()
                .to_string();
            text = text.replace(line, &format!("const {name} : i64[] ={value}"));
        }
        let mut folded = parse::model(&text).unwrap();
        assert_eq!(folded.graph.flatten().unwrap(), 2, "{text}");
        folded.graph.verify().unwrap();
        assert_eq!(folded.graph.exit_output.as_deref(), Some("which"));
        assert_eq!(folded.graph.outputs().len(), 1);
    }

    /// A number that the network reads itself is no output that can go.
    #[test]
    fn numbers_that_are_read_stay() {
        let mut flat = parse::model(FLAT).unwrap();
        flat.graph.exit_output = Some("which".into());
        let text = print::model(&flat.nested().unwrap());
        let read = text.replace("\n  output %y\n", "\n  %read : i64[] = Neg(%which)\n\n  output %y\n");
        assert_ne!(read, text);
        assert_eq!(parse::model(&read).unwrap().graph.flatten().unwrap(), 0);
        assert_eq!(parse::model(&text).unwrap().graph.flatten().unwrap(), 2);
    }

    /// An `If` that does something else than an exit stays one.
    #[test]
    fn other_ifs_stay() {
        for (from, to) in [
            ("Identity(%a)", "Neg(%a)"),
            ("Greater(%c1, %t1)", "Less(%c1, %t1)"),
            ("output %y\n}", "output %y\n  output %a\n}"),
        ] {
            let text = NESTED.replace(from, to);
            assert_ne!(text, NESTED);
            let mut model = parse::model(&text).unwrap();
            assert_eq!(model.graph.flatten().unwrap(), 0, "{text}");
        }
    }
}
