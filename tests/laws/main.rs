//! The laws that every pass keeps on every teacher among the fixtures, with its default options.
#![cfg(feature = "exec")]

mod choices;
#[path = "../common/mod.rs"]
mod common;

use common::{name, running, teachers};
use std::collections::HashSet;
use std::path::Path;
use tutee::calibrate::Calibration;
use tutee::compress::{Data, Outcome, Silent, compress, compress_on, measure};
use tutee::data::{Array, Dataset, Normalise};
use tutee::exec::Network;
use tutee::ir::{Graph, Model, Op, Source, ValueId, random, text};
use tutee::onnx::{self, SaveOptions, Target};
use tutee::passes::{Fidelity, Pass, REGISTRY};
use tutee::recipe::{Recipe, Step};

fn make(pass: &str) -> Box<dyn Pass> {
    tutee::passes::find(pass).unwrap().make(Default::default()).unwrap_or_else(|e| panic!("{pass}: {}", e.what))
}

fn run(model: &Model, pass: &str) -> Outcome {
    common::run(model, &format!("[{{ pass = \"{pass}\" }}]")).unwrap_or_else(|e| panic!("{pass}: {e}"))
}

fn save(model: &Model, path: &Path) {
    onnx::save(model, &Target::File(path.into()), SaveOptions::default()).unwrap();
}

/// The step named `clean`, and every pass by itself.
fn steps() -> Vec<&'static str> {
    REGISTRY.iter().map(|e| e.name).chain(["clean"]).collect()
}

fn each(law: impl Fn(&Path, &Model, &str) + Sync) {
    use rayon::prelude::*;
    let all = teachers();
    assert!(all.len() >= 8, "fixtures are missing");
    let cases: Vec<_> = all.iter().flat_map(|t| steps().into_iter().map(move |s| (t, s))).collect();
    cases.par_iter().for_each(|(path, step)| {
        let loaded = onnx::load(path).unwrap_or_else(|e| panic!("{e}"));
        law(path, &loaded.model, step);
    });
}

fn answers(path: &Path) -> Vec<Array> {
    Network::load(path).and_then(|n| running::answers(&n, 1)).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn interface_and_validity() {
    let folder = tempfile::tempdir().unwrap();
    each(|path, teacher, step| {
        let student = run(teacher, step).student;
        assert_eq!(teacher.graph.interface(), student.graph.interface(), "{step} on {}", name(path));
        student.graph.verify().unwrap();
        names_are_unique(&student.graph, &HashSet::new(), &format!("{step} on {}", name(path)));
        let file = folder.path().join(format!("{step}-{}", path.file_name().unwrap().to_string_lossy()));
        save(&student, &file);
        Network::load(&file).unwrap_or_else(|e| panic!("{step} on {}: {e}", name(path)));
    });
}

/// Nodes have names of their own in each graph, values in all graphs that can see each other.
fn names_are_unique(graph: &Graph, around: &HashSet<String>, here: &str) {
    let mut names = HashSet::new();
    for n in graph.nodes().map(|n| graph.node(n)).filter(|n| !n.name.is_empty()) {
        assert!(names.insert(&n.name), "{here}: two nodes are called {}", n.name);
    }
    let mut seen = around.clone();
    for v in graph.values().map(|v| graph.value(v)).filter(|v| !matches!(v.source, Source::Capture)) {
        assert!(seen.insert(v.name.clone()), "{here}: two values are called {}", v.name);
    }
    graph.nodes().flat_map(|n| graph.node(n).bodies()).for_each(|body| names_are_unique(body, &seen, here));
}

/// Steps of their own for one layer after the other, on a teacher whose names are those that passes would make.
#[test]
fn names_stay_unique_over_runs() {
    let text = "model m opset 13 {
        input %x : f32[N,64]
        input %c : bool[]
        const %stem.fc.weight : f32[64,64] = seed(1)
        const %stage.fc.weight : f32[64,64] = seed(2)
        const %w : f32[64,64] = seed(3)
        %a : f32[N,64] = MatMul(%x, %stem.fc.weight) @fc.left
        %b : f32[N,64] = MatMul(%a, %stage.fc.weight) @fc
        %d : f32[N,64] = MatMul(%b, %w) @w.index
        %y : f32[N,64] = If(%c) @if {
            then_branch \"then\" {
                %w.codes : f32[N,64] = Relu(%d) @digits16
                output %w.codes
            }
            else_branch \"else\" {
                %fc.right : f32[N,64] = Neg(%d) @fc.left.left
                output %fc.right
            }
        }
        output %y
    }";
    let steps = [
        "factorize-linear:rank=8,only=fc",
        "factorize-linear:rank=8,only=fc.left",
        "clean",
        "cluster-weights:bits=4,only=fc.left.*",
        "cluster-weights:bits=4,only=w.index",
        "cluster-weights:bits=4",
    ];
    let mut model = text::parse::model(text).unwrap();
    for step in steps {
        let recipe = Recipe { steps: vec![Step::parse(step).unwrap()], ..Recipe::default() };
        let done = compress(&model, 0, &recipe, None, &Silent).unwrap_or_else(|e| panic!("{step}: {e}"));
        model = onnx::decode(onnx::to_bytes(&done.student).unwrap().into(), None).unwrap().model;
        model.graph.verify().unwrap_or_else(|e| panic!("{step}: {e}"));
    }
}

