//! Writing safetensors files tensor by tensor.
//!
//! The sizes of all tensors are told first, so that the header and every offset are known, and then the values are fed piece by piece: a model larger than
//! memory is written with one tensor of it in memory. Files load in the safetensors crate and in Python. Which tensors, and in which shards, is left to
//! checkpoints and merging; appearing whole or not at all to `atomic`.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use quanta_circuit::Real;

use super::atomic::AtomicFile;
use super::dtype::Dtype;
use super::error::WeightsError;
use super::header::{HEADER_LIMIT, LENGTH_BYTES, METADATA_KEY};

/// Values converted at a time by [`TensorWriter::write_values`]: a piece stays in the processor's cache.
const PIECE: usize = 1 << 16;

/// A tensor to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Its name.
    pub name: String,
    /// The type to store it in.
    pub dtype: Dtype,
    /// Its shape, row-major, outermost axis first.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// A tensor of this name, type and shape.
    pub fn new(name: impl Into<String>, dtype: Dtype, shape: impl Into<Vec<usize>>) -> Self {
        Self { name: name.into(), dtype, shape: shape.into() }
    }

    /// Its size in bytes, if that is a number.
    fn bytes(&self) -> Option<u64> {
        let count = self.shape.iter().try_fold(1_usize, |product, &axis| product.checked_mul(axis))?;
        u64::try_from(count.checked_mul(self.dtype.bytes())?).ok()
    }
}

/// What Hugging Face's programs expect in every file's `__metadata__`: `{"format": "pt"}`.
pub fn default_metadata() -> BTreeMap<String, String> {
    BTreeMap::from([("format".to_owned(), "pt".to_owned())])
}

/// A safetensors file in the making: it appears at its path by [`TensorWriter::finish`], and not at all when dropped before.
///
/// ```
/// use quanta_tune::weights::{Dtype, TensorFiles, TensorSpec, TensorWriter, default_metadata};
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("model.safetensors");
/// let specs = vec![TensorSpec::new("w", Dtype::Bf16, [2, 2])];
/// let mut writer = TensorWriter::create(&path, &default_metadata(), specs)?;
/// writer.write_values("w", &[1.0_f32, 2.0, 3.0, 4.0])?;
/// writer.finish()?;
/// assert_eq!(TensorFiles::open_file(&path)?.read::<f32>("w")?, [1.0, 2.0, 3.0, 4.0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct TensorWriter {
    file: AtomicFile,
    /// In the order of their data.
    slots: Vec<Slot>,
    slot_of: HashMap<String, usize>,
    /// Where the next write would go if nothing moved it.
    place: u64,
    piece: Vec<u8>,
}

/// A tensor's place in the file and how much of it has been fed.
#[derive(Debug)]
struct Slot {
    spec: TensorSpec,
    /// From the start of the data while the header is made, then from the start of the file.
    begin: u64,
    bytes: u64,
    fed: u64,
}

impl TensorWriter {
    /// Begins a file of these tensors at `path`, in a folder that exists, and writes its header.
    ///
    /// The data stand in the order of `specs`, wider types first: then every tensor is aligned to its type, which PyTorch needs to view it. The header
    /// is padded to a multiple of eight bytes with spaces. The same arguments give the same bytes.
    ///
    /// Errors: [`WeightsError::DuplicateTensor`], [`WeightsError::Unwritable`], [`WeightsError::HeaderTooLarge`], [`WeightsError::Io`].
    pub fn create(
        path: &Path,
        metadata: &BTreeMap<String, String>,
        specs: Vec<TensorSpec>,
    ) -> Result<Self, WeightsError> {
        let (mut slots, slot_of) = lay_out(path, specs)?;
        let header = header_text(path, metadata, &slots, HEADER_LIMIT)?;
        let data_start = (LENGTH_BYTES + header.len()) as u64;
        for slot in &mut slots {
            slot.begin += data_start;
        }
        let mut file = AtomicFile::create(path)?;
        file.write(&(header.len() as u64).to_le_bytes())?;
        file.write(header.as_bytes())?;
        Ok(Self { file, slots, slot_of, place: data_start, piece: Vec::new() })
    }

    /// Feeds a tensor's next bytes, little-endian. A tensor may be fed in several pieces, and the tensors in any order.
    ///
    /// Errors: [`WeightsError::UnknownTensor`]; [`WeightsError::FedSize`] for more bytes than the tensor has; [`WeightsError::Io`]. After an error the
    /// tensor counts as fed as far as before the call.
    pub fn write_bytes(&mut self, name: &str, bytes: &[u8]) -> Result<(), WeightsError> {
        let slot = self.slot(name)?;
        let Slot { begin, fed, bytes: expected, .. } = self.slots[slot];
        let (place, got) = (begin + fed, fed + bytes.len() as u64);
        if got > expected {
            return Err(self.fed_size(slot, got));
        }
        if place != self.place {
            self.file.seek(place)?;
        }
        // Unknown until the write has succeeded: a failed one may have moved the place, so that the next must seek.
        self.place = u64::MAX;
        self.file.write(bytes)?;
        self.place = place + bytes.len() as u64;
        self.slots[slot].fed = got;
        Ok(())
    }

