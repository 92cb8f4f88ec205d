use super::*;
use crate::data::{Array, Dataset, Normalise};
use crate::ir::random;
use crate::ir::text::parse;

/// A small convolutional network: 2×6×6 in, 5 classes out.
pub(super) fn teacher() -> Model {
    let text = "model \"small\" opset 17 {
        input %x : f32[N,2,6,6]
        const %w1 : f32[8,2,3,3] = seed(1)
        const %b1 : f32[8] = seed(2)
        const %w2 : f32[12,8,3,3] = seed(3)
        const %b2 : f32[12] = seed(4)
        const %w3 : f32[108,16] = seed(5)
        const %w4 : f32[16,5] = seed(6)
        const %shape : i64[2] = {0,-1}
        %a1 : ? = Conv<pads=[1,1,1,1]>(%x, %w1, %b1)
        %r1 : ? = Relu(%a1)
        %a2 : ? = Conv<pads=[1,1,1,1],strides=[2,2]>(%r1, %w2, %b2)
        %r2 : ? = Relu(%a2)
        %i : ? = Identity(%r2)
        %f : ? = Reshape(%i, %shape)
        %a3 : ? = MatMul(%f, %w3)
        %r3 : ? = Relu(%a3)
        %y : ? = MatMul(%r3, %w4)
        output %y
    }";
    parse::model(text).unwrap()
}

pub(super) fn images() -> Dataset {
    let shape = vec![60, 2, 6, 6];
    let noise: Vec<f32> = random::noise(7).map(|v| v as f32).take(shape.iter().product()).collect();
    Dataset::from_arrays("noise", vec![("x".to_string(), Array::from_f32(shape, &noise).unwrap())])
}

fn steps(all: &[&str]) -> Vec<Step> {
    all.iter().map(|step| Step::parse(step).unwrap()).collect()
}

/// The steps that all candidates begin with, and those that each ends with.
const COMMON: [&str; 2] = ["clean", "prune-channels:width-mult=0.5,skip-first=0"];
const LAST: [&[&str]; 4] = [
    &["cluster-weights:bits=4,min-weights=64"],
    &["factorize-linear:ratio=0.5,min-weights=1,min-side=4", "cluster-weights:bits=8,min-weights=64"],
    &["match-statistics", "clean"],
    &["factorize-convs:rank=2,skip-first=0"],
];

/// Candidates that share their first steps by forking are the same students, with the same reports, as those that are made
/// from nothing, whatever the number of threads.
#[test]
fn forks_give_what_runs_from_nothing_give() {
    let (teacher, images) = (teacher(), images());
    let calibration = Calibration::new(&images, &Normalise::default(), &teacher, 60).unwrap();
    let bytes = onnx::encoded_len(&teacher).unwrap();
    for calibration in [None, Some(&calibration)] {
        let last: Vec<&[&str]> =
            LAST.into_iter().filter(|last| calibration.is_some() || last[0] != "match-statistics").collect();
        let data = || Data { calibration, ..Data::default() };
        let mut found: Vec<Vec<(Vec<u8>, Report)>> = Vec::new();
        let keep = |outcome: Outcome| (onnx::to_bytes(&outcome.student).unwrap(), outcome.report);
        for threads in [1, 2] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            found.push(pool.install(|| {
                let from_nothing = |last: &&[&str]| {
                    let recipe = Recipe { steps: steps(&[&COMMON, *last].concat()), ..Recipe::default() };
                    let session = Session::new(&teacher, bytes, data(), &Silent);
                    let mut state = session.start_for(&recipe, None).unwrap();
                    recipe.steps.iter().for_each(|step| session.advance(&mut state, step).unwrap());
                    keep(session.finish(state).unwrap())
                };
                last.iter().map(from_nothing).collect()
            }));
            found.push(pool.install(|| {
                let session = Session::new(&teacher, bytes, data(), &Silent);
                let mut shared = session.start().unwrap();
                steps(&COMMON).iter().for_each(|step| session.advance(&mut shared, step).unwrap());
                let forked = |last: &&[&str]| {
                    let mut state = shared.clone();
                    steps(last).iter().for_each(|step| session.advance(&mut state, step).unwrap());
                    keep(session.finish(state).unwrap())
                };
                last.iter().map(forked).collect()
            }));
        }
        for (i, last) in last.iter().enumerate() {
            for others in &found[1..] {
                assert!(others[i].0 == found[0][i].0, "{last:?} is another student, data: {}", calibration.is_some());
                assert_eq!(others[i].1, found[0][i].1, "{last:?}");
            }
        }
        let errors = |report: &Report| report.steps.iter().flat_map(|s| &s.rows).filter(|r| r.error.is_some()).count();
        assert_eq!(calibration.is_some(), found[0].iter().all(|f| errors(&f.1) > 0));
    }
}

#[test]
fn a_step_that_cannot_follow_is_refused() {
    let teacher = teacher();
    let session = Session::new(&teacher, 0, Data::default(), &Silent);
    let mut state = session.start().unwrap();
    session.advance(&mut state, &Step::parse("cluster-weights:min-weights=64").unwrap()).unwrap();
    let refused = session.advance(&mut state, &Step::parse("clean").unwrap()).unwrap_err().to_string();
    assert!(refused.contains("`clean` cannot follow `cluster-weights`"), "{refused}");
}