/// Names of 4 kB in the teacher are not what the student is made of.
#[test]
fn long_names_make_no_student_larger() {
    let long = |name: &str| format!("\"{}{name}\"", "long/".repeat(800));
    let [w, v, a, fc] = ["w", "v", "a", "fc"].map(long);
    let text = format!(
        "model m opset 13 {{
            input %x : f32[N,32]
            const %{w} : f32[32,32] = seed(1)
            const %{v} : f32[32,32] = seed(2)
            %{a} : f32[N,32] = MatMul(%x, %{w}) @{fc}
            %y : f32[N,32] = MatMul(%{a}, %{v})
            output %y
        }}"
    );
    let teacher = text::parse::model(&text).unwrap();
    let before = onnx::encoded_len(&teacher).unwrap();
    for step in ["clean", "cluster-weights:min-weights=1", "factorize-linear:rank=4,min-weights=1"] {
        let recipe = Recipe { steps: vec![Step::parse(step).unwrap()], ..Recipe::default() };
        let student = compress(&teacher, before, &recipe, None, &Silent).unwrap().student;
        let after = onnx::encoded_len(&student).unwrap();
        assert!(after <= before, "{step}: {before} to {after} bytes");
    }
}

/// What was done is in the file, once, in few bytes, and nothing is where nothing was done.
#[test]
fn a_student_says_how_it_was_made() {
    let path = &teachers()[0];
    let teacher = onnx::load(path).unwrap().model;
    let carried = |m: &Model| m.carried.concat();
    let says = |m: &Model, what: &str| String::from_utf8_lossy(&carried(m)).matches(what).count();
    assert_eq!(carried(&run(&teacher, "none").student), carried(&teacher));
    let once = run(&teacher, "prune-weights").student;
    let twice = common::run(&once, "[{ pass = \"prune-weights\", sparsity = 0.75 }]").unwrap().student;
    for student in [&once, &twice] {
        assert_eq!(says(student, "prune-weights"), 1);
        assert!(says(student, "; recipe ") == 1 && carried(student).len() < carried(&teacher).len() + 200);
    }
    assert_eq!(onnx::to_bytes(&once).unwrap(), onnx::to_bytes(&run(&teacher, "prune-weights").student).unwrap());
}

#[test]
fn same_bytes_whatever_the_threads() {
    let with = |threads: usize, f: &(dyn Fn() -> Vec<u8> + Sync)| {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(f)
    };
    for path in teachers() {
        let teacher = onnx::load(&path).unwrap().model;
        for step in steps() {
            let bytes = || onnx::to_bytes(&run(&teacher, step).student).unwrap();
            assert!(with(1, &bytes) == with(2, &bytes), "{step} on {}", name(&path));
        }
    }
}

