//! Attributes of a node as the file has them, and typed access for the operators.

use crate::ir::graph::Graph;
use crate::ir::tensor::Tensor;
use bytes::Bytes;

/// One named attribute.
#[derive(Debug, Clone)]
pub struct Attr {
    pub name: String,
    pub value: AttrValue,
    pub doc: String,
}

#[derive(Debug, Clone)]
pub enum AttrValue {
    Int(i64),
    Float(f32),
    Str(Bytes),
    Ints(Vec<i64>),
    Floats(Vec<f32>),
    Strs(Vec<Bytes>),
    /// A tensor and the name it has inside the attribute.
    Tensor(Box<Tensor>, String),
    /// The body of a control-flow node.
    Graph(Box<Graph>),
    Graphs(Vec<Graph>),
    /// Any other kind of attribute, encoded.
    Carried(Bytes),
}

impl Attr {
    pub fn new(name: &str, value: AttrValue) -> Attr {
        Attr { name: name.into(), value, doc: String::new() }
    }

    pub fn int(name: &str, v: i64) -> Attr {
        Attr::new(name, AttrValue::Int(v))
    }

    pub fn float(name: &str, v: f32) -> Attr {
        Attr::new(name, AttrValue::Float(v))
    }

    pub fn ints(name: &str, v: &[i64]) -> Attr {
        Attr::new(name, AttrValue::Ints(v.to_vec()))
    }

    pub fn floats(name: &str, v: &[f32]) -> Attr {
        Attr::new(name, AttrValue::Floats(v.to_vec()))
    }

    pub fn strs(name: &str, v: &[String]) -> Attr {
        Attr::new(name, AttrValue::Strs(v.iter().map(|s| Bytes::copy_from_slice(s.as_bytes())).collect()))
    }

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

    pub fn int(&mut self, name: &'static str) -> Option<i64> {
        self.get(name, |v| if let AttrValue::Int(i) = v { Some(*i) } else { None })
    }

    pub fn int_or(&mut self, name: &'static str, default: i64) -> i64 {
        self.int(name).unwrap_or(default)
    }

    pub fn flag(&mut self, name: &'static str) -> bool {
        self.int_or(name, 0) != 0
    }

    pub fn float(&mut self, name: &'static str) -> Option<f32> {
        self.get(name, |v| if let AttrValue::Float(f) = v { Some(*f) } else { None })
    }

    pub fn float_or(&mut self, name: &'static str, default: f32) -> f32 {
        self.float(name).unwrap_or(default)
    }

    pub fn ints(&mut self, name: &'static str) -> Option<Vec<i64>> {
        self.get(name, |v| if let AttrValue::Ints(i) = v { Some(i.clone()) } else { None })
    }

    pub fn floats(&mut self, name: &'static str) -> Option<Vec<f32>> {
        self.get(name, |v| if let AttrValue::Floats(f) = v { Some(f.clone()) } else { None })
    }

    pub fn strs(&mut self, name: &'static str) -> Option<Vec<String>> {
        self.get(name, |v| match v {
            AttrValue::Strs(s) => s.iter().map(|s| String::from_utf8(s.to_vec()).ok()).collect(),
            _ => None,
        })
    }

    pub fn str(&mut self, name: &'static str) -> Option<String> {
        self.get(name, |v| match v {
            AttrValue::Str(s) => String::from_utf8(s.to_vec()).ok(),
            _ => None,
        })
    }

    pub fn tensor(&mut self, name: &'static str) -> Option<&'a Tensor> {
        self.get(name, |v| if let AttrValue::Tensor(t, _) = v { Some(&**t) } else { None })
    }

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
