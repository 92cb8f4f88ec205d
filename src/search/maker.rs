//! Makes students by their steps and scores them; what begins alike is made once.

use super::Watch;
use super::latency::Clock;
use super::plan::DISTILL;
use super::store::{Store, Trial, Trials};
use crate::check::Judge;
use crate::error::{Error, Result};
use crate::recipe::Step;
use crate::session::{Outcome, Session, State};

/// States that are kept to go on from.
const KEPT: usize = 6;

/// What students are made with and judged by.
pub type Workshop<'s, 'a> = (&'s Session<'a>, &'s Judge<'s>);

/// Students of one teacher.
pub struct Maker<'s, 'a> {
    /// `None` where only what was measured before is looked up.
    workshop: Option<Workshop<'s, 'a>>,
    store: Store,
    watch: &'s dyn Watch,
    /// What training data is, in the keys of trials.
    training: Option<String>,
    /// How long students take, if that counts, and how long the teacher does.
    clock: Option<(&'s Clock, u64)>,
    /// Whether a training was ended before its end: what it has made is no student of its steps.
    pub cut: bool,
    /// Whether something was asked for that was not measured, and cannot be here.
    pub missing: bool,
    /// At the end of a search what is trained once more is not cut short.
    pub finishing: bool,
    /// By their steps, what was used last at the end.
    states: Vec<(Vec<String>, State<'a>)>,
    /// Students that were scored in this run, and steps that were run for them.
    pub scored: usize,
    pub steps: usize,
}

impl<'s, 'a> Maker<'s, 'a> {
    pub fn new(
        workshop: Option<Workshop<'s, 'a>>,
        store: Store,
        training: Option<String>,
        clock: Option<(&'s Clock, u64)>,
        watch: &'s dyn Watch,
    ) -> Maker<'s, 'a> {
        let (cut, missing, finishing) = Default::default();
        Maker {
            workshop,
            store,
            watch,
            training,
            clock,
            cut,
            missing,
            finishing,
            states: Vec::new(),
            scored: 0,
            steps: 0,
        }
    }

    /// All that was measured.
    pub fn measured(self) -> Trials {
        self.store.into_trials()
    }

    fn workshop(&mut self) -> Result<Workshop<'s, 'a>> {
        self.missing |= self.workshop.is_none();
        self.workshop.ok_or_else(|| Error::internal("a student is to be made where none can be"))
    }

    /// What the student of some steps costs, and if `score`, how good it is: as it was measured before, else it is made.
    ///
    /// # Errors
    /// If a step cannot be run or was `cut` short, or the state file not be written.
    pub fn trial(&mut self, steps: &[String], score: bool) -> Result<Trial> {
        let key = self.key(steps);
        let known = self.store.get(&key).cloned();
        if let Some(trial) = known.filter(|t| t.score.is_some() || !score) {
            return Ok(self.timed(trial));
        }
        let state = self.state(steps)?;
        let size = state.size();
        let (session, judge) = self.workshop()?;
        let pace = |(clock, _): (&Clock, u64)| clock.of_student(state.student(), session.teacher(), session.sizes());
        let pace = self.clock.map(pace).transpose()?;
        let score = score.then(|| judge.score(state.student())).transpose()?;
        self.scored += usize::from(score.is_some());
        let trial = Trial { size, stored: size.cost.stored, pace, score, short: state.missed().to_vec() };
        self.store.put(key, trial.clone())?;
        Ok(self.timed(trial))
    }

    /// A trial with its latency beside the teacher's of this run.
    fn timed(&self, mut trial: Trial) -> Trial {
        let latency = self.clock.zip(trial.pace).map(|((_, teacher), pace)| (pace * teacher as f64).round() as u64);
        trial.size.latency = latency;
        trial
    }

    /// What a trial is kept by.
    fn key(&self, steps: &[String]) -> String {
        let trains = steps.iter().any(|step| step.starts_with(DISTILL));
        let data = self.training.iter().filter(|_| trains).map(|digest| format!(" on {digest}"));
        let clock = self.clock.map_or_else(String::new, |(clock, _)| clock.key());
        steps.join(" ") + &data.collect::<String>() + &clock
    }

    /// A student after some steps, from the longest beginning that is there.
    ///
    /// # Errors
    /// If a step cannot be run, or was `cut` short.
    pub fn state(&mut self, steps: &[String]) -> Result<State<'a>> {
        let session = self.workshop()?.0;
        let shared = |known: &[String]| steps.starts_with(known).then_some(known.len());
        let longest = (0..self.states.len()).filter_map(|i| Some((shared(&self.states[i].0)?, i))).max();
        let (mut done, mut state) = match longest {
            Some((done, i)) => {
                let kept = self.states.remove(i);
                let state = kept.1.clone();
                self.states.push(kept);
                (done, state)
            }
            None => (0, session.start()?),
        };
        while done < steps.len() {
            let step = Step::parse(&steps[done])?;
            session.advance(&mut state, &step)?;
            if step.name == DISTILL && !self.finishing && self.watch.ends().is_some() {
                self.cut = true;
                return Err(Error::input("a training was cut short"));
            }
            (done, self.steps) = (done + 1, self.steps + 1);
            self.states.push((steps[..done].to_vec(), state.clone()));
            if self.states.len() > KEPT {
                self.states.remove(0);
            }
        }
        Ok(state)
    }

    /// The student of a state, with the report of its steps.
    ///
    /// # Errors
    /// Internal ones only.
    pub fn finish(&mut self, state: State<'a>) -> Result<Outcome> {
        self.workshop()?.0.finish(state)
    }
}
