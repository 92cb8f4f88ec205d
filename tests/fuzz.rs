//! No model makes tutee panic, hang or call itself broken: whatever can be done with one is done with thousands of damaged
//! ones, the same in every run.
//!
//! `FUZZ_SECONDS=1800 FUZZ_SEED=7 cargo test --test fuzz -- --nocapture` goes on for so much CPU time from another start,
//! keeps what it finds in `target/fuzz` and says how to do it again.

mod common;

use common::proto::{encode, parse};
use common::trial::{use_all, use_text};
use common::{Random, files, name};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tutee::ir::text;
use tutee::onnx;
use tutee::passes::REGISTRY;

/// Models tried unless there is a time to fill.
const EXECUTIONS: u64 = 6000;
/// CPU time of one model; thousands of times what it should take.
const SLOW: Duration = Duration::from_secs(5);
const STUCK: Duration = Duration::from_secs(60);
/// Share of the cases that start from a file test, on which passes find something to do.
const FILE_TESTS: usize = 60;
/// Larger files take too long to be tried often.
const SMALL: usize = 6000;
const LARGEST: usize = 100_000;

/// Files to damage: fixtures, conformance models and the inputs of file tests, on which passes have something to do.
fn corpus() -> Vec<(String, Vec<u8>)> {
    let onnx = ["fixtures"].into_iter().flat_map(|folder| files(folder, "onnx"));
    let mut all: Vec<_> = onnx.map(|p| (name(&p), std::fs::read(&p).unwrap())).collect();
    for path in files("tests/passes", "ir") {
        let model = text::parse::model(&std::fs::read_to_string(&path).unwrap()).unwrap();
        all.push((name(&path), onnx::to_bytes(&model).unwrap()));
    }
    all.retain(|f| f.1.len() <= LARGEST);
    all
}

/// What was tried last, and why it is a finding if it is one.
#[derive(Clone, Default)]
struct Case {
    what: String,
    file: Vec<u8>,
    is_text: bool,
    recipe: String,
}

impl Case {
    /// Number `k` of a seed.
    fn make(corpus: &[(String, Vec<u8>)], seed: u64, k: u64) -> Case {
        let mut random = Random(seed << 32 ^ k.wrapping_mul(0x2545_f491_4f6c_dd1d));
        let file_test = random.below(100) < FILE_TESTS;
        let (name, bytes) = loop {
            let (name, bytes) = &corpus[random.below(corpus.len())];
            if name.ends_with(".ir") == file_test && (bytes.len() <= SMALL || file_test || random.below(8) == 0) {
                break (name, bytes);
            }
        };
        let mut case = Case { file: bytes.clone(), recipe: random.recipe(), ..Case::default() };
        let how = match random.below(12) {
            0 => {
                random.damage(&mut case.file);
                "damaged"
            }
            1 => {
                if let Ok(loaded) = onnx::decode(case.file.clone().into(), None) {
                    case.file = text::print::model(&loaded.model).into_bytes();
                    random.damage(&mut case.file);
                    case.is_text = true;
                }
                "damaged text"
            }
            of => {
                let mut model = parse(&case.file).unwrap();
                match of {
                    2 => random.rewrite(&mut model),
                    3 => {
                        random.mutate(&mut model);
                        random.rewrite(&mut model);
                    }
                    _ => random.mutate(&mut model),
                }
                case.file = encode(&model);
                "changed"
            }
        };
        case.what = format!("seed {seed} case {k}: {name}, {how}");
        case
    }

    fn run(&self) -> Option<Vec<String>> {
        match self.is_text {
            true => use_text(&String::from_utf8_lossy(&self.file), &self.recipe),
            false => use_all(&self.file, &self.recipe),
        }
    }

    /// Writes it to `target/fuzz`, with how it came about and what was done with it, which is returned too.
    fn keep(&self, stem: &str) -> String {
        let folder = common::root().join("target/fuzz");
        std::fs::create_dir_all(&folder).unwrap();
        let ending = if self.is_text { "ir" } else { "onnx" };
        let path = folder.join(format!("{stem}.{ending}"));
        std::fs::write(&path, &self.file).unwrap();
        let about = format!("{}\n  {}\n  {}", self.what, self.recipe, name(&path));
        std::fs::write(folder.join(format!("{stem}.txt")), &about).unwrap();
        about
    }
}

