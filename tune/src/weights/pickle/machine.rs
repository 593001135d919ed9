//! The stack machine that a pickle is written for, reduced to what `torch.save` writes for a dict of tensors.
//!
//! A program pushes values, puts them together, remembers some under numbers, and asks for functions by name. Nothing is called here: the few functions
//! known ([`Global`]) make entries of a list, and any other name ends the reading. Values refer to one another by number, and nothing walks them but
//! [`Machine::tensors`], which looks one level deep, so neither deep nesting nor values that contain themselves cost anything: memory and time are
//! proportional to the program. Whether the tensors lie in the file is left to `storage`.

use std::collections::HashMap;

use safetensors::Dtype as StoredType;

use super::PickleProblem;
use super::names::{Global, cut, operation, shown};

/// Most axes of a tensor; PyTorch's own limit. Shapes are copied for each tensor, so a long one must not be shared by many.
const AXES: usize = 64;

/// The tensors that a pickle claims, in the order of its dict, with names as often as it repeats them.
#[derive(Debug, Default)]
pub(super) struct Claims<'a> {
    pub(super) tensors: Vec<(&'a str, Tensor<'a>)>,
}

/// What the pickle says of one tensor.
#[derive(Clone, Debug)]
pub(super) struct Tensor<'a> {
    pub(super) storage: Storage<'a>,
    /// Type of its numbers where the storage has none.
    pub(super) dtype: Option<StoredType>,
    /// Number of its first element in the storage.
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    /// Distance in the storage from one index to the next, for each axis.
    pub(super) strides: Vec<usize>,
}

/// What the pickle says of the bytes that a tensor views.
#[derive(Clone, Copy, Debug)]
pub(super) struct Storage<'a> {
    /// Name of the entry below `data/`.
    pub(super) key: &'a str,
    /// Type of its numbers; none where they are bytes.
    pub(super) dtype: Option<StoredType>,
    /// How many.
    pub(super) numbers: u64,
}

/// A value on the stack. Compound ones are numbers of [`Machine::nodes`].
#[derive(Clone, Copy, Debug)]
enum Value<'a> {
    None,
    Bool,
    Integer(i64),
    Text(&'a str),
    Global(Global),
    Node(usize),
}

/// A compound value.
#[derive(Debug)]
enum Node<'a> {
    Dict(Vec<(Value<'a>, Value<'a>)>),
    Tuple(Vec<Value<'a>>),
    Storage(Storage<'a>),
    /// Storage, shape and strides as nodes.
    Tensor {
        storage: usize,
        dtype: Option<StoredType>,
        offset: usize,
        shape: usize,
        strides: usize,
    },
}

/// Reads a whole pickle.
///
/// Errors: [`PickleProblem::Global`], [`PickleProblem::Opcode`], [`PickleProblem::Malformed`], [`PickleProblem::NotTensors`].
pub(super) fn run(program: &[u8]) -> Result<Claims<'_>, PickleProblem> {
    let mut machine = Machine {
        program,
        at: 0,
        begun: 0,
        stack: Vec::new(),
        marks: Vec::new(),
        memory: HashMap::new(),
        nodes: Vec::new(),
    };
    let value = loop {
        if let Some(value) = machine.step()? {
            break value;
        }
    };
    if machine.at != program.len() || !machine.stack.is_empty() || !machine.marks.is_empty() {
        return Err(machine.malformed("bytes or values beyond the end"));
    }
    machine.tensors(value)
}

struct Machine<'a> {
    program: &'a [u8],
    at: usize,
    /// Where the operation under way begins.
    begun: usize,
    stack: Vec<Value<'a>>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memory: HashMap<u32, Value<'a>>,
    nodes: Vec<Node<'a>>,
}

