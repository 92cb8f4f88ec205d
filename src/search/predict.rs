//! Which plan to try next: the laws of the stages, and the plan for which they say the least.

use super::curve::{LawPoint, Prior, predict};
use super::plan::{LossWeights, WHOLE};

/// Before anything was measured: a tenth of the parameters left by pruning costs about 0.04, two thirds split off 0.01, 4 bits
/// 0.01.
const PRUNE: Prior = Prior { level: -4.8, slope: 2.0 };
const SPLIT: Prior = Prior { level: -4.8, slope: 2.0 };
const ENCODE: Prior = Prior { level: 1.0, slope: 2.0 };
const DROP: Prior = Prior { level: -1.6, slope: 1.0 };
/// What a stage costs that cost nothing, as a share of the loss before it, and at the least.
const NOISE: f64 = 0.02;
const LEAST: f64 = 1e-7;
/// Shares, in thousandths, that plans have: each some 12 % less than the one before.
pub const SHARES: [u32; 22] =
    [1000, 880, 770, 680, 600, 525, 460, 405, 355, 310, 275, 240, 210, 185, 160, 140, 125, 110, 95, 84, 74, 65];
/// With so many bits a weight codes alone lose little on most networks: that is tried before anything else.
const CODES_ALONE: f64 = 4.0;
/// Bits a weight that encoding may leave: about what 3 levels take, and what is as good as float.
const BITS: [f64; 2] = [1.6, 10.0];

/// What stages cost, as far as it was measured.
#[derive(Default)]
pub struct Laws {
    prune: Vec<LawPoint>,
    split: Vec<LawPoint>,
    encode: Vec<LawPoint>,
    drop: Vec<LawPoint>,
}

/// What stages of a plan left, measured: shares of the teacher's parameters (or MACs) after pruning and after splitting,
/// bits a weight after encoding, and the loss after each.
#[derive(Debug, Clone, Copy)]
pub struct Stages {
    pub pruned: (f64, f64),
    pub split: (f64, f64),
    pub encoded: Option<(f64, f64)>,
}

/// A point that a search may try.
#[derive(Debug, Clone, PartialEq)]
pub struct Aim {
    pub prune: u32,
    pub split: u32,
    /// Bytes of the file, if they are bounded.
    pub bytes: Option<u64>,
    /// Layers whose losses count more or less.
    pub loss_weights: LossWeights,
    pub loss: f64,
}

impl Laws {
    pub fn learn(&mut self, s: &Stages) {
        let grown = |before: f64, after: f64| (after - before).max(NOISE * before).max(LEAST);
        let (a, b) = (s.pruned.0, s.split.0 / s.pruned.0);
        let add = |points: &mut Vec<LawPoint>, point: LawPoint| {
            if point.effort > 1e-3 && !points.contains(&point) {
                points.push(point);
            }
        };
        add(&mut self.prune, LawPoint { effort: -a.ln(), loss: grown(0.0, s.pruned.1), at: [a.ln(), 0.0] });
        let loss = grown(s.pruned.1, s.split.1);
        add(&mut self.split, LawPoint { effort: -b.ln(), loss, at: [a.ln(), b.ln()] });
        if let Some((bits, after)) = s.encoded {
            let at = [s.split.0.ln(), bits.ln()];
            add(&mut self.encode, LawPoint { effort: (-bits).exp2(), loss: grown(s.split.1, after), at });
        }
    }

    pub fn learn_drop(&mut self, loss: f64, drop: f64) {
        self.drop.push(LawPoint { effort: loss, loss: drop.max(NOISE * loss), at: [loss.max(LEAST).ln(), 0.0] });
    }

    /// What a student of this loss drops, about.
    pub fn drop(&self, loss: f64) -> f64 {
        predict(DROP, &self.drop, loss, [loss.max(LEAST).ln(), 0.0])
    }

    /// What pruning and splitting to these shares, and then bits a weight, cost.
    pub fn loss(&self, a: f64, b: f64, bits: Option<f64>) -> f64 {
        let at = [a.ln(), b.ln()];
        let prune = predict(PRUNE, &self.prune, -a.ln(), [a.ln(), 0.0]);
        let split = predict(SPLIT, &self.split, -b.ln(), at);
        let encode = bits.map_or(0.0, |bits| predict(ENCODE, &self.encode, (-bits).exp2(), [(a * b).ln(), bits.ln()]));
        prune + split + encode
    }
}

/// The plans of a search: which shares, and what they leave of a teacher.
#[derive(Debug, Clone)]
pub struct Space {
    /// Whether there is anything to prune, and to split.
    pub prunes: bool,
    pub splits: bool,
    /// Whether weights may become codes.
    pub encodes: bool,
    /// Pruning and splitting together are to leave this share, if it is bounded.
    pub product: Option<f64>,
    /// The teacher's parameters.
    pub weights: f64,
    /// The fewest bits a weight that codes came to.
    pub least_bits: f64,
    /// Bytes of a file of codes beside those of its constants: as expected, or once `measured`, of the first that was made.
    /// It stays the same from then on, so that what is tried for an aim does not depend on what was tried before it.
    pub overhead: f64,
    pub measured: bool,
    /// The least that splitting after pruning can leave, as far as it showed: asked for less, it leaves that.
    pub least_split: f64,
}

