//! Pickled weights: files that PyTorch wrote, bit by bit, and hostile ones, built here and refused by name.
//!
//! `scripts/golden_pickle.py` wrote the files in `testdata/pickles`, each beside the same tensors in safetensors. The hostile files are small: a [`Zip`] of
//! entries and a [`program`] of pickle operations, each changed in one place.

use std::path::{Path, PathBuf};

use super::*;
use crate::weights::TensorFiles;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/pickles").join(name)
}

/// An archive in the making: the entries' places are kept, so that a test can lie about them.
#[derive(Default)]
struct Zip {
    bytes: Vec<u8>,
    records: Vec<Vec<u8>>,
}

impl Zip {
    fn add(mut self, name: &str, data: &[u8]) -> Self {
        let place = self.bytes.len() as u32;
        let size = (data.len() as u32).to_le_bytes();
        self.bytes.extend(b"PK\x03\x04");
        self.bytes.extend([0; 22]);
        self.bytes.extend((name.len() as u16).to_le_bytes());
        // torch.save pads with an extra field
        self.bytes.extend(5_u16.to_le_bytes());
        self.bytes.extend(name.as_bytes());
        self.bytes.extend(b"FB\x01\0Z");
        self.bytes.extend(data);
        let mut record = b"PK\x01\x02".to_vec();
        record.extend([0; 16]);
        record.extend([size, size].concat());
        record.extend((name.len() as u16).to_le_bytes());
        record.extend([0; 12]);
        record.extend(place.to_le_bytes());
        record.extend(name.as_bytes());
        self.records.push(record);
        self
    }

    /// Changes bytes of the last record.
    fn change(mut self, at: usize, bytes: &[u8]) -> Self {
        self.records.last_mut().unwrap()[at..][..bytes.len()].copy_from_slice(bytes);
        self
    }

    /// Moves sizes and place of the last record into its extra field, as beyond 4 GiB.
    fn widen(mut self) -> Self {
        let record = self.records.last_mut().unwrap();
        let numbers = [24, 20, 42].map(|at| u32::from_le_bytes(record[at..at + 4].try_into().unwrap()));
        for at in [24, 20, 42] {
            record[at..at + 4].fill(0xff);
        }
        record[30] = 28;
        record.extend(b"\x01\0\x18\0");
        numbers.iter().for_each(|&number| record.extend(u64::from(number).to_le_bytes()));
        self
    }

    fn finish(self) -> Vec<u8> {
        let (start, count) = (self.bytes.len() as u32, self.records.len() as u16);
        let directory = self.records.concat();
        let mut bytes = [self.bytes, directory.clone()].concat();
        bytes.extend(b"PK\x05\x06\0\0\0\0");
        bytes.extend([count.to_le_bytes(), count.to_le_bytes()].concat());
        bytes.extend((directory.len() as u32).to_le_bytes());
        bytes.extend(start.to_le_bytes());
        bytes.extend([0; 2]);
        bytes
    }

    /// As [`Zip::finish`] with the end records of a large archive.
    fn finish_wide(self) -> Vec<u8> {
        let mut bytes = self.finish();
        let end = bytes.split_off(bytes.len() - 22);
        let wide = bytes.len() as u64;
        bytes.extend(b"PK\x06\x06");
        bytes.extend([0; 28]);
        let number = |at: usize, length: usize| {
            let mut wide = [0; 8];
            wide[..length].copy_from_slice(&end[at..at + length]);
            wide
        };
        bytes.extend([number(10, 2), number(12, 4), number(16, 4)].concat());
        bytes.extend(b"PK\x06\x07\0\0\0\0");
        bytes.extend(wide.to_le_bytes());
        bytes.extend([1, 0, 0, 0]);
        bytes.extend(b"PK\x05\x06\0\0\0\0");
        bytes.extend([0xff; 12]);
        bytes.extend([0; 2]);
        bytes
    }
}

fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

fn number(value: i64) -> Vec<u8> {
    [b"\x8a\x08", &value.to_le_bytes()[..]].concat()
}

fn tuple(items: &[Vec<u8>]) -> Vec<u8> {
    [b"(".to_vec(), items.concat(), b"t".to_vec()].concat()
}

fn numbers(values: &[i64]) -> Vec<u8> {
    tuple(&values.iter().map(|&value| number(value)).collect::<Vec<_>>())
}

/// A tensor as torch.save writes it.
fn tensor(class: &str, key: &str, count: i64, offset: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
    let class = format!("ctorch\n{class}Storage\n").into_bytes();
    let storage = [tuple(&[text("storage"), class, text(key), text("cpu"), number(count)]), b"Q".to_vec()].concat();
    let hooks = b"ccollections\nOrderedDict\n)R".to_vec();
    let arguments = tuple(&[storage, number(offset), numbers(shape), numbers(strides), vec![0x89], hooks]);
    [b"ctorch._utils\n_rebuild_tensor_v2\n".to_vec(), arguments, b"R".to_vec()].concat()
}

/// A dict of these values.
fn program(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let pairs: Vec<u8> = entries.iter().flat_map(|(name, value)| [text(name), value.clone()].concat()).collect();
    [b"\x80\x02}(".to_vec(), pairs, b"u.".to_vec()].concat()
}

/// An archive with this pickle and the storage `0` of eight single-precision numbers.
fn archive(program: &[u8]) -> Vec<u8> {
    Zip::default().add("x/data.pkl", program).add("x/data/0", &[7; 32]).finish()
}

fn good() -> Vec<u8> {
    program(&[("w", tensor("Float", "0", 8, 0, &[4, 2], &[2, 1]))])
}

/// The problem of a file with one tensor of these claims.
fn refusal(class: &str, key: &str, count: i64, offset: i64, shape: &[i64], strides: &[i64]) -> PickleProblem {
    parse_bytes(&archive(&program(&[("w", tensor(class, key, count, offset, shape, strides))]))).unwrap_err()
}

#[test]
fn files_of_pytorch_hold_the_bits_of_their_safetensors() {
    let mut gathered = 0;
    for name in ["types", "views", "module", "many"] {
        let pickled = TensorFiles::open_file(&golden(&format!("{name}.bin"))).unwrap();
        let plain = TensorFiles::open_file(&golden(&format!("{name}.safetensors"))).unwrap();
        assert!(pickled.names().eq(plain.names()), "{name}");
        assert!(pickled.unsupported().eq(plain.unsupported()), "{name}");
        for tensor in plain.names() {
            let (ours, theirs) = (pickled.info(tensor).unwrap(), plain.info(tensor).unwrap());
            assert_eq!((ours.dtype, &ours.shape, ours.len()), (theirs.dtype, &theirs.shape, theirs.len()), "{tensor}");
            let bytes = pickled.bytes(tensor).unwrap();
            assert_eq!(bytes, plain.bytes(tensor).unwrap(), "{name}: {tensor}");
            gathered += usize::from(matches!(bytes, std::borrow::Cow::Owned(_)));
            assert_eq!(pickled.read::<f64>(tensor).unwrap(), plain.read::<f64>(tensor).unwrap());
        }
    }
    // those that do not lie in order: the others are not copied
    assert_eq!(gathered, 8);
    let many = std::fs::read(golden("many.bin")).unwrap();
    assert!(many.windows(2).any(|pair| pair == b"r\0"), "a remembered value beyond 255 is in a test file");
}

