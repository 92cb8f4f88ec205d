//! The search itself: from candidate to candidate, until one is the answer.

use super::ladder::{Ladder, Trainee};
use super::maker::Maker;
use super::plan::{Plan, Unit, WHOLE};
use super::predict::{Aim, Laws, Space, Stages};
use super::refine::Refine;
use super::round::{OpenCandidate, Round};
use super::store::Trial;
use super::trained::SizeFill;
use super::{Candidate, Found, Limits, Options, Watch};
use crate::error::{Error, Result};
use crate::report::ModelSize;
use crate::session::State;

/// Times that the encoding is tried to come to a size.
const ENCODINGS: usize = 4;
/// A file this much smaller than it may be is of that size.
pub(super) const CLOSE: f64 = 0.985;
/// How many times smaller students are where neither a size nor a loss is asked for.
const LADDER: [f64; 5] = [8.0, 16.0, 32.0, 64.0, 128.0];
/// Sizes that are tried where only a loss is asked for: each so many times smaller than the one before.
const STEP: f64 = 1.08;
const SMALLEST: f64 = 2000.0;
/// Two sizes this near are one.
const SAME: f64 = 1.04;
/// Candidates of a size before the laws are believed where they say that nothing better is left, and how much worse than the
/// best may be what is tried even so.
const ENOUGH: usize = 6;
const HOPE: f64 = 1.2;
/// A step that leaves this share has found nothing to do.
const UNCHANGED: f64 = 0.985;
/// Latencies vary: this share of what is allowed is aimed at.
const TIMELY: f64 = 0.97;

pub struct SearchRun<'s, 'a> {
    pub maker: Maker<'s, 'a>,
    pub limits: &'s Limits,
    pub options: &'s Options,
    pub watch: &'s dyn Watch,
    pub space: Space,
    /// What plans have in common.
    pub plan: Plan,
    pub(super) laws: Laws,
    pub(super) tried: Vec<Candidate>,
    /// What each of `tried` aimed at, as long as nothing was trained.
    pub(super) aims: Vec<Aim>,
    /// What is trained, once that has begun, and what became of it.
    pub(super) ladder: Option<Ladder>,
    pub(super) trained: Vec<(Trainee, f64)>,
    /// How long it takes to train with a sample, by how many changes it is trained with, as far as that was measured.
    pub(super) pace: Vec<(usize, f64)>,
    /// How plans that are trained fill their sizes.
    pub(super) fills: Vec<SizeFill>,
    /// Layers that losses may count more or less of, the largest first, and how that went.
    refine: Refine,
    /// Where students are made elsewhere: those that are to be made next.
    pub(super) round: Option<Round>,
    /// Students that may be asked for at the end, by their steps: the best one's, or those of the front.
    states: Vec<(Vec<String>, State<'a>)>,
}

/// What is searched for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum SearchMode {
    /// The least loss of a file of so many bytes,
    Size(u64),
    /// of a network within other limits,
    Cost,
    /// the smallest file that loses no more than this,
    Drop(f64),
    /// or where the front bends.
    Knee,
}

impl<'s, 'a> SearchRun<'s, 'a> {
    pub fn new(
        maker: Maker<'s, 'a>,
        limits: &'s Limits,
        options: &'s Options,
        watch: &'s dyn Watch,
        space: Space,
        plan: Plan,
        layers: Vec<String>,
    ) -> SearchRun<'s, 'a> {
        let (laws, tried, aims, ladder, trained, pace) = Default::default();
        let (fills, round, states) = Default::default();
        let refine = Refine::of(layers);
        SearchRun {
            maker,
            limits,
            options,
            watch,
            space,
            plan,
            laws,
            tried,
            aims,
            ladder,
            trained,
            pace,
            fills,
            refine,
            round,
            states,
        }
    }

    pub(super) fn mode(&self) -> SearchMode {
        match (self.limits.size, self.limits.max_drop) {
            (Some(bytes), _) => SearchMode::Size(bytes),
            _ if self.limits.has_cost() => SearchMode::Cost,
            (None, Some(drop)) => SearchMode::Drop(drop),
            (None, None) => SearchMode::Knee,
        }
    }

    /// Tries candidates until one of the reasons to end.
    ///
    /// # Errors
    /// If a candidate cannot be made, or the time does not suffice for one.
    pub fn search(mut self) -> Result<Found> {
        let why = self.walk()?;
        self.found(why)
    }