impl Space {
    /// All shares of pruning and splitting that may be tried.
    fn shares(&self) -> Vec<(u32, u32)> {
        let whole = [WHOLE];
        let of = |is: bool| if is { &SHARES[..] } else { &whole[..] };
        let product = |limit: f64| f64::from(WHOLE) * f64::from(WHOLE) * limit;
        let mut shares = Vec::new();
        for &prune in of(self.prunes) {
            match self.product {
                None => shares.extend(of(self.splits).iter().map(|&split| (prune, split))),
                Some(limit) if self.splits => {
                    let split = (product(limit) / f64::from(prune)) as u32;
                    if split >= SHARES[SHARES.len() - 1] {
                        shares.push((prune, split.min(WHOLE)));
                    }
                }
                Some(_) => {}
            }
        }
        if let (Some(limit), true) = (self.product, self.prunes) {
            shares.push((((limit * f64::from(WHOLE)) as u32).max(1), WHOLE));
        }
        shares.dedup();
        shares
    }

    /// The untried plan of the least loss whose file has so many bytes (any, if `None`); before all others that of codes
    /// alone, if they have [`CODES_ALONE`].
    pub fn best(&self, laws: &Laws, bytes: Option<u64>, tried: &dyn Fn(u32, u32) -> bool) -> Option<Aim> {
        let share = |thousandths: u32| f64::from(thousandths) / f64::from(WHOLE);
        let bits = |a: f64, b: f64| bytes.map(|bytes| 8.0 * (bytes as f64 - self.overhead) / (self.weights * a * b));
        let aim = |prune: u32, split: u32| {
            let (a, b) = (share(prune), share(split));
            let bits = bits(a, b);
            if b < self.least_split
                || bits.is_some_and(|bits| bits < BITS[0].max(self.least_bits))
                || tried(prune, split)
            {
                return None;
            }
            let loss = laws.loss(a, b, bits.map(|bits| bits.min(BITS[1])));
            Some(Aim { prune, split, bytes, loss_weights: LossWeights::new(), loss })
        };
        let alone = self.encodes && self.product.is_none() && bits(1.0, 1.0).is_some_and(|bits| bits >= CODES_ALONE);
        let first = if alone { aim(WHOLE, WHOLE) } else { None };
        let aims = self.shares().into_iter().filter_map(|(prune, split)| aim(prune, split));
        first.or_else(|| aims.min_by(|a, b| a.loss.total_cmp(&b.loss)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A network whose stages cost what laws say, other ones than the priors'.
    fn loss(a: f64, b: f64, bits: f64) -> [f64; 3] {
        let prune = 0.15 * (-a.ln()).powf(2.6);
        let split = prune + 0.01 * (-b.ln()).powf(1.5);
        [prune, split, split + 6.0 * (-2.2 * bits).exp2()]
    }

    fn space(product: Option<f64>) -> Space {
        Space {
            prunes: true,
            splits: true,
            encodes: true,
            product,
            weights: 1e6,
            overhead: 0.0,
            measured: false,
            least_bits: 0.0,
            least_split: 0.0,
        }
    }

    #[test]
    fn codes_alone_come_first_where_bits_suffice() {
        let first = |bytes: u64, product: Option<f64>, tried: bool| {
            let aim = space(product).best(&Laws::default(), Some(bytes), &|p, s| tried && (p, s) == (WHOLE, WHOLE));
            aim.map(|aim| (aim.prune, aim.split)).unwrap()
        };
        assert_eq!(first(500_000, None, false), (WHOLE, WHOLE));
        assert_ne!(first(500_000, None, true), (WHOLE, WHOLE));
        assert_ne!(first(250_000, None, false), (WHOLE, WHOLE));
        assert_ne!(first(500_000, Some(0.5), false), (WHOLE, WHOLE));
    }

    #[test]
    fn a_few_candidates_come_near_the_best_of_all() {
        let space = space(None);
        let bytes = 70_000u64;
        let at = |prune: u32, split: u32| {
            let (a, b) = (f64::from(prune) / 1000.0, f64::from(split) / 1000.0);
            let bits = 8.0 * bytes as f64 / (1e6 * a * b);
            (a, b, bits, loss(a, b, bits))
        };
        let all = space.shares().into_iter().filter(|&(p, s)| at(p, s).2 >= BITS[0]);
        let least = all.map(|(p, s)| at(p, s).3[2]).fold(f64::INFINITY, f64::min);
        let (mut laws, mut tried, mut found) = (Laws::default(), Vec::new(), f64::INFINITY);
        for _ in 0..6 {
            let aim = space.best(&laws, Some(bytes), &|p, s| tried.contains(&(p, s))).unwrap();
            let (a, b, bits, [pruned, split, encoded]) = at(aim.prune, aim.split);
            laws.learn(&Stages { pruned: (a, pruned), split: (a * b, split), encoded: Some((bits, encoded)) });
            tried.push((aim.prune, aim.split));
            found = found.min(encoded);
        }
        assert!(found < 1.05 * least, "{found} against {least}: {tried:?}");
    }

    #[test]
    fn a_bound_on_weights_is_kept_by_every_plan() {
        let space = space(Some(0.3));
        let shares = space.shares();
        assert!(shares.len() > 5);
        assert!(shares.iter().all(|&(p, s)| u64::from(p) * u64::from(s) <= 300_000), "{shares:?}");
    }
}
