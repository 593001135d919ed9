//! Checkpoints of the paper's authors: which tensors are gates, of which site, and what circuit they make.
//!
//! Their program saves the whole model. A site's linear carries its gates under `quanta_weights.A B` (T) and `quanta_weights2.A B` (S, "the second set"),
//! A and B being the two axes counted from the end, and each gate has the shape `[d_B, d_A, d_B, d_A]`. Nothing else says what the axes are or in which
//! order the gates are applied: the order is always that of all pairs (paper, appendix G), and the sizes follow from the shapes, which must agree. Reading
//! files, and the rest of a model in them, is left to `checkpoint`.

use std::collections::BTreeMap;
use std::fmt;

use quanta_circuit::Plan;

use super::{Method, Quanta};

/// What their model puts before the name of each module.
const PREFIX: &str = "base_model.model.";
/// Between a module's name and the axes, for T and S, with the beginning of our own names.
const GATES: [(&str, &str); 2] = [(".quanta_weights.", "quanta_T"), (".quanta_weights2.", "quanta_S")];
/// Whether T, and whether S, is part of a site's weight.
const FLAGS: [&str; 2] = [".merged.merged", ".frozen_merged.merged"];
/// Most axes of a circuit that is looked for.
const AXES: usize = 32;

/// One site of such a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorsSite {
    /// Module path in the Hugging Face model.
    pub name: String,
    /// The circuit.
    pub plan: Plan,
    /// The names of its gates in the checkpoint, T's in order of application, then S's.
    pub gates: Vec<String>,
    /// What the checkpoint puts before the module path.
    prefix: &'static str,
}

impl AuthorsSite {
    /// The method whose parameters the gates are.
    pub fn method(&self) -> Method {
        Method::Quanta(Quanta::new(self.plan.in_dims()).expect("dims whose plan was made"))
    }

    /// The name of the checkpoint's flag that says whether T is part of the site's weight.
    pub fn merged_flag(&self) -> String {
        format!("{}{}{}", self.prefix, self.name, FLAGS[0])
    }

    /// The name of the flag that says whether S was subtracted from it.
    pub fn frozen_flag(&self) -> String {
        format!("{}{}{}", self.prefix, self.name, FLAGS[1])
    }
}

/// What is wrong with the gates of one site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorsProblem {
    /// The site.
    pub site: String,
    /// In words.
    pub reason: String,
}

impl fmt::Display for AuthorsProblem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.site, self.reason)
    }
}

/// A tensor's name in the base model, and whether the checkpoint adds something to the model under this name (a gate or a flag).
pub fn authors_name(tensor: &str) -> (&str, bool) {
    let name = tensor.strip_prefix(PREFIX).unwrap_or(tensor);
    let own = GATES.iter().any(|(mark, _)| name.contains(mark)) || FLAGS.iter().any(|flag| name.ends_with(flag));
    (name, own)
}

/// Gates by axes: name and shape.
type Gates<'a> = BTreeMap<(usize, usize), (&'a str, &'a [usize])>;

/// The gates of one site, T's and S's.
#[derive(Default)]
struct Found<'a> {
    prefix: &'static str,
    gates: [Gates<'a>; 2],
    unreadable: Option<&'a str>,
}

/// All sites among a checkpoint's tensors (name and shape of each), by name; none where it is no such checkpoint.
///
/// # Errors
/// Every site whose gates make no circuit of all pairs of axes.
pub fn authors_sites<'a>(
    tensors: impl IntoIterator<Item = (&'a str, &'a [usize])>,
) -> Result<Vec<AuthorsSite>, Vec<AuthorsProblem>> {
    let mut found: BTreeMap<&str, Found<'_>> = BTreeMap::new();
    for (tensor, shape) in tensors {
        let name = authors_name(tensor).0;
        let Some((set, (site, axes))) =
            GATES.iter().enumerate().find_map(|(set, (mark, _))| Some((set, name.split_once(mark)?)))
        else {
            continue;
        };
        let entry = found.entry(site).or_default();
        entry.prefix = if tensor.starts_with(PREFIX) { PREFIX } else { "" };
        match read_axes(axes) {
            Some(axes) => {
                entry.gates[set].insert(axes, (tensor, shape));
            }
            None => entry.unreadable = Some(axes),
        }
    }
    let (mut sites, mut problems) = (Vec::new(), Vec::new());
    for (name, found) in found {
        match found.site(name) {
            Ok(site) => sites.push(site),
            Err(reason) => problems.push(AuthorsProblem { site: name.to_owned(), reason }),
        }
    }
    if problems.is_empty() { Ok(sites) } else { Err(problems) }
}

/// `-1 -3` as distances from the end, `(1, 3)`.
fn read_axes(text: &str) -> Option<(usize, usize)> {
    let axis = |text: &str| text.strip_prefix('-')?.parse().ok().filter(|axis| (1..=AXES).contains(axis));
    let (a, b) = text.split_once(' ')?;
    Some((axis(a)?, axis(b)?)).filter(|(a, b)| a < b)
}

