//! The dynamic programme of 1-D k-means over a grid of cells: at most `k` clusters, each a run of cells.
//!
//! A cluster with weight W and first moment S about the origin lowers Σwx² by S²/W, so the programme maximizes the sum
//! of those gains. The gain satisfies the quadrangle inequality, so the best left end moves monotonically with the right
//! end and a layer is filled by divide and conquer in O(m log m) (Grønlund et al., "Fast exact k-means, k-medians and
//! Bregman divergence clustering in 1D", 2017).

/// Prefix sums at the `m + 1` edges of `m` cells. Every cell holds a positive weight.
pub(super) struct Grid {
    /// Weight before each edge.
    pub(super) weight: Vec<f64>,
    /// Weight × value before each edge.
    pub(super) moment: Vec<f64>,
    /// A lower bound of the weight of any cell. It keeps a difference of prefix sums that rounding has made tiny or zero
    /// from turning into a huge gain.
    pub(super) least: f64,
}

/// The best gain for 0, 1, … clusters, and what is needed to read the clusters off.
pub(super) struct Layers {
    pub(super) gain: Vec<f64>,
    back: Vec<Vec<u32>>,
    cells: usize,
}

impl Grid {
    /// Fills layers for 1 to `k` clusters. `anchored`: a further cluster with its centre fixed at the origin takes the
    /// cells before the first free cluster, at no gain; otherwise the clusters cover every cell. Only the anchored form
    /// has every entry of `gain`; the plain one has the last.
    pub(super) fn layers(&self, k: usize, anchored: bool) -> Layers {
        let cells = self.weight.len() - 1;
        let mut layers = Layers { gain: vec![0.0], back: Vec::with_capacity(k), cells };
        let mut previous = vec![0.0; cells + 1];
        let first = vec![0; cells + 1];
        for clusters in 1..=k.min(cells) {
            let least = layers.back.last().unwrap_or(&first);
            let (best, back) = (vec![0.0; cells + 1], vec![0; cells + 1]);
            let mut layer = ProgrammeLayer { grid: self, previous: &previous, least, best, back };
            if clusters == 1 && !anchored {
                for right in 1..=cells {
                    layer.best[right] = layer.scan(right, 0, 1).0;
                }
            } else if clusters == k && !anchored {
                (layer.best[cells], layer.back[cells]) = layer.scan(cells, 0, cells);
            } else if cells > 0 {
                layer.fill(1, cells, 0, cells - 1);
            }
            let ProgrammeLayer { best, back, .. } = layer;
            layers.gain.push(best[cells]);
            layers.back.push(back);
            previous = best;
        }
        layers
    }
}

impl Layers {
    /// The first cell of each of at most `clusters` free clusters, ascending.
    pub(super) fn starts(&self, clusters: usize) -> Vec<usize> {
        let mut starts = Vec::with_capacity(clusters);
        let mut right = self.cells;
        for back in self.back[..clusters].iter().rev() {
            if right == 0 {
                break;
            }
            right = back[right] as usize;
            starts.push(right);
        }
        starts.reverse();
        starts
    }
}

struct ProgrammeLayer<'a> {
    grid: &'a Grid,
    previous: &'a [f64],
    /// The best left ends with a cluster fewer: with one more, none is further left.
    least: &'a [u32],
    best: Vec<f64>,
    back: Vec<u32>,
}

impl ProgrammeLayer<'_> {
    /// Fills right ends `lo..=hi`, whose best left ends lie in `left_lo..=left_hi`.
    fn fill(&mut self, lo: usize, hi: usize, left_lo: usize, left_hi: usize) {
        let middle = lo + (hi - lo) / 2;
        let to = left_hi.min(middle - 1) + 1;
        let (best, at) = self.scan(middle, left_lo.max(self.least[middle] as usize).min(to - 1), to);
        (self.best[middle], self.back[middle]) = (best, at);
        if middle > lo {
            self.fill(lo, middle - 1, left_lo, at as usize);
        }
        if middle < hi {
            self.fill(middle + 1, hi, at as usize, left_hi);
        }
    }

    /// The best left end in `from..to` for a cluster that ends at `right`; the first of equals.
    fn scan(&self, right: usize, from: usize, to: usize) -> (f64, u32) {
        const LANES: usize = 8;
        let (weight, moment) = (self.grid.weight[right], self.grid.moment[right]);
        let gain = |before: f64, w: f64, s: f64| {
            let s = moment - s;
            before + s * s / (weight - w).max(self.grid.least)
        };
        let (previous, weights, moments) =
            (&self.previous[from..to], &self.grid.weight[from..to], &self.grid.moment[from..to]);
        let (mut best, mut at) = (f64::NEG_INFINITY, 0);
        let mut keep = |value: f64, index: usize| {
            if value > best {
                (best, at) = (value, index);
            }
        };
        let whole = previous.len() / LANES * LANES;
        let chunks = previous.chunks_exact(LANES).zip(weights.chunks_exact(LANES)).zip(moments.chunks_exact(LANES));
        let mut limit = f64::NEG_INFINITY;
        for (chunk, ((p, w), s)) in chunks.enumerate() {
            let mut values = [0.0; LANES];
            for lane in 0..LANES {
                values[lane] = gain(p[lane], w[lane], s[lane]);
            }
            let top = values.iter().fold(f64::NEG_INFINITY, |a, &b| if b > a { b } else { a });
            if top > limit {
                limit = top;
                for (lane, &value) in values.iter().enumerate() {
                    keep(value, chunk * LANES + lane);
                }
            }
        }
        for index in whole..previous.len() {
            keep(gain(previous[index], weights[index], moments[index]), index);
        }
        (best, (from + at) as u32)
    }
}
