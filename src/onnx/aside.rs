//! New tensors of a large model, which wait on disk until it is written.

use super::external::mapped;
use crate::ir::Tensor;
use crate::ir::tensor::Backing;
use std::io::Write;

/// Smaller tensors are not worth a file.
const SMALL: usize = 1 << 20;

/// The same tensor, in a temporary file that has no name and goes with it; in memory as it was, if it is small, has its
/// place in a file already, or there is no room for temporary files.
pub fn put_aside(tensor: Tensor) -> Tensor {
    let aside = || {
        let bytes = tensor.bytes().filter(|b| b.len() >= SMALL && !tensor.is_mapped() && !tensor.is_typed())?;
        let mut file = tempfile::tempfile().ok()?;
        file.write_all(bytes).ok()?;
        let (bytes, backing) = mapped(&file).ok()?;
        backing.release(&bytes);
        let aside = Tensor::new(tensor.dtype(), tensor.shape().to_vec(), bytes)?;
        Some(aside.with_typed(false).backed_by(Some(backing)))
    };
    aside().unwrap_or(tensor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tensor_is_the_same_on_disk() {
        let values: Vec<f32> = (0..SMALL).map(|i| i as f32).collect();
        let tensor = Tensor::f32([values.len() / 4, 4], &values);
        let aside = put_aside(tensor.clone());
        assert!(aside.is_mapped() && !tensor.is_mapped());
        assert_eq!((aside.shape(), aside.bytes()), (tensor.shape(), tensor.bytes()));
        aside.release();
        assert_eq!(aside.floats(), tensor.floats());
        assert!(!put_aside(Tensor::f32([2], &[1.0, 2.0])).is_mapped());
    }
}
