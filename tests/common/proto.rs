//! Just enough protobuf to write ONNX files that no library would write, and to damage some with care.

/// A field that holds bytes, a string or a message.
pub fn bytes(field: u64, content: impl AsRef<[u8]>) -> Vec<u8> {
    let content = content.as_ref();
    [varint(field << 3 | 2), varint(content.len() as u64), content.to_vec()].concat()
}

pub fn int(field: u64, value: i64) -> Vec<u8> {
    [varint(field << 3), varint(value as u64)].concat()
}

pub fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

/// A ModelProto of IR 10 and opset 21 around the fields of a graph.
pub fn model(graph: &[Vec<u8>]) -> Vec<u8> {
    [int(1, 10), bytes(7, graph.concat()), bytes(8, int(2, 21))].concat()
}

/// A graph's node, named after its operator in lower case.
pub fn node(op_type: &str, inputs: &[&str], outputs: &[&str]) -> Vec<u8> {
    let inputs = inputs.iter().map(|i| bytes(1, i));
    let outputs = outputs.iter().map(|o| bytes(2, o));
    let names = [bytes(3, op_type.to_lowercase()), bytes(4, op_type)];
    bytes(1, inputs.chain(outputs).chain(names).collect::<Vec<_>>().concat())
}

/// A graph's initializer of type f32; `more` are further fields of it.
pub fn initializer(name: &str, dims: &[i64], more: &[Vec<u8>]) -> Vec<u8> {
    typed_initializer(name, 1, dims, more)
}

pub fn typed_initializer(name: &str, dtype: i64, dims: &[i64], more: &[Vec<u8>]) -> Vec<u8> {
    let dims = dims.iter().map(|&d| int(1, d)).collect::<Vec<_>>().concat();
    bytes(5, [dims, int(2, dtype), bytes(8, name), more.concat()].concat())
}

/// An initializer of type f32 that says where its bytes are.
pub fn external(name: &str, dims: &[i64], entries: &[(&str, &str)]) -> Vec<u8> {
    let entries = entries.iter().map(|(k, v)| bytes(13, [bytes(1, k), bytes(2, v)].concat()));
    initializer(name, dims, &entries.chain([int(14, 1)]).collect::<Vec<_>>())
}

/// A graph's input, f32[4].
pub fn input(name: &str) -> Vec<u8> {
    bytes(11, value(name))
}

/// A graph's output, f32[4].
pub fn output(name: &str) -> Vec<u8> {
    bytes(12, value(name))
}

fn value(name: &str) -> Vec<u8> {
    let tensor = [int(1, 1), bytes(2, bytes(1, int(1, 4)))].concat();
    [bytes(1, name), bytes(2, bytes(1, tensor))].concat()
}

/// A field of a message.
#[derive(Clone)]
pub struct Field {
    pub number: u64,
    pub content: Content,
}

#[derive(Clone)]
pub enum Content {
    Varint(u64),
    Fixed(Vec<u8>),
    Bytes(Vec<u8>),
    /// Bytes that read as a message.
    Message(Vec<Field>),
}

/// The fields of a message; `None` if it is none.
pub fn parse(mut bytes: &[u8]) -> Option<Vec<Field>> {
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let key = read_varint(&mut bytes)?;
        let content = match key & 7 {
            0 => Content::Varint(read_varint(&mut bytes)?),
            1 => Content::Fixed(take(&mut bytes, 8)?.to_vec()),
            5 => Content::Fixed(take(&mut bytes, 4)?.to_vec()),
            2 => {
                let n = read_varint(&mut bytes)?;
                let inner = take(&mut bytes, n)?;
                match parse(inner).filter(|fields| !fields.is_empty() && encode(fields) == inner) {
                    Some(fields) => Content::Message(fields),
                    None => Content::Bytes(inner.to_vec()),
                }
            }
            _ => return None,
        };
        out.push(Field { number: key >> 3, content });
    }
    Some(out)
}

pub fn encode(fields: &[Field]) -> Vec<u8> {
    let one = |f: &Field| match &f.content {
        Content::Varint(v) => int(f.number, *v as i64),
        Content::Fixed(b) => [varint(f.number << 3 | if b.len() == 4 { 5 } else { 1 }), b.clone()].concat(),
        Content::Bytes(b) => bytes(f.number, b),
        Content::Message(inner) => bytes(f.number, encode(inner)),
    };
    fields.iter().flat_map(one).collect()
}

fn take<'a>(bytes: &mut &'a [u8], n: u64) -> Option<&'a [u8]> {
    let (head, tail) = bytes.split_at_checked(n as usize)?;
    *bytes = tail;
    Some(head)
}

fn read_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}
