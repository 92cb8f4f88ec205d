//! Which students to train, and how long: a few that differ are trained for a little, the best ones of them for twice as long,
//! and so on. (Successive halving: Jamieson & Talwalkar 2016.)
//!
//! What is best without training is not what is best with it: training heals what pruning lost better than what coarse codes
//! did. So on each rung a few neighbours of the best are trained too, as long as it.

use super::plan::WHOLE;
use super::predict::SHARES;
use serde::{Deserialize, Serialize};

/// A student to be trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trainee {
    pub prune: u32,
    pub split: u32,
    /// Bytes of the file, if they are bounded.
    pub bytes: Option<u64>,
    /// It is trained 2^rung times as long as those of rung 0.
    pub rung: u32,
    /// Whether pruning is done in two steps with training between.
    pub gradual: bool,
    /// How many of the changes to samples that there are it is trained with.
    pub augment: usize,
}

/// What is trained.
#[derive(Debug, Default)]
pub struct Ladder {
    /// Those of rung 0, the most promising first.
    pub starts: Vec<Trainee>,
    /// How many changes to samples there are.
    pub changes: usize,
    /// Pruning and splitting together leave this share, if they are bounded; else each may be varied alone.
    pub product: Option<f64>,
    /// Whether there is something to prune, and to split.
    pub prunes: bool,
    pub splits: bool,
    /// Whether students of other sizes are of interest, too.
    pub sizes: bool,
}

/// Rungs, without the first, and how many of a rung come from the one before and how many there are.
const RUNGS: u32 = 12;
const PROMOTED: usize = 2;
const ON_RUNG: usize = 5;
/// How far two starts are apart at least, in places of [`SHARES`].
const APART: f64 = 2.5;
const PLACE: f64 = 0.124;
/// A student that keeps within a loss is tried so much smaller, one that does not so much larger.
const SIZE: f64 = 1.12;

/// What is changed of a student.
#[derive(Debug, Clone, Copy)]
enum Variation {
    /// Places of [`SHARES`] for pruning and for splitting; what is taken away leaves more bits for the rest.
    Shares(i32, i32),
    Size,
    Augment,
    Gradual,
}

const VARIATIONS: [Variation; 9] = [
    Variation::Size,
    Variation::Augment,
    Variation::Shares(2, 0),
    Variation::Shares(0, 2),
    Variation::Gradual,
    Variation::Shares(-2, 0),
    Variation::Shares(0, -2),
    Variation::Shares(2, -2),
    Variation::Shares(-2, 2),
];

impl Ladder {
    /// The next to be trained, after these with what each came to: the less the better, up to 1 for what meets all
    /// targets where [`Ladder::sizes`] differ.
    pub fn next(&self, tried: &[(Trainee, f64)]) -> Option<Trainee> {
        let is_new = |trainee: &Trainee| tried.iter().all(|t| t.0 != *trainee);
        if let Some(start) = self.starts.iter().find(|&start| is_new(start)) {
            return Some(start.clone());
        }
        for rung in 1..=RUNGS {
            let on = |rung: u32| {
                let mut there: Vec<&(Trainee, f64)> = tried.iter().filter(|t| t.0.rung == rung).collect();
                there.sort_by(|a, b| a.1.total_cmp(&b.1));
                there
            };
            let promoted = on(rung - 1).into_iter().take(PROMOTED).map(|t| Trainee { rung, ..t.0.clone() });
            if let Some(trainee) = promoted.into_iter().find(is_new) {
                return Some(trainee);
            }
            let here = on(rung);
            let Some(best) = here.first().filter(|_| here.len() < ON_RUNG) else { continue };
            let varied = VARIATIONS.iter().filter_map(|&by| self.varied(best, by));
            // What was left behind on a lower rung is not tried again, but that changes to samples pay in longer trainings.
            let left_behind = |trainee: &Trainee| {
                tried.iter().any(|t| {
                    let same = Trainee { rung, ..t.0.clone() } == *trainee;
                    same && (t.0.rung == rung || trainee.augment == best.0.augment)
                })
            };
            if let Some(trainee) = varied.into_iter().find(|trainee| !left_behind(trainee)) {
                return Some(trainee);
            }
        }
        None
    }

    fn varied(&self, (trainee, value): &(Trainee, f64), by: Variation) -> Option<Trainee> {
        let Trainee { prune, split, bytes, .. } = *trainee;
        match by {
            Variation::Shares(p, s) if self.product.is_none() => {
                if (p != 0 && !self.prunes) || (s != 0 && !self.splits) {
                    return None;
                }
                Some(Trainee { prune: shifted(prune, p)?, split: shifted(split, s)?, ..trainee.clone() })
            }
            Variation::Shares(p, 0) if self.prunes && self.splits => {
                let prune = shifted(prune, p)?;
                let split = self.product? * f64::from(WHOLE) * f64::from(WHOLE) / f64::from(prune);
                let possible = split <= f64::from(WHOLE) && split >= f64::from(SHARES[SHARES.len() - 1]);
                possible.then(|| Trainee { prune, split: split as u32, ..trainee.clone() })
            }
            Variation::Shares(..) => None,
            Variation::Size if self.sizes => {
                let factor = if *value <= 1.0 { 1.0 / SIZE } else { SIZE };
                Some(Trainee { bytes: Some((bytes? as f64 * factor) as u64), ..trainee.clone() })
            }
            Variation::Size => None,
            Variation::Augment => {
                (trainee.augment < self.changes).then(|| Trainee { augment: self.changes, ..trainee.clone() })
            }
            Variation::Gradual => {
                (prune < WHOLE && !trainee.gradual).then(|| Trainee { gradual: true, ..trainee.clone() })
            }
        }
    }
}

