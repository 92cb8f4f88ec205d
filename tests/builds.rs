//! The examples for build systems, run by the build systems. A tool that is not installed is skipped, and said to be.
#![cfg(unix)]

mod common;

use common::{copy, root};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

const TUTEE: &str = env!("CARGO_BIN_EXE_tutee");

/// Whether a tool is there; that it is not is said.
fn has(tool: &str) -> bool {
    let found = Command::new(tool).arg("--version").output().is_ok_and(|o| o.status.success());
    if !found {
        eprintln!("skipped: {tool} is not installed");
    }
    found
}

/// What a command that succeeds prints.
fn run(folder: &Path, command: &[&str]) -> String {
    let output = Command::new(command[0]).args(&command[1..]).current_dir(folder).env("TUTEE", TUTEE).output().unwrap();
    let text = [output.stdout, output.stderr].map(|s| String::from_utf8_lossy(&s).into_owned()).concat();
    assert!(output.status.success(), "{command:?}\n{text}");
    text
}

/// A copy of an example, two folders below one that has the fixtures, as in the repository.
fn example(name: &str) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("examples").join(name);
    copy(&root().join("examples").join(name), &own);
    std::os::unix::fs::symlink(root().join("fixtures"), folder.path().join("fixtures")).unwrap();
    (folder, own)
}

/// Changes a file as an editor does.
fn touch(path: &Path) {
    std::thread::sleep(std::time::Duration::from_millis(20));
    let now = std::time::SystemTime::now();
    std::fs::File::options().append(true).open(path).unwrap().set_modified(now).unwrap();
}

#[test]
fn make_makes_again_what_it_must() {
    if !has("make") {
        return;
    }
    let (_folder, own) = example("make");
    let tutee = format!("TUTEE={TUTEE}");
    run(&own, &["make", &tutee]);
    assert!(own.join("build/low-rank.onnx").exists() && own.join("build/8-bits.onnx").exists());
    assert!(run(&own, &["make", &tutee]).contains("Nothing to be done"));
    touch(&own.join("low-rank.toml"));
    let again = run(&own, &["make", &tutee]);
    assert!(again.contains("low-rank") && !again.contains("8-bits"), "{again}");
}

#[test]
fn ninja_makes_every_recipe_on_every_model() {
    if !has("ninja") {
        return;
    }
    let (folder, own) = example("ninja");
    let fixtures = folder.path().join("fixtures");
    let lenet300 = fixtures.join("lenet300.onnx");
    run(&own, &[TUTEE, "compress", lenet300.to_str().unwrap(), "-o", "ext.onnx", "-p", "none", "--external-data"]);
    let models = ["ext.onnx", "lenet5.onnx", "resnet_small.onnx", "resnet_small_bn.onnx"];
    let paths: Vec<String> = std::iter::once("ext.onnx".to_string())
        .chain(models[1..].iter().map(|m| fixtures.join(m).display().to_string()))
        .collect();
    let configure: Vec<&str> = ["sh", "configure.sh"].into_iter().chain(paths.iter().map(String::as_str)).collect();
    run(&own, &configure);
    run(&own, &["ninja"]);
    let made = |model: &str| std::fs::read_dir(own.join("students").join(model)).unwrap().count();
    assert_eq!(["ext", "lenet5", "resnet_small", "resnet_small_bn"].map(made), [12; 4]);
    assert!(run(&own, &["ninja"]).contains("no work to do"));
    let data = std::fs::read_dir(&own).unwrap().map(|e| e.unwrap().path());
    touch(&data.into_iter().find(|p| p.extension().is_some_and(|e| e == "data")).unwrap());
    assert!(run(&own, &["ninja"]).contains("[12/12]"));
    touch(&own.join("recipes/clean.toml"));
    assert!(run(&own, &["ninja"]).contains("[4/4]"));
}