#[test]
fn exact_passes_are_exact() {
    let folder = tempfile::tempdir().unwrap();
    each(|path, teacher, step| {
        if step != "clean" && make(step).fidelity() != Fidelity::Exact {
            return;
        }
        let file = folder.path().join(format!("{step}-{}", path.file_name().unwrap().to_string_lossy()));
        save(&run(teacher, step).student, &file);
        for (want, got) in answers(path).iter().zip(answers(&file)) {
            let (want, got) = (want.to_f64(), got.to_f64());
            let scale = want.iter().fold(1.0f64, |m, v| m.max(v.abs()));
            let worst = want.iter().zip(&got).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(want.len() == got.len() && worst <= 1e-4 * scale, "{step} on {}: off by {worst}", name(path));
        }
    });
}

#[test]
fn exact_passes_find_nothing_twice_and_never_grow_the_file() {
    each(|path, teacher, step| {
        if step != "clean" && make(step).fidelity() != Fidelity::Exact {
            return;
        }
        let first = run(teacher, step);
        let again = run(&first.student, step);
        let done: Vec<_> = again.report.steps[0].rows.iter().filter(|r| r.done).collect();
        assert!(done.is_empty(), "{step} on {} again: {done:?}", name(path));
        // Without what the student says of how it was made.
        let unsigned = Model { carried: teacher.carried.clone(), ..first.student };
        let (before, after) = (path.metadata().unwrap().len(), onnx::encoded_len(&unsigned).unwrap());
        assert!(step != "clean" || after <= before, "{step} on {}: {before} to {after} bytes", name(path));
    });
}

/// What a removed Identity gave was declared with a shape: all that read the same value see it at once.
#[test]
fn a_declared_shape_reaches_all_readers() {
    let text = "model m opset 17, my 1 {
        input %x : f32[1,4,6]
        %v : ? = my.Mystery(%x)
        %y : f32[1,4,6] = Identity(%v)
        %r : ? = Relu(%v)
        %s : ? = Shape(%r)
        %z : f32[3] = Cast<to=1>(%s)
        output %y
        output %z
    }";
    let model = text::parse::model(text).unwrap();
    let first = run(&model, "clean").student;
    let again = run(&first, "clean").student;
    assert_eq!(text::print::model(&first), text::print::model(&again));
    assert!(!text::print::model(&first).contains("Shape("), "{}", text::print::model(&first));
}

#[test]
fn the_report_is_what_the_file_says() {
    let folder = tempfile::tempdir().unwrap();
    each(|path, teacher, step| {
        let outcome = run(teacher, step);
        let file = folder.path().join(format!("{step}-{}", path.file_name().unwrap().to_string_lossy()));
        save(&outcome.student, &file);
        let written = onnx::load(&file).unwrap();
        let recount = measure(&written.model).unwrap();
        assert_eq!(outcome.report.student, recount, "{step} on {}", name(path));
        let last = outcome.report.steps[0].rows.iter().rev().find_map(|r| r.cost);
        // Rows of channels that go together tell what each alone would save, before what nobody reads any more is swept up.
        let alone = step == "prune-channels" || last.is_none_or(|(_, now)| now == recount.cost);
        assert!(alone, "{step} on {}: {last:?}", name(path));
        assert_eq!(recount.bytes, file.metadata().unwrap().len(), "{step} on {}", name(path));
    });
}

#[test]
fn text_and_file_read_back_as_they_were_written() {
    each(|path, teacher, step| {
        let student = run(teacher, step).student;
        let printed = text::print::model(&student);
        let parsed = text::parse::model(&printed).unwrap_or_else(|e| panic!("{step} on {}: {e}", name(path)));
        assert!(text::print::model(&parsed) == printed, "{step} on {}: text", name(path));
        let bytes = onnx::to_bytes(&student).unwrap();
        let decoded = onnx::decode(bytes.clone().into(), None).unwrap().model;
        assert!(onnx::to_bytes(&decoded).unwrap() == bytes, "{step} on {}: file", name(path));
    });
}

