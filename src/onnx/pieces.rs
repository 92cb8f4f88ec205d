//! Encoded messages in pieces, so that a weight in one stays where it is: in the mapped file.

use bytes::buf::UninitSlice;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::{DecodeError, Message};
use std::collections::VecDeque;

/// Fields of so many bytes are pieces of their own.
const LARGE: usize = 1 << 12;

/// The pieces of a message; one after the other they are its encoded form.
pub fn encode(message: &impl Message) -> Vec<Bytes> {
    let mut out = Pieces::default();
    message.encode_raw(&mut out);
    out.cut();
    out.done
}

/// The message in these pieces, which it shares.
pub fn decode<M: Message + Default>(pieces: &[Bytes]) -> Result<M, DecodeError> {
    let pieces: VecDeque<Bytes> = pieces.iter().filter(|p| !p.is_empty()).cloned().collect();
    let left = pieces.iter().map(Bytes::len).sum();
    M::decode(Rest { pieces, left })
}

#[derive(Default)]
struct Pieces {
    done: Vec<Bytes>,
    last: BytesMut,
}

impl Pieces {
    fn cut(&mut self) {
        let piece = std::mem::take(&mut self.last).freeze();
        self.done.extend(Some(piece).filter(|p| !p.is_empty()));
    }
}

// SAFETY: all three are those of `last`.
unsafe impl BufMut for Pieces {
    fn remaining_mut(&self) -> usize {
        self.last.remaining_mut()
    }

    unsafe fn advance_mut(&mut self, n: usize) {
        // SAFETY: the caller has written so many bytes of `chunk_mut`.
        unsafe { self.last.advance_mut(n) }
    }

    fn chunk_mut(&mut self) -> &mut UninitSlice {
        self.last.chunk_mut()
    }

    fn put<T: Buf>(&mut self, mut src: T)
    where
        Self: Sized,
    {
        let n = src.remaining();
        if n < LARGE {
            return self.last.put(src);
        }
        self.cut();
        self.done.push(src.copy_to_bytes(n));
    }
}

/// What is still to be read; no piece is empty.
struct Rest {
    pieces: VecDeque<Bytes>,
    /// Their bytes.
    left: usize,
}

impl Buf for Rest {
    fn remaining(&self) -> usize {
        self.left
    }

    fn chunk(&self) -> &[u8] {
        self.pieces.front().map_or(&[], |p| p)
    }

    fn advance(&mut self, mut n: usize) {
        self.left = self.left.checked_sub(n).expect("decoders take no more than remains");
        while let Some(first) = self.pieces.front_mut() {
            if n < first.len() {
                return first.advance(n);
            }
            n -= first.len();
            self.pieces.pop_front();
        }
    }

    fn copy_to_bytes(&mut self, n: usize) -> Bytes {
        match self.pieces.front() {
            Some(first) if n <= first.len() => {
                let taken = first.slice(..n);
                self.advance(n);
                taken
            }
            _ => {
                let mut out = BytesMut::with_capacity(n.min(self.left));
                out.put(self.take(n));
                out.freeze()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::proto::{GraphProto, TensorProto};

    #[test]
    fn large_fields_are_shared() {
        let raw = Bytes::from(vec![7; 2 * LARGE]);
        let tensor = |name: &str| TensorProto {
            name: Some(name.into()),
            raw_data: Some(raw.clone()),
            doc_string: Some("after it".into()),
            ..Default::default()
        };
        let graph = GraphProto { initializer: vec![tensor("a"), tensor("b")], ..Default::default() };
        let pieces = encode(&graph);
        assert_eq!(pieces.concat(), graph.encode_to_vec());
        assert_eq!(pieces.len(), 5);
        let back: GraphProto = decode(&pieces).unwrap();
        assert_eq!(back, graph);
        assert!(back.initializer.iter().all(|t| t.raw_data.as_ref().unwrap().as_ptr() == raw.as_ptr()));
        assert!(decode::<GraphProto>(&pieces[..2]).is_err());
    }
}
