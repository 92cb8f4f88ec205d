//! Operators that move elements: Concat, Split, Slice, Transpose, Pad, Gather, Expand, Tile, DepthToSpace, ….
//!
//! Where an operator takes its elements from, its own constant kernel tells: it is run, when the tape is made, on the
//! places of the elements instead of the elements.

use crate::autodiff::kernel::{Backward, Kernel, Mode};
use crate::autodiff::program::Lowering;
use crate::autodiff::real::Real;
use crate::ir::infer::axis;
use crate::ir::op::Operator;
use crate::ir::op::concat::Split;
use crate::ir::{DType, Op, Tensor};

/// Elements that are moved at most: their places have to be listed once.
const MAX_PLACES: usize = 1 << 27;

pub fn build<T: Real>(node: &mut Lowering<'_, '_, T>, op: &Op) -> Result<(), String> {
    // Inputs whose elements are moved; the others say where to.
    let (first, last) = match op {
        Op::Concat(_) => (0, node.n_inputs()),
        Op::Where(_) => (1, 3),
        Op::Split(_)
        | Op::Slice(_)
        | Op::Transpose(_)
        | Op::DepthSpace(_)
        | Op::Pad(_)
        | Op::Gather(_)
        | Op::GatherElements(_)
        | Op::GatherNd(_)
        | Op::Expand(_)
        | Op::Tile(_) => (0, 1),
        _ => return Err("its gradient is not known here".into()),
    };
    let (mut tensors, mut inputs, mut starts) = (Vec::new(), Vec::new(), vec![0]);
    for slot in 0..node.n_inputs() {
        if !(first..last).contains(&slot) {
            let content = node.content(slot);
            if node.has(slot) && content.is_none() {
                return Err(format!("its input {slot} is computed from what is fed"));
            }
            tensors.push(content);
            continue;
        }
        let shape = node.dims(slot)?;
        let (start, len) = (starts[inputs.len()], shape.iter().product::<usize>());
        let end = Some(start + len).filter(|&e| e <= MAX_PLACES).ok_or("it moves too many elements")?;
        tensors.push(Some(Tensor::from_ints(DType::I64, shape, start as i64..end as i64)));
        inputs.push(node.read(slot)?);
        starts.push(end);
    }

    // What a pad adds has no place.
    let mut fill = T::ZERO;
    let moved = match op {
        Op::Pad(pad) => {
            let given =
                tensors.get(2).and_then(Option::as_ref).map(|t| t.float_scalar().ok_or("its fill is no number"));
            fill = T::of(given.transpose()?.unwrap_or(pad.value.into()));
            tensors.resize(tensors.len().max(3), None);
            tensors[2] = Some(Tensor::scalar_i64(-1));
            run(pad, &tensors)
        }
        Op::Split(split) => {
            let at = axis(split.axis, node.dims(0)?.len())?;
            let sizes = (0..node.n_outputs()).map(|i| Ok(node.out(i)?[at] as i64)).collect::<Result<_, String>>()?;
            run(&Split { axis: at as i64, sizes: Some(sizes), count: None }, &tensors[..1])
        }
        op => op.operator().and_then(|op| run(op, &tensors)),
    };
    let moved = moved.ok_or("where its elements go is not known here")?;
    for (output, places) in moved.into_iter().enumerate() {
        let len = node.out(output)?.iter().product();
        let places = places.ints().filter(|p| p.len() == len).ok_or("its output has another size")?;
        let slot = node.push(Move { runs: runs(&places, &starts), fill }, &inputs, len);
        node.bind(output, slot);
    }
    Ok(())
}

fn run(op: &dyn Operator, tensors: &[Option<Tensor>]) -> Option<Vec<Tensor>> {
    op.eval(&tensors.iter().map(Option::as_ref).collect::<Vec<_>>())
}

/// Elements of an output that come from evenly spaced elements of an input.
#[derive(Debug, Clone, PartialEq)]
struct CopyRun {
    /// `None` if they are the fill.
    input: Option<usize>,
    from: usize,
    step: isize,
    to: usize,
    len: usize,
}

/// The runs of an output whose elements have these places; input `i` has those from `starts[i]` to before `starts[i+1]`.
fn runs(places: &[i64], starts: &[usize]) -> Vec<CopyRun> {
    let mut runs: Vec<CopyRun> = Vec::new();
    for (to, &place) in places.iter().enumerate() {
        let place = usize::try_from(place).ok();
        let input = place.map(|p| starts.partition_point(|&s| s <= p) - 1);
        let from = place.zip(input).map_or(0, |(p, i)| p - starts[i]);
        if let Some(run) = runs.last_mut().filter(|r| r.input == input) {
            let next = run.from as isize + run.step * run.len as isize;
            let step = from as isize - run.from as isize;
            if run.len == 1 || next == from as isize {
                run.step = if run.len == 1 { step } else { run.step };
                run.len += 1;
                continue;
            }
        }
        runs.push(CopyRun { input, from, step: 0, to, len: 1 });
    }
    runs
}

struct Move<T> {
    runs: Vec<CopyRun>,
    fill: T,
}

