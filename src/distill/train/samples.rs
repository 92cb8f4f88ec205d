//! What a student learns from, in which order, and how it is changed before each use.

use crate::error::{Error, Result};
use crate::ir::random::noise;
use std::str::FromStr;

/// Samples, one after the other.
pub trait Samples {
    /// Name and shape of each input of a sample.
    fn inputs(&self) -> &[(String, Vec<usize>)];

    /// How many of the inputs the samples have themselves; those after are made of them.
    fn own(&self) -> usize {
        self.inputs().len()
    }

    fn count(&self) -> usize;

    /// The class of each sample.
    fn labels(&self) -> Option<&[usize]>;

    /// The elements of a sample, input by input.
    ///
    /// # Errors
    /// If the sample cannot be read.
    fn read(&self, sample: usize) -> Result<Vec<Vec<f32>>>;
}

/// Samples of one input, in memory.
#[derive(Debug, Clone)]
pub struct Memory<'a> {
    inputs: [(String, Vec<usize>); 1],
    x: &'a [f32],
    labels: Option<&'a [usize]>,
}

impl<'a> Memory<'a> {
    /// `x` is sample after sample of this shape.
    pub fn new(x: &'a [f32], shape: &[usize], labels: Option<&'a [usize]>) -> Memory<'a> {
        Memory { inputs: [("x".into(), shape.to_vec())], x, labels }
    }

    fn size(&self) -> usize {
        self.inputs[0].1.iter().product::<usize>().max(1)
    }
}

impl Samples for Memory<'_> {
    fn inputs(&self) -> &[(String, Vec<usize>)] {
        &self.inputs
    }

    fn count(&self) -> usize {
        self.x.len() / self.size()
    }

    fn labels(&self) -> Option<&[usize]> {
        self.labels
    }

    fn read(&self, sample: usize) -> Result<Vec<Vec<f32>>> {
        Ok(vec![self.x[sample * self.size()..][..self.size()].to_vec()])
    }
}

/// How samples are changed before each use, at random. Images are [channels, height, width].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Augment {
    /// Left becomes right in every other image.
    Flip,
    /// Images move by up to so many pixels along each axis, with zeros where nothing was.
    Crop(u16),
}

impl FromStr for Augment {
    type Err = String;

    /// `flip` or `crop:4`.
    fn from_str(text: &str) -> Result<Augment, String> {
        match text.split_once(':') {
            None if text == "flip" => Ok(Augment::Flip),
            Some(("crop", n)) => n.parse().map(Augment::Crop).map_err(|_| format!("`{n}` is no number of pixels")),
            _ => Err(format!("`{text}` is none of `flip` and `crop:PIXELS`")),
        }
    }
}

impl Augment {
    /// Writes an image, changed at random, to `to`.
    pub(super) fn all(
        how: &[Augment],
        x: &[f32],
        to: &mut [f32],
        shape: &[usize],
        random: &mut impl Iterator<Item = f64>,
    ) {
        let (mut flip, mut by) = (false, [0isize; 2]);
        for how in how {
            match *how {
                Augment::Flip => flip = below(2, random) == 1,
                Augment::Crop(n) => by = [(); 2].map(|_| below(2 * usize::from(n) + 1, random) as isize - n as isize),
            }
        }
        let (&[_, height, width], false) = (shape, how.is_empty()) else { return to.copy_from_slice(x) };
        for (to, x) in to.chunks_exact_mut(height * width).zip(x.chunks_exact(height * width)) {
            for (row, to) in to.chunks_exact_mut(width).enumerate() {
                let from = row.checked_add_signed(by[0]).filter(|&r| r < height);
                for (column, to) in to.iter_mut().enumerate() {
                    let column = if flip { width - 1 - column } else { column };
                    let column = column.checked_add_signed(by[1]).filter(|&c| c < width);
                    *to = from.zip(column).map_or(0.0, |(r, c)| x[r * width + c]);
                }
            }
        }
    }
}

