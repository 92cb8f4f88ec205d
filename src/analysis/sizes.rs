//! The sizes that a model's inputs have, for counting what a model costs whose own dims are open. The model keeps its dims:
//! costs are counted on a copy that has the same nodes and values.

use crate::analysis::cost::cost;
use crate::error::{Error, Result};
use crate::ir::{Dim, Graph, Type, ValueId};
use std::borrow::Cow;
use std::collections::HashMap;

/// Dims of inputs, by name; of an input that is not named they are as the model says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct InputSizes(Vec<(String, Vec<usize>)>);

impl InputSizes {
    /// Those of a model that says all there is to know.
    pub const AS_DECLARED: InputSizes = InputSizes(Vec::new());

    /// Sizes as somebody gives them, `("x", [1, 3, 48, 192])`; a symbol of the inputs can stand for an input, `("T", [100])`.
    ///
    /// # Errors
    /// If the model has no such input or symbol, or cannot have inputs of these sizes.
    pub fn new(graph: &Graph, given: &[(String, Vec<usize>)]) -> Result<InputSizes> {
        let inputs: Vec<ValueId> = graph.runtime_inputs().collect();
        let name = |v: ValueId| graph.value(v).name.as_str();
        let shape = |v: ValueId| graph.value(v).ty.as_ref().and_then(Type::shape).map(|s| s.0.clone());
        let refuse = |name: &str, dims: &[usize], why: String| {
            Error::input(format!("`{name}` cannot be {}", written(dims))).because(why)
        };
        // What each symbol is, and who says so.
        let mut symbols: HashMap<Dim, (usize, String)> = HashMap::new();
        let mut set = |symbol: &Dim, n: usize, whose: &str, dims: &[usize]| match symbols.get(symbol) {
            Some((before, who)) if *before != n => {
                Err(refuse(whose, dims, format!("its `{symbol}` would be {n}, and that of `{who}` is {before}"))
                    .help(format!("give the same number wherever the model has `{symbol}`")))
            }
            _ => {
                symbols.insert(symbol.clone(), (n, whose.to_string()));
                Ok(())
            }
        };
        let mut sizes: HashMap<ValueId, &[usize]> = HashMap::new();
        for (key, dims) in given {
            let symbol = Dim::sym(key);
            let Some(&input) = inputs.iter().find(|&&v| name(v) == key) else {
                let known = inputs.iter().filter_map(|&v| shape(v)).flatten().any(|d| d == symbol);
                if let ([n], true) = (dims.as_slice(), known && symbol.is_named()) {
                    set(&symbol, *n, key, dims)?;
                    continue;
                }
                let all: Vec<String> = inputs.iter().map(|&v| described(graph, v)).collect();
                return Err(Error::input(format!("the model has no input `{key}`"))
                    .help(format!("its inputs are {}", all.join(", "))));
            };
            if let Some(own) = shape(input) {
                if own.len() != dims.len() {
                    return Err(refuse(key, dims, format!("the model has {}", described(graph, input))));
                }
                for (d, &n) in own.iter().zip(dims) {
                    if d.known().is_some_and(|k| k != n as u64) {
                        return Err(refuse(key, dims, format!("the model has {}", described(graph, input))));
                    }
                    if d.is_named() {
                        set(d, n, key, dims)?;
                    }
                }
            }
            sizes.insert(input, dims);
        }
        let mut all = Vec::new();
        for &v in &inputs {
            let known = |d: &Dim| d.known().map(|n| n as usize).or_else(|| symbols.get(d).map(|s| s.0));
            let dims = match sizes.get(&v) {
                Some(dims) => Some(dims.to_vec()),
                None => shape(v).and_then(|dims| dims.iter().map(known).collect()),
            };
            all.extend(dims.map(|dims| (name(v).to_string(), dims)));
        }
        let sizes = InputSizes(all);
        match sizes.contradiction(graph)? {
            None => Ok(sizes),
            Some(why) => Err(Error::input("the model cannot run on inputs of these sizes")
                .at(given.iter().map(|(name, dims)| format!("{name}={}", written(dims))).collect::<Vec<_>>().join(" "))
                .because(why)),
        }
    }

    /// Sizes that are known to fit the model, by input.
    pub fn known(inputs: Vec<(String, Vec<usize>)>) -> InputSizes {
        InputSizes(inputs)
    }

    /// The dims of an input, if they are known.
    pub fn of(&self, input: &str) -> Option<&[usize]> {
        self.0.iter().find(|(name, _)| name == input).map(|(_, dims)| dims.as_slice())
    }

