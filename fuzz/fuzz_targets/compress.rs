//! A whole run: a recipe made from the first eight bytes on the model in the rest.
#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use tutee_fuzz::common::Random;
use tutee_fuzz::common::trial::use_all;
use tutee_fuzz::{SEED, mutate};

fuzz_mutator!(|data: &mut [u8], size: usize, max: usize, seed: u32| {
    mutate(data, size, max, seed, SEED, fuzzer_mutate)
});

fuzz_target!(|data: &[u8]| {
    if let Some((seed, model)) = data.split_first_chunk::<SEED>() {
        use_all(model, &Random(u64::from_le_bytes(*seed)).recipe());
    }
});
