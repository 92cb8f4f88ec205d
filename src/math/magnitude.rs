//! Unstructured pruning by magnitude: how many weights each of several tensors loses, and which.

/// How the weights of different tensors compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// By |w|.
    Absolute,
    /// By w² / Σ v² over the weights v of the same tensor that are no smaller: what removing w, after all smaller ones,
    /// costs of the squared norm that is left. (Lee et al. 2021, Layer-adaptive Sparsity for the Magnitude-based Pruning,
    /// "LAMP".) The largest weight of every tensor scores 1 and goes last.
    Remaining,
}

/// The scores of a tensor's weights, ascending.
pub fn scores(values: &[f32], scale: Scale) -> Vec<f32> {
    let mut sizes: Vec<f32> = values.iter().map(|v| v.abs()).collect();
    sizes.sort_unstable_by(f32::total_cmp);
    if scale == Scale::Remaining {
        let mut left = 0.0;
        for size in sizes.iter_mut().rev() {
            let square = f64::from(*size).powi(2);
            left += square;
            *size = if left > 0.0 { (square / left) as f32 } else { 0.0 };
        }
    }
    sizes
}

/// How many of the `n` lowest scores of all tensors are in each; of equal ones those of the first tensors. Each tensor's
/// scores are ascending.
pub fn spread(scores: &[Vec<f32>], n: usize) -> Vec<usize> {
    let mut all = scores.concat();
    let last = n.min(all.len()).checked_sub(1);
    let Some(last) = last else { return vec![0; scores.len()] };
    let limit = *all.select_nth_unstable_by(last, f32::total_cmp).1;
    let below = |s: &Vec<f32>| s.partition_point(|x| x.total_cmp(&limit).is_lt());
    let mut counts: Vec<usize> = scores.iter().map(below).collect();
    let mut rest = last + 1 - counts.iter().sum::<usize>();
    for (count, s) in counts.iter_mut().zip(scores) {
        let equal = s.partition_point(|x| x.total_cmp(&limit).is_le()) - *count;
        *count += equal.min(rest);
        rest -= equal.min(rest);
    }
    counts
}

/// For each value, whether it is one of the `n` of the least magnitude; of equal ones the first are.
pub fn smallest(values: &[f32], n: usize) -> Vec<bool> {
    let mut sizes: Vec<f32> = values.iter().map(|v| v.abs()).collect();
    let Some(last) = n.min(sizes.len()).checked_sub(1) else { return vec![false; values.len()] };
    let (below, &mut limit, _) = sizes.select_nth_unstable_by(last, f32::total_cmp);
    let mut equal = 1 + below.iter().filter(|s| s.total_cmp(&limit).is_eq()).count();
    let chosen = values.iter().map(|v| match v.abs().total_cmp(&limit) {
        std::cmp::Ordering::Less => true,
        std::cmp::Ordering::Equal if equal > 0 => {
            equal -= 1;
            true
        }
        _ => false,
    });
    chosen.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_equal_values_go() {
        let marks =
            |n| smallest(&[2.0, -1.0, 1.0, -0.0, 1.0, f32::NAN], n).iter().map(|&b| u8::from(b)).collect::<Vec<_>>();
        assert_eq!(marks(0), [0, 0, 0, 0, 0, 0]);
        assert_eq!(marks(1), [0, 0, 0, 1, 0, 0]);
        assert_eq!(marks(3), [0, 1, 1, 1, 0, 0]);
        assert_eq!(marks(5), [1, 1, 1, 1, 1, 0]);
        assert_eq!(marks(9), [1; 6]);
        assert!(smallest(&[], 3).is_empty());
    }

    #[test]
    fn a_budget_is_spent_where_scores_are_lowest() {
        let scores = [vec![1.0, 2.0, 2.0], vec![], vec![0.5, 2.0, 3.0]];
        let counts = |n| spread(&scores, n);
        assert_eq!(counts(0), [0, 0, 0]);
        assert_eq!(counts(2), [1, 0, 1]);
        assert_eq!(counts(3), [2, 0, 1]);
        assert_eq!(counts(5), [3, 0, 2]);
        assert_eq!(counts(99), [3, 0, 3]);
        assert!(spread(&[], 4).is_empty());
    }

    #[test]
    fn the_share_of_what_is_left_ignores_the_scale_of_a_tensor() {
        let values = [0.0, -3.0, 4.0, 0.0];
        assert_eq!(scores(&values, Scale::Absolute), [0.0, 0.0, 3.0, 4.0]);
        let want = [0.0, 0.0, 9.0 / 25.0, 1.0];
        assert_eq!(scores(&values, Scale::Remaining), want);
        assert_eq!(scores(&values.map(|v| v * 1024.0), Scale::Remaining), want);
        assert_eq!(scores(&[0.0, 0.0], Scale::Remaining), [0.0, 0.0]);
    }
}
