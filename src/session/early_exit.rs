//! The stage `early-exit`: heads are fitted and exits put into the student.

use super::visit::StepRun;
use super::{Data, Effect, Observer, State};
use crate::error::{Error, Kind, Result};
use crate::exits::heads::{self, ChosenExits, ExitGoal, ExitPlaces};
use crate::exits::observe::SampleFeed;
use crate::ir::Model;
use crate::recipe::{Action, CascadeStage, EarlyExit, Step};
use std::sync::mpsc;

/// What thresholds are set by.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    pub drop: f64,
    pub hold_back: f64,
    pub samples: usize,
}

impl Settings {
    /// Those of a stage that sets thresholds; `None` if it does not.
    pub fn of(action: &Action) -> Option<Settings> {
        match action {
            Action::EarlyExit(EarlyExit { goal: ExitGoal::MaxDrop(drop), hold_back, samples, .. }) => {
                Some(Settings { drop: *drop, hold_back: *hold_back, samples: *samples })
            }
            // No weights are fitted here: the threshold can be set on all samples.
            Action::Cascade(CascadeStage { max_drop, samples, .. }) => {
                Some(Settings { drop: *max_drop, hold_back: 1.0, samples: *samples })
            }
            _ => None,
        }
    }
}

impl StepRun<'_, '_> {
    /// Gives the student exits, as far as some pay.
    pub fn early_exit(&mut self, state: &mut State<'_>, stage: &EarlyExit) -> Result<Effect> {
        let (session, student) = (self.session, &mut state.student);
        let missed = |why: String| Effect {
            missed: Some(why).filter(|_| matches!(stage.goal, ExitGoal::MaxDrop(_))),
            ..Effect::default()
        };
        let chosen = source(&session.data, stage.samples).and_then(|source| {
            let options = (&stage.places, stage.goal, stage.hold_back);
            let labels = source.labels.is_some();
            let (first, model) = (session.teacher, &*student);
            let told = watched(session.observer, |progress| heads::choose(model, first, &source, options, progress))?;
            Ok((told, labels))
        });
        let (choice, labels) = match chosen {
            Ok(chosen) => chosen,
            // The model or the data do not allow for exits: that is an answer, not a fault of the recipe.
            Err(e) if e.kind() == Kind::Target => {
                let why = e.advice();
                self.note(EarlyExit::NAME, &why, false);
                return Ok(missed(why));
            }
            Err(e) => return Err(e),
        };
        self.describe(student, &choice, stage, labels);
        if choice.exits.is_empty() {
            let within = if matches!(stage.goal, ExitGoal::MaxDrop(_)) {
                "within the allowed drop"
            } else {
                "at that threshold"
            };
            let why = format!("no exit saves anything {within}: the model stays as it was");
            self.note(EarlyExit::NAME, &why, false);
            return Ok(missed(why));
        }
        heads::attach(&mut student.graph, &choice)?;
        Ok(Effect::default())
    }

    /// After a step: notes what thresholds are set by, or sets them anew where what the student computes has changed.
    pub fn after_exits(&mut self, state: &mut State<'_>, step: &Step, action: &Action) -> Result<()> {
        if let Some(settings) = Settings::of(action) {
            state.exits = Some(settings);
        } else if !action.is_exact()
            && !state.student.graph.exits().is_empty()
            && !matches!(action, Action::EarlyExit(_))
        {
            match state.exits {
                Some(settings) => {
                    let why = self.reset_exits(&mut state.student, &settings, action).map_err(|e| e.at(step.place()))?;
                    state.untaken = why.map(|why| format!("{}: {why}", step.place()));
                }
                None => self.note(
                    "exits",
                    "their thresholds stay as they are, for what the model computed before: no step of this recipe sets them for a `max-drop`",
                    false,
                ),
            }
        }
        Ok(())
    }

