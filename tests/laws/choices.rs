//! The laws that choices keep: whatever a pass offers can be written into a recipe, and does what it says.

use super::{names_are_unique, shared};
use crate::common;
use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use tutee::compress::{Outcome, Silent, compress, measure};
use tutee::exec::Network;
use tutee::ir::{Model, random, text};
use tutee::onnx;
use tutee::passes::options::Selected;
use tutee::passes::{Choice, Context, Fidelity, Offers, Pass, REGISTRY, Site, by_layer};
use tutee::recipe::{Action, Recipe};

/// Layers of all kinds, from a seed.
fn mixed(seed: usize) -> String {
    let s = |i: usize| seed * 10 + i;
    let (a, b, c) = (8 + seed % 5, 12 + seed % 7, 16 + seed % 3);
    let (strides, group) = (1 + seed % 2, 1 + seed % 2);
    let b = b / group * group;
    let a = a / group * group;
    format!(
        "input %x : f32[N,4,8,9]
         const %w1 : f32[{a},4,3,3] = seed({}) const %w2 : f32[{b},{},3,2] = seed({}) const %w3 : f32[{c},{b},1,1] = seed({})
         const %w4 : f32[{c},20] = seed({}) const %w5 : f32[24,20] = seed({}) const %b5 : f32[24] = seed({})
         %1 : ? = Conv<pads=[1,1,1,1]>(%x, %w1) @first
         %2 : ? = Relu(%1)
         %3 : ? = Conv<group={group}, strides=[{strides},2]>(%2, %w2) @second
         %4 : ? = Relu(%3)
         %5 : ? = Conv(%4, %w3) @third
         %6 : ? = GlobalAveragePool(%5)
         %7 : ? = Flatten(%6)
         %8 : ? = MatMul(%7, %w4) @fourth
         %9 : ? = Tanh(%8)
         %y : f32[N,24] = Gemm<transB=1>(%9, %w5, %b5) @fifth
         output %y",
        s(1),
        a / group,
        s(2),
        s(3),
        s(4),
        s(5),
        s(6)
    )
}

/// The passes that choose, with options by which they look at layers of small networks.
const PASSES: [&str; 9] = [
    "pass = \"separate-convs\", params = 0.5, skip-first = 0",
    "pass = \"separate-convs\", params = 0.5, skip-first = 0, order = \"pointwise-first\"",
    "pass = \"factorize-linear\", params = 0.5, min-weights = 1, min-side = 1",
    "pass = \"prune-inputs\", params = 0.5, min-weights = 1",
    "pass = \"factorize-convs\", params = 0.5, scheme = \"auto\", skip-first = 0",
    "pass = \"prune-channels\", params = 0.5, skip-first = 0",
    "pass = \"cluster-weights\", size = 0.5, min-weights = 1",
    "pass = \"cluster-weights\", size = 0.5, min-weights = 1, encode = false",
    "pass = \"prune-weights\", min-weights = 1",
];

/// Options that a choice stands in the place of.
const CHOSEN: [&str; 7] = ["rank", "order", "scheme", "units", "levels", "params", "size"];

/// Networks and random choices for each pass on each of them.
const NETS: usize = 50;
const DRAWS: usize = 3;

