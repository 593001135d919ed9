//! Whether a folder's tensors are those a model or adapter asks for: all differences at once.
//!
//! A user who points at the wrong folder should see in one error what the folder lacks and what it has instead. Who decides what is expected, and which
//! extra tensors are harmless, is the caller: a model family or a checkpoint.

use std::collections::BTreeSet;
use std::fmt;

use super::error::WeightsError;
use super::folder::TensorFiles;
use super::index::listing;

/// Everything that is wrong with a set of tensors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InventoryProblems {
    /// Expected and absent.
    pub missing: Vec<String>,
    /// Present, neither expected nor allowed.
    pub surplus: Vec<String>,
    /// Present with another shape.
    pub wrong_shape: Vec<ShapeMismatch>,
    /// Expected and present, but of a type that weights are not computed from: name and type.
    pub unsupported: Vec<(String, String)>,
}

/// A tensor of an unexpected shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShapeMismatch {
    /// The tensor.
    pub tensor: String,
    /// The shape asked for.
    pub expected: Vec<usize>,
    /// The shape in the file.
    pub got: Vec<usize>,
}

impl InventoryProblems {
    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.surplus.is_empty() && self.wrong_shape.is_empty() && self.unsupported.is_empty()
    }
}

impl fmt::Display for InventoryProblems {
    /// One paragraph for each kind of problem, twenty lines at most in each.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shapes: Vec<String> = self
            .wrong_shape
            .iter()
            .map(|m| format!("{}: expected {:?}, found {:?}", m.tensor, m.expected, m.got))
            .collect();
        let types: Vec<String> = self.unsupported.iter().map(|(name, dtype)| format!("{name}: {dtype}")).collect();
        let kinds = [
            ("missing", &self.missing),
            ("surplus", &self.surplus),
            ("of the wrong shape", &shapes),
            ("of a type other than F64, F32, F16, BF16", &types),
        ];
        for (kind, lines) in kinds {
            if !lines.is_empty() {
                write!(formatter, "\n{} {kind}:{}", lines.len(), listing(lines))?;
            }
        }
        Ok(())
    }
}

/// Compares the tensors of `files` with `expected` (name and shape of each).
///
/// Tensors beyond those must satisfy `is_allowed_extra`, whatever their type.
///
/// Errors: [`WeightsError::Inventory`] with every difference, in the order of `expected`, surplus ones by name.
pub fn check_inventory(
    files: &TensorFiles,
    expected: &[(String, Vec<usize>)],
    is_allowed_extra: impl Fn(&str) -> bool,
) -> Result<(), WeightsError> {
    let mut problems = InventoryProblems::default();
    let mut known = BTreeSet::new();
    for (name, shape) in expected {
        known.insert(name.as_str());
        match files.info(name) {
            Ok(info) if info.shape == *shape => {}
            Ok(info) => problems.wrong_shape.push(ShapeMismatch {
                tensor: name.clone(),
                expected: shape.clone(),
                got: info.shape.clone(),
            }),
            Err(WeightsError::UnsupportedDtype { tensor, dtype, .. }) => problems.unsupported.push((tensor, dtype)),
            Err(_) => problems.missing.push(name.clone()),
        }
    }
    let present: BTreeSet<&str> = files.names().chain(files.unsupported().map(|(name, _)| name)).collect();
    let surplus = present.difference(&known).filter(|name| !is_allowed_extra(name));
    problems.surplus = surplus.map(|name| (*name).to_owned()).collect();
    if problems.is_empty() {
        return Ok(());
    }
    Err(WeightsError::Inventory { path: files.path().to_owned(), problems: Box::new(problems) })
}

#[cfg(test)]
mod tests {
    use super::super::Dtype;
    use super::super::write::{TensorSpec, TensorWriter, default_metadata};
    use super::*;

    /// A file of zeros with these names and shapes.
    fn files(folder: &tempfile::TempDir, tensors: &[(&str, &[usize])]) -> TensorFiles {
        let path = folder.path().join("x.safetensors");
        let spec = |&(name, shape): &(&str, &[usize])| TensorSpec::new(name, Dtype::Bf16, shape);
        let mut writer = TensorWriter::create(&path, &default_metadata(), tensors.iter().map(spec).collect()).unwrap();
        for &(name, shape) in tensors {
            writer.write_values(name, &vec![0.0_f32; shape.iter().product()]).unwrap();
        }
        writer.finish().unwrap();
        TensorFiles::open_file(&path).unwrap()
    }

    fn expected(tensors: &[(&str, &[usize])]) -> Vec<(String, Vec<usize>)> {
        tensors.iter().map(|(name, shape)| ((*name).to_owned(), shape.to_vec())).collect()
    }

    #[test]
    fn the_expected_tensors_and_allowed_extras_pass() {
        let folder = tempfile::tempdir().unwrap();
        let files = files(&folder, &[("a", &[2, 3]), ("rotary.inv_freq", &[4]), ("s", &[])]);
        let want = expected(&[("a", &[2, 3]), ("s", &[])]);
        check_inventory(&files, &want, |name| name.ends_with("inv_freq")).unwrap();
        assert!(check_inventory(&files, &want, |_| false).is_err());
    }

    #[test]
    fn all_problems_are_reported_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let files = files(&folder, &[("a", &[2, 3]), ("extra", &[1]), ("allowed", &[1]), ("fine", &[7])]);
        let want = expected(&[("a", &[3, 2]), ("gone.1", &[1]), ("fine", &[7]), ("gone.2", &[1])]);
        let error = check_inventory(&files, &want, |name| name == "allowed").unwrap_err();
        let WeightsError::Inventory { problems, .. } = &error else { panic!("{error}") };
        let mismatch = ShapeMismatch { tensor: "a".into(), expected: vec![3, 2], got: vec![2, 3] };
        let all = InventoryProblems {
            missing: vec!["gone.1".into(), "gone.2".into()],
            surplus: vec!["extra".into()],
            wrong_shape: vec![mismatch],
            unsupported: vec![],
        };
        assert_eq!(**problems, all);
        let text = error.to_string();
        for part in ["2 missing:\n  gone.1\n  gone.2", "1 surplus:\n  extra", "a: expected [3, 2], found [2, 3]"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn an_expected_tensor_of_integers_is_no_missing_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::I32, vec![1], &[0; 4]).unwrap();
        std::fs::write(&path, safetensors::serialize([("n", view)], None).unwrap()).unwrap();
        let files = TensorFiles::open_file(&path).unwrap();
        let error = check_inventory(&files, &expected(&[("n", &[1])]), |_| false).unwrap_err();
        let WeightsError::Inventory { problems, .. } = &error else { panic!("{error}") };
        assert_eq!(problems.unsupported, [("n".to_owned(), "I32".to_owned())]);
        assert!(problems.missing.is_empty() && problems.surplus.is_empty());
        let surplus = check_inventory(&files, &[], |_| false).unwrap_err().to_string();
        assert!(surplus.contains("1 surplus:\n  n"), "{surplus}");
        check_inventory(&files, &[], |name| name == "n").unwrap();
    }

    #[test]
    fn a_long_list_is_cut() {
        let folder = tempfile::tempdir().unwrap();
        let files = files(&folder, &[]);
        let want: Vec<_> = (0..300).map(|i| (format!("layer.{i}"), vec![1])).collect();
        let text = check_inventory(&files, &want, |_| false).unwrap_err().to_string();
        assert!(text.contains("300 missing") && text.contains("and 280 more"), "{text}");
        assert!(text.lines().count() < 25);
    }
}
