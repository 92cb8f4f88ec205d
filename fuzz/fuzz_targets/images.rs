//! Folders of pictures: the input is a PNG or a JPEG, beside a sound one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tutee::data::{Dataset, Dtype, InputSpec, Normalise, Pictures};
use tutee_fuzz::{catching, folder, judge};

fuzz_target!(|data: &[u8]| {
    catching();
    let pictures = folder().join("pictures");
    std::fs::create_dir_all(&pictures).unwrap();
    let name = if data.starts_with(&[0xff, 0xd8]) { "a.jpg" } else { "a.png" };
    for old in ["a.jpg", "a.png"] {
        let _ = std::fs::remove_file(pictures.join(old));
    }
    std::fs::write(pictures.join(name), data).unwrap();
    let sized = Pictures { resize: "8x8".parse().ok(), ..Pictures::default() };
    for how in [Pictures::default(), sized] {
        let Some(set) = judge(Dataset::load_as(&pictures, &how)) else { continue };
        let spec = InputSpec { name: "x".into(), dtype: Dtype::F32, dims: Some(vec![None; 4]) };
        let Some(feed) = judge(set.feed(&[spec], &Normalise::default())) else { continue };
        for chunk in 0..feed.chunks() {
            judge(feed.chunk(chunk));
        }
    }
});
