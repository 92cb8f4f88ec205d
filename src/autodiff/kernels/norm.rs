//! Normalization. (ONNX Operators: BatchNormalization, LayerNormalization, RMSNormalization; Ioffe, Szegedy 2015.)

use crate::autodiff::kernel::{Backward, Keeps, Kernel, Mode, Scratch};
use crate::autodiff::program::Lowering;
use crate::autodiff::real::{PIECES, Real, sums, sums_of};
use crate::autodiff::vectors::widest;
use crate::ir::ValueId;
use crate::ir::infer::axis;
use crate::ir::op::norm::{BatchNorm as BatchOp, LayerNorm as LayerOp};
use crate::ir::tensor::Tensor;
use rayon::prelude::*;

pub fn batch<T: Real>(node: &mut Lowering<'_, '_, T>, op: &BatchOp) -> Result<(), String> {
    let x = node.dims(0)?;
    if op.training {
        return Err("it is in training mode: export the network for inference".into());
    }
    if !op.spatial || x.len() < 2 {
        return Err("it is not a normalization by channel with running statistics".into());
    }
    let mut running = Vec::new();
    for slot in [3, 4] {
        let values = node.content(slot).as_ref().and_then(Tensor::floats).filter(|v| v.len() == x[1]);
        let values = values.ok_or("its statistics are no constants")?;
        running.push(values.into_iter().map(T::of).collect::<Vec<_>>());
    }
    let [Some(variance), Some(mean)] = [running.pop(), running.pop()] else {
        return Err("it has no statistics".into());
    };
    let trains = node.trains(1) || node.trains(2);
    let statistics = node.value(3).zip(node.value(4)).filter(|_| trains);
    let statistics = statistics.map(|(mean, variance)| [mean, variance]);
    if let Some(values) = statistics {
        let shared = |v: &ValueId| node.graph().readers(*v).count() > 1 || node.graph().value(*v).constant().is_none();
        if values.iter().any(shared) {
            return Err("its running statistics are not constants of its own".into());
        }
    }
    let inputs = [node.read(0)?, node.read(1)?, node.read(2)?];
    let norm = BatchNormKernel {
        images: x[0],
        channels: x[1],
        plane: x[2..].iter().product(),
        epsilon: T::of(op.epsilon.into()),
        momentum: T::of(op.momentum.into()),
        statistics,
        mean,
        variance,
        used: vec![[T::ZERO; 2]; x[1]],
        of_batch: false,
        limits: None,
    };
    node.emit(norm, &inputs)
}

/// Y = (X − mean) / √(variance + ε) · scale + bias, by channel, clamped if there are `limits`. In training mean and
/// variance are the batch's, if scale or bias train, else the running ones.
struct BatchNormKernel<T> {
    images: usize,
    channels: usize,
    plane: usize,
    epsilon: T,
    momentum: T,
    /// The constants that the running statistics come from, if they are to be updated.
    statistics: Option<[ValueId; 2]>,
    mean: Vec<T>,
    variance: Vec<T>,
    /// Mean and 1 / √(variance + ε) of each channel in the last forward pass, and whether they were the batch's.
    used: Vec<[T; 2]>,
    of_batch: bool,
    limits: Option<[T; 2]>,
}

impl<T: Real> BatchNormKernel<T> {
    /// The planes of a channel.
    fn planes<'a>(&self, x: &'a [T], channel: usize) -> impl Iterator<Item = &'a [T]> {
        let (plane, step) = (self.plane, self.channels * self.plane);
        (0..self.images).map(move |i| &x[i * step + channel * plane..][..plane])
    }

    /// Mean and variance of a channel, in one pass over it: of what its elements have more than its first plane's mean.
    fn moments(&self, x: &[T], channel: usize) -> [T; 2] {
        let first = &x[channel * self.plane..][..self.plane];
        let near = sums(first, first, |x, _| [x])[0] / T::of(self.plane as f64);
        let planes = self.planes(x, channel).map(|x| (x, x));
        let totals = sums_of(planes, |x, _| [x - near, (x - near) * (x - near)]);
        let [more, square] = totals.map(|v| v / self.count());
        let variance = square - more * more;
        [near + more, if variance < T::ZERO { T::ZERO } else { variance }]
    }

    /// What a channel does to its elements before the clamp: a x + b.
    fn line(&self, scale: &[T], bias: &[T], channel: usize) -> [T; 2] {
        let [mean, by] = self.used[channel];
        let a = scale[channel] * by;
        [a, bias[channel] - mean * a]
    }

    fn count(&self) -> T {
        T::of((self.images * self.plane) as f64)
    }
}

impl<T: Real> Kernel<T> for BatchNormKernel<T> {
    fn keeps(&self) -> Keeps {
        Keeps { inputs: 0b111, output: false }
    }

