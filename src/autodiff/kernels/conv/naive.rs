//! Passes against naive loops, in whole numbers, so that every order of the sums gives the same.

use super::axis::TapAxis;
use super::direct::{DirectConv, Start};
use crate::autodiff::real::{Grad, Real};
use crate::autodiff::window::Window2d;

/// Images, groups, channels and outputs of a group.
#[derive(Clone, Copy)]
struct ConvDims([usize; 4]);

fn numbers<T: Real>(n: usize, salt: usize) -> Vec<T> {
    (0..n).map(|i| T::of(((i + salt) * 29 % 13) as f64 - 6.0)).collect()
}

/// Calls `f` with the places of x, w and y for every term of a convolution.
fn terms(
    s: &Window2d,
    ConvDims([images, groups, channels, outputs]): ConvDims,
    mut f: impl FnMut(usize, usize, usize),
) {
    let inside = |axis: usize, o: usize, k: usize| {
        (o * s.stride[axis] + k * s.dilation[axis]).checked_sub(s.pad[axis]).filter(|&i| i < s.input[axis])
    };
    let windows = (0..s.windows()).flat_map(|o| (0..s.taps()).map(move |k| (o, k)));
    for (o, k) in windows {
        let row = inside(0, o / s.output[1], k / s.kernel[1]);
        let Some((row, column)) = row.zip(inside(1, o % s.output[1], k % s.kernel[1])) else { continue };
        for image in 0..images {
            for output in 0..groups * outputs {
                for channel in 0..channels {
                    let x = (image * groups + output / outputs) * channels + channel;
                    f(
                        x * s.plane() + row * s.input[1] + column,
                        (output * channels + channel) * s.taps() + k,
                        (image * groups * outputs + output) * s.windows() + o,
                    );
                }
            }
        }
    }
}

fn check<T: Real + std::fmt::Debug>(s: &Window2d, shape: ConvDims) {
    let ConvDims([images, groups, channels, outputs]) = shape;
    let taps = s.taps();
    let axes = [0, 1].map(|axis| TapAxis::forward(s, axis));
    let turned = [0, 1].map(|axis| TapAxis::back(s, axis));
    let there = DirectConv::new(axes, shape.0, [channels * taps, taps]).unwrap();
    let back = DirectConv::new(turned, [images, groups, outputs, channels], [taps, channels * taps]).unwrap();

    let x = numbers::<T>(images * groups * channels * s.plane(), 1);
    let w = numbers::<T>(groups * outputs * channels * taps, 2);
    let y = numbers::<T>(images * groups * outputs * s.windows(), 3);
    let bias = numbers::<T>(groups * outputs, 4);
    // What scratch memory held before must not count.
    let scratch = |n: usize| vec![T::of(f64::NAN); n];
    for start in [Start::Zero, Start::Bias(&bias), Start::There] {
        let mut want = y.clone();
        match start {
            Start::Zero => want.fill(T::ZERO),
            Start::Bias(bias) => {
                want.chunks_mut(s.windows()).zip(bias.iter().cycle()).for_each(|(plane, &b)| plane.fill(b));
            }
            Start::There => {}
        }
        terms(s, shape, |at, tap, to| want[to] += w[tap] * x[at]);
        let mut found = y.clone();
        there.apply(&x, &w, &mut found, start, &mut scratch(there.room()));
        assert_eq!(found, want, "{s:?} {:?}", shape.0);
    }
    for fresh in [true, false] {
        let (mut want_x, mut want_w) =
            if fresh { (vec![T::ZERO; x.len()], vec![T::ZERO; w.len()]) } else { (x.clone(), w.clone()) };
        terms(s, shape, |at, tap, to| {
            want_x[at] += w[tap] * y[to];
            want_w[tap] += x[at] * y[to];
        });
        for [by_x, by_w] in [[true, true], [true, false], [false, true]] {
            let (mut dx, mut dw) = (x.clone(), w.clone());
            let [to_x, to_w] = [(&mut dx, by_x), (&mut dw, by_w)].map(|(to, by)| by.then_some(Grad { to, fresh }));
            back.back(&y, [&x, &w], to_x, to_w, &mut scratch(back.back_room()));
            assert!(!by_x || dx == want_x, "back {s:?} {:?}", shape.0);
            assert!(!by_w || dw == want_w, "weights {s:?} {:?}", shape.0);
        }
    }
}

/// Numbers below one that is given, that look drawn.
fn draws(mut state: u64) -> impl FnMut(usize) -> usize {
    move |n| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % n
    }
}

/// The outputs of a window, if it fits.
fn fitted(mut s: Window2d) -> Option<Window2d> {
    for axis in 0..2 {
        let reach = (s.kernel[axis] - 1) * s.dilation[axis] + 1;
        let room = (s.input[axis] + s.pad[axis] + s.pad_end[axis]).checked_sub(reach)?;
        s.output[axis] = room / s.stride[axis] + 1;
    }
    Some(s)
}

/// Random windows over random planes.
#[test]
fn random_windows() {
    let mut draw = draws(7);
    let mut tried = 0;
    while tried < 300 {
        let s = Window2d {
            input: [1 + draw(30), 1 + draw(30)],
            output: [0; 2],
            kernel: [1 + draw(4), 1 + draw(4)],
            stride: [1 + draw(3), 1 + draw(3)],
            dilation: [1 + draw(2), 1 + draw(2)],
            pad: [draw(4), draw(4)],
            pad_end: [draw(4), draw(4)],
        };
        let Some(s) = fitted(s) else { continue };
        // Few images, where they are cut into bands, and many.
        let images = if tried % 10 == 0 { 300 } else { 20 };
        let shape = ConvDims([1 + draw(images), 1 + draw(2), 1 + draw(5), 1 + draw(9)]);
        check::<f32>(&s, shape);
        check::<f64>(&s, shape);
        tried += 1;
    }
}

#[test]
fn planes_of_one_element_and_many_rows() {
    let plain = |input: [usize; 2], kernel: usize, pad: usize| Window2d {
        input,
        output: input,
        kernel: [kernel; 2],
        stride: [1; 2],
        dilation: [1; 2],
        pad: [pad; 2],
        pad_end: [pad; 2],
    };
    check::<f32>(&plain([1, 1], 1, 0), ConvDims([3, 1, 1, 1]));
    check::<f32>(&plain([1, 1], 1, 0), ConvDims([33, 1, 7, 5]));
    check::<f32>(&plain([2, 2], 1, 0), ConvDims([130, 2, 3, 4]));
    check::<f32>(&plain([3, 2], 3, 1), ConvDims([290, 1, 2, 3]));
    let nothing = Window2d { output: [1, 2], stride: [4, 1], pad: [1, 0], pad_end: [2, 0], ..plain([2, 2], 1, 0) };
    check::<f32>(&nothing, ConvDims([290, 1, 1, 1]));
    check::<f32>(&plain([70, 40], 1, 0), ConvDims([2, 1, 2, 5]));
    check::<f32>(&plain([24, 20], 19, 9), ConvDims([5, 1, 3, 3]));
    for stride in [2, 3, 4] {
        let s = Window2d { stride: [stride; 2], ..plain([23, 25], 21, 10) };
        check::<f32>(&fitted(s).unwrap(), ConvDims([3, 1, 2, 1]));
    }
    check::<f32>(&plain([9, 40], 17, 8), ConvDims([130, 2, 1, 2]));
    check::<f32>(&plain([70, 40], 3, 1), ConvDims([2, 1, 2, 5]));
    check::<f64>(&plain([3, 1500], 3, 1), ConvDims([1, 1, 1, 4]));
}
