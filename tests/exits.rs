//! Networks with exits, end to end: on real images, as one file and as stages.
#![cfg(feature = "exec")]

mod common;

use common::{recipe, root};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tutee::calibrate::Calibration;
use tutee::check::{Check, check};
use tutee::compress::{Data, Outcome, Silent, compress_on};
use tutee::data::{Array, Dataset, Normalise};
use tutee::exec::Network;
use tutee::exits::staged;
use tutee::ir::Model;
use tutee::onnx::{self, SaveOptions, Target};

const RESNET: &str = "resnet_small_bn.onnx";

fn fashion() -> Normalise {
    Normalise { scale: 1.0 / 255.0, mean: vec![0.2860], std: vec![0.3530] }
}

fn fixture(name: &str) -> PathBuf {
    root().join("fixtures").join(name)
}

fn load(path: &Path) -> Model {
    onnx::load(path).unwrap().model
}

fn run(teacher: &Model, smalls: &[(PathBuf, Model)], steps: &str) -> tutee::Result<Outcome> {
    let data = Dataset::load(&fixture("fashion_calib.npz"))?;
    let data = Calibration::new(&data, &fashion(), teacher, 256)?;
    let data = Data { calibration: Some(&data), smalls, ..Data::default() };
    compress_on(data, teacher, onnx::encoded_len(teacher)?, &recipe(steps), None, &Silent)
}

fn save(model: &Model, path: &Path) {
    onnx::save(model, &Target::File(path.to_owned()), SaveOptions::default()).unwrap();
}

fn compare(teacher: &Path, student: &Path) -> Check {
    let test = Dataset::load(&fixture("fashion_test.npz")).unwrap();
    let result = check(teacher, student, &test, &fashion(), &|_, _| {}).unwrap();
    assert!(result.warnings.is_empty(), "{:?}", result.warnings);
    result
}

const EXITS: &str = "[{ pass = \"clean\" }, { stage = \"early-exit\", exits = 2, threshold = 0.8 }]";

#[test]
fn one_file_and_stages_answer_alike() {
    let folder = tempfile::tempdir().unwrap();
    let (file, stages) = (folder.path().join("early.onnx"), folder.path().join("early.stages.json"));
    let teacher = fixture(RESNET);
    let student = run(&load(&teacher), &[], EXITS).unwrap().student;
    assert_eq!(student.graph.exits().len(), 2);
    save(&student, &file);
    tutee::files::commit(staged::prepare(&student, &file).unwrap(), || {}).unwrap();

    let [one, many] = [compare(&teacher, &file), compare(&teacher, &stages)];
    let (exits, same) = (one.exits.as_ref().unwrap(), many.exits.as_ref().unwrap());
    for (a, b) in exits.ends.iter().zip(&same.ends) {
        assert_eq!((a.share, a.macs, a.top1, a.agreement_of_all), (b.share, b.macs, b.top1, b.agreement_of_all));
    }
    assert_eq!(exits.mean_macs, same.mean_macs);
    // Easy images leave early, not all do, and the later an exit the more does it know.
    let [first, second, last] = &exits.ends[..] else { panic!("{exits:?}") };
    assert!(first.share > 0.02 && second.share > 0.1 && last.share > 0.1, "{exits:?}");
    assert!(((first.share + second.share + last.share) - 1.0).abs() < 1e-9);
    assert!(first.agreement_of_all < second.agreement_of_all && last.agreement == Some(1.0));
    assert!(first.macs < second.macs && second.macs < last.macs);
    let mean = exits.ends.iter().map(|e| e.share * e.macs.unwrap() as f64).sum::<f64>();
    assert!((exits.mean_macs.unwrap() - mean).abs() < 1.0 && mean < one.teacher.counts.macs.unwrap() as f64);
    // Of the curve, one end is the network without exits, the other its first head.
    let ends = [exits.curve.first().unwrap(), exits.curve.last().unwrap()];
    assert_eq!((ends[0].right, Some(ends[1].right)), (first.top1_of_all.unwrap(), one.teacher.top1));

    let between = compare(&file, &file);
    assert_eq!(between.agreement, Some(1.0));
    let between = compare(&file, &stages);
    assert!(between.outputs["logits"].max_abs < 1e-3, "{:?}", between.outputs);
}

