//! The tensors of one file or of a whole Hugging Face model folder, safetensors or pickled, mapped and checked, read by name.
//!
//! It hides how many files a model is spread over, and keeps it: [`TensorFiles::files`] lists each file's tensors in the order of their data, so that a
//! merged model can be written into the same shards. Left to others: headers (`header`), pickles (`pickle`), the index (`index`), and whether these are
//! the tensors a model needs (`check`).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use quanta_circuit::Real;

use super::bf16::Bf16Values;
use super::contents::Contents;
use super::dtype::Dtype;
use super::error::WeightsError;
use super::index::{Index, IndexProblem};
use super::mmap::Mapping;
use super::pickle;
use super::view::{View, gather};

/// A whole model's file and its index, in the order in which they are looked for.
const MODELS: [(&str, &str); 2] =
    [("model.safetensors", "model.safetensors.index.json"), ("pytorch_model.bin", "pytorch_model.bin.index.json")];

/// Bytes of a file that are converted at one time; a multiple of every type's size.
const PIECE: usize = 4 << 20;

/// Named tensors in memory-mapped files.
#[derive(Debug)]
pub struct TensorFiles {
    path: PathBuf,
    files: Vec<TensorFile>,
    tensors: BTreeMap<String, TensorInfo>,
    unsupported: BTreeMap<String, UnsupportedTensor>,
}

/// One file of [`TensorFiles`].
#[derive(Debug)]
pub struct TensorFile {
    /// Its path.
    pub path: PathBuf,
    /// The names of its tensors in the order of their data (of a pickled file: of its dict), those of unsupported types left out.
    pub tensors: Vec<String>,
    /// Its `__metadata__`; a pickled file has none.
    pub metadata: BTreeMap<String, String>,
    bytes: Mapping,
}

impl TensorFile {
    /// The name of a safetensors file for the same tensors: its own, or what Hugging Face calls that of a pickled file.
    pub fn safetensors_name(&self) -> String {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        if !pickle::is_pickle(&self.path) {
            return name.into_owned();
        }
        let stem = name.rsplit_once('.').map_or(&*name, |(stem, _)| stem);
        format!("{}.safetensors", stem.replace("pytorch_model", "model"))
    }
}

/// What is known of a tensor without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// The type its values are stored in.
    pub dtype: Dtype,
    /// Its shape, row-major, outermost axis first; empty for a scalar.
    pub shape: Vec<usize>,
    /// Which of [`TensorFiles::files`] holds it.
    pub file: usize,
    /// Its bytes in that file, from the first element to the last; checked against the file's length when it was opened.
    range: Range<usize>,
    /// For each axis the distance of its elements, where they do not follow one another.
    strides: Option<Vec<usize>>,
}

impl TensorInfo {
    /// The number of values. Cannot overflow: the file holds them.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether an axis has length zero.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }
}

/// A tensor of integers, truth values or another type that weights are not computed from.
#[derive(Debug)]
struct UnsupportedTensor {
    dtype: String,
    file: usize,
    range: Range<usize>,
}

impl TensorFiles {
    /// Opens the weights of a Hugging Face model folder: `model.safetensors`, or else every shard that `model.safetensors.index.json` names; where there
    /// is neither, `pytorch_model.bin` or the shards of its index.
    ///
    /// Every header is checked. A tensor of an unsupported type (the position numbers in some encoders' files, say) does not stand in the way unless it
    /// is asked for. A tensor that a shard holds and the index does not list is one of the model's tensors, as it is in transformers.
    ///
    /// Errors: [`WeightsError::NoModel`]; [`WeightsError::Index`] with all disagreements; those of [`TensorFiles::open_file`].
    pub fn open_folder(folder: &Path) -> Result<Self, WeightsError> {
        for (single, index) in MODELS {
            let (single, index) = (folder.join(single), folder.join(index));
            if exists(&single)? {
                let mut files = Self::open_file(&single)?;
                files.path = folder.to_owned();
                return Ok(files);
            }
            if exists(&index)? {
                return Self::open_shards(folder, index);
            }
        }
        Err(WeightsError::NoModel { folder: folder.to_owned() })
    }

