//! The names in a pickle: the few that a dict of tensors asks for, and those of operations that other pickles use, for the refusal.

use safetensors::Dtype as StoredType;

/// The names that a pickled dict of tensors asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Global {
    OrderedDict,
    /// `torch._utils._rebuild_tensor_v2`, and `_v3` (true), which states a type beside a storage of bytes.
    RebuildTensor(bool),
    RebuildParameter,
    /// A class of storages; none is the untyped one.
    Storage(Option<StoredType>),
    Dtype(StoredType),
}

impl Global {
    /// The name a pickle asks for, module and name, if it is one of these.
    pub(super) fn named(name: (&str, &str)) -> Option<Self> {
        let class = match name {
            ("collections", "OrderedDict") => Self::OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2") => Self::RebuildTensor(false),
            ("torch._utils", "_rebuild_tensor_v3") => Self::RebuildTensor(true),
            ("torch._utils", "_rebuild_parameter") => Self::RebuildParameter,
            ("torch.storage", "UntypedStorage") | ("torch", "UntypedStorage") => Self::Storage(None),
            ("torch", name) => match name.strip_suffix("Storage") {
                Some(class) => Self::Storage(Some(number_type(class)?)),
                None => Self::Dtype(number_type(name)?),
            },
            _ => return None,
        };
        Some(class)
    }
}

/// The type that PyTorch's storage classes or its types call by this name.
fn number_type(name: &str) -> Option<StoredType> {
    Some(match name {
        "Double" | "float64" => StoredType::F64,
        "Float" | "float32" => StoredType::F32,
        "Half" | "float16" => StoredType::F16,
        "BFloat16" | "bfloat16" => StoredType::BF16,
        "Long" | "int64" => StoredType::I64,
        "Int" | "int32" => StoredType::I32,
        "Short" | "int16" => StoredType::I16,
        "Char" | "int8" => StoredType::I8,
        "Byte" | "uint8" => StoredType::U8,
        "Bool" | "bool" => StoredType::BOOL,
        "uint16" => StoredType::U16,
        "uint32" => StoredType::U32,
        "uint64" => StoredType::U64,
        "float8_e4m3fn" => StoredType::F8_E4M3,
        "float8_e5m2" => StoredType::F8_E5M2,
        _ => return None,
    })
}

/// The names of operations that other pickles use, for the refusal.
const REFUSED: [(u8, &str); 33] = [
    (b'0', "POP"),
    (b'1', "POP_MARK"),
    (b'2', "DUP"),
    (b'B', "BINBYTES"),
    (b'C', "SHORT_BINBYTES"),
    (b'D', "DICT"),
    (b'F', "FLOAT"),
    (b'G', "BINFLOAT"),
    (b'I', "INT"),
    (b'L', "LONG"),
    (b'P', "PERSID"),
    (b'S', "STRING"),
    (b'T', "BINSTRING"),
    (b'U', "SHORT_BINSTRING"),
    (b'V', "UNICODE"),
    (b'd', "DICT"),
    (b'g', "GET"),
    (b'i', "INST"),
    (b'l', "LIST"),
    (b'o', "OBJ"),
    (b'p', "PUT"),
    (b'a', "APPEND"),
    (b'e', "APPENDS"),
    (b']', "EMPTY_LIST"),
    (0x81, "NEWOBJ"),
    (0x82, "EXT1"),
    (0x83, "EXT2"),
    (0x84, "EXT4"),
    (0x8b, "LONG4"),
    (0x8c, "SHORT_BINUNICODE"),
    (0x92, "NEWOBJ_EX"),
    (0x93, "STACK_GLOBAL"),
    (0x95, "FRAME"),
];

/// An operation that is not read, as an error prints it.
pub(super) fn operation(opcode: u8) -> String {
    let known = REFUSED.iter().find(|(code, _)| *code == opcode).map(|(_, name)| (*name).to_owned());
    known.unwrap_or_else(|| format!("{opcode:#04x}"))
}

/// A stranger's name as an error prints it.
pub(super) fn shown((module, name): (&str, &str)) -> String {
    format!("{}.{}", cut(module), cut(name)).escape_debug().to_string()
}

/// The beginning of a stranger's text.
pub(super) fn cut(text: &str) -> String {
    text.chars().take(100).collect()
}
