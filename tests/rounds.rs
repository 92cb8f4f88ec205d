//! A search in rounds of jobs finds what the search on one machine finds, and says what is wrong with a folder.
#![cfg(feature = "exec")]

mod common;

use common::pictures::{DATA, DENSE, folder, folder_of, pictures, read, said};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn tutee(folder: &Path, arguments: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tutee"));
    command.args(arguments.split_whitespace()).current_dir(folder).output().unwrap()
}

/// Jobs that are to be done, from the folder of the search.
fn round(jobs: &Path) -> Vec<PathBuf> {
    std::fs::read_to_string(jobs.join("round")).unwrap().lines().map(|line| jobs.join(line)).collect()
}

/// Does all rounds of a search that is planned in `jobs`, each job in the folder `there` gives; how many rounds and jobs that
/// took.
fn all_rounds(at: &Path, there: impl Fn(&Path) -> PathBuf, merge: &str) -> (usize, usize) {
    let (mut rounds, mut done) = (0, 0);
    while !round(&at.join("jobs")).is_empty() {
        for job in round(&at.join("jobs")) {
            said(&tutee(at, &format!("search run {} --threads 1", there(&job).display())), 0);
            done += 1;
        }
        said(&tutee(at, &format!("search merge jobs -o rounds.onnx {merge}")), 0);
        rounds += 1;
        assert!(rounds < 40, "it does not end");
    }
    (rounds, done)
}

#[test]
fn it_finds_what_one_machine_finds() {
    let folder = folder();
    let at = folder.path();
    let search = format!("--target-size 5x --candidates 9 {DATA}");
    said(&tutee(at, &format!("compress teacher.onnx -o one.onnx --minutes 60 {search}")), 0);
    let told = said(&tutee(at, &format!("search plan teacher.onnx -o jobs --jobs 3 {search}")), 0);
    assert!(told.contains("1 job to do"), "{told}");
    let (rounds, done) = all_rounds(at, Path::to_path_buf, "--save-recipe found.toml --report found.json");
    assert!(read(at, "rounds.onnx") == read(at, "one.onnx"), "another student");
    assert!(done >= 9 && rounds < 9, "{done} jobs in {rounds} rounds");
    said(&tutee(at, "compress teacher.onnx -o again.onnx -r found.toml"), 0);
    assert!(read(at, "again.onnx") == read(at, "one.onnx"), "the recipe makes another student");
    let report = std::fs::read_to_string(at.join("found.json")).unwrap();
    assert_eq!(report.matches("\"chosen\"").count(), 9, "{report}");
    // What is merged again is the same again.
    said(&tutee(at, "search merge jobs -o rounds.onnx -q"), 0);
    assert!(read(at, "rounds.onnx") == read(at, "one.onnx"));
}

#[test]
fn jobs_are_done_anywhere_and_twice_is_harmless() {
    let folder = folder();
    let (at, other) = (folder.path(), tempfile::tempdir().unwrap());
    let search = format!("--target-weights 3x --candidates 3 --techniques=-cluster-weights {DATA}");
    said(&tutee(at, &format!("compress teacher.onnx -o one.onnx {search}")), 0);
    said(&tutee(at, &format!("search plan teacher.onnx -o jobs --jobs 3 {search}")), 0);
    let before = read(at, "jobs/plan.json");
    said(&tutee(at, &format!("search plan teacher.onnx -o jobs --jobs 3 {search}")), 0);
    assert!(before == read(at, "jobs/plan.json") && round(&at.join("jobs")).len() == 3);
    for name in ["teacher.onnx", "calib.npy"] {
        std::fs::remove_file(at.join(name)).unwrap();
    }
    let result = |job: &Path| job.parent().unwrap().with_file_name("results").join(job.file_name().unwrap());
    // A machine that has a copy of a job and of the inputs alone.
    let there = |job: &Path| {
        let copy = other.path().join("jobs").join(job.file_name().unwrap());
        std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
        std::fs::copy(job, &copy).unwrap();
        if !other.path().join("inputs").exists() {
            common::copy(&at.join("jobs/inputs"), &other.path().join("inputs"));
        }
        copy
    };
    let first = there(&round(&at.join("jobs"))[0]);
    said(&tutee(at, &format!("search run {} --threads 2", first.display())), 0);
    let once = std::fs::read(result(&first)).unwrap();
    assert!(said(&tutee(at, &format!("search run {}", first.display())), 0).contains("done already"));
    std::fs::remove_file(result(&first)).unwrap();
    all_rounds(
        at,
        |job| {
            let copy = there(job);
            said(&tutee(at, &format!("search run {}", copy.display())), 0);
            std::fs::copy(result(&copy), result(job)).unwrap();
            job.to_path_buf()
        },
        "",
    );
    assert!(once == std::fs::read(result(&first)).unwrap(), "another result the second time");
    assert!(read(at, "rounds.onnx") == read(at, "one.onnx"), "another student");
}

