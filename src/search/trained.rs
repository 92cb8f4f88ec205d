//! Students that are trained: the starts of the ladder, and how each of its trainees becomes a candidate.

use super::ladder::{Ladder, Trainee, apart, shifted};
use super::plan::{DistillSteps, Plan, TrainingLength, WHOLE};
use super::round::OpenCandidate;
use super::run::{CLOSE, SearchMode, SearchRun};
use crate::error::Result;
use std::time::Instant;

/// Candidates without training before those with it.
const UNTRAINED: usize = 6;
/// Samples, each as often as it is seen, that the weights of a student on the lowest rung are trained with.
const VISITS: usize = 40_000;
/// Students on the lowest rung.
const STARTS: usize = 3;
/// Where only a loss is asked for: how many times smaller they are than what keeps it without training, or, where nothing
/// does, than what loses least.
const SMALLER: [f64; STARTS] = [1.25, 1.6, 2.0];
const LARGER: [f64; STARTS] = [1.0, 0.7, 0.5];
/// A start loses at most so many times what the best one does.
const WORSE: f64 = 6.0;
/// Trainings that tell how long the next one takes.
const LAST: usize = 3;
/// Bytes that a training adds to a file, at most: the words on how it was made.
const WORDS: u64 = 24;
/// Times that codes are trained once more, where their file turned out too large.
const FITTINGS: usize = 3;
/// Times that more weights are tried.
const FILLINGS: usize = 3;

/// A plan whose codes fill a size.
#[derive(Debug, Clone, Copy)]
pub struct SizeFill {
    /// Of the trainee: shares of pruning and of splitting, and the bytes of the file.
    of: (u32, u32, Option<u64>),
    prune: u32,
    split: u32,
    encode: Option<u32>,
}

impl SearchRun<'_, '_> {
    /// How many candidates are not trained; half of a few.
    pub fn untrained(&self) -> usize {
        let all = self.options.candidates;
        match self.options.training {
            Some(_) if all > UNTRAINED => UNTRAINED,
            Some(_) => all.div_ceil(2),
            None => all,
        }
    }

    /// What to train next.
    pub fn trainee(&mut self) -> Option<Trainee> {
        self.options.training.as_ref()?;
        if self.ladder.is_none() {
            self.ladder = Some(self.first_rung()?);
        }
        self.ladder.as_ref()?.next(&self.trained)
    }

    fn first_rung(&self) -> Option<Ladder> {
        let best = self.best()?;
        let of = |prune: u32, split: u32, bytes: Option<u64>| Trainee {
            prune,
            split,
            bytes,
            rung: 0,
            gradual: false,
            augment: 0,
        };
        let mut starts = Vec::new();
        if let SearchMode::Drop(_) = self.mode() {
            let own = self.aims.get(self.best_index()?)?;
            for times in if self.limits.keeps(&best.score) { SMALLER } else { LARGER } {
                let bytes = (best.size.bytes as f64 / times) as u64;
                let (prune, split) =
                    self.within(Some(bytes)).map_or((own.prune, own.split), |aim| (aim.prune, aim.split));
                starts.push(of(prune, split, Some(bytes)));
            }
        } else {
            let bytes = match self.mode() {
                SearchMode::Size(bytes) => Some(bytes),
                SearchMode::Knee => Some(best.size.bytes),
                SearchMode::Cost | SearchMode::Drop(_) => None,
            };
            let near = |other: Option<u64>| match (bytes, other) {
                (Some(a), Some(b)) => (a as f64 / b as f64).max(b as f64 / a as f64) < 2.0,
                (a, b) => a == b,
            };
            let mut here: Vec<usize> = (0..self.aims.len()).filter(|&i| near(self.aims[i].bytes)).collect();
            here.sort_by(|&a, &b| self.tried[a].score.loss.total_cmp(&self.tried[b].score.loss));
            let most = WORSE * here.first().map_or(0.0, |&i| self.tried[i].score.loss);
            here.retain(|&i| self.tried[i].score.loss <= most);
            let mut shares: Vec<(u32, u32)> = here.iter().map(|&i| (self.aims[i].prune, self.aims[i].split)).collect();
            // Fewer weights of more bits than the best has without training.
            if let Some(&(prune, split)) = shares.first().filter(|_| self.space.product.is_none()) {
                let fewer = |is: bool, share: u32, places| if is { shifted(share, places) } else { Some(share) };
                let fewer = fewer(self.space.prunes, prune, 2).zip(fewer(self.space.splits, split, 2));
                shares.splice(1..1, fewer);
            }
            starts.extend(apart(&shares, STARTS).into_iter().map(|i| of(shares[i].0, shares[i].1, bytes)));
        }
        let changes = self.options.training.as_ref().map_or(0, |t| t.augment.len());
        let (product, prunes, splits) = (self.space.product, self.space.prunes, self.space.splits);
        Some(Ladder { starts, changes, product, prunes, splits, sizes: matches!(self.mode(), SearchMode::Drop(_)) })
    }

