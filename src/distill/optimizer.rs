//! How gradients change parameters.

use crate::autodiff::Tape;
use crate::autodiff::{PIECE, Real};
use rayon::prelude::*;

/// A rule for the step along a gradient.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Method {
    /// Stochastic gradient descent with Nesterov's momentum; decay is part of the gradient. (Sutskever et al. 2013, in
    /// the form of PyTorch's `SGD`.)
    Sgd { momentum: f64 },
    /// Adam with bias correction; decay is apart from the gradient. (Loshchilov, Hutter 2019: AdamW.)
    AdamW { beta1: f64, beta2: f64, epsilon: f64 },
    /// The direction of AdamW, as long as a share of the parameter: for weights of very different scales. (You et al. 2020:
    /// LAMB.)
    Lamb { beta1: f64, beta2: f64, epsilon: f64 },
}

impl Method {
    pub const SGD: Method = Method::Sgd { momentum: 0.9 };
    pub const ADAM_W: Method = Method::AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 };
    pub const LAMB: Method = Method::Lamb { beta1: 0.9, beta2: 0.999, epsilon: 1e-12 };
}

/// A method and what it remembers of the steps so far.
#[derive(Debug, Clone)]
pub struct Optimizer<T> {
    method: Method,
    /// Share of a matrix or kernel that decays in a step of rate 1; biases and scales of normalization do not decay.
    weight_decay: f64,
    steps: i32,
    /// Running averages by parameter: of gradients, and of their squares.
    moments: Vec<[Vec<T>; 2]>,
}

impl<T: Real> Optimizer<T> {
    pub fn new(method: Method, weight_decay: f64) -> Optimizer<T> {
        Optimizer { method, weight_decay, steps: 0, moments: Vec::new() }
    }

    /// One that remembers what [`Optimizer::memory`] said of another.
    pub(super) fn with_memory(method: Method, weight_decay: f64, steps: i32, moments: Vec<[Vec<T>; 2]>) -> Self {
        Optimizer { method, weight_decay, steps, moments }
    }

    /// Steps so far, and the running averages by parameter.
    pub(super) fn memory(&self) -> (i32, &[[Vec<T>; 2]]) {
        (self.steps, &self.moments)
    }

    /// Changes the parameters of the tape by their gradients.
    pub fn step(&mut self, tape: &mut Tape<T>, rate: f64) {
        self.steps = self.steps.saturating_add(1);
        for i in 0..tape.parameters().len() {
            let decay = if tape.parameters()[i].decays() { self.weight_decay } else { 0.0 };
            let (w, g) = tape.parameter_mut(i);
            if self.moments.len() == i {
                let squares = !matches!(self.method, Method::Sgd { .. });
                self.moments.push([vec![T::ZERO; w.len()], vec![T::ZERO; if squares { w.len() } else { 0 }]]);
            }
            let [first, second] = &mut self.moments[i];
            let decay = T::of(decay);
            let pieces = w.par_chunks_mut(PIECE).zip(g.par_chunks(PIECE)).zip(first.par_chunks_mut(PIECE));
            match self.method {
                Method::Sgd { momentum } => {
                    let (rate, keep) = (T::of(rate), T::of(momentum));
                    pieces.for_each(|((w, g), first)| {
                        for ((w, &g), v) in w.iter_mut().zip(g).zip(first) {
                            let g = g + decay * *w;
                            *v = keep * *v + g;
                            *w -= rate * (g + keep * *v);
                        }
                    });
                }
                Method::AdamW { beta1, beta2, epsilon } => {
                    let (rate, adam) = (T::of(rate), Adam::new(beta1, beta2, epsilon, self.steps));
                    pieces.zip(second.par_chunks_mut(PIECE)).for_each(|(((w, g), first), second)| {
                        for (((w, &g), m), v) in w.iter_mut().zip(g).zip(first).zip(second) {
                            adam.average(m, v, g);
                            *w -= rate * decay * *w;
                            *w -= adam.step(rate, *m, *v);
                        }
                    });
                }
                Method::Lamb { beta1, beta2, epsilon } => {
                    let adam = Adam::new(beta1, beta2, epsilon, self.steps);
                    let along = |w: T, m: T, v: T| adam.step(T::ONE, m, v) + decay * w;
                    let squares: Vec<[f64; 2]> = pieces
                        .zip(second.par_chunks_mut(PIECE))
                        .map(|(((w, g), first), second)| {
                            let mut squares = [0.0; 2];
                            for (((&mut w, &g), m), v) in w.iter_mut().zip(g).zip(first).zip(second) {
                                adam.average(m, v, g);
                                squares[0] += w.wide().powi(2);
                                squares[1] += along(w, *m, *v).wide().powi(2);
                            }
                            squares
                        })
                        .collect();
                    let [weights, steps] = [0, 1].map(|i| squares.iter().map(|s| s[i]).sum::<f64>().sqrt());
                    let trust = if weights > 0.0 && steps > 0.0 { weights / steps } else { 1.0 };
                    let rate = T::of(rate * trust);
                    let pieces = w.par_chunks_mut(PIECE).zip(first.par_chunks(PIECE)).zip(second.par_chunks(PIECE));
                    pieces.for_each(|((w, first), second)| {
                        for ((w, &m), &v) in w.iter_mut().zip(first).zip(second) {
                            *w -= rate * along(*w, m, v);
                        }
                    });
                }
            }
        }
    }
}