impl<T: Real> Kernel<T> for Move<T> {
    fn forward(&mut self, x: &[&[T]], y: &mut [T], _: &mut [T], _: Mode) {
        for run in &self.runs {
            let y = &mut y[run.to..run.to + run.len];
            match (run.input, run.step) {
                (None, _) => y.fill(self.fill),
                (Some(input), 1) => y.copy_from_slice(&x[input][run.from..run.from + run.len]),
                (Some(input), step) => {
                    let mut from = run.from;
                    for y in y {
                        *y = x[input][from];
                        from = from.wrapping_add_signed(step);
                    }
                }
            }
        }
    }

    fn backward(&mut self, back: Backward<'_, T>) {
        let mut dx: Vec<Option<&mut [T]>> = back.dx.into_iter().map(|g| g.map(|g| g.zeroed())).collect();
        for run in &self.runs {
            let Some(dx) = run.input.and_then(|input| dx[input].as_mut()) else { continue };
            let dy = &back.dy[run.to..run.to + run.len];
            if run.step == 1 {
                dx[run.from..].iter_mut().zip(dy).for_each(|(dx, &d)| *dx += d);
            } else {
                let mut to = run.from;
                for &d in dy {
                    dx[to] += d;
                    to = to.wrapping_add_signed(run.step);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autodiff::testing::check;

    #[test]
    fn runs_are_found() {
        let run = |input, from, step, to, len| CopyRun { input, from, step, to, len };
        let found = runs(&[0, 1, 2, 9, 7, 5, -1, -1, 6, 6], &[0, 5, 10]);
        let want =
            [run(Some(0), 0, 1, 0, 3), run(Some(1), 4, -2, 3, 3), run(None, 0, 0, 6, 2), run(Some(1), 1, 0, 8, 2)];
        assert_eq!(found, want);
    }

    #[test]
    fn elements_move() {
        let x = "const %x : f64[2,3,4] = seed(1)";
        for rest in [
            "%y : ? = Transpose(%x)",
            "%y : ? = Transpose<perm=[1,0,2]>(%x)",
            "const %w : f64[2,1,4] = seed(2) %y : ? = Concat<axis=1>(%x, %w, %x)",
            "%y : ?, %b : ? = Split<axis=2>(%x)",
            "%a : ?, %b : ?, %c : ? = Split<axis=1>(%x) %y : ? = Mul(%c, %a)",
            "const %s : i64[2] = {1,3} %a : ?, %b : ? = Split<axis=-1>(%x, %s) %y : ? = Identity(%b)",
            "const %s : i64[2] = {-1,0} const %e : i64[2] = {-9,3} const %a : i64[2] = {2,1} const %t : i64[2] = {-2,1}
             %y : ? = Slice(%x, %s, %e, %a, %t)",
            "const %i : i64[2,2] = {2,0,-1,2} %y : ? = Gather<axis=1>(%x, %i)",
            "const %p : i64[6] = {0,1,2,0,0,-1} const %f : f64[] = {7} %y : ? = Pad(%x, %p, %f)",
            "const %p : i64[6] = {0,1,2,0,0,1} %y : ? = Pad<mode=\"reflect\">(%x, %p)",
            "const %p : i64[6] = {0,1,2,0,0,1} %y : ? = Pad<mode=\"edge\">(%x, %p)",
            "const %p : i64[6] = {3,0,9,2,5,0} %y : ? = Pad<mode=\"edge\">(%x, %p)",
            "const %t : i64[4] = {2,1,3,4} %y : ? = Expand(%x, %t)",
            "const %t : i64[3] = {1,2,1} %y : ? = Tile(%x, %t)",
            "const %t : i64[2] = {4,-1} %z : ? = Reshape(%x, %t) %y : ? = Mul(%z, %z)",
            "%s : ? = Shape(%x) %t : ? = Reshape(%x, %s) %f : ? = Flatten<axis=2>(%t) %y : ? = Exp(%f)",
            "const %a : i64[1] = {0} %u : ? = Unsqueeze(%x, %a) %s : ? = Squeeze(%u) %y : ? = Cast<to=11>(%s)",
            "const %c : bool[3,1] = {1,0,1} const %w : f64[4] = seed(2) %y : ? = Where(%c, %x, %w)",
        ] {
            check(13, &format!("{x} {rest}"));
        }
        check(10, "const %x : f64[2,3] = seed(1) %y : ? = Pad<pads=[1,0,0,1], value=2.5>(%x)");
        check(9, "const %x : f64[2,3] = seed(1) %y : ? = Slice<axes=[1], ends=[2], starts=[0]>(%x)");
        check(13, "const %x : f64[1,8,2,3] = seed(1) %y : ? = DepthToSpace<blocksize=2>(%x)");
        check(19, "const %x : f64[2,3] = seed(1) const %p : i64[4] = {0,7,5,1} %y : ? = Pad<mode=\"wrap\">(%x, %p)");
        check(18, "const %x : f64[5,2] = seed(1) %a : ?, %y : ? = Split<num_outputs=2>(%x)");
    }

    #[test]
    fn a_codebook_gets_the_sum_over_its_members() {
        let book = "const %book : f64[3] = seed(1) const %codes : u8[2,4] = {0,1,2,2,1,1,0,2}";
        let weights = "%index : ? = Cast<to=6>(%codes) %w : ? = Gather(%book, %index)";
        check(13, &format!("{book} {weights} const %x : f64[3,2] = seed(2) %y : ? = MatMul(%x, %w)"));
    }
}
