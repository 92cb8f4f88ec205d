//! The stage `distill`: that students learn, and that what they are stays.
#![cfg(feature = "exec")]

mod common;

use common::{recipe, root};
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::Command;
use tutee::compress::{Data, Observer, Outcome, Silent, Training, compress_on};
use tutee::data::{Dataset, Normalise};
use tutee::ir::{Graph, Model, text};
use tutee::onnx;
use tutee::report::Report;

/// Reads 14 × 14 of an image of Fashion-MNIST.
const TEACHER: &str = "model teacher opset 17 {
    input %x : f32[N,1,28,28]
    const %w1 : f32[8,1,3,3] = seed(1) const %b1 : f32[8]
    const %w2 : f32[8,8,3,3] = seed(2) const %b2 : f32[8]
    const %w4 : f32[10,8] = seed(4) const %b4 : f32[10]
    const %low : f32[] = {0} const %high : f32[] = {6}
    %c1 : ? = Conv<pads=[1,1,1,1], strides=[2,2]>(%x, %w1, %b1)
    %a1 : ? = Relu(%c1)
    %p1 : ? = MaxPool<kernel_shape=[2,2], strides=[2,2]>(%a1)
    %c2 : ? = Conv<pads=[1,1,1,1]>(%p1, %w2, %b2)
    %a2 : ? = Clip(%c2, %low, %high)
    %g : ? = GlobalAveragePool(%a2)
    %f : ? = Flatten(%g)
    %y : f32[N,10] = Gemm<transB=1>(%f, %w4, %b4)
    output %y
}";

const DATA: &str = "fixtures/fashion_test.npz";

fn normalise() -> Normalise {
    Normalise::new(1.0 / 255.0, vec![0.286], vec![0.353]).unwrap()
}

fn teacher() -> Model {
    text::parse::model(TEACHER).unwrap()
}

fn run(model: &Model, steps: &str, observer: &dyn Observer, checkpoints: Option<&Path>) -> tutee::Result<Outcome> {
    let data = Dataset::load(&root().join(DATA)).unwrap();
    let mut training = Training::new(&data, &normalise(), model)?;
    if let Some(folder) = checkpoints {
        training = training.with_checkpoints(folder.to_path_buf());
    }
    let data = Data { training: Some(&training), ..Data::default() };
    compress_on(data, model, onnx::encoded_len(model)?, &recipe(steps), None, observer)
}

fn done(model: &Model, steps: &str) -> Outcome {
    run(model, steps, &Silent, None).unwrap_or_else(|e| panic!("{steps}: {e}"))
}

/// Trains on labels for two passes: the same network, but for numbers.
fn trained(text: &str) -> [Model; 2] {
    let before = text::parse::model(text).unwrap();
    let after = done(&before, &format!("[{{ stage = 'distill', teachers = [], epochs = 2, {SHORT} }}]")).student;
    assert_eq!(structure(&before), structure(&after));
    [before, after]
}

fn constant(graph: &Graph, name: &str) -> Vec<f64> {
    graph.value(graph.find_value(name).unwrap_or_else(|| panic!("no {name}"))).constant().unwrap().floats().unwrap()
}

/// The text form, without the numbers of constants.
fn structure(model: &Model) -> String {
    common::printed(model).lines().map(|l| l.split(" = {").next().unwrap_or("").to_string() + "\n").collect()
}

