//! How large models are, as they would be written.

use crate::analysis::cost::cost;
use crate::analysis::sizes::InputSizes;
use crate::analysis::weights;
use crate::error::{Error, Result};
use crate::ir::{Graph, Model, Type};
use crate::onnx;
use crate::report::{BeforeAfter, ModelSize};

/// Models of more bytes are not compressed for the report: at this size it takes some ten seconds.
const LARGEST_PACKED: u64 = 1 << 28;

/// Nodes, cost and bytes of a model as it would be written.
///
/// # Errors
/// Internal ones only.
pub fn measure(model: &Model) -> Result<ModelSize> {
    measure_at(model, &InputSizes::AS_DECLARED)
}

/// As [`measure`], with MACs for inputs of these sizes.
///
/// # Errors
/// Internal ones only.
pub fn measure_at(model: &Model, sizes: &InputSizes) -> Result<ModelSize> {
    let model = &*model.nested()?;
    let cost = cost(&sizes.at(&model.graph));
    let weights = weights::count(&model.graph);
    Ok(ModelSize { nodes: model.graph.count_nodes(), weights, cost, bytes: onnx::encoded_len(model)?, latency: None })
}

/// Bytes after zstd of a model that is not too large to wait for them.
pub(super) fn packed(model: &Model, size: &ModelSize) -> Result<Option<u64>> {
    (size.bytes <= LARGEST_PACKED).then(|| onnx::packed_len(model)).transpose()
}

/// How many weights of teacher and student are not zero, where some are.
pub(super) fn nonzero(teacher: (&Model, &ModelSize), student: (&Model, &ModelSize)) -> Option<BeforeAfter> {
    let count = |model: &Model| weights::count_nonzero(&model.graph);
    let found = BeforeAfter { teacher: count(teacher.0)?, student: count(student.0)? };
    (found.teacher < teacher.1.weights || found.student < student.1.weights).then_some(found)
}

/// The names and types of inputs and outputs, in order, are the contract with whoever runs the model. What is known of
/// them may turn out to be other than declared while nothing but `exact` changes are made: then the teacher's file
/// contradicts itself, and what was learned is returned. An input that had a default value may be a constant by now.
pub(super) fn same_interface(before: &[(String, Option<Type>)], graph: &Graph, exact: bool) -> Result<Vec<String>> {
    let after = graph.interface();
    let mut learned = Vec::new();
    let is_bound =
        |name: &str| graph.find_value(name).is_some_and(|v| graph.value(v).constant().is_some() && !graph.is_output(v));
    let before: Vec<_> = before.iter().filter(|(name, _)| !is_bound(name)).collect();
    let mut same = before.len() == after.len();
    for ((name, was), (now, is)) in before.into_iter().zip(&after) {
        same &= name == now;
        if let (Some(was), Some(is)) = (was, is)
            && !was.agrees(is)
        {
            same &= exact;
            learned.push(format!("\"{name}\" is declared {was} but is {is}: the declaration is kept"));
        }
    }
    if same { Ok(learned) } else { Err(Error::internal("the model's inputs or outputs changed")) }
}
