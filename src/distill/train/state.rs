//! How far a training is: what it takes to go on with it later as if it had never stopped.

use super::{Epoch, HeldBackScore};
use crate::autodiff::Variables;
use crate::distill::optimizer::{Method, Optimizer};
use crate::error::Error;

/// The first bytes of a checkpoint, with the version of its form.
const MAGIC: &[u8; 8] = b"tutee\0\0\x01";

/// A training between two epochs.
#[derive(Debug, Clone)]
pub struct TrainingState {
    /// What happened so far; number 0 is the student as it was.
    pub epochs: Vec<Epoch>,
    /// Which of them the best student is from.
    pub best: usize,
    /// Peak of the learning rate by now.
    pub peak: f64,
    pub(super) done: usize,
    pub(super) restarts: usize,
    pub(super) seconds: f64,
    pub(super) now: Variables<f32>,
    pub(super) kept: Variables<f32>,
    pub(super) optimizer: Optimizer<f32>,
}

impl TrainingState {
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        let mut put = |bytes: [u8; 8]| out.extend(bytes);
        let [done, restarts, best] = [self.done, self.restarts, self.best].map(|n| n as u64);
        [done, restarts, best, self.epochs.len() as u64].into_iter().for_each(|n| put(n.to_le_bytes()));
        [self.peak, self.seconds].into_iter().for_each(|v| put(v.to_le_bytes()));
        for epoch in &self.epochs {
            let HeldBackScore { loss, accuracy, agreement } = epoch.held_back;
            // A share that nobody measured is below 0.
            let shares = [accuracy, agreement].map(|s| s.unwrap_or(-1.0));
            let numbers = [epoch.loss, loss, shares[0], shares[1], f64::from(u8::from(epoch.diverged))];
            numbers.into_iter().for_each(|v| put(v.to_le_bytes()));
        }
        let (steps, moments) = self.optimizer.memory();
        put((steps as u64).to_le_bytes());
        let flat = moments.iter().flatten().cloned().collect();
        for lists in [&self.now.0, &self.kept.0, &flat] {
            put((lists.len() as u64).to_le_bytes());
            lists.iter().for_each(|l| put((l.len() as u64).to_le_bytes()));
        }
        for list in [&self.now.0, &self.kept.0, &flat].into_iter().flatten() {
            out.extend(list.iter().flat_map(|v| v.to_le_bytes()));
        }
        out
    }

    /// What a checkpoint is refused with that has no course of this training.
    pub fn damaged() -> Error {
        Error::input("the checkpoint is damaged").help("remove the file to begin anew")
    }

    /// `None` if these are not the bytes of a course.
    pub(super) fn of_bytes(bytes: &[u8], method: Method, weight_decay: f64) -> Option<TrainingState> {
        let mut rest = bytes.strip_prefix(MAGIC)?;
        let mut take = || {
            let (first, after) = rest.split_first_chunk::<8>()?;
            rest = after;
            Some(*first)
        };
        let mut head = [0; 4];
        for n in &mut head {
            *n = usize::try_from(u64::from_le_bytes(take()?)).ok()?;
        }
        let [done, restarts, best, count] = head;
        let (peak, seconds) = (f64::from_le_bytes(take()?), f64::from_le_bytes(take()?));
        let mut epochs = Vec::new();
        for number in 0..count {
            let mut v = [0.0; 5];
            for v in &mut v {
                *v = f64::from_le_bytes(take()?);
            }
            let share = |v: f64| (v >= 0.0).then_some(v);
            let held_back = HeldBackScore { loss: v[1], accuracy: share(v[2]), agreement: share(v[3]) };
            epochs.push(Epoch { number, loss: v[0], held_back, diverged: v[4] != 0.0 });
        }
        epochs.get(best)?;
        let steps = i32::try_from(u64::from_le_bytes(take()?)).ok()?;
        let mut lens: Vec<Vec<usize>> = Vec::new();
        for _ in 0..3 {
            let lists = u64::from_le_bytes(take()?);
            let len = || usize::try_from(u64::from_le_bytes(take()?)).ok();
            lens.push(std::iter::repeat_with(len).take(usize::try_from(lists).ok()?).collect::<Option<_>>()?);
        }
        let mut list = |len: &usize| {
            let (own, after) = rest.split_at_checked(len.checked_mul(4)?)?;
            rest = after;
            Some(own.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect::<Vec<f32>>())
        };
        let mut lists = Vec::new();
        for lens in &lens {
            lists.push(lens.iter().map(&mut list).collect::<Option<Vec<_>>>()?);
        }
        let [now, kept, flat] = <[_; 3]>::try_from(lists).ok()?;
        let moments = flat.into_iter().collect::<Vec<_>>();
        let moments = moments.as_chunks::<2>().0.to_vec();
        let optimizer = Optimizer::with_memory(method, weight_decay, steps, moments);
        rest.is_empty().then_some(TrainingState {
            epochs,
            best,
            peak,
            done,
            restarts,
            seconds,
            now: Variables(now),
            kept: Variables(kept),
            optimizer,
        })
    }

    /// Whether its numbers are those of a tape that has this state.
    pub(super) fn fits(&self, state: &Variables<f32>) -> bool {
        let same = |other: &Variables<f32>| other.0.iter().map(Vec::len).eq(state.0.iter().map(Vec::len));
        same(&self.now) && same(&self.kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_back() {
        let held_back = HeldBackScore { loss: 0.1, accuracy: Some(0.0), agreement: None };
        let moments = vec![[vec![1.0], vec![0.5]], [vec![], vec![]]];
        let course = TrainingState {
            epochs: vec![Epoch { number: 0, loss: 1.0 / 3.0, held_back, diverged: true }],
            best: 0,
            peak: 1e-3,
            done: 7,
            restarts: 1,
            seconds: 2.5,
            now: Variables(vec![vec![1.0, 2.0], vec![3.0]]),
            kept: Variables(vec![vec![4.0, 5.0], vec![6.0]]),
            optimizer: Optimizer::with_memory(Method::ADAM_W, 0.01, 7, moments),
        };
        let bytes = course.to_bytes();
        let back = TrainingState::of_bytes(&bytes, Method::ADAM_W, 0.01).unwrap();
        assert_eq!(back.to_bytes(), bytes);
        assert_eq!((back.epochs, back.now), (course.epochs.clone(), course.now.clone()));
        assert!(course.fits(&course.kept) && !course.fits(&Variables(vec![vec![0.0]])));
        for cut in [0, 7, 8, 20, bytes.len() - 1] {
            assert!(TrainingState::of_bytes(&bytes[..cut], Method::ADAM_W, 0.01).is_none(), "{cut}");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(TrainingState::of_bytes(&longer, Method::ADAM_W, 0.01).is_none());
    }
}
