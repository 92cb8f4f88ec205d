//! What `compress` writes, and where.
#![cfg(feature = "exec")]

mod common;

use common::proto::{Content, Field, encode, parse};
use common::root;
use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Output};
use tutee::data::Array;
use tutee::exec::Network;
use tutee::ir::random::noise;
use tutee::ir::text::print;
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

/// The names of files in a folder that are like this.
fn names(folder: &Path, like: impl Fn(&str) -> bool) -> Vec<String> {
    let names = folder.read_dir().unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| like(name)).collect();
    names.sort();
    names
}

/// The data beside a model: one file at most.
fn data(folder: &Path) -> String {
    let mut found = names(folder, |name| name.ends_with(".data"));
    assert!(found.len() <= 1, "{found:?}");
    found.pop().unwrap_or_default()
}

#[test]
fn external_data_is_read_back_here_and_in_tract() {
    let folder = folder();
    let file = |name: &str| folder.path().join(name);
    compress(folder.path(), "-o student.onnx -p none --external-data");
    let data = data(folder.path());
    assert!(read(folder.path(), "student.onnx").len() < 100_000);
    assert!(read(folder.path(), &data).len() > 600_000);

    let (teacher, student) = (onnx::load(&file("teacher.onnx")).unwrap(), onnx::load(&file("student.onnx")).unwrap());
    assert_eq!(student.files, [file("student.onnx"), file(&data)]);
    assert_eq!(print::model(&student.model), print::model(&teacher.model));
    assert!(onnx::to_bytes(&student.model).unwrap() == onnx::to_bytes(&teacher.model).unwrap());
    assert_eq!(output(&file("student.onnx")), output(&file("teacher.onnx")));
}

#[cfg(unix)]
#[test]
fn data_is_beside_the_name_that_a_model_is_opened_by() {
    let folder = folder();
    let elsewhere = folder.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    std::fs::write(elsewhere.join("student.onnx"), "").unwrap();
    std::os::unix::fs::symlink("elsewhere/student.onnx", folder.path().join("student.onnx")).unwrap();
    compress(folder.path(), "-o student.onnx -p none --external-data");
    assert_eq!((data(folder.path()).is_empty(), data(&elsewhere).as_str()), (false, ""));
    assert!(onnx::load(&folder.path().join("student.onnx")).is_ok());
    assert_eq!(output(&folder.path().join("student.onnx")), output(&folder.path().join("teacher.onnx")));
}

#[test]
fn a_model_may_be_written_over_itself() {
    let folder = folder();
    let before = read(folder.path(), "teacher.onnx");
    let outside =
        || (read(folder.path(), "teacher.onnx"), data(folder.path()), read(folder.path(), &data(folder.path())));
    compress(folder.path(), "-o teacher.onnx --in-place -p none --external-data");
    let first = outside();
    compress(folder.path(), "-o teacher.onnx --in-place -p none --external-data");
    assert!(first == outside());
    compress(folder.path(), "-o teacher.onnx --in-place -p none");
    assert!(before == read(folder.path(), "teacher.onnx"));
    assert_eq!(data(folder.path()), "");
}

/// The data of an earlier student goes with it, if it is whole, and no model that this run reads has it.
#[test]
fn data_that_nobody_needs_any_more_goes() {
    let folder = folder();
    let here = |name: &str| folder.path().join(name);
    compress(folder.path(), "-o student.onnx -p none --external-data");
    let first = data(folder.path());
    compress(folder.path(), "-o student.onnx -p clean --external-data");
    let second = data(folder.path());
    assert!(first != second && first.starts_with("student.onnx."), "{first} {second}");

    std::fs::copy(here("student.onnx"), here("other.onnx")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tutee"));
    command.args("compress other.onnx -o student.onnx -q -p none".split(' ')).current_dir(folder.path());
    assert!(command.status().unwrap().success());
    assert_eq!(data(folder.path()), second);

    // What another program wrote under such a name is not known by it.
    std::fs::rename(here("other.onnx"), here("student.onnx")).unwrap();
    std::fs::write(here(&second), "something else").unwrap();
    compress(folder.path(), "-o student.onnx -p none");
    assert_eq!(data(folder.path()), second);
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
        let mut report: serde_json::Value = serde_json::from_slice(&read(folder.path(), "report.json")).unwrap();
        // The command names the threads, and times are as they were.
        assert!(report.as_object_mut().unwrap().remove("run").is_some());
        seen.push((read(folder.path(), "student.onnx"), report.to_string()));
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

    let (code, error, report) = run("prune-channels:params=0.4,skip-first=13,best-effort=true");
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("missed its target") && error.contains("40.0 %"), "{error}");
    assert!(report["missed"][0].as_str().unwrap().contains("of the parameters are left"));
    let student = onnx::load(&folder.path().join("student.onnx")).unwrap();
    assert_eq!(tutee::analysis::cost::cost(&student.model.graph).parameters, report["student"]["parameters"]);
}

