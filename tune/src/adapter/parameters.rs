//! The parameters of one adapter: one flat vector that trains, one that does not, and the names and shapes they have on disk.

use crate::tensor::Real;

/// A named piece of a flat parameter vector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Name below the site's module path, as written to disk.
    pub name: String,
    /// Shape as written to disk; row-major.
    pub shape: Vec<usize>,
    /// Whether it trains, and so in which of the two vectors it lies.
    pub trainable: bool,
    /// First element in that vector.
    pub offset: usize,
}

impl Tensor {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Flat vectors with named pieces. The optimiser sees the flat vector, files see the pieces.
#[derive(Clone, Debug, Default)]
pub struct Parameters<T> {
    tensors: Vec<Tensor>,
    trainable: Vec<T>,
    frozen: Vec<T>,
}

impl<T: Real> Parameters<T> {
    /// Adds a piece with its values.
    ///
    /// # Panics
    /// When the number of values is not that of the shape.
    pub fn push(&mut self, name: impl Into<String>, shape: Vec<usize>, trainable: bool, values: &[T]) {
        assert_eq!(values.len(), shape.iter().product::<usize>(), "values of another shape");
        let vector = if trainable { &mut self.trainable } else { &mut self.frozen };
        let offset = vector.len();
        vector.extend_from_slice(values);
        self.tensors.push(Tensor { name: name.into(), shape, trainable, offset });
    }

    /// Names, shapes and places of all pieces.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// Values of one piece.
    pub fn values(&self, tensor: &Tensor) -> &[T] {
        let vector = if tensor.trainable { &self.trainable } else { &self.frozen };
        &vector[tensor.offset..tensor.offset + tensor.elements()]
    }

    /// Replaces the values of the piece named `name`.
    ///
    /// # Panics
    /// When there is no such piece or the number of values differs; files are checked before.
    pub fn set(&mut self, name: &str, values: &[T]) {
        let tensor = self.tensors.iter().find(|tensor| tensor.name == name);
        let tensor = tensor.unwrap_or_else(|| panic!("no parameter {name}"));
        let vector = if tensor.trainable { &mut self.trainable } else { &mut self.frozen };
        vector[tensor.offset..tensor.offset + tensor.elements()].copy_from_slice(values);
    }

    /// All that trains, flat.
    pub fn trainable(&self) -> &[T] {
        &self.trainable
    }

    /// All that trains, flat, to be changed.
    pub fn trainable_mut(&mut self) -> &mut [T] {
        &mut self.trainable
    }

    /// All that does not train, flat.
    pub fn frozen(&self) -> &[T] {
        &self.frozen
    }
}
