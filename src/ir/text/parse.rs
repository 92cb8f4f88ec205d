//! Parsing the text form. Constants without content get zeros, or reproducible noise with `= seed(n)`; `const node` is one
//! that the file has as a `Constant` node, `const` one that it has as an initializer.

use crate::error::{Error, Result};
use crate::ir::attr::{Attr, AttrValue};
use crate::ir::graph::{Graph, ValueId};
use crate::ir::random::noise;
use crate::ir::shape::{DType, Dim, Shape, Type};
use crate::ir::tensor::{Tensor, byte_len, elements};
use crate::ir::text::plain;
use crate::ir::value::{Form, Source, Value};
use crate::ir::{Exit, Model, Node, Op};
use bytes::Bytes;

/// Text is for small graphs: constants that claim more bytes are refused.
const MAX_CONSTANT: usize = 1 << 28;

/// Reads a model from its text form; whatever follows its closing brace is ignored.
///
/// # Errors
/// If the text is not of that form: the error has line and column.
pub fn model(text: &str) -> Result<Model> {
    let mut p = Parser { text, at: 0, depth: 0 };
    p.model().map_err(|why| {
        let before = &text[..p.at.min(text.len())];
        let (line, column) =
            (before.matches('\n').count() + 1, before.len() - before.rfind('\n').map_or(0, |i| i + 1) + 1);
        Error::input("the text form does not parse").at(format!("line {line}, column {column}")).because(why)
    })
}