#[test]
fn what_pytorch_writes_of_other_things_is_refused_by_name() {
    let message = |name: &str| TensorFiles::open_file(&golden(name)).unwrap_err().to_string();
    assert!(message("refused_legacy.bin").contains("torch.save(torch.load(path, weights_only=True), path)"));
    assert!(message("refused_module.bin").contains("torch.nn.modules"), "{}", message("refused_module.bin"));
    assert!(message("refused_nested.bin").contains("\"state_dict\""), "{}", message("refused_nested.bin"));
    assert!(message("refused_expanded.bin").contains("`expanded`"), "{}", message("refused_expanded.bin"));
    assert!(message("refused_complex.bin").contains("torch.ComplexFloatStorage"));
}

#[test]
fn archives_of_every_layout_are_read() {
    let tensors = parse_bytes(&archive(&good())).unwrap();
    assert_eq!((tensors.len(), &tensors[0].0[..], &tensors[0].1.shape[..]), (1, "w", &[4, 2][..]));
    let zip = || Zip::default().add("some/prefix/data.pkl", &good()).widen().add("some/prefix/data/0", &[7; 32]);
    let places = |bytes: &[u8]| parse_bytes(bytes).unwrap()[0].1.range.clone();
    let plain = places(&zip().finish());
    assert_eq!(plain.len(), 32);
    assert_eq!(places(&zip().finish_wide()), plain);
    let with_order = zip().add("some/prefix/byteorder", b"little").add("unrelated", b"text");
    assert_eq!(places(&with_order.finish()), plain);
    let mut commented = zip().finish();
    let end = commented.len();
    commented[end - 2] = 5;
    commented.extend(b"PK\x05\x06!");
    assert_eq!(places(&commented), plain);
}

#[test]
fn a_program_that_calls_anything_is_refused_and_nothing_runs() {
    let marker = std::env::temp_dir().join(format!("quanta-pickle-{}", std::process::id()));
    let command = format!("touch {}", marker.display());
    let call = |module: &str| [format!("c{module}\n").into_bytes(), tuple(&[text(&command)]), b"R.".to_vec()].concat();
    for module in
        ["os\nsystem", "posix\nsystem", "builtins\neval", "torch\nload", "subprocess\nPopen", "torch._utils\n_x"]
    {
        let problem = parse_bytes(&archive(&call(module))).unwrap_err();
        let PickleProblem::Global { name } = &problem else { panic!("{problem}") };
        assert_eq!(*name, module.replace('\n', "."));
        assert!(problem.to_string().contains("parsed here, never executed"));
    }
    assert!(!marker.exists());
    for (operations, name) in [
        (&b"\x80\x02(ios\nsystem\n."[..], "INST"),
        (b"\x80\x02cos\nsystem\n)\x81.", ""),
        (b"\x80\x02)\x81.", "NEWOBJ"),
        (b"\x80\x02]2.", "EMPTY_LIST"),
        (b"\x80\x02\x8c\x02os\x8c\x06system\x93.", "SHORT_BINUNICODE"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"\x80\x02\xfe.", "0xfe"),
        (b"\x80\x04.", "PROTO 4"),
    ] {
        match parse_bytes(&archive(operations)).unwrap_err() {
            PickleProblem::Opcode { opcode, .. } => assert_eq!(opcode, name),
            PickleProblem::Global { name: global } => assert_eq!((name, &global[..]), ("", "os.system")),
            other => panic!("{name}: {other}"),
        }
    }
}