    /// Opens all shards of an index.
    fn open_shards(folder: &Path, index_path: PathBuf) -> Result<Self, WeightsError> {
        let index = Index::open(&index_path)?;
        let mut problems = index.problems.clone();
        let mut files = Self::empty(folder);
        let mut missing = Vec::new();
        for shard in index.shards() {
            let path = folder.join(shard);
            if !exists(&path)? {
                missing.push(shard);
                problems.push(IndexProblem::MissingShard { shard: shard.to_owned() });
                continue;
            }
            for (tensor, first) in files.add(&path)? {
                problems.push(IndexProblem::TwoShards { tensor, first, second: shard.to_owned() });
            }
        }
        for (tensor, shard) in &index.shard_of {
            if !missing.contains(&shard.as_str()) && files.shard_name(tensor) != Some(shard.as_str()) {
                problems.push(IndexProblem::AbsentTensor { tensor: tensor.clone(), shard: shard.clone() });
            }
        }
        if problems.is_empty() { Ok(files) } else { Err(WeightsError::Index { path: index_path, problems }) }
    }

    /// Opens one file: of pickled tensors if its name ends in `.bin`, `.pt` or `.pth`, else of safetensors.
    ///
    /// Errors: [`WeightsError::Io`], [`WeightsError::NotAFile`], [`WeightsError::Pickle`], and one variant for each way a header can be untrue of its file.
    pub fn open_file(path: &Path) -> Result<Self, WeightsError> {
        let mut files = Self::empty(path);
        files.add(path)?;
        Ok(files)
    }

    fn empty(path: &Path) -> Self {
        Self { path: path.to_owned(), files: Vec::new(), tensors: BTreeMap::new(), unsupported: BTreeMap::new() }
    }

    /// Maps a file and adds its tensors; gives back those that an earlier file holds too, with that file's name.
    fn add(&mut self, path: &Path) -> Result<Vec<(String, String)>, WeightsError> {
        let bytes = Mapping::open(path)?;
        let Contents { tensors, metadata } = Contents::of(path, &bytes)?;
        let file = self.files.len();
        let mut repeated = Vec::new();
        let mut names = Vec::with_capacity(tensors.len());
        for (name, tensor) in tensors {
            if let Some(first) = self.shard_name(&name) {
                repeated.push((name.clone(), first.to_owned()));
                continue;
            }
            let View { dtype, shape, range, strides } = tensor;
            if let Some(dtype) = Dtype::from_stored(dtype) {
                names.push(name.clone());
                self.tensors.insert(name, TensorInfo { dtype, shape, file, range, strides });
            } else {
                self.unsupported.insert(name, UnsupportedTensor { dtype: dtype.to_string(), file, range });
            }
        }
        self.files.push(TensorFile { path: path.to_owned(), tensors: names, metadata, bytes });
        Ok(repeated)
    }

    /// The name of the file that holds a tensor of any type.
    fn shard_name(&self, tensor: &str) -> Option<&str> {
        let supported = self.tensors.get(tensor).map(|info| info.file);
        let file = supported.or_else(|| self.unsupported.get(tensor).map(|other| other.file))?;
        // The file being added is not in the list yet, but its own names are distinct: its header was checked.
        self.files.get(file)?.path.file_name()?.to_str()
    }

    /// The folder or file that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files in the order of their names, each with its tensors in the order of their data.
    pub fn files(&self) -> &[TensorFile] {
        &self.files
    }

