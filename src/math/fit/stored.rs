//! The moments of a layer as bytes: large ones wait on disk until they are asked for again.

use super::{BiasGroup, GroupMoments, LayerMoments, Mean};
use crate::math::factored::Factored;
use crate::math::moments::Centred;
use crate::math::packed_moment::PackedMoment;
use bytemuck::Pod;
use ndarray::{Array1, Array2};
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::sync::{Arc, OnceLock};

impl LayerMoments {
    /// Writes what was seen of the layer.
    ///
    /// # Errors
    /// Those of `to`.
    pub fn write(&self, to: &mut dyn Write) -> Result<()> {
        count(to, self.samples)?;
        count(to, self.parts.len())?;
        for part in &self.parts {
            let fit: &Array2<f64> = &part.fit.xx;
            count(to, fit.nrows())?;
            // It is symmetric.
            for (i, row) in fit.rows().into_iter().enumerate() {
                numbers(to, &row.iter().take(i + 1).copied().collect::<Vec<f64>>())?;
            }
            others(to, &part.fit)?;
            count(to, part.held.xx.size())?;
            numbers(to, part.held.xx.lower())?;
            others(to, &part.held)?;
        }
        count(to, self.sets.len())?;
        for BiasGroup { samples, intercept, means } in &self.sets {
            samples.iter().try_for_each(|&n| count(to, n))?;
            count(to, usize::from(*intercept))?;
            means
                .iter()
                .flatten()
                .try_for_each(|mean| [&mean.x, &mean.y].into_iter().try_for_each(|v| vector(to, v)))?;
        }
        Ok(())
    }

    /// Reads what [`Layer::write`] wrote.
    ///
    /// # Errors
    /// Those of `from`.
    pub fn read(from: &mut dyn Read) -> Result<LayerMoments> {
        let samples = counted(from)?;
        let groups = counted(from)?;
        let part = |from: &mut dyn Read| -> Result<GroupMoments> {
            let n = counted(from)?;
            let mut fit = Array2::zeros((n, n));
            for i in 0..n {
                for (j, v) in numbers_from(from, i + 1)?.into_iter().enumerate() {
                    (fit[(i, j)], fit[(j, i)]) = (v, v);
                }
            }
            let fit = centred_from(from, n, Factored::from(fit))?;
            let n = counted(from)?;
            let held = PackedMoment::new(n, numbers_from(from, n * (n + 1) / 2)?).ok_or(ErrorKind::InvalidData)?;
            Ok(GroupMoments { fit, held: centred_from(from, n, held)? })
        };
        let parts = (0..groups).map(|_| part(from)).collect::<Result<_>>()?;
        let mean = |from: &mut dyn Read| -> Result<Mean> { Ok(Mean { x: vector_from(from)?, y: vector_from(from)? }) };
        let set = |from: &mut dyn Read| -> Result<BiasGroup> {
            let (samples, intercept) = ([counted(from)?, counted(from)?], counted(from)? != 0);
            let means = (0..groups).map(|_| Ok([mean(from)?, mean(from)?])).collect::<Result<Vec<_>>>()?;
            Ok(BiasGroup { samples, intercept, means })
        };
        let sets = (0..counted(from)?).map(|_| set(from)).collect::<Result<_>>()?;
        Ok(LayerMoments { parts, sets, samples, lambda: OnceLock::new() })
    }
}

/// What there is besides the moment of the inputs.
fn others<S>(to: &mut dyn Write, moments: &Centred<S>) -> Result<()> {
    count(to, moments.yx.nrows())?;
    moments.yx.rows().into_iter().try_for_each(|row| numbers(to, &row.to_vec()))?;
    [&moments.yy, &moments.x, &moments.y, &moments.nonzero].into_iter().try_for_each(|v| vector(to, v))
}

/// `n` inputs with their moment, and what [`others`] wrote.
fn centred_from<S>(from: &mut dyn Read, n: usize, xx: S) -> Result<Centred<S>> {
    let m = counted(from)?;
    let yx = Array2::from_shape_vec((m, n), numbers_from(from, m * n)?);
    let yx = yx.map_err(|e| Error::new(ErrorKind::InvalidData, e))?;
    let [yy, x, y, nonzero] = [vector_from(from)?, vector_from(from)?, vector_from(from)?, vector_from(from)?];
    Ok(Centred { xx: Arc::new(xx), yx, yy, x, y, nonzero })
}

fn vector(to: &mut dyn Write, v: &Array1<f64>) -> Result<()> {
    count(to, v.len())?;
    numbers(to, &v.to_vec())
}

fn vector_from(from: &mut dyn Read) -> Result<Array1<f64>> {
    let n = counted(from)?;
    Ok(Array1::from(numbers_from(from, n)?))
}

fn numbers<T: Pod>(to: &mut dyn Write, v: &[T]) -> Result<()> {
    to.write_all(bytemuck::cast_slice(v))
}

fn numbers_from<T: Pod>(from: &mut dyn Read, n: usize) -> Result<Vec<T>> {
    let mut v = vec![T::zeroed(); n];
    from.read_exact(bytemuck::cast_slice_mut(&mut v))?;
    Ok(v)
}

fn count(to: &mut dyn Write, n: usize) -> Result<()> {
    to.write_all(&(n as u64).to_le_bytes())
}

fn counted(from: &mut dyn Read) -> Result<usize> {
    let mut bytes = [0; 8];
    from.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::Moments;
    use ndarray::Array2;

    #[test]
    fn a_layer_comes_back_as_it_was() {
        let noise = |rows: usize, seed: usize| {
            Array2::from_shape_fn((rows, 30), |(i, j)| ((i * 31 + j * 17 + seed * 7) % 23) as f32 - 11.0)
        };
        let sums = |seed: usize| {
            let mut sums = Moments::new(3, 2);
            sums.add(noise(3, seed).view(), noise(2, seed + 5).view()).unwrap();
            sums
        };
        let of = |seed: usize, intercept: bool| {
            LayerMoments::new(vec![[sums(seed), sums(seed + 1)], [sums(seed + 2), sums(seed + 3)]], intercept).unwrap()
        };
        let layer = of(1, true).join(of(9, true));
        let mut bytes = Vec::new();
        layer.write(&mut bytes).unwrap();
        let mut rest = &bytes[..];
        let back = LayerMoments::read(&mut rest).unwrap();
        assert!(rest.is_empty());
        assert_eq!(format!("{layer:?}"), format!("{back:?}"));
        assert!(LayerMoments::read(&mut &bytes[..bytes.len() - 1]).is_err());
    }
}