#[test]
fn a_sweep_makes_a_table_of_all_students() {
    if !has("ninja") {
        return;
    }
    let (folder, own) = example("sweep");
    let fixtures = folder.path().join("fixtures");
    std::fs::copy(fixtures.join("lenet300.onnx"), own.join("a model.onnx")).unwrap();
    let lenet5 = fixtures.join("lenet5.onnx").display().to_string();
    run(&own, &["sh", "configure.sh", "a model.onnx", &lenet5]);
    run(&own, &["ninja"]);
    let table = std::fs::read_to_string(own.join("table.tsv")).unwrap();
    let rows: Vec<Vec<&str>> = table.lines().map(|row| row.split('\t').collect()).collect();
    assert_eq!(rows.len(), 6, "{table}");
    for row in rows {
        let student = own.join(format!("{}.onnx", row[0]));
        assert_eq!(row[2].parse(), Ok(student.metadata().unwrap().len()), "{table}");
        assert!(row[3].parse::<f64>().unwrap() > 1.5, "{table}");
    }
    assert!(run(&own, &["ninja"]).contains("no work to do"));
    touch(&own.join("recipes/8-bits.toml"));
    let again = run(&own, &["ninja"]);
    assert!(again.contains("8-bits") && !again.contains("low-rank") && again.contains("table.tsv"), "{again}");
}

/// Without Slurm, which would only set the number of the task.
#[test]
fn tasks_of_an_array_make_every_recipe_on_every_model() {
    let (folder, own) = example("slurm");
    copy(&root().join("examples/make"), &own.join("recipes"));
    for model in ["lenet300.onnx", "lenet5.onnx"] {
        let model = Path::new("models").join(model);
        std::fs::create_dir_all(own.join("models")).unwrap();
        let fixture = folder.path().join("fixtures").join(model.file_name().unwrap());
        std::fs::copy(fixture, own.join(model)).unwrap();
    }
    assert_eq!(run(&own, &["sh", "array.sh", "models", "recipes"]), "3\n");
    let task = |number: &str| {
        let mut command = Command::new("sh");
        command.args(["array.sh", "models", "recipes", "--quiet"]).current_dir(&own).env("TUTEE", TUTEE);
        command.env("SLURM_ARRAY_TASK_ID", number).output().unwrap()
    };
    for number in ["0", "1", "2", "3"] {
        assert!(task(number).status.success());
    }
    for student in ["lenet300/8-bits", "lenet300/low-rank", "lenet5/8-bits", "lenet5/low-rank"] {
        assert!(own.join(format!("students/{student}.onnx")).exists(), "{student}");
    }
    let none = task("4");
    assert!(!none.status.success() && String::from_utf8_lossy(&none.stderr).contains("the last is 3"));
}

/// Without Slurm: `local.sh` does the tasks of an array.
#[test]
fn rounds_of_an_array_find_what_one_search_finds() {
    if !has("xargs") {
        return;
    }
    let (folder, own) = example("slurm");
    let fixtures = folder.path().join("fixtures");
    let [teacher, calib] = ["lenet5.onnx", "fashion_calib.npz"].map(|f| fixtures.join(f).display().to_string());
    let search = ["--target-size", "8x", "--candidates", "3", "--calib-samples", "32", "--scale", "1/255"];
    let search = [&["--calib", calib.as_str()][..], &search].concat();
    run(&own, &[&[TUTEE, "compress", &teacher, "-o", "one.onnx", "--minutes", "60"], &search[..]].concat());
    run(&own, &[&[TUTEE, "search", "plan", &teacher, "-o", "JOBS", "--jobs", "2"], &search[..]].concat());
    let rounds = ["env", "SUBMIT=sh local.sh", "sh", "search.sh", "JOBS", "student.onnx", "--report", "report.html"];
    run(&own, &rounds);
    let read = |name: &str| std::fs::read(own.join(name)).unwrap();
    assert!(read("student.onnx") == read("one.onnx") && own.join("report.html").exists());
    assert!(read("JOBS/round").is_empty());
}

#[test]
fn cmake_has_a_function() {
    if !has("cmake") || !has("ninja") {
        return;
    }
    let (_folder, own) = example("cmake");
    let tutee = format!("-DTUTEE_EXECUTABLE={TUTEE}");
    run(&own, &["cmake", "-G", "Ninja", &tutee, "-B", "build", "."]);
    run(&own, &["cmake", "--build", "build"]);
    assert!(own.join("build/lenet300.onnx").exists() && own.join("build/lenet5.onnx").exists());
    assert!(run(&own, &["cmake", "--build", "build"]).contains("no work to do"));
    touch(&own.join("small.toml"));
    assert!(run(&own, &["cmake", "--build", "build"]).contains("lenet300"));
}

