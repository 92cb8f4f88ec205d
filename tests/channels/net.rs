//! Random small networks in text form. A network is a list of steps, and any part of the list is a network too: that is
//! what lets failures shrink.

use super::steps::{ACTIVATIONS, STEPS};
use crate::common::Random;
use std::collections::{BTreeMap, HashSet};
use tutee::ir::text;

/// A kind of step, by its place in [`STEPS`], and the seed of what it chooses.
pub type Step = (usize, u64);

/// A value with its dims after the batch: `[C, H, W]` of images, `[N, D]` of sequences, `[D]` of vectors.
#[derive(Clone)]
struct Value {
    name: String,
    dims: Vec<i64>,
}

struct Net {
    opset: i64,
    batch: String,
    lines: Vec<String>,
    /// What later steps may build on.
    open: Vec<Value>,
    read: HashSet<String>,
    made: usize,
    random: Random,
    step: &'static str,
    /// What `%x` and the like stand for in the running step.
    bound: BTreeMap<String, String>,
    /// What `c` and the like stand for.
    sizes: BTreeMap<char, i64>,
}

/// The text of a network of these steps.
pub fn build(steps: &[Step], opset: i64, batch: &str) -> String {
    let mut net = Net {
        opset,
        batch: batch.into(),
        lines: Vec::new(),
        open: vec![Value { name: "x".into(), dims: vec![3, 6, 6] }],
        read: HashSet::new(),
        made: 0,
        random: Random(0),
        step: "",
        bound: BTreeMap::new(),
        sizes: BTreeMap::new(),
    };
    for &(kind, seed) in steps {
        net.random = Random(seed);
        net.take(STEPS[kind].0, STEPS[kind].1);
    }
    for value in net.open.clone().into_iter().filter(|v| !net.read.contains(&v.name)).collect::<Vec<_>>() {
        let direct = value.name != "x" && net.random.below(8) == 0;
        let output = if direct { value.name } else { net.close(&value) };
        net.lines.push(format!("output %{output}"));
    }
    net.text()
}

impl Net {
    fn text(&self) -> String {
        let (opset, batch, lines) = (self.opset, &self.batch, self.lines.join("\n  "));
        format!("model \"net\" opset {opset} {{\n  input %x : f32[{batch},3,6,6]\n  {lines}\n}}\n")
    }

    /// Dims of a value after the batch, as tutee infers them.
    fn dims(&self, name: &str) -> Vec<i64> {
        let model = text::parse::model(&self.text()).unwrap_or_else(|e| panic!("{e}\n{}", self.text()));
        let shape = model.graph.find_value(name).and_then(|v| model.graph.value(v).ty.as_ref()?.shape().cloned());
        let dims = shape.and_then(|s| s.0[1..].iter().map(|d| d.known().map(|n| n as i64)).collect());
        dims.unwrap_or_else(|| panic!("{name} has no known dims\n{}", self.text()))
    }