/// The bytes of a quoted string, if it is one and they are UTF-8.
pub fn unquote(s: &str) -> Option<String> {
    let mut p = Parser { text: s, at: 0, depth: 0 };
    let bytes = p.string().ok()?;
    (p.at == s.len()).then(|| String::from_utf8(bytes).ok())?
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

type Parse<T> = Result<T, String>;

/// What stands for one constant: a value for every element.
enum Fill {
    Zeros,
    Seed(u64),
    Numbers(Vec<String>),
    Strings(Vec<Bytes>),
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn space(&mut self) {
        loop {
            let trimmed = self.rest().trim_start();
            self.at = self.text.len() - trimmed.len();
            if !trimmed.starts_with('#') {
                return;
            }
            self.at += trimmed.find('\n').unwrap_or(trimmed.len());
        }
    }

    fn eat(&mut self, token: &str) -> bool {
        self.space();
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn expect(&mut self, token: &str) -> Parse<()> {
        if self.eat(token) { Ok(()) } else { Err(format!("expected `{token}`")) }
    }

    /// A whole word, not the beginning of one.
    fn keyword(&mut self, word: &str) -> bool {
        self.space();
        let found = self.rest().strip_prefix(word).is_some_and(|r| r.starts_with([' ', '\n']));
        if found {
            self.at += word.len();
        }
        found
    }

    fn word(&mut self) -> Parse<String> {
        self.space();
        let end = self.rest().find(|c| !plain(c)).unwrap_or(self.rest().len());
        if end == 0 {
            return Err("expected a name".into());
        }
        let word = self.rest()[..end].to_string();
        self.at += end;
        Ok(word)
    }

    /// A name: bare or quoted.
    fn name(&mut self) -> Parse<String> {
        self.space();
        if !self.rest().starts_with('"') {
            return self.word();
        }
        String::from_utf8(self.string()?).map_err(|_| "a name is not UTF-8".into())
    }

    fn string(&mut self) -> Parse<Vec<u8>> {
        self.expect("\"")?;
        let mut out = Vec::new();
        let bytes = self.text.as_bytes();
        loop {
            let b = *bytes.get(self.at).ok_or("a string without an end")?;
            self.at += 1;
            match b {
                b'"' => return Ok(out),
                b'\\' => {
                    let e = *bytes.get(self.at).ok_or("a string without an end")?;
                    self.at += 1;
                    if e != b'x' {
                        out.push(e);
                        continue;
                    }
                    let hex = self.text.get(self.at..self.at + 2).ok_or("an escape without its two digits")?;
                    out.push(u8::from_str_radix(hex, 16).map_err(|_| "an escape without its two digits")?);
                    self.at += 2;
                }
                _ => out.push(b),
            }
        }
    }

    fn integer(&mut self) -> Parse<i64> {
        let at = self.at;
        self.word()?.parse().map_err(|_| {
            self.at = at;
            "expected an integer".into()
        })
    }

    /// The text of a number, `NaN` and `inf` included.
    fn number(&mut self) -> Parse<String> {
        self.space();
        let part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '+' | '-');
        let end = self.rest().find(|c| !part(c)).unwrap_or(self.rest().len());
        let word = self.rest()[..end].to_string();
        if word.parse::<f64>().is_err() {
            return Err("expected a number".into());
        }
        self.at += end;
        Ok(word)
    }

    fn list<T>(&mut self, close: &str, mut item: impl FnMut(&mut Self) -> Parse<T>) -> Parse<Vec<T>> {
        let mut out = Vec::new();
        if self.eat(close) {
            return Ok(out);
        }
        loop {
            out.push(item(self)?);
            if self.eat(close) {
                return Ok(out);
            }
            self.expect(",")?;
        }
    }

    fn model(&mut self) -> Parse<Model> {
        self.expect("model")?;
        let title = self.name()?;
        self.expect("opset")?;
        let mut opsets = Vec::new();
        loop {
            self.space();
            let domain = if self.rest().starts_with(|c: char| c.is_ascii_digit() || c == '-') {
                String::new()
            } else {
                self.name()?
            };
            opsets.push((domain, self.integer()?));
            if !self.eat(",") {
                break;
            }
        }
        let opset = opsets.iter().find(|o| o.0.is_empty()).map_or(0, |o| o.1);
        let mut graph = self.graph(title, opset)?;
        if let Some(&lost) = graph.captures().first() {
            return Err(format!("%{} is never defined", graph.value(lost).name));
        }
        graph.infer_all().map_err(|e| e.to_string())?;
        Ok(Model { graph, ir_version: 10, opsets, carried: Vec::new() })
    }

    fn graph(&mut self, title: String, opset: i64) -> Parse<Graph> {
        self.depth += 1;
        if self.depth > 32 {
            return Err("bodies are nested too deeply".into());
        }
        let mut g = Graph::new(title, opset);
        self.expect("{")?;
        let mut at = 0;
        while !self.eat("}") {
            if self.keyword("input") {
                let (name, ty) = self.typed()?;
                let source = match self.eat("=") {
                    true if self.keyword("carried") => Source::Carried,
                    true => Source::Input { default: Some((self.typed_constant()?, Bytes::new())) },
                    false => Source::Input { default: None },
                };
                let id = self.add(&mut g, name, source, ty)?;
                g.add_input(id);
            } else if self.keyword("const") {
                let form = match self.keyword("node") {
                    true => Form::Node { name: String::new(), carried: Bytes::new(), order: at },
                    false => Form::INITIALIZER,
                };
                let (name, ty) = self.typed()?;
                let tensor = self.constant(&ty.ok_or("a constant needs a type")?)?;
                self.add(&mut g, name, Source::Constant(tensor, form), None)?;
            } else if self.keyword("carried") {
                let (name, ty) = self.typed()?;
                self.add(&mut g, name, Source::Carried, ty)?;
            } else if self.keyword("output") {
                let name = self.sigil()?;
                let id = resolve(&mut g, &name)?;
                g.add_output(id);
            } else if self.keyword("exit") {
                let answer = self.defined(&g)?;
                self.expect("when")?;
                let sure = self.defined(&g)?;
                g.add_exit(Exit { answer, sure });
            } else if self.keyword("exit-output") {
                g.exit_output = Some(self.name()?);
            } else {
                self.node(&mut g, at)?;
                at += 1;
            }
        }
        self.depth -= 1;
        Ok(g)
    }

    fn add(&self, g: &mut Graph, name: String, source: Source, ty: Option<Type>) -> Parse<ValueId> {
        let mut value = Value::new(name, source);
        value.ty = value.ty.or(ty);
        g.add_value(value).map_err(|e| e.to_string())
    }

    fn defined(&mut self, g: &Graph) -> Parse<ValueId> {
        let name = self.sigil()?;
        g.find_value(&name).ok_or_else(|| format!("%{name} is not defined above"))
    }

    fn sigil(&mut self) -> Parse<String> {
        self.expect("%")?;
        self.name()
    }

    fn typed(&mut self) -> Parse<(String, Option<Type>)> {
        let name = self.sigil()?;
        self.expect(":")?;
        Ok((name, self.ty()?))
    }

    fn ty(&mut self) -> Parse<Option<Type>> {
        if self.eat("?") {
            return Ok(None);
        }
        let sparse = self.keyword("sparse");
        let at = self.at;
        let word = self.word()?;
        let inner = |p: &mut Self, close: &str| -> Parse<Option<Box<Type>>> {
            let ty = p.ty()?.map(Box::new);
            p.expect(close)?;
            Ok(ty)
        };
        Ok(Some(match word.as_str() {
            "opaque" => Type::Opaque,
            "sequence" | "optional" => {
                self.expect("(")?;
                let ty = inner(self, ")")?;
                if word == "sequence" { Type::Sequence(ty) } else { Type::Optional(ty) }
            }
            "map" => {
                self.expect("(")?;
                let key = self.word()?;
                self.expect(",")?;
                Type::Map(DType::parse(&key).ok_or("expected a key type")?, inner(self, ")")?)
            }
            name => {
                let Some(dtype) = DType::parse(name) else {
                    self.at = at;
                    return Err("expected a type".into());
                };
                self.expect("[")?;
                let shape = if self.eat("*]") { None } else { Some(Shape(self.list("]", Self::dim)?)) };
                if sparse { Type::Sparse(dtype, shape) } else { Type::Tensor(dtype, shape) }
            }
        }))
    }

    fn dim(&mut self) -> Parse<Dim> {
        if self.eat("?") {
            return Ok(Dim::Unknown);
        }
        self.space();
        let quoted = self.rest().starts_with('"');
        let name = self.name()?;
        Ok(match name.parse() {
            Ok(n) if !quoted => Dim::Known(n),
            _ => Dim::sym(&name),
        })
    }

    fn typed_constant(&mut self) -> Parse<Tensor> {
        let ty = self.ty()?.ok_or("a constant needs a type")?;
        self.constant(&ty)
    }

    /// The tensor of a constant of type `ty`, with what follows as its content.
    fn constant(&mut self, ty: &Type) -> Parse<Tensor> {
        let dims = ty.shape().and_then(Shape::dims).ok_or("a constant needs a tensor type with known dims")?;
        let shape = dims.into_iter().map(|d| usize::try_from(d).map_err(|_| "a dim is too large".to_string()));
        let shape = shape.collect::<Parse<Vec<_>>>()?;
        let dtype = ty.dtype().ok_or("a constant needs a tensor type")?;
        let fill = if self.eat("{") || (self.eat("=") && self.eat("{")) {
            self.space();
            if self.rest().starts_with('"') {
                Fill::Strings(self.list("}", |p| p.string().map(Bytes::from))?)
            } else {
                Fill::Numbers(self.list("}", Self::number)?)
            }
        } else if self.eat("seed(") {
            let seed = self.integer()?;
            self.expect(")")?;
            Fill::Seed(seed as u64)
        } else {
            Fill::Zeros
        };
        fill_tensor(dtype, shape, fill)
    }

    fn node(&mut self, g: &mut Graph, at: u32) -> Parse<()> {
        let mut outputs = Vec::new();
        while !self.eat("=") {
            if !outputs.is_empty() {
                self.expect(",")?;
            }
            if self.eat("_") {
                outputs.push(None);
            } else {
                let (name, ty) = self.typed()?;
                outputs.push(Some(self.add(g, name, Source::Node, ty)?));
            }
        }
        self.space();
        let quoted = self.rest().starts_with('"');
        let kind = self.name()?;
        let (domain, op_type) = match kind.rsplit_once('.') {
            _ if quoted && self.eat(".") => (kind, self.name()?),
            Some((domain, op_type)) if !quoted => (domain.to_string(), op_type.to_string()),
            _ => (String::new(), kind),
        };
        let mut attrs = if self.eat("<") { self.list(">", Self::attr)? } else { Vec::new() };
        self.expect("(")?;
        let inputs = self.list(")", |p| if p.eat("_") { Ok(None) } else { p.sigil().map(Some) })?;
        let name = if self.eat("@") { Some(self.name()?) } else { None };
        if self.eat("{") {
            while !self.eat("}") {
                let attr = self.name()?;
                let title = self.name()?;
                let body = self.graph(title, g.opset)?;
                attrs.push(Attr::new(&attr, AttrValue::Graph(Box::new(body))));
            }
        }
        let inputs = inputs.into_iter().map(|n| n.map(|n| resolve(g, &n)).transpose()).collect::<Parse<Vec<_>>>()?;
        let op = if domain.is_empty() && !quoted { Op::parse(&op_type, g.opset, &attrs) } else { Op::Opaque };
        let first = outputs.iter().flatten().next().map_or(String::new(), |&v| g.value(v).name.clone());
        let mut node = Node::new(name.unwrap_or(first), Op::Opaque, g.opset);
        if let Some(o) = op.operator() {
            let bodies = attrs.iter().any(|a| matches!(a.value, AttrValue::Graph(_)));
            if !bodies {
                attrs = o.file_attrs(g.opset);
            }
        }
        (node.op_type, node.domain, node.attrs, node.op) = (op_type, domain, attrs, op);
        let captures: Vec<Vec<String>> =
            node.bodies().map(|b| b.captures().iter().map(|&c| b.value(c).name.clone()).collect()).collect();
        let id = g.add_node(node, at, &inputs, &outputs);
        for (body, names) in captures.iter().enumerate() {
            for (index, name) in names.iter().enumerate() {
                let outer = resolve(g, name)?;
                g.connect_capture(id, body, index, outer);
            }
        }
        Ok(())
    }

    fn attr(&mut self) -> Parse<Attr> {
        let name = self.name()?;
        self.expect("=")?;
        self.space();
        let value = match self.rest().chars().next() {
            Some('"') => AttrValue::Str(self.string()?.into()),
            Some('[') => {
                self.expect("[")?;
                self.space();
                if self.rest().starts_with('"') {
                    AttrValue::Strs(self.list("]", |p| p.string().map(Bytes::from))?)
                } else {
                    let items = self.list("]", Self::number)?;
                    match items.iter().map(|i| i.parse().ok()).collect::<Option<Vec<i64>>>() {
                        Some(ints) => AttrValue::Ints(ints),
                        None => AttrValue::Floats(items.iter().map(|i| i.parse().unwrap_or(f32::NAN)).collect()),
                    }
                }
            }
            _ if self.eat("ints[]") => AttrValue::Ints(Vec::new()),
            _ if self.eat("floats[]") => AttrValue::Floats(Vec::new()),
            _ if self.eat("strs[]") => AttrValue::Strs(Vec::new()),
            _ if self.eat("carried") => {
                let hex = self.string()?;
                let byte = |c: &[u8]| std::str::from_utf8(c).ok().and_then(|c| u8::from_str_radix(c, 16).ok());
                let bytes: Option<Vec<u8>> = hex.chunks(2).map(byte).collect();
                AttrValue::Carried(bytes.ok_or("expected hexadecimal digits")?.into())
            }
            _ => match self.number() {
                Ok(n) => match n.parse() {
                    Ok(int) => AttrValue::Int(int),
                    Err(_) => AttrValue::Float(n.parse().unwrap_or(f32::NAN)),
                },
                Err(_) => AttrValue::Tensor(self.typed_constant()?.into(), String::new()),
            },
        };
        Ok(Attr::new(&name, value))
    }
}

fn resolve(g: &mut Graph, name: &str) -> Parse<ValueId> {
    match g.find_value(name) {
        Some(id) => Ok(id),
        None => g.add_capture(name).map_err(|e| e.to_string()),
    }
}

fn fill_tensor(dtype: DType, shape: Vec<usize>, fill: Fill) -> Parse<Tensor> {
    if dtype == DType::STRING {
        let strings = match fill {
            Fill::Strings(strings) => strings,
            _ => {
                vec![
                    Bytes::new();
                    elements(&shape).filter(|&n| n <= MAX_CONSTANT >> 6).ok_or("the constant is too large for text")?
                ]
            }
        };
        return Tensor::strings(shape, strings).ok_or_else(|| "one string an element is needed".into());
    }
    let bytes = byte_len(dtype, &shape).filter(|&n| n <= MAX_CONSTANT).ok_or("the constant is too large for text")?;
    let n: usize = shape.iter().product();
    match fill {
        Fill::Numbers(items) if items.len() != n => Err(format!("{n} elements are needed, there are {}", items.len())),
        Fill::Numbers(items) if dtype.is_float() => {
            Ok(Tensor::from_floats(dtype, shape, items.iter().map(|i| i.parse().unwrap_or(f64::NAN))))
        }
        Fill::Numbers(items) if dtype.is_int() || dtype == DType::BOOL => {
            let ints: Option<Vec<i64>> = items.iter().map(|i| i.parse().ok()).collect();
            Ok(Tensor::from_ints(dtype, shape, ints.ok_or("expected integers")?))
        }
        Fill::Seed(seed) if dtype.is_float() => Ok(Tensor::from_floats(dtype, shape, noise(seed).take(n))),
        Fill::Zeros => Tensor::new(dtype, shape, vec![0; bytes].into()).ok_or_else(|| "expected a tensor type".into()),
        _ => Err(format!("a constant of type {dtype} cannot be written like this")),
    }
}
