//! `tutee show MODEL`

use crate::analysis::channels::Channels;
use crate::analysis::cost::{batch_symbol, cost, node_macs};
use crate::compress::measure;
use crate::error::Result;
use crate::ir::{Graph, text};
use crate::onnx;
use crate::report::group_digits;
use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// Print a model: its text form, and what its layers cost
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  tutee show model.onnx\n  tutee show model.onnx --json\n  tutee show model.onnx --channels"
)]
pub struct Args {
    /// The model to show
    model: PathBuf,
    /// Print the groups of coupled channels instead: what makes them, what they reach, why some cannot change
    #[arg(long, conflicts_with = "json")]
    channels: bool,
    /// Print counts and layers as JSON instead
    #[arg(long)]
    json: bool,
}

impl Args {
    pub fn run(self) -> Result<ExitCode> {
        let loaded = onnx::load(&self.model)?;
        loaded.warnings.iter().for_each(|w| super::say(&format!("warning: {w}")));
        let g = &loaded.model.graph;
        if self.channels {
            return super::print(&channels(g)?);
        }
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

/// The groups of coupled channels, one a paragraph.
fn channels(g: &Graph) -> Result<String> {
    let channels = Channels::of(g)?;
    let groups = channels.groups();
    let reach = channels.reach(g, groups.iter().map(|group| group.units.as_slice()));
    let mut out = String::new();
    let mut frozen = 0;
    for (group, reach) in groups.iter().zip(reach) {
        let names: Vec<_> =
            group.producers.iter().map(|&n| format!("{} \"{}\"", g.node(n).kind(), g.label(n))).collect();
        let _ = writeln!(out, "{} units made by {}", group.units.len(), names.join(", "));
        let constants = reach.iter().filter(|r| g.value(r.value).constant().is_some());
        let axes: Vec<_> = constants.map(|r| format!("{} axis {}", g.value(r.value).name, r.axis)).collect();
        let _ = writeln!(out, "  cuts     {}", if axes.is_empty() { "nothing".into() } else { axes.join(", ") });
        if let Some(freeze) = &group.frozen {
            frozen += 1;
            let _ = writeln!(out, "  frozen   {}", freeze.explain(g));
        }
        if let Some((count, freeze)) = &group.rest {
            let _ = writeln!(out, "  frozen   {count} more units: {}", freeze.explain(g));
        }
    }
    let _ = writeln!(out, "# {} groups, {frozen} of them frozen", groups.len());
    Ok(out)
}
