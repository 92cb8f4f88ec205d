//! What people see: lines that fit, words that lead somewhere, reports that need nothing else.
#![cfg(feature = "exec")]

mod common;

use common::root;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Mutex;
use tutee::error::Kind;
use tutee::job::{Job, Listener, Outputs};
use tutee::passes::options::Share;
use tutee::recipe::{Recipe, Step};
use tutee::session::{Observer, Silent};

fn tutee(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tutee"));
    command.args(arguments).current_dir(folder).output().unwrap()
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in ["resnet_small_bn.onnx", "fashion_test.npz"] {
        std::fs::copy(root().join("fixtures").join(file), folder.path().join(file)).unwrap();
    }
    folder
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

const DATA: [&str; 8] = ["--test", "fashion_test.npz", "--scale", "1/255", "--mean", "0.2860", "--std", "0.3530"];

#[test]
fn a_run_ends_in_a_short_summary() {
    let folder = folder();
    let steps = ["-p", "clean", "-p", "prune-channels:width-mult=0.9", "-p", "cluster-weights:bits=3"];
    let whole =
        [&["compress", "resnet_small_bn.onnx", "-o", "s.onnx"][..], &steps, &DATA, &["--max-drop", "0%"]].concat();
    let run = tutee(folder.path(), &whole);
    let summary = text(&run.stdout);
    assert_eq!(run.status.code(), Some(2), "{summary}");
    assert!(summary.lines().count() <= 15, "{summary}");
    assert!(summary.lines().all(|l| l.chars().count() <= 80 || l.starts_with("missed ")), "{summary}");
    for part in ["file", "weights", "MACs", "accuracy", " points", "wrote s.onnx, ", "missed ", "next: ", "x\n"] {
        assert!(summary.contains(part), "no {part:?} in\n{summary}");
    }
    assert!(!summary.contains('\u{1b}'));
    // 8 levels pack like 16.
    assert!(text(&run.stderr).contains("8 levels take as many bytes as 16"), "{}", text(&run.stderr));

    let rows = tutee(folder.path(), &["compress", "resnet_small_bn.onnx", "-o", "s.onnx", "-v"]);
    let rows = text(&rows.stdout);
    assert!(rows.lines().count() > 20 && rows.lines().all(|l| l.chars().count() <= 80), "{rows}");

    let json = tutee(folder.path(), &["compress", "resnet_small_bn.onnx", "-o", "s.onnx", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    // Codes are the weights that they stand for; what is stored is something else.
    assert_eq!(json["student"]["weights"], json["steps"][0]["after"]["weights"]);
    assert_ne!(json["student"]["parameters"], json["student"]["weights"]);
    assert!(json["layers"].as_array().unwrap().iter().any(|l| l["done"][0][0] == "cluster-weights"));
    assert_eq!(json["run"]["student"], "s.onnx");
}

#[test]
fn what_an_output_is_can_be_said_of_the_test_too() {
    let folder = folder();
    let told = |more: &[&str]| {
        let run = [&["compress", "resnet_small_bn.onnx", "-o", "s.onnx", "-p", "clean", "--json"][..], &DATA, more];
        let run = tutee(folder.path(), &run.concat());
        let json: serde_json::Value = serde_json::from_slice(&run.stdout).unwrap_or_default();
        let output = json["check"]["outputs"].as_object().and_then(|o| Some(o.values().next()?["verdict"].clone()));
        (run.status.code(), output.unwrap_or_default(), text(&run.stderr))
    };
    let (code, verdict, _) = told(&[]);
    assert!(code == Some(0) && verdict["kind"] == "classes", "{verdict}");
    let (code, verdict, _) = told(&["--test-output", "logits=value", "--max-error", "1%"]);
    assert!(code == Some(0) && verdict["kind"] == "value" && verdict["metric"] == "rmse", "{verdict}");
    assert_eq!(verdict["why"], "as you said");
    std::fs::write(
        folder.path().join("r.toml"),
        "version = 1\n[target]\noutput = { logits = \"embedding\" }\n[[step]]\npass = \"clean\"\n",
    )
    .unwrap();
    let run = [&["compress", "resnet_small_bn.onnx", "-o", "s.onnx", "-r", "r.toml", "--json"][..], &DATA].concat();
    let run = tutee(folder.path(), &run);
    assert!(text(&run.stdout).contains("\"kind\": \"embedding\""), "{}{}", text(&run.stdout), text(&run.stderr));
    let (code, _, error) = told(&["--test-output", "scores=value"]);
    assert!(code == Some(1) && error.contains("no output `scores`") && error.contains("`logits`"), "{error}");
    let (code, _, error) = told(&["--test-output", "logits=picture"]);
    assert!(code == Some(1) && error.contains("classes|sequence"), "{error}");
}

#[test]
fn a_budget_that_no_step_can_reach_is_refused_before_the_first_one() {
    let folder = folder();
    let model = "model \"m\" opset 17 {
        input %x : f32[N,64,8]
        const %places : f32[64,8] = seed(1)
        const %w : f32[8,8] = seed(2)
        %s : f32[N,64,8] = Add(%x, %places)
        %y : f32[N,64,8] = MatMul(%s, %w)
        %t : f32[N,8,64] = Transpose<perm=[0,2,1]>(%x)
        %pairs : f32[N,64,64] = MatMul(%x, %t)
        output %y
        output %pairs
    }";
    let model = tutee::ir::text::parse::model(model).unwrap();
    std::fs::write(folder.path().join("m.onnx"), tutee::onnx::to_bytes(&model).unwrap()).unwrap();
    let run = |last: &str| {
        let steps = ["-p", "clean", "-p", "factorize-linear:rank=2", "-p", last, "--message-format", "json"];
        let run = tutee(folder.path(), &[&["compress", "m.onnx", "-o", "s.onnx"][..], &steps].concat());
        (run.status.code(), text(&run.stderr))
    };
    // The table holds most of the parameters and bytes, and the products of pairs most of the MACs.
    let budgets = ["params", "macs"].map(|b| ["factorize-linear", "prune-channels"].map(|pass| format!("{pass}:{b}")));
    let budgets = budgets.concat().into_iter().map(|budget| format!("{budget}=50%"));
    for budget in budgets.chain(["cluster-weights:size=2%".into()]) {
        let (code, told) = run(&budget);
        assert_eq!(code, Some(1), "{told}");
        let place = format!("-p {budget}\"]");
        assert!(told.contains("whatever the steps before it leave") && told.contains(&place), "{told}");
        assert!(!told.contains("\"step\":2"), "{told}");
    }
    // What cleaning in between will remove is not known before.
    let steps = ["-p", "prune-weights:sparsity=10%", "-p", "clean", "-p", "factorize-linear:params=50%"];
    let late = tutee(folder.path(), &[&["compress", "m.onnx", "-o", "s.onnx"][..], &steps].concat());
    let late = text(&late.stderr);
    assert!(late.contains("step 3/3") && !late.contains("whatever the steps"), "{late}");
    // Within reach of what is known before: the step itself finds out.
    let (_, told) = run("factorize-linear:params=99%");
    assert!(told.contains("\"step\":2") && !told.contains("whatever the steps"), "{told}");
}

#[cfg(unix)]
#[test]
fn a_recipe_may_come_from_a_pipe_and_one_without_a_writer_is_an_error() {
    let folder = folder();
    assert!(Command::new("mkfifo").arg(folder.path().join("pipe")).status().unwrap().success());
    let run = || tutee(folder.path(), &["compress", "resnet_small_bn.onnx", "-o", "s.onnx", "-r", "pipe"]);
    let alone = run();
    assert_eq!(alone.status.code(), Some(1));
    assert!(text(&alone.stderr).contains("nothing writes to it"), "{}", text(&alone.stderr));
    let pipe = folder.path().join("pipe");
    let writer = std::thread::spawn(move || std::fs::write(pipe, "version = 1\n[[step]]\npass = \"clean\"\n"));
    let fed = run();
    assert_eq!(fed.status.code(), Some(0), "{}", text(&fed.stderr));
    writer.join().unwrap().unwrap();
}

#[test]
fn a_page_needs_nothing_else() {
    let folder = folder();
    let whole = [&["compress", "resnet_small_bn.onnx", "-o", "s.onnx", "--report", "r.html"][..], &DATA].concat();
    assert!(tutee(folder.path(), &whole).status.success());
    let page = std::fs::read_to_string(folder.path().join("r.html")).unwrap();
    assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>\n"));
    for outside in ["http:", "https:", "<script", "<link", "url(", "@import"] {
        assert!(!page.contains(outside), "the page has {outside}");
    }
    // Pictures are part of it.
    assert_eq!(page.matches("src=").count(), page.matches("src=\"data:image/png;base64,").count());
    for tag in ["section", "table", "tbody", "div", "svg", "details", "figure"] {
        let (open, close) = (page.matches(&format!("<{tag}")).count(), page.matches(&format!("</{tag}>")).count());
        assert_eq!(open, close, "{tag}");
    }
    assert!(page.contains("cluster-weights") && page.contains("accuracy (top-1)"));
}

#[test]
fn words_that_people_try_lead_somewhere() {
    let folder = folder();
    for option in ["--bits=4", "--quantize", "--target", "--size=10x", "--sparsity=0.5"] {
        let run = tutee(folder.path(), &["compress", "resnet_small_bn.onnx", "-o", "s.onnx", option]);
        let error = text(&run.stderr);
        assert_eq!(run.status.code(), Some(1), "{option}");
        let word = option.split('=').next().unwrap();
        assert!(error.starts_with(&format!("error: there is no option `{word}`\n  help     ")), "{error}");
    }
    for subject in ["quantize", "prune", "bits", "data", "recipe", "targets"] {
        let run = tutee(folder.path(), &["explain", subject]);
        assert!(run.status.success() && run.stdout.len() > 200, "{subject}");
    }
}

#[test]
fn two_models_are_compared_without_data_and_a_dry_run_writes_nothing() {
    let folder = folder();
    let dry = tutee(folder.path(), &["compress", "resnet_small_bn.onnx", "-o", "s.onnx", "--dry-run"]);
    let said = text(&dry.stdout);
    assert!(dry.status.success() && said.contains("cluster-weights") && said.contains("nothing was written"), "{said}");
    assert!(!folder.path().join("s.onnx").exists());

    assert!(tutee(folder.path(), &["compress", "resnet_small_bn.onnx", "-o", "s.onnx", "-q"]).status.success());
    let diff = text(&tutee(folder.path(), &["diff", "resnet_small_bn.onnx", "s.onnx"]).stdout);
    assert!(diff.contains("inputs and outputs are the same") && diff.contains("operator"), "{diff}");
    assert!(diff.lines().all(|l| l.chars().count() <= 80), "{diff}");
    assert_eq!(text(&tutee(folder.path(), &["check", "resnet_small_bn.onnx", "s.onnx"]).stdout), diff);
    let json = tutee(folder.path(), &["diff", "resnet_small_bn.onnx", "s.onnx", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    // Normalization is folded, codes are what they stand for.
    let [before, after] = ["before", "after"].map(|side| json[side]["weights"].as_f64().unwrap());
    assert!((0.9..1.0).contains(&(after / before)), "{before} {after}");
}

/// What a job says, in order.
#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Observer for Heard {
    fn step(&self, index: usize, count: usize, name: &str) {
        self.0.lock().unwrap().push(format!("step {index}/{count} {name}"));
    }
}

impl Listener for Heard {
    fn warning(&self, what: &str) {
        self.0.lock().unwrap().push(format!("warning {what}"));
    }

    fn unwritten(&self, is: bool) {
        self.0.lock().unwrap().push(format!("unwritten {is}"));
    }
}

#[test]
fn a_job_needs_no_command_line() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    let steps = ["clean", "prune-channels:width-mult=0.5"];
    let arguments = ["compress", "resnet_small_bn.onnx", "-o", "s.onnx", "-q", "-p", steps[0], "-p", steps[1]];
    assert!(tutee(folder.path(), &arguments).status.success());

    let mut recipe = Recipe { steps: steps.map(|s| Step::parse(s).unwrap()).into(), ..Recipe::default() };
    let job = |recipe: &Recipe, student: &str| Job {
        output: Outputs { reports: vec![at("r.json")], ..Outputs::to(at(student)) },
        ..Job::new(at("resnet_small_bn.onnx"), recipe.clone())
    };
    let heard = Heard::default();
    let done = job(&recipe, "j.onnx").run(&heard).unwrap();
    assert_eq!(std::fs::read(at("j.onnx")).unwrap(), std::fs::read(at("s.onnx")).unwrap());
    assert_eq!((done.sources.clone(), done.fitted), (vec![at("resnet_small_bn.onnx")], false));
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(at("r.json")).unwrap()).unwrap();
    assert_eq!(report["student"]["bytes"], done.report.student.bytes);
    assert_eq!(report["run"].get("command"), None);
    assert!(done.result().is_ok());
    let heard = heard.0.into_inner().unwrap();
    assert_eq!(heard[0], "unwritten true");
    assert!(heard[1].starts_with("warning few networks survive prune-channels without data;"), "{heard:?}");
    assert_eq!(heard[2..], ["step 0/2 clean", "step 1/2 prune-channels", "unwritten false"]);

    // What went wrong has a kind and a place.
    let e = job(&recipe, "resnet_small_bn.onnx").run(&Silent).unwrap_err();
    assert_eq!((e.kind(), e.place()), (Kind::Input, &[at("resnet_small_bn.onnx").display().to_string()][..]));
    recipe.data.test = Some(at("fashion_test.npz"));
    recipe.target.max_drop = Some(Share(0.0));
    let done = job(&recipe, "j.onnx").run(&Silent).unwrap();
    assert_eq!(done.asked, [("max-drop", 0.0)]);
    assert_eq!(done.result().unwrap_err().kind(), Kind::Target);
}

#[test]
fn every_command_has_a_manual_page() {
    let folder = folder();
    let run = tutee(folder.path(), &["man", "pages/man1"]);
    assert!(run.status.success(), "{}", text(&run.stderr));
    let read = |name: &str| std::fs::read_to_string(folder.path().join("pages/man1").join(name)).unwrap();
    assert!(read("tutee.1").contains("EXIT") || read("tutee.1").contains("Exit codes"));
    let help = text(&tutee(folder.path(), &["--help"]).stdout);
    let commands = help.lines().skip_while(|l| *l != "Commands:").skip(1).take_while(|l| l.starts_with("  "));
    let names: Vec<&str> = commands.filter_map(|l| l.split_whitespace().next()).filter(|n| *n != "help").collect();
    assert!(names.len() > 8, "{help}");
    for name in names {
        assert!(read(&format!("tutee-{name}.1")).contains(".SH SYNOPSIS"), "{name}");
    }
    let run = tutee(folder.path(), &["man", "resnet_small_bn.onnx/here"]);
    assert!(run.status.code() == Some(1) && text(&run.stderr).contains("cannot make the folder"), "{run:?}");
}

#[test]
fn a_run_that_wants_more_memory_than_it_may_ends_with_an_error() {
    let folder = folder();
    std::fs::write(folder.path().join("s.onnx"), "old").unwrap();
    let run = |memory: &str| {
        let run = ["compress", "resnet_small_bn.onnx", "-o", "s.onnx", "-p", "separate-convs:rank=1", "-q"];
        let run = tutee(folder.path(), &[&run[..], &DATA, &["--max-memory", memory]].concat());
        (run.status.code(), text(&run.stderr))
    };
    let (code, error) = run("10MB");
    assert!(code == Some(1) && error.contains("--max-memory allows") && error.contains("help"), "{error}");
    assert_eq!(std::fs::read(folder.path().join("s.onnx")).unwrap(), b"old");
    let beside = std::fs::read_dir(folder.path()).unwrap().flatten();
    assert!(beside.into_iter().all(|e| !e.file_name().to_string_lossy().starts_with('.')));
    let (code, error) = run("2GB");
    assert_eq!(code, Some(0), "{error}");
    // Data that is larger than that is read in portions.
    let model = "model m opset 17 { input %x : f32[N,1000,1000]  %y : f32[N,1000] = ReduceMean<axes=[2],keepdims=0>(%x)  output %y }";
    let model = tutee::ir::text::parse::model(model).unwrap();
    std::fs::write(folder.path().join("m.onnx"), tutee::onnx::to_bytes(&model).unwrap()).unwrap();
    let head = "{'descr': '|u1', 'fortran_order': False, 'shape': (60, 1000, 1000), }\n";
    let pixels: Vec<u8> = (0..60_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let npy = [b"\x93NUMPY\x01\x00", &(head.len() as u16).to_le_bytes()[..], head.as_bytes(), &pixels].concat();
    std::fs::write(folder.path().join("rows.npy"), npy).unwrap();
    let check = ["check", "m.onnx", "m.onnx", "--data", "rows.npy", "--threads", "1", "--max-memory", "50MB"];
    let small = tutee(folder.path(), &check);
    assert_eq!(small.status.code(), Some(0), "{}", text(&small.stderr));
    let (code, error) = run("100");
    assert!(code == Some(1) && error.contains("at least 10.0 MB"), "{error}");
    let (code, error) = run("much");
    assert!(code == Some(1) && error.contains("write 500MB or 2GiB"), "{error}");
}
