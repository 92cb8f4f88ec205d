//! Numbers of variable length, seven bits to a byte: how protobuf writes integers, and ONNX lists of them.

/// Bytes of a list that are read before the memory that holds them is given back.
const BLOCK: usize = 1 << 20;

/// Bytes of a number.
pub fn len(number: u64) -> usize {
    (64 - (number | 1).leading_zeros() as usize).div_ceil(7)
}

/// Appends a number.
pub fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Reads a list: `number` gets each, and how many bytes it takes; `read` is called after every block. `None` where the list
/// is cut off, or `number` gives `None`.
pub fn each(list: &[u8], read: impl Fn(), mut number: impl FnMut(u64, usize) -> Option<()>) -> Option<()> {
    let (mut value, mut bytes) = (0u64, 0);
    for block in list.chunks(BLOCK) {
        for byte in block {
            value |= u64::from(byte & 0x7f).checked_shl(7 * bytes as u32)?;
            bytes += 1;
            if byte & 0x80 == 0 {
                number(value, bytes)?;
                (value, bytes) = (0, 0);
            }
        }
        read();
    }
    (bytes == 0).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back() {
        let numbers = [0, 1, 127, 128, 300, u64::from(u32::MAX), 1 << 56, u64::MAX];
        let mut list = Vec::new();
        numbers.iter().for_each(|&n| put(&mut list, n));
        assert_eq!(list.len(), numbers.iter().map(|&n| len(n)).sum::<usize>());
        let mut back = Vec::new();
        each(&list, || (), |n, bytes| (bytes == len(n)).then(|| back.push(n))).unwrap();
        assert_eq!(back, numbers);
        assert!(each(&list[..list.len() - 1], || (), |_, _| Some(())).is_none());
        assert!(each(&[0x80; 11], || (), |_, _| Some(())).is_none());
    }
}
