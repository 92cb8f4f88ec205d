//! Files of arrays, `.npz` and `.npy`: opened, bound to inputs of several shapes, all samples read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tutee::data::{Dataset, Dtype, InputSpec, Normalise};
use tutee_fuzz::{catching, file, judge};

fuzz_target!(|data: &[u8]| {
    catching();
    let path = file("data.npz", data);
    let Some(set) = judge(Dataset::load(&path)) else { return };
    for name in ["x", "y", "image"] {
        // Claims are free: what is read is as long as the file says.
        if let Some(array) = judge(set.array(name)) {
            assert!(array.bytes().len() <= 1 << 32);
        }
    }
    for dims in [vec![None, None], vec![None, Some(1), Some(4), Some(4)], vec![Some(3), None], vec![]] {
        let spec = InputSpec { name: "x".into(), dtype: Dtype::F32, dims: Some(dims) };
        let Some(feed) = judge(set.feed(&[spec], &Normalise::default())) else { continue };
        for chunk in 0..feed.chunks().min(40) {
            judge(feed.chunk(chunk));
        }
    }
});
