//! Plans for inputs of several shapes: each is made once for jobs that come shape by shape, and few are in memory.

use rayon::prelude::*;

/// Plans that are made together. Each has the weights of its network in a form of its own.
const TOGETHER: usize = 4;

/// The plans that were made last, by a number that stands for the shapes.
pub struct Plans<P>(Vec<(usize, P)>);

impl<P> Default for Plans<P> {
    fn default() -> Self {
        Plans(Vec::new())
    }
}

impl<P: Send + Sync> Plans<P> {
    /// The jobs to run next: so many at most, of few shapes.
    pub fn next<J>(jobs: &[J], most: usize, kind: impl Fn(&J) -> usize) -> &[J] {
        let mut kinds = Vec::new();
        let fits = |job: &&J| {
            let kind = kind(job);
            if !kinds.contains(&kind) {
                kinds.push(kind);
            }
            kinds.len() <= TOGETHER
        };
        &jobs[..jobs.iter().take(most.max(1)).take_while(fits).count()]
    }

    /// Makes the plans that are missing for these jobs, and gives up others.
    ///
    /// # Errors
    /// The first that is met in the order of the jobs.
    pub fn reach<J, E: Send>(
        &mut self,
        jobs: &[J],
        kind: impl Fn(&J) -> usize,
        make: impl Fn(usize) -> Result<P, E> + Sync,
    ) -> Result<(), E> {
        let mut wanted: Vec<usize> = jobs.iter().map(kind).collect();
        wanted.dedup();
        self.0.retain(|(kind, _)| wanted.contains(kind));
        let missing: Vec<usize> = wanted.into_iter().filter(|kind| self.get(*kind).is_none()).collect();
        let made: Vec<Result<P, E>> = missing.par_iter().map(|&kind| make(kind)).collect();
        for (kind, plan) in missing.into_iter().zip(made) {
            self.0.push((kind, plan?));
        }
        Ok(())
    }

    /// A plan that was made elsewhere.
    pub fn put(&mut self, kind: usize, plan: P) {
        self.0.push((kind, plan));
    }

    /// The plan for these shapes, if it is there.
    pub fn get(&self, kind: usize) -> Option<&P> {
        self.0.iter().find(|(known, _)| *known == kind).map(|(_, plan)| plan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn plans_are_made_once_and_few_are_kept() {
        let (made, mut plans) = (AtomicUsize::new(0), Plans::default());
        let jobs: Vec<usize> = (0..60).map(|i| i / 3).collect();
        let (mut left, mut done) = (&jobs[..], 0);
        while !left.is_empty() {
            let lot = Plans::<usize>::next(left, 7, |&job| job);
            plans
                .reach(
                    lot,
                    |&job| job,
                    |kind| {
                        made.fetch_add(1, Ordering::Relaxed);
                        Ok::<_, ()>(10 * kind)
                    },
                )
                .unwrap();
            assert!(lot.iter().all(|&job| plans.get(job) == Some(&(10 * job))) && plans.0.len() <= TOGETHER);
            (left, done) = (&left[lot.len()..], done + lot.len());
        }
        assert_eq!((done, made.into_inner()), (60, 20));
        assert_eq!(plans.reach(&[5, 6], |&job| job, |kind| if kind == 5 { Err(kind) } else { Ok(0) }), Err(5));
    }
}
