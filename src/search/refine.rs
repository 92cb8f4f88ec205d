//! The best plan again, with the losses of one layer counting twice or half as much where budgets are dealt out.
//!
//! What a layer loses of its own output says little of what the model's output loses by that once the layers behind it are
//! fitted again: it is found out by trying. (Local search over one multiplier a layer: Frantar & Alistarh 2022, SPDY.)

use super::plan::Doubled;
use super::predict::Aim;

/// Layers that are tried.
const LAYERS: usize = 16;

#[derive(Debug, Default)]
pub struct Refine {
    /// The largest first; `None` as long as nobody asked.
    pub layers: Option<Vec<String>>,
    /// What the best candidate has.
    pub best: Doubled,
    /// The layer whose turn it is, and how many in a row had theirs for nothing.
    turn: usize,
    idle: usize,
    /// What was tried last, and the loss there was before.
    last: Option<(Aim, f64)>,
}

impl Refine {
    /// The next move from the best plan, whose loss is this. `None` once no layer is left whose move was not tried there.
    pub fn next(&mut self, best: &Aim, loss: f64, tried: &[Aim]) -> Option<Aim> {
        let layers = self.layers.as_deref()?;
        let count = layers.len().min(LAYERS);
        if let Some((_, before)) = self.last.take()
            && loss < before
        {
            self.idle = 0;
        }
        while self.idle < count {
            for step in [1, -1] {
                let mut doubled = best.doubled.clone();
                *doubled.entry(layers[self.turn % count].clone()).or_default() += step;
                doubled.retain(|_, doubled| *doubled != 0);
                let aim = Aim { doubled, ..best.clone() };
                let same = |t: &Aim| {
                    (t.prune, t.split, t.bytes, &t.doubled) == (aim.prune, aim.split, aim.bytes, &aim.doubled)
                };
                if !tried.iter().any(same) {
                    self.last = Some((aim.clone(), loss));
                    return Some(aim);
                }
            }
            (self.turn, self.idle) = (self.turn + 1, self.idle + 1);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_down_and_ends() {
        let layers = ["a", "b", "c"].map(String::from);
        let wanted = Doubled::from([("a".to_string(), 2), ("c".to_string(), -1)]);
        let loss = |aim: &Aim| -> f64 {
            let off = |l: &String| aim.doubled.get(l).unwrap_or(&0) - wanted.get(l).unwrap_or(&0);
            layers.iter().map(|l| f64::from(off(l).pow(2))).sum()
        };
        let mut refine = Refine { layers: Some(layers.to_vec()), ..Refine::default() };
        let start = Aim { prune: 500, split: 500, bytes: None, doubled: Doubled::new(), loss: 0.0 };
        let mut tried = vec![start];
        let best = |tried: &[Aim]| tried.iter().min_by(|a, b| loss(a).total_cmp(&loss(b))).unwrap().clone();
        while let Some(aim) = refine.next(&best(&tried), loss(&best(&tried)), &tried) {
            assert!(!tried.contains(&aim));
            tried.push(aim);
        }
        assert_eq!(best(&tried).doubled, wanted);
        assert!(tried.len() < 16, "{}", tried.len());
    }
}