#[test]
fn training_is_shared_too() {
    let folder = folder_of(DENSE);
    let at = folder.path();
    pictures(&at.join("train.npy"), 1000, 8);
    let search = "--target-size 16x --candidates 5 --train train.npy";
    said(&tutee(at, &format!("compress teacher.onnx -o one.onnx --minutes 60 {search}")), 0);
    said(&tutee(at, &format!("search plan teacher.onnx -o jobs {search}")), 0);
    let (rounds, done) = all_rounds(at, Path::to_path_buf, "");
    assert!(read(at, "rounds.onnx") == read(at, "one.onnx"), "another student");
    assert!(rounds <= done && done >= 5, "{done} jobs in {rounds} rounds");
}

#[test]
fn every_target_ends() {
    let folder = folder();
    let at = folder.path();
    for (i, target) in ["--max-drop 60%", "--target-macs 3x", ""].iter().enumerate() {
        let search =
            format!("{target} --candidates 7 {DATA}").replace("--candidates 7 --candidates 7", "--candidates 7");
        said(&tutee(at, &format!("compress teacher.onnx -o one{i}.onnx --minutes 60 {search}")), 0);
        let _ = std::fs::remove_dir_all(at.join("jobs"));
        said(&tutee(at, &format!("search plan teacher.onnx -o jobs --jobs 2 {search}")), 0);
        all_rounds(at, Path::to_path_buf, "-q");
        assert!(read(at, "rounds.onnx") == read(at, &format!("one{i}.onnx")), "{target}: another student");
    }
}

#[test]
fn what_is_wrong_is_said() {
    let folder = folder();
    let at = folder.path();
    let planned = format!("search plan teacher.onnx -o jobs --target-size 5x --candidates 2 {DATA}");
    said(&tutee(at, &planned), 0);
    let wrong = |arguments: &str, reasons: &[&str]| {
        let told = said(&tutee(at, arguments), 1);
        assert!(reasons.iter().all(|reason| told.contains(reason)), "{arguments}: {told}");
        assert!(!at.join("s.onnx").exists(), "{arguments}");
    };
    wrong(&planned.replace("5x", "6x"), &["has the plan of another search", "new folder"]);
    wrong(&planned.replace("teacher", "nothing"), &["nothing.onnx"]);
    wrong(&format!("{planned} --jobs 0"), &["--jobs 0"]);
    wrong("search merge jobs -o jobs/plan.json", &["the student would be written among the files of the search"]);
    wrong(&format!("{planned} --target-latency 2x"), &["needs --latency-table", "not alike"]);
    wrong("search plan teacher.onnx -o other --target-size 5x", &["--calib DATA"]);
    assert!(!at.join("other").exists(), "a folder for nothing");
    wrong("search merge jobs -o s.onnx", &["no job of this round is done", "search run jobs"]);
    wrong("search merge . -o s.onnx", &["no plan of a search", "tutee search plan"]);
    wrong("search run jobs/jobs/none.json", &["none.json"]);
    wrong("search run jobs/plan.json", &["plan.json is no job of a search"]);

    let job = round(&at.join("jobs"))[0].clone();
    let run = format!("search run {}", job.display());
    let text = std::fs::read_to_string(&job).unwrap();
    std::fs::write(&job, text.replace("\"candidates\": 2", "\"candidates\": 3")).unwrap();
    wrong(&run, &["was changed", "called by what is in it"]);
    std::fs::write(&job, text.replace("\"tutee\": \"", "\"tutee\": \"9")).unwrap();
    wrong(&run, &["is of another version", "tutee 9"]);
    std::fs::write(&job, &text).unwrap();

    let inputs = at.join("jobs/inputs");
    let data = common::files(inputs.to_str().unwrap(), "npy").remove(0);
    let whole = std::fs::read(&data).unwrap();
    std::fs::write(&data, &whole[..whole.len() - 4]).unwrap();
    wrong(&run, &["the calibration data of the job was changed", "inputs"]);
    std::fs::rename(&inputs, at.join("elsewhere")).unwrap();
    wrong(&run, &["of the job is not there", "inputs"]);
    std::fs::rename(at.join("elsewhere"), &inputs).unwrap();
    std::fs::write(&data, &whole).unwrap();

    said(&tutee(at, &run), 0);
    let result = at.join("jobs/results").join(job.file_name().unwrap());
    let text = std::fs::read_to_string(&result).unwrap();
    for (old, new, reason) in [
        ("\"tutee\": \"", "\"tutee\": \"9", "is of another version"),
        ("\"search\": \"", "\"search\": \"9", "is a result of another search"),
        ("{", "", "is no result of a job"),
    ] {
        std::fs::write(&result, text.replacen(old, new, 1)).unwrap();
        wrong("search merge jobs -o s.onnx", &[reason, "remove it"]);
    }
    std::fs::write(&result, &text).unwrap();
    std::fs::rename(at.join("jobs/results"), at.join("elsewhere")).unwrap();
    wrong("search merge jobs -o s.onnx", &["jobs has no folder `results`", "planned again"]);
    std::fs::rename(at.join("elsewhere"), at.join("jobs/results")).unwrap();
    assert!(said(&tutee(at, "search merge jobs -o s.onnx"), 0).contains("1 job to do"));
    assert!(!at.join("s.onnx").exists());
}