/// Ends the program if one case goes on and on.
fn watch(current: Arc<Mutex<Option<(Duration, Case)>>>, start: Instant) {
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(Duration::from_secs(1));
            let now = current.lock().unwrap();
            match &*now {
                Some((begun, case)) if cpu_time(start).saturating_sub(*begun) > STUCK => {
                    eprintln!("no end after {STUCK:?}: {}", case.keep("no-end"));
                    std::process::abort();
                }
                _ => {}
            }
        }
    });
}

/// CPU time of this process; where the system does not tell, the time since `start`.
fn cpu_time(start: Instant) -> Duration {
    // The 14th and 15th field are user and system time in hundredths of a second; the 2nd is a name in parentheses.
    let ticks = || {
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
    };
    ticks().map_or_else(|| start.elapsed(), |t| Duration::from_millis(10 * t))
}

#[test]
fn nothing_panics_hangs_or_is_our_bug() {
    let variable = |name: &str| std::env::var(name).ok().map(|v| v.parse::<u64>().unwrap());
    let (seconds, seed) = (variable("FUZZ_SECONDS"), variable("FUZZ_SEED").unwrap_or(0));
    let corpus = corpus();
    let place = Arc::new(Mutex::new(String::new()));
    let told = place.clone();
    std::panic::set_hook(Box::new(move |info| {
        *told.lock().unwrap() =
            format!("{} {}", info.location().map_or(String::new(), |l| l.to_string()), first_lines(info));
    }));
    let current = Arc::new(Mutex::new(None));
    let start = Instant::now();
    watch(current.clone(), start);

    let mut changes: BTreeMap<String, u64> = BTreeMap::new();
    let mut findings: BTreeMap<String, (u64, String)> = BTreeMap::new();
    let (mut tried, mut read, mut slowest) = (0, 0, Duration::ZERO);
    while seconds.map_or(tried < EXECUTIONS, |s| cpu_time(start) < Duration::from_secs(s)) {
        let case = Case::make(&corpus, seed, tried);
        let begun = cpu_time(start);
        *current.lock().unwrap() = Some((begun, case.clone()));
        // An allocation that fails, or a stack that overflows, ends the program: this is what is left.
        seconds.map(|_| case.keep("running"));
        let outcome = catch_unwind(AssertUnwindSafe(|| case.run()));
        let took = cpu_time(start).saturating_sub(begun);
        slowest = slowest.max(took);
        tried += 1;
        let finding = match outcome {
            Err(_) => place.lock().unwrap().clone(),
            Ok(_) if took > SLOW => format!("slow: {took:.1?}"),
            Ok(None) => continue,
            Ok(Some(passes)) => {
                read += 1;
                passes.into_iter().for_each(|pass| *changes.entry(pass).or_insert(0) += 1);
                continue;
            }
        };
        findings
            .entry(kind(&finding))
            .or_insert_with(|| (0, format!("{finding}\n  {}", case.keep(&format!("{seed}-{}", tried - 1)))))
            .0 += 1;
    }
    drop(std::panic::take_hook());
    *current.lock().unwrap() = None;
    println!(
        "{tried} models, {read} of them read, in {:.0?} of CPU time; the slowest took {slowest:.2?}",
        cpu_time(start)
    );
    println!("changes by pass: {changes:?}");
    let list: Vec<_> = findings.values().map(|(n, first)| format!("{n} times {first}")).collect();
    assert!(findings.is_empty(), "{} findings\n{}", list.len(), list.join("\n"));
    assert!(read > tried / 2, "these changes do not get past the decoder: {read} of {tried}");
    assert!(changes.len() > REGISTRY.len() / 2, "most passes find nothing to do: {changes:?}");
}

/// A finding without what differs from case to case: numbers and quoted names.
fn kind(finding: &str) -> String {
    let unquoted = finding.split('"').step_by(2).collect::<Vec<_>>().join("\"");
    unquoted.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect()
}

/// The message of a panic, short.
fn first_lines(info: &std::panic::PanicHookInfo<'_>) -> String {
    let message = info.payload_as_str().unwrap_or("");
    message.chars().take(400).collect()
}

#[test]
fn every_beginning_of_a_file() {
    for (name, bytes) in corpus().into_iter().filter(|f| f.0.starts_with("fixtures/onnx") || f.1.len() < 300) {
        for end in 0..bytes.len() {
            let outcome = catch_unwind(|| use_all(&bytes[..end], r#"[{ pass = "clean" }]"#));
            assert!(outcome.is_ok(), "{name} up to {end}");
        }
    }
}
