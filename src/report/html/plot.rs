//! Plots as inline SVG, in the colours of the page's style sheet.

use crate::plain;
use std::fmt::Write;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 260.0;
/// Room for the axes: left, right, top, bottom.
const MARGIN: [f64; 4] = [56.0, 12.0, 30.0, 36.0];
/// Ticks of an axis, about.
const TICKS: f64 = 5.0;

/// A plot of points.
pub struct Plot<'a> {
    pub label: &'a str,
    pub x: &'a str,
    pub y: &'a str,
    /// Whether points are joined by a line.
    pub joined: bool,
}

pub struct Series<'a> {
    pub name: &'a str,
    pub points: Vec<(f64, f64)>,
}

/// Two bars, one below the other, of these shares of the width.
pub fn bars(before: f64, after: f64) -> String {
    let width = |share: f64| if share > 0.0 { (100.0 * share).max(0.5) } else { 0.0 };
    format!(
        "<svg class=\"bars\" viewBox=\"0 0 100 10\" preserveAspectRatio=\"none\" aria-hidden=\"true\">\
         <rect class=\"before\" width=\"{:.1}\" height=\"4.5\"/><rect class=\"after\" y=\"5.5\" width=\"{:.1}\" \
         height=\"4.5\"/></svg>",
        width(before),
        width(after)
    )
}

impl Plot<'_> {
    /// The plot, or nothing if there are no points. What is not finite is left out.
    pub fn svg(&self, series: &[Series<'_>]) -> String {
        let finite = |s: &Series<'_>| -> Vec<(f64, f64)> {
            s.points.iter().copied().filter(|p| p.0.is_finite() && p.1.is_finite()).collect()
        };
        let series: Vec<_> = series.iter().enumerate().map(|(i, s)| (i, s.name, finite(s))).collect();
        let series: Vec<_> = series.into_iter().filter(|s| !s.2.is_empty()).collect();
        let all = || series.iter().flat_map(|s| &s.2);
        if all().next().is_none() {
            return String::new();
        }
        let (xs, ys) = (PlotAxis::over(all().map(|p| p.0)), PlotAxis::over(all().map(|p| p.1)));
        let [left, right, top, bottom] = MARGIN;
        let x = |v: f64| left + xs.at(v) * (WIDTH - left - right);
        let y = |v: f64| HEIGHT - bottom - ys.at(v) * (HEIGHT - top - bottom);
        let mut svg = format!(
            "<svg class=\"plot\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">\n",
            plain::html(self.label)
        );
        for v in ys.ticks() {
            let (at, text) = (y(v), ys.text(v));
            let _ = writeln!(
                svg,
                "<path class=\"axis\" d=\"M{left:.1} {at:.1}H{:.1}\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>",
                WIDTH - right,
                left - 6.0,
                at + 4.0
            );
        }
        for v in xs.ticks() {
            let (at, text) = (x(v), xs.text(v));
            let below = HEIGHT - bottom + 16.0;
            let _ = writeln!(svg, "<text x=\"{at:.1}\" y=\"{below:.1}\" text-anchor=\"middle\">{text}</text>");
        }
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text><text x=\"4\" y=\"14\">{}</text>",
            WIDTH - right,
            HEIGHT - 4.0,
            plain::html(self.x),
            plain::html(self.y)
        );
        let mut key = left + 40.0;
        for (i, name, points) in &series {
            let _ = writeln!(
                svg,
                "<circle class=\"d{i}\" cx=\"{key:.1}\" cy=\"10\" r=\"4\"/><text x=\"{:.1}\" y=\"14\">{}</text>",
                key + 8.0,
                plain::html(name)
            );
            key += 40.0 + 7.0 * name.chars().count() as f64;
            if self.joined {
                let line: Vec<String> = points.iter().map(|p| format!("{:.1},{:.1}", x(p.0), y(p.1))).collect();
                let _ = writeln!(svg, "<polyline class=\"s{i}\" points=\"{}\"/>", line.join(" "));
            }
            for p in points {
                let _ = writeln!(svg, "<circle class=\"d{i}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\"/>", x(p.0), y(p.1));
            }
        }
        svg.push_str("</svg>\n");
        svg
    }
}

/// A range of numbers, with ticks at round ones.
struct PlotAxis {
    from: f64,
    to: f64,
    step: f64,
}

impl PlotAxis {
    fn over(values: impl Iterator<Item = f64>) -> PlotAxis {
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        let span = if high > low { high - low } else { low.abs().max(1.0) };
        let rough = span / TICKS;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|&s| s >= rough).unwrap_or(rough);
        PlotAxis {
            from: (low / step).floor() * step,
            to: ((high / step).ceil() * step).max((low / step).floor() * step + step),
            step,
        }
    }

    /// Where a number is, from 0 to 1.
    fn at(&self, v: f64) -> f64 {
        (v - self.from) / (self.to - self.from)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> + '_ {
        let count = ((self.to - self.from) / self.step).round() as usize;
        (0..=count).map(|i| self.from + i as f64 * self.step)
    }

    fn text(&self, v: f64) -> String {
        let decimals = (-self.step.log10().floor()).clamp(0.0, 8.0) as usize;
        format!("{v:.decimals$}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_hold_all_points() {
        let axis = PlotAxis::over([0.13, 0.87].into_iter());
        let texts: Vec<String> = axis.ticks().map(|v| axis.text(v)).collect();
        assert_eq!(texts, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        let one = PlotAxis::over([3.0].into_iter());
        assert!(one.at(3.0) >= 0.0 && one.at(3.0) <= 1.0);
    }

    #[test]
    fn what_is_no_number_is_left_out() {
        let plot = Plot { label: "l", x: "x", y: "y", joined: true };
        let svg = plot.svg(&[Series { name: "a<", points: vec![(0.0, 1.0), (1.0, f64::NAN), (2.0, 3.0)] }]);
        assert!(svg.contains("a&lt;") && !svg.contains("NaN"), "{svg}");
        assert_eq!(svg.matches("r=\"3\"").count(), 2);
        assert_eq!(plot.svg(&[Series { name: "a", points: Vec::new() }]), "");
    }
}
