//! The directory of a zip archive: which entry lies where, for entries that are stored as they are.
//!
//! The directory stands at the end of the file; each of its records points to an entry's own header, which the data follow. Everything it says is checked
//! against the file and against the entries' own headers. Sums of the data are not computed: like safetensors, a file is trusted to be what was written,
//! and a file that is cut off has no directory. Which entries mean what is left to `storage`, but for the pickle and the byte order.

use std::collections::BTreeMap;
use std::ops::Range;

use super::PickleProblem;

const END: &[u8] = b"PK\x05\x06";
const END_BYTES: usize = 22;
const LOCATOR: &[u8] = b"PK\x06\x07";
const LOCATOR_BYTES: usize = 20;
const WIDE_END: &[u8] = b"PK\x06\x06";
const WIDE_END_BYTES: usize = 56;
const RECORD: &[u8] = b"PK\x01\x02";
const RECORD_BYTES: usize = 46;
const ENTRY: &[u8] = b"PK\x03\x04";
const ENTRY_BYTES: usize = 30;

/// Longest comment at the end of an archive: its length has two bytes.
const COMMENT: usize = u16::MAX as usize;
/// The number that sends the reader to the wide record.
const WIDE: u64 = u32::MAX as u64;
/// The tag of an extra field with wide numbers.
const WIDE_FIELD: u16 = 1;
/// Longest pickle read, in bytes: that of 100,000 tensors takes about 20 million.
const LONGEST_PICKLE: usize = 1 << 25;

/// Where an archive's entries lie.
#[derive(Debug)]
pub(super) struct Archive {
    entries: BTreeMap<String, Range<usize>>,
    /// What stands before `/data.pkl`.
    prefix: String,
}

/// One record of the directory.
struct Record<'a> {
    name: &'a [u8],
    bytes: u64,
    header: u64,
    flags: u16,
    method: u16,
}

impl Archive {
    /// Reads and checks the directory of a whole file.
    pub(super) fn open(bytes: &[u8]) -> Result<Self, PickleProblem> {
        if bytes.starts_with(b"\x80") {
            return Err(PickleProblem::Legacy);
        }
        let (directory, count) = find_directory(bytes)?;
        let mut entries = BTreeMap::new();
        let mut places: Vec<(Range<usize>, String)> = Vec::new();
        let mut records = &bytes[directory.clone()];
        for _ in 0..count {
            let record = Record::take(&mut records)?;
            let name = String::from_utf8(record.name.to_vec()).map_err(|_| damaged("a name is not UTF-8"))?;
            let (whole, data) = record.place(&bytes[..directory.start], &name)?;
            places.push((whole, name.clone()));
            if entries.insert(name.clone(), data).is_some() {
                return Err(PickleProblem::Entries { first: name.clone(), second: name });
            }
        }
        if !records.is_empty() {
            return Err(damaged("it has more bytes than its records"));
        }
        places.sort_by_key(|(place, _)| place.start);
        if let Some(pair) = places.windows(2).find(|pair| pair[0].0.end > pair[1].0.start) {
            return Err(PickleProblem::Entries { first: pair[0].1.clone(), second: pair[1].1.clone() });
        }
        let pickles: Vec<&str> = entries.keys().filter_map(|name| name.strip_suffix("/data.pkl")).collect();
        let &[prefix] = &pickles[..] else { return Err(PickleProblem::Pickles { count: pickles.len() }) };
        let archive = Self { prefix: prefix.to_owned(), entries };
        // files from before PyTorch 2.1 do not say it and are little-endian
        match archive.entry("byteorder").map(|place| &bytes[place]) {
            None | Some(b"little") => Ok(archive),
            Some(order) => {
                let order = String::from_utf8_lossy(&order[..order.len().min(16)]).into_owned();
                Err(PickleProblem::ByteOrder { order })
            }
        }
    }

    /// Where the bytes of `<prefix>/<name>` lie.
    pub(super) fn entry(&self, name: &str) -> Option<Range<usize>> {
        self.entries.get(&format!("{}/{name}", self.prefix)).cloned()
    }

    /// Where the pickle lies.
    pub(super) fn pickle(&self) -> Result<Range<usize>, PickleProblem> {
        // opening found it
        let place = self.entry("data.pkl").ok_or(PickleProblem::Pickles { count: 0 })?;
        let bytes = place.len();
        if bytes > LONGEST_PICKLE {
            return Err(PickleProblem::TooLong { bytes, limit: LONGEST_PICKLE });
        }
        Ok(place)
    }
}

