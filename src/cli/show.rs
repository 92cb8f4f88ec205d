//! `tutee show MODEL`

use super::sizes::SizeArgs;
use crate::analysis::channels::{Channels, Tie};
use crate::analysis::cost::batch_symbol;
use crate::analysis::formula;
use crate::analysis::paths::path_macs;
use crate::analysis::weights;
use crate::compress::measure;
use crate::error::{Error, Result, read_text};
use crate::figures::grouped;
use crate::ir::{Graph, NodeId, ValueId, text};
use crate::onnx;
use crate::plain;
use std::fmt::Write;
use std::mem::ManuallyDrop;
use std::path::PathBuf;
use std::process::ExitCode;

/// Print a model: its text form, and what its layers cost
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  tutee show model.onnx\n  tutee show model.onnx --input-shape x=1x3x48x192\n  tutee show model.onnx --json\n  tutee show model.onnx --channels"
)]
pub struct Args {
    /// The model to show
    model: PathBuf,
    /// Print the groups of coupled channels instead: what makes them, what ties them, what is cut with them, why some stay
    #[arg(long, conflicts_with = "json")]
    channels: bool,
    /// Print the text form alone, without weights and costs: what is kept under version control, and `compress --check-golden`
    /// compares with
    #[arg(long, conflicts_with_all = ["json", "channels", "check"])]
    structure: bool,
    /// Of a network with exits, also print the mean that a check measured: what `tutee check --json` printed
    #[arg(long, value_name = "FILE", conflicts_with = "channels")]
    check: Option<PathBuf>,
    /// Print counts and layers as JSON instead
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    sizes: SizeArgs,
}

impl Args {
    pub fn run(self) -> Result<ExitCode> {
        // The process ends with this command: to take a large model apart again would only take time.
        let mut loaded = ManuallyDrop::new(onnx::load(&self.model)?);
        loaded.warnings.iter().for_each(|w| super::warn(w));
        if let Some(sizes) = self.sizes.sizes(&loaded.model.graph)? {
            loaded.model.graph = sizes.at(&loaded.model.graph).into_owned();
        }
        if self.channels {
            loaded.model.graph.flatten()?;
            return super::print(&channels(&loaded.model.graph)?);
        }
        if self.structure {
            loaded.model.graph.flatten()?;
            return super::print(&text::print::structure(&loaded.model));
        }
        let size = measure(&loaded.model)?;
        loaded.model.graph.flatten()?;
        let g = &loaded.model.graph;
        let mean = self.check.as_deref().map(|path| mean_macs(path, g)).transpose()?;
        let batch = batch_symbol(g);
        let layers = weights::layers(g);
        if self.json {
            let paths: Vec<_> = paths(g)
                .into_iter()
                .map(
                    |path| serde_json::json!({ "answer": path.answer, "threshold": path.threshold, "macs": path.macs }),
                )
                .collect();
            let mut json = serde_json::json!({
                "version": 1, "nodes": size.nodes, "weights": size.weights, "parameters": size.cost.parameters,
                "macs": size.cost.macs,
                "bytes": loaded.bytes, "layers": layers,
            });
            if !paths.is_empty() {
                json["paths"] = paths.into();
            }
            if let Some((mean, samples)) = mean {
                json["mean_macs"] = mean.into();
                json["samples"] = samples.into();
            }
            return super::print(&plain::json(&json)?);
        }
        let mut out = text::print::model(&loaded.model);
        let per = batch.map_or(String::new(), |b| format!(" per {b}"));
        let open = || match formula::macs(g) {
            Some(formula) => format!("MACs{per}: {}", plain::line(&formula)),
            None => "MACs that depend on run-time dims".into(),
        };
        let macs = size.cost.macs.map_or_else(open, |m| format!("{m} MACs{per}"));
        out.push_str(&format!("# {} nodes, {} weights, {macs}\n", size.nodes, size.weights));
        for Path { answer, threshold, macs } in paths(g) {
            let macs = macs.map_or("MACs that depend on run-time dims".into(), |m| format!("{} MACs", grouped(m)));
            let _ = match threshold {
                Some(t) => writeln!(out, "# exit %{} above {t:.4}: {macs} at least", plain::line(&answer)),
                None => writeln!(out, "# to the end, %{}: {macs} at most", plain::line(&answer)),
            };
        }
        if let Some((mean, samples)) = mean {
            let _ = writeln!(out, "# mean over {samples} samples: {} MACs", grouped(mean.round() as u64));
        }
        out.push('\n');
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        table.set_header(["layer", "operator", "weights", "bytes", "MACs"]);
        for layer in layers {
            let macs = layer.macs.map_or("run-time dims".into(), grouped);
            let row = [layer.name, layer.op, grouped(layer.weights), grouped(layer.bytes), macs];
            table.add_row(row.map(|cell| plain::line(&cell).into_owned()));
        }
        table.to_string().lines().for_each(|l| out.extend(["#", l.trim_end(), "\n"]));
        super::print(&out)
    }
}

/// Mean multiply-accumulates, and over how many samples, by what a check printed.
fn mean_macs(path: &std::path::Path, g: &Graph) -> Result<(f64, u64)> {
    let refuse = |why: String| {
        Error::input(format!("{} does not say what exits cost on average", path.display()))
            .because(why)
            .help("give what `tutee check --json` printed for this model")
    };
    let text = read_text("read", path)?;
    let json: serde_json::Value = serde_json::from_str(&text).map_err(|e| refuse(e.to_string()))?;
    let ends = json["exits"]["ends"].as_array().ok_or_else(|| refuse("it is of no model with exits".into()))?;
    if ends.len() != g.exits().len() + 1 || g.exits().is_empty() {
        let (own, its) = (g.exits().len(), ends.len().saturating_sub(1));
        return Err(refuse(format!("the model has {own} exits, and the checked one {its}")));
    }
    let mean = json["exits"]["mean_macs"].as_f64().ok_or_else(|| refuse("the costs depend on run-time dims".into()))?;
    Ok((mean, json["samples"].as_u64().unwrap_or(0)))
}

