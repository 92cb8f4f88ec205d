//! The classes on which a student is worse than its teacher, and what it takes them for.

use super::compare::SampleScores;
use crate::data::{Dataset, Feed, thumbnail};
use crate::error::Result;
use serde::Serialize;
use std::collections::BTreeMap;

/// Classes that are told of, and pictures of each.
const CLASSES: usize = 5;
const PICTURES: usize = 6;

/// A class on which the student is worse than its teacher. Without labels, a sample's class is what the teacher says.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WorseClass {
    /// Its place among the scores.
    pub class: usize,
    /// Of a folder of pictures: the class's own folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Samples of it.
    pub samples: usize,
    /// Samples that the teacher takes for what they are.
    pub teacher: usize,
    /// Samples that the student takes for what they are.
    pub student: usize,
    /// Another class, and the samples of this one that the teacher and the student take for it; where the student does so
    /// more often, the most first.
    pub taken_for: Vec<(usize, usize, usize)>,
    /// Samples that only the teacher takes for what they are, where they are pictures.
    #[serde(skip)]
    pub lost: Vec<Picture>,
}

/// A sample to look at.
#[derive(Debug, Clone, PartialEq)]
pub struct Picture {
    /// Its place in the data.
    pub sample: usize,
    /// What the student takes it for.
    pub said: Option<usize>,
    /// A PNG.
    pub png: Vec<u8>,
}

/// The worst first.
pub(super) fn worse(rows: &[&SampleScores], labels: Option<&[usize]>) -> Vec<WorseClass> {
    let mut classes: BTreeMap<usize, WorseClass> = BTreeMap::new();
    let mut taken: BTreeMap<(usize, usize), [usize; 2]> = BTreeMap::new();
    for (sample, row) in rows.iter().enumerate() {
        let Some(class) = labels.map_or(row.best[0], |labels| labels.get(sample).copied()) else { continue };
        let of = classes.entry(class).or_insert_with(|| WorseClass {
            class,
            name: None,
            samples: 0,
            teacher: 0,
            student: 0,
            taken_for: Vec::new(),
            lost: Vec::new(),
        });
        of.samples += 1;
        of.teacher += usize::from(row.best[0] == Some(class));
        of.student += usize::from(row.best[1] == Some(class));
        for (side, said) in row.best.into_iter().enumerate() {
            said.filter(|&said| said != class)
                .into_iter()
                .for_each(|s| taken.entry((class, s)).or_default()[side] += 1);
        }
        if row.best[0] == Some(class) && row.best[1] != Some(class) {
            of.lost.push(Picture { sample, said: row.best[1], png: Vec::new() });
        }
    }
    for (&(class, said), &[teacher, student]) in taken.iter().filter(|(_, n)| n[1] > n[0]) {
        classes.entry(class).and_modify(|c| c.taken_for.push((said, teacher, student)));
    }
    let mut worse: Vec<WorseClass> = classes.into_values().filter(|c| c.student < c.teacher).collect();
    worse.sort_by_key(|c| std::cmp::Reverse(c.teacher - c.student));
    worse.truncate(CLASSES);
    worse.iter_mut().for_each(|c| c.taken_for.sort_by_key(|&(_, t, s)| std::cmp::Reverse(s - t)));
    worse
}

/// Names classes, and looks at what was lost, where samples are pictures.
///
/// # Errors
/// If the data cannot be read.
pub(super) fn illustrate(worse: &mut [WorseClass], data: &Dataset, feed: &Feed<'_>) -> Result<()> {
    for class in worse {
        class.name = data.classes().get(class.class).cloned();
        class.lost.truncate(PICTURES);
        feed.hold(class.lost.iter().map(|p| feed.chunk_of(p.sample)))?;
        for picture in &mut class.lost {
            let chunk = feed.chunk_of(picture.sample);
            let place = feed.rows(chunk).iter().position(|&row| row == picture.sample);
            if let ([array], Some(place)) = (&feed.chunk(chunk)?[..], place) {
                picture.png = thumbnail(array, place).unwrap_or_default();
            }
        }
        class.lost.retain(|p| !p.png.is_empty());
        feed.forget();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(teacher: usize, student: usize) -> SampleScores {
        SampleScores {
            classes: 3,
            places: None,
            best: [Some(teacher), Some(student)],
            agree: teacher == student,
            probabilities: false,
            kl_logits: 0.0,
            kl_probabilities: 0.0,
        }
    }

    #[test]
    fn the_class_that_loses_most_is_first_with_what_it_is_taken_for() {
        // label, teacher, student
        let said = [(0, 0, 1), (0, 0, 2), (0, 0, 2), (0, 2, 2), (1, 1, 0), (1, 0, 1), (2, 2, 1), (2, 2, 2)];
        let rows: Vec<SampleScores> = said.iter().map(|&(_, t, s)| scores(t, s)).collect();
        let rows: Vec<&SampleScores> = rows.iter().collect();
        let labels: Vec<usize> = said.iter().map(|s| s.0).collect();
        let found = worse(&rows, Some(&labels));
        assert_eq!(found.iter().map(|c| (c.class, c.teacher, c.student)).collect::<Vec<_>>(), [(0, 3, 0), (2, 2, 1)]);
        assert_eq!(found[0].taken_for, [(2, 1, 3), (1, 0, 1)]);
        assert_eq!(
            found[0].lost.iter().map(|p| (p.sample, p.said)).collect::<Vec<_>>(),
            [(0, Some(1)), (1, Some(2)), (2, Some(2))]
        );
        // Without labels the teacher is right.
        assert_eq!(worse(&rows, None).iter().map(|c| (c.class, c.samples, c.student)).next(), Some((0, 4, 0)));
    }
}