#[test]
fn later_steps_work_on_trunk_and_heads() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("early.onnx");
    let teacher = fixture(RESNET);
    let steps = "[{ pass = \"clean\" }, { stage = \"early-exit\", exits = 2, max-drop = 0.02 }, \
        { pass = \"prune-channels\", width-mult = 0.75, skip-first = 0 }, { pass = \"cluster-weights\", bits = 4 }]";
    let outcome = run(&load(&teacher), &[], steps).unwrap();
    save(&outcome.student, &file);
    let rows = |step: usize| outcome.report.steps[step].rows.iter().map(|r| &r.note).collect::<Vec<_>>();
    assert!(rows(2).iter().chain(&rows(3)).filter(|n| n.contains("thresholds set anew")).count() == 2);
    assert!(file.metadata().unwrap().len() * 6 < teacher.metadata().unwrap().len());
    let result = compare(&teacher, &file);
    let exits = result.exits.as_ref().unwrap();
    assert_eq!(exits.ends.len(), 1 + outcome.student.graph.exits().len());
    assert!(exits.ends[0].share > 0.1 && result.agreement.unwrap() > 0.8, "{result:?}");

    // From a file with `If` nodes, weights in branches are found, too, and once only.
    let early = run(&load(&teacher), &[], EXITS).unwrap().student;
    save(&early, &file);
    let again = run(&load(&file), &[], "[{ pass = \"cluster-weights\", bits = 4 }]").unwrap();
    let plain = run(&load(&teacher), &[], "[{ pass = \"clean\" }, { pass = \"cluster-weights\", bits = 4 }]").unwrap();
    let [again, plain] = [again, plain].map(|o| (o.report.student.cost.parameters, o.student));
    assert!(again.0 < plain.0 + 3_000, "{} against {}", again.0, plain.0);
    save(&again.1, &file);
    assert_eq!(compare(&teacher, &file).exits.unwrap().ends.len(), 3);
}

#[test]
fn what_does_not_pay_leaves_the_model_as_it_was() {
    let teacher = load(&fixture(RESNET));
    let clean = run(&teacher, &[], "[{ pass = \"clean\" }]").unwrap();
    for (stage, why) in [
        // There a head costs what is left of the network.
        ("after = \"/Flatten\", max-drop = 0.1", "no exit saves anything"),
        ("after = \"/layers/layers.2/conv1/Conv\", max-drop = 0.01", "goes around it"),
    ] {
        let steps = format!("[{{ pass = \"clean\" }}, {{ stage = \"early-exit\", {stage} }}]");
        let outcome = run(&teacher, &[], &steps).unwrap();
        assert!(outcome.report.missed.iter().any(|m| m.contains(why)), "{stage}: {:?}", outcome.report.missed);
        // What it says of how it was made names the stage.
        let unsigned = Model { carried: clean.student.carried.clone(), ..outcome.student };
        assert!(onnx::to_bytes(&unsigned).unwrap() == onnx::to_bytes(&clean.student).unwrap(), "{stage}");
    }
    let silero = load(&fixture("silero_vad_16k_op15.onnx"));
    assert!(tutee::exits::heads::logits(&silero.graph).unwrap_err().to_string().contains("it has 2 outputs"));
}

