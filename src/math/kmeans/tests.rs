use super::*;

/// xorshift64*: a few reproducible numbers.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Nearly normal, standard deviation 1.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }
}

/// The least Σ w (x − c)² over every choice of at most `k` intervals, by the plain O(k n²) recurrence over interval costs
/// that are summed point by point.
fn brute_force(values: &[f32], weights: &[f32], k: usize, pin_zero: bool) -> f64 {
    let mut points: Vec<(f64, f64)> = values.iter().zip(weights).map(|(&x, &w)| (f64::from(x), f64::from(w))).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    let cost = |run: &[(f64, f64)], centre: f64| run.iter().map(|(x, w)| w * (x - centre).powi(2)).sum::<f64>();
    let free = |run: &[(f64, f64)]| {
        let weight: f64 = run.iter().map(|p| p.1).sum();
        if weight > 0.0 { cost(run, run.iter().map(|p| p.0 * p.1).sum::<f64>() / weight) } else { 0.0 }
    };
    let n = points.len();
    // best[z][q][i]: the first i points, q clusters, of which z pinned to zero.
    let mut best = vec![vec![vec![f64::INFINITY; n + 1]; k + 1]; 2];
    best[0][0][0] = 0.0;
    for q in 1..=k {
        for i in 0..=n {
            for j in 0..=i {
                let run = &points[j..i];
                best[0][q][i] = best[0][q][i].min(best[0][q - 1][j] + free(run));
                best[1][q][i] =
                    best[1][q][i].min(best[1][q - 1][j] + free(run)).min(best[0][q - 1][j] + cost(run, 0.0));
            }
        }
    }
    best[usize::from(pin_zero)][k][n]
}

#[test]
fn optimal_on_small_sets() {
    let mut random = Random(1);
    for case in 0..400 {
        let n = 1 + random.bits() as usize % 14;
        let k = 1 + random.bits() as usize % 5;
        // Odd cases are full of ties, exact zeros and both signs of zero.
        let values: Vec<f32> = (0..n)
            .map(|_| if case % 2 == 0 { random.normal() as f32 } else { (random.normal() * 2.0).round() as f32 * 0.5 })
            .collect();
        let weights: Vec<f32> = (0..n)
            .map(|_| if random.bits().is_multiple_of(5) { 0.0 } else { random.uniform() as f32 + 0.01 })
            .collect();
        for pin_zero in [false, true] {
            for weights in [None, Some(&weights[..])] {
                let got = kmeans_1d(&values, weights, k, pin_zero).expect("valid arguments");
                let ones = vec![1.0; n];
                let all_zero = weights.is_some_and(|w| w.iter().all(|&w| w == 0.0));
                let effective = if all_zero { &ones } else { weights.unwrap_or(&ones) };
                let expected = brute_force(&values, effective, k, pin_zero);
                assert!((got.sse - expected).abs() <= 1e-6 * (1e-3 + expected), "case {case}: {} {expected}", got.sse);
                check(&got, &values, effective, k, pin_zero);
            }
        }
    }
}

/// What holds of every result.
fn check(got: &Clustering, values: &[f32], weights: &[f32], k: usize, pin_zero: bool) {
    assert!(got.centroids.len() <= k);
    assert!(got.centroids.windows(2).all(|pair| pair[0] < pair[1]));
    assert_eq!(got.codes.len(), values.len());
    let mut sse = 0.0;
    for ((&x, &w), &code) in values.iter().zip(weights).zip(&got.codes) {
        let distance = |c: f64| (f64::from(x) - c).abs();
        let mine = distance(got.centroids[code as usize]);
        assert!(got.centroids.iter().all(|&c| distance(c) >= mine));
        assert!(!(pin_zero && x == 0.0 && mine != 0.0));
        sse += f64::from(w) * mine * mine;
    }
    assert!((sse - got.sse).abs() <= 1e-9 * sse);
    assert!(!pin_zero || got.centroids.contains(&0.0));
}

#[test]
fn exact_on_medium_sets() {
    let mut random = Random(2);
    let values: Vec<f32> = (0..100).map(|_| (random.normal() * 0.02) as f32).collect();
    let weights: Vec<f32> = (0..100).map(|_| random.uniform() as f32).collect();
    for (k, pin_zero) in [(16, false), (16, true), (24, false), (24, true)] {
        let got = kmeans_1d(&values, Some(&weights), k, pin_zero).expect("valid arguments");
        let expected = brute_force(&values, &weights, k, pin_zero);
        assert!((got.sse - expected).abs() <= 1e-6 * expected, "{k} {pin_zero}: {} {expected}", got.sse);
    }
}

