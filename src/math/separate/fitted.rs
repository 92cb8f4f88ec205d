//! Separable filters that give what a layer should give on its data, not just what its weights were.

use super::super::banks::{self, Bank};
use super::super::low_rank::balance;
use super::super::moments::Centred;
use super::super::output_metric::OutputMetric;
use super::super::solve::{self, Whitening, ridge};
use super::super::svd::Svd;
use ndarray::{Array2, Array3, ArrayView2, s};

/// λ of a channel's own moments, as a share of their mean diagonal.
const RIDGE: f64 = 1e-4;
/// Channels whose filters are found from one look at what all the others leave over.
const BLOCK: usize = 16;

/// Filters (channels × terms × taps) and how they are mixed (channels × outputs × terms).
#[derive(Debug, Clone)]
pub struct Mixed {
    pub filters: Array3<f64>,
    pub mixes: Array3<f64>,
}

impl Mixed {
    /// The weight that they make: outputs × (channels · taps).
    pub fn product(&self) -> Array2<f64> {
        let (channels, _, taps) = self.filters.dim();
        let mut w = Array2::zeros((self.mixes.dim().1, channels * taps));
        for c in 0..channels {
            w.slice_mut(s![.., c * taps..(c + 1) * taps])
                .assign(&self.mixes.slice(s![c, .., ..]).dot(&self.filters.slice(s![c, .., ..])));
        }
        w
    }

    /// With other mixes of every channel.
    fn with_mixes(&self, other: impl Fn(ArrayView2<'_, f64>) -> Option<Array2<f64>>) -> Option<Mixed> {
        let mut mixes = self.mixes.clone();
        for mut mix in mixes.outer_iter_mut() {
            let new = other(mix.view())?;
            mix.assign(&new);
        }
        Some(Mixed { filters: self.filters.clone(), mixes })
    }

    fn banks(&self) -> Vec<Bank<'_>> {
        let taps = self.filters.dim().2;
        let bank = |(ch, filters)| Bank { inputs: (ch * taps..(ch + 1) * taps).into(), filters };
        self.filters.outer_iter().enumerate().map(bank).collect()
    }
}

/// The best `terms` filters a channel for Y ≈ W X, with `prior` the weight (outputs × channels·taps) that is given up.
///
/// Each channel's part of W is replaced by the rank-`terms` matrix of least error by the channel's own moments, C = L Lᵀ:
/// the truncated decomposition of W_c L. Then, `sweeps` times, channel by channel, by that which best makes up for what all
/// the others leave over (block coordinate descent: the error never rises), and last all mixes are solved together by
/// ridge regression on what the filters give. `from` are filters to begin with instead. Errors of outputs count in this metric. `None` if something
/// cannot be decomposed or solved.
pub fn fitted(
    metric: &OutputMetric,
    c: &Centred,
    prior: ArrayView2<'_, f64>,
    taps: usize,
    terms: usize,
    sweeps: usize,
    from: Option<&Mixed>,
) -> Option<Mixed> {
    let (c, prior) = (metric.targets(c)?, metric.weigh(prior)?);
    let channels = prior.ncols() / taps;
    let outputs = prior.nrows();
    let mut mixed =
        Mixed { filters: Array3::zeros((channels, terms, taps)), mixes: Array3::zeros((channels, outputs, terms)) };
    let own = |channel: usize| s![channel * taps..(channel + 1) * taps, channel * taps..(channel + 1) * taps];
    let roots: Vec<Whitening> =
        (0..channels).map(|ch| Whitening::new(c.xx.slice(own(ch)), RIDGE)).collect::<Option<_>>()?;
    match from {
        Some(from) => mixed = from.with_mixes(|mix| Some(metric.weigh(mix)?.into_owned()))?,
        None => (0..channels).try_for_each(|channel| {
            let w = prior.slice(s![.., channel * taps..(channel + 1) * taps]);
            split(&mut mixed, channel, &roots[channel], w)
        })?,
    }
    let mut w = mixed.product();
    for _ in 0..sweeps {
        for first in (0..channels).step_by(BLOCK) {
            let block = first * taps..(first + BLOCK).min(channels) * taps;
            // What the block should add, and what it adds itself.
            let mut left =
                &c.yx.slice(s![.., block.clone()]) - &solve::times(w.view(), c.xx.slice(s![.., block.clone()]));
            for (channel, root) in roots.iter().enumerate().skip(first).take(BLOCK) {
                let columns = channel * taps..(channel + 1) * taps;
                let inside = (channel - first) * taps..(channel - first + 1) * taps;
                let now = w.slice(s![.., columns.clone()]).to_owned();
                let gram = c.xx.slice(own(channel)).to_owned();
                // The ridge solution for this channel alone, toward the weights it has.
                let wanted = &left.slice(s![.., inside]) + &now.dot(&gram);
                let best = ridge(&gram, &wanted, Some(&now), RIDGE)?;
                split(&mut mixed, channel, root, best.view())?;
                let new = mixed.mixes.slice(s![channel, .., ..]).dot(&mixed.filters.slice(s![channel, .., ..]));
                let step = &new - &now;
                left -= &solve::times(step.view(), c.xx.slice(s![columns.clone(), block.clone()]));
                w.slice_mut(s![.., columns]).assign(&new);
            }
        }
    }
    let mut mixed = mixed.with_mixes(|mix| Some(metric.unweigh(mix)?.into_owned()))?;
    for (mut filters, mut mixes) in mixed.filters.outer_iter_mut().zip(mixed.mixes.outer_iter_mut()) {
        let terms = mixes.columns_mut().into_iter().zip(filters.rows_mut());
        terms.for_each(|(mix, filter)| balance(1.0, mix, filter));
    }
    Some(mixed)
}

