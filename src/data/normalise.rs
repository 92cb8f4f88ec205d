//! From raw values to what a network was trained on.

use crate::error::{Error, Result};

/// How raw values become what the network was trained on: `(x * scale - mean[c]) / std[c]`, for float inputs only.
///
/// `mean` and `std` have one value a channel, or one for all, or none (0 and 1). Channels are axis 1 of the input, or
/// its last axis if only that has as many entries.
#[derive(Debug, Clone, PartialEq)]
pub struct Normalise {
    /// The factor for raw values.
    pub scale: f64,
    /// One a channel, or one for all, or none, which is 0.
    pub mean: Vec<f32>,
    /// One a channel, or one for all, or none, which is 1.
    pub std: Vec<f32>,
}

impl Default for Normalise {
    fn default() -> Self {
        Normalise { scale: 1.0, mean: Vec::new(), std: Vec::new() }
    }
}

impl Normalise {
    /// # Errors
    /// If values are not finite, a standard deviation is 0, or there are so many means and so many deviations.
    pub fn new(scale: f64, mean: Vec<f32>, std: Vec<f32>) -> Result<Normalise> {
        let n = mean.len().max(std.len());
        let help = "give one number, or one a channel, as those that the network was trained with";
        if [mean.len(), std.len()].iter().any(|&len| len > 1 && len != n) {
            let what = format!("the mean has {} values and the standard deviation {}", mean.len(), std.len());
            return Err(Error::input(what).help(help));
        }
        if mean.iter().any(|m| !m.is_finite()) || std.iter().any(|s| !s.is_finite() || *s == 0.0) {
            return Err(Error::input("mean and standard deviation must be finite, and the latter not 0").help(help));
        }
        Ok(Normalise { scale, mean, std })
    }
}

/// Parses a scale: a number, or one number over another (`1/255`).
pub fn parse_scale(text: &str) -> Result<f64> {
    let number = |t: &str| t.trim().parse::<f64>().ok();
    let scale = match text.split_once('/') {
        Some((over, under)) => number(over).zip(number(under)).map(|(o, u)| o / u),
        None => number(text),
    };
    scale
        .filter(|s| s.is_finite() && *s != 0.0)
        .ok_or_else(|| Error::input(format!("`{text}` is not a scale")).help("write a number, as 0.5 or 1/255"))
}

/// Where the channel of an element is: `element / inner % mean.len()`.
pub(super) struct ChannelLayout {
    scale: f64,
    mean: Vec<f64>,
    std: Vec<f64>,
    inner: usize,
}

impl Normalise {
    /// For an input of each of these shapes, of which all have their channels along the same axis; `None` if nothing changes.
    /// Fails if the lengths do not fit its channels.
    pub(super) fn channels(&self, shapes: &[Vec<usize>]) -> Result<Vec<Option<ChannelLayout>>, String> {
        let Normalise { scale, mean, std } = self;
        let n = mean.len().max(std.len());
        if [mean.len(), std.len()].iter().any(|&len| len > 1 && len != n) {
            return Err(format!("mean has {} values and std has {}", mean.len(), std.len()));
        }
        if mean.iter().any(|m| !m.is_finite()) || std.iter().any(|s| !s.is_finite() || *s == 0.0) {
            return Err("mean and std must be finite, and std not zero".into());
        }
        if n == 0 && *scale == 1.0 {
            return Ok(shapes.iter().map(|_| None).collect());
        }
        let is = |axis: usize| shapes.iter().all(|shape| shape.get(axis) == Some(&n)).then_some(axis);
        let axis = match n {
            0 | 1 => None,
            _ => Some(
                is(1)
                    .or_else(|| is(shapes.first()?.len().checked_sub(1)?))
                    .ok_or_else(|| format!("mean and std have {n} values, which is not its number of channels"))?,
            ),
        };
        let fill = |values: &[f32], otherwise: f64| match values {
            [] => vec![otherwise; n.max(1)],
            [one] => vec![f64::from(*one); n.max(1)],
            _ => values.iter().map(|&v| f64::from(v)).collect(),
        };
        let channels = |shape: &Vec<usize>| ChannelLayout {
            scale: *scale,
            mean: fill(mean, 0.0),
            std: fill(std, 1.0),
            inner: axis.map_or(1, |axis| shape[axis + 1..].iter().product()),
        };
        Ok(shapes.iter().map(|shape| Some(channels(shape))).collect())
    }
}

impl ChannelLayout {
    pub(super) fn normalise(&self, values: &mut [f64]) {
        let ChannelLayout { scale, mean, std, inner } = self;
        for (i, v) in values.iter_mut().enumerate() {
            let c = i / inner % mean.len();
            *v = (*v * scale - mean[c]) / std[c];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales() {
        assert_eq!(parse_scale("1/255").unwrap(), 1.0 / 255.0);
        assert_eq!(parse_scale(" 0.0039 ").unwrap(), 0.0039);
        for bad in ["", "0", "1/0", "x", "nan", "1/2/3", "inf", "0/5"] {
            let e = parse_scale(bad).unwrap_err().to_string();
            assert!(e.contains("is not a scale"), "{e}");
        }
    }

    #[test]
    fn lengths_must_fit_the_channels() {
        let refused = |mean: &[f32], std: &[f32]| {
            let normalise = Normalise { scale: 1.0, mean: mean.to_vec(), std: std.to_vec() };
            normalise.channels(&[vec![1, 3, 2, 2]]).err().unwrap()
        };
        assert!(refused(&[0.5; 4], &[]).contains("have 4 values"));
        assert!(refused(&[0.5; 3], &[1.0; 2]).contains("mean has 3 values and std has 2"));
        assert!(refused(&[], &[0.0]).contains("std not zero"));
        assert!(refused(&[f32::NAN], &[]).contains("must be finite"));
    }

    #[test]
    fn channels_are_along_the_axis_that_fits_all_shapes() {
        // The first has as many rows as channels, and could be read either way.
        let normalise = Normalise { scale: 1.0, mean: vec![1.0, 0.0], std: vec![] };
        let channels = normalise.channels(&[vec![1, 2, 1, 2], vec![1, 3, 1, 2]]).unwrap();
        let mut values = [0.0; 4];
        channels[0].as_ref().unwrap().normalise(&mut values);
        assert_eq!(values, [-1.0, 0.0, -1.0, 0.0]);
    }

    #[test]
    fn one_value_is_for_all_channels() {
        let one = Normalise { scale: 2.0, mean: vec![1.0], std: vec![] };
        let mut values = [0.0, 1.0];
        one.channels(&[vec![1, 2, 1]]).unwrap()[0].as_ref().unwrap().normalise(&mut values);
        assert_eq!(values, [-1.0, 1.0]);
        assert!(Normalise::default().channels(&[vec![1, 2]]).unwrap()[0].is_none());
    }
}