#[test]
fn a_budget_out_of_reach_is_refused_and_nothing_is_written() {
    let folder = folder();
    let run = |arguments: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tutee"));
        command.args("compress teacher.onnx -o student.onnx -q".split(' ')).args(arguments.split(' '));
        let run = command.current_dir(folder.path()).output().unwrap();
        (run.status.code(), String::from_utf8(run.stderr).unwrap())
    };
    let step = "-p clean -p prune-channels:params=0.4,skip-first=13";
    let (code, error) = run(step);
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("is the least") && error.contains("`skip-first`"), "{error}");
    assert!(!folder.path().join("student.onnx").exists());
    let (code, error) = run(&format!("{step} --best-effort"));
    assert_eq!(code, Some(2), "{error}");
    assert!(folder.path().join("student.onnx").exists());
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

/// Runs that are ended from outside.
#[cfg(all(unix, feature = "exec"))]
mod ended {
    use super::*;
    use std::io::{BufRead, BufReader, Read, Write};
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Child, Stdio};
    use std::time::{Duration, Instant};

    fn start(folder: &Path, arguments: &str) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tutee"));
        command.args(["compress", "teacher.onnx"]).args(arguments.split_whitespace()).current_dir(folder);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn signal(child: &Child, name: &str) {
        assert!(Command::new("kill").args(["-s", name, &child.id().to_string()]).status().unwrap().success());
    }

    fn wait_for(what: impl Fn() -> bool) {
        let since = Instant::now();
        while !what() {
            assert!(since.elapsed() < Duration::from_secs(60));
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn litter(folder: &Path) -> Vec<String> {
        names(folder, |name| name.starts_with('.') || name.ends_with(".data"))
    }

    /// Black pictures.
    fn pictures(folder: &Path, count: usize) {
        let header = format!("{{'descr': '|u1', 'fortran_order': False, 'shape': ({count}, 1, 28, 28), }}");
        let header = format!("\u{1}\0v\0{header:<117}\n");
        let mut file = std::fs::File::create(folder.join("data.npy")).unwrap();
        file.write_all(b"\x93NUMPY").and_then(|_| file.write_all(header.as_bytes())).unwrap();
        file.set_len(128 + count as u64 * 28 * 28).unwrap();
    }

    /// A check of many samples, while which the student waits beside its place. The process is stopped there, so that
    /// it cannot come to its end however long the test takes.
    fn checking(folder: &Path, options: &str) -> Child {
        pictures(folder, 100_000);
        let before = litter(folder);
        let child = start(folder, &format!("-o student.onnx -q -p none --test data.npy {options}"));
        let new = |name: &String| name.starts_with('.') && !before.contains(name);
        wait_for(|| litter(folder).iter().any(new) && folder.join("student.onnx").metadata().unwrap().len() == 3);
        // By now it waits for the check: the model is complete when its data has its name.
        wait_for(|| !options.contains("external") || litter(folder).iter().any(|n| n.ends_with(".data")));
        signal(&child, "STOP");
        child
    }

    #[test]
    fn nothing_is_left_and_nothing_is_replaced() {
        let folder = folder();
        std::fs::write(folder.path().join("student.onnx"), "old").unwrap();
        for (name, number) in [("TERM", 15), ("INT", 2), ("HUP", 1)] {
            let mut child = checking(folder.path(), "--external-data");
            signal(&child, name);
            signal(&child, "CONT");
            assert_eq!(child.wait().unwrap().signal(), Some(number));
            let mut said = String::new();
            child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            assert!(said.contains("nothing was written"), "{said}");
            assert_eq!(litter(folder.path()), [""; 0]);
        }
        assert_eq!(read(folder.path(), "student.onnx"), b"old");
    }

    #[test]
    fn the_next_run_removes_what_a_killed_one_left_but_not_what_a_running_one_needs() {
        let folder = folder();
        std::fs::write(folder.path().join("student.onnx"), "old").unwrap();
        let mut killed = checking(folder.path(), "--external-data");
        killed.kill().unwrap();
        killed.wait().unwrap();
        assert!(litter(folder.path()).len() >= 2);
        let mut running = checking(folder.path(), "");
        assert_eq!(litter(folder.path()).len(), 1);
        compress(folder.path(), "-o student.onnx -p clean");
        assert_eq!(litter(folder.path()).len(), 1);
        signal(&running, "TERM");
        signal(&running, "CONT");
        running.wait().unwrap();
        assert_eq!(litter(folder.path()), [""; 0]);
    }

    /// A run can be killed when the new model is in place and the data of the old one is not gone yet.
    #[test]
    fn the_next_run_removes_the_data_of_what_a_killed_one_replaced() {
        let folder = folder();
        let student = folder.path().join("student.onnx");
        std::fs::write(&student, "old").unwrap();
        let mut killed = checking(folder.path(), "");
        killed.kill().unwrap();
        killed.wait().unwrap();
        let left = folder.path().join(&litter(folder.path())[0]);
        compress(folder.path(), "-o student.onnx -p none --external-data");
        std::fs::rename(&student, &left).unwrap();
        std::fs::copy(folder.path().join("teacher.onnx"), &student).unwrap();
        assert_eq!(litter(folder.path()).len(), 2);
        compress(folder.path(), "-o student.onnx -p clean");
        assert_eq!(litter(folder.path()), [""; 0]);
    }

    #[test]
    fn a_training_that_is_interrupted_says_where() {
        let folder = folder();
        let small = "new student-net --classes 10 --input 1x28x28 --base 1 -o teacher.onnx".split(' ');
        let mut command = Command::new(env!("CARGO_BIN_EXE_tutee"));
        assert!(command.args(small).current_dir(folder.path()).output().unwrap().status.success());
        pictures(folder.path(), 40);
        let step = "distill:epochs=1000,batch=8,learning-rate=0.001";
        let mut child = start(folder.path(), &format!("-o s.onnx -p {step} --train data.npy --report r.json"));
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        lines.by_ref().find(|line| line.as_ref().unwrap().contains("epoch 0")).unwrap().unwrap();
        signal(&child, "INT");
        let rest: Vec<String> = lines.map(Result::unwrap).collect();
        assert_eq!(child.wait().unwrap().code(), Some(2), "{rest:?}");
        let report: serde_json::Value = serde_json::from_slice(&read(folder.path(), "r.json")).unwrap();
        let missed = report["missed"][0].as_str().unwrap();
        assert!(missed.contains("interrupted in epoch") && missed.ends_with("of 1000"), "{missed}");
        assert!(folder.path().join("s.onnx").exists());
    }

    #[test]
    fn a_model_that_shrinks_is_an_error() {
        let folder = folder();
        std::fs::write(folder.path().join("student.onnx"), "old").unwrap();
        let child = start(folder.path(), "-o student.onnx --dump-ir steps -p clean -p cluster-weights");
        wait_for(|| folder.path().join("steps/00-load.ir").exists());
        std::fs::OpenOptions::new().write(true).open(folder.path().join("teacher.onnx")).unwrap().set_len(0).unwrap();
        let run = child.wait_with_output().unwrap();
        let said = String::from_utf8(run.stderr).unwrap();
        assert!(run.status.code() == Some(1) && said.contains("became shorter"), "{:?} {said}", run.status);
        assert_eq!((litter(folder.path()), read(folder.path(), "student.onnx")), (Vec::new(), b"old".to_vec()));
    }

    #[test]
    fn a_file_that_may_not_grow_is_an_error() {
        let folder = folder();
        std::fs::write(folder.path().join("student.onnx"), "old").unwrap();
        for options in ["", "--external-data"] {
            let tutee = env!("CARGO_BIN_EXE_tutee");
            let line = format!("ulimit -f 100; exec {tutee} compress teacher.onnx -o student.onnx -p none {options}");
            let run = Command::new("sh").args(["-c", &line]).current_dir(folder.path()).output().unwrap();
            let said = String::from_utf8(run.stderr).unwrap();
            assert!(run.status.code() == Some(1) && said.contains("error: cannot write"), "{:?} {said}", run.status);
            assert_eq!((litter(folder.path()), read(folder.path(), "student.onnx")), (Vec::new(), b"old".to_vec()));
        }
    }

    /// No stack is to be had for any thread.
    #[test]
    fn without_threads_it_goes_on_alone() {
        let folder = folder();
        compress(folder.path(), "-o student.onnx -p cluster-weights:bits=2");
        let mut command = Command::new(env!("CARGO_BIN_EXE_tutee"));
        let arguments = "compress teacher.onnx -o alone.onnx -q -p cluster-weights:bits=2";
        command.args(arguments.split(' ')).current_dir(folder.path());
        let run = command.env("RUST_MIN_STACK", (1u64 << 50).to_string()).output().unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        assert!(read(folder.path(), "student.onnx") == read(folder.path(), "alone.onnx"));
    }
}

/// Once, with the command that does better, and only where there is no data.
#[test]
fn what_few_networks_survive_without_data_is_said() {
    let folder = folder();
    std::fs::copy(root().join("fixtures/fashion_calib.npz"), folder.path().join("calib.npz")).unwrap();
    let said = |arguments: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tutee"));
        let run = command.args(arguments.split(' ')).current_dir(&folder).output().unwrap();
        String::from_utf8(run.stderr).unwrap().lines().filter(|l| l.contains("without data")).count()
    };
    let run = "compress teacher.onnx -o s.onnx -p clean";
    let strong =
        ["cluster-weights:bits=4", "prune-weights:sparsity=80%", "separate-convs", "prune-channels:width-mult=0.5"];
    for step in strong.into_iter().chain(["factorize-convs:params=50%", "cluster-weights:size=12%"]) {
        assert_eq!(said(&format!("{run} -p {step}")), 1, "{step}");
    }
    assert_eq!(said(&format!("{run} -p prune-weights:sparsity=80% -p cluster-weights:bits=4")), 1);
    assert_eq!(said(&format!("{run} -p cluster-weights:bits=4 --calib calib.npz --calib-samples 20")), 0);
    for step in ["cluster-weights:bits=8", "prune-weights:sparsity=30%", "prune-channels:width-mult=1.0"] {
        assert_eq!(said(&format!("{run} -p {step}")), 0, "{step}");
    }
}

