//! How long a network takes for one run: measured in tract on this machine, or told by a table of costs.

use crate::analysis::cost::{batch_symbol, node_macs};
use crate::analysis::sizes::InputSizes;
use crate::error::{Error, Result, read_text};
use crate::exec::latencies;
use crate::ir::Model;
use crate::report::ModelSize;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// Where latencies come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Clock {
    /// The median of some runs here, the teacher's in turn with the student's.
    Here,
    /// A table.
    Table(CostTable),
}

/// What operators cost, in nanoseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CostTable {
    /// For each node that computes something at run time.
    #[serde(default)]
    node: f64,
    /// For each multiply-accumulate.
    #[serde(default)]
    mac: f64,
    /// Those of operators that differ, by type.
    #[serde(default)]
    operator: BTreeMap<String, OperatorCost>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OperatorCost {
    node: Option<f64>,
    mac: Option<f64>,
}

impl CostTable {
    /// # Errors
    /// If the file cannot be read, or is no table of costs.
    pub fn read(path: &Path) -> Result<CostTable> {
        let not = |why: String| {
            Error::input(format!("{} is no table of costs", path.display())).because(why).help(
                "write nanoseconds: node = 500, mac = 0.1, and for single operators [operator.Conv] with the same keys",
            )
        };
        let text = read_text("read the table of costs", path)?;
        let table: CostTable = toml::from_str(&text).map_err(|e| not(e.to_string()))?;
        let operators = table.operator.values().flat_map(|cost| [cost.node, cost.mac]).flatten();
        let all: Vec<f64> = operators.chain([table.node, table.mac]).collect();
        if all.iter().any(|cost| !cost.is_finite() || *cost < 0.0) {
            return Err(not("a cost is below 0, or no number".into()));
        }
        if all.iter().all(|&cost| cost == 0.0) {
            return Err(not("all costs are 0".into()));
        }
        Ok(table)
    }

    /// Nanoseconds of one run on inputs of these sizes. `None` if the MACs of a node are not known.
    fn time(&self, model: &Model, sizes: &InputSizes) -> Result<Option<u64>> {
        let sized = sizes.at(&model.graph);
        let order = sized.topological()?;
        // What is made of constants alone is computed when the model is loaded.
        let fixed = sized.constant_nodes(&order, |_| false);
        let batch = batch_symbol(&sized);
        let cost = |&n: &_| {
            let own = self.operator.get(&sized.node(n).op_type);
            let node = own.and_then(|cost| cost.node).unwrap_or(self.node);
            let mac = own.and_then(|cost| cost.mac).unwrap_or(self.mac);
            Some(node + if mac > 0.0 { mac * node_macs(&sized, n, batch.as_ref())? as f64 } else { 0.0 })
        };
        let all: Option<f64> = order.iter().filter(|n| !fixed.contains(n)).map(cost).sum();
        Ok(all.map(|nanoseconds| nanoseconds.round().max(1.0) as u64))
    }
}

impl Clock {
    /// The latency of the teacher, which those of students compare with.
    ///
    /// # Errors
    /// If it cannot be run, or the sizes of its inputs do not tell its MACs.
    pub fn of_teacher(&self, teacher: &Model, sizes: &InputSizes) -> Result<u64> {
        let teacher = teacher.nested()?;
        match self {
            Clock::Here => Ok(latencies(&[&teacher], &shapes(sizes))?[0]),
            Clock::Table(table) => by(table, &teacher, sizes),
        }
    }

    /// The latency of a student as a share of its teacher's.
    /// With exits, both are as they are written: of what a run decides, one case is measured.
    ///
    /// # Errors
    /// As [`Clock::of_teacher`].
    pub fn of_student(&self, student: &Model, teacher: &Model, sizes: &InputSizes) -> Result<f64> {
        let [teacher, student] = [teacher.nested()?, student.nested()?];
        let both = match self {
            Clock::Here => latencies(&[&teacher, &student], &shapes(sizes))?,
            Clock::Table(table) => vec![by(table, &teacher, sizes)?, by(table, &student, sizes)?],
        };
        Ok(both[1] as f64 / both[0].max(1) as f64)
    }

