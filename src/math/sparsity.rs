//! Whether weights are zero because they were pruned.

/// How often the commonest other number of a row may be there for each zero of it: zeros of pruned weights outnumber it.
const REPEATED: usize = 3;

/// Whether weights of this shape, row-major, were pruned: more than `share` of them are exactly zero, and zeros are far more
/// than any other number. Integers times a scale, one for all or one for each row or column, have zeros as they have ones.
pub fn pruned(values: &[f32], shape: &[usize], share: f64) -> bool {
    let zeros = values.iter().filter(|&&v| v == 0.0).count();
    if zeros == 0 || zeros as f64 <= share * values.len() as f64 {
        return false;
    }
    let columns = shape.last().copied().unwrap_or(1).max(1);
    let row = shape.first().map_or(1, |&rows| values.len() / rows.max(1)).max(1);
    let by_row = values.chunks(row).map(|row| repeats(row.iter()));
    let by_column = (0..columns).map(|c| repeats(values[c..].iter().step_by(columns)));
    zeros > REPEATED * by_row.sum::<usize>().max(by_column.sum())
}

/// How often the commonest number that is not zero is there again.
fn repeats<'a>(values: impl Iterator<Item = &'a f32>) -> usize {
    let mut bits: Vec<u32> = values.filter(|&&v| v != 0.0).map(|v| v.to_bits()).collect();
    bits.sort_unstable();
    bits.chunk_by(|a, b| a == b).map(<[u32]>::len).max().map_or(0, |most| most - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::testing::noise;

    #[test]
    fn a_grid_has_zeros_and_is_not_pruned() {
        let w = noise(64, 96, 1).mapv(|v| v as f32);
        let values =
            |f: &dyn Fn(usize, f32) -> f32| -> Vec<f32> { w.indexed_iter().map(|((row, _), &v)| f(row, v)).collect() };
        let shape = [64, 96];
        let scale = |row: usize| 0.01 + row as f32 / 1e3;
        let grids = [values(&|_, v| (v / 0.1).round() * 0.1), values(&|row, v| (v / scale(row)).round() * scale(row))];
        for grid in grids {
            assert!(grid.iter().filter(|&&v| v == 0.0).count() > 60);
            assert!(!pruned(&grid, &shape, 0.01));
            let transposed: Vec<f32> = (0..96 * 64).map(|i| grid[i % 64 * 96 + i / 64]).collect();
            assert!(!pruned(&transposed, &[96, 64], 0.01));
            let mut cut = grid.clone();
            cut.iter_mut().step_by(3).for_each(|v| *v = 0.0);
            assert!(pruned(&cut, &shape, 0.01));
        }
        assert!(pruned(&values(&|_, v| if v.abs() < 0.02 { 0.0 } else { v }), &shape, 0.01));
        assert!(!pruned(&values(&|_, v| v), &shape, 0.0));
    }
}
