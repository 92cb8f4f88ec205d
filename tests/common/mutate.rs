//! Seeded damage to files and models: bytes, fields, and what a model means.

use super::Random;
use super::proto::{Content, Field};

impl Random {
    /// One to four edits that leave most of a file intact: that is what gets past the decoder.
    pub fn damage(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(4) {
            if bytes.is_empty() {
                return;
            }
            let at = self.below(bytes.len());
            match self.below(6) {
                0 => bytes[at] ^= 1 << self.below(8),
                1 => bytes[at] = [0, 1, 2, 0x7f, 0x80, 0xff][self.below(6)],
                2 => bytes[at] = bytes[at].wrapping_add(1),
                3 => drop(bytes.remove(at)),
                4 => bytes.insert(at, self.below(256) as u8),
                _ => {
                    // A copy of a piece over another one keeps lengths and looks like something.
                    let n = 1 + self.below(12.min(bytes.len() - at));
                    let from = self.below(bytes.len() - n + 1);
                    let piece = bytes[from..from + n].to_vec();
                    bytes[at..at + n].copy_from_slice(&piece);
                }
            }
        }
    }

    /// Edits that keep the file well-formed: numbers, pieces of tensors and names become others, fields go or come twice.
    pub fn rewrite(&mut self, model: &mut Vec<Field>) {
        let mut names = Vec::new();
        strings(model, &mut names);
        for _ in 0..=self.below(3) {
            // Into the fields, deeper and deeper.
            let mut fields = &mut *model;
            let at = loop {
                if fields.is_empty() {
                    return;
                }
                let at = self.below(fields.len());
                match &fields[at].content {
                    Content::Message(inner) if !inner.is_empty() && self.below(12) > 0 => {}
                    _ => break at,
                }
                let Content::Message(inner) = &mut fields[at].content else { return };
                fields = inner;
            };
            let number = fields[at].number;
            match (self.below(8), &mut fields[at].content) {
                (0, _) => drop(fields.remove(at)),
                (1, _) => fields.insert(at, fields[at].clone()),
                (_, Content::Varint(v)) => {
                    let numbers = [
                        0,
                        1,
                        2,
                        3,
                        7,
                        16,
                        v.wrapping_add(1),
                        v.wrapping_sub(1),
                        !0,
                        !1,
                        1 << 31,
                        1 << 32,
                        1 << 62,
                        i64::MIN as u64,
                    ];
                    *v = numbers[self.below(numbers.len())];
                }
                (_, Content::Fixed(b)) => {
                    let at = self.below(b.len());
                    b[at] = self.below(256) as u8;
                }
                (2, Content::Bytes(b)) => b.resize(self.below(2 * b.len() + 9), 0),
                (3, Content::Bytes(b)) if !b.is_empty() => {
                    let at = self.below(b.len());
                    b[at] = self.below(256) as u8;
                }
                (_, Content::Bytes(b)) => {
                    let like: Vec<_> = names.iter().filter(|n| n.0 == number).collect();
                    if let Some(other) = like.get(self.below(like.len().max(1))) {
                        *b = other.1.clone();
                    }
                }
                (_, Content::Message(_)) => {}
            }
        }
    }
}

/// The bytes below a message, by the number of their field.
fn strings(fields: &[Field], into: &mut Vec<(u64, Vec<u8>)>) {
    for f in fields {
        match &f.content {
            Content::Bytes(b) => into.push((f.number, b.clone())),
            Content::Message(inner) => strings(inner, into),
            _ => {}
        }
    }
}