impl Found<'_> {
    fn site(&self, name: &str) -> Result<AuthorsSite, String> {
        if let Some(axes) = self.unreadable {
            return Err(format!("{axes:?} are no two axes such as \"-1 -2\""));
        }
        let [trained, frozen] = &self.gates;
        let axes = trained.keys().map(|&(_, b)| b).max().ok_or("it has gates of S and none of T")?;
        let mut sizes = vec![0; axes];
        for (&(a, b), &(tensor, shape)) in trained.iter().chain(frozen) {
            let &[out_b, out_a, in_b, in_a] = shape else { return Err(format!("`{tensor}` has no four axes")) };
            if (out_b, out_a) != (in_b, in_a) {
                return Err(format!(
                    "`{tensor}` of shape {shape:?} changes the size of its axes, which theirs never do"
                ));
            }
            for (axis, size) in [(a, in_a), (b, in_b)] {
                // S's axes may go further than T's
                let Some(known) = sizes.get_mut(axis - 1) else {
                    return Err(format!("S has a gate on axis -{axis} and T has none"));
                };
                if *known != 0 && *known != size {
                    return Err(format!("axis -{axis} has {known} values in one gate and {size} in `{tensor}`"));
                }
                *known = size;
            }
        }
        sizes.reverse();
        let plan = Plan::all_pairs(&sizes).map_err(|error| error.to_string())?;
        let mut gates = Vec::with_capacity(2 * plan.gates().len());
        for (set, letter) in [(trained, 'T'), (frozen, 'S')] {
            for gate in plan.gates() {
                let &[a, b] = gate.axes() else { return Err("a gate has no two axes".to_owned()) };
                let key = (a.unsigned_abs(), b.unsigned_abs());
                let (tensor, _) =
                    set.get(&key).ok_or_else(|| format!("{letter} has no gate on axes {a} and {b} of {axes}"))?;
                gates.push((*tensor).to_owned());
            }
        }
        Ok(AuthorsSite { name: name.to_owned(), plan, gates, prefix: self.prefix })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The gates of one site as the authors name them.
    fn gates(site: &str, dims: &[usize]) -> Vec<(String, Vec<usize>)> {
        let size = |axis: usize| dims[dims.len() - axis];
        let pairs = (1..=dims.len()).flat_map(|a| (a + 1..=dims.len()).map(move |b| (a, b)));
        let gate =
            |mark: &str, (a, b)| (format!("{PREFIX}{site}{mark}-{a} -{b}"), vec![size(b), size(a), size(b), size(a)]);
        pairs.flat_map(|pair| GATES.map(|(mark, _)| gate(mark, pair))).collect()
    }

    fn read(tensors: &[(String, Vec<usize>)]) -> Result<Vec<AuthorsSite>, Vec<AuthorsProblem>> {
        authors_sites(tensors.iter().map(|(name, shape)| (&name[..], &shape[..])))
    }

    fn reason(tensors: &[(String, Vec<usize>)]) -> String {
        read(tensors).unwrap_err()[0].to_string()
    }

    #[test]
    fn axes_and_order_follow_from_names_and_shapes() {
        let mut tensors = gates("model.layers.0.self_attn.q_proj", &[16, 8, 4]);
        tensors.extend(gates("model.layers.0.mlp.up_proj", &[2, 3, 4, 5]));
        tensors.push((format!("{PREFIX}model.norm.weight"), vec![7]));
        tensors.reverse();
        let sites = read(&tensors).unwrap();
        assert_eq!(sites.len(), 2);
        assert_eq!((&sites[0].name[..], sites[0].plan.in_dims()), ("model.layers.0.mlp.up_proj", &[2, 3, 4, 5][..]));
        assert_eq!(sites[1].plan, Plan::all_pairs(&[16, 8, 4]).unwrap());
        let first = "base_model.model.model.layers.0.self_attn.q_proj.quanta_weights.-1 -2";
        assert_eq!((&sites[1].gates[0][..], sites[1].gates.len()), (first, 6));
        assert!(sites[1].gates[5].ends_with(".quanta_weights2.-2 -3"));
        assert_eq!(sites[1].merged_flag(), "base_model.model.model.layers.0.self_attn.q_proj.merged.merged");
        assert_eq!(authors_name("base_model.model.model.norm.weight"), ("model.norm.weight", false));
        assert!(authors_name(first).1 && authors_name(&sites[0].frozen_flag()).1);
        assert_eq!(read(&[("model.norm.weight".to_owned(), vec![3])]), Ok(Vec::new()));
    }

    #[test]
    fn gates_that_make_no_circuit_are_refused_in_words() {
        let good = || gates("x", &[4, 3, 2]);
        let without = |index: usize| {
            let mut tensors = good();
            tensors.remove(index);
            reason(&tensors)
        };
        assert!(without(0).contains("T has no gate on axes -1 and -2 of 3"));
        assert!(without(1).contains("S has no gate on axes -1 and -2 of 3"));
        let changed = |change: fn(&mut (String, Vec<usize>))| {
            let mut tensors = good();
            change(&mut tensors[0]);
            reason(&tensors)
        };
        assert!(changed(|gate| gate.1 = vec![5, 2, 5, 2]).contains("axis -2 has"));
        assert!(changed(|gate| gate.1 = vec![3, 2, 3, 1]).contains("changes the size"));
        assert!(changed(|gate| gate.1 = vec![6, 6]).contains("no four axes"));
        assert!(changed(|gate| gate.0 = gate.0.replace("-1 -2", "-2 -1")).contains("no two axes"));
        assert!(changed(|gate| gate.0 = gate.0.replace("-1 -2", "-1 -99")).contains("no two axes"));
        assert!(changed(|gate| gate.1 = vec![0, 0, 0, 0]).starts_with("x: "));
        let only_frozen: Vec<_> = good().into_iter().filter(|gate| gate.0.contains("weights2")).collect();
        assert!(reason(&only_frozen).contains("none of T"));
        let further: Vec<_> =
            [gates("x", &[3, 2]), gates("x", &[9, 3, 2]).into_iter().filter(|g| g.0.contains("weights2")).collect()]
                .concat();
        assert!(reason(&further).contains("S has a gate on axis -3"));
    }
}
