//! Names: which are taken in a model, and how new ones are made.

use crate::ir::graph::{Graph, ValueId};
use crate::ir::node::Node;
use crate::ir::op::Op;
use crate::ir::value::{Form, Source, Value};
use std::collections::{HashMap, HashSet};

/// The longest name, in bytes, that a new name repeats in full.
const LONGEST: usize = 64;

/// How much of a longer name a new name repeats.
const KEPT: usize = 40;

/// The name of something made for what is called `base`. A long base is cut and told apart by its digest: a pass adds so
/// many names that it must not repeat kilobytes in each.
pub fn derived(base: &str, suffix: &str) -> String {
    let base = short(base);
    if suffix.is_empty() { base } else { format!("{base}.{suffix}") }
}

/// A name of at most [`LONGEST`] bytes that stands for this one alone.
pub fn short(name: &str) -> String {
    if name.len() <= LONGEST {
        return name.to_string();
    }
    let end = (0..=KEPT).rev().find(|&end| name.is_char_boundary(end)).unwrap_or(0);
    format!("{}~{:016x}", &name[..end], digest(name.as_bytes()))
}

/// FNV-1a: the same number for the same bytes on every machine and in every version.
pub fn digest(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &b| (hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

type NameCounts = HashMap<u64, u32, foldhash::fast::FixedState>;

/// The names in use in a model, known by their digests: if two ever had the same one, a free name would look taken.
#[derive(Debug, Clone, Default)]
pub(in crate::ir) struct Taken {
    values: NameCounts,
    nodes: NameCounts,
    /// For a wanted name that was taken, the number to try next.
    next: NameCounts,
}

impl Taken {
    /// The names of a graph and of all bodies in it.
    pub fn of(graph: &Graph) -> Taken {
        let mut taken = Taken::default();
        taken.count(graph, true);
        taken
    }

    /// Adds or takes away every name of a graph and of the bodies in it.
    pub fn count(&mut self, graph: &Graph, add: bool) {
        graph.values().for_each(|v| self.count_value(graph.value(v), add));
        graph.nodes().for_each(|n| self.count_node(graph.node(n), add));
    }

    /// The name of a value, and of the `Constant` node that it is in the file.
    pub fn count_value(&mut self, value: &Value, add: bool) {
        self.value(&value.name, add);
        if let Source::Constant(_, Form::Node { name, .. }) = &value.source {
            self.node(name, add);
        }
    }

    /// The name of a node, and all in its bodies.
    pub fn count_node(&mut self, node: &Node, add: bool) {
        self.node(&node.name, add);
        self.count_bodies(node, add);
    }

    pub fn count_bodies(&mut self, node: &Node, add: bool) {
        node.bodies().for_each(|body| self.count(body, add));
    }

    pub fn value(&mut self, name: &str, add: bool) {
        count(&mut self.values, name, add);
    }

    /// A node's own name, if it has one.
    pub fn node(&mut self, name: &str, add: bool) {
        if !name.is_empty() {
            count(&mut self.nodes, name, add);
        }
    }

    pub fn has_value(&self, name: &str) -> bool {
        self.values.contains_key(&digest(name.as_bytes()))
    }

    pub fn has_node(&self, name: &str) -> bool {
        self.nodes.contains_key(&digest(name.as_bytes()))
    }

    pub fn has(&self, name: &str) -> bool {
        self.has_value(name) || self.has_node(name)
    }

    /// How many nodes have a name.
    pub fn nodes_called(&self, name: &str) -> u32 {
        self.nodes.get(&digest(name.as_bytes())).copied().unwrap_or(0)
    }

    /// A name that nothing has: `wanted`, else `wanted_2`, `wanted_3`, …
    pub fn fresh(&mut self, wanted: &str) -> String {
        if !self.has(wanted) {
            return wanted.to_string();
        }
        let key = digest(wanted.as_bytes());
        let mut number = self.next.get(&key).copied().unwrap_or(2);
        let mut name = format!("{wanted}_{number}");
        while self.has(&name) {
            number += 1;
            name = format!("{wanted}_{number}");
        }
        self.next.insert(key, number + 1);
        name
    }
}

fn count(counts: &mut NameCounts, name: &str, add: bool) {
    use std::collections::hash_map::Entry;
    match (counts.entry(digest(name.as_bytes())), add) {
        (Entry::Occupied(mut at), true) => *at.get_mut() += 1,
        (Entry::Occupied(at), false) if *at.get() == 1 => drop(at.remove()),
        (Entry::Occupied(mut at), false) => *at.get_mut() -= 1,
        (Entry::Vacant(at), true) => drop(at.insert(1)),
        (Entry::Vacant(_), false) => {}
    }
}

/// Whether a value has a name of its own that may be changed: nothing outside the graph's edges refers to it.
pub(in crate::ir) fn is_local(graph: &Graph, v: ValueId) -> bool {
    let value = graph.value(v);
    !value.pinned && !matches!(value.source, Source::Capture | Source::Carried)
}

impl Graph {
    /// Gives other names to nodes that share one within a graph, and to values of bodies that hide a value around them;
    /// says how many got one. ONNX Runtime refuses the former, and the latter where it sees them. What the
    /// body of an operator that we do not know hides stays hidden.
    pub fn separate_names(&mut self) -> usize {
        let mut taken = Taken::of(self);
        let renamed = self.separate(&mut HashSet::new(), &mut taken);
        self.taken = Default::default();
        renamed
    }

    fn separate(&mut self, around: &mut HashSet<String>, taken: &mut Taken) -> usize {
        let mut renamed = 0;
        let mut seen = HashSet::new();
        let mut enclosing = Vec::new();
        for n in self.nodes().collect::<Vec<_>>() {
            let node = self.node(n);
            if node.has_bodies() {
                enclosing.push(n);
            }
            if !node.name.is_empty() && !seen.insert(digest(node.name.as_bytes())) {
                let name = taken.fresh(&node.name);
                taken.node(&name, true);
                seen.insert(digest(name.as_bytes()));
                self.node_mut(n).name = name;
                renamed += 1;
            }
        }
        if around.is_empty() && enclosing.is_empty() {
            return renamed;
        }
        for v in self.values().collect::<Vec<_>>() {
            if is_local(self, v) && around.contains(&self.value(v).name) {
                let name = taken.fresh(&self.value(v).name);
                taken.value(&name, true);
                self.rename_value(v, name);
                renamed += 1;
            }
        }
        if enclosing.is_empty() {
            return renamed;
        }
        let own: Vec<String> = self.values().map(|v| self.value(v).name.clone()).collect();
        let own: Vec<String> = own.into_iter().filter(|name| around.insert(name.clone())).collect();
        for n in enclosing {
            let mut nothing = HashSet::new();
            let seen = if self.node(n).op == Op::Opaque { &mut nothing } else { &mut *around };
            renamed += self.node_mut(n).bodies_mut().map(|body| body.separate(seen, taken)).sum::<usize>();
        }
        for name in &own {
            around.remove(name);
        }
        renamed
    }

    /// How many nodes have a name in and around this graph, as far as names were looked at.
    pub(in crate::ir) fn nodes_called(&self, name: &str) -> u32 {
        self.taken.get().map_or(0, |taken| taken.nodes_called(name))
    }

    /// Whether no value and no node in or around this graph has the name.
    pub fn is_free(&self, name: &str) -> bool {
        !self.taken().has(name)
    }

    /// A name that no value and no node in or around this graph has: `wanted`, else `wanted_2`, `wanted_3`, …
    pub fn free_name(&self, wanted: &str) -> String {
        numbered(wanted, |name| self.is_free(name))
    }

    /// As [`Graph::free_name`], for a node that may be called like a value.
    pub fn free_node_name(&self, wanted: &str) -> String {
        numbered(wanted, |name| name.is_empty() || !self.taken().has_node(name))
    }
}

fn numbered(wanted: &str, is_free: impl Fn(&str) -> bool) -> String {
    let mut name = wanted.to_string();
    let mut number = 2;
    while !is_free(&name) {
        name = format!("{wanted}_{number}");
        number += 1;
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::text::{parse, print};

    #[test]
    fn long_names_are_cut_and_stay_apart() {
        let long = "ä".repeat(2000);
        let (a, b) = (derived(&format!("{long}a"), "weight"), derived(&format!("{long}b"), "weight"));
        assert!(a != b && a.len() <= LONGEST + ".weight".len(), "{a} {b}");
        assert_eq!(derived("conv1", "weight"), "conv1.weight");
        assert_eq!(derived("conv1", ""), "conv1");
    }

    #[test]
    fn digests_are_those_of_fnv() {
        assert_eq!(digest(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(digest(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn numbers_go_on_where_they_were() {
        let mut taken = Taken::default();
        for want in ["w", "w_2", "w_3"] {
            let name = taken.fresh("w");
            assert_eq!(name, want);
            taken.value(&name, true);
        }
        taken.value("w", false);
        assert_eq!(taken.fresh("w"), "w");
    }

    /// What ONNX Runtime refuses gets other names; a node of a body may be called like one outside.
    #[test]
    fn shared_and_hidden_names_are_told_apart() {
        let text = "model \"m\" opset 17 {
  input %x : f32[4]
  input %c : bool[]

  %a : f32[4] = Neg(%x) @n
  %t : f32[4] = Neg(%a) @n
  %y : f32[4] = If(%c) @if {
    then_branch \"then\" {

      %t : f32[4] = Abs(%a) @n

      output %t
    }
    else_branch \"else\" {

      %e : f32[4] = Abs(%t) @n

      output %e
    }
  }

  output %y
}
";
        let mut model = parse::model(text).unwrap();
        assert!(model.graph.verify().is_err());
        assert_eq!(model.graph.separate_names(), 2);
        model.graph.verify().unwrap();
        let want = text.replace("Neg(%a) @n", "Neg(%a) @n_2");
        let want = want.replace("%t : f32[4] = Abs(%a)", "%t_2 : f32[4] = Abs(%a)");
        assert_eq!(print::model(&model), want.replacen("output %t\n", "output %t_2\n", 1));
        assert_eq!(model.graph.separate_names(), 0);
    }
}