    fn any<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.random.below(of.len())]
    }

    /// One step: what it works on, and its template's lines.
    fn take(&mut self, name: &'static str, template: &str) {
        if name == "barrier-capture" && self.lines.iter().any(|l| l.contains(" If(")) {
            return; // tract gives every `If` one name and refuses the second.
        }
        self.made += 1;
        self.step = "before";
        let word = ["x", "t", "v"]
            .into_iter()
            .find(|word| template.contains(&format!("%{word})")) || template.contains(&format!("%{word},")));
        self.supply(word.unwrap());
        self.step = name;
        let from = self.lines.len();
        self.expand(template);
        let ends: HashSet<&str> = self.lines[from..].iter().flat_map(|l| l.split(['%', ' '])).collect();
        let ends: Vec<String> =
            ["y", "y1", "y2"].map(|y| self.global(y)).into_iter().filter(|y| ends.contains(y.as_str())).collect();
        for name in ends {
            let dims = self.dims(&name);
            self.open.push(Value { name, dims });
        }
    }

    /// Binds an image with an even number of channels, a sequence or a vector.
    fn supply(&mut self, word: &str) {
        let rank = ["", "v", "t", "x"].iter().position(|w| *w == word).unwrap();
        let fits = |v: &&Value| match v.dims[..] {
            [_, h, w] => rank == 3 && h > 1 && w > 1,
            [_, d] => rank == 2 && d > 2 && d % 2 == 0,
            _ => rank == 1 && v.dims.len() == 1,
        };
        let recent: Vec<Value> = self.open.iter().rev().filter(fits).take(4).cloned().collect();
        if recent.is_empty() {
            self.supply("x");
            self.expand(if rank == 1 {
                "%p0 = GlobalAveragePool(%x); %v0 = Flatten(%p0)"
            } else {
                "%p0 = Reshape(%x, #r[c,h*w]); %t0 = Transpose<perm=[0,2,1]>(%p0)"
            });
            return self.bind(word, &self.global(&format!("{word}0")));
        }
        let value = recent[self.random.below(recent.len())].clone();
        self.bind(word, &value.name);
        let c = value.dims[0];
        if rank == 3 && (value.name == "x" || c < 4 || c % 2 > 0 || self.random.below(2) == 0) {
            self.expand("%a0 = Conv(%x, #w[m,c,1,1](?|, #w[m])); %x0 = ACT(%a0)");
            self.bind(word, &self.global("x0"));
        }
    }

    fn bind(&mut self, word: &str, name: &str) {
        let dims = self.dims(name);
        let same = self.open.iter().filter(|v| v.dims == dims && v.name != name).map(|v| v.name.as_str());
        let same: Vec<&str> = same.collect();
        let other = if same.is_empty() { name } else { same[self.random.below(same.len())] };
        self.bound = [(word.into(), name.into()), ("o".into(), other.into())].into();
        let letters = ["", "d", "nd", "chw"][dims.len()];
        self.sizes = letters.chars().zip(dims.iter().copied()).collect();
        let m = self.any(&[4, 6, 8]);
        let g = self.any(&[2, dims[0] / 2]);
        self.sizes.extend([('m', m), ('g', g)]);
    }

    /// Makes an output of a value.
    fn close(&mut self, value: &Value) -> String {
        self.made += 1;
        self.step = "head";
        self.bind("x", &value.name);
        self.expand(
            ["", "%y = Gemm(%x, #w[d,2], #w[2])", "%y = MatMul(%x, #w[d,2])", "%y = Conv(%x, #w[2,c,1,1])"]
                [value.dims.len()],
        );
        self.global("y")
    }

    fn expand(&mut self, template: &str) {
        let text = self.choose(&template.replace("ACT", ACTIVATIONS));
        for line in text.split(';') {
            let (left, right) = line.trim().split_once(" = ").unwrap_or_else(|| panic!("{line}"));
            let left = if left.contains(':') { left.to_string() } else { left.replace(", ", " : ?, ") + " : ?" };
            let (left, right) = (self.fill(&left, false), self.fill(right, true));
            let label = if line.contains('@') { String::new() } else { self.label() };
            self.lines.push(format!("{left} = {right}{label}"));
        }
    }

    fn label(&self) -> String {
        format!(" @{}.{}", self.step, self.lines.len())
    }

    /// The network's name for a step's.
    fn global(&self, word: &str) -> String {
        self.bound.get(word).cloned().unwrap_or_else(|| format!("{word}.{}", self.made))
    }

    /// `(?a|b)` is one of them, `(!a|b)` the first before opset 13, `(!18 a|b)` before 18.
    fn choose(&mut self, text: &str) -> String {
        let Some(at) = text.find("(?").into_iter().chain(text.find("(!")).min() else { return text.into() };
        let digits = text[at + 2..].bytes().take_while(|b| b.is_ascii_digit()).count();
        let since = text[at + 2..at + 2 + digits].parse().ok().filter(|_| text[at..].starts_with("(!"));
        let skip = at + 2 + if since.is_some() { digits + 1 } else { 0 };
        let (mut depth, mut parts, mut from, mut end) = (0, Vec::new(), skip, text.len());
        for (i, ch) in text.char_indices().skip(at + 1) {
            match ch {
                '(' => depth += 1,
                ')' if depth > 0 => depth -= 1,
                ')' | '|' if depth == 0 => {
                    parts.push(&text[from..i]);
                    from = i + 1;
                    end = i + 1;
                    if ch == ')' {
                        break;
                    }
                }
                _ => {}
            }
        }
        let by_opset = text[at..].starts_with("(!");
        let part = if by_opset { parts[usize::from(self.opset >= since.unwrap_or(13))] } else { self.any(&parts) };
        format!("{}{}{}", &text[..at], self.choose(part), self.choose(&text[end..]))
    }

    /// Puts names, sizes (`$c`, `$[c/2]`), constants (`#w[m,c]`) and the label (`@`) in their places.
    fn fill(&mut self, text: &str, reads: bool) -> String {
        let (mut out, mut rest) = (String::new(), text);
        while let Some(at) = rest.find(['%', '#', '$', '@']) {
            let tail = &rest[at + 1..];
            let (word, after) = tail.split_at(tail.find(|c: char| !c.is_alphanumeric()).unwrap_or(tail.len()));
            out.push_str(&rest[..at]);
            let bracket = after.strip_prefix('[').and_then(|a| a.split_once(']')).unwrap_or(("", ""));
            (out, rest) = match (&rest[at..=at], word) {
                ("%", _) => {
                    let name = self.global(word);
                    if reads {
                        self.read.insert(name.clone());
                    }
                    (out + "%" + &name, after)
                }
                ("@", _) => (out + self.label().trim(), after),
                ("$", "N") => (out + &self.batch, after),
                ("$", "") => (format!("{out}{}", self.size(bracket.0)), bracket.1),
                ("$", _) => (format!("{out}{}", self.size(word)), after),
                _ => (out + "%" + &self.constant(word, bracket.0), bracket.1),
            };
        }
        out + rest
    }

    /// A product, quotient, sum or difference, from left to right.
    fn size(&self, expression: &str) -> i64 {
        let value = |word: &str| word.parse().unwrap_or_else(|_| self.sizes[&word.chars().next().unwrap()]);
        let Some(at) = expression.rfind(['*', '/', '+', '-']).filter(|&at| at > 0) else { return value(expression) };
        let (left, right) = (self.size(&expression[..at]), value(&expression[at + 1..]));
        match &expression[at..=at] {
            "*" => left * right,
            "/" => left / right,
            "+" => left + right,
            _ => left - right,
        }
    }

    /// `w`: weights of these dims, `p`: so many positive numbers, `i`: these integers, `r`: target of a reshape to these
    /// dims, the batch or one of them left open, `q`: these numbers, `f` and `s`: one number or integer of rank 0.
    fn constant(&mut self, kind: &str, inside: &str) -> String {
        let name = format!("{kind}{}", self.lines.len());
        let items: Vec<&str> = inside.split(',').filter(|i| !i.is_empty()).collect();
        let mut ints: Vec<i64> = match kind {
            "f" | "q" => Vec::new(),
            _ => items.iter().map(|i| self.size(i)).collect(),
        };
        if kind == "r" {
            ints.insert(0, 0);
            match self.random.below(3) {
                0 => ints[0] = -1,
                1 => *ints.last_mut().unwrap() = -1,
                _ => {}
            }
        }
        let list = |items: Vec<String>| format!("{{{}}}", items.join(","));
        let numbers = ints.iter().map(i64::to_string).collect();
        let content = match kind {
            "w" => format!("f32{ints:?} = seed({})", self.random.below(1 << 20)),
            "p" => {
                let some = (0..ints[0]).map(|_| format!("{:.2}", 0.5 + self.random.below(100) as f64 / 100.0));
                format!("f32[{}] = {}", ints[0], list(some.collect()))
            }
            "q" => format!("f32[{}] = {{{inside}}}", items.len()),
            "f" => format!("f32[] = {{{inside}}}"),
            "s" => format!("i64[] = {}", list(numbers)),
            _ => format!("i64[{}] = {}", ints.len(), list(numbers)),
        };
        self.lines.push(format!("const %{name} : {content}"));
        name
    }
}
