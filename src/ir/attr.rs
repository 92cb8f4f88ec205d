//! Attributes of a node as the file has them, and typed access for the operators.

use crate::ir::graph::Graph;
use crate::ir::tensor::Tensor;
use bytes::Bytes;

/// One named attribute.
#[derive(Debug, Clone)]
pub struct Attr {
    /// Its name in ONNX.
    pub name: String,
    /// Its value.
    pub value: AttrValue,
    /// What the file says of it for people.
    pub doc: String,
}

/// The value of an attribute, by its kind.
#[derive(Debug, Clone)]
pub enum AttrValue {
    /// INT
    Int(i64),
    /// FLOAT
    Float(f32),
    /// STRING
    Str(Bytes),
    /// INTS
    Ints(Vec<i64>),
    /// FLOATS
    Floats(Vec<f32>),
    /// `STRINGS`.
    Strs(Vec<Bytes>),
    /// A tensor and the name it has inside the attribute.
    Tensor(Box<Tensor>, String),
    /// The body of a control-flow node.
    Graph(Box<Graph>),
    /// GRAPHS
    Graphs(Vec<Graph>),
    /// Any other kind of attribute, encoded.
    Carried(Bytes),
}

impl Attr {
    /// An attribute without words for people.
    pub fn new(name: &str, value: AttrValue) -> Attr {
        Attr { name: name.into(), value, doc: String::new() }
    }

    /// An INT.
    pub fn int(name: &str, v: i64) -> Attr {
        Attr::new(name, AttrValue::Int(v))
    }

    /// A FLOAT.
    pub fn float(name: &str, v: f32) -> Attr {
        Attr::new(name, AttrValue::Float(v))
    }

    /// INTS.
    pub fn ints(name: &str, v: &[i64]) -> Attr {
        Attr::new(name, AttrValue::Ints(v.to_vec()))
    }

    /// FLOATS.
    pub fn floats(name: &str, v: &[f32]) -> Attr {
        Attr::new(name, AttrValue::Floats(v.to_vec()))
    }

    /// STRINGS.
    pub fn strs(name: &str, v: &[String]) -> Attr {
        Attr::new(name, AttrValue::Strs(v.iter().map(|s| Bytes::copy_from_slice(s.as_bytes())).collect()))
    }

    /// A STRING.
    pub fn str(name: &str, v: &str) -> Attr {
        Attr::new(name, AttrValue::Str(Bytes::copy_from_slice(v.as_bytes())))
    }
}

/// Reads an attribute list into typed fields and notices what it did not read: an operator with an attribute that its
/// definition does not have, or of another kind, is not one we reason about.
pub struct AttrReader<'a> {
    attrs: &'a [Attr],
    read: Vec<&'static str>,
    wrong_kind: bool,
}

impl<'a> AttrReader<'a> {
    /// A reader that has read nothing yet.
    pub fn new(attrs: &'a [Attr]) -> Self {
        AttrReader { attrs, read: Vec::new(), wrong_kind: false }
    }

    fn get<T>(&mut self, name: &'static str, pick: impl Fn(&'a AttrValue) -> Option<T>) -> Option<T> {
        self.read.push(name);
        let attr = self.attrs.iter().find(|a| a.name == name)?;
        let value = pick(&attr.value);
        self.wrong_kind |= value.is_none();
        value
    }

    /// An INT, if it is there.
    pub fn int(&mut self, name: &'static str) -> Option<i64> {
        self.get(name, |v| if let AttrValue::Int(i) = v { Some(*i) } else { None })
    }

    /// An INT, or `default` if it is not there.
    pub fn int_or(&mut self, name: &'static str, default: i64) -> i64 {
        self.int(name).unwrap_or(default)
    }

    /// Whether an INT is there and not 0.
    pub fn flag(&mut self, name: &'static str) -> bool {
        self.int_or(name, 0) != 0
    }

    /// A FLOAT, if it is there.
    pub fn float(&mut self, name: &'static str) -> Option<f32> {
        self.get(name, |v| if let AttrValue::Float(f) = v { Some(*f) } else { None })
    }

    /// A FLOAT, or `default` if it is not there.
    pub fn float_or(&mut self, name: &'static str, default: f32) -> f32 {
        self.float(name).unwrap_or(default)
    }

    /// INTS, if they are there.
    pub fn ints(&mut self, name: &'static str) -> Option<Vec<i64>> {
        self.get(name, |v| if let AttrValue::Ints(i) = v { Some(i.clone()) } else { None })
    }

    /// FLOATS, if they are there.
    pub fn floats(&mut self, name: &'static str) -> Option<Vec<f32>> {
        self.get(name, |v| if let AttrValue::Floats(f) = v { Some(f.clone()) } else { None })
    }

    /// STRINGS that are UTF-8, if they are there.
    pub fn strs(&mut self, name: &'static str) -> Option<Vec<String>> {
        self.get(name, |v| match v {
            AttrValue::Strs(s) => s.iter().map(|s| String::from_utf8(s.to_vec()).ok()).collect(),
            _ => None,
        })
    }

    /// A STRING that is UTF-8, if it is there.
    pub fn str(&mut self, name: &'static str) -> Option<String> {
        self.get(name, |v| match v {
            AttrValue::Str(s) => String::from_utf8(s.to_vec()).ok(),
            _ => None,
        })
    }

    /// A TENSOR, if it is there.
    pub fn tensor(&mut self, name: &'static str) -> Option<&'a Tensor> {
        self.get(name, |v| if let AttrValue::Tensor(t, _) = v { Some(&**t) } else { None })
    }

    /// A GRAPH, if it is there.
    pub fn graph(&mut self, name: &'static str) -> Option<&'a Graph> {
        self.get(name, |v| if let AttrValue::Graph(g) = v { Some(&**g) } else { None })
    }

    /// Accepts an attribute whatever its kind, without reading it.
    pub fn ignore(&mut self, name: &'static str) {
        self.read.push(name);
    }

    /// `Some` only if every attribute that is there was read, once, and was of the kind that was asked for.
    pub fn finish(self) -> Option<()> {
        let known = self.attrs.iter().all(|a| self.read.contains(&a.name.as_str()));
        let unique = self.attrs.iter().enumerate().all(|(i, a)| !self.attrs[..i].iter().any(|b| b.name == a.name));
        (known && unique && !self.wrong_kind).then_some(())
    }
}