#[test]
fn a_small_network_in_front() {
    let folder = tempfile::tempdir().unwrap();
    let [small, both] = ["small.onnx", "both.onnx"].map(|name| folder.path().join(name));
    let teacher = load(&fixture(RESNET));
    let steps = "[{ pass = \"clean\" }, { pass = \"prune-channels\", width-mult = 0.5, skip-first = 0 }]";
    save(&run(&teacher, &[], steps).unwrap().student, &small);
    let stage = format!("[{{ stage = \"cascade\", small = {small:?}, max-drop = 0.02 }}]");
    let outcome = run(&teacher, &[(small.clone(), load(&small))], &stage).unwrap();
    assert!(outcome.report.missed.is_empty(), "{:?}", outcome.report.missed);
    save(&outcome.student, &both);
    let result = compare(&fixture(RESNET), &both);
    let exits = result.exits.unwrap();
    assert!(exits.ends[0].share > 0.3 && exits.ends[1].agreement == Some(1.0), "{exits:?}");
    assert!(exits.mean_macs.unwrap() < result.teacher.counts.macs.unwrap() as f64);
    assert!(result.agreement.unwrap() > 0.93);

    // In front of itself a network saves nothing.
    let itself = format!("[{{ stage = \"cascade\", small = {:?} }}]", fixture(RESNET));
    let outcome = run(&teacher, &[(fixture(RESNET), teacher.clone())], &itself).unwrap();
    assert!(outcome.report.missed[0].contains("saves nothing"), "{:?}", outcome.report.missed);
    let lenet = format!("[{{ stage = \"cascade\", small = {:?} }}]", fixture("lenet5.onnx"));
    let outcome = run(&teacher, &[(fixture("lenet5.onnx"), load(&fixture("lenet5.onnx")))], &lenet).unwrap();
    assert_eq!(onnx::to_bytes(&outcome.student).unwrap(), onnx::to_bytes(&teacher).unwrap());
}

/// Constants that both networks have are in the file once, where both branches find them.
#[test]
fn what_both_have_is_stored_once() {
    let folder = tempfile::tempdir().unwrap();
    let [small, both] = ["small.onnx", "both.onnx"].map(|name| folder.path().join(name));
    let teacher = load(&fixture("lenet300.onnx"));
    let steps = "[{ pass = \"clean\" }, { pass = \"factorize-linear\", rank = 40, only = \"*\", skip-first = 1 }]";
    let clean = run_plain(&teacher, "[{ pass = \"clean\" }]");
    let part = run_plain(&teacher, steps);
    save(&part, &small);
    let x: Vec<f32> = tutee::ir::random::noise(3).take(784 * 60).map(|v| v as f32).collect();
    let data = Dataset::from_arrays("noise", [("x".to_string(), Array::from_f32(vec![60, 1, 28, 28], &x).unwrap())]);
    let stage = format!("[{{ pass = \"clean\" }}, {{ stage = \"cascade\", small = {small:?}, max-drop = 0.5 }}]");
    let calibration = Calibration::new(&data, &Normalise::default(), &teacher, 60).unwrap();
    let smalls = [(small.clone(), part.clone())];
    let given = Data { calibration: Some(&calibration), smalls: &smalls, ..Data::default() };
    let bytes = onnx::encoded_len(&teacher).unwrap();
    let outcome = compress_on(given, &teacher, bytes, &recipe(&stage), None, &Silent).unwrap();
    save(&outcome.student, &both);
    let len = |m: &Model| onnx::encoded_len(m).unwrap();
    // The first layer is most of either, and there once.
    assert!(
        len(&outcome.student) < len(&clean) + len(&part) / 4,
        "{} {} {}",
        len(&outcome.student),
        len(&clean),
        len(&part)
    );
    let result = check(&fixture("lenet300.onnx"), &both, &data, &Normalise::default(), &|_, _| {}).unwrap();
    assert!(result.warnings.is_empty() && result.exits.unwrap().ends.len() == 2);
}

