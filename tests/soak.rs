//! One process that compresses again and again keeps no memory: after 300 runs it has as much as after the tenth.
//!
//! `cargo test --test soak -- --ignored --nocapture` prints memory as it goes. `SOAK_MODELS` names a folder of more
//! models, each MODEL.onnx with MODEL.calib.npz where there is data for it; `SOAK_RUNS` and `SOAK_SEED` are numbers.
#![cfg(all(feature = "exec", target_os = "linux"))]

mod common;

use common::{Random, files, name, root, zoo};
use std::path::{Path, PathBuf};
use tutee::error::Kind;
use tutee::job::{Job, Listener, Outputs};
use tutee::onnx::{self, SaveOptions, Target};
use tutee::recipe::{DataSection, Recipe};
use tutee::session::Observer;

/// What may be added to the memory after the tenth run: pieces of it that the allocator cannot give back.
const SLACK: u64 = 24 << 20;

struct Silent;
impl Observer for Silent {}
impl Listener for Silent {}

/// A model, and data to fit it to.
struct Teacher {
    model: PathBuf,
    calib: Option<PathBuf>,
}

fn teachers(folder: &Path) -> Vec<Teacher> {
    let mut models = files("fixtures", "onnx");
    if let Some(more) = std::env::var_os("SOAK_MODELS") {
        models.extend(
            std::fs::read_dir(more)
                .unwrap()
                .map(|e| e.unwrap().path())
                .filter(|p| p.extension().is_some_and(|e| e == "onnx")),
        );
    }
    for (name, model) in zoo() {
        let path = folder.join(name.replace('/', "_")).with_extension("onnx");
        onnx::save(&model, &Target::File(path.clone()), SaveOptions::default()).unwrap();
        models.push(path);
    }
    models.sort();
    let data = |model: &PathBuf| {
        let own = model.with_extension("calib.npz");
        let images = root().join("fixtures/fashion_calib.npz");
        let takes_images =
            ["lenet5.onnx", "resnet_small.onnx", "resnet_small_bn.onnx"].map(|m| root().join("fixtures").join(m));
        own.exists().then_some(own).or_else(|| takes_images.contains(model).then_some(images))
    };
    models.into_iter().map(|model| Teacher { calib: data(&model), model }).collect()
}

/// Bytes in memory, after what is free went back to the system.
fn resident() -> u64 {
    // SAFETY: it takes any number, and moves nothing that is in use.
    unsafe { libc::malloc_trim(0) };
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = pages.split_whitespace().nth(1).unwrap().parse().unwrap();
    // SAFETY: it only asks.
    pages * unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as u64
}

#[test]
#[ignore = "takes minutes; the first lines of this file have the command"]
fn memory_does_not_grow() {
    let number = |name: &str, usual: u64| std::env::var(name).map_or(usual, |v| v.parse().unwrap());
    let (runs, mut random) = (number("SOAK_RUNS", 300), Random(number("SOAK_SEED", 1)));
    let folder = tempfile::tempdir().unwrap();
    let teachers = teachers(folder.path());
    let student = folder.path().join("student.onnx");
    let (mut done, mut fitted, mut refused, mut early, mut last) = (0, 0, 0, 0, 0);
    for run in 1..=runs {
        // A third of the runs fit to data, which takes most of the memory: the first ten have some.
        let fits = run % 3 == 0;
        let some: Vec<&Teacher> = teachers.iter().filter(|t| !fits || t.calib.is_some()).collect();
        let teacher = some[random.below(some.len())];
        let steps = random.recipe();
        let recipe =
            Recipe::parse(&format!("version = 1\nstep = {steps}"), "soak").unwrap_or_else(|_| common::recipe("[]"));
        let calib = teacher.calib.clone().filter(|_| fits);
        fitted += u64::from(calib.is_some());
        let data = DataSection { calib_samples: calib.as_ref().map(|_| 32), calib, ..DataSection::default() };
        let mut output = Outputs::to(&student);
        output.reports = vec![folder.path().join("report.html"), folder.path().join("report.json")];
        let job = Job { output, ..Job::new(&teacher.model, Recipe { data, ..recipe }) };
        match job.run(&Silent) {
            Ok(_) => done += 1,
            Err(e) => {
                assert_eq!(e.kind(), Kind::Input, "{steps} on {}: {e}", name(&teacher.model));
                refused += 1;
            }
        }
        if run == 10 || run % 20 == 0 || run == runs {
            last = resident();
            early = if run == 10 { last } else { early };
            println!(
                "after {run} runs: {:.1} MB; {done} done, {fitted} with data, {refused} refused",
                last as f64 / 1e6
            );
        }
    }
    assert!(done > runs / 2, "{refused} of {runs} were refused");
    assert!(last <= early + SLACK, "{last} bytes at the end, {early} after the tenth run");
}