    /// Samples, each as often as it is seen, of the training of weights, and in all.
    fn visits(trainee: &Trainee) -> [usize; 2] {
        let weights = VISITS << trainee.rung;
        [weights, weights + weights / 2]
    }

    /// Why the time that is left does not suffice for a training, going by those before.
    pub fn lacks_time(&self, trainee: &Trainee) -> Option<String> {
        let left = self.watch.left()?.as_secs_f64();
        // Of the last ones: the longer a training, the less is what is done beside it.
        let last = |alike: bool| {
            let of = self.pace.iter().rev().filter(|p| !alike || p.0 == trainee.augment);
            of.map(|p| p.1).take(LAST).reduce(f64::max)
        };
        let pace = last(true).or_else(|| last(false))?;
        let takes = pace * Self::visits(trainee)[1] as f64;
        (takes > left).then(|| {
            format!("the next training takes about {:.1} minutes, and {:.1} are left", takes / 60.0, left / 60.0)
        })
    }

    fn training(&self, trainee: &Trainee) -> Option<DistillSteps> {
        let training = self.options.training.as_ref()?;
        let [weights, all] = Self::visits(trainee);
        Some(DistillSteps {
            weights: TrainingLength::of(weights, training.samples),
            codes: Some(TrainingLength::of(all - weights, training.samples)),
            gradual: trainee.gradual,
            augment: training.augment[..trainee.augment].to_vec(),
        })
    }

