//! Makes students by their steps and scores them; what begins alike is made once.

use super::store::{Store, Trial};
use crate::check::Judge;
use crate::error::Result;
use crate::ir::{NodeId, Tensor};
use crate::passes::options::{layers, weight};
use crate::recipe::Step;
use crate::session::{Outcome, Session, State};

/// States that are kept to go on from.
const KEPT: usize = 6;

/// Students of one teacher.
pub struct Maker<'s, 'a> {
    session: &'s Session<'a>,
    judge: &'s Judge<'s>,
    store: Store,
    /// By their steps, what was used last at the end.
    states: Vec<(Vec<String>, State<'a>)>,
    /// Students that were scored in this run, and steps that were run for them.
    pub scored: usize,
    pub steps: usize,
}

impl<'s, 'a> Maker<'s, 'a> {
    pub fn new(session: &'s Session<'a>, judge: &'s Judge<'s>, store: Store) -> Maker<'s, 'a> {
        Maker { session, judge, store, states: Vec::new(), scored: 0, steps: 0 }
    }

    /// What the student of some steps costs, and if `score`, how good it is: as it was measured before, else it is made.
    ///
    /// # Errors
    /// If a step cannot be run, or the state file not be written.
    pub fn trial(&mut self, steps: &[String], score: bool) -> Result<Trial> {
        let key = key(steps);
        let known = self.store.get(&key).cloned();
        if let Some(trial) = known.as_ref().filter(|t| t.score.is_some() || !score) {
            return Ok(trial.clone());
        }
        let state = self.state(steps)?;
        let size = state.size();
        let score = score.then(|| self.judge.score(state.student())).transpose()?;
        self.scored += usize::from(score.is_some());
        let trial = Trial { size, stored: size.cost.stored, score, short: state.missed().to_vec() };
        self.store.put(key, trial.clone())?;
        Ok(trial)
    }

    /// A student after some steps, from the longest beginning that is there.
    ///
    /// # Errors
    /// If a step cannot be run.
    pub fn state(&mut self, steps: &[String]) -> Result<State<'a>> {
        let shared = |known: &[String]| steps.starts_with(known).then_some(known.len());
        let longest = (0..self.states.len()).filter_map(|i| Some((shared(&self.states[i].0)?, i))).max();
        let (mut done, mut state) = match longest {
            Some((done, i)) => {
                let kept = self.states.remove(i);
                let state = kept.1.clone();
                self.states.push(kept);
                (done, state)
            }
            None => (0, self.session.start()?),
        };
        while done < steps.len() {
            self.session.advance(&mut state, &Step::parse(&steps[done])?)?;
            (done, self.steps) = (done + 1, self.steps + 1);
            self.states.push((steps[..done].to_vec(), state.clone()));
            if self.states.len() > KEPT {
                self.states.remove(0);
            }
        }
        Ok(state)
    }

    /// Layers of the student of some steps, the largest weights first.
    ///
    /// # Errors
    /// If a step cannot be run.
    pub fn layers(&mut self, steps: &[String]) -> Result<Vec<String>> {
        let state = self.state(steps)?;
        let graph = &state.student().graph;
        let len = |n: &NodeId| weight(graph, *n).and_then(|w| graph.value(w.1).constant()).map_or(0, Tensor::len);
        let mut layers = layers(graph);
        layers.retain(|n| len(n) > 0);
        layers.sort_by_key(|n| std::cmp::Reverse(len(n)));
        Ok(layers.into_iter().map(|n| graph.label(n).to_string()).collect())
    }

    /// The student of a state, with the report of its steps.
    ///
    /// # Errors
    /// Internal ones only.
    pub fn finish(&self, state: State<'a>) -> Result<Outcome> {
        self.session.finish(state)
    }
}

/// What trials are kept by.
pub fn key(steps: &[String]) -> String {
    steps.join(" ")
}