/// What a step offers on a model that has no data.
fn offered<T>(
    step: &str,
    teacher: &Model,
    hear: impl FnOnce(&dyn Pass, &Context<'_>, Vec<(Site, Result<Offers, String>)>) -> T,
) -> T {
    let recipe = common::recipe(&format!("[{{ {step} }}]"));
    let (_, Action::Pass(pass, selection)) = recipe.plan().unwrap().remove(0) else { panic!("{step}") };
    let selected: Selected<'_> = selection.resolve(&teacher.graph).unwrap();
    let sizes = Default::default();
    let cx = Context {
        graph: &teacher.graph,
        selected: &selected,
        repairs: false,
        sizes: &sizes,
        max_loss: 1.0,
        sensitivity: None,
        fitted: None,
    };
    let sites = pass.sites(&cx);
    let offers = pass.offers(&cx, &sites);
    hear(&*pass, &cx, sites.into_iter().zip(offers).collect())
}

/// Random choices, written as options, keep the laws that passes keep with their defaults, and cost what was offered.
#[test]
fn choices_do_what_they_say() {
    use rayon::prelude::*;
    let done = AtomicUsize::new(0);
    let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    (0..NETS).into_par_iter().for_each(|seed| {
        let net = if seed % 4 == 0 { shared(seed / 4).swap_remove(seed / 4 % 3).0 } else { mixed(seed) };
        let teacher =
            text::parse::model(&format!("model m opset 17 {{ {net} }}")).unwrap_or_else(|e| panic!("{net}: {e}"));
        for (i, step) in PASSES.into_iter().enumerate() {
            offered(step, &teacher, |_, _, offers| {
                let mut random = random::noise((seed * PASSES.len() + i) as u64 + 1).map(|v| (v.abs() * 1e6) as usize);
                let mut next = |n: usize| random.next().unwrap() % n.max(1);
                let open: Vec<(&Site, &Offers)> =
                    offers.iter().filter_map(|(site, o)| Some((site, o.as_ref().ok()?))).collect();
                for _ in 0..DRAWS {
                    let some = open.iter().filter(|(_, o)| !o.list.is_empty() && next(3) > 0);
                    let some: Vec<_> = some.collect();
                    let chosen: Vec<_> =
                        some.into_iter().map(|&(site, o)| (site, o, o.list[next(o.list.len())])).collect();
                    let named: Vec<_> =
                        chosen.iter().map(|(site, _, o)| (site.names(&teacher.graph).remove(0), o.choice)).collect();
                    if named.is_empty() {
                        continue;
                    }
                    let mut recipe = common::recipe(&format!("[{{ {step} }}]"));
                    let options = &mut recipe.steps[0].options;
                    options.retain(|key, _| !CHOSEN.contains(&key));
                    options.extend(by_layer::options(&named));
                    let place = format!("{:?}\n{net}", recipe.steps[0]);
                    let run =
                        || compress(&teacher, 0, &recipe, None, &Silent).unwrap_or_else(|e| panic!("{e}\n{place}"));
                    let outcome = run();
                    keeps_the_laws(&teacher, &recipe, &outcome, &place);
                    let bytes = onnx::to_bytes(&outcome.student).unwrap();
                    assert!(alone.install(|| onnx::to_bytes(&run().student).unwrap()) == bytes, "{place}");
                    if done.fetch_add(1, Ordering::Relaxed).is_multiple_of(10) {
                        Network::from_bytes("m", &bytes).unwrap_or_else(|e| panic!("{e}\n{place}"));
                    }
                    costs(step, &outcome, &chosen.iter().map(|c| (c.1, c.2)).collect::<Vec<_>>(), &place);
                }
            });
        }
    });
    let done = done.into_inner();
    assert!(done >= 1000, "{done}");
}

/// The interface stays, names are unique, the file reads back, and the report and the recipe in it say what is there.
fn keeps_the_laws(teacher: &Model, recipe: &Recipe, Outcome { student, report }: &Outcome, place: &str) {
    assert_eq!(teacher.graph.interface(), student.graph.interface(), "{place}");
    student.graph.verify().unwrap_or_else(|e| panic!("{e}\n{place}"));
    names_are_unique(&student.graph, &HashSet::new(), place);
    let printed = text::print::model(student);
    let parsed = text::parse::model(&printed).unwrap_or_else(|e| panic!("{e}\n{place}"));
    assert!(text::print::model(&parsed) == printed, "{place}");
    let bytes = onnx::to_bytes(student).unwrap();
    let decoded = onnx::decode(bytes.clone().into(), None).unwrap().model;
    assert!(onnx::to_bytes(&decoded).unwrap() == bytes, "{place}");
    assert_eq!(report.student, measure(&decoded).unwrap(), "{place}");
    // Choices are as resolved as a recipe can be.
    assert_eq!(report.recipe, recipe.to_toml().unwrap(), "{place}");
    assert_eq!(Recipe::parse(&report.recipe, "resolved").unwrap().to_toml().unwrap(), report.recipe, "{place}");
}

/// Each choice saves what was offered, where costs of sites are their own.
fn costs(step: &str, outcome: &Outcome, chosen: &[(&Offers, tutee::passes::Offer)], place: &str) {
    let report = &outcome.report;
    let rows = report.steps[0].rows.iter().filter(|r| r.done).count();
    // Groups share what they cost, codes come with nodes, and zeros are stored as any number.
    if step.contains("prune") || step.contains("cluster") || rows < chosen.len() {
        return;
    }
    assert_eq!(rows, chosen.len(), "{place}");
    let saved = |of: fn(&tutee::analysis::cost::Cost) -> u64| {
        chosen.iter().map(|(o, offer)| of(&o.whole) as i64 - of(&offer.cost) as i64).sum::<i64>()
    };
    let (before, after) = (report.teacher.cost, report.student.cost);
    assert_eq!(before.parameters as i64 - after.parameters as i64, saved(|c| c.parameters), "{place}");
    assert_eq!(before.stored as i64 - after.stored as i64, saved(|c| c.stored), "{place}");
    let macs = before.macs.unwrap() as i64 - after.macs.unwrap() as i64;
    assert!((macs - saved(|c| c.macs.unwrap())).abs() <= chosen.len() as i64, "{macs} {place}");
}

/// Every pass that has something to choose offers it, and its choices are its own.
#[test]
fn every_pass_offers_its_choices() {
    // What rows are never looked up, and of what type weights are stored, is said once for all.
    let without = ["prune-rows", "store-weights"];
    let lossy = REGISTRY.iter().map(|e| e.make(Default::default()).unwrap());
    let lossy = lossy.filter(|p| p.fidelity() == Fidelity::Approximate && !p.only_repairs());
    let teacher = text::parse::model(&format!("model m opset 17 {{ {} }}", mixed(1))).unwrap();
    for pass in lossy.filter(|p| !without.contains(&p.name())) {
        let step = PASSES.into_iter().find(|s| s.contains(pass.name())).unwrap_or("pass = \"shrink\", min-weights = 1");
        let offers = offered(step, &teacher, |made, _, offers| {
            assert_eq!(made.name(), pass.name());
            offers
        });
        let all: Vec<_> = offers.iter().flat_map(|(_, o)| o.as_ref().map_or(&[][..], |o| &o.list)).collect();
        assert!(!all.is_empty(), "{}", pass.name());
        for offer in all {
            let own = pass.name() == "shrink" || offer.choice.pass() == pass.name();
            assert!(own && (0.0..=1.0 + 1e-9).contains(&offer.loss), "{}: {offer:?}", pass.name());
        }
    }
    let sparsity = |choice: &Choice| matches!(choice, Choice::Sparsity(_));
    let zeros = offered(PASSES[8], &teacher, |_, _, offers| offers);
    let zeros = zeros.iter().find_map(|(_, o)| o.as_ref().ok()).unwrap();
    assert!(zeros.list.iter().all(|o| sparsity(&o.choice)) && zeros.list.windows(2).all(|o| o[0].loss <= o[1].loss));
}