    /// Tries candidates, and says why it ended.
    pub(super) fn walk(&mut self) -> Result<String> {
        Ok(loop {
            if self.tried.len() >= self.options.candidates {
                break "as many candidates as it was given".into();
            }
            if let Some(why) = self.watch.ends().filter(|_| !self.tried.is_empty()) {
                break why;
            }
            let aim = if self.ladder.is_none() && self.tried.len() < self.untrained() { self.next() } else { None };
            if let Some(aim) = aim {
                if !self.attempt(aim)? {
                    break self.watch.ends().unwrap_or_default();
                }
                continue;
            }
            if self.waits_to_train() {
                break String::new();
            }
            let Some(trainee) = self.trainee() else { break "nothing left is likely to be better".into() };
            if let Some(why) = self.lacks_time(&trainee) {
                break why;
            }
            if !self.train(trainee)? {
                break self.watch.ends().unwrap_or_default();
            }
        })
    }

    pub(super) fn found(mut self, why: String) -> Result<Found> {
        self.maker.finishing = true;
        let best = self.best().cloned().ok_or_else(|| {
            Error::input("there is no student to try")
                .because(format!("the techniques are {}", self.options.techniques.join(", ")))
                .help("name more with --techniques, or leave it away")
        })?;
        let missed = self.limits.missed(&best.size, &best.score, "on the samples that it was chosen by");
        let made = |steps: &[String]| self.states.iter().find(|s| s.0 == steps).map(|s| s.1.clone());
        let outcome = made(&best.steps).map(|state| self.maker.finish(state)).transpose()?;
        let mut front = Vec::new();
        for candidate in front_of(&self.tried).into_iter().filter(|_| self.options.front) {
            let state = made(&candidate.steps).map_or_else(|| self.maker.state(&candidate.steps), Ok)?;
            front.push((candidate.clone(), self.maker.finish(state)?.student));
        }
        Ok(Found { best, outcome, tried: self.tried, front, why, missed })
    }

    /// What is to be tried next, if anything is likely to be better than what there is: another plan, or else the best one with
    /// layers weighed otherwise.
    fn next(&mut self) -> Option<Aim> {
        let plan = match self.mode() {
            SearchMode::Size(bytes) => self.within(Some(bytes)),
            SearchMode::Cost => self.within(None),
            SearchMode::Drop(drop) => self.smaller(drop),
            SearchMode::Knee => self.ladder(),
        };
        if plan.is_some() {
            return plan;
        }
        let best = self.best_index()?;
        let free = self.space.product.is_none() && self.space.prunes && self.space.splits;
        self.refine.next(&self.aims[best], &self.aims, free)
    }

    /// The most promising plan of a size.
    pub(super) fn within(&self, bytes: Option<u64>) -> Option<Aim> {
        let near = |other: Option<u64>| match (bytes, other) {
            (Some(a), Some(b)) => (a as f64 / b as f64).max(b as f64 / a as f64) < SAME,
            (a, b) => a == b,
        };
        let here: Vec<usize> = (0..self.aims.len()).filter(|&i| near(self.aims[i].bytes)).collect();
        let tried =
            |prune: u32, split: u32| here.iter().any(|&i| (self.aims[i].prune, self.aims[i].split) == (prune, split));
        let aim = self.space.best(&self.laws, bytes, &tried)?;
        let aim = Aim { loss_weights: self.refine.best.clone(), ..aim };
        let least = here.iter().map(|&i| self.tried[i].score.loss).fold(f64::INFINITY, f64::min);
        (here.len() < ENOUGH || aim.loss < HOPE * least).then_some(aim)
    }

    /// The smallest size of which the laws say that a student keeps within the loss, if that is smaller than what there is.
    fn smaller(&self, drop: f64) -> Option<Aim> {
        let kept = self.best().filter(|c| self.limits.keeps(&c.score)).map(|c| c.size.bytes as f64);
        let teacher = self.limits.teacher.bytes as f64;
        let mut found = None;
        let mut bytes = teacher / 2.0;
        while bytes > teacher / SMALLEST {
            if kept.is_none_or(|kept| bytes < kept / STEP.sqrt())
                && let Some(aim) = self.within(Some(bytes as u64))
            {
                if self.laws.drop(aim.loss) > drop {
                    // The first is tried even so, where there is none yet.
                    return found.or(Some(aim).filter(|_| kept.is_none()));
                }
                found = Some(aim);
            }
            bytes /= STEP;
        }
        found
    }