    /// Two sums a channel.
    fn scratch(&self) -> Scratch {
        Scratch { forward: 0, backward: 2 * self.channels }
    }

    fn clamp(&mut self, low: T, high: T) -> bool {
        let first = self.limits.is_none();
        self.limits = self.limits.or(Some([low, high]));
        first
    }

    fn statistics(&mut self) -> Vec<(ValueId, &mut Vec<T>)> {
        let Some([mean, variance]) = self.statistics else { return Vec::new() };
        vec![(mean, &mut self.mean), (variance, &mut self.variance)]
    }

    fn forward(&mut self, x: &[&[T]], y: &mut [T], _: &mut [T], mode: Mode) {
        let (scale, bias, x) = (x[1], x[2], x[0]);
        self.of_batch = mode == Mode::Train && self.statistics.is_some();
        let mut used = std::mem::take(&mut self.used);
        if self.of_batch {
            used.par_iter_mut().enumerate().for_each(|(c, used)| *used = self.moments(x, c));
            let keep = self.momentum;
            for (c, [mean, variance]) in used.iter().enumerate() {
                self.mean[c] = keep * self.mean[c] + (T::ONE - keep) * *mean;
                self.variance[c] = keep * self.variance[c] + (T::ONE - keep) * *variance;
            }
        } else {
            used.iter_mut().enumerate().for_each(|(c, used)| *used = [self.mean[c], self.variance[c]]);
        }
        used.iter_mut().for_each(|[_, variance]| *variance = T::ONE / (*variance + self.epsilon).sqrt());
        self.used = used;
        let (image, limits) = (self.channels * self.plane, self.limits);
        y.par_chunks_mut(image).zip(x.par_chunks(image)).for_each(|(y, x)| {
            let planes = y.chunks_exact_mut(self.plane).zip(x.chunks_exact(self.plane));
            for (c, (y, x)) in planes.enumerate() {
                let [a, b] = self.line(scale, bias, c);
                let values = y.iter_mut().zip(x);
                widest(
                    #[inline(always)]
                    move |_| match limits {
                        None => values.for_each(|(y, &x)| *y = a * x + b),
                        Some([low, high]) => values.for_each(|(y, &x)| *y = (a * x + b).within(low, high)),
                    },
                );
            }
        });
    }

    /// dx = scale / √(variance + ε) · (dy − mean(dy) − x̂ mean(dy x̂)); the means are missing from statistics that do
    /// not depend on x.
    fn backward(&mut self, back: Backward<'_, T>) {
        let Backward { x, dy, dx, scratch, .. } = back;
        let (scale, bias, x) = (x[1], x[2], x[0]);
        let limits = self.limits;
        let this = &*self;
        scratch.par_chunks_mut(2).enumerate().for_each(|(c, total)| {
            let ([mean, by], line) = (this.used[c], this.line(scale, bias, c));
            let planes = this.planes(x, c).zip(this.planes(dy, c));
            let slopes = move |x: T, d: T| [d, d * (x - mean)];
            let [all, along] = match limits {
                None => sums_of(planes, slopes),
                Some(limits) => {
                    let passed = passed(line, limits);
                    sums_of(planes, move |x, d| slopes(x, passed(x, d)))
                }
            };
            total.copy_from_slice(&[all, along * by]);
        });
        let totals = &*scratch;
        let mut dx = dx.into_iter();
        if let Some(dx) = dx.next().flatten() {
            let (image, fresh, count) = (this.channels * this.plane, dx.fresh, this.count());
            let ends = x.par_chunks(image).zip(dy.par_chunks(image));
            dx.to.par_chunks_mut(image).zip(ends).for_each(|(dx, (x, dy))| {
                for (c, dx) in dx.chunks_exact_mut(this.plane).enumerate() {
                    let ([mean, by], line) = (this.used[c], this.line(scale, bias, c));
                    let share = if this.of_batch { T::ONE / count } else { T::ZERO };
                    let (a, b, slope) = (scale[c] * by, totals[2 * c] * share, totals[2 * c + 1] * share * by);
                    let at = c * this.plane..(c + 1) * this.plane;
                    let (x, dy) = (&x[at.clone()], &dy[at]);
                    let term = move |x: T, d: T| a * (d - b - (x - mean) * slope);
                    widest(
                        #[inline(always)]
                        move |_| match limits {
                            None => steer(dx, x, dy, fresh, term),
                            Some(limits) => {
                                let passed = passed(line, limits);
                                steer(dx, x, dy, fresh, move |x, d| term(x, passed(x, d)))
                            }
                        },
                    );
                }
            });
        }
        for (which, to) in [1, 0].into_iter().zip(dx).filter_map(|(which, to)| Some((which, to?))) {
            to.zeroed().iter_mut().zip(totals.iter().skip(which).step_by(2)).for_each(|(to, &t)| *to += t);
        }
    }
}