/// Running averages with bias correction, as [`Method::AdamW`] and [`Method::Lamb`] keep them. (Kingma, Ba 2015.)
struct Adam<T> {
    beta1: T,
    beta2: T,
    /// Factors that correct averages of so few steps.
    correction1: T,
    correction2: T,
    epsilon: T,
}

impl<T: Real> Adam<T> {
    fn new(beta1: f64, beta2: f64, epsilon: f64, steps: i32) -> Adam<T> {
        let [correction1, correction2] = [beta1, beta2].map(|beta| T::of(1.0 / (1.0 - beta.powi(steps))));
        Adam { beta1: T::of(beta1), beta2: T::of(beta2), correction1, correction2, epsilon: T::of(epsilon) }
    }

    /// Takes a gradient into its averages.
    fn average(&self, first: &mut T, second: &mut T, gradient: T) {
        *first = self.beta1 * *first + (T::ONE - self.beta1) * gradient;
        *second = self.beta2 * *second + (T::ONE - self.beta2) * gradient * gradient;
    }

    /// The step of a rate, without decay.
    fn step(&self, rate: T, first: T, second: T) -> T {
        rate * (first * self.correction1) / ((second * self.correction2).sqrt() + self.epsilon)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autodiff::{Mode, weights};
    use crate::ir::text::parse;

    /// The weights of y = x w, [1, 2] at first, after three steps along the gradient [x₁ w₁, x₂ w₂] of ½ Σ y.
    fn three(method: Method, decay: f64) -> Vec<f64> {
        let text = "model m opset 17 {
            const %x : f64[1,2] = {0.5,-1} const %w : f64[2,1] = {1,2}
            %y : f64[1,1] = MatMul(%x, %w)
            output %y
        }";
        let graph = parse::model(text).unwrap().graph;
        let trainable = weights(&graph).into_iter().filter(|&v| graph.value(v).name == "w").collect();
        let mut tape = Tape::new(&graph, &[], graph.outputs(), &trainable).unwrap();
        let mut optimizer = Optimizer::new(method, decay);
        for _ in 0..3 {
            tape.forward(Mode::Train);
            tape.backward(&[vec![1.0]]);
            optimizer.step(&mut tape, 0.1);
        }
        tape.parameter(0).to_vec()
    }

    #[test]
    fn steps() {
        let close = |a: Vec<f64>, b: [f64; 2]| assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-7), "{a:?}");
        // g = [0.5, −1]; v = g, 1.9 g, 2.71 g; w −= 0.1 (g + 0.9 v)
        let along = 0.1 * (3.0 + 0.9 * (1.0 + 1.9 + 2.71));
        close(three(Method::SGD, 0.0), [1.0 - 0.5 * along, 2.0 + along]);
        // A constant gradient: steps of the rate, by sign.
        close(three(Method::ADAM_W, 0.0), [0.7, 2.3]);
        // As long as a tenth of the weights, along the signs.
        let along = |[a, b]: [f64; 2]| {
            let step = 0.1 * (a * a + b * b).sqrt() / 2f64.sqrt();
            [a - step, b + step]
        };
        close(three(Method::LAMB, 0.0), (0..3).fold([1.0, 2.0], |w, _| along(w)));
        let decayed = |w: f64, step: f64| (0..3).fold(w, |w, _| w * 0.99 - step);
        close(three(Method::ADAM_W, 0.1), [decayed(1.0, 0.1), decayed(2.0, -0.1)]);
    }
}