    /// The `__metadata__` of the first file; see [`TensorFile::metadata`] for the others.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        // Both ways to open leave at least one file: an index without shards is refused.
        &self.files[0].metadata
    }

    /// The names of all tensors that can be read, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The tensors of types that weights are not computed from, sorted: name and type as the file writes it.
    pub fn unsupported(&self) -> impl Iterator<Item = (&str, &str)> {
        self.unsupported.iter().map(|(name, tensor)| (name.as_str(), tensor.dtype.as_str()))
    }

    /// A single truth value; none if there is no such tensor, or it is something else.
    pub fn flag(&self, name: &str) -> Option<bool> {
        let tensor = self.unsupported.get(name).filter(|tensor| tensor.dtype == "BOOL")?;
        match self.files[tensor.file].bytes[tensor.range.clone()] {
            [value] => Some(value != 0),
            _ => None,
        }
    }

    /// What is known of a tensor; `None` if there is none of this name and a supported type.
    pub fn get(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    /// As [`TensorFiles::get`], with an error that says why there is none: [`WeightsError::UnknownTensor`] or [`WeightsError::UnsupportedDtype`].
    pub fn info(&self, name: &str) -> Result<&TensorInfo, WeightsError> {
        self.tensors.get(name).ok_or_else(|| match self.unsupported.get(name) {
            Some(UnsupportedTensor { dtype, file, .. }) => WeightsError::UnsupportedDtype {
                path: self.files[*file].path.clone(),
                tensor: name.to_owned(),
                dtype: dtype.clone(),
            },
            None => WeightsError::UnknownTensor { path: self.path.clone(), tensor: name.to_owned() },
        })
    }

    /// A tensor's values as stored: little-endian, row-major, not necessarily aligned; a copy only where the file has them in another order. Errors as
    /// [`TensorFiles::info`].
    pub fn bytes(&self, name: &str) -> Result<Cow<'_, [u8]>, WeightsError> {
        let info = self.info(name)?;
        let bytes = &self.files[info.file].bytes[info.range.clone()];
        Ok(match &info.strides {
            None => Cow::Borrowed(bytes),
            Some(strides) => Cow::Owned(gather(bytes, info.dtype.bytes(), &info.shape, strides)),
        })
    }

    /// A tensor's values, row-major, converted as [`Dtype::decode`] does. Errors as [`TensorFiles::info`].
    pub fn read<T: Real>(&self, name: &str) -> Result<Vec<T>, WeightsError> {
        let dtype = self.info(name)?.dtype;
        self.in_pieces(name, |bytes| dtype.decode(bytes))
    }

    /// A tensor's values as `bf16`, row-major: those of the file where it has them so, else a copy, rounded once. Errors as [`TensorFiles::info`].
    pub fn read_bf16(&self, name: &str) -> Result<Bf16Values, WeightsError> {
        let info = self.info(name)?;
        let file = &self.files[info.file].bytes;
        if info.dtype == Dtype::Bf16
            && info.strides.is_none()
            && let Some(values) = Bf16Values::in_file(file, info.range.clone())
        {
            return Ok(values);
        }
        Ok(self.in_pieces(name, |bytes| info.dtype.decode_bf16(bytes))?.into())
    }

    /// A tensor's values, converted piece by piece. Each piece of the file is let go of when it has been read, so that a large tensor does not count twice.
    fn in_pieces<V>(
        &self,
        name: &str,
        decode: impl Fn(&[u8]) -> Result<Vec<V>, WeightsError>,
    ) -> Result<Vec<V>, WeightsError> {
        let info = self.info(name)?;
        let file = &self.files[info.file].bytes;
        if info.strides.is_some() {
            let values = decode(&self.bytes(name)?);
            file.release(&info.range);
            return values;
        }
        let mut values = Vec::with_capacity(info.range.len() / info.dtype.bytes());
        for start in info.range.clone().step_by(PIECE) {
            let piece = start..info.range.end.min(start + PIECE);
            values.extend(decode(&file[piece.clone()])?);
            file.release(&piece);
        }
        Ok(values)
    }
}

