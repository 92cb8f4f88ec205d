//! Stores constants in half precision, behind one Cast each, which runtimes fold when they load the model.
//!
//! Layers compute as before, on weights that were rounded to 11 bits: half the bytes, and an error of some 0.02 %. It takes any
//! constant of floats, also those that `cluster-weights` is not for: position tables, normalization, biases. A tensor of so
//! few values that its codebook is smaller, and exact, stays. So does one with numbers beyond the range of the type.
//!
//! Options: `store` = "f16" (default, the only one so far); `min-weights` (default 512).
//!
//! ```text
//! # run = [{ pass = "store-weights", store = "f16" }]
//! model "tiny" opset 17 {
//!   input %x : f32[N,32]
//!   const %w : f32[32,32] = seed(1)
//!
//!   %y : f32[N,32] = MatMul(%x, %w)
//!
//!   output %y
//! }
//! ---- expect ----
//! model "tiny" opset 17 {
//!   input %x : f32[N,32]
//!   const %w.f16 : f16[32,32]
//!
//!   %w : f32[32,32] = Cast<to=1>(%w.f16) @w.plain
//!   %y : f32[N,32] = MatMul(%x, %w)
//!
//!   output %y
//! }
//! ```

use crate::analysis::bytes;
use crate::error::Result;
use crate::ir::names::derived;
use crate::ir::op::cast::{Cast, convert};
use crate::ir::{DType, Graph, Patch, Tensor, ValueId};
use crate::passes::options::Selection;
use crate::passes::{Context, Fidelity, Pass, Phase, Site, Verdict};
use serde::Deserialize;
use std::collections::HashSet;

/// Values that a codebook of bytes has.
const CODEBOOK: usize = 256;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct StoreWeights {
    store: StoredType,
}

/// The type that weights are stored in.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum StoredType {
    #[default]
    F16,
}

impl Pass for StoreWeights {
    fn name(&self) -> &'static str {
        "store-weights"
    }

    fn phase(&self) -> Phase {
        Phase::Encode
    }

    fn fidelity(&self) -> Fidelity {
        Fidelity::Approximate
    }

    fn selection(&self) -> Selection {
        Selection { min_weights: 512, ..Selection::default() }
    }

    fn fits_others(&self) -> bool {
        false
    }

    fn enters_bodies(&self) -> bool {
        true
    }

    fn sites(&self, cx: &Context<'_>) -> Vec<Site> {
        let g = cx.graph;
        let float = |&v: &ValueId| g.value(v).constant().is_some_and(|t| t.dtype().is_float()) && g.is_used(v);
        let large = |&v: &ValueId| g.value(v).constant().map_or(0, Tensor::len) >= cx.selected.least();
        g.values().filter(float).filter(large).map(Site::Value).collect()
    }

    fn rewrite(&self, cx: &Context<'_>, site: Site) -> Result<Verdict> {
        let Site::Value(v) = site else { return Verdict::skip("it is no constant") };
        let dtype = match self.store {
            StoredType::F16 => DType::F16,
        };
        Ok(Verdict::of(stored(cx.graph, v, dtype)))
    }
}

fn stored(g: &Graph, v: ValueId, dtype: DType) -> Result<(Patch, String), String> {
    let tensor = g.value(v).constant().ok_or("it is no constant")?;
    if tensor.dtype().bits() <= dtype.bits() {
        return Err(format!("its type is {}, which takes no more bytes", tensor.dtype()));
    }
    if g.is_held(v) {
        return Err("it is an output of the model, or named outside the graph".into());
    }
    let half = convert(tensor, dtype).ok_or("its numbers cannot be read")?;
    let smaller = |values: &usize| values * tensor.byte_len() / tensor.len() + tensor.len() < half.byte_len();
    if let Some(values) = few_values(tensor).filter(smaller) {
        return Err(format!("it has {values} different values: a codebook (`cluster-weights`) is smaller, and exact"));
    }
    let (mut error, mut all) = (0.0, 0.0);
    for (w, h) in tensor.iter_floats().into_iter().flatten().zip(half.iter_floats().into_iter().flatten()) {
        if w.is_finite() && !h.is_finite() {
            return Err(format!("it has a number beyond the range of {dtype}: {w:.3e}"));
        }
        if w.is_finite() {
            error += (w - h).powi(2);
            all += w.powi(2);
        }
    }
    let mut patch = Patch::at_value(g, v);
    let name = &g.value(v).name;
    let half = patch.constant_named(derived(name, &dtype.to_string()), half);
    let plain = patch.node_named(&derived(name, "plain"), Cast::new(tensor.dtype()), &[Some(half)]);
    if bytes::added(g, &patch) >= bytes::stored(g, v) {
        return Err(format!("it would take no fewer bytes as {dtype}"));
    }
    patch.replace(v, plain);
    let error = if all > 0.0 { (error / all).sqrt() } else { 0.0 };
    Ok((patch, format!("{} → {dtype}, weight error {:.3} %", tensor.dtype(), 100.0 * error)))
}

/// How many different values a tensor has, if a byte can say which.
fn few_values(tensor: &Tensor) -> Option<usize> {
    let mut seen = HashSet::new();
    for w in tensor.iter_floats()? {
        seen.insert(w.to_bits());
        if seen.len() > CODEBOOK {
            return None;
        }
    }
    Some(seen.len())
}
