//! TensorBoard event files: the numbers of a run in the form that TensorBoard draws while it runs.
//!
//! A file is a chain of records, each an `Event` message of TensorBoard's protocol-buffer schema in TFRecord's frame: length, checksum of the length,
//! message, checksum of the message. Two messages are needed, so they are encoded here by hand; `crc32c` brings the checksum. A file is an
//! append-only log like `metrics.jsonl`: a record is handed to the system whole, in one write, and a resumed run cuts the chain at its checkpoint
//! and goes on in the same file. When to write what is left to the run.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::StepEvent;
use crate::weights::WeightsError;

const PREFIX: &str = "events.out.tfevents.";
const SUFFIX: &str = ".quanta";
/// The first record of every file says this, so that readers know the schema.
const VERSION: &str = "brain.Event:2";
/// Bytes of a frame before its message: the length and its checksum.
const HEAD: usize = 12;
/// Bytes of a frame after its message: the message's checksum.
const TAIL: usize = 4;

/// The tag of the validation loss; a metric's tag is `eval/` and its name.
pub const EVAL_LOSS: &str = "eval/loss";

/// What TensorBoard shows of a step: tags and values.
pub fn step_scalars(event: &StepEvent) -> [(&'static str, f64); 4] {
    [
        ("train/loss", event.report.loss),
        ("train/lr", event.lr),
        ("train/grad_norm", event.report.gradient_norm),
        ("train/tokens_per_second", event.report.tokens as f64 / event.seconds.max(1e-9)),
    ]
}

/// Seconds since 1970, as events carry them.
pub fn wall_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// An event file, open at its end.
#[derive(Debug)]
pub struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// Begins `events.out.tfevents.<unix seconds>.quanta` in `folder`, which is created where it is missing.
    ///
    /// # Errors
    /// [`WeightsError::Io`].
    pub fn create(folder: &Path) -> Result<Self, WeightsError> {
        fs::create_dir_all(folder).map_err(WeightsError::io("create", folder))?;
        let now = wall_time();
        let path = folder.join(format!("{PREFIX}{}{SUFFIX}", now as u64));
        let file = OpenOptions::new().write(true).create_new(true).open(&path);
        let mut events = Self { file: file.map_err(WeightsError::io("create", &path))?, path };
        events.append(&version_event(now))?;
        Ok(events)
    }

    /// Opens the event file in `folder` for a run that goes on after `step` steps: events of later steps are cut off, and with them a last record that
    /// was left half written. Begins a file where there is none.
    ///
    /// Steps never decrease within a file, so that cutting is one truncation: the file is either as it was or as it should be.
    ///
    /// # Errors
    /// [`WeightsError::Io`].
    pub fn resume(folder: &Path, step: usize) -> Result<Self, WeightsError> {
        let mut last = None;
        for path in event_files(folder)? {
            let cut = |file: &mut File| {
                let length = length_up_to(file, step)?;
                file.set_len(length)?;
                file.seek(SeekFrom::Start(length))
            };
            let mut file =
                OpenOptions::new().read(true).write(true).open(&path).map_err(WeightsError::io("open", &path))?;
            let length = cut(&mut file).map_err(WeightsError::io("write", &path))?;
            last = Some((Self { path, file }, length));
        }
        let Some((mut events, length)) = last else { return Self::create(folder) };
        if length == 0 {
            events.append(&version_event(wall_time()))?;
        }
        Ok(events)
    }

    /// Where it stands.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends one event with the values of several tags, as f32. `step` must be at least the last one's, `wall_time` is in seconds since 1970.
    ///
    /// # Errors
    /// [`WeightsError::Io`].
    pub fn scalars(&mut self, step: usize, wall_time: f64, values: &[(&str, f64)]) -> Result<(), WeightsError> {
        self.append(&scalar_event(step, wall_time, values))
    }

    /// Makes sure that everything appended is on the disk, as it must be before a checkpoint counts on it.
    ///
    /// # Errors
    /// [`WeightsError::Io`].
    pub fn flush(&mut self) -> Result<(), WeightsError> {
        self.file.sync_data().map_err(WeightsError::io("write", &self.path))
    }

    fn append(&mut self, event: &[u8]) -> Result<(), WeightsError> {
        self.file.write_all(&record(event)).map_err(WeightsError::io("write", &self.path))
    }
}

