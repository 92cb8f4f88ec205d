//! Whether a classifier still knows anything, from what it answers.

/// Fewer samples say too little.
const FEWEST: usize = 10;
/// A student is near chance that keeps no more than this share of what its teacher knows beyond chance.
const KEPT: f64 = 0.1;
/// Standard deviations of chance by which a teacher must be beyond it.
const FAR: f64 = 4.0;
/// Answers that are not the most common, as a share, and as a number, where answers are said to differ.
const OTHERS: (f64, usize) = (0.05, 3);

/// Says in words that a student is ruined, if it is: that it answers the same whatever it sees, or is right no more often
/// than whoever does, while its teacher is not like that. Answers are classes below `classes`, one a sample. Right is what
/// the labels say, and without labels what the teacher says; one of both there must be.
pub fn ruined(
    classes: usize,
    student: &[usize],
    teacher: Option<&[usize]>,
    labels: Option<&[usize]>,
) -> Option<String> {
    let (n, truth) = (student.len(), labels.or(teacher)?);
    if n < FEWEST || truth.len() != n || teacher.is_some_and(|t| t.len() != n) {
        return None;
    }
    let usual = most_common(truth);
    let others = n - teacher.map_or(usual, most_common);
    if most_common(student) == n && others >= OTHERS.1 && others as f64 >= OTHERS.0 * n as f64 {
        return Some(format!("all {n} answers of the student are class {}", student[0]));
    }
    let share = |answers: &[usize]| answers.iter().zip(truth).filter(|(a, t)| a == t).count() as f64 / n as f64;
    let (own, theirs) = (share(student), teacher.map_or(1.0, share));
    let chance = (usual as f64 / n as f64).max(1.0 / classes.max(1) as f64);
    let deviation = (chance * (1.0 - chance) / n as f64).sqrt();
    let known = theirs - chance;
    let near = known > FAR * deviation && own - chance <= deviation.max(KEPT * known);
    near.then(|| {
        let what = if labels.is_some() { "is right" } else { "agrees with its teacher" };
        let teacher = if labels.is_some() && teacher.is_some() {
            format!(" and the teacher on {:.1} %", 100.0 * theirs)
        } else {
            String::new()
        };
        format!(
            "the student {what} on {:.1} % of {n} samples, where always the same answer would be on {:.1} %{teacher}",
            100.0 * own,
            100.0 * usual as f64 / n as f64
        )
    })
}

fn most_common(answers: &[usize]) -> usize {
    let mut sorted = answers.to_vec();
    sorted.sort_unstable();
    sorted.chunk_by(|a, b| a == b).map(<[usize]>::len).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_student_that_knows_nothing_is_told_from_one_that_knows_little() {
        let labels: Vec<usize> = (0..100).map(|i| i % 10).collect();
        // Right on the first so many.
        let student = |right: usize| (0..100).map(|i| (i + usize::from(i >= right)) % 10).collect::<Vec<_>>();
        let says = |right: usize| ruined(10, &student(right), Some(&labels), Some(&labels));
        assert!(
            says(11)
                .unwrap()
                .contains("right on 11.0 % of 100 samples, where always the same answer would be on 10.0 %")
        );
        assert!(says(5).is_some() && says(25).is_none() && says(90).is_none());
        let agrees = ruined(10, &student(11), Some(&labels), None).unwrap();
        assert!(agrees.contains("agrees with its teacher on 11.0 %"), "{agrees}");
        assert!(ruined(10, &student(11), None, Some(&labels)).is_some());
        // A teacher that knows nothing either.
        assert_eq!(ruined(10, &student(11), Some(&student(12)), Some(&labels)), None);
        assert_eq!(ruined(10, &[1; 5], Some(&[0, 1, 2, 3, 4]), None), None);
        assert_eq!(ruined(10, &student(0), None, None), None);
    }

    #[test]
    fn answers_that_are_all_alike_are_said() {
        let rare: Vec<usize> = (0..100).map(|i| usize::from(i % 10 == 0)).collect();
        assert_eq!(ruined(2, &[0; 100], Some(&rare), None).unwrap(), "all 100 answers of the student are class 0");
        assert_eq!(ruined(2, &rare, Some(&rare), Some(&rare)), None);
        assert_eq!(ruined(2, &[0; 100], Some(&[0; 100]), Some(&rare)), None);
    }
}
