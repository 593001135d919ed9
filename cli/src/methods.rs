//! `quanta methods`: the table of fine-tuning methods.

use std::io::Write;

use anyhow::Result;
use quanta_tune::adapter::{Kind, MethodInfo, Site, Target, methods};
use serde_json::{Value, json};

/// What `quanta methods` takes.
#[derive(clap::Args)]
pub struct Arguments {
    /// Shape of the linear at which parameters are counted, outputs x inputs
    #[arg(long, value_name = "OUTxIN", default_value = "4096x4096", value_parser = shape)]
    site: [usize; 2],
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn shape(text: &str) -> Result<[usize; 2], String> {
    let side = |text: &str| text.trim().parse::<usize>().ok().filter(|side| (1..=1 << 20).contains(side));
    let sides = text.split_once('x').and_then(|(rows, cols)| Some([side(rows)?, side(cols)?]));
    sides.ok_or_else(|| "is a shape such as 4096x11008, outputs before inputs".to_owned())
}

/// Trainable parameters with the method's default settings; none where they do not fit the site, or the method stands elsewhere.
fn parameters(info: &MethodInfo, [d_out, d_in]: [usize; 2]) -> Option<usize> {
    let site =
        Site { kind: Kind::Linear { bias: false }, ..Site::linear("model.layers.0.self_attn.o_proj", 0, d_out, d_in) };
    let method = info.example();
    (info.target != Target::Attention && method.problems(&site).is_empty()).then(|| method.parameters(&site))
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let [d_out, d_in] = arguments.site;
    let compatible = |info: &MethodInfo| !info.example().extends_peft();
    if arguments.json {
        let row = |info: &MethodInfo| {
            json!({
                "name": info.name, "peft_type": info.example().peft_type(), "formula": info.formula,
                "mergeable": info.mergeable, "peft_compatible": compatible(info),
                "parameters": parameters(info, arguments.site),
            })
        };
        writeln!(out, "{}", methods().iter().map(row).collect::<Value>())?;
        return Ok(());
    }
    let yes = |flag| if flag { "yes" } else { "no" };
    writeln!(out, "parameters: with default settings, at a linear of {d_in} inputs and {d_out} outputs")?;
    writeln!(out)?;
    writeln!(
        out,
        "{:<13}{:<15}{:<6}{:<8}{:>12}  adapted weight or output",
        "type", "on disk", "PEFT", "merges", "parameters"
    )?;
    for info in methods() {
        let count = parameters(info, arguments.site).map_or_else(|| "-".to_owned(), quanta_tune::analysis::grouped);
        writeln!(
            out,
            "{:<13}{:<15}{:<6}{:<8}{count:>12}  {}",
            info.name,
            info.example().peft_type(),
            yes(compatible(info)),
            yes(info.mergeable),
            info.formula
        )?;
    }
    Ok(())
}