#[test]
fn the_command_that_does_better_is_the_one_given() {
    let folder = folder();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tutee"));
    let run = command.args(["compress", "teacher.onnx", "-o", "a student.onnx", "-p", "cluster-weights:bits=2"]);
    let said = String::from_utf8(run.current_dir(&folder).output().unwrap().stderr).unwrap();
    let want = ": tutee compress teacher.onnx -o 'a student.onnx' -p cluster-weights:bits=2 --calib DATA\n";
    assert!(said.contains(want), "{said}");
}

#[test]
fn a_saved_recipe_makes_the_same_student() {
    let folder = folder();
    std::fs::create_dir(folder.path().join("made")).unwrap();
    let data = root().join("fixtures/fashion_calib.npz").display().to_string();
    let step = "factorize-convs:params=80%,best-effort=true --calib-samples 32 --scale 1/255 --mean 0.286 --std 0.353";
    compress(folder.path(), &format!("-o a.onnx -p clean -p {step} --calib {data} --save-recipe made/r.toml"));
    let recipe = String::from_utf8(read(folder.path(), "made/r.toml")).unwrap();
    assert!(recipe.contains("rank = {") && recipe.contains("mean = [0.286]"), "{recipe}");
    compress(folder.path(), "-o b.onnx -r made/r.toml --save-recipe made/again.toml");
    assert!(read(folder.path(), "a.onnx") == read(folder.path(), "b.onnx"), "{recipe}");
    assert_eq!(String::from_utf8(read(folder.path(), "made/again.toml")).unwrap(), recipe);
}