    /// Sizes far apart, then the best student where the front bends.
    fn ladder(&mut self) -> Option<Aim> {
        let teacher = self.limits.teacher.bytes as f64;
        match LADDER.get(self.tried.len()) {
            Some(times) => self.within(Some((teacher / times) as u64)),
            None => self.within(Some(self.knee()?.size.bytes)),
        }
    }

    /// The candidate where the front bends: farthest below the line between its ends, over the logarithm of the size.
    fn knee(&self) -> Option<&Candidate> {
        let front = front_of(&self.tried);
        let (smallest, largest) = (front.first()?, front.last()?);
        let place = |c: &Candidate| (c.size.bytes as f64).ln();
        let (width, height) = (place(largest) - place(smallest), smallest.score.loss - largest.score.loss);
        let below = |c: &Candidate| {
            let x = (place(largest) - place(c)) / width.max(f64::MIN_POSITIVE);
            let y = (c.score.loss - largest.score.loss) / height.max(f64::MIN_POSITIVE);
            x - y
        };
        front.into_iter().max_by(|a, b| below(a).total_cmp(&below(b)))
    }

    pub(super) fn best_index(&self) -> Option<usize> {
        let best = self.best()?;
        self.tried.iter().position(|c| std::ptr::eq(c, best))
    }

    /// What answers the question best so far.
    pub fn best(&self) -> Option<&Candidate> {
        let by_bytes = |c: &&Candidate| c.size.bytes;
        let by_loss = |a: &&Candidate, b: &&Candidate| a.score.loss.total_cmp(&b.score.loss);
        match self.mode() {
            SearchMode::Knee => self.knee(),
            SearchMode::Drop(_) => {
                let kept = self.tried.iter().filter(|c| self.limits.keeps(&c.score)).min_by_key(by_bytes);
                kept.or_else(|| self.tried.iter().min_by(by_loss))
            }
            SearchMode::Size(_) | SearchMode::Cost => {
                let fitting = || self.tried.iter().filter(|c| self.limits.fits(&c.size));
                let kept = fitting().filter(|c| self.limits.keeps(&c.score)).min_by(by_loss);
                let excess = |c: &&Candidate| self.limits.excess(&c.size);
                kept.or_else(|| fitting().min_by(by_loss))
                    .or_else(|| self.tried.iter().min_by(|a, b| excess(a).total_cmp(&excess(b))))
            }
        }
    }

    /// Makes and scores a student, and those on the way to it. `false` if the time was over before that was done, or it is to
    /// be made elsewhere and that is enough for a round.
    pub(super) fn attempt(&mut self, aim: Aim) -> Result<bool> {
        let space = self.space.clone();
        match self.attempted(aim.clone()) {
            Err(_) if self.maker.missing => {
                self.space = space;
                let mut plan = self.plan.clone();
                (plan.prune, plan.split, plan.loss_weights) = (aim.prune, aim.split, aim.loss_weights.clone());
                Ok(self.put_off(&plan, OpenCandidate::Untrained(aim)))
            }
            done => done,
        }
    }

    fn attempted(&mut self, aim: Aim) -> Result<bool> {
        let (number, scored) = (self.tried.len() + 1, self.maker.scored);
        let mut plan = Plan { packs: Vec::new(), ..self.plan.clone() };
        (plan.prune, plan.split, plan.loss_weights) = (aim.prune, aim.split, aim.loss_weights.clone());
        self.watch.candidate(number, self.options.candidates, &plan.to_string(), self.best());
        let pruned = self.made(&Plan { split: WHOLE, ..plan.clone() })?;
        plan.prune = pruned.0.prune;
        let pruned = pruned.1;
        if self.ends()? {
            return Ok(false);
        }
        let (plan, bare) = self.made(&plan)?;
        if self.ends()? {
            return Ok(false);
        }
        let plan = Plan { packs: self.plan.packs.clone(), ..plan };
        let (plan, trial) = match aim.bytes.filter(|&bytes| self.space.encodes && bytes < bare.size.bytes) {
            Some(bytes) => self.encoded(plan, &bare, bytes)?,
            None => self.plain(plan)?,
        };
        let made = self.maker.scored > scored;
        let whole = self.cost(&self.limits.teacher);
        let [after_pruning, after_split] = [&pruned, &bare].map(|trial| (self.cost(&trial.size) / whole).min(1.0));
        let bits = plan.encode.map(|_| 8.0 * trial.stored as f64 / bare.size.cost.parameters as f64);
        self.laws.learn(&Stages {
            pruned: (after_pruning, loss(&pruned)),
            split: (after_split, loss(&bare)),
            encoded: bits.map(|bits| (bits, loss(&trial))),
        });
        self.learn_limits(&plan, &aim, after_pruning, after_split);
        self.learn_latency();
        self.aims.push(aim);
        self.add(&plan, trial, made)?;
        if let Some(last) = self.tried.last() {
            self.laws.learn_drop(last.score.loss, last.score.drop);
        }
        if let Some(best) = self.best_index() {
            self.refine.best.clone_from(&self.aims[best].loss_weights);
        }
        Ok(true)
    }