/// A way through a network with exits.
struct Path {
    answer: String,
    /// `None` at the end of the network.
    threshold: Option<f32>,
    macs: Option<u64>,
}

/// The ways through a network, if it has exits.
fn paths(g: &Graph) -> Vec<Path> {
    let macs = path_macs(g);
    let name = |v: ValueId| g.value(v).name.clone();
    let early = g.exits().iter().map(|&e| (name(e.answer), g.threshold(e).map(|t| t.1)));
    let last = g.outputs().iter().take(usize::from(!g.exits().is_empty())).map(|&v| (name(v), None));
    let with = |(i, (answer, threshold))| Path { answer, threshold, macs: macs.as_ref().map(|m| m[i]) };
    early.chain(last).enumerate().map(with).collect()
}

/// The groups of coupled channels, one a paragraph.
fn channels(g: &Graph) -> Result<String> {
    let channels = ManuallyDrop::new(Channels::of(g)?);
    let groups = channels.groups();
    let reach = channels.reach(g, groups.iter().map(|group| group.units.as_slice()));
    let ties = channels.ties(g, &groups);
    let node = |n: NodeId| format!("{} \"{}\"", g.node(n).kind(), g.label(n));
    let mut out = String::new();
    let mut frozen = 0;
    for ((group, reach), ties) in groups.iter().zip(reach).zip(ties) {
        let names: Vec<_> = group.producers.iter().map(|&n| node(n)).collect();
        let _ = match group.units.len() {
            0 => writeln!(out, "no units told apart in {}", plain::line(&names.join(", "))),
            n => writeln!(out, "{n} units made by {}", plain::line(&names.join(", "))),
        };
        let ties = ties.into_iter().map(|tie| match tie {
            Tie::Node(n) => node(n),
            Tie::Weight(w) => format!("the shared weight {}", g.value(w).name),
        });
        let constants = reach.iter().filter(|r| g.value(r.value).constant().is_some());
        let axes: Vec<_> = constants.map(|r| format!("{} axis {}", g.value(r.value).name, r.axis)).collect();
        let freeze = group.frozen.iter().map(|freeze| freeze.explain(g));
        let rest = group.rest.iter().map(|(count, freeze)| format!("{count} more units: {}", freeze.explain(g)));
        let mut say = |what: &str, list: Vec<String>| {
            if !list.is_empty() {
                let _ = writeln!(out, "  {what:<8} {}", plain::line(&list.join(", ")));
            }
        };
        say("tied by", ties.collect());
        say("cuts", axes);
        say("frozen", freeze.chain(rest).collect());
        frozen += usize::from(group.frozen.is_some());
    }
    for n in g.nodes() {
        let bodies = g.node(n).bodies().map(|body| Ok(Channels::of(body)?.groups().len()));
        let inside = bodies.sum::<Result<usize>>()?;
        if inside > 0 {
            let _ = writeln!(out, "{inside} groups in bodies of {}, which stay as they are", plain::line(&node(n)));
        }
    }
    let _ = writeln!(out, "# {} groups, {frozen} of them frozen", groups.len());
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_say_what_ties_them() {
        let text = r#"model "ties" opset 17 {
  input %x : f32[N,3,8,8]
  input %fed : f32[4,6]
  const %w1 : f32[8,3,1,1]
  const %scale : f32[8]
  const %dw : f32[8,1,3,3]
  const %w2 : f32[8,8,1,1]
  const %w3 : f32[4,16,1,1]
  const %lstm.w : f32[1,8,4]
  const %lstm.r : f32[1,8,2]

  %a : f32[N,8,8,8] = Conv(%x, %w1) @stem
  %n : f32[N,8,8,8] = BatchNormalization(%a, %scale, %scale, %scale, %scale) @norm
  %d : f32[N,8,8,8] = Conv<group=8, pads=[1,1,1,1]>(%n, %dw) @depthwise
  %b : f32[N,8,8,8] = Conv(%d, %w2) @once
  %c : f32[N,8,8,8] = Conv(%b, %w2) @again
  %j : f32[N,16,8,8] = Concat<axis=1>(%d, %c) @join
  %e : f32[N,4,8,8] = Conv(%j, %w3) @head
  %s : f32[N,4,8] = ReduceMean<axes=[3], keepdims=0>(%e)
  %t : f32[8,N,4] = Transpose<perm=[2,0,1]>(%s)
  %y : f32[8,1,N,2] = LSTM<hidden_size=2>(%t, %lstm.w, %lstm.r) @lstm

  output %y
}
"#;
        let want = r#"8 units made by Conv "stem", Conv "once", Conv "again"
  tied by  BatchNormalization "norm", Conv "depthwise", the shared weight w2, Concat "join"
  cuts     w1 axis 0, scale axis 0, dw axis 0, w2 axis 0, w2 axis 1, w3 axis 1
4 units made by Conv "head"
  cuts     w3 axis 0, lstm.w axis 2
2 units made by LSTM "lstm"
  tied by  LSTM "lstm"
  cuts     lstm.w axis 1, lstm.r axis 1, lstm.r axis 2
  frozen   "y" is an output of the model
# 3 groups, 1 of them frozen
"#;
        let model = text::parse::model(text).unwrap();
        assert_eq!(channels(&model.graph).unwrap(), want);
    }
}
