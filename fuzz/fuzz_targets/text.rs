//! The text form of models: read, printed, written.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tutee_fuzz::common::trial::use_text;

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        use_text(text, "[]");
    }
});
