//! `tutee show MODEL`

use crate::analysis::cost::{batch_symbol, cost, node_macs};
use crate::compress::measure;
use crate::error::Result;
use crate::ir::text;
use crate::onnx;
use crate::report::group_digits;
use std::path::PathBuf;
use std::process::ExitCode;

/// Print a model: its text form, and what its layers cost
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  tutee show model.onnx\n  tutee show model.onnx --json")]
pub struct Args {
    /// The model to show
    model: PathBuf,
    /// Print counts and layers as JSON instead
    #[arg(long)]
    json: bool,
}

impl Args {
    pub fn run(self) -> Result<ExitCode> {
        let loaded = onnx::load(&self.model)?;
        loaded.warnings.iter().for_each(|w| eprintln!("warning: {w}"));
        let g = &loaded.model.graph;
        let batch = batch_symbol(g);
        let order = g.topological()?;
        let layers = order.iter().map(|&n| {
            let weights = g.node_inputs(n).into_iter().flatten().filter_map(|v| g.value(v).constant());
            (n, weights.map(|t| t.len() as u64).sum::<u64>(), node_macs(g, n, batch.as_ref()))
        });
        let layers: Vec<_> = layers.filter(|l| l.1 > 0 || l.2 != Some(0)).collect();
        if self.json {
            let size = measure(&loaded.model)?;
            let layers: Vec<_> = layers
                .iter()
                .map(|&(n, parameters, macs)| {
                    serde_json::json!({ "name": g.label(n), "op": g.node(n).kind(), "parameters": parameters, "macs": macs })
                })
                .collect();
            let json = serde_json::json!({
                "version": 1, "nodes": size.nodes, "parameters": size.cost.parameters, "macs": size.cost.macs,
                "bytes": loaded.bytes, "layers": layers,
            });
            return super::print(&format!("{json:#}\n"));
        }
        let mut out = text::print::model(&loaded.model);
        let total = cost(g);
        let per = batch.map_or(String::new(), |b| format!(" per {b}"));
        let macs = total.macs.map_or("MACs that depend on run-time dims".into(), |m| format!("{m} MACs{per}"));
        out.push_str(&format!("# {} nodes, {} params, {macs}\n\n", g.count_nodes(), total.parameters));
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        table.set_header(["layer", "operator", "parameters", "MACs"]);
        for (n, parameters, macs) in layers {
            let macs = macs.map_or("run-time dims".into(), group_digits);
            table.add_row([g.label(n).to_string(), g.node(n).kind(), group_digits(parameters), macs]);
        }
        table.to_string().lines().for_each(|l| out.extend(["#", l.trim_end(), "\n"]));
        super::print(&out)
    }
}