/// Whether the path leads to something; a permission that is missing is an error, not an absence.
fn exists(path: &Path) -> Result<bool, WeightsError> {
    path.try_exists().map_err(WeightsError::io("look for", path))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::fs;

    use half::bf16;
    use safetensors::tensor::TensorView;

    use super::*;

    const SINGLE: &str = MODELS[0].0;
    const INDEX: &str = MODELS[0].1;

    /// One tensor as the safetensors crate takes it.
    struct Raw(&'static str, safetensors::Dtype, Vec<usize>, Vec<u8>);

    fn save(path: &Path, tensors: &[Raw]) {
        let views = tensors.iter().map(|t| (t.0, TensorView::new(t.1, t.2.clone(), &t.3).unwrap()));
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        fs::write(path, safetensors::serialize(views, Some(metadata)).unwrap()).unwrap();
    }

    fn f32s(name: &'static str, values: &[f32]) -> Raw {
        Raw(name, safetensors::Dtype::F32, vec![values.len()], values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    fn index(folder: &Path, pairs: &[(&str, &str)]) {
        let map: HashMap<_, _> = pairs.iter().copied().collect();
        fs::write(folder.join(INDEX), serde_json::json!({"metadata": {}, "weight_map": map}).to_string()).unwrap();
    }

    #[test]
    fn tensors_of_every_type_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let values = [1.0, -2.5, 0.0, 384.0];
        let stored =
            [safetensors::Dtype::F64, safetensors::Dtype::F32, safetensors::Dtype::F16, safetensors::Dtype::BF16];
        let tensors: Vec<Raw> = Dtype::ALL
            .into_iter()
            .zip(stored)
            .zip(["double", "single", "half", "brain"])
            .map(|((dtype, stored), name)| {
                let mut bytes = Vec::new();
                dtype.encode(&values, &mut bytes);
                Raw(name, stored, vec![2, 2], bytes)
            })
            .collect();
        save(&folder.path().join(SINGLE), &tensors);
        let files = TensorFiles::open_folder(folder.path()).unwrap();
        assert_eq!(files.names().collect::<Vec<_>>(), ["brain", "double", "half", "single"]);
        assert_eq!(files.metadata()["format"], "pt");
        for (raw, dtype) in tensors.iter().zip(Dtype::ALL) {
            let info = files.get(raw.0).unwrap();
            assert_eq!((info.dtype, &info.shape[..], info.file, info.len()), (dtype, &[2, 2][..], 0, 4));
            assert_eq!(files.bytes(raw.0).unwrap(), raw.3);
            assert_eq!(files.read::<f64>(raw.0).unwrap(), values);
            assert_eq!(files.read::<f32>(raw.0).unwrap(), values.map(|v| v as f32));
            assert_eq!(*files.read_bf16(raw.0).unwrap(), values.map(bf16::from_f64));
            assert_eq!(
                files.read_bf16(raw.0).unwrap().is_mapped(),
                dtype == Dtype::Bf16 && cfg!(target_endian = "little")
            );
        }
        assert!(matches!(files.read::<f32>("absent"), Err(WeightsError::UnknownTensor { .. })));
    }

    #[test]
    fn bf16_values_outlive_the_files_name_and_are_copied_at_odd_addresses() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let values = [1.0_f32, -2.5, 384.0];
        let stored: Vec<u8> = values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect();
        for padding in [6, 7] {
            // a header may have any length
            let begin = r#"{"w":{"dtype":"BF16","shape":[3],"data_offsets":[0,6]}"#;
            let header = format!("{begin}{}}}", " ".repeat((8 - (begin.len() + 1) % 8) % 8 + padding));
            let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
            bytes.extend(header.as_bytes());
            bytes.extend(&stored);
            fs::write(&path, bytes).unwrap();
            let files = TensorFiles::open_file(&path).unwrap();
            let (read, again) = (files.read_bf16("w").unwrap(), files.read_bf16("w").unwrap().clone());
            drop(files);
            fs::remove_file(&path).unwrap();
            assert_eq!(read.is_mapped(), padding == 6 && cfg!(target_endian = "little"));
            assert_eq!(*read, values.map(bf16::from_f32));
            assert_eq!(*read, *again);
        }
    }

    #[test]
    fn a_tensor_is_the_same_when_it_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        // some pages of each, with borders inside a page
        let many: Vec<f32> = (0..5000).map(|i| i as f32).collect();
        save(&path, &[f32s("a", &many), f32s("b", &many[1..])]);
        let files = TensorFiles::open_file(&path).unwrap();
        for _ in 0..2 {
            assert_eq!(files.read::<f32>("a").unwrap(), many);
            assert_eq!(files.read::<f32>("b").unwrap(), many[1..]);
        }
    }

    #[test]
    fn a_tensor_of_integers_is_in_the_way_only_when_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        save(&path, &[Raw("ids", safetensors::Dtype::I64, vec![1], vec![0; 8]), f32s("w", &[3.0])]);
        let files = TensorFiles::open_file(&path).unwrap();
        assert_eq!(files.read::<f32>("w").unwrap(), [3.0]);
        assert_eq!(files.unsupported().collect::<Vec<_>>(), [("ids", "I64")]);
        assert_eq!(files.files()[0].tensors, ["w"]);
        let error = files.read::<f32>("ids").unwrap_err();
        assert!(
            matches!(&error, WeightsError::UnsupportedDtype { tensor, dtype, .. } if tensor == "ids" && dtype == "I64")
        );
    }

    #[test]
    fn shards_are_one_model_and_keep_their_order() {
        let folder = tempfile::tempdir().unwrap();
        save(&folder.path().join("m-00001-of-00002.safetensors"), &[f32s("z", &[1.0, 2.0]), f32s("b", &[])]);
        save(&folder.path().join("m-00002-of-00002.safetensors"), &[f32s("a", &[4.0]), f32s("unlisted", &[5.0])]);
        let (one, two) = ("m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors");
        index(folder.path(), &[("a", two), ("b", one), ("z", one)]);
        let files = TensorFiles::open_folder(folder.path()).unwrap();
        assert_eq!(
            files.files().iter().map(|f| f.tensors.clone()).collect::<Vec<_>>(),
            [["b", "z"], ["a", "unlisted"]]
        );
        assert_eq!(files.read::<f64>("z").unwrap(), [1.0, 2.0]);
        assert_eq!(files.read::<f64>("unlisted").unwrap(), [5.0]);
        assert!(files.get("b").unwrap().is_empty() && files.read_bf16("b").unwrap().is_empty());
        assert_eq!((files.get("a").unwrap().file, files.files()[1].path.file_name().unwrap().to_str()), (1, Some(two)));
    }

    #[test]
    fn all_disagreements_of_index_and_shards_are_reported() {
        let folder = tempfile::tempdir().unwrap();
        save(&folder.path().join("1.safetensors"), &[f32s("a", &[1.0]), f32s("twice", &[1.0])]);
        save(&folder.path().join("2.safetensors"), &[f32s("twice", &[1.0]), f32s("b", &[1.0])]);
        let map = [("a", "1.safetensors"), ("b", "1.safetensors"), ("c", "2.safetensors"), ("d", "3.safetensors")];
        index(folder.path(), &map);
        let error = TensorFiles::open_folder(folder.path()).unwrap_err();
        let WeightsError::Index { problems, .. } = &error else { panic!("{error}") };
        let text = error.to_string();
        for part in ["3.safetensors does not exist", "`b` is not in 1", "`c` is not in 2", "`twice` is both in 1"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(problems.len(), 4, "{text}");
    }

    #[test]
    fn folders_without_weights_and_paths_that_are_no_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(TensorFiles::open_folder(folder.path()), Err(WeightsError::NoModel { .. })));
        fs::write(folder.path().join("pytorch_model.bin"), "x").unwrap();
        assert!(matches!(TensorFiles::open_folder(folder.path()), Err(WeightsError::Pickle { .. })));
        assert!(matches!(TensorFiles::open_file(folder.path()), Err(WeightsError::NotAFile { .. })));
        let absent = TensorFiles::open_file(&folder.path().join("no.safetensors")).unwrap_err();
        assert!(matches!(&absent, WeightsError::Io { action: "open", .. }), "{absent}");
        fs::write(folder.path().join(SINGLE), "").unwrap();
        assert!(matches!(TensorFiles::open_folder(folder.path()), Err(WeightsError::TooShort { bytes: 0, .. })));
    }

    #[test]
    fn every_truncation_of_a_file_on_disk_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("whole.safetensors");
        save(&path, &[f32s("a", &[1.0, 2.0]), Raw("b", safetensors::Dtype::BF16, vec![1, 3], vec![1; 6])]);
        let whole = fs::read(&path).unwrap();
        let cut = folder.path().join("cut.safetensors");
        for length in 0..whole.len() {
            // A new file each time: shortening one in place is what a mapping must be spared.
            let _ = fs::remove_file(&cut);
            fs::write(&cut, &whole[..length]).unwrap();
            assert!(TensorFiles::open_file(&cut).is_err(), "{length} of {} bytes accepted", whole.len());
        }
        assert!(TensorFiles::open_file(&path).is_ok());
    }
}