/// dy, where a x + b lies between the limits, else 0.
#[inline(always)]
fn passed<T: Real>([a, b]: [T; 2], [low, high]: [T; 2]) -> impl Fn(T, T) -> T + Copy {
    move |x, d| {
        let y = a * x + b;
        if (y > low) & (y < high) { d } else { T::ZERO }
    }
}

/// dx = f(x, dy), or dx + f(x, dy) unless it is `fresh`.
#[inline(always)]
fn steer<T: Real>(dx: &mut [T], x: &[T], dy: &[T], fresh: bool, f: impl Fn(T, T) -> T) {
    let terms = x.iter().zip(dy).map(|(&x, &d)| f(x, d));
    if fresh {
        dx.iter_mut().zip(terms).for_each(|(dx, t)| *dx = t);
    } else {
        dx.iter_mut().zip(terms).for_each(|(dx, t)| *dx += t);
    }
}

pub fn layer<T: Real>(node: &mut Lowering<'_, '_, T>, op: &LayerOp) -> Result<(), String> {
    let x = node.dims(0)?;
    let len: usize = x[axis(op.axis, x.len())?..].iter().product();
    let mut inputs = vec![node.read(0)?];
    for slot in [1, 2] {
        if node.has(slot) {
            if node.dims(slot)?.iter().product::<usize>() != len {
                return Err("its scale or bias is broadcast".into());
            }
            inputs.push(node.read(slot)?);
        }
    }
    let rows = x.iter().product::<usize>() / len;
    let used = vec![[T::ZERO; 2]; rows];
    node.emit(LayerNormKernel { len, epsilon: T::of(op.epsilon.into()), centred: !op.rms, used }, &inputs)
}

/// Y = (X − mean) / √(variance + ε) · scale + bias, by rows of `len`; without `centred`, the mean stays and the mean
/// square is the variance.
struct LayerNormKernel<T> {
    len: usize,
    epsilon: T,
    centred: bool,
    /// Mean and 1 / √(variance + ε) of each row in the last forward pass.
    used: Vec<[T; 2]>,
}

impl<T> LayerNormKernel<T> {
    /// Rows of a piece of work on the gradients by scale and bias.
    fn piece(&self) -> usize {
        self.used.len().div_ceil(PIECES)
    }
}

impl<T: Real> Kernel<T> for LayerNormKernel<T> {
    fn keeps(&self) -> Keeps {
        Keeps { inputs: 0b11, output: false }
    }

    fn scratch(&self) -> Scratch {
        Scratch { forward: 0, backward: self.used.len().div_ceil(self.piece()) * self.len }
    }

    fn forward(&mut self, x: &[&[T]], y: &mut [T], _: &mut [T], _: Mode) {
        let (scale, bias, n) = (x[1], x.get(2), T::of(self.len as f64));
        let rows = y.par_chunks_mut(self.len).zip(x[0].par_chunks(self.len)).zip(&mut self.used);
        rows.for_each(|((y, x), used)| {
            let mean = if self.centred { sums(x, x, |x, _| [x])[0] / n } else { T::ZERO };
            let variance = sums(x, x, |x, _| [(x - mean) * (x - mean)])[0] / n;
            let by = T::ONE / (variance + self.epsilon).sqrt();
            *used = [mean, by];
            y.iter_mut().zip(x.iter().zip(scale)).for_each(|(y, (&x, &scale))| *y = (x - mean) * by * scale);
            bias.into_iter().for_each(|bias| y.iter_mut().zip(*bias).for_each(|(y, &b)| *y += b));
        });
    }

