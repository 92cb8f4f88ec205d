//! What each stage of a plan costs the output, as power laws fitted to what was measured: few numbers, so that a handful of
//! candidates is enough, and local, so that near the best plans they are right.

/// One measurement of a stage.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LawPoint {
    /// How hard the stage compressed; 0 is not at all.
    pub effort: f64,
    /// What the loss grew by.
    pub loss: f64,
    /// Where on the axes of the search it was measured.
    pub at: [f64; 2],
}

/// loss = e^level · effort^slope, as it is before anything was measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prior {
    pub level: f64,
    pub slope: f64,
}

/// How far measurements reach along an axis, and what one far away still counts.
const REACH: f64 = 0.5;
const FAR: f64 = 0.02;
/// How many measurements the level and the slope of a prior count as.
const LEVEL: f64 = 0.02;
const SLOPE: f64 = 0.25;
/// Slopes beyond which a law says nothing.
const SLOPES: [f64; 2] = [0.5, 6.0];

/// What a stage costs with this effort at a place of the search. (Weighted least squares of log loss on log effort, the priors
/// as measurements.)
pub fn predict(prior: Prior, points: &[LawPoint], effort: f64, at: [f64; 2]) -> f64 {
    if effort <= 0.0 {
        return 0.0;
    }
    let weight = |p: &LawPoint| {
        let far: f64 = p.at.iter().zip(at).map(|(a, b)| ((a - b) / REACH).powi(2)).sum();
        (-0.5 * far).exp() + FAR
    };
    let usable = points.iter().filter(|p| p.effort > 0.0 && p.loss > 0.0 && p.loss.is_finite());
    let rows: Vec<(f64, f64, f64)> = usable.map(|p| (weight(p), p.effort.ln(), p.loss.ln())).collect();
    let (mut total, mut x, mut y) = (LEVEL, 0.0, 0.0);
    let here = effort.ln();
    // Efforts are measured from here, where the prior's level is that of its law.
    y += LEVEL * (prior.level + prior.slope * here);
    for &(w, effort, loss) in &rows {
        total += w;
        x += w * (effort - here);
        y += w * loss;
    }
    let (mean_x, mean_y) = (x / total, y / total);
    let (mut xx, mut xy) = (SLOPE, SLOPE * prior.slope);
    for &(w, effort, loss) in &rows {
        let off = effort - here - mean_x;
        xx += w * off * off;
        xy += w * off * (loss - mean_y);
    }
    let slope = (xy / xx).clamp(SLOPES[0], SLOPES[1]);
    (mean_y - slope * mean_x).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRIOR: Prior = Prior { level: -3.0, slope: 2.0 };

    #[test]
    fn nothing_measured_is_the_prior() {
        let at = predict(PRIOR, &[], 0.5, [0.0; 2]);
        assert!((at.ln() - (PRIOR.level + 2.0 * 0.5f64.ln())).abs() < 1e-9);
        assert_eq!(predict(PRIOR, &[], 0.0, [0.0; 2]), 0.0);
    }

    #[test]
    fn a_law_is_found_from_a_few_points() {
        let law = |effort: f64| 0.3 * effort.powf(3.0);
        let points: Vec<LawPoint> =
            [0.3, 0.6, 1.2, 2.4].map(|effort| LawPoint { effort, loss: law(effort), at: [0.0; 2] }).to_vec();
        let found = predict(PRIOR, &points, 1.0, [0.0; 2]);
        assert!((found / law(1.0)).ln().abs() < 0.1, "{found}");
    }

    #[test]
    fn what_is_near_counts_more() {
        let point = |loss: f64, place: f64| LawPoint { effort: 1.0, loss, at: [place, 0.0] };
        let points = [point(0.1, 0.0), point(0.4, 3.0)];
        let near = predict(PRIOR, &points, 1.0, [0.0; 2]);
        let far = predict(PRIOR, &points, 1.0, [3.0, 0.0]);
        assert!(near < 0.12 && far > 0.33, "{near} {far}");
    }
}