    /// Sets thresholds anew after a step that changed what the student computes. `step` is that step: what it learned from
    /// does not judge. That no exit is left to be taken comes back.
    fn reset_exits(&mut self, student: &mut Model, set: &Settings, step: &Action) -> Result<Option<String>> {
        let data = &self.session.data;
        let (source, options) = match (step, data) {
            (Action::Distill(stage), Data { training: Some(training), .. }) => {
                (training.held_back(&stage.training)?, (set.drop, 1.0))
            }
            _ => (source(data, set.samples)?, (set.drop, set.hold_back)),
        };
        let (observer, model) = (self.observer(), &mut *student);
        let told = watched(observer, |progress| heads::reset(model, &source, options, progress))?;
        if let Some((course, whole)) = told {
            let early = 1.0 - course.shares.last().unwrap_or(&1.0);
            let what = format!(
                "thresholds set anew: {:.1} % leave early, right for {:.2} % against {:.2} %, on held-back samples",
                100.0 * early,
                100.0 * course.right,
                100.0 * whole
            );
            self.note(EarlyExit::NAME, &what, true);
            if early == 0.0 {
                let why =
                    "after this step no exit saves anything within the allowed drop: they are there, and never taken";
                return Ok(Some(why.into()));
            }
        }
        Ok(None)
    }

    /// A row for every exit, and one of all together.
    fn describe(&mut self, student: &Model, choice: &ChosenExits, stage: &EarlyExit, labels: bool) {
        let g = &student.graph;
        let right = if labels { "right" } else { "as the whole network's" };
        for (exit, share) in choice.exits.iter().zip(&choice.course.shares) {
            let what = format!(
                "exit after {:.1} % of the MACs: head {} → {}, {right} for {:.2} %; temperature {:.2}, calibration error {:.2} % → {:.2} %; taken above {:.4}, by {:.1} %",
                100.0 * exit.place.macs as f64 / choice.macs as f64,
                exit.place.features,
                exit.head.bias.len(),
                100.0 * exit.right,
                exit.temperature,
                100.0 * exit.error.0,
                100.0 * exit.error.1,
                exit.threshold,
                100.0 * share
            );
            self.note(g.label(exit.place.node), &what, true);
        }
        if let ExitPlaces::After(names) = &stage.places {
            for name in names {
                let taken = |node| {
                    g.label(node) == name
                        || g.node_outputs(node).into_iter().flatten().any(|v| g.value(v).name == *name)
                };
                if !choice.exits.iter().any(|e| taken(e.place.node)) {
                    self.note(name, "an exit here would save nothing within the allowed drop", false);
                }
            }
        }
        if !choice.exits.is_empty() {
            let more = if choice.course.cost > choice.macs as f64 { ", more than without exits" } else { "" };
            let what = format!(
                "mean MACs {:.1} % of the network's{more}, {right} for {:.2} % against {:.2} %, on {} held-back samples",
                100.0 * choice.course.cost / choice.macs as f64,
                100.0 * choice.course.right,
                100.0 * choice.whole,
                choice.held_back
            );
            self.note(EarlyExit::NAME, &what, true);
            self.warn_of_few(EarlyExit::NAME, stage.goal, choice.held_back);
        }
    }

    /// A row if a loss that is allowed could not be seen on so few samples: of n without any, 3 / n of all may be lost.
    pub(super) fn warn_of_few(&mut self, site: &str, goal: ExitGoal, samples: usize) {
        let ExitGoal::MaxDrop(drop) = goal else { return };
        let unseen = 3.0 / samples.max(1) as f64;
        if unseen > drop {
            let what = format!(
                "of {samples} samples that thresholds go by a loss of up to {:.1} % can go unseen, and {:.2} % is allowed: give more",
                100.0 * unseen.min(1.0),
                100.0 * drop
            );
            self.note(site, &what, true);
        }
    }
}

/// Training data if there is any, as it may have labels, else calibration data.
pub(super) fn source<'a>(data: &Data<'a>, samples: usize) -> Result<SampleFeed<'a>> {
    #[cfg(feature = "exec")]
    if let Some(training) = data.training {
        return training.source(samples);
    }
    let calibration = data.calibration.ok_or_else(|| Error::internal("no data"))?;
    calibration.source(samples)
}

/// Runs something that tells from any thread how far it is, and tells the observer on this one.
pub(super) fn watched<T: Send>(
    observer: &dyn Observer,
    run: impl FnOnce(&(dyn Fn(usize, usize) + Sync)) -> T + Send,
) -> T {
    let (tell, hear) = mpsc::channel();
    std::thread::scope(|scope| {
        let worker = scope.spawn(move || {
            let tell = std::sync::Mutex::new(tell);
            run(&|done, all| {
                if let Ok(tell) = tell.lock() {
                    let _ = tell.send((done, all));
                }
            })
        });
        for (done, all) in hear {
            observer.site(done as u64, all as u64, "running the samples");
        }
        worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