/// Room for a batch of each input.
pub struct Batch(Vec<Vec<f32>>);

impl Batch {
    pub fn new(samples: &dyn Samples, batch: usize) -> Batch {
        let room = |(_, shape): &(String, Vec<usize>)| vec![0.0; batch * shape.iter().product::<usize>()];
        Batch(samples.inputs().iter().map(room).collect())
    }

    /// Reads samples into it, each changed at random.
    pub fn fill(
        &mut self,
        samples: &dyn Samples,
        picked: &[usize],
        how: &[Augment],
        random: &mut impl Iterator<Item = f64>,
    ) -> Result<()> {
        for (row, &sample) in picked.iter().enumerate() {
            let inputs = samples.read(sample)?.into_iter().zip(samples.inputs());
            for ((x, (name, shape)), to) in inputs.zip(&mut self.0) {
                let fits = x.len() == shape.iter().product::<usize>();
                let to = to.get_mut(row * x.len()..(row + 1) * x.len()).filter(|_| fits);
                let to = to.ok_or_else(|| Error::input(format!("a sample of \"{name}\" is not of its shape")))?;
                Augment::all(how, &x, to, shape, random);
            }
        }
        Ok(())
    }
}

impl std::ops::Deref for Batch {
    type Target = [Vec<f32>];

    fn deref(&self) -> &[Vec<f32>] {
        &self.0
    }
}

/// The samples that are trained with and those that are held back, each in an order of its own.
pub fn divide(count: usize, hold_back: f64, seed: u64) -> Option<[Vec<usize>; 2]> {
    let mut order: Vec<usize> = (0..count).collect();
    shuffle(&mut order, &mut noise(seed));
    let held = ((count as f64 * hold_back) as usize).max(1);
    let trained = (held < count).then(|| order.split_off(held))?;
    Some([trained, order])
}

/// Every order is as likely. (Fisher, Yates 1938.)
pub(super) fn shuffle(order: &mut [usize], random: &mut impl Iterator<Item = f64>) {
    for i in (1..order.len()).rev() {
        order.swap(i, below(i + 1, random));
    }
}

/// A random number below `n`.
fn below(n: usize, random: &mut impl Iterator<Item = f64>) -> usize {
    let share = (random.next().unwrap_or(0.0) + 1.0) / 2.0;
    ((share * n as f64) as usize).min(n - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_move() {
        let x: Vec<f32> = (1..=8).map(|v| v as f32).collect();
        let of = |how: &[Augment], random: &[f64]| {
            let mut to = vec![9.0; 8];
            Augment::all(how, &x, &mut to, &[2, 2, 2], &mut random.iter().copied());
            to
        };
        assert_eq!(of(&[], &[]), x);
        assert_eq!(of(&[Augment::Flip], &[0.5]), [2.0, 1.0, 4.0, 3.0, 6.0, 5.0, 8.0, 7.0]);
        assert_eq!(of(&[Augment::Flip], &[-0.5]), x);
        // One row down, no column aside.
        assert_eq!(of(&[Augment::Crop(1)], &[-0.9, 0.0]), [0.0, 0.0, 1.0, 2.0, 0.0, 0.0, 5.0, 6.0]);
        assert_eq!("crop:4".parse(), Ok(Augment::Crop(4)));
        assert!("turn".parse::<Augment>().unwrap_err().contains("`turn`"));
    }

    #[test]
    fn samples_are_shuffled_and_divided() {
        let [trained, held] = divide(50, 0.1, 3).unwrap();
        assert_eq!((trained.len(), held.len()), (45, 5));
        let mut all = [held, trained].concat();
        assert_ne!(all, (0..50).collect::<Vec<_>>());
        all.sort();
        assert_eq!(all, (0..50).collect::<Vec<_>>());
        assert!(divide(1, 0.1, 0).is_none());
    }
}