#[test]
fn shared_weights_stay_shared() {
    let text = TEACHER.replace("const %w4", "const %s : f32[8,8] = seed(3) const %w4").replace(
        "%y : f32[N,10] = Gemm<transB=1>(%f,",
        "%h : ? = MatMul(%f, %s)
        %i : ? = MatMul(%h, %s)
        %y : f32[N,10] = Gemm<transB=1>(%i,",
    );
    let before = text::parse::model(&text).unwrap();
    let after = done(&before, &format!("[{{ stage = 'distill', teachers = [], epochs = 4, {SHORT} }}]")).student;
    assert_eq!(structure(&before), structure(&after));
    assert_ne!(constant(&before.graph, "s"), constant(&after.graph, "s"));
}

const SHORT: &str = "batch = 45, learning-rate = 0.01";

#[test]
fn what_the_file_has_stays() {
    let teacher = teacher();
    let steps = format!(
        "[{{ pass = 'prune-weights', min-weights = 0, repair = 'none' }}, {{ stage = 'distill', epochs = 5, {SHORT} }}]"
    );
    let pruned = done(&teacher, "[{ pass = 'prune-weights', min-weights = 0, repair = 'none' }]").student;
    let Outcome { student, report } = done(&teacher, &steps);
    let step = &report.steps[1];
    assert_eq!(step.curve.len(), 6);
    let loss = |i: usize| step.curve[i].held_back.unwrap();
    assert!(loss(5) < 0.85 * loss(0), "{:?}", step.curve);
    // Zeros are where they were, and nothing else is what it was.
    for name in ["w1", "w2", "w4"] {
        let (before, after) = (constant(&pruned.graph, name), constant(&student.graph, name));
        assert!(before.iter().zip(&after).all(|(a, b)| (*a == 0.0) == (*b == 0.0)), "{name}");
        assert!(before.iter().zip(&after).any(|(a, b)| a != b), "{name}");
    }
    // Normalised while training, and folded.
    assert_eq!(structure(&pruned), structure(&student));
    let said: Vec<&str> = step.rows.iter().map(|r| r.note.as_str()).collect();
    assert!(said.iter().any(|n| n.contains("2 convolutions were normalised")), "{said:?}");
    assert!(said.iter().any(|n| n.contains("3 of the constants kept their zeros")), "{said:?}");
}

/// With a Floor: nothing is known of its gradient, and what it gives is not steep anywhere.
fn floored() -> String {
    let text =
        TEACHER.replace("MaxPool<", "Floor(%a1) %p1 : ? = MaxPool<").replace("%p1 : ? = Floor", "%s1 : ? = Floor");
    text.replace("strides=[2,2]>(%a1)", "strides=[2,2]>(%s1)")
}

#[test]
fn codebooks_train_with_their_codes_or_without() {
    let prune = "{ pass = 'prune-weights', min-weights = 0, repair = 'none' }";
    let cluster = "{ pass = 'cluster-weights', bits = 2, groups = 1, only = 'c2', repair = 'none' }";
    let run = |teacher: &Model, steps: &str, reassign| {
        let stage =
            format!("{{ stage = 'distill', epochs = 5, reassign = {reassign}, batch = 45, learning-rate = 0.05 }}");
        let [before, after] = ["", &stage].map(|stage| done(teacher, &format!("[{steps}, {stage}]")).student);
        assert_eq!(structure(&before), structure(&after));
        let [a, b] = [&before, &after].map(|m| constant(&m.graph, "w2.books"));
        let codes = |m: &Model| m.graph.value(m.graph.find_value("w2.codes").unwrap()).constant().unwrap().clone();
        assert!(a != b, "{a:?}");
        // What is pruned stays zero, and so does its centroid.
        assert!(a.iter().zip(&b).all(|(a, b)| (*a == 0.0) == (*b == 0.0)), "{a:?} {b:?}");
        codes(&before) == codes(&after)
    };
    assert!(run(&teacher(), &format!("{prune}, {cluster}"), false));
    assert!(!run(&teacher(), &format!("{prune}, {cluster}"), true));
    assert!(!run(&teacher(), cluster, true));
    // Where a part is frozen, too.
    assert!(!run(&text::parse::model(&floored()).unwrap(), cluster, true));
}

#[test]
fn the_number_of_threads_does_not_matter() {
    let train = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let steps = "[{ stage = 'distill', steps = 7, batch = 30, augment = ['flip', 'crop:2'] }]";
        pool.install(|| onnx::to_bytes(&done(&teacher(), steps).student).unwrap())
    };
    assert!(train(1) == train(2));
}

/// Ends the training in its second epoch.
#[derive(Default)]
struct Impatient(Cell<usize>);

impl Observer for Impatient {
    fn goes_on(&self) -> bool {
        self.0.set(self.0.get() + 1);
        self.0.get() < 9
    }
}

#[test]
fn an_interrupted_training_goes_on() {
    let steps = format!("[{{ stage = 'distill', epochs = 3, augment = 'crop:1', {SHORT} }}]");
    let whole = done(&teacher(), &steps);
    let folder = tempfile::tempdir().unwrap();
    let cut = run(&teacher(), &steps, &Impatient::default(), Some(folder.path())).unwrap();
    assert!(cut.report.steps[0].curve.len() == 3 && cut.student.graph.verify().is_ok());
    let resumed = run(&teacher(), &steps, &Silent, Some(folder.path())).unwrap();
    assert_eq!(resumed.report, whole.report);
    assert!(onnx::to_bytes(&resumed.student).unwrap() == onnx::to_bytes(&whole.student).unwrap());
    // What is finished is finished.
    let again = run(&teacher(), &steps, &Impatient(Cell::new(100)), Some(folder.path())).unwrap();
    assert_eq!(again.report, whole.report);

    let other = steps.replace("0.01", "0.02");
    let e = run(&teacher(), &other, &Silent, Some(folder.path())).unwrap_err().to_string();
    assert!(e.contains("of another training"), "{e}");
    let file = folder.path().join("step-1.checkpoint");
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    let e = run(&teacher(), &steps, &Silent, Some(folder.path())).unwrap_err().to_string();
    assert!(e.contains("is damaged"), "{e}");
}

