//! The multiply-accumulates of a network whose dims are open, as a polynomial in them: found from what they come to at some
//! sizes, and kept if it tells others too.

use crate::analysis::cost::{batch_symbol, cost};
use crate::analysis::sizes::InputSizes;
use crate::figures::grouped;
use crate::ir::{Graph, Type};

/// Open dims beyond which no polynomial is looked for: every one of them takes three times as many countings.
const MAX_SYMBOLS: usize = 3;

/// A polynomial of degree 2 in each symbol: `grid[i + 3 j + …] / by` goes with the powers i, j, ….
struct Polynomial {
    grid: Vec<i128>,
    by: i128,
}

/// MACs for one sample as a polynomial in the open dims of the inputs, as `1,024·H·W`, with what it holds for if that is not
/// every size. `None` where they depend on no open dims, or in another way.
pub fn macs(graph: &Graph) -> Option<String> {
    if cost(graph).macs.is_some() {
        return None;
    }
    let (names, inputs) = open_dims(graph)?;
    if names.is_empty() || names.len() > MAX_SYMBOLS {
        return None;
    }
    let count = |at: &[u64]| {
        let sized = |dims: &Vec<InputDim>| {
            let size = |s: &InputDim| match *s {
                InputDim::Known(n) => n as usize,
                InputDim::Open(i) => at[i] as usize,
            };
            dims.iter().map(size).collect()
        };
        let given: Vec<(String, Vec<usize>)> = inputs.iter().map(|(name, dims)| (name.clone(), sized(dims))).collect();
        let sizes = InputSizes::new(graph, &given).ok()?;
        cost(&sizes.at(graph)).macs
    };
    // Of strides, other sizes leave remainders.
    for (unit, first) in [(1, 61), (32, 2), (64, 2)] {
        let nodes = [first, first + 1, first + 2].map(|k| k * unit);
        let Some(found) = Polynomial::through(names.len(), nodes, &count) else { continue };
        let others = [[first + 5, first + 8, first + 3], [first + 11, first + 4, first + 6]];
        let holds = others.iter().all(|other| {
            let at: Vec<u64> = other[..names.len()].iter().map(|k| k * unit).collect();
            count(&at).is_some_and(|macs| found.at(&at) == Some(i128::from(macs) * found.by))
        });
        if holds {
            let all = if unit == 1 { String::new() } else { format!(", for multiples of {unit}") };
            return Some(format!("{}{all}", found.written(&names)));
        }
    }
    None
}

/// A dim of an input: a number, or one of those that are open.
enum InputDim {
    Known(u64),
    Open(usize),
}

/// Inputs by name, with their dims.
type NamedInputs = Vec<(String, Vec<InputDim>)>;

/// What the open dims of inputs are called, but for the batch, and the inputs with their dims. `None` if the rank of one is not
/// known.
fn open_dims(graph: &Graph) -> Option<(Vec<String>, NamedInputs)> {
    let batch = batch_symbol(graph);
    let (mut names, mut inputs) = (Vec::new(), Vec::new());
    for v in graph.runtime_inputs() {
        let value = graph.value(v);
        let shape = value.ty.as_ref().and_then(Type::shape)?;
        let mut dims = Vec::new();
        for (axis, d) in shape.0.iter().enumerate() {
            // Exporters call several dims by one name that means nothing.
            let name = if d.is_named() { d.to_string() } else { format!("{}[{axis}]", value.name) };
            dims.push(match (d.of_one(batch.as_ref()), names.iter().position(|n| *n == name)) {
                (Some(n), _) => InputDim::Known(n),
                (None, Some(at)) => InputDim::Open(at),
                (None, None) => {
                    names.push(name);
                    InputDim::Open(names.len() - 1)
                }
            });
        }
        inputs.push((value.name.clone(), dims));
    }
    Some((names, inputs))
}

impl Polynomial {
    /// The polynomial that is `count` where every symbol is one of `nodes`, which are evenly spaced.
    fn through(symbols: usize, nodes: [u64; 3], count: &dyn Fn(&[u64]) -> Option<u64>) -> Option<Polynomial> {
        let places = 3usize.pow(symbols as u32);
        let at = |i: usize| (0..symbols).map(|s| nodes[i / 3usize.pow(s as u32) % 3]).collect::<Vec<u64>>();
        let mut grid = (0..places).map(|i| count(&at(i)).map(i128::from)).collect::<Option<Vec<i128>>>()?;
        let [a, b, c] = nodes.map(i128::from);
        let mut by = 1;
        for s in 0..symbols {
            let step = 3usize.pow(s as u32);
            for i in (0..places).filter(|i| (i / step).is_multiple_of(3)) {
                let [p, q, r] = [0, 1, 2].map(|k| grid[i + k * step]);
                // Lagrange's form, times 2 (b − a)².
                grid[i] = p * b * c - 2 * q * a * c + r * a * b;
                grid[i + step] = 2 * q * (a + c) - p * (b + c) - r * (a + b);
                grid[i + 2 * step] = p - 2 * q + r;
            }
            by *= 2 * (b - a) * (b - a);
        }
        Some(Polynomial { grid, by })
    }

