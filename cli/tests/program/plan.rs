//! `quanta plan` on the shapes of real models, known from a bare `config.json`: the trainable counts and shares that the paper's tables print.

use serde_json::{Value, json};

use super::fixture::Workshop;

/// One model's `config.json`, as its folder on the hub has the keys.
struct Shape {
    hidden: usize,
    intermediate: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    vocab: usize,
    parameters: u64,
}

const LLAMA2_7B: Shape = Shape {
    hidden: 4096,
    intermediate: 11008,
    layers: 32,
    heads: 32,
    kv_heads: 32,
    vocab: 32000,
    parameters: 6_738_415_616,
};
const LLAMA2_13B: Shape = Shape {
    hidden: 5120,
    intermediate: 13824,
    layers: 40,
    heads: 40,
    kv_heads: 40,
    vocab: 32000,
    parameters: 13_015_864_320,
};
const LLAMA2_70B: Shape = Shape {
    hidden: 8192,
    intermediate: 28672,
    layers: 80,
    heads: 64,
    kv_heads: 8,
    vocab: 32000,
    parameters: 68_976_648_192,
};
const LLAMA3_8B: Shape = Shape {
    hidden: 4096,
    intermediate: 14336,
    layers: 32,
    heads: 32,
    kv_heads: 8,
    vocab: 128_256,
    parameters: 8_030_261_248,
};

const QV: &[&str] = &["q_proj", "v_proj"];
const QKVUD: &[&str] = &["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"];

/// Model, dims, sites, trainable parameters, percent of the base to the digits of the table.
type Row<'a> = (&'a Shape, &'a [usize], &'a [&'a str], u64, &'a str);

/// A folder that holds `model/config.json` and nothing else.
fn bare(shape: &Shape) -> Workshop {
    let workshop = Workshop::empty();
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "hidden_size": shape.hidden,
        "initializer_range": 0.02, "intermediate_size": shape.intermediate, "max_position_embeddings": 4096, "model_type": "llama",
        "num_attention_heads": shape.heads, "num_hidden_layers": shape.layers, "num_key_value_heads": shape.kv_heads,
        "pretraining_tp": 1, "rms_norm_eps": 1e-5, "rope_scaling": null, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
        "transformers_version": "4.31.0", "use_cache": true, "vocab_size": shape.vocab,
    });
    workshop.write("model/config.json", config.to_string());
    workshop
}

/// The plan of one adapter on a model.
fn plan(shape: &Shape, adapter: &str, sites: &[&str]) -> Value {
    let workshop = bare(shape);
    workshop.write("plan.toml", format!("[model]\npath = \"model\"\n[[adapter]]\n{adapter}\nsites = {sites:?}\n"));
    let plan = workshop.json(&["plan", "plan.toml"]);
    assert_eq!(plan["model"]["parameters"], shape.parameters);
    assert_eq!(workshop.names(""), ["model/config.json", "plan.toml"], "a plan writes nothing");
    plan
}

fn percent(plan: &Value, digits: usize) -> String {
    format!("{:.digits$}", plan["percent_of_base"].as_f64().expect("a number"))
}

#[test]
fn quanta_has_the_counts_and_shares_of_the_papers_tables() {
    let rows: [Row; 8] = [
        (&LLAMA2_7B, &[16, 8, 8, 4], QV, 2_752_512, "0.0408"),
        (&LLAMA2_7B, &[16, 16, 16], QV, 12_582_912, "0.187"),
        (&LLAMA2_7B, &[16, 16, 4, 4], QKVUD, 13_148_160, "0.1951"),
        // printed as 8-8-4-4 in Table E.2, whose product is 1024
        (&LLAMA2_7B, &[8, 8, 4, 4, 4], QV, 704_512, "0.0105"),
        (&LLAMA2_13B, &[16, 8, 8, 5], QV, 3_717_120, "0.0286"),
        (&LLAMA2_13B, &[16, 16, 5, 4], QKVUD, 17_385_600, "0.1336"),
        (&LLAMA2_70B, &[16, 8, 8, 8], QV, 9_830_400, "0.0143"),
        (&LLAMA3_8B, &[16, 8, 8, 4], QV, 2_752_512, "0.0343"),
    ];
    for (shape, dims, sites, trainable, share) in rows {
        let plan = plan(shape, &format!("type = \"quanta\"\ndims = {dims:?}"), sites);
        let row = format!("{dims:?} on {sites:?} of hidden size {}", shape.hidden);
        assert_eq!(plan["trainable_parameters"], trainable, "{row}");
        assert_eq!(percent(&plan, share.len() - 2), share, "{row}");
        let adapter = &plan["adapters"][0];
        assert_eq!(adapter["sites"].as_array().map(Vec::len), Some(sites.len() * shape.layers), "{row}");
        let total = 100.0 * trainable as f64 / (shape.parameters + trainable) as f64;
        assert!((plan["percent_of_total"].as_f64().expect("a number") / total - 1.0).abs() < 1e-12, "{row}");
    }
}

