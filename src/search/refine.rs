//! Near the best plan: those beside it, and the same with the losses of one layer counting twice or half as much where budgets
//! are dealt out.
//!
//! What a layer loses of its own output says little of what the model's output loses by that once the layers behind it are
//! fitted again: it is found out by trying. (Local search over one multiplier a layer: Frantar & Alistarh 2022, SPDY.)

use super::plan::LossWeights;
use super::predict::{Aim, SHARES};

/// Layers that are tried.
const LAYERS: usize = 16;
/// Plans beside one: how much farther or less far pruning and splitting go, in places of [`SHARES`].
const BESIDE: [[i32; 2]; 6] = [[1, -1], [-1, 1], [1, 0], [-1, 0], [0, 1], [0, -1]];

#[derive(Debug, Default)]
pub struct Refine {
    /// The largest first.
    layers: Vec<String>,
    /// What the best candidate has.
    pub best: LossWeights,
    /// The layer whose turn it is, and how many in a row had theirs for nothing.
    turn: usize,
    idle: usize,
    /// The plan around which it looks.
    around: Option<Aim>,
}

impl Refine {
    /// For a network of these layers, the largest first.
    pub fn of(layers: Vec<String>) -> Refine {
        Refine { layers, ..Refine::default() }
    }

    /// The next move from the best plan. `None` once no move is left that was not tried there. Pruning and
    /// splitting are `free` where nothing but the size of the file is bounded.
    pub fn next(&mut self, best: &Aim, tried: &[Aim], free: bool) -> Option<Aim> {
        let same = |t: &Aim, aim: &Aim| {
            (t.prune, t.split, t.bytes, &t.loss_weights) == (aim.prune, aim.split, aim.bytes, &aim.loss_weights)
        };
        if free {
            let beside = BESIDE.iter().filter_map(|[prune, split]| {
                let (prune, split) = (moved(best.prune, *prune)?, moved(best.split, *split)?);
                Some(Aim { prune, split, ..best.clone() })
            });
            if let Some(aim) = beside.into_iter().find(|aim| !tried.iter().any(|t| same(t, aim))) {
                return Some(aim);
            }
        }
        let count = self.layers.len().min(LAYERS);
        if self.around.as_ref() != Some(best) {
            self.idle = 0;
            self.around = Some(best.clone());
        }
        while self.idle < count {
            for step in [1, -1] {
                let mut loss_weights = best.loss_weights.clone();
                *loss_weights.entry(self.layers[self.turn % count].clone()).or_default() += step;
                loss_weights.retain(|_, loss_weights| *loss_weights != 0);
                let aim = Aim { loss_weights, ..best.clone() };
                if !tried.iter().any(|t| same(t, &aim)) {
                    return Some(aim);
                }
            }
            (self.turn, self.idle) = (self.turn + 1, self.idle + 1);
        }
        None
    }
}

/// The share so many places further on.
fn moved(share: u32, places: i32) -> Option<u32> {
    if places == 0 {
        return Some(share);
    }
    let at = SHARES.iter().position(|&s| s == share)?;
    SHARES.get(at.checked_add_signed(places as isize)?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_down_and_ends() {
        let layers = ["a", "b", "c"].map(String::from);
        let wanted = LossWeights::from([("a".to_string(), 2), ("c".to_string(), -1)]);
        let place = |share: u32| SHARES.iter().position(|&s| s == share).unwrap() as f64;
        let loss = |aim: &Aim| -> f64 {
            let off = |l: &String| aim.loss_weights.get(l).unwrap_or(&0) - wanted.get(l).unwrap_or(&0);
            let plan = (place(aim.prune) - 4.0).powi(2) + (place(aim.split) - 6.0).powi(2);
            plan + layers.iter().map(|l| f64::from(off(l).pow(2))).sum::<f64>()
        };
        let mut refine = Refine::of(layers.to_vec());
        let start =
            Aim { prune: SHARES[3], split: SHARES[9], bytes: None, loss_weights: LossWeights::new(), loss: 0.0 };
        let mut tried = vec![start];
        let best = |tried: &[Aim]| tried.iter().min_by(|a, b| loss(a).total_cmp(&loss(b))).unwrap().clone();
        while let Some(aim) = refine.next(&best(&tried), &tried, true) {
            assert!(!tried.contains(&aim));
            tried.push(aim);
        }
        let found = best(&tried);
        assert_eq!((found.prune, found.split, found.loss_weights), (SHARES[4], SHARES[6], wanted));
        assert!(tried.len() < 50, "{}", tried.len());
    }
}
