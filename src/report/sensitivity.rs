//! What choices at single layers cost a model: as text, as a page with a heat-map, and how far what was predicted of them holds.

use super::diff::table;
use super::html::Page;
use crate::figures;
use crate::passes::Choice;
use crate::plain;
use serde::Serialize;

/// One choice at one site, alone.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sensitivity {
    /// The layer, or the first of those that share what is changed.
    pub layer: String,
    /// The pass that does it.
    pub pass: &'static str,
    /// What it does.
    pub choice: Choice,
    /// The share of the variance of the layer's output that is lost, as it is predicted.
    pub predicted: f64,
    /// What the model's output loses: as a search counts it, and in the terms of `--max-drop`.
    pub loss: f64,
    /// As a share: 0.01 is one point.
    pub drop: f64,
}

/// All that was tried at the layers of a model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SensitivityReport {
    /// The model's file name.
    pub model: String,
    /// Samples that layers were fitted to, and that the model was judged by.
    pub fit_samples: usize,
    /// Samples that the model was judged by.
    pub choose_samples: usize,
    /// Spearman's rank correlation of what is predicted and what the output loses, where both differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rank_correlation: Option<f64>,
    /// What was tried, layer by layer.
    pub choices: Vec<Sensitivity>,
}

impl SensitivityReport {
    /// Of what was tried, with samples that layers were fitted to and that the model was judged by.
    pub fn new(model: String, [fit_samples, choose_samples]: [usize; 2], choices: Vec<Sensitivity>) -> Self {
        SensitivityReport { model, fit_samples, choose_samples, rank_correlation: correlation(&choices), choices }
    }

    /// A table of so many columns, and what it is worth.
    pub fn text(&self, width: u16) -> String {
        let rows = self.choices.iter().map(|s| {
            let done = format!("{} {}", s.pass, words(&s.choice));
            [s.layer.clone(), done, share(s.predicted), nats(s.loss), points(s.drop)]
        });
        table(&["layer", "done", "layer loses", "output loses", "drop"], rows, width) + "\n" + &self.summary() + "\n"
    }

    fn summary(&self) -> String {
        let samples = format!("fitted to {} samples, judged by {} others", self.fit_samples, self.choose_samples);
        match self.rank_correlation {
            Some(r) => format!("rank correlation of the two losses {r:.2}; {samples}"),
            None => samples,
        }
    }

    /// A page that needs nothing else: layers by passes, each cell as warm as the output loses for what the layer loses.
    pub fn html(&self) -> String {
        let mut page = Page::new(&format!("What the layers of {} can do without", self.model));
        page.put(&format!("<p>{}.</p>\n", plain::html(&self.summary())));
        let mut columns: Vec<(&str, usize)> = Vec::new();
        let mut layers: Vec<&str> = Vec::new();
        let mut cells: Vec<(usize, usize, &Sensitivity)> = Vec::new();
        for s in &self.choices {
            let row = position(&mut layers, s.layer.as_str());
            let nth = cells.iter().filter(|c| c.0 == row && c.2.pass == s.pass).count();
            cells.push((row, position(&mut columns, (s.pass, nth)), s));
        }
        let most = self.choices.iter().map(|s| s.loss).filter(|l| l.is_finite()).fold(f64::MIN_POSITIVE, f64::max);
        page.put("<section>\n<h2>What the output loses</h2>\n<div class=\"scroll\">\n<table>\n<thead><tr><th>layer");
        columns.iter().for_each(|c| page.put(&format!("<th>{}", plain::html(c.0))));
        page.put("</tr></thead>\n<tbody>\n");
        for (row, layer) in layers.iter().enumerate() {
            page.put(&format!("<tr><td>{}", plain::html(layer)));
            for column in 0..columns.len() {
                match cells.iter().find(|c| (c.0, c.1) == (row, column)) {
                    None => page.put("<td>"),
                    Some((_, _, s)) => {
                        let heat = (s.loss.max(0.0) / most).min(1.0).sqrt();
                        let words = plain::html(&words(&s.choice));
                        page.put(&format!(
                            "<td class=\"number heat\" style=\"--heat:{heat:.2}\">{}<br><small>{words}</small>",
                            nats(s.loss)
                        ));
                    }
                }
            }
            page.put("</tr>\n");
        }
        page.put("</tbody>\n</table>\n</div>\n</section>\n");
        let row = |s: &Sensitivity| {
            let done = format!("{} {}", s.pass, words(&s.choice));
            [s.layer.clone(), done, share(s.predicted), nats(s.loss), points(s.drop)]
        };
        let rows: Vec<_> = self.choices.iter().map(row).collect();
        page.folded("The numbers", &["layer", "done", "layer loses", "output loses", "drop"], &rows, false);
        page.end()
    }
}