/// What a mutation may put into a model besides what is there.
const ATTRIBUTES: &[&str] = &[
    "kernel_shape",
    "strides",
    "pads",
    "dilations",
    "group",
    "output_padding",
    "output_shape",
    "axis",
    "axes",
    "perm",
    "to",
    "transA",
    "transB",
    "alpha",
    "beta",
    "keepdims",
    "epsilon",
    "split",
    "num_outputs",
    "ceil_mode",
    "count_include_pad",
    "allowzero",
    "block_size",
    "hidden_size",
    "direction",
    "noop_with_empty_axes",
    "batch_dims",
    "start",
    "end",
];
const OPERATORS: &[&str] = &[
    "Conv",
    "ConvTranspose",
    "Gemm",
    "MatMul",
    "Add",
    "Mul",
    "Sub",
    "Div",
    "Sum",
    "Max",
    "Relu",
    "PRelu",
    "Clip",
    "Sigmoid",
    "BatchNormalization",
    "InstanceNormalization",
    "LayerNormalization",
    "Softmax",
    "MaxPool",
    "AveragePool",
    "GlobalAveragePool",
    "Concat",
    "Split",
    "Slice",
    "Reshape",
    "Flatten",
    "Transpose",
    "Squeeze",
    "Unsqueeze",
    "Expand",
    "Gather",
    "GatherElements",
    "ScatterND",
    "Pad",
    "Resize",
    "Shape",
    "Size",
    "Cast",
    "ConstantOfShape",
    "Range",
    "Tile",
    "Identity",
    "Dropout",
    "ReduceMean",
    "ReduceSum",
    "Where",
    "Equal",
    "TopK",
    "ArgMax",
    "LSTM",
    "GRU",
    "If",
    "Loop",
    "DepthToSpace",
    "Einsum",
    "CumSum",
    "NonZero",
    "OneHot",
    "Mod",
    "Pow",
    "QuantizeLinear",
    "DequantizeLinear",
    "Nonsense",
];
const NUMBERS: &[i64] =
    &[0, 1, 2, 3, 4, 5, 7, 8, 16, -1, -2, -3, 33, 1 << 31, 1 << 40, i64::MAX, i64::MIN, i64::MIN + 1];

/// Field numbers of the messages of ONNX.
mod field {
    pub const GRAPH: u64 = 7;
    pub const OPSET: u64 = 8;
    pub const NODE: u64 = 1;
    pub const NODE_INPUT: u64 = 1;
    pub const NODE_OUTPUT: u64 = 2;
    pub const NODE_TYPE: u64 = 4;
    pub const NODE_ATTRIBUTE: u64 = 5;
    pub const INITIALIZER: u64 = 5;
    pub const INPUT: u64 = 11;
    pub const OUTPUT: u64 = 12;
    pub const VALUE_INFO: u64 = 13;
    pub const DIMS: u64 = 1;
    pub const DTYPE: u64 = 2;
    pub const TENSOR_NAME: u64 = 8;
    pub const RAW: u64 = 9;
}

fn text(number: u64, text: impl AsRef<[u8]>) -> Field {
    Field { number, content: Content::Bytes(text.as_ref().to_vec()) }
}

fn int(number: u64, value: i64) -> Field {
    Field { number, content: Content::Varint(value as u64) }
}

/// The message in a field; a string that happens to read as one becomes one.
fn message(f: &mut Field) -> Option<&mut Vec<Field>> {
    match &mut f.content {
        Content::Message(inner) => Some(inner),
        _ => None,
    }
}

fn string(f: &Field) -> Option<Vec<u8>> {
    match &f.content {
        Content::Bytes(b) => Some(b.clone()),
        Content::Message(inner) => Some(super::proto::encode(inner)),
        _ => None,
    }
}

impl Random {
    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// A place of one of the fields with that number.
    fn place(&mut self, fields: &[Field], number: u64) -> Option<usize> {
        let all: Vec<usize> = (0..fields.len()).filter(|&i| fields[i].number == number).collect();
        (!all.is_empty()).then(|| all[self.below(all.len())])
    }

    /// One to four changes of a model that leave it a model, if rarely a valid one: edges, operators, attributes, types,
    /// shapes, with tensors as long as their dims say.
    pub fn mutate(&mut self, model: &mut [Field]) {
        for _ in 0..=[0, 0, 1, 2, 3][self.below(5)] {
            if self.below(16) == 0 {
                self.opset(model);
                continue;
            }
            let Some(graph) = model.iter_mut().find(|f| f.number == field::GRAPH).and_then(message) else { return };
            match self.below(20) {
                0..6 => self.edge(graph),
                6..8 => self.operator(graph),
                8..12 => self.attribute(graph),
                12..16 => self.initializer(graph),
                16..18 => self.declaration(graph),
                _ => self.nodes(graph),
            }
        }
    }

    fn opset(&mut self, model: &mut [Field]) {
        let Some(at) = self.place(model, field::OPSET) else { return };
        if let Some(version) = message(&mut model[at]).and_then(|m| m.iter_mut().find(|f| f.number == 2)) {
            version.content = Content::Varint(1 + self.below(28) as u64);
        }
    }

