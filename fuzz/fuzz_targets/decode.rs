//! ONNX files: read, judged, printed, written, read again.
#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use tutee_fuzz::common::trial::use_all;
use tutee_fuzz::mutate;

fuzz_mutator!(|data: &mut [u8], size: usize, max: usize, seed: u32| {
    mutate(data, size, max, seed, 0, fuzzer_mutate)
});

fuzz_target!(|data: &[u8]| {
    use_all(data, "[]");
});
