//! Codes of a codebook as bytes: several codes to a byte where there are few levels, and several codebooks to a tensor.

/// Codes that one byte holds: the largest m ≤ 8 with levels^m ≤ 256.
pub fn codes_per_byte(levels: usize) -> usize {
    let fits = |&m: &u32| levels.checked_pow(m).is_some_and(|n| n <= 256);
    (1..=8).rev().find(fits).map_or(1, |m| m as usize)
}

/// The most levels of which a byte holds as many codes as it does of `levels`.
pub fn levels_at_same_cost(levels: usize) -> usize {
    let m = codes_per_byte(levels);
    (levels..=256).rev().find(|&k| codes_per_byte(k) == m).unwrap_or(levels)
}

/// `[256, m]`: the m codes in each byte. Code j of byte b is digit j, from the lowest, of b in base `levels`.
pub fn digits(levels: usize) -> Vec<u8> {
    let (base, m) = (levels.max(2), codes_per_byte(levels) as u32);
    (0..256usize).flat_map(|b| (0..m).map(move |j| (b / base.pow(j) % base) as u8)).collect()
}

/// Codes below `levels` as bytes; the last byte is filled up with zeros.
pub fn pack(codes: &[u8], levels: usize) -> Vec<u8> {
    let byte = |codes: &[u8]| codes.iter().rev().fold(0usize, |b, &code| b * levels + code as usize) as u8;
    codes.chunks(codes_per_byte(levels)).map(byte).collect()
}

/// Which codebook each weight of a tensor uses: the weights, row-major, come in runs, and run r uses codebook
/// r mod `groups`. The codes are a tensor [periods, groups, run / m]: a weight's group is its place on the middle axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    pub groups: usize,
    /// Weights in a run: a whole number of bytes.
    pub run: usize,
    /// Weights of the tensor.
    pub len: usize,
}

impl Layout {
    /// At most `groups` groups over a tensor of `outer · dim · inner` weights, of which a byte holds the codes of
    /// `per_byte`. They are blocks along `dim` if more than half as many as asked for can be, which takes no padding;
    /// else equal blocks of the whole tensor, filled up at its end.
    pub fn new([outer, dim, inner]: [usize; 3], per_byte: usize, groups: usize) -> Layout {
        let len = outer * dim * inner;
        let most = groups.clamp(1, len.div_ceil(per_byte).max(1));
        let fits = |&g: &usize| dim.is_multiple_of(g) && (dim / g * inner).is_multiple_of(per_byte);
        let aligned = (most / 2 + 1..=most).rev().filter(|&g| g > 1).find(fits);
        let run = match aligned {
            Some(g) => dim / g * inner,
            None => len.div_ceil(most).next_multiple_of(per_byte),
        };
        let groups = aligned.unwrap_or_else(|| len.div_ceil(run.max(1)));
        Layout { groups, run, len }
    }

    /// Times that all groups occur.
    pub fn periods(&self) -> usize {
        self.len.div_ceil((self.groups * self.run).max(1))
    }

    /// Weights, with those that fill up the last period.
    pub fn padded(&self) -> usize {
        self.periods() * self.groups * self.run
    }

    /// The values of one group, in order.
    pub fn group<T: Copy>(&self, values: &[T], group: usize) -> Vec<T> {
        values.chunks(self.run.max(1)).skip(group).step_by(self.groups.max(1)).flatten().copied().collect()
    }

    /// Puts what [`Layout::group`] took apart back together, padded with zeros.
    pub fn join<T: Copy + Default>(&self, groups: &[Vec<T>]) -> Vec<T> {
        let mut out = vec![T::default(); self.padded()];
        for (g, values) in groups.iter().enumerate() {
            let places = out.chunks_mut(self.run.max(1)).skip(g).step_by(self.groups.max(1));
            for (to, from) in places.zip(values.chunks(self.run.max(1))) {
                to[..from.len()].copy_from_slice(from);
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the written graph does: each byte selects a row of the table.
    fn unpack(bytes: &[u8], levels: usize) -> Vec<u8> {
        let (table, m) = (digits(levels), codes_per_byte(levels));
        bytes.iter().flat_map(|&b| table[b as usize * m..][..m].to_vec()).collect()
    }

    #[test]
    fn a_byte_holds_what_it_can() {
        let m: Vec<_> = [2, 3, 4, 5, 6, 7, 16, 17, 256].map(codes_per_byte).into();
        assert_eq!(m, [8, 5, 4, 3, 3, 2, 2, 1, 1]);
        assert_eq!([2, 3, 4, 5, 8, 16, 32, 256].map(levels_at_same_cost), [2, 3, 4, 6, 16, 16, 256, 256]);
        assert_eq!(codes_per_byte(1), 8);
    }

    #[test]
    fn unpacking_is_the_inverse_of_packing() {
        for levels in 1..=256usize {
            let m = codes_per_byte(levels);
            for len in [0, 1, m, 3 * m + m / 2, 1000] {
                let codes: Vec<u8> = (0..len).map(|i| ((i * i * 7 + i) % levels) as u8).collect();
                let bytes = pack(&codes, levels);
                assert_eq!(bytes.len(), len.div_ceil(m));
                let back = unpack(&bytes, levels);
                assert_eq!(back[..len], codes, "{levels} levels");
                assert!(back[len..].iter().all(|&c| c == 0));
            }
        }
    }

    #[test]
    fn every_byte_selects_codes_that_exist() {
        for levels in 1..=256usize {
            let table = digits(levels);
            assert_eq!(table.len(), 256 * codes_per_byte(levels));
            assert!(table.iter().all(|&d| (d as usize) < levels.max(2)));
        }
    }

    #[test]
    fn blocks_follow_the_axis_where_they_can() {
        let layout = |around, per_byte, groups| {
            let l = Layout::new(around, per_byte, groups);
            (l.groups, l.run, l.padded() - l.len)
        };
        assert_eq!(layout([1, 64, 9], 2, 16), (16, 36, 0));
        assert_eq!(layout([1, 500, 800], 2, 16), (10, 40_000, 0));
        assert_eq!(layout([784, 300, 1], 2, 16), (15, 20, 0));
        // 17 rows of 9: no block of rows is a whole number of bytes.
        assert_eq!(layout([1, 17, 9], 2, 16), (16, 10, 7));
        assert_eq!(layout([1, 5, 5], 2, 1), (1, 26, 1));
        assert_eq!(layout([1, 3, 1], 1, 16), (3, 1, 0));
        assert_eq!(layout([1, 1, 1], 8, 16), (1, 8, 7));
        assert_eq!(layout([1, 0, 3], 2, 4).0, 0);
    }

    #[test]
    fn joining_is_the_inverse_of_taking_apart() {
        for around in [[1, 17, 9], [3, 4, 5], [7, 6, 1], [1, 1, 100]] {
            for per_byte in [1, 2, 3, 5, 8] {
                for groups in 1..20 {
                    let layout = Layout::new(around, per_byte, groups);
                    let values: Vec<usize> = (1..=layout.len).collect();
                    let parts: Vec<_> = (0..layout.groups).map(|g| layout.group(&values, g)).collect();
                    assert!(layout.groups <= groups && layout.run.is_multiple_of(per_byte));
                    let joined = layout.join(&parts);
                    assert_eq!(joined[..layout.len], values, "{around:?} {layout:?}");
                    assert!(joined[layout.len..].iter().all(|&v| v == 0));
                    assert!(parts.iter().all(|p| !p.is_empty()), "{around:?} {layout:?}");
                }
            }
        }
    }
}