    /// The name of a value, now and then an empty one or one that nothing makes.
    fn value(&mut self, graph: &mut [Field]) -> Vec<u8> {
        let mut names: Vec<Vec<u8>> = vec![Vec::new(), b"no such value".to_vec()];
        for f in graph.iter_mut() {
            let number = f.number;
            let Some(inner) = message(f) else { continue };
            let named = match number {
                field::NODE => field::NODE_OUTPUT,
                field::INITIALIZER => field::TENSOR_NAME,
                field::INPUT => 1,
                _ => continue,
            };
            names.extend(inner.iter().filter(|f| f.number == named).filter_map(string));
        }
        let at = self.below(names.len());
        names.swap_remove(at)
    }

    fn node<'a>(&mut self, graph: &'a mut [Field]) -> Option<&'a mut Vec<Field>> {
        let at = self.place(graph, field::NODE)?;
        message(&mut graph[at])
    }

    fn edge(&mut self, graph: &mut [Field]) {
        let value = text(field::NODE_INPUT, self.value(graph));
        let Some(node) = self.node(graph) else { return };
        let Some(at) = self.place(node, field::NODE_INPUT) else { return node.push(value) };
        match self.below(6) {
            0 => drop(node.remove(at)),
            1 => node.insert(at, value),
            2 => node[at] = text(field::NODE_INPUT, ""),
            _ => node[at] = value,
        }
    }

    fn operator(&mut self, graph: &mut [Field]) {
        let kind = text(field::NODE_TYPE, self.pick(OPERATORS));
        if let Some(node) = self.node(graph)
            && let Some(at) = self.place(node, field::NODE_TYPE)
        {
            node[at] = kind;
        }
    }

    fn attribute(&mut self, graph: &mut [Field]) {
        let Some(node) = self.node(graph) else { return };
        let at = self.place(node, field::NODE_ATTRIBUTE);
        let Some(at) = at.filter(|_| self.below(4) > 0) else {
            let mut new = vec![text(1, self.pick(ATTRIBUTES))];
            if self.below(2) == 0 {
                new.extend([int(3, self.pick(NUMBERS)), int(20, 2)]);
            } else {
                new.extend((0..self.below(7)).map(|_| int(8, self.pick(NUMBERS))).collect::<Vec<_>>());
                new.push(int(20, 7));
            }
            return node.push(Field { number: field::NODE_ATTRIBUTE, content: Content::Message(new) });
        };
        if self.below(6) == 0 {
            node.remove(at);
            return;
        }
        let Some(attribute) = message(&mut node[at]) else { return };
        // i, f or one of ints, floats: another value, one more, one fewer; packed ints stay a string of bytes.
        let Some(at) = [8, 3, 7, 2].into_iter().find_map(|n| self.place(attribute, n)) else { return };
        match (self.below(5), &mut attribute[at].content) {
            (0, _) => drop(attribute.remove(at)),
            (1, _) => attribute.insert(at, attribute[at].clone()),
            (_, Content::Varint(v)) => *v = self.pick(NUMBERS) as u64,
            (_, Content::Fixed(b)) => {
                *b = self.pick(&[0.0f32, -1.0, 1.0, 1e-30, 1e30, f32::NAN, f32::INFINITY]).to_le_bytes().to_vec()
            }
            (_, Content::Bytes(b)) if !b.is_empty() => {
                let at = self.below(b.len());
                b[at] = self.below(128) as u8;
            }
            _ => {}
        }
    }

    /// Another shape or type, with data of the length that they ask for, or other values.
    fn initializer(&mut self, graph: &mut [Field]) {
        let Some(at) = self.place(graph, field::INITIALIZER) else { return };
        let Some(tensor) = message(&mut graph[at]) else { return };
        let number = |f: &Field| match f.content {
            Content::Varint(v) => v as i64,
            _ => 1,
        };
        let mut dims: Vec<i64> = tensor.iter().filter(|f| f.number == field::DIMS).map(number).collect();
        let mut dtype = tensor.iter().find(|f| f.number == field::DTYPE).map_or(1, number);
        let old: Vec<u8> = tensor.iter().find(|f| f.number == field::RAW).and_then(string).unwrap_or_default();
        match self.below(6) {
            0 => dtype = self.pick(&[1, 1, 2, 6, 7, 9, 10, 11, 16]),
            1 if !dims.is_empty() => drop(dims.remove(self.below(dims.len()))),
            2 => dims.insert(self.below(dims.len() + 1), self.pick(&[0, 1, 2, 3])),
            3 if dims.len() > 1 => {
                let (a, b) = (self.below(dims.len()), self.below(dims.len()));
                dims.swap(a, b);
            }
            4 => {
                let value = self.pick(&[0.0f32, 1.0, -1.0, 1e30, f32::NAN, f32::INFINITY]).to_le_bytes();
                let mut raw = old;
                let at = 4 * self.below(raw.len() / 4 + 1);
                raw.get_mut(at..at + 4).into_iter().for_each(|w| w.copy_from_slice(&value));
                tensor
                    .iter_mut()
                    .filter(|f| f.number == field::RAW)
                    .for_each(|f| f.content = Content::Bytes(raw.clone()));
                return;
            }
            _ if !dims.is_empty() => {
                let at = self.below(dims.len());
                dims[at] = self.pick(&[0, 1, 2, 3, 4, 6, 8, 9]);
            }
            _ => {}
        }
        let width = [0, 4, 1, 1, 2, 2, 4, 8, 0, 1, 2, 8, 4, 8, 8, 16, 2].get(dtype as usize).copied().unwrap_or(1);
        let Some(len) = dims.iter().try_fold(width, |n, &d| usize::try_from(d).ok()?.checked_mul(n)) else { return };
        if len > 1 << 16 {
            return;
        }
        let raw: Vec<u8> = if old.is_empty() { vec![0; len] } else { old.iter().copied().cycle().take(len).collect() };
        tensor.retain(|f| !matches!(f.number, field::DIMS | field::DTYPE | 4..=7 | field::RAW | 10 | 11));
        tensor.extend(dims.into_iter().map(|d| int(field::DIMS, d)));
        tensor.extend([int(field::DTYPE, dtype), text(field::RAW, raw)]);
    }

    /// A dim or the type of what a graph takes, gives, or says of a value between.
    fn declaration(&mut self, graph: &mut Vec<Field>) {
        let kind = self.pick(&[field::INPUT, field::INPUT, field::OUTPUT, field::VALUE_INFO]);
        let Some(at) = self.place(graph, kind) else { return };
        if self.below(8) == 0 {
            graph.remove(at);
            return;
        }
        let renamed = text(1, self.value(graph));
        let Some(info) = message(&mut graph[at]) else { return };
        if kind == field::OUTPUT && self.below(2) == 0 {
            info.retain(|f| f.number != 1);
            info.push(renamed);
            return;
        }
        // ValueInfoProto.type.tensor_type
        let Some(ty) = info.iter_mut().find(|f| f.number == 2).and_then(message) else { return };
        let Some(tensor) = ty.iter_mut().find(|f| f.number == 1).and_then(message) else { return };
        if self.below(4) == 0 {
            let dtype = int(1, self.pick(&[1, 2, 6, 7, 9, 10, 11, 16]));
            tensor.iter_mut().filter(|f| f.number == 1).for_each(|f| *f = dtype.clone());
            return;
        }
        let Some(shape) = tensor.iter_mut().find(|f| f.number == 2).and_then(message) else { return };
        let dim = match self.below(4) {
            0 => text(2, self.pick(&["N", "C"])),
            _ => int(1, self.pick(NUMBERS)),
        };
        let dim = Field { number: 1, content: Content::Message(vec![dim]) };
        match (self.below(4), self.place(shape, 1)) {
            (0, Some(at)) => drop(shape.remove(at)),
            (1, _) | (_, None) => shape.push(dim),
            (_, Some(at)) => shape[at] = dim,
        }
    }

    /// A node goes, comes twice under other names, or gives another output.
    fn nodes(&mut self, graph: &mut Vec<Field>) {
        let Some(at) = self.place(graph, field::NODE) else { return };
        match self.below(4) {
            0 => drop(graph.remove(at)),
            1 => {
                let mut copy = graph[at].clone();
                for (i, f) in message(&mut copy).into_iter().flatten().enumerate() {
                    if f.number == field::NODE_OUTPUT || f.number == 3 {
                        *f = text(f.number, format!("copy{i}"));
                    }
                }
                let copied = text(field::NODE_INPUT, "copy1");
                graph.insert(at, copy);
                if let Some(reader) = self.node(graph)
                    && let Some(at) = self.place(reader, field::NODE_INPUT)
                {
                    reader[at] = copied;
                }
            }
            2 => {
                if let Some(node) = message(&mut graph[at]) {
                    node.push(text(field::NODE_OUTPUT, ["", "extra"][self.below(2)]));
                }
            }
            _ => {
                let other = self.place(graph, field::NODE).unwrap_or(at);
                graph.swap(at, other);
            }
        }
    }
}
