//! A search that many machines share: a folder of jobs, each of them one candidate, done in rounds.
//!
//! ```text
//! JOBS/plan.json           what is searched for, and what was found out of the model and the data
//! JOBS/inputs/DIGEST/…     the model and the data, once
//! JOBS/jobs/DIGEST.json    a candidate, with all of the plan that its making depends on
//! JOBS/results/DIGEST.json what was measured
//! JOBS/round               the jobs that are to be done now, a line each, the one that is needed most before the others
//! ```
//!
//! Jobs are called by what is in them: the same job is the same file, and its result the same whoever makes it. There is no
//! server and no lock. What comes next follows from the plan and the results alone, by the search that runs on one machine.

mod folder;
mod inputs;
mod setting;

pub use folder::{Done, JobFolder, Merged, merge, open, plan, run};
pub use setting::{BoundSetting, Setting};