#[test]
fn lora_has_the_shares_of_the_papers_tables() {
    for (r, trainable, share) in [(8, 4_194_304u64, "0.062"), (32, 16_777_216, "0.249"), (128, 67_108_864, "0.996")] {
        let plan = plan(&LLAMA2_7B, &format!("type = \"lora\"\nr = {r}"), QV);
        assert_eq!(plan["trainable_parameters"], trainable);
        assert_eq!(percent(&plan, 3), share);
    }
}

#[test]
fn a_plan_shows_shapes_gates_einsum_and_cost() {
    let answer = plan(&LLAMA3_8B, "type = \"quanta\"\ndims = [16, 16, 16]", QV);
    let shapes = &answer["adapters"][0]["shapes"];
    let sizes: Vec<[&Value; 4]> = shapes
        .as_array()
        .expect("a list")
        .iter()
        .map(|s| [&s["module"], &s["d_in"], &s["d_out"], &s["sites"]])
        .collect();
    assert_eq!(json!(sizes), json!([["q_proj", 4096, 4096, 32], ["v_proj", 4096, 1024, 32]]), "grouped key heads");
    assert_eq!(shapes[0]["parameters"], 3 * 256 * 256);
    // three gates of 256 x 256, each applied to 16 vectors of 256, and the same for the frozen copy, which stands beside them on a base held as bf16
    assert_eq!(shapes[0]["flops_per_token"], 2 * 3 * 2 * 256 * 4096);
    let description = &shapes[0]["description"];
    assert_eq!(description["plan"], "16-16-16");
    assert_eq!(description["einsum"], "...abc,efbc,diaf,ghde->...ghi");
    let gates = description["gates"].as_str().expect("a text");
    assert_eq!(gates, "(-1,-2) 256x256, (-1,-3) 256x256, (-2,-3) 256x256");
    // bf16 weights as the file has them
    assert_eq!(answer["memory_bytes"]["weights"], 2 * LLAMA3_8B.parameters);
    let parts = ["weights", "adapters", "saved", "working", "program"]
        .map(|part| answer["memory_bytes"][part].as_u64().expect("bytes"));
    assert!(parts.iter().all(|&bytes| bytes > 0));
    assert_eq!(answer["memory_bytes"]["peak"], parts.iter().sum::<u64>());
}

#[test]
fn stacked_entries_are_planned_apart_and_added_up() {
    let workshop = bare(&LLAMA2_7B);
    let text = "[model]\npath = \"model\"\n[[adapter]]\ntype = \"quanta\"\ndims = [16, 8, 8, 4]\nsites = [\"q_proj\"]\nlayers = \"0-15\"\n\
        [[adapter]]\ntype = \"lora\"\nr = 8\nsites = \"all-linear\"\n";
    workshop.write("plan.toml", text);
    let plan = workshop.json(&["plan", "plan.toml"]);
    let counts = [0, 1].map(|entry| plan["adapters"][entry]["parameters"].as_u64().expect("a count"));
    // r (d_in + d_out) over four square linears, two to the gate's width and one from it
    let lora = 32 * 8 * (4 * (4096 + 4096) + 3 * (4096 + 11008));
    assert_eq!(counts, [2_752_512 / 4, lora]);
    assert_eq!(plan["trainable_parameters"], counts[0] + counts[1]);
}

#[test]
fn a_plan_reads_well_as_text_and_takes_overrides() {
    let workshop = bare(&LLAMA2_7B);
    workshop.write(
        "plan.toml",
        "[model]\npath = \"model\"\n[[adapter]]\ntype = \"quanta\"\ndims = [16, 16, 16]\nsites = [\"q_proj\", \"v_proj\"]\n",
    );
    let text = workshop.run(&["plan", "plan.toml", "--set", "adapter.0.dims=[16,8,8,4]"]);
    for part in ["2,752,512 parameters = 0.0408 % of the base", "64 sites", "q_proj [4096, 4096] x 32", "16-8-8-4"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(text.contains("...abcd,ghcd,flbh,epal,jkfg,ioek,mnij->...mnop"), "{text}");
}
