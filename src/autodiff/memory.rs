//! Which buffers of a tape can share memory.

/// A buffer and when it holds something: from one moment of a step to another, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    pub len: usize,
    pub from: usize,
    pub to: usize,
}

/// Puts buffers into blocks of memory so that no two in one block live at the same moment. Gives the block of each
/// buffer and the length of each block.
///
/// A buffer of no length takes part in nothing, and gets block 0.
///
/// Greedy in order of birth: the smallest free block that is large enough, else the largest free one, which grows.
pub fn share(buffers: &[Lifetime]) -> (Vec<usize>, Vec<usize>) {
    let mut order: Vec<usize> = (0..buffers.len()).filter(|&i| buffers[i].len > 0).collect();
    order.sort_by_key(|&i| (buffers[i].from, std::cmp::Reverse(buffers[i].len)));
    let mut blocks: Vec<Lifetime> = Vec::new();
    let mut place = vec![0; buffers.len()];
    for i in order {
        let new = buffers[i];
        let free = || blocks.iter().enumerate().filter(|(_, b)| b.to < new.from);
        let fits = free().filter(|(_, b)| b.len >= new.len).min_by_key(|(_, b)| b.len);
        match fits.or_else(|| free().max_by_key(|(_, b)| b.len)).map(|f| f.0) {
            Some(at) => {
                place[i] = at;
                blocks[at] = Lifetime { len: blocks[at].len.max(new.len), ..new };
            }
            None => {
                place[i] = blocks.len();
                blocks.push(new);
            }
        }
    }
    (place, blocks.into_iter().map(|b| b.len).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn live(len: usize, from: usize, to: usize) -> Lifetime {
        Lifetime { len, from, to }
    }

    #[test]
    fn a_chain_takes_two_blocks() {
        let chain: Vec<_> = (0..9).map(|i| live(10, i, i + 1)).collect();
        assert_eq!(share(&chain).1, [10, 10]);
    }

    #[test]
    fn the_best_fit_is_taken_and_the_largest_grows() {
        let (place, blocks) = share(&[live(4, 0, 1), live(9, 0, 1), live(3, 2, 3), live(20, 2, 3)]);
        assert_eq!(place, [1, 0, 1, 0]);
        assert_eq!(blocks, [20, 4]);
    }

    #[test]
    fn nothing_overlaps() {
        let mut state = 1u64;
        let mut below = |n: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((state >> 33) % n) as usize
        };
        let buffers: Vec<_> = (0..200)
            .map(|_| {
                let from = below(50);
                live(1 + below(100), from, from + below(20))
            })
            .collect();
        let (place, blocks) = share(&buffers);
        for (i, a) in buffers.iter().enumerate() {
            assert!(blocks[place[i]] >= a.len);
            for (j, b) in buffers.iter().enumerate().filter(|&(j, _)| j != i && place[j] == place[i]) {
                assert!(a.to < b.from || b.to < a.from, "{i} {j}");
            }
        }
    }
}
