//! A sorted run of values: its prefix sums, its grid for the dynamic programme, and Lloyd's iteration on it.
//!
//! Without a pinned zero there is one side, all values. With one there are two, the positive values and the mirrored
//! negative ones, each with a cluster of its own whose centre is fixed at zero and that takes what lies next to zero.

use super::dp::{Grid, Layers};
use super::radix::SortItem;

/// Values between two stored prefix sums.
const STRIDE: usize = 64;

/// A bound on Lloyd's iterations, far above what a start from the dynamic programme needs.
const MAX_STEPS: usize = 2000;

pub(super) struct LloydSide<T> {
    items: Vec<T>,
    /// Subtracted from every value before it is summed: the mean, or 0 when zero is pinned.
    centre: f64,
    /// (weight, weight × centred value) of the items before each multiple of [`STRIDE`].
    sums: Vec<(f64, f64)>,
    least: f64,
    anchored: bool,
}

impl<T: SortItem> LloydSide<T> {
    /// `items` ascending. `least` is the smallest weight among them.
    pub(super) fn new(items: Vec<T>, least: f64, anchored: bool) -> Self {
        let mut centre = 0.0;
        if !anchored && !items.is_empty() {
            let (mut weight, mut moment) = (0.0, 0.0);
            for item in &items {
                weight += item.weight();
                moment += item.weight() * f64::from(item.value());
            }
            centre = moment / weight;
        }
        let mut side = LloydSide { items, centre, sums: Vec::new(), least, anchored };
        let mut total = (0.0, 0.0);
        side.sums.push(total);
        for block in side.items.chunks(STRIDE) {
            let (weight, moment) = side.sum(block);
            total = (total.0 + weight, total.1 + moment);
            side.sums.push(total);
        }
        side
    }

    /// The values of the runs that end at `ends`.
    pub(super) fn values(&self, ends: &[usize]) -> Vec<f64> {
        ends.iter().map(|&end| f64::from(self.items[end - 1].value())).collect()
    }

    fn sum(&self, items: &[T]) -> (f64, f64) {
        items.iter().fold((0.0, 0.0), |(weight, moment), item| {
            (weight + item.weight(), moment + item.weight() * (f64::from(item.value()) - self.centre))
        })
    }

    /// The sums over the first `end` items.
    fn prefix(&self, end: usize) -> (f64, f64) {
        let stored = end / STRIDE;
        let (weight, moment) = self.sum(&self.items[stored * STRIDE..end]);
        (self.sums[stored].0 + weight, self.sums[stored].1 + moment)
    }

    /// Where each run of equal values ends, or `None` when there are more than `limit` of them.
    pub(super) fn distinct(&self, limit: usize) -> Option<Vec<usize>> {
        let mut ends = Vec::new();
        for end in 1..=self.items.len() {
            if self.items.get(end).is_none_or(|next| next.value() != self.items[end - 1].value()) {
                if ends.len() == limit {
                    return None;
                }
                ends.push(end);
            }
        }
        Some(ends)
    }

    /// Ends of about `cells` cells, never between equal values. A cell's extent follows Σ√(weight · gap): fine where
    /// values are dense and where they are far apart alike, near the rule (density^⅓) that makes all cells cost the same.
    pub(super) fn cells(&self, cells: usize) -> Vec<usize> {
        let extent = |pair: &[T]| (pair[0].weight() * (f64::from(pair[1].value()) - f64::from(pair[0].value()))).sqrt();
        let total = |most: f64| self.items.windows(2).map(|pair| extent(pair).min(most)).sum::<f64>();
        let mut sum = total(f64::INFINITY);
        let mut step = sum / cells as f64;
        // A gap fills at most one cell, so what far outliers claim beyond that goes to the others.
        loop {
            let capped = total(step);
            if capped > 0.9 * sum {
                break;
            }
            (sum, step) = (capped, capped / cells as f64);
        }
        let mut ends = Vec::with_capacity(cells + cells / 4);
        let mut filled = 0.0;
        for (index, pair) in self.items.windows(2).enumerate() {
            filled += extent(pair).min(step);
            if filled >= step && pair[0].value() < pair[1].value() {
                filled -= step;
                ends.push(index + 1);
            }
        }
        ends.push(self.items.len());
        ends
    }

    /// The dynamic programme on the cells that end at `ends`.
    pub(super) fn layers(&self, ends: &[usize], clusters: usize) -> Layers {
        let (weight, moment) = std::iter::once(0).chain(ends.iter().copied()).map(|end| self.prefix(end)).unzip();
        Grid { weight, moment, least: self.least }.layers(clusters, self.anchored)
    }

    /// Lloyd's iteration from clusters that start at the given items, until no item changes its cluster; then the means,
    /// strictly ascending.
    pub(super) fn lloyd(&self, mut starts: Vec<usize>) -> Vec<f64> {
        for _ in 0..MAX_STEPS {
            let means = self.means(&starts);
            let mut next = Vec::with_capacity(starts.len());
            let mut below = self.anchored.then_some(0.0);
            for (&mean, &start) in means.iter().zip(&starts) {
                next.push(below.map_or(0, |below: f64| self.first_above(below + (mean - below) / 2.0, start)));
                below = Some(mean);
            }
            let emptied = next.windows(2).any(|pair| pair[0] >= pair[1]) || next.last() >= Some(&self.items.len());
            if emptied || next == starts {
                return means;
            }
            starts = next;
        }
        self.means(&starts)
    }

    /// The means of the clusters, none of them empty.
    fn means(&self, starts: &[usize]) -> Vec<f64> {
        let mut means = Vec::with_capacity(starts.len());
        let ends = starts.iter().copied().skip(1).chain([self.items.len()]);
        let mut before = starts.first().map_or((0.0, 0.0), |&start| self.prefix(start));
        for (&start, end) in starts.iter().zip(ends) {
            let upto = self.prefix(end);
            let mean = self.centre + (upto.1 - before.1) / (upto.0 - before.0).max(self.least);
            let (low, high) = (f64::from(self.items[start].value()), f64::from(self.items[end - 1].value()));
            means.push(mean.clamp(low, high));
            before = upto;
        }
        means
    }

    /// The index of the first value above `limit`, searched outwards from `hint`.
    fn first_above(&self, limit: f64, hint: usize) -> usize {
        let above = |index: usize| f64::from(self.items[index].value()) > limit;
        let (mut low, mut high, mut step) = (hint, hint, 1);
        while high < self.items.len() && !above(high) {
            low = high + 1;
            high = (high + step).min(self.items.len());
            step *= 2;
        }
        step = 1;
        while low > 0 && above(low - 1) {
            high = low - 1;
            low = low.saturating_sub(step);
            step *= 2;
        }
        low + self.items[low..high].partition_point(|item| f64::from(item.value()) <= limit)
    }
}