/// Those of some shares, the best first, that are far from each other, `most` at most: by their places.
pub fn apart(shares: &[(u32, u32)], most: usize) -> Vec<usize> {
    let place = |share: u32| f64::from(share).ln() / PLACE;
    let mut kept: Vec<usize> = Vec::new();
    for (i, &(prune, split)) in shares.iter().enumerate() {
        let far = |&k: &usize| {
            let (p, s) = (place(prune) - place(shares[k].0), place(split) - place(shares[k].1));
            p.hypot(s) >= APART
        };
        if kept.len() < most && kept.iter().all(far) {
            kept.push(i);
        }
    }
    kept
}

/// A share so many places of [`SHARES`] further on, from the place that it is next to.
pub fn shifted(share: u32, places: i32) -> Option<u32> {
    if places == 0 {
        return Some(share);
    }
    let at = (0..SHARES.len()).min_by_key(|&i| SHARES[i].abs_diff(share))?;
    SHARES.get(at.checked_add_signed(places as isize)?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trainee(prune: u32, split: u32) -> Trainee {
        Trainee { prune, split, bytes: Some(1000), rung: 0, gradual: false, augment: 0 }
    }

    fn ladder() -> Ladder {
        let starts = vec![trainee(185, 460), trainee(275, 310), trainee(125, 600)];
        Ladder { starts, changes: 1, product: None, prunes: true, splits: true, sizes: false }
    }

    /// Trains so many by what they come to.
    fn trained(ladder: &Ladder, count: usize, value: impl Fn(&Trainee) -> f64) -> Vec<(Trainee, f64)> {
        let mut tried: Vec<(Trainee, f64)> = Vec::new();
        while let Some(trainee) = ladder.next(&tried).filter(|_| tried.len() < count) {
            assert!(tried.iter().all(|t| t.0 != trainee), "{trainee:?} twice");
            tried.push((trainee.clone(), value(&trainee)));
        }
        tried
    }

    #[test]
    fn it_goes_to_where_training_pays_most_and_twice_as_long() {
        let place = |share: u32| SHARES.iter().position(|&s| s == share).unwrap() as f64;
        let value = |c: &Trainee| {
            let off = (place(c.prune) - 18.0).powi(2) + (place(c.split) - 2.0).powi(2);
            let augmented = if c.augment > 0 { 10.0 - 4.0 * f64::from(c.rung) } else { 0.0 };
            100.0 + off + augmented - 10.0 * f64::from(c.rung)
        };
        let tried = trained(&ladder(), 33, value);
        assert_eq!(tried.len(), 33);
        assert!(tried.is_sorted_by_key(|t| t.0.rung), "a rung after the other");
        let best = &tried.iter().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap().0;
        assert_eq!((best.prune, best.split, best.augment), (SHARES[18], SHARES[2], 1));
        // How far it goes does not change where it goes.
        assert_eq!(trained(&ladder(), 9, value), tried[..9]);
    }

    #[test]
    fn bounds_hold() {
        let bounded = Ladder { product: Some(0.085), ..ladder() };
        let within = |c: &Trainee| u64::from(c.prune) * u64::from(c.split) <= 86_000;
        assert!(trained(&bounded, 30, |c| f64::from(c.prune)).iter().all(|t| within(&t.0)));
        let fixed = Ladder { prunes: false, splits: false, ..ladder() };
        let starts = fixed.starts.clone();
        let varied = trained(&fixed, 20, |c| f64::from(c.split));
        assert!(varied.iter().all(|t| starts.iter().any(|s| (s.prune, s.split) == (t.0.prune, t.0.split))));
    }

    #[test]
    fn the_smallest_that_keeps_is_looked_for() {
        let sizes = Ladder { sizes: true, ..ladder() };
        let keeps = |c: &Trainee| c.bytes.unwrap() > 800;
        let value = |c: &Trainee| if keeps(c) { c.bytes.unwrap() as f64 / 1000.0 } else { 1.1 };
        let tried = trained(&sizes, 12, value);
        let least = tried.iter().filter(|t| keeps(&t.0)).map(|t| t.0.bytes.unwrap()).min();
        assert!(least < Some(900), "{least:?}");
    }

    #[test]
    fn starts_differ() {
        assert_eq!(apart(&[(185, 460), (185, 405), (275, 310), (160, 460), (65, 1000), (1000, 65)], 3), [0, 2, 4]);
        assert_eq!((shifted(186, 2), shifted(65, 1), shifted(77, 0)), (Some(140), None, Some(77)));
    }
}