    /// Feeds a tensor's next values, rounded once to its type as [`Dtype::encode`] does. Otherwise as [`TensorWriter::write_bytes`].
    pub fn write_values<T: Real>(&mut self, name: &str, values: &[T]) -> Result<(), WeightsError> {
        let dtype = self.slots[self.slot(name)?].spec.dtype;
        let mut piece = std::mem::take(&mut self.piece);
        let written = values.chunks(PIECE).try_for_each(|values| {
            piece.clear();
            dtype.encode(values, &mut piece);
            self.write_bytes(name, &piece)
        });
        self.piece = piece;
        written
    }

    /// Completes the file: it is flushed to the disk and takes its name, replacing what stands there.
    ///
    /// Errors: [`WeightsError::FedSize`] for a tensor not fed to its end, after which there is no file; [`WeightsError::Io`].
    pub fn finish(self) -> Result<(), WeightsError> {
        if let Some(slot) = self.slots.iter().position(|slot| slot.fed != slot.bytes) {
            return Err(self.fed_size(slot, self.slots[slot].fed));
        }
        self.file.commit()
    }

    fn slot(&self, name: &str) -> Result<usize, WeightsError> {
        let unknown = || WeightsError::UnknownTensor { path: self.file.path().to_owned(), tensor: name.to_owned() };
        self.slot_of.get(name).copied().ok_or_else(unknown)
    }

    fn fed_size(&self, slot: usize, got: u64) -> WeightsError {
        let Slot { spec, bytes, .. } = &self.slots[slot];
        WeightsError::FedSize { path: self.file.path().to_owned(), tensor: spec.name.clone(), expected: *bytes, got }
    }
}

/// Gives every tensor its place, counted from the start of the data.
fn lay_out(path: &Path, mut specs: Vec<TensorSpec>) -> Result<(Vec<Slot>, HashMap<String, usize>), WeightsError> {
    // Stable: tensors of one width keep their order.
    specs.sort_by_key(|spec| std::cmp::Reverse(spec.dtype.bytes()));
    let mut slots = Vec::with_capacity(specs.len());
    let mut slot_of = HashMap::with_capacity(specs.len());
    let mut begin = 0_u64;
    for spec in specs {
        // A file's length is a signed 64-bit number to the system; the last of its range is left to the header.
        let end = spec.bytes().and_then(|bytes| begin.checked_add(bytes)).filter(|&end| end < 1 << 62);
        let (Some(end), false) = (end, spec.name == METADATA_KEY) else {
            return Err(WeightsError::Unwritable { path: path.to_owned(), tensor: spec.name, shape: spec.shape });
        };
        if slot_of.insert(spec.name.clone(), slots.len()).is_some() {
            return Err(WeightsError::DuplicateTensor { path: path.to_owned(), tensor: spec.name });
        }
        slots.push(Slot { spec, begin, bytes: end - begin, fed: 0 });
        begin = end;
    }
    Ok((slots, slot_of))
}

