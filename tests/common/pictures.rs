//! Teachers and pictures of noise that searches are tried on.

use std::path::Path;
use std::process::Output;
use tutee::ir::random;
use tutee::ir::text::parse;
use tutee::onnx;

pub const DATA: &str = "--calib calib.npy --calib-samples 40";

/// Ten scores of small pictures.
pub const TEACHER: &str = r#"model "teacher" opset 17 {
  input %x : f32[N,3,8,8]
  const %w1 : f32[24,3,3,3] = seed(1)
  const %w2 : f32[48,24,3,3] = seed(2)
  const %w3 : f32[64,48] = seed(3)
  const %w4 : f32[10,64] = seed(4)

  %a : f32[N,24,8,8] = Conv<pads=[1,1,1,1]>(%x, %w1) @conv1
  %b : f32[N,24,8,8] = Relu(%a)
  %c : f32[N,48,4,4] = Conv<pads=[1,1,1,1], strides=[2,2]>(%b, %w2) @conv2
  %d : f32[N,48,4,4] = Relu(%c)
  %e : f32[N,48,1,1] = GlobalAveragePool(%d)
  %f : f32[N,48] = Flatten(%e)
  %g : f32[N,64] = Gemm<transB=1>(%f, %w3) @fc1
  %h : f32[N,64] = Relu(%g)
  %logits : f32[N,10] = Gemm<transB=1>(%h, %w4) @fc2

  output %logits
}"#;
pub const SAMPLES: usize = 120;

/// Ten scores of the same that differ more.
pub const DENSE: &str = r#"model "dense" opset 17 {
  input %x : f32[N,3,8,8]
  const %w1 : f32[96,192] = seed(1)
  const %w2 : f32[64,96] = seed(2)
  const %w3 : f32[10,64] = seed(3)

  %f : f32[N,192] = Flatten(%x)
  %a : f32[N,96] = Gemm<transB=1>(%f, %w1) @fc1
  %b : f32[N,96] = Relu(%a)
  %c : f32[N,64] = Gemm<transB=1>(%b, %w2) @fc2
  %d : f32[N,64] = Relu(%c)
  %logits : f32[N,10] = Gemm<alpha=0.05, transB=1>(%d, %w3) @fc3

  output %logits
}"#;

/// A folder with a teacher and data for it.
pub fn folder() -> tempfile::TempDir {
    folder_of(TEACHER)
}

pub fn folder_of(teacher: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let teacher = parse::model(teacher).unwrap();
    std::fs::write(folder.path().join("teacher.onnx"), onnx::to_bytes(&teacher).unwrap()).unwrap();
    pictures(&folder.path().join("calib.npy"), SAMPLES, 7);
    folder
}

/// Writes so many pictures of noise.
pub fn pictures(path: &Path, samples: usize, seed: u64) {
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({samples}, 3, 8, 8), }}");
    let mut npy = b"\x93NUMPY\x01\x00".to_vec();
    npy.extend((header.len() as u16).to_le_bytes());
    npy.extend(header.bytes());
    npy.extend(random::noise(seed).take(samples * 3 * 64).flat_map(|v| (v as f32).to_le_bytes()));
    std::fs::write(path, npy).unwrap();
}

/// What it said, of a run that ended with `code`.
pub fn said(output: &Output, code: i32) -> String {
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{text}");
    text
}

pub fn read(folder: &Path, name: &str) -> Vec<u8> {
    std::fs::read(folder.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}