impl<'a> Record<'a> {
    /// Takes the first record off the directory.
    fn take(records: &mut &'a [u8]) -> Result<Self, PickleProblem> {
        let cut = || damaged("a record is cut off");
        let fixed = records.get(..RECORD_BYTES).filter(|head| head.starts_with(RECORD)).ok_or_else(cut)?;
        let lengths = [28, 30, 32].map(|at| usize::from(u16_at(fixed, at)));
        let rest = &records[RECORD_BYTES..];
        let (name, rest) = rest.split_at_checked(lengths[0]).ok_or_else(cut)?;
        let (extra, rest) = rest.split_at_checked(lengths[1]).ok_or_else(cut)?;
        *records = rest.get(lengths[2]..).ok_or_else(cut)?;
        // uncompressed size, compressed size, place of the entry: wide ones stand in the extra field, in this order
        let mut numbers = [24, 20, 42].map(|at| u32_at(fixed, at));
        let mut wide = wide_numbers(extra)?;
        for number in numbers.iter_mut().filter(|number| **number == WIDE) {
            let (value, rest) = wide.split_first_chunk().ok_or_else(|| damaged("a wide number is missing"))?;
            (*number, wide) = (u64::from_le_bytes(*value), rest);
        }
        let [bytes, packed, header] = numbers;
        let (flags, method) = (u16_at(fixed, 8), u16_at(fixed, 10));
        if method == 0 && bytes != packed {
            return Err(damaged("a stored entry has two sizes"));
        }
        Ok(Self { name, bytes, header, flags, method })
    }

    /// The places of the entry with its header, and of its data, in the part of the file before the directory.
    fn place(&self, file: &[u8], name: &str) -> Result<(Range<usize>, Range<usize>), PickleProblem> {
        let entry = || name.to_owned();
        if self.flags & 1 != 0 {
            return Err(PickleProblem::NotStored { entry: entry(), how: "encrypted" });
        }
        if self.method != 0 {
            return Err(PickleProblem::NotStored { entry: entry(), how: "compressed" });
        }
        let outside = || damaged("an entry lies outside the file");
        let start = usize::try_from(self.header).map_err(|_| outside())?;
        let rest = file.get(start..).ok_or_else(outside)?;
        let fixed = rest.get(..ENTRY_BYTES).ok_or_else(outside)?;
        let lengths = [26, 28].map(|at| usize::from(u16_at(fixed, at)));
        let own = rest.get(ENTRY_BYTES..ENTRY_BYTES + lengths[0]);
        if !fixed.starts_with(ENTRY) || own != Some(self.name) {
            return Err(damaged("an entry's own header says something else"));
        }
        let data = start + ENTRY_BYTES + lengths[0] + lengths[1];
        let end = usize::try_from(self.bytes).ok().and_then(|bytes| data.checked_add(bytes));
        let end = end.filter(|&end| end <= file.len()).ok_or_else(outside)?;
        Ok((start..end, data..end))
    }
}

/// Where the directory lies and how many records it has.
fn find_directory(bytes: &[u8]) -> Result<(Range<usize>, u64), PickleProblem> {
    let last = bytes.len().checked_sub(END_BYTES).ok_or(PickleProblem::NotAnArchive)?;
    let is_end = |&at: &usize| {
        bytes[at..].starts_with(END) && usize::from(u16_at(&bytes[at..], 20)) == bytes.len() - at - END_BYTES
    };
    let at = (last.saturating_sub(COMMENT)..=last).rev().find(is_end).ok_or(PickleProblem::NotAnArchive)?;
    let end = &bytes[at..];
    let (mut count, mut size, mut start) = (u64::from(u16_at(end, 10)), u32_at(end, 12), u32_at(end, 16));
    let mut limit = at;
    let locator = at.checked_sub(LOCATOR_BYTES).filter(|&at| bytes[at..].starts_with(LOCATOR));
    if let Some(locator) = locator {
        let wrong = || damaged("the wide end record is not where it should be");
        let wide = usize::try_from(u64_at(&bytes[locator..], 8)).ok();
        let fits = |wide: &usize| wide.checked_add(WIDE_END_BYTES).is_some_and(|end| end <= locator);
        let wide = wide.filter(fits).ok_or_else(wrong)?;
        if !bytes[wide..].starts_with(WIDE_END) {
            return Err(wrong());
        }
        let end = &bytes[wide..];
        (count, size, start, limit) = (u64_at(end, 32), u64_at(end, 40), u64_at(end, 48), wide);
    } else if count == u64::from(u16::MAX) || size == WIDE || start == WIDE {
        return Err(damaged("the wide end record is missing"));
    }
    let end = start.checked_add(size).filter(|&end| end <= limit as u64);
    let end = end.ok_or_else(|| damaged("it lies outside the file"))?;
    // both are at most `limit`, a usize
    Ok((start as usize..end as usize, count))
}

/// The wide numbers among a record's extra fields.
fn wide_numbers(mut extra: &[u8]) -> Result<&[u8], PickleProblem> {
    while extra.len() >= 4 {
        let length = usize::from(u16_at(extra, 2));
        let field = extra.get(4..4 + length).ok_or_else(|| damaged("an extra field is cut off"))?;
        if u16_at(extra, 0) == WIDE_FIELD {
            return Ok(field);
        }
        extra = &extra[4 + length..];
    }
    Ok(&[])
}

fn damaged(what: &'static str) -> PickleProblem {
    PickleProblem::Directory { what }
}

/// The little-endian number at `at`; the callers have checked that it is there.
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// As [`u16_at`], widened.
fn u32_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u16_at(bytes, at)) | u64::from(u16_at(bytes, at + 2)) << 16
}

/// As [`u16_at`].
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u32_at(bytes, at) | u32_at(bytes, at + 4) << 32
}
