//! Every family of operators on random shapes, strides, groups and broadcasts: its gradients against finite differences.

use super::testing::check;
use crate::ir::random::noise;
use std::fmt::Display;

/// Random shapes of a family.
const CASES: u64 = 60;

/// Random numbers, the same in every run.
struct Dice(Box<dyn Iterator<Item = f64>>);

impl Dice {
    /// A number of `low..=high`.
    fn roll(&mut self, low: usize, high: usize) -> usize {
        let x = self.0.next().expect("noise has no end");
        low + (((x + 1.0) / 2.0 * (high - low + 1) as f64) as usize).min(high - low)
    }

    fn coin(&mut self) -> bool {
        self.roll(0, 1) == 1
    }

    fn rolls(&mut self, count: usize, low: usize, high: usize) -> Vec<usize> {
        (0..count).map(|_| self.roll(low, high)).collect()
    }

    /// Some of `0..n`, in order, at least one.
    fn some(&mut self, n: usize) -> Vec<usize> {
        let one = self.roll(0, n - 1);
        (0..n).filter(|&i| i == one || self.coin()).collect()
    }

    fn order(&mut self, n: usize) -> Vec<usize> {
        let mut left: Vec<usize> = (0..n).collect();
        (0..n).map(|_| left.remove(self.roll(0, left.len() - 1))).collect()
    }
}

fn cases(family: u64, case: impl Fn(&mut Dice)) {
    (0..CASES).for_each(|i| case(&mut Dice(Box::new(noise(1000 * family + i)))));
}

fn list(numbers: impl IntoIterator<Item = impl Display>) -> String {
    numbers.into_iter().map(|n| n.to_string()).collect::<Vec<_>>().join(",")
}

fn constant(name: &str, shape: &[usize], seed: u64) -> String {
    format!("const %{name} : f64[{}] = seed({seed}) ", list(shape))
}

fn ints(name: &str, numbers: &[i64]) -> String {
    format!("const %{name} : i64[{}] = {{{}}} ", numbers.len(), list(numbers))
}

/// Attributes of a window of these sizes, and the size of the least input along each axis that it fits into.
fn window(dice: &mut Dice, kernel: &[usize], padded: bool) -> (String, Vec<usize>) {
    let axes = kernel.len();
    let (strides, dilations) = (dice.rolls(axes, 1, 3), dice.rolls(axes, 1, 2));
    let reach = |a: usize| (kernel[a] - 1) * dilations[a] + 1;
    let pads: Vec<usize> = (0..2 * axes).map(|i| if padded { dice.roll(0, kernel[i % axes] - 1) } else { 0 }).collect();
    let least = (0..axes).map(|a| reach(a).saturating_sub(pads[a] + pads[a + axes]).max(1));
    let text = format!("strides=[{}], dilations=[{}], pads=[{}]", list(&strides), list(&dilations), list(&pads));
    (text, least.collect())
}

#[test]
fn convolutions() {
    cases(1, |dice| {
        let axes = dice.roll(1, 2);
        let (n, groups) = (dice.roll(1, 3), dice.roll(1, 3));
        let (ins, outs) = if dice.coin() { (1, dice.roll(1, 2)) } else { (dice.roll(1, 3), dice.roll(1, 3)) };
        let kernel = dice.rolls(axes, 1, 3);
        let transposed = dice.roll(0, 3) == 0;
        let (window, least) = window(dice, &kernel, !transposed);
        let space: Vec<usize> = least.iter().map(|l| l + dice.roll(0, 4)).collect();
        let x = [&[n, groups * ins], &space[..]].concat();
        let (op, w) = match transposed {
            true => ("ConvTranspose", [&[groups * ins, outs], &kernel[..]].concat()),
            false => ("Conv", [&[groups * outs, ins], &kernel[..]].concat()),
        };
        let (bias, read) = match dice.coin() {
            true => (constant("b", &[groups * outs], 3), ", %b"),
            false => (String::new(), ""),
        };
        let (x, w) = (constant("x", &x, 1), constant("w", &w, 2));
        check(13, &format!("{x}{w}{bias}%y : ? = {op}<{window}, group={groups}>(%x, %w{read})"));
    });
}

#[test]
fn poolings() {
    cases(2, |dice| {
        let axes = dice.roll(1, 2);
        let kernel = dice.rolls(axes, 1, 3);
        let (strides, ceil) = (dice.rolls(axes, 1, 3), dice.roll(0, 1));
        let pads: Vec<usize> = (0..2 * axes).map(|i| dice.roll(0, kernel[i % axes] - 1)).collect();
        let space: Vec<usize> = kernel.iter().map(|k| k + dice.roll(0, 4)).collect();
        let x = constant("x", &[&dice.rolls(2, 1, 3), &space[..]].concat(), 1);
        let (op, more) = match dice.coin() {
            true => ("MaxPool", String::new()),
            false => ("AveragePool", format!(", count_include_pad={}", dice.roll(0, 1))),
        };
        let (kernel, strides, pads) = (list(kernel), list(strides), list(pads));
        let window = format!("kernel_shape=[{kernel}], strides=[{strides}], pads=[{pads}], ceil_mode={ceil}{more}");
        check(19, &format!("{x}%y : ? = {op}<{window}>(%x)"));
    });
}