/// Text IR, how many nodes read each weight, and the inputs with their shapes.
type SharedNetwork = (String, usize, Vec<(&'static str, Vec<usize>)>);

/// Networks all of whose weights are read more than once, from a seed: siamese towers, a layer that is repeated, an unrolled
/// cell.
fn shared(seed: usize) -> Vec<SharedNetwork> {
    let bias = |name: &str, with: bool| if with { format!(", %{name}") } else { String::new() };
    let s = |i: usize| seed * 10 + i;
    let b = bias("b", seed.is_multiple_of(2));
    let tower = |x: &str| {
        format!(
            "%{x}1 : ? = Conv<pads=[1,1,1,1]>(%{x}, %w1{b}) @{x}.first
             %{x}2 : ? = Relu(%{x}1)
             %{x}3 : ? = Conv<strides=[2,2]>(%{x}2, %w2) @{x}.second
             %{x}4 : ? = Flatten(%{x}3)
             %y{x} : f32[N,12] = Gemm(%{x}4, %w3) @{x}.last
             output %y{x}\n"
        )
    };
    let siamese = format!(
        "input %a : f32[N,4,7,7] input %c : f32[N,4,7,7]
         const %w1 : f32[12,4,3,3] = seed({}) const %b : f32[12] = seed({})
         const %w2 : f32[12,12,3,3] = seed({}) const %w3 : f32[108,12] = seed({})\n{}{}",
        s(1),
        s(2),
        s(3),
        s(4),
        tower("a"),
        tower("c")
    );
    let layers = 2 + seed % 3;
    let mut repeated = format!(
        "input %h0 : f32[N,5,24] const %q : f32[24,24] = seed({}) const %up : f32[24,48] = seed({})
         const %down : f32[48,24] = seed({}) const %b : f32[48] = seed({})\n",
        s(1),
        s(2),
        s(3),
        s(4)
    );
    for i in 0..layers {
        let add = if seed.is_multiple_of(2) {
            format!("%u{i} : ? = Add(%v{i}, %b)")
        } else {
            format!("%u{i} : ? = Abs(%v{i})")
        };
        let next = i + 1;
        repeated += &format!(
            "%p{i} : ? = MatMul(%h{i}, %q) %s{i} : ? = Add(%h{i}, %p{i}) %t{i} : ? = Tanh(%s{i})
             %v{i} : ? = MatMul(%t{i}, %up) {add} %r{i} : ? = Relu(%u{i}) %d{i} : ? = MatMul(%r{i}, %down)
             %e{i} : ? = Add(%t{i}, %d{i}) %h{next} : f32[N,5,24] = Tanh(%e{i})\n"
        );
    }
    repeated += &format!("output %h{layers}\n");
    let steps = 3 + seed % 4;
    let mut cell = format!(
        "input %x : f32[N,16] input %h0 : f32[N,32] const %wx : f32[32,16] = seed({}) const %wh : f32[32,32] = seed({})
         const %b : f32[32] = seed({})\n",
        s(1),
        s(2),
        s(3)
    );
    for i in 0..steps {
        let next = i + 1;
        cell += &format!(
            "%i{i} : ? = Gemm<transB=1>(%x, %wx{b}) %g{i} : ? = Gemm<transB=1>(%h{i}, %wh) %s{i} : ? = Add(%i{i}, %g{i})
             %h{next} : f32[N,32] = Tanh(%s{i})\n"
        );
    }
    cell += &format!("output %h{steps}\n");
    vec![
        (siamese, 2, vec![("a", vec![4, 7, 7]), ("c", vec![4, 7, 7])]),
        (repeated, layers, vec![("h0", vec![5, 24])]),
        (cell, steps, vec![("x", vec![16]), ("h0", vec![32])]),
    ]
}

/// Samples of standard noise.
fn noise(shape: &[usize], samples: usize, seed: u64) -> Array {
    let shape = [&[samples], shape].concat();
    let values: Vec<f32> = random::noise(seed).map(|v| v as f32).take(shape.iter().product()).collect();
    Array::from_f32(shape, &values).unwrap()
}

/// The steps that change the function, such that they find something to do in small networks.
const LOSSY: [&str; 10] = [
    "pass = \"separate-convs\", rank = 1, skip-first = 0",
    "pass = \"factorize-linear\", ratio = 0.5, min-weights = 1, min-side = 4",
    "pass = \"prune-inputs\", ratio = 0.5, min-weights = 1",
    "pass = \"prune-inputs\", params = 0.6, best-effort = true, min-weights = 1",
    "pass = \"factorize-linear\", params = 0.6, best-effort = true, min-weights = 1, min-side = 4",
    "pass = \"factorize-convs\", rank = 2, skip-first = 0",
    "pass = \"factorize-convs\", scheme = \"channel\", skip-first = 0",
    "pass = \"prune-channels\", width-mult = 0.5, skip-first = 0",
    "pass = \"prune-weights\", sparsity = 0.5, min-weights = 1",
    "pass = \"cluster-weights\", bits = 4, min-weights = 512",
];

/// What shares a weight shares it afterwards, stored once, and computes the same: twins stay twins.
#[test]
fn shared_weights_stay_shared() {
    use rayon::prelude::*;
    let nets: Vec<_> = (0..2).flat_map(shared).collect();
    let cases: Vec<_> = nets.iter().flat_map(|net| LOSSY.iter().map(move |step| (net, step))).collect();
    cases.par_iter().for_each(|((net, readers, inputs), step)| {
        let teacher =
            text::parse::model(&format!("model m opset 17 {{ {net} }}")).unwrap_or_else(|e| panic!("{net}: {e}"));
        let arrays = inputs.iter().zip(1..).map(|((name, shape), i)| (name.to_string(), noise(shape, 60, i)));
        let data = Dataset::from_arrays("noise", arrays.collect::<Vec<_>>());
        let calibration = Calibration::new(&data, &Normalise::default(), &teacher, 60).unwrap();
        let before = onnx::encoded_len(&teacher).unwrap();
        for calibration in [None, Some(&calibration)] {
            let recipe = common::recipe(&format!("[{{ {step} }}]"));
            let data = Data { calibration, ..Data::default() };
            let done =
                compress_on(data, &teacher, before, &recipe, None, &Silent).unwrap_or_else(|e| panic!("{step}: {e}"));
            let student = &done.student.graph;
            let place = || format!("{step}, data: {}\n{}", calibration.is_some(), text::print::model(&done.student));
            let mut weights = std::collections::HashMap::new();
            for n in
                student.nodes().filter(|&n| matches!(student.node(n).op, Op::Conv(_) | Op::Gemm(_) | Op::MatMul(_)))
            {
                *weights.entry(student.input(n, 1).unwrap()).or_insert(0) += 1;
            }
            assert!(weights.values().all(|n| n == readers), "{}", place());
            // Zeros take as much as other weights, and a fit may add a bias.
            let unsigned = Model { carried: teacher.carried.clone(), ..done.student.clone() };
            let smaller = onnx::encoded_len(&unsigned).unwrap() <= before;
            assert!(smaller || step.contains("prune-weights") && calibration.is_some(), "{}", place());
            if inputs.iter().any(|i| i.0 == "a") {
                let network = Network::from_bytes("m", &onnx::to_bytes(&done.student).unwrap()).unwrap();
                let [x, z] = [8, 9].map(|seed| noise(&inputs[0].1, 1, seed));
                let [one, other] = [[&x, &z], [&z, &x]].map(|i| network.run(&i.map(Array::clone)).unwrap());
                assert!(one[0].bytes() == other[1].bytes() && one[1].bytes() == other[0].bytes(), "{}", place());
            }
        }
    });
}

/// Steps with a budget, such that they find something to do in small networks.
const BUDGETS: [&str; 9] = [
    "pass = \"separate-convs\", params = 0.8, skip-first = 0",
    "pass = \"factorize-linear\", macs = 0.6, min-weights = 1, min-side = 4",
    "pass = \"factorize-convs\", params = 0.8, skip-first = 0",
    "pass = \"factorize-convs\", scheme = \"auto\", macs = 0.8, skip-first = 0",
    "pass = \"prune-channels\", params = 0.6, skip-first = 0",
    "pass = \"prune-inputs\", params = 0.7, min-weights = 1",
    "pass = \"shrink\", params = 0.6, min-weights = 1, factorize-linear = { min-side = 4 }",
    "pass = \"cluster-weights\", size = 0.2",
    "pass = \"cluster-weights\", size = 0.2, encode = false",
];

/// Runs a step and what the report says it came to: both make the same student.
fn resolves(data: &dyn Fn() -> Data<'static>, teacher: &Model, step: &str, place: &str) {
    let run = |recipe: &Recipe| {
        let done = compress_on(data(), teacher, 0, recipe, None, &Silent).unwrap_or_else(|e| panic!("{place}: {e}"));
        (onnx::to_bytes(&done.student).unwrap(), done.report)
    };
    let (bytes, report) = run(&common::recipe(&format!("[{{ {step}, best-effort = true }}]")));
    let resolved = Recipe::parse(&report.recipe, "resolved").unwrap_or_else(|e| panic!("{place}: {e}"));
    let (again, same) = run(&resolved);
    assert!(bytes == again, "{place}:\n{}\n{}\n{}", report.recipe, report.text(), same.text());
    assert_eq!(report.recipe, same.recipe, "{place}");
    // What was chosen is no miss a second time; where nothing could be, it is.
    let decided = resolved.steps.iter().any(|step| step.options.values().any(toml::Value::is_table));
    assert_eq!(same.missed.len(), if decided { 0 } else { report.missed.len() }, "{place}");
}

#[test]
fn what_a_budget_chose_makes_the_same_student() {
    use rayon::prelude::*;
    let nets = shared(0);
    let cases: Vec<_> = nets.iter().flat_map(|net| BUDGETS.iter().map(move |step| (net, step))).collect();
    cases.par_iter().for_each(|((net, _, inputs), step)| {
        let teacher = text::parse::model(&format!("model m opset 17 {{ {net} }}")).unwrap();
        let arrays = inputs.iter().zip(1..).map(|((name, shape), i)| (name.to_string(), noise(shape, 60, i)));
        let data: &'static Dataset = Box::leak(Box::new(Dataset::from_arrays("noise", arrays.collect::<Vec<_>>())));
        let calibration = Calibration::new(data, &Normalise::default(), &teacher, 60).unwrap();
        let calibration: &'static Calibration<'static> = Box::leak(Box::new(calibration));
        resolves(&Data::default, &teacher, step, &format!("{step}\n{net}"));
        let with = || Data { calibration: Some(calibration), ..Data::default() };
        resolves(&with, &teacher, step, &format!("{step}, with data\n{net}"));
    });
    let path = common::root().join("fixtures/lenet5.onnx");
    let teacher = onnx::load(&path).unwrap().model;
    BUDGETS.par_iter().for_each(|step| resolves(&Data::default, &teacher, step, &format!("{step} on lenet5")));
}

/// Nodes that read a value, and those that read what these make of it where it is all that is not constant.
fn all_readers(graph: &Graph, v: ValueId) -> Vec<String> {
    let mut found = Vec::new();
    for n in graph.readers(v) {
        found.push(graph.label(n).to_string());
        let is_alone = |other: ValueId| other == v || graph.value(other).constant().is_some();
        if let Some(y) = graph.output(n)
            && graph.node_inputs(n).into_iter().flatten().all(is_alone)
        {
            found.push(graph.value(y).name.clone());
            found.extend(all_readers(graph, y));
        }
    }
    found
}

/// Constant float tensors that nodes of a graph and of the bodies in it read: names, elements, and the nodes.
fn float_tensors(graph: &Graph) -> Vec<(String, usize, Vec<String>)> {
    let float = |v: &_| graph.value(*v).constant().is_some_and(|t| t.dtype().is_float()) && graph.is_used(*v);
    let tensor =
        |v| (graph.value(v).name.clone(), graph.value(v).constant().map_or(0, |t| t.len()), all_readers(graph, v));
    let own = graph.values().filter(float).map(tensor);
    let inner = graph.nodes().flat_map(|n| graph.node(n).bodies()).flat_map(float_tensors);
    own.chain(inner).collect()
}

/// Of every constant float tensor that is large enough, each pass that changes weights says in a row what it did or why it did
/// nothing: in one of the tensor or of a layer that reads it.
#[test]
fn every_weight_has_a_row() {
    use rayon::prelude::*;
    let loaded = teachers().into_iter().map(|path| (name(&path), onnx::load(&path).unwrap().model));
    let written = common::files("tests/passes", "ir").into_iter().filter_map(|path| {
        let file = std::fs::read_to_string(&path).unwrap();
        let given = file.split("---- expect").next()?.split("---- error").next()?;
        Some((name(&path), text::parse::model(given).ok()?))
    });
    let models: Vec<(String, Model)> = loaded.chain(written).chain(common::zoo()).collect();
    let passes = REGISTRY.iter().map(|e| make(e.name)).filter(|p| p.fidelity() == Fidelity::Approximate);
    let passes: Vec<_> = passes.filter(|p| !p.only_repairs()).collect();
    let cases: Vec<_> = models.iter().flat_map(|model| passes.iter().map(move |pass| (model, pass))).collect();
    cases.par_iter().for_each(|((place, model), pass)| {
        let Ok(done) = common::run(model, &format!("[{{ pass = \"{}\" }}]", pass.name())) else { return };
        let rows = &done.report.steps[0].rows;
        let least = pass.selection().min_weights.max(512);
        for (tensor, len, readers) in float_tensors(&model.graph).into_iter().filter(|t| t.1 >= least) {
            let about = |site: &str| site == tensor || readers.iter().any(|r| site.split(" + ").any(|part| part == r));
            let said = rows.iter().any(|row| about(&row.site) && !row.note.is_empty());
            assert!(said, "{} says nothing of \"{tensor}\" ({len} elements) in {place}", pass.name());
        }
    });
}

/// A model of two calls of a function with an attribute, each after the other, with notes of where its nodes come from.
fn with_functions() -> Vec<u8> {
    use common::proto::{bytes, input, int, output};
    let named = |name: &str, more: Vec<u8>| [bytes(1, name), more, int(20, 1)].concat();
    let float = |v: f32| [vec![2 << 3 | 5], v.to_le_bytes().to_vec()].concat();
    let slope = bytes(5, named("alpha", bytes(21, "slope")));
    let leaky = [bytes(1, "a"), bytes(2, "m"), bytes(3, "leaky"), bytes(4, "LeakyRelu"), slope].concat();
    let add = [bytes(1, "m"), bytes(1, "m"), bytes(2, "b"), bytes(4, "Add")].concat();
    let function = [
        [bytes(1, "twice"), bytes(4, "a"), bytes(5, "b")].concat(),
        [bytes(7, leaky), bytes(7, add), bytes(9, int(2, 21)), bytes(10, "my")].concat(),
        bytes(11, named("slope", float(0.25))),
    ];
    let call = |name: &str, x: &str, y: &str, more: Vec<u8>| {
        let trace = bytes(9, [bytes(1, "stack_trace"), bytes(2, "line of some file ".repeat(20))].concat());
        bytes(1, [bytes(1, x), bytes(2, y), bytes(3, name), bytes(4, "twice"), bytes(7, "my"), trace, more].concat())
    };
    let first = call("first", "x", "h", bytes(5, named("slope", float(0.5))));
    let graph = [first, call("second", "h", "y", Vec::new()), input("x"), output("y")].concat();
    let opsets = [bytes(8, int(2, 21)), bytes(8, [bytes(1, "my"), int(2, 1)].concat())].concat();
    [int(1, 10), bytes(7, graph), opsets, bytes(25, function.concat())].concat()
}

#[test]
fn local_functions_become_what_they_do() {
    let teacher = onnx::decode(with_functions().into(), None).unwrap().model;
    let student = run(&teacher, "clean").student;
    let text = text::print::model(&student);
    assert!(text.contains("LeakyRelu<alpha=0.5>(%x)") && text.contains("LeakyRelu<alpha=0.25>(%h)"), "{text}");
    assert!(!text.contains("my.twice"), "{text}");
    assert_eq!(onnx::decode(onnx::to_bytes(&student).unwrap().into(), None).unwrap().model.graph.nodes().count(), 4);
}

#[test]
fn metadata_goes_unless_it_is_kept() {
    let teacher = onnx::decode(with_functions().into(), None).unwrap().model;
    let traced = |step: &str| {
        let student = common::run(&teacher, step).unwrap().student;
        String::from_utf8_lossy(&onnx::to_bytes(&student).unwrap()).contains("line of some file")
    };
    assert!(traced("[{ pass = \"none\" }]") && traced("[{ pass = \"fold-constants\" }]"));
    assert!(!traced("[{ pass = \"remove-metadata\" }]"));
}

/// What an error says is the least of a budget can be asked for, and less than that cannot.
#[test]
fn the_least_that_is_named_can_be_asked_for() {
    use rayon::prelude::*;
    let budgets = [
        ("prune-inputs", "params"),
        ("factorize-linear", "params"),
        ("factorize-convs", "params"),
        ("separate-convs", "params"),
        ("shrink", "params"),
        ("prune-channels", "params"),
        ("cluster-weights", "size"),
    ];
    let small = |p: &std::path::PathBuf| std::fs::metadata(p).is_ok_and(|m| m.len() < 300_000);
    let loaded = teachers().into_iter().filter(small).map(|p| (name(&p), onnx::load(&p).unwrap().model));
    let models: Vec<(String, Model)> = loaded.chain(common::zoo()).collect();
    let cases: Vec<_> = models.iter().flat_map(|m| budgets.map(|b| (m, b))).collect();
    let asked = std::sync::atomic::AtomicUsize::new(0);
    let wrong = cases.par_iter().filter_map(|((name, model), (pass, key))| {
        let ask = |percent: f64| {
            let step = format!("{{ pass = \"{pass}\", {key} = \"{percent:.1}%\", min-weights = 1 }}");
            common::run(model, &format!("[{{ pass = \"clean\" }}, {step}]"))
        };
        let said = ask(0.1).err()?.to_string();
        let number = |said: &str| said.split_once("%\"")?.0.rsplit_once('"')?.1.parse::<f64>().ok();
        let least = said.split_once("ask for").and_then(|(_, said)| number(said))?;
        asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        // What goes with channels, as the indices of a Gather, is known once they are chosen; scales of integers when they
        // are stored again.
        let exact = *pass != "prune-channels" && !name.contains("integers");
        let why = match ask(least) {
            _ if !(0.1..=100.0).contains(&least) => "is no share".into(),
            Err(e) => e.to_string(),
            Ok(outcome) if exact && !outcome.report.missed.is_empty() => outcome.report.missed.join(", "),
            Ok(_) if least >= 0.4 && ask(least - 0.3).is_ok_and(|o| o.report.missed.is_empty()) => {
                "is not the least".into()
            }
            Ok(_) => return None,
        };
        Some(format!("{pass} on {name}: {key} = {least}% {why}"))
    });
    let wrong: Vec<String> = wrong.collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let asked = asked.into_inner();
    assert!(asked > 60, "{asked} of {} budgets were refused", cases.len());
}