#[test]
fn the_grid_loses_nothing_that_counts() {
    let mut random = Random(3);
    let mut values: Vec<f32> = (0..60_000).map(|_| (random.normal() * 0.02) as f32).collect();
    values.extend([3e4, -7.0, 1e-20]);
    values.extend([0.0; 1000]);
    for (k, pin_zero) in [(80, false), (80, true)] {
        let got = kmeans_1d(&values, None, k, pin_zero).expect("valid arguments");
        check(&got, &values, &vec![1.0; values.len()], k, pin_zero);
        let side = LloydSide::new(radix::sort(values.iter().map(|x| x + 0.0).collect::<Vec<f32>>()), 1.0, false);
        if !pin_zero {
            let ends = side.distinct(usize::MAX).expect("no limit");
            let exact = side.lloyd(first_items(&side.layers(&ends, k).starts(k), &ends));
            let (_, optimum) = encode(&values, None, &exact);
            assert!(got.sse <= optimum * (1.0 + 3e-4), "{k}: {} {optimum}", got.sse);
        }
        assert_eq!(got, kmeans_1d(&values, None, k, pin_zero).expect("valid arguments"));
    }
}

#[test]
fn more_clusters_never_cost_more_and_zero_costs_something() {
    let mut random = Random(4);
    let values: Vec<f32> = (0..500).map(|_| random.normal() as f32).collect();
    let mut last = f64::INFINITY;
    for k in 1..25 {
        let free = kmeans_1d(&values, None, k, false).expect("valid arguments").sse;
        let pinned = kmeans_1d(&values, None, k, true).expect("valid arguments").sse;
        assert!(free <= last && free <= pinned * (1.0 + 1e-12));
        last = free;
    }
}

#[test]
fn degenerate_input() {
    let none: Option<&[f32]> = None;
    let empty = kmeans_1d(&[], none, 4, false).expect("valid arguments");
    assert_eq!((empty.centroids.len(), empty.codes.len(), empty.sse), (0, 0, 0.0));
    assert_eq!(kmeans_1d(&[], none, 4, true).expect("valid arguments").centroids, [0.0]);
    let equal = kmeans_1d(&[0.3; 7], none, 4, false).expect("valid arguments");
    assert_eq!((equal.centroids, equal.sse), (vec![f64::from(0.3f32)], 0.0));
    let few = kmeans_1d(&[2.0, -1.0, 2.0, 0.5], none, 3, false).expect("valid arguments");
    assert_eq!((few.centroids, few.codes), (vec![-1.0, 0.5, 2.0], vec![2, 0, 2, 1]));
    let only_zero = kmeans_1d(&[2.0, -1.0, -0.0], none, 1, true).expect("valid arguments");
    assert_eq!((only_zero.centroids, only_zero.sse), (vec![0.0], 5.0));
    let extreme = kmeans_1d(&[f32::MAX, f32::MIN, 1.0, 0.0, 1e-45], none, 2, true).expect("valid arguments");
    assert_eq!(extreme.centroids.len(), 2);
    let ignored = kmeans_1d(&[1.0, 2.0, 4.0], Some(&[0.0; 3]), 2, false).expect("valid arguments");
    assert_eq!(ignored.centroids, [1.5, 4.0]);

    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        assert_eq!(kmeans_1d(&[1.0, bad], none, 2, false), None);
        assert_eq!(kmeans_1d(&[1.0, 2.0], Some(&[1.0, bad]), 2, false), None);
    }
    assert_eq!(kmeans_1d(&[1.0], Some(&[-1.0]), 2, false), None);
    assert_eq!(kmeans_1d(&[1.0], Some(&[]), 2, false), None);
    assert_eq!(kmeans_1d(&[1.0], none, 0, false), None);
    assert_eq!(kmeans_1d(&[1.0], none, MAX_CLUSTERS + 1, false), None);
}

#[test]
fn heavy_points_pull() {
    let got = kmeans_1d(&[0.0, 1.0, 10.0], Some(&[1.0, 3.0, 1.0]), 2, false).expect("valid arguments");
    assert_eq!((got.centroids, got.codes, got.sse), (vec![0.75, 10.0], vec![0, 0, 1], 0.75));
}