    /// What measurements are kept by, besides their steps.
    pub fn key(&self) -> String {
        match self {
            Clock::Here => " timed here".into(),
            Clock::Table(table) => format!(" timed by {}", serde_json::to_string(table).unwrap_or_default()),
        }
    }
}

fn shapes(sizes: &InputSizes) -> impl Fn(&str) -> Option<Vec<usize>> {
    |name| sizes.of(name).map(<[usize]>::to_vec)
}

fn by(table: &CostTable, model: &Model, sizes: &InputSizes) -> Result<u64> {
    let graph = &model.graph;
    if let Some(n) = graph.nodes().find(|&n| graph.node(n).has_bodies()) {
        let node = graph.node(n);
        return Err(Error::input("--latency-table cannot tell how long this model takes")
            .at(format!("{} \"{}\"", node.kind(), graph.label(n)))
            .because("what it runs is decided at run time")
            .help("leave the table away: then latencies are measured"));
    }
    let other = |n: &_| {
        let is = &graph.node(*n).op_type;
        table.operator.keys().find(|name| *name != is && name.eq_ignore_ascii_case(is)).map(|name| (name, is))
    };
    if let Some((name, is)) = graph.nodes().collect::<Vec<_>>().iter().find_map(other) {
        return Err(Error::input(format!("the table of costs has [operator.{name}]"))
            .because("types of operators are written as ONNX has them")
            .help(format!("write [operator.{is}]")));
    }
    table.time(model, sizes)?.ok_or_else(|| {
        Error::input("--target-latency cannot be aimed at with a table")
            .because("how many MACs the model takes depends on the sizes of its inputs")
            .help("say them with --input-shape NAME=1x3x224x224")
    })
}

/// A size with the latency of a teacher, if there is a clock.
///
/// # Errors
/// As [`Clock::of_teacher`].
pub fn timed(size: ModelSize, clock: Option<&Clock>, teacher: &Model, sizes: &InputSizes) -> Result<ModelSize> {
    Ok(ModelSize { latency: clock.map(|clock| clock.of_teacher(teacher, sizes)).transpose()?, ..size })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::text::parse;

    const NET: &str = "model \"m\" opset 17 {
        input %x : f32[1,3,8,8]
        const %w : f32[4,3,3,3] = seed(1) const %v : f32[4,4,1,1] = seed(2) const %b : f32[4,4,1,1] = seed(3)
        %s : ? = Add(%v, %b)
        %y : ? = Conv(%x, %w) %r : ? = Relu(%y) %z : ? = Conv(%r, %s)
        output %z
    }";

    #[test]
    fn a_table_says_what_nodes_and_multiplications_cost() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.toml");
        let model = parse::model(NET).unwrap();
        let time = |text: &str| {
            std::fs::write(&path, text).unwrap();
            CostTable::read(&path).map(|table| table.time(&model, &InputSizes::AS_DECLARED).unwrap())
        };
        // Two convolutions of 36 positions; the sum of constants is made once.
        let macs = 36 * (4 * 27 + 4 * 4);
        assert_eq!(time("node = 100").unwrap(), Some(300));
        assert_eq!(time("mac = 2").unwrap(), Some(2 * macs));
        assert_eq!(time("node = 10\n[operator.Conv]\nnode = 1000\nmac = 1").unwrap(), Some(2010 + macs));
        for (text, why) in [("", "all costs are 0"), ("node = -1", "below 0"), ("nodes = 1", "unknown field")] {
            let error = time(text).unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("no table of costs"), "{error}");
        }
    }

    #[test]
    fn what_is_measured_here_is_a_time() {
        let model = parse::model(NET).unwrap();
        let sizes = InputSizes::AS_DECLARED;
        assert!(Clock::Here.of_teacher(&model, &sizes).unwrap() > 0);
        let same = Clock::Here.of_student(&model, &model, &sizes).unwrap();
        assert!((0.05..20.0).contains(&same), "{same}");
    }
}