impl<'a> Machine<'a> {
    /// One operation; the result at the end.
    fn step(&mut self) -> Result<Option<Value<'a>>, PickleProblem> {
        self.begun = self.at;
        let [opcode] = self.array()?;
        match opcode {
            0x80 => {
                let [version] = self.array()?;
                if version != 2 {
                    return Err(PickleProblem::Opcode { opcode: format!("PROTO {version}"), at: self.begun });
                }
            }
            b'(' => self.marks.push(self.stack.len()),
            b'N' => self.stack.push(Value::None),
            0x88 | 0x89 => self.stack.push(Value::Bool),
            b'K' | b'M' | b'J' | 0x8a => self.integer(opcode)?,
            b'X' => {
                let length = u32::from_le_bytes(self.array()?) as usize;
                let text = self.text(length)?;
                self.stack.push(Value::Text(text));
            }
            b'c' => {
                let name = (self.line()?, self.line()?);
                let global = Global::named(name).ok_or_else(|| PickleProblem::Global { name: shown(name) })?;
                self.stack.push(Value::Global(global));
            }
            b'}' => self.push_node(Node::Dict(Vec::new())),
            b')' => self.push_node(Node::Tuple(Vec::new())),
            0x85..=0x87 => {
                let height = self.stack.len().checked_sub(usize::from(opcode - 0x84));
                self.tuple(height.ok_or_else(|| self.malformed("a value is missing"))?)?;
            }
            b't' => {
                let height = self.mark()?;
                self.tuple(height)?;
            }
            b'q' => {
                let [slot] = self.array()?;
                self.remember(u32::from(slot))?;
            }
            b'r' => {
                let slot = u32::from_le_bytes(self.array()?);
                self.remember(slot)?;
            }
            b'h' => {
                let [slot] = self.array()?;
                self.recall(u32::from(slot))?;
            }
            b'j' => {
                let slot = u32::from_le_bytes(self.array()?);
                self.recall(slot)?;
            }
            b's' => {
                let height = self.stack.len().checked_sub(2);
                self.set_items(height.ok_or_else(|| self.malformed("a value is missing"))?)?;
            }
            b'u' => {
                let height = self.mark()?;
                self.set_items(height)?;
            }
            b'Q' => self.storage()?,
            b'R' => self.reduce()?,
            b'b' => self.build()?,
            b'.' => return self.pop().map(Some),
            other => {
                return Err(PickleProblem::Opcode { opcode: operation(other), at: self.begun });
            }
        }
        Ok(None)
    }

    fn integer(&mut self, opcode: u8) -> Result<(), PickleProblem> {
        let value = match opcode {
            b'K' => i64::from(u8::from_le_bytes(self.array()?)),
            b'M' => i64::from(u16::from_le_bytes(self.array()?)),
            b'J' => i64::from(i32::from_le_bytes(self.array()?)),
            _ => {
                let [length] = self.array()?;
                let bytes = self.take(usize::from(length))?;
                if bytes.len() > 8 {
                    return Err(self.malformed("a number of more than eight bytes"));
                }
                // two's complement, little-endian, as few bytes as it takes
                let fill = if bytes.last().is_some_and(|last| last & 0x80 != 0) { 0xff } else { 0 };
                let mut wide = [fill; 8];
                wide[..bytes.len()].copy_from_slice(bytes);
                i64::from_le_bytes(wide)
            }
        };
        self.stack.push(Value::Integer(value));
        Ok(())
    }

    /// Replaces the values above `height` by a tuple of them.
    fn tuple(&mut self, height: usize) -> Result<(), PickleProblem> {
        let items = self.above(height)?;
        self.push_node(Node::Tuple(items));
        Ok(())
    }

    /// Moves the pairs above `height` into the dict below them.
    fn set_items(&mut self, height: usize) -> Result<(), PickleProblem> {
        let items = self.above(height)?;
        let dict = match self.stack.last() {
            Some(&Value::Node(node)) => match &mut self.nodes[node] {
                Node::Dict(dict) => Some(dict),
                _ => None,
            },
            _ => None,
        };
        match dict.filter(|_| items.len().is_multiple_of(2)) {
            Some(dict) => dict.extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1]))),
            None => return Err(self.malformed("pairs for something that is no dict")),
        }
        Ok(())
    }

    /// `('storage', class, key, device, numbers)` becomes a storage.
    fn storage(&mut self) -> Result<(), PickleProblem> {
        let id = self.pop()?;
        let Some(&[Value::Text("storage"), Value::Global(Global::Storage(dtype)), Value::Text(key), _, numbers]) =
            self.items(id)
        else {
            return Err(self.malformed("a reference to something that is no storage"));
        };
        let numbers = self.count(numbers)? as u64;
        self.push_node(Node::Storage(Storage { key, dtype, numbers }));
        Ok(())
    }

    /// A call: an empty ordered dict, a tensor, or a parameter, which is its tensor.
    fn reduce(&mut self) -> Result<(), PickleProblem> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let wrong = self.malformed("a call with other arguments than torch.save writes");
        let Some(arguments) = self.items(arguments) else { return Err(wrong) };
        match (function, arguments) {
            (Value::Global(Global::OrderedDict), []) => self.push_node(Node::Dict(Vec::new())),
            (Value::Global(Global::RebuildParameter), &[tensor @ Value::Node(node), _, _]) => {
                if !matches!(self.nodes[node], Node::Tensor { .. }) {
                    return Err(wrong);
                }
                self.stack.push(tensor);
            }
            (Value::Global(Global::RebuildTensor(wide)), &[storage, offset, shape, strides, _, _, ref rest @ ..]) => {
                let (Value::Node(storage), Value::Node(shape), Value::Node(strides)) = (storage, shape, strides) else {
                    return Err(wrong);
                };
                let (dtype, rest) = match (wide, rest) {
                    (true, &[Value::Global(Global::Dtype(dtype)), ref rest @ ..]) => (Some(dtype), rest),
                    (false, rest) => (None, rest),
                    _ => return Err(wrong),
                };
                // what may follow marks a tensor whose numbers are to be conjugated or negated
                let plain = match rest {
                    [] | [Value::None] => true,
                    &[Value::Node(node)] => matches!(&self.nodes[node], Node::Dict(marks) if marks.is_empty()),
                    _ => false,
                };
                if !plain || !matches!(self.nodes[storage], Node::Storage(_)) {
                    return Err(wrong);
                }
                let offset = self.count(offset)?;
                self.push_node(Node::Tensor { storage, dtype, offset, shape, strides });
            }
            _ => return Err(wrong),
        }
        Ok(())
    }

    /// Attributes of a dict (`_metadata`, the versions of its modules): dropped.
    fn build(&mut self) -> Result<(), PickleProblem> {
        self.pop()?;
        match self.stack.last() {
            Some(&Value::Node(node)) if matches!(self.nodes[node], Node::Dict(_)) => Ok(()),
            _ => Err(self.malformed("attributes of something that is no dict")),
        }
    }

    /// The tensors of the result.
    fn tensors(&self, result: Value<'a>) -> Result<Claims<'a>, PickleProblem> {
        let not = |what: String| PickleProblem::NotTensors { what };
        let Value::Node(node) = result else { return Err(not("a single value".to_owned())) };
        let Node::Dict(pairs) = &self.nodes[node] else { return Err(not("a single value".to_owned())) };
        let mut claims = Claims::default();
        for &(key, value) in pairs {
            let Value::Text(name) = key else { return Err(not("a dict with keys that are no text".to_owned())) };
            let Value::Node(node) = value else { return Err(not(format!("a plain value as {:?}", cut(name)))) };
            let &Node::Tensor { storage, dtype, offset, shape, strides } = &self.nodes[node] else {
                return Err(not(format!("something that is no tensor as {:?}", cut(name))));
            };
            let Node::Storage(storage) = self.nodes[storage] else { return Err(not("no storage".to_owned())) };
            let (shape, strides) = (self.counts(shape)?, self.counts(strides)?);
            if shape.len() != strides.len() {
                return Err(self.malformed("a shape and strides of different length"));
            }
            claims.tensors.push((name, Tensor { storage, dtype, offset, shape, strides }));
        }
        Ok(claims)
    }

    /// The numbers of a tuple of counts.
    fn counts(&self, node: usize) -> Result<Vec<usize>, PickleProblem> {
        match &self.nodes[node] {
            Node::Tuple(items) if items.len() <= AXES => items.iter().map(|&item| self.count(item)).collect(),
            _ => Err(self.malformed("a shape that is no short list of numbers")),
        }
    }

    fn count(&self, value: Value) -> Result<usize, PickleProblem> {
        match value {
            Value::Integer(value) => usize::try_from(value).ok(),
            _ => None,
        }
        .ok_or_else(|| self.malformed("no number, or a negative one, where a count is needed"))
    }

    /// The items of a tuple.
    fn items(&self, value: Value) -> Option<&[Value<'a>]> {
        match value {
            Value::Node(node) => match &self.nodes[node] {
                Node::Tuple(items) => Some(items),
                _ => None,
            },
            _ => None,
        }
    }

    fn remember(&mut self, slot: u32) -> Result<(), PickleProblem> {
        let value = *self.stack.last().ok_or_else(|| self.malformed("a value is missing"))?;
        self.memory.insert(slot, value);
        Ok(())
    }

    fn recall(&mut self, slot: u32) -> Result<(), PickleProblem> {
        let value = *self.memory.get(&slot).ok_or_else(|| self.malformed("a remembered value is missing"))?;
        self.stack.push(value);
        Ok(())
    }

    fn push_node(&mut self, node: Node<'a>) {
        self.stack.push(Value::Node(self.nodes.len()));
        self.nodes.push(node);
    }

    fn mark(&mut self) -> Result<usize, PickleProblem> {
        self.marks.pop().ok_or_else(|| self.malformed("a mark is missing"))
    }

    /// Takes the values above a height, which must not reach below an open mark.
    fn above(&mut self, height: usize) -> Result<Vec<Value<'a>>, PickleProblem> {
        if height > self.stack.len() || self.marks.last().is_some_and(|&mark| height < mark) {
            return Err(self.malformed("a value is missing"));
        }
        Ok(self.stack.split_off(height))
    }

    fn pop(&mut self) -> Result<Value<'a>, PickleProblem> {
        let height = self.stack.len().checked_sub(1).ok_or_else(|| self.malformed("a value is missing"))?;
        // one value above that height
        self.above(height).map(|values| values[0])
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], PickleProblem> {
        let program: &'a [u8] = self.program;
        let end = self.at.checked_add(length).filter(|&end| end <= program.len());
        let end = end.ok_or_else(|| self.malformed("it is cut off"))?;
        let bytes = &program[self.at..end];
        self.at = end;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], PickleProblem> {
        let bytes = self.take(N)?;
        // as many bytes were taken
        Ok(bytes.try_into().expect("N bytes"))
    }

    fn text(&mut self, length: usize) -> Result<&'a str, PickleProblem> {
        let bytes = self.take(length)?;
        std::str::from_utf8(bytes).map_err(|_| self.malformed("text that is not UTF-8"))
    }

    /// The bytes up to the end of the line.
    fn line(&mut self) -> Result<&'a str, PickleProblem> {
        let length = self.program[self.at..].iter().position(|&byte| byte == b'\n');
        let text = self.text(length.ok_or_else(|| self.malformed("it is cut off"))?)?;
        self.at += 1;
        Ok(text)
    }

    fn malformed(&self, what: &'static str) -> PickleProblem {
        PickleProblem::Malformed { at: self.begun, what }
    }
}