/// All mixes solved together, with λ relative, toward those there are.
pub fn mix(c: &Centred, mixed: &Mixed, lambda: f64) -> Option<Mixed> {
    let (channels, terms, _) = mixed.filters.dim();
    let outputs = mixed.mixes.dim().1;
    let prior = Array2::from_shape_fn((outputs, channels * terms), |(o, z)| mixed.mixes[(z / terms, o, z % terms)]);
    let p = banks::mix(c, &mixed.banks(), &prior, lambda)?;
    let mixes = Array3::from_shape_fn((channels, outputs, terms), |(ch, o, t)| p[(o, ch * terms + t)]);
    Some(Mixed { filters: mixed.filters.clone(), mixes })
}

/// What is lost of E ‖Y − ȳ‖² with t terms a channel and the best mixes, for every t from 0: filters as in [`fitted`],
/// without sweeps. `None` as there.
pub fn lost(c: &Centred, prior: ArrayView2<'_, f64>, taps: usize) -> Option<Vec<f64>> {
    let terms = prior.nrows().min(taps);
    let mixed = fitted(&OutputMetric::PLAIN, c, prior, taps, terms, 0, None)?;
    let channels = mixed.filters.dim().0;
    let order: Vec<usize> = (0..terms).flat_map(|t| (0..channels).map(move |ch| ch * terms + t)).collect();
    let lost = banks::lost(c, &mixed.banks(), &order, RIDGE)?;
    Some(lost.into_iter().step_by(channels.max(1)).collect())
}

/// Filters and mixes of one channel: the truncated decomposition of `w` in the metric of its moments.
fn split(mixed: &mut Mixed, channel: usize, root: &Whitening, w: ArrayView2<'_, f64>) -> Option<()> {
    let terms = mixed.filters.dim().1;
    let svd = Svd::leading(root.whiten(w)?.view(), terms)?;
    let filters = root.unwhiten(svd.vt.view())?;
    for t in 0..terms {
        let Some(&sigma) = svd.sigma.get(t) else { break };
        mixed.filters.slice_mut(s![channel, t, ..]).assign(&filters.row(t));
        mixed.mixes.slice_mut(s![channel, .., t]).assign(&(&svd.u.column(t) * sigma));
    }
    // Terms beyond the rank of the moments add nothing.
    for t in svd.sigma.len()..terms {
        mixed.filters.slice_mut(s![channel, t, ..]).fill(0.0);
        mixed.mixes.slice_mut(s![channel, .., t]).fill(0.0);
    }
    Some(())
}