    /// The powers of every symbol that go with a place of the grid.
    fn powers(&self, place: usize, symbols: usize) -> impl Iterator<Item = u32> {
        (0..symbols).map(move |s| (place / 3usize.pow(s as u32) % 3) as u32)
    }

    /// Its value times `by`.
    fn at(&self, at: &[u64]) -> Option<i128> {
        let term = |(i, &c): (usize, &i128)| {
            self.powers(i, at.len())
                .zip(at)
                .try_fold(c, |all, (power, &n)| all.checked_mul(i128::from(n).checked_pow(power)?))
        };
        self.grid.iter().enumerate().map(term).try_fold(0i128, |sum, term| sum.checked_add(term?))
    }

    /// `0.5·H²·W + 1,024·H − 3`, the highest powers first.
    fn written(&self, names: &[String]) -> String {
        let mut places: Vec<usize> = (0..self.grid.len()).filter(|&i| self.grid[i] != 0).collect();
        places.sort_by_key(|&i| std::cmp::Reverse(self.powers(i, names.len()).sum::<u32>()));
        let mut out = String::new();
        for i in places {
            let c = self.grid[i];
            let sign = match (out.is_empty(), c < 0) {
                (true, false) => "",
                (true, true) => "−",
                (false, false) => " + ",
                (false, true) => " − ",
            };
            out.push_str(sign);
            out.push_str(&number(c.unsigned_abs(), self.by.unsigned_abs()));
            for (name, power) in names.iter().zip(self.powers(i, names.len())).filter(|p| p.1 > 0) {
                out.push_str(&format!("·{name}{}", if power == 2 { "²" } else { "" }));
            }
        }
        if out.is_empty() { "0".into() } else { out }
    }
}

/// A quotient, with up to four digits behind the point.
fn number(over: u128, under: u128) -> String {
    let whole = u64::try_from(over / under).map_or_else(|_| (over / under).to_string(), grouped);
    match over % under {
        0 => whole,
        rest => {
            let digits = format!("{:.4}", rest as f64 / under as f64);
            format!("{whole}{}", digits.trim_start_matches('0').trim_end_matches('0').trim_end_matches('.'))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::text;

    fn of(body: &str) -> Option<String> {
        macs(&text::parse::model(&format!("model m opset 17 {{ {body} output %y }}")).unwrap().graph)
    }

    #[test]
    fn polynomials_in_what_is_open() {
        let x = "input %x : f32[N,3,H,W] const %k : f32[8,3,3,3] = seed(1)";
        assert_eq!(of(&format!("{x} %y : ? = Conv<pads=[1,1,1,1]>(%x, %k)")).unwrap(), "216·H·W");
        assert_eq!(of(&format!("{x} %y : ? = Conv(%x, %k)")).unwrap(), "216·H·W − 432·H − 432·W + 864");
        let strided = of(&format!("{x} %y : ? = Conv<pads=[1,1,1,1], strides=[2,2]>(%x, %k)")).unwrap();
        assert_eq!(strided, "54·H·W, for multiples of 32");
        let unnamed = of("input %x : f32[N,3,?,?] const %k : f32[8,3,1,1] = seed(1) %y : ? = Conv(%x, %k)");
        assert_eq!(unnamed.unwrap(), "24·x[2]·x[3]");
        let square = "input %x : f32[N,L,8] %t : ? = Transpose<perm=[0,2,1]>(%x) %y : ? = MatMul(%x, %t)";
        assert_eq!(of(square).unwrap(), "8·L²");
        assert_eq!(of("input %x : f32[N,8] const %w : f32[8,4] = seed(1) %y : ? = MatMul(%x, %w)"), None);
        let counted = "input %x : f32[L] %i : ? = NonZero(%x) %f : ? = Cast<to=1>(%i) const %w : f32[1,4] = seed(1) \
            %y : ? = Gemm<transA=1>(%f, %w)";
        assert_eq!(of(counted), None);
    }

    #[test]
    fn quotients() {
        assert_eq!([number(5, 2), number(4096, 2), number(1, 1024)], ["2.5", "2,048", "0.001"]);
    }
}