#[test]
fn programs_that_do_not_add_up_are_refused() {
    let deep = [b"\x80\x02".to_vec(), b"(".repeat(1 << 20), b"t".repeat(1 << 20), b".".to_vec()].concat();
    assert!(matches!(parse_bytes(&archive(&deep)), Err(PickleProblem::NotTensors { .. })));
    // a dict inside itself, and one that is filled a million times over from memory
    let within = b"\x80\x02}q\0X\x01\0\0\0wh\0s.";
    assert!(matches!(parse_bytes(&archive(within)), Err(PickleProblem::NotTensors { .. })));
    let bomb = [b"\x80\x02)q\0".to_vec(), b"h\0\x85q\0h\0\x86q\0".repeat(100_000), b".".to_vec()].concat();
    assert!(parse_bytes(&archive(&bomb)).is_err());
    for operations in [
        &b""[..],
        b"\x80",
        b"\x80\x02.",
        b"\x80\x02t.",
        b"\x80\x02}u.",
        b"\x80\x02}(X\x01\0\0\0wu.",
        b"\x80\x02X\xff\xff\xff\xffw.",
        b"\x80\x02X\x01\0\0\0\xff.",
        b"\x80\x02h\x05.",
        b"\x80\x02q\0.",
        b"\x80\x02Nb.",
        b"\x80\x02NNR.",
        b"\x80\x02N)R.",
        b"\x80\x02NQ.",
        b"\x80\x02}(.",
        b"\x80\x02(}u.",
        b"\x80\x02}..",
        b"\x80\x02N}.",
        b"\x80\x02\x8a\x09123456789.",
        b"\x80\x02ctorch\nFloatStorage",
        b"\x80\x02}K\x01K\x02s.",
        b"\x80\x02}X\x01\0\0\0wK\x02s.",
        b"\x80\x02K\x01.",
    ] {
        let problem = parse_bytes(&archive(operations)).unwrap_err();
        assert!(
            matches!(problem, PickleProblem::Malformed { .. } | PickleProblem::NotTensors { .. }),
            "{}: {problem}",
            operations.escape_ascii()
        );
    }
}

#[test]
fn tensors_beyond_their_storage_are_refused() {
    let outside = |problem: PickleProblem| matches!(problem, PickleProblem::OutsideStorage { .. });
    assert!(outside(refusal("Float", "0", 8, 1, &[4, 2], &[2, 1])), "offset");
    assert!(outside(refusal("Float", "0", 8, i64::MAX, &[1], &[1])), "offset that overflows");
    assert!(outside(refusal("Float", "0", 8, 0, &[4, 2], &[3, 1])), "strides");
    assert!(outside(refusal("Float", "0", 8, 0, &[2, 2], &[i64::MAX, 1])), "strides that overflow");
    assert!(outside(refusal("Float", "0", 8, 0, &[1 << 40], &[0])), "repeated elements");
    assert!(outside(refusal("Float", "0", 8, 0, &[1 << 40, 1 << 40], &[0, 0])), "a product that overflows");
    assert!(outside(refusal("Float", "0", 8, 0, &[1 << 40, 1 << 40, 0], &[0, 0, 0])), "the same beside nothing");
    let malformed = |problem: PickleProblem| matches!(problem, PickleProblem::Malformed { .. });
    assert!(malformed(refusal("Float", "0", 8, -1, &[1], &[1])));
    assert!(malformed(refusal("Float", "0", 8, 0, &[-1], &[1])));
    assert!(malformed(refusal("Float", "0", 8, 0, &[1], &[-1])));
    assert!(malformed(refusal("Float", "0", 8, 0, &[1, 1], &[1])));
    assert!(malformed(refusal("Float", "0", 8, 0, &[1; 65], &[1; 65])));
    let size = |problem: PickleProblem| matches!(problem, PickleProblem::StorageSize { bytes: 32, .. });
    assert!(size(refusal("Float", "0", 9, 0, &[1], &[1])));
    assert!(size(refusal("Double", "0", 8, 0, &[1], &[1])));
    assert!(size(refusal("Double", "0", i64::MAX, 0, &[1], &[1])));
    for key in ["1", "", "../data.pkl", &"0".repeat(1 << 16)] {
        assert!(matches!(refusal("Float", key, 8, 0, &[1], &[1]), PickleProblem::NoStorage { .. }));
    }
    let one = || tensor("Float", "0", 8, 0, &[1], &[1]);
    let problem = parse_bytes(&archive(&program(&[("w", one()), ("v", one()), ("w", one())]))).unwrap_err();
    assert_eq!(problem, PickleProblem::Twice { tensor: "w".to_owned() });
}