/// Training goes through heads, too, and their thresholds follow.
#[cfg(feature = "exec")]
#[test]
fn heads_train_with_the_trunk() {
    let teacher = load(&fixture(RESNET));
    let images = Dataset::load(&fixture("fashion_test.npz")).unwrap();
    let training = tutee::compress::Training::new(&images, &fashion(), &teacher).unwrap();
    let steps = "[{ pass = \"clean\" }, { stage = \"early-exit\", exits = 1, max-drop = 0.1 }, \
        { stage = \"distill\", steps = 20, batch = 32, learning-rate = 0.0003 }]";
    let head = |stop_after| {
        let data = Data { training: Some(&training), ..Data::default() };
        let bytes = onnx::encoded_len(&teacher).unwrap();
        let outcome = compress_on(data, &teacher, bytes, &recipe(steps), stop_after, &Silent).unwrap();
        let g = &outcome.student.graph;
        let weight = g.values().find(|&v| g.value(v).name.ends_with(".exit.weight")).expect("a head");
        let set = outcome.report.steps.last().unwrap().rows.iter().any(|r| r.note.contains("thresholds set anew"));
        (g.value(weight).constant().unwrap().floats().unwrap(), g.exits().len(), set)
    };
    let [before, after] = [head(Some(2)), head(None)];
    assert_ne!(before.0, after.0);
    assert_eq!((before.1, after.1), (1, 1));
    assert_eq!((before.2, after.2), (false, true));
}

fn run_plain(teacher: &Model, steps: &str) -> Model {
    common::run(teacher, steps).unwrap().student
}

fn tutee(folder: &Path, line: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tutee")).args(line.split_whitespace()).current_dir(folder).output().unwrap()
}

/// In a batch, an exit is taken when every sample would take it, and the extra output says which it was.
#[test]
fn a_batch_leaves_together() {
    let folder = tempfile::tempdir().unwrap();
    let model = fixture(RESNET);
    let line = format!(
        "compress {} -o early.onnx -p clean -p early-exit:exits=1,threshold=0.9 --exit-output which --stages --calib {} --scale 1/255 --mean 0.2860 --std 0.3530 -q",
        model.display(),
        fixture("fashion_calib.npz").display()
    );
    let stale = folder.path().join("early.stage2.onnx");
    std::fs::write(&stale, "of an earlier run").unwrap();
    let others = folder.path().join("early.stage3.onnx");
    std::fs::write(&others, "of somebody else").unwrap();
    let listed = r#"{ "file": "early.stage2.onnx", "inputs": [], "answer": "logits" }"#;
    let manifest = format!(r#"{{ "version": 1, "inputs": [], "output": "logits", "stages": [{listed}] }}"#);
    std::fs::write(folder.path().join("early.stages.json"), manifest).unwrap();
    let output = tutee(folder.path(), &line);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for name in ["early.stage0.onnx", "early.stage1.onnx", "early.stages.json"] {
        assert!(folder.path().join(name).exists(), "{name}");
    }
    assert!(!stale.exists() && others.exists());
    let network = Network::load(&folder.path().join("early.onnx")).unwrap();
    assert_eq!(network.outputs(), ["logits", "which"]);
    let test = Dataset::load(&fixture("fashion_test.npz")).unwrap();
    let feed = test.feed(network.inputs(), &fashion()).unwrap();
    let one = network.runner(&[vec![1, 1, 28, 28]]).unwrap();
    let two = network.runner(&[vec![2, 1, 28, 28]]).unwrap();
    let which = |outputs: &[Array]| outputs[1].to_f64()[0];
    let mut seen = [0; 2];
    for i in (0..40).step_by(2) {
        let images = [i, i + 1].map(|i| feed.chunk(i).unwrap().remove(0));
        let alone = images.each_ref().map(|image| which(&one.run(std::slice::from_ref(image)).unwrap()));
        let both =
            Array::from_f32(vec![2, 1, 28, 28], &images.iter().flat_map(Array::to_f32).collect::<Vec<_>>()).unwrap();
        let together = which(&two.run(&[both]).unwrap());
        assert_eq!(together, alone[0].max(alone[1]));
        seen[together as usize] += 1;
    }
    assert!(seen[0] > 0 && seen[1] > 0, "{seen:?}");
}