    /// Makes, trains and scores a student. `false` if the time was over before that was done.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn train(&mut self, trainee: Trainee) -> Result<bool> {
        let (began, steps) = (Instant::now(), self.maker.steps);
        let Some(training) = self.training(&trainee) else { return Ok(false) };
        let mut plan = Plan { packs: Vec::new(), ..self.plan.clone() };
        (plan.prune, plan.split) = (trainee.prune, trainee.split);
        let codes = training.codes.filter(|_| trainee.bytes.is_some());
        let told = Plan { training: Some(DistillSteps { codes, ..training.clone() }), ..plan.clone() };
        let (number, of) = (self.tried.len() + 1, self.options.candidates);
        self.watch.candidate(number, of, &told.to_string(), self.best());
        let space = self.space.clone();
        let done = match self.trained_for(plan, training, &trainee) {
            Err(_) if self.maker.cut => false,
            Err(_) if self.maker.missing => {
                self.space = space;
                return Ok(self.put_off(&told, OpenCandidate::Trained(trainee)));
            }
            done => {
                done?;
                true
            }
        };
        if done && self.maker.steps > steps {
            let pace = began.elapsed().as_secs_f64() / Self::visits(&trainee)[1] as f64;
            self.pace.push((trainee.augment, pace));
        }
        if done && let Some(last) = self.tried.last() {
            let value = match self.mode() {
                SearchMode::Drop(_) if self.limits.keeps(&last.score) => {
                    last.size.bytes as f64 / self.limits.teacher.bytes.max(1) as f64
                }
                SearchMode::Drop(_) => 1.0 + last.score.drop,
                _ => last.score.loss,
            };
            self.trained.push((trainee, value));
        }
        Ok(done)
    }

    /// How the plan of a trainee fills its size. This is found without training: what codes take depends on how many levels
    /// there are, and these on little that training changes.
    fn fill(&mut self, plan: &Plan, trainee: &Trainee) -> Result<SizeFill> {
        let of = (trainee.prune, trainee.split, trainee.bytes);
        if let Some(&known) = self.fills.iter().find(|fill| fill.of == of) {
            return Ok(known);
        }
        let prune = self.made(&Plan { split: WHOLE, ..plan.clone() })?.0.prune;
        let (plan, bare) = self.made(&Plan { prune, ..plan.clone() })?;
        let mut fill = SizeFill { of, prune, split: plan.split, encode: None };
        let bytes = trainee.bytes.map(|bytes| bytes.saturating_sub(2 * WORDS));
        if let Some(bytes) = bytes.filter(|&bytes| self.space.encodes && bytes < bare.size.bytes) {
            let packed = Plan { packs: self.plan.packs.clone(), ..plan };
            let (coded, trial) = self.encoded(packed, &bare, bytes)?;
            fill.encode = coded.encode;
            if coded.encode.is_some() && self.space.product.is_none() {
                self.widen(&coded, trial.size.bytes, bytes, &mut fill)?;
            }
        }
        self.fills.push(fill);
        Ok(fill)
    }

    /// More weights of as many bits, if a student of `taken` bytes leaves room for them.
    fn widen(&mut self, coded: &Plan, taken: u64, bytes: u64, fill: &mut SizeFill) -> Result<()> {
        let overhead = self.space.overhead;
        let room = (bytes as f64 - overhead) / (taken as f64 - overhead).max(1.0);
        let (mut best, mut times) = (taken, room);
        for _ in 0..FILLINGS {
            if taken > bytes || best as f64 >= CLOSE * bytes as f64 || times <= 1.0 {
                break;
            }
            let mut plan = coded.clone();
            let share = if plan.split < WHOLE { &mut plan.split } else { &mut plan.prune };
            *share = ((f64::from(*share) * times) as u32).min(WHOLE);
            let trial = self.maker.trial(&plan.steps(&self.options.common), false)?;
            if trial.size.bytes <= bytes && trial.size.bytes > best {
                best = trial.size.bytes;
                (fill.prune, fill.split) = (plan.prune, plan.split);
            }
            let left = (bytes as f64 - overhead) / (trial.size.bytes as f64 - overhead).max(1.0);
            times *= left.min(1.0 + (left - 1.0) / 2.0);
        }
        Ok(())
    }

    fn trained_for(&mut self, plan: Plan, training: DistillSteps, trainee: &Trainee) -> Result<()> {
        let fill = self.fill(&plan, trainee)?;
        let scored = self.maker.scored;
        let codes = training.codes;
        let training_of = |codes| Some(DistillSteps { codes, ..training.clone() });
        let plan = Plan { prune: fill.prune, split: fill.split, training: training_of(None), ..plan };
        let bare = self.maker.trial(&plan.steps(&self.options.common), false)?;
        let plan = Plan { packs: self.plan.packs.clone(), ..plan };
        let bytes = trainee.bytes.filter(|&bytes| self.space.encodes && bytes < bare.size.bytes);
        let (mut plan, mut trial) = match bytes {
            Some(bytes) => {
                let known = Plan { encode: fill.encode, ..plan };
                self.encoded(known, &bare, bytes.saturating_sub(WORDS))?
            }
            None => self.plain(plan)?,
        };
        if let (Some(bytes), Some(_)) = (bytes, plan.encode) {
            let mut room = bytes.saturating_sub(WORDS);
            // The same bytes are left but for what the file says of its making.
            let mut fits = trial.size.bytes <= room;
            for left in (0..FITTINGS).rev() {
                plan.training = training_of(codes);
                trial = self.maker.trial(&plan.steps(&self.options.common), true)?;
                let over = trial.size.bytes.saturating_sub(bytes);
                if over == 0 || left == 0 || !fits {
                    break;
                }
                room = room.saturating_sub(over);
                (plan.training, plan.encode) = (training_of(None), None);
                (plan, trial) = self.encoded(plan, &bare, room)?;
                fits = trial.size.bytes <= room;
            }
        }
        let made = self.maker.scored > scored;
        self.add(&plan, trial, made)
    }
}
