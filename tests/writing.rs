//! What `compress` writes, and where.

mod common;

use common::proto::{Content, Field, encode, parse};
use common::root;
use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Output};
use tutee::data::Array;
use tutee::exec::Network;
use tutee::ir::text::{parse::noise, print};
use tutee::onnx;

const TEACHER: &str = "fixtures/resnet_small_bn.onnx";

/// Runs `tutee compress` in `folder` on its `teacher.onnx`.
fn compress(folder: &Path, arguments: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tutee"));
    let run = command.args(["compress", "teacher.onnx", "-q"]).args(arguments.split(' ')).current_dir(folder).output();
    let run = run.unwrap();
    assert!(run.status.success(), "{arguments}: {}", String::from_utf8_lossy(&run.stderr));
    run
}

/// A folder with a teacher in it.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(root().join(TEACHER), folder.path().join("teacher.onnx")).unwrap();
    folder
}

fn read(folder: &Path, name: &str) -> Vec<u8> {
    std::fs::read(folder.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn output(model: &Path) -> Vec<Array> {
    let network = Network::load(model).unwrap();
    let shape = vec![2, 1, 28, 28];
    let pixels: Vec<f32> = noise(1).take(2 * 28 * 28).map(|v| v as f32).collect();
    let input = Array::from_f32(shape.clone(), &pixels).unwrap();
    network.runner(&[shape]).unwrap().run(&[input]).unwrap()
}

#[test]
fn external_data_is_read_back_here_and_in_tract() {
    let folder = folder();
    let file = |name: &str| folder.path().join(name);
    compress(folder.path(), "-o student.onnx -p none --external-data");
    assert!(read(folder.path(), "student.onnx").len() < 100_000);
    assert!(read(folder.path(), "student.onnx.data").len() > 600_000);

    let (teacher, student) = (onnx::load(&file("teacher.onnx")).unwrap(), onnx::load(&file("student.onnx")).unwrap());
    assert_eq!(student.files, [file("student.onnx"), file("student.onnx.data")]);
    assert_eq!(print::model(&student.model), print::model(&teacher.model));
    assert!(onnx::to_bytes(&student.model).unwrap() == onnx::to_bytes(&teacher.model).unwrap());
    assert_eq!(output(&file("student.onnx")), output(&file("teacher.onnx")));
}

#[test]
fn a_model_may_be_written_over_itself() {
    let folder = folder();
    let before = read(folder.path(), "teacher.onnx");
    compress(folder.path(), "-o teacher.onnx -p none --external-data");
    let outside = (read(folder.path(), "teacher.onnx"), read(folder.path(), "teacher.onnx.data"));
    compress(folder.path(), "-o teacher.onnx -p none --external-data");
    assert!(outside == (read(folder.path(), "teacher.onnx"), read(folder.path(), "teacher.onnx.data")));
    compress(folder.path(), "-o teacher.onnx -p none");
    assert!(before == read(folder.path(), "teacher.onnx"));
}

#[test]
fn standard_output_gets_what_a_file_gets() {
    let folder = folder();
    compress(folder.path(), "-o student.onnx -p clean");
    let run = compress(folder.path(), "-o - -p clean");
    assert!(run.stdout == read(folder.path(), "student.onnx"));
}

#[test]
fn every_run_writes_the_same_bytes() {
    let folder = folder();
    let mut seen = Vec::new();
    for threads in [1, 2, 2] {
        compress(folder.path(), &format!("-o student.onnx --threads {threads} --report report.json"));
        seen.push((read(folder.path(), "student.onnx"), read(folder.path(), "report.json")));
    }
    assert!(seen[0] == seen[1] && seen[1] == seen[2]);
}

#[test]
fn a_missed_target_is_an_error_and_the_student_is_written() {
    let folder = folder();
    let run = |step: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tutee"));
        command.args(["compress", "teacher.onnx", "-o", "student.onnx", "--report", "report.json", "-p", step]);
        let run = command.current_dir(folder.path()).output().unwrap();
        let report: serde_json::Value = serde_json::from_slice(&read(folder.path(), "report.json")).unwrap();
        (run.status.code(), String::from_utf8(run.stderr).unwrap(), report)
    };
    let (code, _, report) = run("prune-channels:params=0.4,skip-first=0");
    let share = |r: &serde_json::Value| {
        r["student"]["parameters"].as_f64().unwrap() / r["teacher"]["parameters"].as_f64().unwrap()
    };
    assert_eq!(code, Some(0));
    assert!((0.3..=0.4).contains(&share(&report)), "{}", share(&report));

    let (code, error, report) = run("prune-channels:params=0.4,skip-first=13");
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("missed its target") && error.contains("40.0 %"), "{error}");
    assert!(report["missed"][0].as_str().unwrap().contains("of the parameters are left"));
    let student = onnx::load(&folder.path().join("student.onnx")).unwrap();
    assert_eq!(tutee::analysis::cost::cost(&student.model.graph).parameters, report["student"]["parameters"]);
}