#[test]
fn bazel_builds_from_a_remote_cache() {
    if !has("bazel") {
        return;
    }
    let (folder, own) = example("bazel");
    std::fs::copy(TUTEE, own.join("tools/tutee")).unwrap();
    std::fs::copy(folder.path().join("fixtures/lenet300.onnx"), own.join("lenet300.onnx")).unwrap();
    let cache = format!("--remote_cache=http://127.0.0.1:{}", serve_cache());
    let output = format!("--output_user_root={}", folder.path().join("bazel").display());
    let built = run(&own, &["bazel", &output, "build", ":all", &cache]);
    assert!(!built.contains("remote cache hit"), "{built}");
    let student = std::fs::read(own.join("bazel-bin/lenet300_low_rank.onnx")).unwrap();
    run(&own, &["bazel", &output, "clean"]);
    let built = run(&own, &["bazel", &output, "build", ":all", &cache]);
    assert!(built.contains("2 remote cache hit"), "{built}");
    assert!(std::fs::read(own.join("bazel-bin/lenet300_low_rank.onnx")).unwrap() == student);
    run(&own, &["bazel", &output, "shutdown"]);
    // What Bazel keeps is read-only, which keeps the temporary folder from going.
    run(folder.path(), &["chmod", "-R", "u+w", "bazel"]);
}

type Store = Arc<Mutex<HashMap<String, Vec<u8>>>>;

/// A remote cache on a port of this machine: what is PUT can be got.
fn serve_cache() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let store = Store::default();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let store = store.clone();
            std::thread::spawn(move || serve(&stream, &store));
        }
    });
    port
}

/// Answers the requests of one connection; `None` at its end.
fn serve(stream: &TcpStream, store: &Store) -> Option<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|&n| n > 0)?;
        let mut words = line.split_whitespace();
        let (method, path) = (words.next()?.to_string(), words.next()?.to_string());
        let mut length = 0;
        loop {
            let mut header = String::new();
            reader.read_line(&mut header).ok()?;
            if header.trim().is_empty() {
                break;
            }
            if let Some(value) = header.to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let found = match method.as_str() {
            "PUT" => {
                store.lock().unwrap().insert(path, body);
                Some(Vec::new())
            }
            _ => store.lock().unwrap().get(&path).cloned(),
        };
        let status = if found.is_some() { "200 OK" } else { "404 Not Found" };
        let found = found.unwrap_or_default();
        let mut out = stream;
        write!(out, "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", found.len()).ok()?;
        if method != "HEAD" {
            out.write_all(&found).ok()?;
        }
    }
}

#[test]
fn a_structure_under_version_control() {
    let folder = tempfile::tempdir().unwrap();
    let golden = folder.path().join("student.ir");
    let compress = |steps: &[&str], bless: bool| {
        let mut command = Command::new(TUTEE);
        command.arg("compress").arg(root().join("fixtures/lenet300.onnx")).args(["-o", "student.onnx", "-q"]);
        command.args(steps).arg("--check-golden").arg(&golden).args(bless.then_some("--bless"));
        command.current_dir(folder.path()).output().unwrap()
    };
    let said = |o: &std::process::Output| String::from_utf8_lossy(&o.stderr).into_owned();
    let none = compress(&["-p", "clean"], false);
    assert!(none.status.code() == Some(1) && said(&none).contains("--bless") && !golden.exists());
    assert!(compress(&["-p", "clean"], true).status.success());
    let shown = Command::new(TUTEE).args(["show", "--structure", "student.onnx"]).current_dir(folder.path()).output();
    assert_eq!(shown.unwrap().stdout, std::fs::read(&golden).unwrap());
    // Other weights, the same structure.
    assert!(compress(&["-p", "clean", "-p", "prune-weights:sparsity=0.5"], false).status.success());
    let other = compress(&["-p", "clean", "-p", "cluster-weights:bits=8"], false);
    assert!(other.status.code() == Some(2) && folder.path().join("student.onnx").exists());
    let diff = said(&other);
    assert!(diff.contains("\n+") && diff.contains("\n-") && diff.contains("the structure is not that of"), "{diff}");
    let over = ["compress", "student.onnx", "-o", "student.ir", "--check-golden", "student.ir", "-q"];
    let over = Command::new(TUTEE).args(over).current_dir(folder.path()).output().unwrap();
    assert!(over.status.code() == Some(1) && std::fs::read_to_string(&golden).unwrap().starts_with("model"));
}
