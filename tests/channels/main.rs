//! The channel engine keeps the masking law, on the fixtures and on random networks.
//!
//! `NETS=20000 cargo test --test channels` tries so many networks.
#![cfg(feature = "exec")]

#[path = "../common/mod.rs"]
mod common;
mod law;
mod net;
mod steps;

use common::{Random, files, name, teachers};
use law::{NetworkSize, Units};
use net::Step;
use rayon::prelude::*;
use std::collections::{BTreeMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use steps::{BARRIER, STEPS};
use tutee::analysis::channels::Channels;
use tutee::analysis::cost::node_macs;
use tutee::compress::measure;
use tutee::ir::{Model, NodeId, Patch, Tensor, text};
use tutee::onnx;

/// Units of a random choice, such that no axis loses all its channels.
fn some(model: &Model, channels: &Channels, random: &mut Random) -> Units {
    let share = 1 + random.below(9);
    let mut gone = Units::new();
    let mut worth = BTreeMap::new();
    for group in channels.groups().iter().filter(|g| g.frozen.is_none()) {
        for &unit in &group.units {
            worth.insert(unit, random.below(1000) as f64);
            if random.below(10) < share {
                gone.insert(unit);
            }
        }
    }
    channels.spare(&model.graph, &mut gone, |u| worth.get(&u).copied().unwrap_or(0.0));
    gone
}

#[test]
fn fixtures_keep_the_law() {
    let widths = [Some(0.75), Some(0.5), Some(0.25), None];
    let cases: Vec<_> = teachers().into_iter().flat_map(|path| widths.map(|w| (path.clone(), w))).collect();
    let one = |(path, width): &(PathBuf, Option<f64>)| -> Result<bool, String> {
        let teacher = onnx::load(path).map_err(|e| e.to_string())?.model;
        let channels = Channels::of(&teacher.graph).map_err(|e| e.to_string())?;
        let (student, gone) = match width {
            Some(width) => law::pruned(&teacher, &channels, *width)?,
            None => {
                let gone = some(&teacher, &channels, &mut Random(1));
                (law::removed(&teacher, &channels, &gone)?, gone)
            }
        };
        if !gone.is_empty() {
            law::holds(&teacher, &channels, &gone, &student, NetworkSize::Fixture)?;
        }
        Ok(!gone.is_empty())
    };
    let law =
        |case: &(PathBuf, Option<f64>)| one(case).unwrap_or_else(|e| panic!("{} at {:?}: {e}", name(&case.0), case.1));
    let cut = cases.par_iter().filter(|case| law(case)).count();
    assert!(cut >= 24, "only {cut} of {} prunings of fixtures cut anything", cases.len());
}

#[test]
fn the_zoo_keeps_the_law() {
    let one = |model: &Model, width: Option<f64>| -> Result<(), String> {
        let channels = Channels::of(&model.graph).map_err(|e| e.to_string())?;
        let (student, gone) = match width {
            Some(width) => law::pruned(model, &channels, width)?,
            None => {
                let gone = some(model, &channels, &mut Random(1));
                (law::removed(model, &channels, &gone)?, gone)
            }
        };
        if gone.is_empty() { Ok(()) } else { law::holds(model, &channels, &gone, &student, NetworkSize::Fixture) }
    };
    let cases: Vec<_> = common::zoo().into_iter().flat_map(|m| [Some(0.5), None].map(|w| (m.clone(), w))).collect();
    let broken = |((name, model), width): &((String, Model), Option<f64>)| {
        one(model, *width).err().map(|e| format!("{name} at {width:?}: {e}"))
    };
    let broken: Vec<String> = cases.par_iter().filter_map(broken).collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// Eight convolutions with BatchNormalization and ReLU6 and a classifier: 2.17 million parameters.
fn plain_cnn() -> String {
    let mut lines = vec!["input %x0 : f32[N,3,32,32]".to_string(), "const %zero : f32[] = {0.0}".into()];
    lines.push("const %six : f32[] = {6.0}".into());
    let (mut from, mut size) = (3, 32);
    for (i, to) in [16, 32, 64, 128, 256, 256, 256, 256].into_iter().enumerate() {
        lines.push(format!("const %w{i} : f32[{to},{from},3,3] = seed({i})"));
        lines.push(format!("const %v{i} : f32[{to}] = {{{}}}", vec!["0.5"; to].join(",")));
        lines.extend(["b", "s", "o", "m"].map(|v| format!("const %{v}{i} : f32[{to}] = seed({})", 90 + i)));
        lines.push(format!("%a{i} : f32[N,{to},{size},{size}] = Conv<pads=[1,1,1,1]>(%x{i}, %w{i}, %b{i})"));
        lines.push(format!("%n{i} : ? = BatchNormalization(%a{i}, %s{i}, %o{i}, %m{i}, %v{i})"));
        lines.push(format!("%r{i} : ? = Clip(%n{i}, %zero, %six)"));
        let pool = if i < 4 { "MaxPool<kernel_shape=[2,2], strides=[2,2]>" } else { "Identity" };
        lines.push(format!("%x{} : ? = {pool}(%r{i})", i + 1));
        (from, size) = (to, if i < 4 { size / 2 } else { size });
    }
    lines.push("const %w : f32[10,256] = seed(8)".into());
    lines.push("const %b : f32[10] = seed(9)".into());
    lines.extend(
        ["%p : ? = GlobalAveragePool(%x8)", "%f : ? = Flatten(%p)", "%y : ? = Gemm<transB=1>(%f, %w, %b)"]
            .map(String::from),
    );
    format!("model \"plain\" opset 17 {{\n  {}\n  output %y\n}}\n", lines.join("\n  "))
}

#[test]
fn half_the_width_leaves_a_quarter() {
    let fixture = |name: &str| onnx::load(&common::root().join(format!("fixtures/{name}.onnx"))).unwrap().model;
    let plain = text::parse::model(&plain_cnn()).unwrap();
    let most = |model: &Model, percent: u64| measure(model).unwrap().cost.parameters * percent / 100;
    let angles = fixture("ppocr_cls");
    let cases = [
        (fixture("lenet5"), 110_000),
        (fixture("lenet300"), 126_000),
        (fixture("resnet_small_bn"), 45_000),
        (plain.clone(), 545_000),
        (angles.clone(), most(&angles, 60)),
    ];
    for (teacher, most) in cases {
        let channels = Channels::of(&teacher.graph).unwrap();
        let (student, _) = law::pruned(&teacher, &channels, 0.5).unwrap();
        let left = measure(&student).unwrap().cost.parameters;
        assert!(left <= most, "{}: {left} of at most {most} parameters", teacher.graph.name);
    }
    let channels = Channels::of(&plain.graph).unwrap();
    let (student, gone) = law::pruned(&plain, &channels, 0.5).unwrap();
    law::holds(&plain, &channels, &gone, &student, NetworkSize::Fixture).unwrap();
}

#[test]
fn every_layer_is_in_a_group() {
    for path in teachers() {
        let model = onnx::load(&path).unwrap().model;
        let (g, channels) = (&model.graph, Channels::of(&model.graph).unwrap());
        let groups = channels.groups();
        let made: HashSet<NodeId> = groups.iter().flat_map(|g| g.producers.iter().copied()).collect();
        let units: HashSet<u32> = groups.iter().flat_map(|g| g.units.iter().copied()).collect();
        let weight = |n| {
            let inputs = g.node_inputs(n).into_iter().flatten();
            inputs.into_iter().find(|&v| g.value(v).constant().is_some_and(|t| t.rank() > 1))
        };
        for n in g.nodes().filter(|&n| node_macs(g, n, None) != Some(0)) {
            let Some(weight) = weight(n) else { continue };
            // A depthwise convolution is cut with the channels that it reads.
            let with = channels.unit(weight, 0, 0).is_some_and(|u| units.contains(&u) || channels.frozen(u).is_some());
            assert!(made.contains(&n) || with, "{}: nothing is said about {}", name(&path), g.label(n));
        }
        assert!(groups.iter().all(|g| !g.units.is_empty() || g.frozen.is_some()), "{}", name(&path));
    }
}

/// How many networks have a step, and in how many of them channels of the step's nodes went.
type Coverage = BTreeMap<String, [usize; 2]>;

/// Stands for all steps of a network.
const ANY: &str = "any";

/// A network from its text and file, its weights scaled so that sums neither explode nor vanish.
fn read(text: &str) -> Result<Model, String> {
    let mut model = law::reread(&text::parse::model(text).map_err(|e| format!("text: {e}\n{text}"))?)?;
    let values: Vec<_> = model.graph.values().collect();
    for v in values {
        let Some(t) = model.graph.value(v).constant().filter(|t| t.rank() > 1) else { continue };
        let Some(floats) = t.floats() else { continue };
        let (most, n) = (t.shape().iter().max().copied().unwrap_or(1), t.len());
        let scale = (3.0 * most as f64 / n as f64).sqrt();
        let tame = Tensor::from_floats(t.dtype(), t.shape(), floats.iter().map(|w| w * scale));
        let mut patch = Patch::at_value(&model.graph, v);
        patch.set_constant(v, tame);
        model.graph.apply(patch).map_err(|e| format!("scale: {e}"))?;
    }
    Ok(model)
}

fn check(text: &str, seed: u64) -> Result<Coverage, String> {
    let run = || {
        let teacher = read(text)?;
        let channels = Channels::of(&teacher.graph).map_err(|e| format!("channels: {e}"))?;
        let mut random = Random(seed);
        let (student, gone) = if random.below(2) == 0 {
            law::pruned(&teacher, &channels, [0.75, 0.5, 0.25][random.below(3)])?
        } else {
            let gone = some(&teacher, &channels, &mut random);
            (law::removed(&teacher, &channels, &gone)?, gone)
        };
        law::holds(&teacher, &channels, &gone, &student, NetworkSize::Small)?;
        let mut seen = Coverage::new();
        for (step, cut) in law::steps_cut(&teacher, &channels, &gone) {
            for name in [step, ANY] {
                let counts = seen.entry(name.into()).or_insert([1, 0]);
                counts[1] = counts[1].max(cut.into());
            }
        }
        Ok(seen)
    };
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Err("panic: see above".into()))
}

/// The file tests of `prune-channels` are the textbook: what they show is right.
#[test]
fn goldens_keep_the_law() {
    // Nobody can run a contradiction or an operator that nobody knows, nothing feeds a flag, and tract has neither Loop nor
    // RoiAlign, nor Squeeze without axes.
    let left_out = [
        "capture",
        "contradiction",
        "explained",
        "frozen",
        "loop",
        "params-refused",
        "regions",
        "squeeze-to-one",
        "squeeze-to-one-12",
        "unknown",
    ];
    let runs = |p: &&PathBuf| !left_out.iter().any(|l| p.file_stem().is_some_and(|stem| stem == *l));
    for path in files("tests/passes/prune-channels", "ir").iter().filter(runs) {
        let text = std::fs::read_to_string(path).unwrap();
        let given = text.split("\n---- ").next().unwrap();
        for seed in 0..6 {
            check(given, seed).unwrap_or_else(|e| panic!("{} with seed {seed}: {e}", name(path)));
        }
    }
}

/// Steps, opset and batch of the network of a seed.
fn plan(seed: u64) -> (Vec<Step>, i64, &'static str) {
    let mut random = Random(seed);
    let n = 1 + random.below(7);
    let steps = (0..n).map(|_| (random.below(STEPS.len()), random.below(1 << 30) as u64)).collect();
    (steps, [11, 12, 13, 17, 17, 18, 21][random.below(7)], ["N", "2"][random.below(2)])
}

/// Fewer steps that fail for the same reason.
fn shrink(seed: u64, error: &str) -> (String, String) {
    let kind = |e: &str| e.split(':').next().map(str::to_string);
    let (mut steps, opset, batch) = plan(seed);
    let mut last = error.to_string();
    let mut i = 0;
    while i < steps.len() {
        let mut fewer = steps.clone();
        fewer.remove(i);
        match check(&net::build(&fewer, opset, batch), seed) {
            Err(e) if kind(&e) == kind(error) => (steps, last, i) = (fewer, e, 0),
            _ => i += 1,
        }
    }
    (net::build(&steps, opset, batch), last)
}

/// The same networks, their height and width open: what is known of sizes is what their nodes tell.
#[test]
fn random_networks_of_open_sizes_keep_the_law() {
    let nets: u64 = std::env::var("NETS").map_or(400, |n| n.parse().unwrap());
    let one = |seed: u64| {
        let (steps, opset, batch) = plan(seed);
        let text = net::build(&steps, opset, batch).replacen(",3,6,6]", ",3,H,W]", 1);
        check(&text, seed).map_err(|e| format!("seed {seed}: {e}\n{text}"))
    };
    let all: Vec<Result<Coverage, String>> = (0..nets).into_par_iter().map(one).collect();
    let failed: Vec<&String> = all.iter().filter_map(|r| r.as_ref().err()).collect();
    assert!(failed.is_empty(), "{} of {nets} fail\n{}", failed.len(), failed[0]);
    let cut = all.iter().flatten().filter(|seen| seen.get(ANY).is_some_and(|[_, cut]| *cut > 0)).count() as u64;
    assert!(2 * cut >= nets, "cut in {cut} of {nets} networks");
}

#[test]
fn random_networks_keep_the_law() {
    let nets: u64 = std::env::var("NETS").map_or(1000, |n| n.parse().unwrap());
    let from: u64 = std::env::var("SEED").map_or(0, |n| n.parse().unwrap());
    let one = |seed: u64| {
        let (steps, opset, batch) = plan(seed);
        (seed, check(&net::build(&steps, opset, batch), seed))
    };
    let all: Vec<(u64, Result<Coverage, String>)> = (from..from + nets).into_par_iter().map(one).collect();
    let failed: Vec<_> = all.iter().filter_map(|(seed, r)| Some((seed, r.as_ref().err()?))).collect();
    if let Some((seed, error)) = failed.first() {
        let (text, error) = shrink(**seed, error);
        let path = std::env::temp_dir().join(format!("channels-{seed}.ir"));
        std::fs::write(&path, &text).unwrap();
        let list: Vec<_> =
            failed.iter().map(|(s, e)| format!("seed {s}: {}", e.lines().next().unwrap_or(""))).collect();
        panic!(
            "{} of {nets} fail\n{}\nthe first, shrunk: {}\n{error}\n{text}",
            failed.len(),
            list.join("\n"),
            path.display()
        );
    }
    let mut total = Coverage::new();
    for (step, counts) in all.into_iter().flat_map(|(_, r)| r.unwrap()) {
        let sum = total.entry(step).or_default();
        (0..2).for_each(|i| sum[i] += counts[i]);
    }
    for (step, [built, cut]) in &total {
        println!("{step}: cut in {cut} of {built} networks");
        let enough = match step.as_str() {
            s if s.starts_with(BARRIER) => *cut == 0,
            "resize" => true,
            s => 4 * cut >= if s == ANY { 3 * built } else { *built },
        };
        assert!(enough, "{step}: cut in {cut} of {built} networks");
    }
    let rare = STEPS.iter().find(|(step, _)| total.get(*step).is_none_or(|[built, _]| (*built as u64) < nets / 40));
    assert!(rare.is_none(), "{rare:?} is in too few networks");
}