/// IR 3 lists initializers among the inputs, with a type that must follow them.
#[test]
fn constants_that_are_listed_as_inputs_say_what_they_are() {
    let folder = folder();
    std::fs::copy(root().join("fixtures/light_densenet121.onnx"), folder.path().join("teacher.onnx")).unwrap();
    compress(folder.path(), "-o student.onnx -p prune-channels:skip-first=0");
    let model = parse(&read(folder.path(), "student.onnx")).unwrap();
    let graph = messages(&model, 7).remove(0);
    let name = |fields: &[Field], number| match &fields.iter().find(|f| f.number == number).unwrap().content {
        Content::Bytes(b) => b.clone(),
        Content::Message(m) => encode(m),
        _ => panic!("a name that is no text"),
    };
    let number = |field: &Field| match field.content {
        Content::Varint(n) => Some(n),
        _ => None,
    };
    let dims = |tensor: &[Field]| tensor.iter().filter(|f| f.number == 1).filter_map(number).collect::<Vec<_>>();
    let constants: HashMap<_, _> = messages(&graph, 5).iter().map(|t| (name(t, 8), dims(t))).collect();
    let mut compared = 0;
    for input in messages(&graph, 11) {
        let tensor = messages(&messages(&input, 2)[0], 1).remove(0);
        let shape = messages(&tensor, 2).remove(0);
        let declared: Vec<u64> = messages(&shape, 1).iter().filter_map(|d| d.iter().find_map(number)).collect();
        if let Some(dims) = constants.get(&name(&input, 1)) {
            assert_eq!(&declared, dims);
            compared += 1;
        }
    }
    assert!(compared > 100, "{compared}");
}

/// The messages in a field of a message.
fn messages(fields: &[Field], number: u64) -> Vec<Vec<Field>> {
    let own = fields.iter().filter(|f| f.number == number);
    own.filter_map(|f| match &f.content {
        Content::Message(m) => Some(m.clone()),
        Content::Bytes(b) => parse(b),
        _ => None,
    })
    .collect()
}

#[cfg(unix)]
#[test]
fn links_and_permissions_of_the_target_stay() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let folder = folder();
    std::fs::create_dir(folder.path().join("store")).unwrap();
    let real = folder.path().join("store/real.onnx");
    std::fs::write(&real, "old").unwrap();
    std::fs::set_permissions(&real, PermissionsExt::from_mode(0o640)).unwrap();
    std::os::unix::fs::symlink("store/real.onnx", folder.path().join("student.onnx")).unwrap();
    compress(folder.path(), "-o student.onnx -p none");
    assert!(folder.path().join("student.onnx").is_symlink());
    assert_eq!(real.metadata().unwrap().mode() & 0o777, 0o640);
    assert!(read(folder.path(), "store/real.onnx") == read(folder.path(), "teacher.onnx"));
}
