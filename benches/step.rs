//! Time of one full training step: forward in training mode, distillation loss, backward, AdamW.
//!
//! `cargo bench --bench step`, with `RAYON_NUM_THREADS=1` for one thread, `-- resnet` for one network; `step.py` beside this
//! does the same in PyTorch.
//! CPU time and memory of the process are read from `/proc`, and 0 where there is none.

use std::path::Path;
use std::time::Instant;
use tutee::architectures::StudentNet;
use tutee::autodiff::{Mode, Tape, weights};
use tutee::distill::{Method, Optimizer, loss};
use tutee::ir::{Graph, Op, random};
use tutee::onnx;

/// Seconds of CPU time that the process took, by its hundredths.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or("").split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// The most memory that the process had, in MB.
fn peak() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or(0.0) / 1e3
}

fn time(name: &str, graph: &Graph, input: &str, shape: &[usize]) {
    let mut wanted = std::env::args().skip(1).filter(|a| !a.starts_with('-')).peekable();
    if wanted.peek().is_some() && !wanted.any(|w| name.contains(&w)) {
        return;
    }
    let shapes = [(input.to_string(), shape.to_vec())];
    let mut tape = Tape::<f32>::new(graph, &shapes, graph.outputs(), &weights(graph)).unwrap();
    let mut optimizer = Optimizer::new(Method::ADAM_W, 0.01);
    let n = tape.output(0).len();
    let classes = n / shape[0];
    let noise: Vec<f32> = random::noise(1).take(n).map(|v| v as f32).collect();
    let targets = loss::soften(&noise, classes, 4.0);
    tape.input_mut(0).iter_mut().zip(random::noise(2)).for_each(|(x, v)| *x = v as f32);
    let mut phases = [0.0; 3];
    let (mut best, mut before) = (f64::INFINITY, 0.0);
    for step in 0..12 {
        if step == 2 {
            before = cpu();
        }
        let start = Instant::now();
        tape.forward(Mode::Train);
        let forward = start.elapsed();
        let (_, by) = loss::distillation(tape.output(0), &targets, None, classes, 4.0, 1.0);
        tape.backward(&[by]);
        let backward = start.elapsed();
        optimizer.step(&mut tape, 1e-3);
        let all = start.elapsed();
        if step >= 2 {
            best = best.min(all.as_secs_f64());
            let parts = [forward, backward - forward, all - backward].map(|d| d.as_secs_f64() / 10.0);
            phases.iter_mut().zip(parts).for_each(|(p, t)| *p += t);
        }
    }
    let (mean, cpu) = (phases.iter().sum::<f64>(), (cpu() - before) / 10.0);
    let (plain, operations) = products(&graph.at_sizes(&shapes).unwrap());
    println!(
        "{name}: best {:.1} ms, mean {:.1} ms (forward {:.1}, backward {:.1}, update {:.1}), CPU {:.0} ms, {:.0} images/s, \
         tape {:.0} MB, process {:.0} MB at its peak; {:.1} GFLOP/s, of {:.1} in plain products of the same shapes",
        best * 1e3,
        mean * 1e3,
        phases[0] * 1e3,
        phases[1] * 1e3,
        phases[2] * 1e3,
        cpu * 1e3,
        shape[0] as f64 / mean,
        tape.bytes() as f64 / 1e6,
        peak(),
        operations / best / 1e9,
        operations / plain / 1e9
    );
}

/// Seconds that the matrix products of a step take by themselves, one after the other on one thread, and how many operations
/// they are: those of every layer that mixes channels, once forward and twice back.
fn products(graph: &Graph) -> (f64, f64) {
    let (mut seconds, mut operations) = (0.0, 0.0);
    for n in graph.nodes() {
        let (groups, weight) = match &graph.node(n).op {
            Op::Conv(conv) => (conv.group, graph.input_constant(n, 1)),
            Op::Gemm(_) => (1, graph.input_constant(n, 1)),
            _ => continue,
        };
        let (Some(weight), Some(y)) = (weight.filter(|_| groups == 1), graph.output(n)) else { continue };
        let elements: u64 = graph.value(y).dims().unwrap().iter().product();
        let rows = weight.shape()[0];
        let (inner, columns) = (weight.len() / rows, elements as usize / rows);
        let (a, b, mut c) = (vec![1.0f32; rows * inner], vec![1.0f32; inner * columns], vec![0.0f32; rows * columns]);
        let best = (0..3).map(|_| {
            let start = Instant::now();
            // SAFETY: the three matrices are row-major, of these sizes, and apart.
            unsafe {
                let (rs, ks, cs) = (inner as isize, columns as isize, columns as isize);
                let none = gemm::Parallelism::None;
                let (c, a, b) = (c.as_mut_ptr(), a.as_ptr(), b.as_ptr());
                gemm::gemm(
                    rows, columns, inner, c, 1, cs, false, a, 1, rs, b, 1, ks, 0.0, 1.0, false, false, false, none,
                );
            }
            start.elapsed().as_secs_f64()
        });
        seconds += 3.0 * best.fold(f64::INFINITY, f64::min);
        operations += 6.0 * (rows * inner * columns) as f64;
    }
    (seconds, operations)
}

fn main() {
    println!("{} threads", rayon::current_num_threads());
    let net = StudentNet { base: 16, width_mult: 1.0, classes: 11, input: [3, 32, 32], seed: 0 };
    time("StudentNet 128x3x32x32", &net.build().unwrap().graph, "input", &[128, 3, 32, 32]);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/resnet_small_bn.onnx");
    let graph = onnx::load(&path).unwrap().model.graph;
    let input = graph.runtime_inputs().map(|v| graph.value(v).name.clone()).next().unwrap();
    time("resnet_small 128x1x28x28", &graph, &input, &[128, 1, 28, 28]);
}