/// Our event files in a folder, oldest first; none where there is no folder.
fn event_files(folder: &Path) -> Result<Vec<PathBuf>, WeightsError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(WeightsError::io("read", folder))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry.map_err(WeightsError::io("read", folder))?.file_name().to_string_lossy().into_owned();
        let seconds = name.strip_prefix(PREFIX).and_then(|name| name.strip_suffix(SUFFIX));
        if let Some(seconds) = seconds.and_then(|seconds| seconds.parse::<u64>().ok()) {
            found.push((seconds, folder.join(name)));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// Bytes of the leading records that are whole and belong to steps up to `step`.
fn length_up_to(file: &mut File, step: usize) -> io::Result<u64> {
    let end = file.metadata()?.len();
    let mut reader = BufReader::new(file);
    let (mut kept, mut head) = (0, [0; HEAD]);
    loop {
        // what is there decides how much is read, never what a damaged length claims
        let room = (end - kept).saturating_sub((HEAD + TAIL) as u64);
        if end - kept < (HEAD + TAIL) as u64 {
            return Ok(kept);
        }
        reader.read_exact(&mut head)?;
        let (length, check) = head.split_at(8);
        let claimed = u64::from_le_bytes(length.try_into().unwrap_or_default());
        if masked_checksum(length).to_le_bytes() != check || claimed > room {
            return Ok(kept);
        }
        let mut body = vec![0; claimed as usize + TAIL];
        reader.read_exact(&mut body)?;
        let (event, check) = body.split_at(claimed as usize);
        let whole = masked_checksum(event).to_le_bytes() == check;
        match step_of(event) {
            Some(found) if whole && found <= step as u64 => kept += claimed + (HEAD + TAIL) as u64,
            _ => return Ok(kept),
        }
    }
}

/// A message in its frame.
fn record(event: &[u8]) -> Vec<u8> {
    let length = (event.len() as u64).to_le_bytes();
    let parts: [&[u8]; 4] =
        [&length, &masked_checksum(&length).to_le_bytes(), event, &masked_checksum(event).to_le_bytes()];
    parts.concat()
}

/// TFRecord's checksum: CRC-32C, rotated and shifted, because a checksum over data that holds checksums is weak.
fn masked_checksum(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

// Protocol buffers: a message is a chain of fields, each a key (number << 3 | wire type) and a value.
// Event:   1 wall_time (double), 2 step (int64), 3 file_version (string), 5 summary (message)
// Summary: 1 value (message, repeated);  Value: 1 tag (string), 2 simple_value (float)
const VARINT: u64 = 0;
const EIGHT_BYTES: u64 = 1;
const COUNTED: u64 = 2;
const FOUR_BYTES: u64 = 5;

fn version_event(wall_time: f64) -> Vec<u8> {
    let mut event = Vec::new();
    put_fixed(&mut event, 1, EIGHT_BYTES, &wall_time.to_le_bytes());
    put_counted(&mut event, 3, VERSION.as_bytes());
    event
}

fn scalar_event(step: usize, wall_time: f64, values: &[(&str, f64)]) -> Vec<u8> {
    let mut summary = Vec::new();
    for (tag, value) in values {
        let mut scalar = Vec::new();
        put_counted(&mut scalar, 1, tag.as_bytes());
        put_fixed(&mut scalar, 2, FOUR_BYTES, &(*value as f32).to_le_bytes());
        put_counted(&mut summary, 1, &scalar);
    }
    let mut event = Vec::new();
    put_fixed(&mut event, 1, EIGHT_BYTES, &wall_time.to_le_bytes());
    put_varint(&mut event, 2 << 3 | VARINT);
    put_varint(&mut event, step as u64);
    put_counted(&mut event, 5, &summary);
    event
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_fixed(out: &mut Vec<u8>, number: u64, wire: u64, bytes: &[u8]) {
    put_varint(out, number << 3 | wire);
    out.extend_from_slice(bytes);
}

fn put_counted(out: &mut Vec<u8>, number: u64, bytes: &[u8]) {
    put_varint(out, number << 3 | COUNTED);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// The step of an event, 0 where it carries none; nothing where the bytes are no message.
fn step_of(mut event: &[u8]) -> Option<u64> {
    let mut step = 0;
    while !event.is_empty() {
        let key = take_varint(&mut event)?;
        match key & 7 {
            VARINT => {
                let value = take_varint(&mut event)?;
                if key >> 3 == 2 {
                    step = value;
                }
            }
            EIGHT_BYTES => event = event.get(8..)?,
            FOUR_BYTES => event = event.get(4..)?,
            COUNTED => {
                let length = usize::try_from(take_varint(&mut event)?).ok()?;
                event = event.get(length..)?;
            }
            _ => return None,
        }
    }
    Some(step)
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// A file with events of the given steps, one tag each; its bytes.
    fn written(folder: &Path, steps: &[usize]) -> (PathBuf, Vec<u8>) {
        let mut events = EventFile::create(folder).unwrap();
        for &step in steps {
            events.scalars(step, step as f64, &[("train/loss", 1.0 / (step + 1) as f64)]).unwrap();
        }
        events.flush().unwrap();
        let bytes = fs::read(events.path()).unwrap();
        (events.path().to_owned(), bytes)
    }

    /// Lengths of the file after each of its records.
    fn ends(bytes: &[u8]) -> Vec<usize> {
        let mut ends = vec![0];
        while ends[ends.len() - 1] < bytes.len() {
            let at = ends[ends.len() - 1];
            let length = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
            ends.push(at + HEAD + length + TAIL);
        }
        ends
    }

    #[test]
    fn records_have_the_bytes_that_tensorboard_writes() {
        // tensorboard 2.21, RecordWriter on serialised events: a file's first record at wall time 1.5, and one with two simple values at step 300, wall time 2.5
        assert_eq!(hex(&record(&version_event(1.5))), VERSION_RECORD);
        let event = scalar_event(300, 2.5, &[("train/loss", 0.25), ("eval/f1", 1.0)]);
        assert_eq!(hex(&record(&event)), SCALAR_RECORD);
    }
    const VERSION_RECORD: &str = "1800000000000000a37f4b2209000000000000f83f1a0d627261696e2e4576656e743a322a28646c";
    const SCALAR_RECORD: &str = "31000000000000009d8383e909000000000000044010ac022a230a110a0a747261696e2f6c6f7373150000803e\
        0a0e0a076576616c2f6631150000803f867ffdbe";

    #[test]
    fn a_step_is_shown_by_four_numbers() {
        let report = crate::train::StepReport { loss: 2.0, gradient_norm: 0.5, tokens: 30, labels: 3, saved_bytes: 0 };
        let event = StepEvent { step: 7, total_steps: 9, report, tokens: 210, lr: 1e-3, seconds: 0.25 };
        let names = ["loss", "lr", "grad_norm", "tokens_per_second"].map(|name| format!("train/{name}"));
        let scalars = step_scalars(&event);
        assert_eq!(scalars.map(|(tag, _)| tag.to_owned()), names);
        assert_eq!(scalars.map(|(_, value)| value), [2.0, 1e-3, 0.5, 120.0]);
    }

    #[test]
    fn a_resumed_file_is_the_uninterrupted_one() {
        let [whole, cut] = [(); 2].map(|_| tempfile::tempdir().unwrap());
        let (_, mut expected) = written(whole.path(), &[0, 1, 2, 2, 3]);
        let (path, _) = written(cut.path(), &[0, 1, 2, 2, 3, 4, 5]);
        drop(EventFile::resume(cut.path(), 2).unwrap());
        let mut events = EventFile::resume(cut.path(), 2).unwrap();
        assert_eq!(events.path(), path);
        events.scalars(3, 3.0, &[("train/loss", 0.25)]).unwrap();
        let mut found = fs::read(&path).unwrap();
        // the version record tells when the file was begun
        let first = ends(&found)[1];
        found.drain(..first);
        expected.drain(..first);
        assert_eq!(hex(&found), hex(&expected));
        assert_eq!(fs::read_dir(cut.path()).unwrap().count(), 1, "one file a folder");
    }

    #[test]
    fn a_record_torn_or_damaged_at_any_byte_is_cut_off_with_what_follows() {
        let folder = tempfile::tempdir().unwrap();
        let (path, bytes) = written(folder.path(), &[1, 2, 3]);
        let ends = ends(&bytes);
        assert_eq!((ends.len(), ends[4]), (5, bytes.len()));
        let resumed = |content: &[u8]| {
            fs::write(&path, content).unwrap();
            drop(EventFile::resume(folder.path(), 9).unwrap());
            fs::read(&path).unwrap()
        };
        for length in ends[1]..=bytes.len() {
            let whole = *ends.iter().rfind(|&&end| end <= length).unwrap();
            assert_eq!(resumed(&bytes[..length]), &bytes[..whole], "cut at {length}");
        }
        for at in ends[3]..ends[4] {
            for flip in [1, 0x80] {
                let mut damaged = bytes.clone();
                damaged[at] ^= flip;
                assert_eq!(resumed(&damaged), &bytes[..ends[3]], "byte {at}");
            }
        }
        // a lost page reads as zeros
        assert_eq!(resumed(&[&bytes[..ends[2]], &[0; 4096]].concat()), &bytes[..ends[2]]);
        // nothing left: the file begins anew
        let begun = resumed(&bytes[..ends[1] - 1]);
        assert_eq!((begun.len(), &begun[..8]), (ends[1], &bytes[..8]));
    }

    #[test]
    fn resuming_without_a_file_begins_one_and_leaves_others_alone() {
        let folder = tempfile::tempdir().unwrap();
        let other = folder.path().join("events.out.tfevents.1.host");
        fs::write(&other, b"not ours").unwrap();
        let events = EventFile::resume(folder.path(), 7).unwrap();
        assert_ne!(events.path(), other);
        assert_eq!(ends(&fs::read(events.path()).unwrap()).len(), 2);
        assert_eq!(fs::read(&other).unwrap(), b"not ours");
        let missing = folder.path().join("runs/x/tensorboard");
        EventFile::resume(&missing, 7).unwrap();
        assert_eq!(fs::read_dir(&missing).unwrap().count(), 1);
    }

    #[test]
    fn bytes_that_are_no_message_have_no_step() {
        assert_eq!(step_of(&scalar_event(usize::MAX, 0.0, &[])), Some(u64::MAX));
        assert_eq!(step_of(&version_event(0.0)), Some(0));
        let overlong = [&[2 << 3][..], &[0xff; 10]].concat();
        for bytes in [&[0x0a, 0xff][..], &[0x0b], &[0x09, 1, 2], &[0x10], &overlong] {
            assert_eq!(step_of(bytes), None, "{bytes:?}");
        }
    }
}