/// Every weight of the first layer goes through calibration, of the samples that are not held back.
#[test]
fn steps_before_training_are_fitted_to_its_data() {
    let steps = |more: &str| {
        let prune = format!("{{ pass = 'prune-channels', width-mult = 0.5, skip-first = 0{more} }}");
        format!("[{prune}, {{ stage = 'distill', steps = 1, {SHORT} }}, {prune}]")
    };
    let report = done(&teacher(), &steps("")).report;
    let said = |step: usize, what: &str| report.steps[step].rows.iter().any(|r| r.note.contains(what));
    assert!(said(0, "calibrated on 270 samples of the training data"), "{:?}", report.steps[0].rows);
    assert!(report.steps[0].rows.iter().any(|r| r.error.is_some()));
    assert!(!said(2, "calibrated on"));
    let without = done(&teacher(), &steps(", repair = 'none', importance = 'l2'")).report;
    let first = |report: &Report| report.steps[1].curve[0].held_back.unwrap();
    assert!(first(&report) < first(&without), "{} {}", first(&report), first(&without));
}

/// A student whose answers are all alike is told of, in the report and in what misses a target.
#[test]
fn a_student_that_knows_nothing_is_told_of() {
    let labels = "teachers = [], steps = 1, batch = 45, learning-rate = 1e-9";
    let dead = text::parse::model(&TEACHER.replace("%w4 : f32[10,8] = seed(4)", "%w4 : f32[10,8]")).unwrap();
    let report = done(&dead, &format!("[{{ stage = 'distill', {labels} }}]")).report;
    assert!(report.ruined[0].contains("all 30 answers of the student are class"), "{:?}", report.ruined);
    assert_eq!(report.warnings, report.ruined);
    let [_, trained] = trained(TEACHER);
    let own = done(&trained, &format!("[{{ stage = 'distill', steps = 1, {SHORT} }}]")).report;
    assert!(own.ruined.is_empty(), "{:?}", own.ruined);
    assert!(own.warnings.is_empty(), "{:?}", own.warnings);
    let wild = done(&trained, "[{ stage = 'distill', steps = 1, batch = 45, learning-rate = 1e30 }]").report;
    assert!(wild.warnings.iter().any(|w| w.contains("no epoch did better")), "{:?}", wild.warnings);
}

