//! Sums over axes and what follows from them. (ONNX Operators: Reduce…)

use super::pointwise::{Function, Map};
use crate::autodiff::broadcast::BroadcastRuns;
use crate::autodiff::kernel::{Backward, Kernel, Mode};
use crate::autodiff::program::Lowering;
use crate::autodiff::real::{Real, sums};
use crate::ir::op::reduce::{Reduce, Reduction};
use rayon::prelude::*;

pub fn build<T: Real>(node: &mut Lowering<'_, '_, T>, op: &Reduce) -> Result<(), String> {
    let (x, y) = (node.dims(0)?, node.out(0)?);
    let given = node.content(1).and_then(|t| t.ints());
    if node.has(1) && given.is_none() {
        return Err("its axes are computed from what is fed".into());
    }
    let reduced = op.reduced(given.as_deref(), x.len())?;
    let kept: Vec<usize> = x.iter().zip(&reduced).map(|(&n, &gone)| if gone { 1 } else { n }).collect();
    let (len, n): (usize, usize) = (x.iter().product(), y.iter().product());
    let (before, after) = match op.function {
        Reduction::Sum => (None, None),
        Reduction::Mean => (None, Some(Function::scale(n as f64 / len as f64))),
        Reduction::SumSquare => (Some(Function::Power(T::of(2.0))), None),
        Reduction::L2 => (Some(Function::Power(T::of(2.0))), Some(Function::Sqrt)),
        Reduction::L1 => (Some(Function::Abs), None),
        Reduction::LogSum => (None, Some(Function::Log)),
        Reduction::LogSumExp => (Some(Function::Exp), Some(Function::Log)),
        Reduction::Max | Reduction::Min | Reduction::Prod => return Err("its slope is not known here".into()),
    };
    let mut slot = node.read(0)?;
    if let Some(before) = before {
        slot = node.push(Map(before), &[slot], len);
    }
    slot = sum(node, slot, &x, &kept)?;
    if let Some(after) = after {
        slot = node.push(Map(after), &[slot], n);
    }
    node.bind(0, slot);
    Ok(())
}

/// A step for the sum of a tensor over the axes that are 1 in `kept`.
pub fn sum<T: Real>(node: &mut Lowering<'_, '_, T>, slot: usize, x: &[usize], kept: &[usize]) -> Result<usize, String> {
    let runs = BroadcastRuns::new(x, [kept]).ok_or("its axes do not fit")?;
    Ok(node.push(SumKernel(runs), &[slot], kept.iter().product()))
}

struct SumKernel(BroadcastRuns<1>);

impl<T: Real> Kernel<T> for SumKernel {
    fn forward(&mut self, x: &[&[T]], y: &mut [T], _: &mut [T], _: Mode) {
        let (x, run) = (x[0], self.0.run);
        y.fill(T::ZERO);
        if self.0.steps == [0] && y.len() * run == x.len() {
            let all = y.par_iter_mut().zip(x.par_chunks_exact(run));
            return all.for_each(|(y, x)| *y = sums(x, x, |x, _| [x])[0]);
        }
        self.0.each(|at, [to]| {
            let x = &x[at..at + run];
            match self.0.steps {
                [0] => y[to] += sums(x, x, |x, _| [x])[0],
                _ => y[to..].iter_mut().zip(x).for_each(|(y, &x)| *y += x),
            }
        });
    }

    fn backward(&mut self, back: Backward<'_, T>) {
        let (dy, steps) = (back.dy, self.0.steps);
        for to in back.dx.into_iter().flatten() {
            let fresh = to.fresh;
            self.0.fill(to.to, |to, [at]| {
                for (i, to) in to.iter_mut().enumerate() {
                    let d = dy[at + i * steps[0]];
                    *to = if fresh { d } else { *to + d };
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::autodiff::testing::check;

    #[test]
    fn sums() {
        let x = "const %x : f64[2,3,4,5] = seed(1)";
        for axes in ["1", "0,2", "2,3", "-1", "0,1,2,3", "0"] {
            for op in ["ReduceMean", "ReduceL2", "ReduceSumSquare", "ReduceL1", "ReduceLogSumExp"] {
                check(12, &format!("{x} %y : ? = {op}<axes=[{axes}]>(%x)"));
            }
            check(12, &format!("{x} %y : ? = ReduceSum<axes=[{axes}], keepdims=0>(%x)"));
        }
        check(12, &format!("{x} %y : ? = ReduceMean(%x)"));
        check(18, &format!("{x} const %a : i64[2] = {{1,-1}} %y : ? = ReduceMean<keepdims=0>(%x, %a)"));
        check(18, &format!("{x} %y : ? = ReduceSum<noop_with_empty_axes=1>(%x)"));
    }
}
