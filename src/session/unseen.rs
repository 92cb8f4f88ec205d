//! Layers that calibration data is of no use at.

/// Why the data is of no use at a layer that would have been fitted.
#[derive(Clone, PartialEq)]
#[cfg_attr(not(feature = "exec"), allow(dead_code))]
pub(super) enum Unseen {
    /// Numbers on it are not finite there.
    NotFinite,
    /// tract cannot run what is before the layer, and why.
    NotRun(String),
}

/// A warning of layers that the data was of no use at for the same reason.
pub(super) fn unfitted(place: &str, unseen: &[(String, Unseen)]) -> Vec<String> {
    let mut kinds: Vec<(&Unseen, Vec<&str>)> = Vec::new();
    for (layer, why) in unseen {
        match kinds.iter_mut().find(|kind| kind.0 == why) {
            Some(kind) => kind.1.push(layer),
            None => kinds.push((why, vec![layer])),
        }
    }
    let warning = |(why, layers): (&Unseen, Vec<&str>)| {
        let others = match layers.len() - 1 {
            0 => String::new(),
            1 => " and 1 other layer".into(),
            n => format!(" and {n} other layers"),
        };
        let layers = format!("\"{}\"{others}", layers[0]);
        match why {
            Unseen::NotFinite => format!(
                "{place}: on the calibration data numbers at {layers} are not finite, so nothing was fitted to it there: is \
                 the data scaled as the network takes it?"
            ),
            Unseen::NotRun(why) => format!("{place}: {layers} could not be fitted to the calibration data: {why}"),
        }
    };
    kinds.into_iter().map(warning).collect()
}
