//! The file in which a search keeps what it measured: opened, added to, opened again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tutee::search::{Inputs, Store};
use tutee_fuzz::{file, judge};

fuzz_target!(|data: &[u8]| {
    let inputs = || Inputs {
        model: "model".into(),
        data: "data".into(),
        fit_samples: 8,
        choose_samples: 8,
        tutee: "0.1.0".into(),
    };
    let path = file("state.json", data);
    let Some(mut store) = judge(Store::open(Some(&path), inputs())) else { return };
    let trials = Store::open(Some(&path), inputs()).unwrap().into_trials();
    let Some((key, trial)) = trials.first_key_value() else { return };
    judge(store.put(key.clone(), trial.clone()));
    let again = judge(Store::open(Some(&path), inputs())).expect("what was written is read");
    assert_eq!(again.into_trials().len(), trials.len());
});