    /// Whether nothing is known but what the model says.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The graph with inputs of these sizes, for counting: nodes and values have the ids that they have in `graph`.
    pub fn at<'g>(&self, graph: &'g Graph) -> Cow<'g, Graph> {
        if self.0.is_empty() {
            return Cow::Borrowed(graph);
        }
        let sized = graph.at_sizes(&self.0).ok();
        // Shape arithmetic takes longer: only where sizes alone do not tell.
        let told = sized.filter(|sized| cost(sized).macs.is_some());
        told.or_else(|| graph.typed_at(&self.0).ok()).map_or(Cow::Borrowed(graph), Cow::Owned)
    }

    /// The first node that contradicts its definition at these sizes and did not before.
    fn contradiction(&self, graph: &Graph) -> Result<Option<String>> {
        let mut sized = graph.at_sizes(&self.0)?;
        let wrong = sized.infer_all()?.into_iter().find(|(n, _)| !graph.node(*n).inconsistent);
        Ok(wrong.map(|(n, why)| format!("at {} \"{}\", {why}", graph.node(n).kind(), graph.label(n))))
    }
}

/// `1x3x48x192`
fn written(dims: &[usize]) -> String {
    dims.iter().map(usize::to_string).collect::<Vec<_>>().join("x")
}

/// `x f32[N,3,8,8]`
fn described(graph: &Graph, v: ValueId) -> String {
    let value = graph.value(v);
    value.ty.as_ref().map_or(value.name.clone(), |ty| format!("{} {ty}", value.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::text;

    fn graph() -> Graph {
        let text = "model m opset 17 {
            input %x : f32[N,3,H,?] input %mask : f32[N,H] const %w : f32[4,3,3,3] = seed(1) const %v : f32[4,5] = seed(2)
            %y : f32[N,4,?,?] = Conv(%x, %w)
            %s : f32[N,H] = Relu(%mask)
            %t : f32[N,?] = MatMul(%mask, %v)
            output %y output %s output %t
        }";
        text::parse::model(text).unwrap().graph
    }

    fn sizes(given: &[(&str, &[usize])]) -> Result<InputSizes> {
        InputSizes::new(
            &graph(),
            &given.iter().map(|(name, dims)| (name.to_string(), dims.to_vec())).collect::<Vec<_>>(),
        )
    }

    #[test]
    fn costs_are_counted_at_sizes() {
        let graph = graph();
        assert_eq!(cost(&graph).macs, None);
        // 4 outputs of 27 inputs at 2 × 6 places, and 4 × 5.
        let want = Some(4 * 27 * 12 + 20);
        for given in [&[("x", &[1, 3, 4, 8][..])][..], &[("mask", &[1, 4]), ("x", &[1, 3, 4, 8])]] {
            assert_eq!(cost(&sizes(given).unwrap().at(&graph)).macs, want, "{given:?}");
        }
        let sized = sizes(&[("x", &[1, 3, 4, 8])]).unwrap();
        let mask = graph.find_value("s").unwrap();
        assert_eq!(sized.at(&graph).value(mask).ty.as_ref().unwrap().to_string(), "f32[1,4]");
        assert_eq!(cost(&InputSizes::default().at(&graph)).macs, None);
    }

    /// What a Pad adds is made of the length of its input.
    #[test]
    fn shape_arithmetic_is_done() {
        let text = "model m opset 17 {
            input %x : f32[N,L] const %zero : i64[1] = {0} const %one : i64[1] = {1} const %two : i64[1] = {2}
            const %pair : i64[2] = {0,0} const %w : f32[8,1,3] = seed(1)
            %shape : i64[2] = Shape(%x)
            %last : i64[1] = Gather<axis=0>(%shape, %one)
            %wide : i64[1] = Div(%last, %two)
            %pads : i64[4] = Concat<axis=0>(%pair, %zero, %wide)
            %padded : f32[?,?] = Pad(%x, %pads)
            %u : f32[?,1,?] = Unsqueeze(%padded, %one)
            %y : f32[?,8,?] = Conv(%u, %w)
            output %y
        }";
        let graph = text::parse::model(text).unwrap().graph;
        let sizes = InputSizes::new(&graph, &[("x".into(), vec![1, 20])]).unwrap();
        let sized = sizes.at(&graph);
        assert_eq!(cost(&sized).macs, Some(8 * 3 * 28));
        assert_eq!(cost(&sized).parameters, cost(&graph).parameters);
    }

    #[test]
    fn sizes_that_cannot_be_are_refused() {
        let error = |given: &[(&str, &[usize])]| sizes(given).unwrap_err().to_string();
        assert!(error(&[("image", &[1])]).contains("its inputs are x f32[N,3,H,?], mask f32[N,H]"));
        assert!(error(&[("x", &[1, 3, 8])]).contains("`x` cannot be 1x3x8\n  because  the model has x f32[N,3,H,?]"));
        assert!(error(&[("x", &[1, 4, 8, 8])]).contains("the model has x"));
        let torn = error(&[("x", &[1, 3, 8, 8]), ("mask", &[1, 9])]);
        assert!(torn.contains("its `H` would be 9, and that of `x` is 8"), "{torn}");
        let narrow = error(&[("x", &[1, 3, 4, 2])]);
        assert!(narrow.contains("the model cannot run on inputs of these sizes"), "{narrow}");
        assert!(sizes(&[("H", &[4])]).is_ok());
    }
}