/// To load, clean and save a large model takes at most 1.3 times its file, as the book says.
#[cfg(target_os = "linux")]
#[test]
fn memory_is_about_that_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let teacher = folder.path().join("teacher.onnx");
    let weights: String = (0..3)
        .map(|i| {
            format!(
                "const %w{i} : f32[2048,4096] = seed({i}) const %v{i} : f32[4096,2048] = seed({i}0)
                 %h{i} : ? = MatMul(%x{i}, %w{i}) %r{i} : ? = Relu(%h{i}) %i{i} : ? = Identity(%r{i})
                 %x{} : ? = MatMul(%i{i}, %v{i})\n",
                i + 1
            )
        })
        .collect();
    let text = format!("model m opset 17 {{ input %x0 : f32[N,2048] {weights} output %x3 }}");
    let model = tutee::ir::text::parse::model(&text).unwrap();
    onnx::save(&model, &onnx::Target::File(teacher.clone()), Default::default()).unwrap();
    drop(model);
    let bytes = teacher.metadata().unwrap().len();
    assert!(bytes > 60 << 20);
    let mut command = Command::new(env!("CARGO_BIN_EXE_tutee"));
    command.args(["compress", "teacher.onnx", "-q", "-p", "clean", "-o", "student.onnx"]).current_dir(folder.path());
    let mut child = command.spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    // The kernel keeps the most that there was until the process ends.
    let mut peak = 0;
    let ended = loop {
        let line = std::fs::read_to_string(&status).unwrap_or_default();
        let kilobytes = line.lines().find_map(|l| l.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
        peak = peak.max(kilobytes.unwrap_or(0) << 10);
        if let Some(ended) = child.try_wait().unwrap() {
            break ended;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    };
    assert!(ended.success() && folder.path().join("student.onnx").metadata().unwrap().len() > bytes * 99 / 100);
    assert!(peak > bytes / 10 && peak as f64 <= 1.3 * bytes as f64, "{peak} bytes for a file of {bytes}");
}
