//! How long a step still takes, judged by how fast its work went of late.

use std::time::Duration;

/// Share of a step before which too little is known.
const FIRST: f64 = 0.1;

/// How far a step was, and when.
#[derive(Default)]
pub struct Left {
    marks: Vec<(u64, Duration)>,
}

impl Left {
    /// Time left when `done` of `all` work is behind, `since` the step began; `None` in the first tenth.
    ///
    /// The rate is that of the later half of what is done: layers at the end of a network are another kind of work than
    /// those at its beginning.
    pub fn after(&mut self, done: u64, all: u64, since: Duration) -> Option<Duration> {
        // Other work began.
        if self.marks.last().is_some_and(|m| m.0 > done) {
            self.marks = vec![(0, since)];
        }
        self.marks.push((done, since));
        if done == 0 || done > all || (done as f64) < FIRST * all as f64 {
            return None;
        }
        let (before, then) = self.marks.iter().rfind(|m| m.0 <= done / 2).copied().unwrap_or_default();
        Some((since - then).mul_f64((all - done) as f64 / (done - before) as f64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(marks: &[(u64, u64)]) -> Option<u64> {
        let mut left = Left::default();
        marks.iter().map(|&(done, at)| left.after(done, 100, Duration::from_secs(at))).last()?.map(|d| d.as_secs())
    }

    #[test]
    fn nothing_is_said_in_the_first_tenth() {
        assert_eq!(told(&[(0, 0), (1, 400), (9, 401)]), None);
        assert_eq!(told(&[(0, 0)]), None);
        assert_eq!(told(&[(10, 5)]), Some(45));
    }

    #[test]
    fn what_went_slowly_at_first_is_forgotten() {
        assert_eq!(told(&[(0, 0), (10, 100), (20, 110)]), Some(80));
        assert_eq!(told(&[(0, 0), (10, 100), (20, 110), (100, 190)]), Some(0));
        assert_eq!(told(&[(0, 0), (90, 100), (0, 100), (50, 110)]), Some(10));
    }
}