#[test]
fn features_are_matched() {
    let steps =
        |more: &str| format!("[{{ stage = 'distill', epochs = 4, labels = false, features = true, {SHORT} }}{more}]");
    let other = text::parse::model(&TEACHER.replace("seed(2)", "seed(7)")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("teacher.onnx");
    onnx::save(&teacher(), &onnx::Target::File(path.clone()), Default::default()).unwrap();
    let steps = steps("").replace("stage =", &format!("teachers = ['{}'], stage =", path.display()));
    let data = Dataset::load(&root().join(DATA)).unwrap();
    let training = Training::new(&data, &normalise(), &other).unwrap().with_teacher(path, teacher());
    let data = Data { training: Some(&training), ..Data::default() };
    let report = compress_on(data, &other, 0, &recipe(&steps), None, &Silent).unwrap().report;
    let said: Vec<&str> = report.steps[0].rows.iter().map(|r| r.note.as_str()).collect();
    assert!(said.contains(&"matched what is read at p1, f"), "{said:?}");
    let curve = &report.steps[0].curve;
    assert!(curve.iter().all(|p| p.accuracy.is_none()));
    assert!(curve[4].held_back.unwrap() < 0.8 * curve[0].held_back.unwrap(), "{curve:?}");
}

/// A network that names a class at each position learns from its teacher there, one that names none what its teacher gives.
#[test]
fn positions_and_plain_outputs_are_trained() {
    let (before, _) = TEACHER.split_once("%g : ? =").unwrap();
    let before = before.replace("%w4 : f32[10,8]", "%w4 : f32[8,10]");
    let positions = "const %s : i64[3] = {0,8,49} %r : ? = Reshape(%a2, %s) %t : ? = Transpose<perm=[0,2,1]>(%r)
        %m : ? = MatMul(%t, %w4)";
    let told = |last: &str, features: &str, more: &str| {
        let text = format!("{before} {positions} {last} output %y }}");
        let [teacher, student] =
            [text.clone(), text.replace("seed(2)", "seed(7)")].map(|t| text::parse::model(&t).unwrap());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("teacher.onnx");
        onnx::save(&teacher, &onnx::Target::File(path.clone()), Default::default()).unwrap();
        let options = format!("teachers = ['{}'], epochs = 4, optimizer = 'lamb', {SHORT}{more}", path.display());
        let data = Dataset::load(&root().join(DATA)).unwrap();
        let training = Training::new(&data, &normalise(), &student).unwrap().with_teacher(path, teacher);
        let run = |options: &str| {
            let data = Data { training: Some(&training), ..Data::default() };
            compress_on(data, &student, 0, &recipe(&format!("[{{ stage = 'distill', {options} }}]")), None, &Silent)
        };
        let refused = run(&format!("{options}, labels = true")).unwrap_err().to_string();
        assert!(refused.contains("labels do not say what the network is to give"), "{refused}");
        let refused = run(&format!("teachers = [], {SHORT}")).unwrap_err().to_string();
        let why = if features.is_empty() {
            "neither labels that it could take nor a teacher"
        } else {
            "no teacher to match values with"
        };
        assert!(refused.contains(why), "{refused}");
        let report = run(&options).unwrap().report;
        let rows: Vec<&str> = report.steps[0].rows.iter().map(|r| r.note.as_str()).collect();
        assert_eq!(
            rows.iter().any(|r| *r == format!("matched what is read at {features}")),
            !features.is_empty(),
            "{rows:?}"
        );
        assert_eq!(rows.contains(&"2 convolutions were normalised while training"), more.is_empty(), "{rows:?}");
        let curve = report.steps[0].curve.clone();
        let lost = |epoch: usize| curve[epoch].held_back.unwrap();
        assert!(lost(4) < 0.8 * lost(0) && curve.iter().all(|p| p.accuracy.is_none()), "{curve:?}");
        [0, 4].map(|epoch: usize| curve[epoch].agreement)
    };
    let [first, last] = told("%y : f32[N,49,10] = Softmax<axis=2>(%m)", "", "");
    assert!(last > first && first.is_some(), "{first:?} {last:?}");
    assert_eq!(told("%y : f32[N,49,10] = Neg(%m)", "y", ", batch-norm = false"), [None; 2]);
}

#[test]
fn the_style_of_mobilenet_is_trained() {
    let steps = "{ pass = 'separate-convs', style = 'mobilenet', skip-first = 1 }";
    let e = recipe(&format!("[{steps}]")).plan().unwrap_err().to_string();
    assert!(e.contains("`style` must be trained") && e.contains("add a step `distill`"), "{e}");
    let outcome = done(&teacher(), &format!("[{steps}, {{ stage = 'distill', epochs = 4, {SHORT} }}]"));
    let text = common::printed(&outcome.student);
    // The normalization is folded into the depthwise convolution; the activation is between the two and not behind them.
    let kinds =
        text.lines().filter(|l| !l.contains("const")).filter_map(|l| l.split(" = ").nth(1)?.split(['<', '(']).next());
    let kinds: Vec<&str> = kinds.collect();
    let want = ["Conv", "Relu", "MaxPool", "Conv", "Clip", "Conv", "GlobalAveragePool", "Flatten", "Gemm"];
    assert_eq!(kinds, want, "{text}");
    let curve = &outcome.report.steps[1].curve;
    assert!(curve[4].held_back < curve[0].held_back, "{curve:?}");

    // So it is if a normalization that is not folded yet, or the pooling, is before the activation, whichever that is.
    let normalised =
        "const %s : f32[8] = seed(6) const %o : f32[8] const %m : f32[8] const %v : f32[8] = {1,1,1,1,1,1,1,1}
        %n2 : ? = BatchNormalization(%c2, %s, %o, %m, %v)";
    let slope = "const %slope : f32[8,1,1]";
    for (kind, behind) in [
        ("Tanh", format!("{normalised} %a2 : ? = Tanh(%n2)")),
        ("HardSwish", format!("{normalised} %a2 : ? = HardSwish(%n2)")),
        ("Sigmoid", format!("{normalised} %i2 : ? = Sigmoid(%n2) %a2 : ? = Mul(%n2, %i2)")),
        ("PRelu", format!("{slope} %a2 : ? = PRelu(%c2, %slope)")),
        ("Elu", "%n2 : ? = MaxPool<kernel_shape=[2,2]>(%c2) %a2 : ? = Elu(%n2)".to_string()),
    ] {
        let text = TEACHER.replace("%a2 : ? = Clip(%c2, %low, %high)", &behind);
        let model = text::parse::model(&text).unwrap();
        let other = done(&model, &format!("[{steps}, {{ stage = 'distill', steps = 1, {SHORT} }}]")).student;
        let count = |kind: &str| other.graph.nodes().filter(|&n| other.graph.node(n).kind() == kind).count();
        let counts = ["Clip", kind, "Mul", "BatchNormalization", "Conv"].map(count);
        assert_eq!(counts, [1, 0, 0, 0, 3], "{kind}");
    }

    // An activation that no layer comes after is what the network means.
    let text = TEACHER.replace("%y : f32[N,10] = Gemm<transB=1>(%f, %w4, %b4)", "%y : ? = Identity(%f)");
    let text = text
        .replace("const %w2 : f32[8,8,3,3]", "const %w2 : f32[10,8,3,3]")
        .replace("const %b2 : f32[8]", "const %b2 : f32[10]");
    let text = text.replace("const %w4 : f32[10,8] = seed(4) const %b4 : f32[10]", "");
    let steps_then = format!("[{steps}, {{ stage = 'distill', steps = 1, {SHORT} }}]");
    let outcome = done(&text::parse::model(&text).unwrap(), &steps_then);
    let clips = outcome.student.graph.nodes().filter(|&n| outcome.student.graph.node(n).kind() == "Clip").count();
    assert_eq!(clips, 2);
    let told = "; the activation that ends in \"a2\" stayed, as no layer is between it and an output";
    let rows = &outcome.report.steps[0].rows;
    assert!(rows.iter().any(|r| r.note.ends_with(told)), "{rows:?}");
}

/// As PyTorch writes `x.view(x.size(0), -1)`.
#[test]
fn computed_shapes_are_known_in_training() {
    let text = TEACHER.replace(
        "%f : ? = Flatten(%g)",
        "const %first : i64[] = {0} const %axis : i64[1] = {0} const %rest : i64[1] = {-1}
        %s : ? = Shape(%g) %n : ? = Gather(%s, %first) %u : ? = Unsqueeze(%n, %axis)
        %t : ? = Concat<axis=0>(%u, %rest) %f : ? = Reshape(%g, %t)",
    );
    let [before, after] = trained(&text);
    assert_ne!(constant(&before.graph, "w1"), constant(&after.graph, "w1"));
}

/// Weights that go through computed shapes train; numbers that are frozen with an operator do not, wherever else they are
/// read, and a bias of zeros is one.
#[test]
fn what_trains() {
    let text = TEACHER
        .replace("const %w2 : f32[8,8,3,3] = seed(2)", "const %k2 : f32[8,72] = seed(2) const %one : f32[1] = {1}")
        .replace(
            "%c2 : ? =",
            "const %tail : i64[3] = {8,3,3} const %at : i64[1] = {1}
            %s2 : ? = Shape(%p1) %h2 : ? = Gather(%s2, %at) %t2 : ? = Concat<axis=0>(%h2, %tail)
            %w2 : ? = Reshape(%k2, %t2)
            %c2 : ? =",
        )
        .replace("%a2 : ? = Clip(%c2, %low, %high)", "const %u : i64[1] = {1} %o : ? = Reshape(%one, %u) %a2 : ? = PRelu(%c2, %o)")
        .replace(
            "%y : f32[N,10] = Gemm<transB=1>(%f, %w4, %b4)",
            "const %w3 : f32[8,10] = seed(3) const %b3 : f32[10] %m : ? = MatMul(%f, %w3) %y : f32[N,10] = Add(%m, %b3)",
        );
    let [before, after] = trained(&text);
    for name in ["w1", "k2", "one", "w3", "b3"] {
        assert_ne!(constant(&before.graph, name), constant(&after.graph, name), "{name}");
    }
    // The bias of the first convolution is that of the second, too.
    let shared = TEACHER.replace("%a1 : ? = Relu(%c1)", "%a1 : ? = Floor(%c1)").replace("%w2, %b2", "%w2, %b1");
    let before = text::parse::model(&shared).unwrap();
    let steps = format!("[{{ stage = 'distill', teachers = [], epochs = 2, {SHORT} }}]");
    let Outcome { student, report } = done(&before, &steps);
    assert_eq!(constant(&before.graph, "b1"), constant(&student.graph, "b1"));
    assert_ne!(constant(&before.graph, "w2"), constant(&student.graph, "w2"));
    assert!(report.steps[0].rows.iter().any(|r| !r.done && r.note.ends_with("these stayed: b1")));
}

/// What comes out of an operator that is not known goes by channel: what brings it back to samples is frozen with it.
#[test]
fn what_does_not_go_sample_by_sample_is_frozen() {
    let text = TEACHER.replace(
        "%p1 : ? = MaxPool<kernel_shape=[2,2], strides=[2,2]>(%a1)",
        "%i1 : ? = Transpose<perm=[1,0,2,3]>(%a1) %j1 : ? = Floor(%i1) %k1 : ? = Transpose<perm=[1,0,2,3]>(%j1)
        %p1 : ? = MaxPool<kernel_shape=[2,2], strides=[2,2]>(%k1)",
    );
    let model = text::parse::model(&text).unwrap();
    let Outcome { student, report } = done(&model, &format!("[{{ stage = 'distill', epochs = 2, {SHORT} }}]"));
    assert_eq!(constant(&student.graph, "w1"), constant(&model.graph, "w1"));
    assert_ne!(constant(&student.graph, "w2"), constant(&model.graph, "w2"));
    let said: Vec<&str> = report.steps[0].rows.iter().filter(|r| !r.done).map(|r| r.note.as_str()).collect();
    assert!(
        matches!(said[..], [a, b] if a.starts_with("Floor \"j1\"") && b.starts_with("Transpose \"k1\"")),
        "{said:?}"
    );
}

/// As exporters write a network that has yet to be trained: equal constants are one, and others are copies of it.
#[test]
fn merged_normalization_trains_and_is_folded() {
    let text = TEACHER
        .replace(
            "%a1 : ? = Relu(%c1)",
            "const %one : f32[8] = {1,1,1,1,1,1,1,1} const %zero : f32[8]
            %n1 : ? = BatchNormalization(%c1, %one, %zero, %zero, %one)
            %a1 : ? = Relu(%n1)",
        )
        .replace(
            "%a2 : ? = Clip(%c2,",
            "%i : ? = Identity(%one) %o : ? = Identity(%zero)
            %n2 : ? = BatchNormalization(%c2, %i, %o, %o, %i)
            %a2 : ? = Clip(%n2,",
        );
    let before = text::parse::model(&text).unwrap();
    let Outcome { student, report } =
        done(&before, &format!("[{{ stage = 'distill', teachers = [], epochs = 4, {SHORT} }}]"));
    assert!(!structure(&student).contains("BatchNormalization"), "{}", structure(&student));
    let curve = &report.steps[0].curve;
    assert!(curve[4].held_back < curve[0].held_back, "{curve:?}");
}

/// A file whose batch is one, and which says so where it flattens, too.
#[test]
fn a_batch_of_one_is_trained_in_batches() {
    let text = TEACHER
        .replace("f32[N,", "f32[1,")
        .replace("%f : ? = Flatten(%g)", "const %t : i64[2] = {1,-1} %f : ? = Reshape(%g, %t)");
    let [before, after] = trained(&text);
    assert_ne!(constant(&before.graph, "w1"), constant(&after.graph, "w1"));
}

#[test]
fn weights_in_half_precision_train_behind_casts() {
    let text = TEACHER
        .replace("const %w2 : f32[8,8,3,3]", "const %h2 : f16[8,8,3,3]")
        .replace("%c2 : ? =", "%w2 : ? = Cast<to=1>(%h2) %c2 : ? =");
    let [before, after] = trained(&text);
    assert_ne!(constant(&before.graph, "h2"), constant(&after.graph, "h2"));
}

#[test]
fn what_is_not_finite_is_not_trained() {
    let mut model = teacher();
    let w = model.graph.find_value("w4").unwrap();
    let mut patch = tutee::ir::Patch::at_graph(&model.graph);
    patch.set_constant(w, tutee::ir::Tensor::from_floats(tutee::ir::DType::F32, [10, 8], [f64::NAN; 80]));
    model.graph.apply(patch).unwrap();
    let steps = format!("[{{ stage = 'distill', teachers = [], epochs = 2, {SHORT} }}]");
    let e = run(&model, &steps, &Silent, None).unwrap_err().to_string();
    assert!(e.contains("cannot train the student") && e.contains("\"w4\" has numbers that are not finite"), "{e}");
}

#[test]
fn a_damaged_checkpoint_and_a_folder_that_cannot_be() {
    let (model, steps) = (teacher(), format!("[{{ stage = 'distill', teachers = [], epochs = 1, {SHORT} }}]"));
    let folder = tempfile::tempdir().unwrap();
    run(&model, &steps, &Silent, Some(folder.path())).unwrap();
    let path = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    let bytes = std::fs::read(&path).unwrap();
    let flipped = |at: usize| {
        let mut bytes = bytes.clone();
        bytes[at] ^= 16;
        bytes
    };
    // In the sum, in what it is the course of, in the middle of a list of numbers, and at its end.
    let flipped = [0, 8, bytes.len() / 2, bytes.len() - 1].map(flipped);
    for damaged in [&[], &bytes[..7], &bytes[..bytes.len() - 9]].into_iter().chain(flipped.iter().map(Vec::as_slice)) {
        std::fs::write(&path, damaged).unwrap();
        let e = run(&model, &steps, &Silent, Some(folder.path())).unwrap_err().to_string();
        assert!(e.contains("damaged") && e.contains(&path.display().to_string()), "{e}");
    }
    // A file is in the way: that is found before anything is trained.
    struct Never;
    impl Observer for Never {
        fn site(&self, _: u64, _: u64, what: &str) {
            assert!(!what.contains("epoch"), "{what}");
        }
    }
    let e = run(&model, &steps, &Never, Some(&path)).unwrap_err().to_string();
    assert!(e.contains("cannot make the folder"), "{e}");
}

#[test]
fn what_comes_before_an_unknown_operator_is_frozen() {
    let text = floored();
    let model = text::parse::model(&text).unwrap();
    let steps = format!("[{{ stage = 'distill', epochs = 3, {SHORT} }}]");
    let Outcome { student, report } = done(&model, &steps);
    assert_eq!(constant(&student.graph, "w1"), constant(&model.graph, "w1"));
    assert_ne!(constant(&student.graph, "w2"), constant(&model.graph, "w2"));
    assert_eq!(structure(&student), structure(&model));
    let said: Vec<&str> = report.steps[0].rows.iter().filter(|r| !r.done).map(|r| r.note.as_str()).collect();
    assert!(said.len() == 1 && said[0].starts_with("Floor \"s1\" cannot be trained through ("), "{said:?}");
    let curve = &report.steps[0].curve;
    assert!(curve[3].held_back < curve[0].held_back, "{curve:?}");

    let refused = |text: &str, steps: &str| {
        run(&text::parse::model(text).unwrap(), steps, &Silent, None).unwrap_err().to_string()
    };
    let e = refused(&text, &steps.replace("epochs", "augment = 'flip', epochs"));
    assert!(e.contains("cannot be augmented") && e.contains("Floor"), "{e}");
    let last = TEACHER.replace(
        "%y : f32[N,10] = Gemm<transB=1>(%f, %w4, %b4)",
        "%z : ? = Gemm<transB=1>(%f, %w4, %b4)
        %y : f32[N,10] = Floor(%z)",
    );
    let e = refused(&last, &steps);
    assert!(e.contains("nothing of the student can be trained") && e.contains("Floor \"y\""), "{e}");
}

#[test]
fn a_codebook_of_a_frozen_layer_stays() {
    let codes = |n: usize| (0..n).map(|i| (i * 7 % 11 % 4).to_string()).collect::<Vec<_>>().join(",");
    let (first, second) = (codes(8 * 9), codes(8 * 8 * 9));
    let text = floored()
        .replace(
            "const %w1 : f32[8,1,3,3] = seed(1)",
            &format!(
                "const %book : f32[4] = {{-0.3,-0.1,0.1,0.3}}
                const %k1 : u8[8,1,3,3] = {{{first}}} %i1 : ? = Cast<to=6>(%k1) %w1 : ? = Gather(%book, %i1)"
            ),
        )
        .replace(
            "const %w2 : f32[8,8,3,3] = seed(2)",
            &format!("const %k2 : u8[8,8,3,3] = {{{second}}} %i2 : ? = Cast<to=6>(%k2) %w2 : ? = Gather(%book, %i2)"),
        );
    let before = text::parse::model(&text).unwrap();
    let steps = "[{ stage = 'distill', teachers = [], epochs = 2, batch = 45, learning-rate = 0.001 }]";
    let Outcome { student, report } = done(&before, steps);
    assert_eq!(constant(&student.graph, "book"), constant(&before.graph, "book"));
    assert_ne!(constant(&student.graph, "w4"), constant(&before.graph, "w4"));
    let codes = |m: &Model| m.graph.value(m.graph.find_value("k2").unwrap()).constant().unwrap().clone();
    assert_eq!(codes(&student), codes(&before));
    assert!(report.steps[0].rows.iter().any(|r| r.note.ends_with("these stayed: book")), "{:?}", report.steps[0].rows);

    // Layers before and after, and one between that is its own.
    let text = TEACHER.replace(
        "%c2 : ? = Conv<pads=[1,1,1,1]>(%p1, %w2, %b2)",
        &format!(
            "const %book : f32[4] = {{-0.3,-0.1,0.1,0.3}} const %w3 : f32[8,8,1,1] = seed(5)
            const %k2 : u8[8,8,3,3] = {{{second}}} %i2 : ? = Cast<to=6>(%k2) %v : ? = Gather(%book, %i2)
            %c3 : ? = Conv<pads=[1,1,1,1]>(%p1, %v) %r3 : ? = Floor(%c3)
            %c4 : ? = Conv(%r3, %w3) %c2 : ? = Conv<pads=[1,1,1,1]>(%c4, %v)"
        ),
    );
    let before = text::parse::model(&text).unwrap();
    let student = done(&before, &steps.replace("0.001", "0.00001")).student;
    for (name, same) in [("book", true), ("w1", true), ("w3", false), ("w4", false)] {
        assert_eq!(constant(&student.graph, name) == constant(&before.graph, name), same, "{name}");
    }
}

#[test]
fn weights_that_are_computed_are_told() {
    let text = TEACHER.replace(
        "const %w2 : f32[8,8,3,3] = seed(2)",
        "const %k2 : f32[8,8,3,3] = seed(2) const %two : f32[] = {2} %w2 : ? = Div(%k2, %two)",
    );
    let before = text::parse::model(&text).unwrap();
    let Outcome { student, report } = done(&before, &format!("[{{ stage = 'distill', epochs = 1, {SHORT} }}]"));
    assert_eq!(constant(&student.graph, "k2"), constant(&before.graph, "k2"));
    let told = |note: &str| note == "weights that are computed from constants did not train: by Div \"w2\"";
    assert!(report.steps[0].rows.iter().any(|r| !r.done && told(&r.note)), "{:?}", report.steps[0].rows);

    // Whole numbers that are cast look like shape arithmetic; behind what is frozen, too.
    let codes = (0..8 * 8 * 9).map(|i| (i * 7 % 5 - 2).to_string()).collect::<Vec<_>>().join(",");
    for text in [TEACHER.to_string(), floored()] {
        let text = text.replace(
            "const %w2 : f32[8,8,3,3] = seed(2)",
            &format!("const %k2 : i8[8,8,3,3] = {{{codes}}} %w2 : ? = Cast<to=1>(%k2)"),
        );
        let before = text::parse::model(&text).unwrap();
        let steps = "[{ stage = 'distill', teachers = [], epochs = 1, batch = 45, learning-rate = 0.0001 }]";
        let Outcome { student, report } = done(&before, steps);
        assert_eq!(structure(&student), structure(&before));
        let told = report.steps[0].rows.iter().any(|r| r.note.ends_with("did not train: by Cast \"w2\""));
        assert!(told || text.contains("Floor"), "{:?}", report.steps[0].rows);
        assert_ne!(constant(&student.graph, "w4"), constant(&before.graph, "w4"));
    }
}

#[test]
fn a_cast_to_whole_numbers_is_not_trained_through() {
    let text =
        floored().replace("Floor(%a1)", "Cast<to=6>(%a1) %t1 : ? = Cast<to=1>(%s1)").replace("(%s1)\n", "(%t1)\n");
    let before = text::parse::model(&text).unwrap();
    let Outcome { student, report } = done(&before, &format!("[{{ stage = 'distill', epochs = 1, {SHORT} }}]"));
    assert_eq!(constant(&student.graph, "w1"), constant(&before.graph, "w1"));
    let told = "Cast \"s1\" cannot be trained through (what it makes is not floating-point)";
    assert!(report.steps[0].rows.iter().any(|r| r.note.starts_with(told)), "{:?}", report.steps[0].rows);
}

fn tutee(folder: &Path, line: &str) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tutee"));
    let data = root().join(DATA);
    let line = line.replace("DATA", &data.display().to_string());
    let output = command.args(line.split_whitespace()).current_dir(folder).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn any_network_learns_from_any_teachers() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| -> PathBuf { folder.path().join(name) };
    for (name, text) in [
        ("t.onnx", TEACHER.into()),
        ("s.onnx", TEACHER.replace("seed(2)", "seed(9)")),
        ("i.onnx", TEACHER.replace("%x", "%image")),
    ] {
        let model = text::parse::model(&text).unwrap();
        onnx::save(&model, &onnx::Target::File(at(name)), Default::default()).unwrap();
    }
    let norm = "--scale 1/255 --mean 0.286 --std 0.353";
    let line = format!(
        "distill s.onnx --teacher t.onnx --teacher t.onnx --train DATA -o o.onnx --set steps=3,batch=30 --set seed=1 {norm} \
         --report r.json --depfile o.d --test DATA --max-drop 100%"
    );
    let (code, said) = tutee(folder.path(), &line);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("epoch 1: loss"), "{said}");
    let rule = std::fs::read_to_string(at("o.d")).unwrap();
    assert!(rule.starts_with("o.onnx: s.onnx ") && rule.contains(" t.onnx") && rule.contains("fashion_test"), "{rule}");
    let report = std::fs::read_to_string(at("r.json")).unwrap();
    assert!(report.contains("\"curve\"") && report.contains("\"held_back\""));
    let refused = |line: &str, what: &str| {
        let (code, said) = tutee(folder.path(), line);
        assert!(code == Some(1) && said.contains(what), "{line}: {said}");
    };
    // The only inputs need not have one name to learn, but to be compared.
    let (code, said) = tutee(folder.path(), "distill i.onnx --teacher t.onnx --train DATA -o o.onnx --set steps=1 -q");
    assert_eq!((code, said.as_str()), (Some(0), ""));
    refused("distill i.onnx --teacher t.onnx --train DATA -o o.onnx --test DATA", "differ in their inputs");
    refused("distill s.onnx --teacher t.onnx -o o.onnx", "give --train DATA");
    refused("distill s.onnx --teacher none.onnx --train DATA -o o.onnx", "cannot read");
    refused("distill s.onnx --teacher t.onnx --train DATA -o t.onnx", "would be written over");
    refused("distill s.onnx --train DATA -o o.onnx --set teachers=t.onnx", "give --teacher");
    refused("distill s.onnx --train DATA -o o.onnx --set epochs=2,steps=3", "exclude each other");
    refused(
        "distill s.onnx --train DATA -o o.onnx --set labels=false",
        "neither labels that it could take nor a teacher",
    );
}