    /// Adds a student to those that were tried, and if it was `made` in this run, keeps it as long as it may be asked for.
    pub(super) fn add(&mut self, plan: &Plan, trial: Trial, made: bool) -> Result<()> {
        let candidate = Candidate {
            what: plan.to_string(),
            steps: plan.steps(&self.options.common),
            size: trial.size,
            score: trial.score.ok_or_else(|| Error::internal("a candidate has no score"))?,
        };
        self.watch.tried(&candidate);
        let steps = candidate.steps.clone();
        self.tried.push(candidate);
        let best = self.best().map(|best| best.steps.clone());
        let wanted: Vec<&[String]> = match self.options.front {
            true => front_of(&self.tried).into_iter().map(|c| &c.steps[..]).chain(best.as_deref()).collect(),
            false => best.as_deref().into_iter().collect(),
        };
        self.states.retain(|s| wanted.contains(&&s.0[..]));
        // While it is there: a run that takes up a state may never have it.
        if made && wanted.contains(&&steps[..]) {
            let state = self.maker.state(&steps)?;
            self.states.push((steps, state));
        }
        Ok(())
    }

    /// Where asking for less leaves no less.
    fn learn_limits(&mut self, plan: &Plan, aim: &Aim, pruned: f64, split: f64) {
        if aim.prune < WHOLE && pruned > UNCHANGED {
            self.space.prunes = false;
        }
        let left = split / pruned;
        if aim.split < WHOLE && left > UNCHANGED {
            self.space.splits = false;
        } else if plan.split > aim.split {
            self.space.least_split = self.space.least_split.max(left);
        }
    }

    /// What share of the MACs comes to the latency that is asked for, as measured so far: between the two that are nearest
    /// to it, or as far below the last one as it goes in proportion.
    fn learn_latency(&mut self) {
        let Some((limit, whole)) = self.limits.latency.zip(self.limits.teacher.latency) else { return };
        let wanted = TIMELY * limit as f64 / whole.max(1) as f64;
        let macs = self.cost(&self.limits.teacher).max(1.0);
        let point = |size: &ModelSize| Some((self.cost(size) / macs, size.latency? as f64 / whole.max(1) as f64));
        let points = self.tried.iter().filter_map(|c| point(&c.size)).chain([(1.0, 1.0)]);
        let (slow, fast): (Vec<_>, Vec<_>) = points.partition(|p| p.1 > wanted);
        let nearest = slow.into_iter().min_by(|a, b| a.1.total_cmp(&b.1));
        let below = fast.into_iter().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or((0.0, 0.0));
        let Some(above) = nearest else { return };
        let share = below.0 + (above.0 - below.0) * (wanted - below.1) / (above.1 - below.1);
        let bound = self.limits.macs.map_or(1.0, |limit| limit as f64 / macs);
        self.space.product = Some(share.clamp(1.0 / f64::from(WHOLE), 1.0).min(bound));
    }

    fn cost(&self, size: &ModelSize) -> f64 {
        match self.plan.unit {
            Unit::Params => size.cost.parameters as f64,
            Unit::Macs => size.cost.macs.unwrap_or(0) as f64,
        }
    }

    /// Whether the time is over.
    ///
    /// # Errors
    /// If there is nothing to show for it.
    pub(super) fn ends(&self) -> Result<bool> {
        match self.watch.ends() {
            Some(why) if self.tried.is_empty() => Err(Error::input("the search ended before its first candidate")
                .because(why)
                .help("give more --minutes, or fewer samples with --calib-samples")),
            why => Ok(why.is_some()),
        }
    }