    fn backward(&mut self, back: Backward<'_, T>) {
        let Backward { x, dy, dx, scratch, .. } = back;
        let (scale, x, len, n) = (x[1], x[0], self.len, T::of(self.len as f64));
        let mut dx = dx.into_iter();
        if let Some(dx) = dx.next().flatten() {
            let fresh = dx.fresh;
            let rows = x.par_chunks(len).zip(dy.par_chunks(len)).zip(&self.used);
            dx.to.par_chunks_mut(len).zip(rows).for_each(|(dx, ((x, dy), &[mean, by]))| {
                let (mut total, mut along) = (T::ZERO, T::ZERO);
                for ((&x, &d), &s) in x.iter().zip(dy).zip(scale) {
                    total += d * s;
                    along += d * s * (x - mean) * by;
                }
                let total = if self.centred { total / n } else { T::ZERO };
                for ((dx, (&x, &d)), &s) in dx.iter_mut().zip(x.iter().zip(dy)).zip(scale) {
                    let term = by * (d * s - total - (x - mean) * by * along / n);
                    *dx = if fresh { term } else { *dx + term };
                }
            });
        }
        let piece = self.piece();
        for (of_scale, to) in [true, false].into_iter().zip(dx).filter_map(|(which, to)| Some((which, to?))) {
            let pieces = x.par_chunks(piece * len).zip(dy.par_chunks(piece * len)).zip(self.used.par_chunks(piece));
            scratch.par_chunks_mut(len).zip(pieces).for_each(|(total, ((x, dy), used))| {
                total.fill(T::ZERO);
                for ((x, dy), &[mean, by]) in x.chunks_exact(len).zip(dy.chunks_exact(len)).zip(used) {
                    for (total, (&x, &d)) in total.iter_mut().zip(x.iter().zip(dy)) {
                        *total += if of_scale { d * (x - mean) * by } else { d };
                    }
                }
            });
            to.add_partial(scratch, len);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::autodiff::testing::{check, check_with};
    use crate::autodiff::{Mode, Tape, weights};
    use crate::ir::text::parse;

    /// Without the running statistics among what is checked.
    fn batch(x: &str, c: usize, after: &str) {
        let constants = ["s", "b", "m"].iter().enumerate();
        let constants: String = constants.map(|(i, n)| format!("const %{n} : f64[{c}] = seed({}) ", i + 2)).collect();
        let ones = vec!["1.5"; c].join(",");
        let body = format!(
            "const %x : f64[{x}] = seed(1) {constants} const %v : f64[{c}] = {{{ones}}}
             %z : ? = BatchNormalization(%x, %s, %b, %m, %v) {after}"
        );
        for mode in [Mode::Train, Mode::Infer] {
            check_with(15, &body, mode, &["x", "s", "b"]);
            check_with(15, &body, mode, &["x"]);
        }
    }

    #[test]
    fn by_channel() {
        batch("3,2,4,5", 2, "%y : ? = Identity(%z)");
        batch("5,3", 3, "%y : ? = Identity(%z)");
        batch("4,2,3", 2, "%y : ? = Mul(%z, %z)");
    }

    #[test]
    fn with_a_clamp() {
        batch("3,2,4,5", 2, "%y : ? = Relu(%z)");
        let limits = "const %l : f64[] = {-0.3} const %h : f64[] = {0.4}";
        batch("3,2,4,5", 2, &format!("{limits} %y : ? = Clip(%z, %l, %h)"));
        // Somebody else reads what would be clamped.
        batch("3,2,4,5", 2, "%r : ? = Relu(%z) %y : ? = Add(%r, %z)");
    }

    #[test]
    fn running_statistics_follow_the_batch() {
        let text = "model m opset 15 {
            input %x : f64[4,1]
            const %s : f64[1] = {1} const %b : f64[1] = {0} const %m : f64[1] = {1} const %v : f64[1] = {1}
            %y : f64[4,1] = BatchNormalization(%x, %s, %b, %m, %v)
            output %y
        }";
        let mut graph = parse::model(text).unwrap().graph;
        let mut tape = Tape::<f64>::new(&graph, &[], graph.outputs(), &weights(&graph)).unwrap();
        tape.input_mut(0).copy_from_slice(&[1.0, 2.0, 3.0, 6.0]);
        let before = tape.state();
        tape.forward(Mode::Train);
        tape.store(&mut graph).unwrap();
        let read =
            |g: &crate::ir::Graph, n: &str| g.value(g.find_value(n).unwrap()).constant().unwrap().floats().unwrap();
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-6, "{a} {b}");
        close(read(&graph, "m")[0], 0.9 + 0.1 * 3.0);
        close(read(&graph, "v")[0], 0.9 + 0.1 * 3.5);
        tape.restore(&before);
        tape.store(&mut graph).unwrap();
        assert_eq!((read(&graph, "m")[0], read(&graph, "v")[0]), (1.0, 1.0));
    }

    #[test]
    fn by_row() {
        let x = "const %x : f64[2,3,4] = seed(1)";
        let one = "const %s : f64[4] = seed(2) const %b : f64[4] = seed(3)";
        check(17, &format!("{x} {one} %y : ? = LayerNormalization(%x, %s, %b)"));
        let two = "const %s : f64[3,4] = seed(2)";
        check(17, &format!("{x} {two} %y : ? = LayerNormalization<axis=1>(%x, %s)"));
        check(23, &format!("{x} {one} %y : ? = RMSNormalization(%x, %s)"));
        let many = "const %x : f64[20,5] = seed(1) const %s : f64[5] = seed(2)";
        check(17, &format!("{many} %y : ? = LayerNormalization<epsilon=0.01>(%x, %s)"));
    }
}
