//! Ascending order of finite `f32`s by least-significant-digit radix sort: stable, so ties keep their input order and
//! every sum taken over the result is reproducible. On 10⁷ weights it is several times faster than a comparison sort.

const DIGIT: u32 = 11;
const PASSES: usize = 3;

/// What is sorted: a value alone, or a value with the weight that travels with it.
pub(super) trait SortItem: Copy + Default {
    fn value(self) -> f32;
    fn weight(self) -> f64;
    fn negated(self) -> Self;
}

impl SortItem for f32 {
    fn value(self) -> f32 {
        self
    }
    fn weight(self) -> f64 {
        1.0
    }
    fn negated(self) -> Self {
        -self
    }
}

impl SortItem for (f32, f32) {
    fn value(self) -> f32 {
        self.0
    }
    fn weight(self) -> f64 {
        f64::from(self.1)
    }
    fn negated(self) -> Self {
        (-self.0, self.1)
    }
}

/// The bits of `x`, remapped so that unsigned order is numeric order (−0 before +0).
fn key(x: f32) -> u32 {
    let bits = x.to_bits();
    if bits >> 31 == 0 { bits | 1 << 31 } else { !bits }
}

fn digit(x: f32, pass: usize) -> usize {
    (key(x) >> (DIGIT * pass as u32)) as usize & ((1 << DIGIT) - 1)
}

pub(super) fn sort<T: SortItem>(mut items: Vec<T>) -> Vec<T> {
    let mut counts = vec![[0usize; 1 << DIGIT]; PASSES];
    for item in &items {
        for (pass, count) in counts.iter_mut().enumerate() {
            count[digit(item.value(), pass)] += 1;
        }
    }
    let mut other = vec![T::default(); items.len()];
    for (pass, count) in counts.iter_mut().enumerate() {
        // f16-rounded data has one low digit only: nothing to move.
        if count.contains(&items.len()) {
            continue;
        }
        let mut start = 0;
        for slot in count.iter_mut() {
            (*slot, start) = (start, start + *slot);
        }
        for &item in &items {
            let slot = &mut count[digit(item.value(), pass)];
            other[*slot] = item;
            *slot += 1;
        }
        std::mem::swap(&mut items, &mut other);
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_comparison_sort() {
        let mut state = 7u64;
        let mut values = vec![0.0f32, -0.0, f32::MAX, f32::MIN, f32::MIN_POSITIVE, -1e-42, 1.0, -1.0];
        for _ in 0..5000 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let x = f32::from_bits((state >> 32) as u32);
            if x.is_finite() {
                values.push(x);
            }
        }
        let mut expected = values.clone();
        expected.sort_by(f32::total_cmp);
        let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&sort(values)), bits(&expected));
    }

    #[test]
    fn equal_values_keep_their_order() {
        let sorted = sort(vec![(1.0f32, 1.0f32), (0.0, 2.0), (1.0, 3.0), (0.0, 4.0)]);
        assert_eq!(sorted, [(0.0, 2.0), (0.0, 4.0), (1.0, 1.0), (1.0, 3.0)]);
    }
}
