//! What the fuzzers share.

#[path = "../../tests/common/mod.rs"]
pub mod common;

use common::Random;
use std::path::PathBuf;
use std::sync::{Once, OnceLock};
use tutee::error::Kind;

/// An error that calls itself tutee's own is a finding.
pub fn judge<T>(result: tutee::Result<T>) -> Option<T> {
    result.map_err(|e| assert_eq!(e.kind(), Kind::Input, "{e}")).ok()
}

/// Libraries that read files may panic where tutee makes an error of it: only what leaves tutee is a finding.
pub fn catching() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| std::panic::set_hook(Box::new(|panic| eprintln!("{panic}"))));
}

/// A folder of this process, in memory where the system has one.
pub fn folder() -> &'static PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let memory = PathBuf::from("/dev/shm");
        let base = if memory.is_dir() { memory } else { std::env::temp_dir() };
        let folder = base.join(format!("tutee-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        folder
    })
}

/// The input as a file of that name.
pub fn file(name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder().join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

/// Bytes of the seed of a recipe, before the model.
pub const SEED: usize = 8;

/// Changes a model, as a message where it reads as one; `head` bytes before it are a number. Gives the new length.
pub fn mutate(
    data: &mut [u8],
    size: usize,
    max: usize,
    seed: u32,
    head: usize,
    plain: impl Fn(&mut [u8], usize, usize) -> usize,
) -> usize {
    let mut random = Random(u64::from(seed) << 20);
    if size < head || random.below(4) == 0 {
        return plain(data, size, max);
    }
    if head > 0 && random.below(4) == 0 {
        let number = random.below(usize::MAX) as u64;
        data[..head].copy_from_slice(&number.to_le_bytes()[..head]);
        return size;
    }
    let Some(mut model) = common::proto::parse(&data[head..size]) else { return plain(data, size, max) };
    match random.below(4) {
        0 => random.rewrite(&mut model),
        _ => random.mutate(&mut model),
    }
    let written = common::proto::encode(&model);
    let new = head + written.len();
    if new > max.min(data.len()) {
        return plain(data, size, max);
    }
    data[head..new].copy_from_slice(&written);
    new
}