/// The header's JSON, padded with spaces to a multiple of eight bytes.
fn header_text(
    path: &Path,
    metadata: &BTreeMap<String, String>,
    slots: &[Slot],
    limit: usize,
) -> Result<String, WeightsError> {
    // Written entry by entry, because a map type would sort the tensors by name or not at all.
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let mut entries = Vec::with_capacity(slots.len() + 1);
    if !metadata.is_empty() {
        entries.push(format!("{}:{}", quoted(METADATA_KEY), serde_json::json!(metadata)));
    }
    for Slot { spec, begin, bytes, .. } in slots {
        let (dtype, end) = (spec.dtype.safetensors_name(), begin + bytes);
        let entry = serde_json::json!({"dtype": dtype, "shape": spec.shape, "data_offsets": [begin, end]});
        entries.push(format!("{}:{entry}", quoted(&spec.name)));
    }
    let mut text = format!("{{{}}}", entries.join(","));
    let padding = text.len().next_multiple_of(LENGTH_BYTES) - text.len();
    text.extend(std::iter::repeat_n(' ', padding));
    if text.len() > limit {
        return Err(WeightsError::HeaderTooLarge { path: path.to_owned(), bytes: text.len(), limit });
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use safetensors::SafeTensors;

    use super::super::TensorFiles;
    use super::*;

    fn specs() -> Vec<TensorSpec> {
        vec![
            TensorSpec::new("z.bf16", Dtype::Bf16, [3]),
            TensorSpec::new("a \"quoted\" -1 -2", Dtype::F32, [2, 2]),
            TensorSpec::new("half", Dtype::F16, [1, 1, 2]),
            TensorSpec::new("scalar", Dtype::F64, []),
            TensorSpec::new("empty", Dtype::F32, [0, 1 << 40]),
        ]
    }

    /// Feeds all tensors of `specs`, backwards, one of them in pieces.
    fn write_all(path: &Path) {
        let mut writer = TensorWriter::create(path, &default_metadata(), specs()).unwrap();
        writer.write_values("scalar", &[0.1_f64]).unwrap();
        writer.write_values("half", &[1.5_f32, -2.0]).unwrap();
        writer.write_bytes("a \"quoted\" -1 -2", &1.0_f32.to_le_bytes()).unwrap();
        writer.write_values("z.bf16", &[1.0_f64, 2.0, 1.0 + 2.0_f64.powi(-8) + 2.0_f64.powi(-40)]).unwrap();
        writer.write_values("a \"quoted\" -1 -2", &[2.0_f32, 3.0, 4.0]).unwrap();
        assert!(!path.exists(), "visible before it is complete");
        writer.finish().unwrap();
    }

    #[test]
    fn files_load_in_the_safetensors_crate_and_here() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        write_all(&path);
        let bytes = fs::read(&path).unwrap();
        let (header_bytes, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(header_bytes % 8, 0);
        assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
        assert_eq!(metadata.offset_keys()[0], "scalar", "wider types first");
        let theirs = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(theirs.len(), 5);
        let quoted = theirs.tensor("a \"quoted\" -1 -2").unwrap();
        assert_eq!((quoted.dtype(), quoted.shape()), (safetensors::Dtype::F32, &[2, 2][..]));
        assert_eq!(quoted.data(), [1.0_f32, 2.0, 3.0, 4.0].map(f32::to_le_bytes).concat());
        for info in theirs.names().iter().map(|name| metadata.info(name).unwrap()) {
            assert_eq!((8 + header_bytes + info.data_offsets.0) * 8 % info.dtype.bitsize(), 0, "aligned");
        }
        let ours = TensorFiles::open_file(&path).unwrap();
        assert_eq!(ours.read::<f64>("scalar").unwrap(), [0.1]);
        assert_eq!(ours.read::<f32>("half").unwrap(), [1.5, -2.0]);
        assert_eq!(ours.read::<f64>("z.bf16").unwrap(), [1.0, 2.0, 1.0078125]);
        assert_eq!(ours.get("empty").unwrap().shape, [0, 1 << 40]);
        assert_eq!(*ours.metadata(), default_metadata());
        let again = folder.path().join("y.safetensors");
        write_all(&again);
        assert_eq!(fs::read(&again).unwrap(), bytes, "the same tensors give the same bytes");
    }

    #[test]
    fn many_pieces_make_one_tensor() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let values: Vec<f64> = (0..3 * PIECE + 17).map(|i| (i as f64).sin()).collect();
        let specs = ["a", "b"].map(|name| TensorSpec::new(name, Dtype::F64, [values.len()])).to_vec();
        let mut writer = TensorWriter::create(&path, &BTreeMap::new(), specs).unwrap();
        for part in values.chunks(PIECE / 3) {
            writer.write_values("b", part).unwrap();
            writer.write_values("a", part).unwrap();
        }
        writer.finish().unwrap();
        let files = TensorFiles::open_file(&path).unwrap();
        assert!(files.metadata().is_empty());
        for name in ["a", "b"] {
            assert_eq!(files.read::<f64>(name).unwrap(), values);
        }
    }

    #[test]
    fn a_size_that_does_not_match_leaves_no_file_and_the_old_one_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        fs::write(&path, "old").unwrap();
        let create = || TensorWriter::create(&path, &default_metadata(), specs()).unwrap();
        let mut short = create();
        short.write_values("scalar", &[1.0_f64]).unwrap();
        let error = short.finish().unwrap_err();
        assert!(matches!(error, WeightsError::FedSize { expected: 16, got: 0, .. }), "{error}");
        let mut long = create();
        let error = long.write_values("half", &[1.0_f32; 3]).unwrap_err();
        assert!(matches!(error, WeightsError::FedSize { expected: 4, got: 6, .. }), "{error}");
        assert!(long.finish().is_err());
        let unknown = create().write_bytes("nobody", &[]).unwrap_err();
        assert!(matches!(&unknown, WeightsError::UnknownTensor { tensor, .. } if tensor == "nobody"), "{unknown}");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn tensors_that_the_format_cannot_hold_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let create = |specs| TensorWriter::create(&folder.path().join("x"), &default_metadata(), specs).map(drop);
        let spec = |name: &str, shape: &[usize]| TensorSpec::new(name, Dtype::F32, shape);
        let twice = create(vec![spec("a", &[1]), spec("a", &[2])]);
        assert!(matches!(twice, Err(WeightsError::DuplicateTensor { .. })));
        for bad in [spec("__metadata__", &[1]), spec("a", &[usize::MAX, 2]), spec("a", &[usize::MAX / 4])] {
            assert!(matches!(create(vec![bad]), Err(WeightsError::Unwritable { .. })));
        }
        let (slots, _) = lay_out(Path::new("x"), vec![spec("a", &[1])]).unwrap();
        let header = |limit| header_text(Path::new("x"), &default_metadata(), &slots, limit);
        let length = header(HEADER_LIMIT).unwrap().len();
        assert!(header(length).is_ok());
        assert!(matches!(header(length - 1), Err(WeightsError::HeaderTooLarge { .. })));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