#[test]
fn archives_that_lie_are_refused() {
    let pickle = || Zip::default().add("x/data.pkl", &good());
    let two = || pickle().add("x/data/0", &[7; 32]);
    let problem = |zip: Zip| parse_bytes(&zip.finish()).unwrap_err();
    let directory = |zip: Zip| matches!(problem(zip), PickleProblem::Directory { .. });
    let start = pickle().bytes.len() as u32;
    assert!(matches!(problem(two().change(10, &[8])), PickleProblem::NotStored { how: "compressed", .. }));
    assert!(matches!(problem(two().change(8, &[1])), PickleProblem::NotStored { how: "encrypted", .. }));
    assert!(directory(two().change(24, &[33])), "two sizes");
    assert!(directory(two().change(20, &[200, 0, 0, 0, 200])), "into the directory");
    assert!(directory(two().change(42, &[0xff, 0xff, 0xff, 0x7f])), "beyond the file");
    assert!(directory(two().change(42, &(start + 1).to_le_bytes())), "between headers");
    assert!(directory(two().change(20, &[0xff; 8])), "a wide size that is missing");
    assert!(directory(two().change(46, b"y")), "another name than its own header's");
    assert!(directory(two().change(46, b"\xff")), "a name that is no text");
    let shared = two().change(20, &[33, 0, 0, 0, 33]).add("more", &[0]);
    assert!(matches!(problem(shared), PickleProblem::Entries { .. }), "overlap");
    let twice = two().add("x/data/0", &[8; 32]);
    assert!(matches!(problem(twice), PickleProblem::Entries { first, second } if first == second));
    assert_eq!(problem(Zip::default().add("x/data/0", &[7; 32])), PickleProblem::Pickles { count: 0 });
    assert_eq!(problem(two().add("y/data.pkl", &good())), PickleProblem::Pickles { count: 2 });
    let big = two().add("x/byteorder", b"big");
    assert!(matches!(problem(big), PickleProblem::ByteOrder { order } if order == "big"));
    let long = Zip::default().add("x/data.pkl", &vec![b'('; (1 << 25) + 1]);
    assert!(matches!(problem(long), PickleProblem::TooLong { .. }));
    let mut counted = two().finish();
    let end = counted.len() - 22;
    counted[end + 10] = 1;
    assert!(parse_bytes(&counted).is_err(), "more records than are said");
    counted[end + 10] = 3;
    assert!(parse_bytes(&counted).is_err(), "fewer records than are said");
    for bytes in [&b""[..], b"PK", b"x", &[0; 100], &b"PK\x05\x06".repeat(50)] {
        assert!(matches!(parse_bytes(bytes), Err(PickleProblem::NotAnArchive | PickleProblem::Directory { .. })));
    }
    assert_eq!(parse_bytes(b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."), Err(PickleProblem::Legacy));
}

#[test]
fn every_cut_and_every_changed_byte_is_an_error_or_safe_to_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.bin");
    for name in ["views.bin", "module.bin"] {
        let whole = std::fs::read(golden(name)).unwrap();
        for length in 0..whole.len() {
            assert!(parse_bytes(&whole[..length]).is_err(), "{length} of {} bytes accepted", whole.len());
        }
        let mut state = 1_u64;
        for round in 0..20_000 {
            let mut bytes = whole.clone();
            for _ in 0..1 + round % 3 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let at = (state >> 33) as usize % bytes.len();
                bytes[at] = (state >> 24) as u8;
            }
            if parse_bytes(&bytes).is_err() || round % 100 != 0 {
                continue;
            }
            let _ = std::fs::remove_file(&path);
            std::fs::write(&path, &bytes).unwrap();
            let files = TensorFiles::open_file(&path).unwrap();
            for tensor in files.names() {
                assert_eq!(files.read::<f32>(tensor).unwrap().len(), files.info(tensor).unwrap().len());
            }
        }
    }
}