/// Where a value is in a list, to which it is added if it is not there.
fn position<T: PartialEq>(list: &mut Vec<T>, value: T) -> usize {
    list.iter().position(|v| *v == value).unwrap_or_else(|| {
        list.push(value);
        list.len() - 1
    })
}

fn share(loss: f64) -> String {
    format!("{:.2} %", 100.0 * loss)
}

fn nats(loss: f64) -> String {
    format!("{loss:.4}").replace('-', "−")
}

fn points(drop: f64) -> String {
    figures::points(drop, 0.0)
}

fn words(choice: &Choice) -> String {
    match choice {
        Choice::Units(units) => format!("{units} units"),
        Choice::LowRank(rank) => format!("rank {rank}"),
        Choice::Inputs(inputs) => format!("{inputs} inputs"),
        Choice::Factored { scheme, rank } => format!("rank {rank}, {}", scheme.name()),
        Choice::Separable { order, terms } => format!("{terms} terms, {}", order.name()),
        Choice::Levels(levels) => format!("{levels} levels"),
        Choice::Vectors { levels, length } => format!("{levels} vectors of {length}"),
        Choice::Sparsity(share) => format!("{:.0} % zeros", 100.0 * share),
    }
}

/// `None` where one of them does not differ.
fn correlation(of: &[Sensitivity]) -> Option<f64> {
    let [a, b] = [|s: &Sensitivity| s.predicted, |s: &Sensitivity| s.loss].map(|value| ranks(of.iter().map(value)));
    let mean = (of.len() as f64 - 1.0) / 2.0;
    let product = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| (x - mean) * (y - mean)).sum::<f64>();
    let scale = (product(&a, &a) * product(&b, &b)).sqrt();
    (scale > 0.0).then(|| product(&a, &b) / scale)
}

/// The place of each value among all, from 0; those that are equal have the mean of their places.
fn ranks(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let values: Vec<f64> = values.collect();
    let place = |v: &f64| {
        let less = values.iter().filter(|other| other.total_cmp(v).is_lt()).count();
        let equal = values.iter().filter(|other| other.total_cmp(v).is_eq()).count();
        less as f64 + (equal as f64 - 1.0) / 2.0
    };
    values.iter().map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(layer: &str, predicted: f64, loss: f64) -> Sensitivity {
        let choice = Choice::Levels(4);
        Sensitivity { layer: layer.into(), pass: choice.pass(), choice, predicted, loss, drop: 0.0 }
    }

    #[test]
    fn correlation_is_of_ranks() {
        let of = |pairs: &[(f64, f64)]| correlation(&pairs.iter().map(|p| pair("l", p.0, p.1)).collect::<Vec<_>>());
        assert_eq!(of(&[(0.1, 1.0), (0.2, 10.0), (0.3, 1000.0)]), Some(1.0));
        assert_eq!(of(&[(0.1, 3.0), (0.2, 2.0), (0.3, 1.0)]), Some(-1.0));
        // By hand: places 0 1 2 3 and 0.5 0.5 2 3, whose deviations multiply to 4.5, and squared sum to 5 and 4.5.
        let tied = of(&[(1.0, 5.0), (2.0, 5.0), (3.0, 6.0), (4.0, 7.0)]).unwrap();
        assert!((tied - 4.5 / (5.0f64 * 4.5).sqrt()).abs() < 1e-12, "{tied}");
        assert_eq!(of(&[(0.1, 1.0)]), None);
    }

    #[test]
    fn every_choice_is_in_every_view() {
        let choices = vec![pair("conv<1>", 0.02, 0.01), pair("conv<1>", 0.2, 0.3), pair("fc", 0.1, f64::INFINITY)];
        let report = SensitivityReport::new("net.onnx".into(), [8, 9], choices);
        let (text, html) = (report.text(80), report.html());
        assert!(text.lines().all(|l| l.chars().count() <= 80) && text.contains("20.00 %"), "{text}");
        assert_eq!(html.matches("class=\"number heat\"").count(), 3);
        assert!(html.contains("conv&lt;1&gt;") && html.ends_with("</html>\n"));
    }
}