/// Shapes that broadcast to one: some axes of 1, some left away in front.
fn broadcast(dice: &mut Dice, shape: &[usize]) -> Vec<usize> {
    let from = dice.roll(0, shape.len());
    shape[from..].iter().map(|&n| if dice.roll(0, 2) == 0 { 1 } else { n }).collect()
}

#[test]
fn broadcasts() {
    cases(3, |dice| {
        let rank = dice.roll(1, 4);
        let shape = dice.rolls(rank, 1, 4);
        let (a, b) = match dice.coin() {
            true => (broadcast(dice, &shape), shape),
            false => (shape.clone(), broadcast(dice, &shape)),
        };
        let op = ["Add", "Sub", "Mul", "Div", "Sum", "PRelu"][dice.roll(0, 5)];
        // A slope broadcasts to what it is the slope of; a divisor is far from 0.
        let (a, b) = if op == "PRelu" && a.iter().product::<usize>() < b.iter().product() { (b, a) } else { (a, b) };
        let (a, b) = (constant("a", &a, 1), constant("b", &b, 2));
        let divisor = if op == "Div" { "%c : ? = Sigmoid(%b) " } else { "%c : ? = Tanh(%b) " };
        check(16, &format!("{a}{b}{divisor}%y : ? = {op}(%a, %c)"));
    });
}

#[test]
fn products() {
    cases(4, |dice| {
        let [m, k, n] = [dice.roll(1, 5), dice.roll(1, 5), dice.roll(1, 5)];
        if dice.coin() {
            let rank = dice.roll(0, 2);
            let batch = dice.rolls(rank, 1, 3);
            let (left, right) = (broadcast(dice, &batch), batch);
            let (a, b) = ([&left[..], &[m, k]].concat(), [&right[..], &[k, n]].concat());
            let (a, b) = (constant("a", &a, 1), constant("b", &b, 2));
            return check(13, &format!("{a}{b}%y : ? = MatMul(%a, %b)"));
        }
        let turn = |at: bool, [a, b]: [usize; 2]| if at { [b, a] } else { [a, b] };
        let (ta, tb) = (dice.coin(), dice.coin());
        let (a, b) = (constant("a", &turn(ta, [m, k]), 1), constant("b", &turn(tb, [k, n]), 2));
        let c = constant("c", &broadcast(dice, &[m, n]), 3);
        let attrs = format!("transA={}, transB={}, alpha=0.5, beta=-2.0", u8::from(ta), u8::from(tb));
        check(13, &format!("{a}{b}{c}%y : ? = Gemm<{attrs}>(%a, %b, %c)"));
    });
}

#[test]
fn axes() {
    cases(5, |dice| {
        let rank = dice.roll(1, 4);
        let x = constant("x", &dice.rolls(rank, 1, 4), 1);
        let axis = dice.roll(0, rank - 1) as i64 - if dice.coin() { rank as i64 } else { 0 };
        let axes = list(dice.some(rank));
        let keep = dice.roll(0, 1);
        let line = match dice.roll(0, 4) {
            0 => format!("Softmax<axis={axis}>(%x)"),
            1 => format!("LogSoftmax<axis={axis}>(%x)"),
            2 => format!("ReduceMean<axes=[{axes}], keepdims={keep}>(%x)"),
            3 => format!("Transpose<perm=[{}]>(%x)", list(dice.order(rank))),
            _ => format!("Concat<axis={axis}>(%x, %x)"),
        };
        check(13, &format!("{x}%y : ? = {line}"));
    });
}

#[test]
fn pieces() {
    cases(6, |dice| {
        let rank = dice.roll(1, 4);
        let shape = dice.rolls(rank, 2, 5);
        let x = constant("x", &shape, 1);
        let axis = dice.roll(0, rank - 1);
        let size = shape[axis];
        let (setting, line) = match dice.roll(0, 3) {
            0 => {
                let (from, to) = (dice.roll(0, size - 2), size as i64);
                let (start, end, step) = match dice.coin() {
                    true => (from as i64, to, dice.roll(1, 2) as i64),
                    false => (to - 1, from as i64, -(dice.roll(1, 2) as i64)),
                };
                let settings = [("s", start), ("e", end), ("a", axis as i64), ("t", step)];
                (settings.map(|(name, n)| ints(name, &[n])).concat(), "Slice(%x, %s, %e, %a, %t)".to_string())
            }
            1 => {
                let indices: Vec<i64> = dice.rolls(3, 0, size - 1).into_iter().map(|i| i as i64).collect();
                (ints("i", &indices), format!("Gather<axis={axis}>(%x, %i)"))
            }
            2 => {
                let pads: Vec<i64> = dice.rolls(2 * rank, 0, 1).into_iter().map(|p| p as i64).collect();
                let mode = ["constant", "reflect", "edge"][dice.roll(0, 2)];
                (ints("p", &pads), format!("Pad<mode=\"{mode}\">(%x, %p)"))
            }
            _ => (ints("d", &[-1, size as i64]), "Reshape(%x, %d)".to_string()),
        };
        check(13, &format!("{x}{setting}%y : ? = {line}"));
    });
}