    /// The student of a plan without codes. Where a step falls short of its share, the plan asks for what was reached.
    pub(super) fn made(&mut self, plan: &Plan) -> Result<(Plan, Trial)> {
        let trial = self.maker.trial(&plan.steps(&self.options.common), true)?;
        if trial.short.is_empty() {
            return Ok((plan.clone(), trial));
        }
        let before = match plan.split < WHOLE {
            true => {
                let before = Plan { split: WHOLE, ..plan.clone() }.steps(&self.options.common);
                self.maker.trial(&before, false)?.size
            }
            false => self.limits.teacher,
        };
        let before = self.cost(&before);
        // A thousandth above, and a share of it, so that it is within reach.
        let reached = (f64::from(WHOLE) * self.cost(&trial.size) / before).ceil() as u32 + 1;
        let mut eased = plan.clone();
        *(if plan.split < WHOLE { &mut eased.split } else { &mut eased.prune }) = reached.min(WHOLE);
        let trial = self.maker.trial(&eased.steps(&self.options.common), true)?;
        Ok((eased, trial))
    }

    /// A student whose weights are no codes.
    pub(super) fn plain(&mut self, plan: Plan) -> Result<(Plan, Trial)> {
        let plan = Plan { encode: None, ..plan };
        let trial = self.maker.trial(&plan.steps(&self.options.common), true)?;
        Ok((plan, trial))
    }

    /// A student whose weights are codes, such that its file has so many bytes at most and few less. The share that the plan
    /// encodes to, if it has one, is taken where it keeps within them.
    pub(super) fn encoded(&mut self, plan: Plan, bare: &Trial, bytes: u64) -> Result<(Plan, Trial)> {
        let stored = bare.stored.max(1) as f64;
        let hundredths = |left: f64| (10_000.0 * left / stored).clamp(1.0, 9_999.0) as u32;
        let known = plan.encode;
        let mut share = known.unwrap_or_else(|| hundredths(bytes as f64 - self.space.overhead));
        let (mut tried, mut overhead): (Vec<(u32, u64)>, _) = (Vec::new(), self.space.overhead);
        while tried.len() < ENCODINGS && tried.iter().all(|t| t.0 != share) {
            let encoded = Plan { encode: Some(share), ..plan.clone() };
            let trial = self.maker.trial(&encoded.steps(&self.options.common), false)?;
            let size = trial.size.bytes;
            overhead = size.saturating_sub(trial.stored) as f64;
            tried.push((share, size));
            if size <= bytes && (size as f64 >= CLOSE * bytes as f64 || known == Some(share)) {
                break;
            }
            let now = f64::from(share) / 10_000.0 * stored;
            share = hundredths(now + bytes as f64 - size as f64 - if size > bytes { 1.0 } else { 0.0 });
        }
        if !self.space.measured {
            (self.space.overhead, self.space.measured) = (overhead, true);
        }
        let fitting = tried.iter().filter(|t| t.1 <= bytes).max_by_key(|t| t.1);
        let best = fitting.or_else(|| tried.iter().min_by_key(|t| t.1)).map(|t| t.0);
        let mut plan = Plan { encode: best, ..plan };
        let mut trial = self.maker.trial(&plan.steps(&self.options.common), true)?;
        if trial.short.len() > bare.short.len() {
            // No fewer bytes can be had: what can is asked for.
            let weights = bare.size.cost.parameters.max(1) as f64;
            self.space.least_bits = self.space.least_bits.max(8.0 * trial.stored as f64 / weights);
            let reached = (10_000.0 * trial.stored as f64 / stored).ceil() as u32 + 1;
            if reached >= 10_000 {
                return self.plain(plan);
            }
            plan.encode = Some(reached);
            trial = self.maker.trial(&plan.steps(&self.options.common), true)?;
        }
        Ok((plan, trial))
    }
}

/// Those of which none that is smaller loses less, the smallest first.
fn front_of(tried: &[Candidate]) -> Vec<&Candidate> {
    let mut all: Vec<&Candidate> = tried.iter().filter(|c| c.score.loss.is_finite()).collect();
    all.sort_by(|a, b| a.size.bytes.cmp(&b.size.bytes).then(a.score.loss.total_cmp(&b.score.loss)));
    let mut front: Vec<&Candidate> = Vec::new();
    for c in all {
        if front.last().is_none_or(|last| c.score.loss < last.score.loss) {
            front.push(c);
        }
    }
    front
}

fn loss(trial: &Trial) -> f64 {
    trial.score.as_ref().map_or(f64::INFINITY, |s| s.loss)
}
