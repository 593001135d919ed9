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

/// Lays out pieces `(name, shape, trainable)` one after another.
pub fn lay_out(pieces: impl IntoIterator<Item = (String, Vec<usize>, bool)>) -> Vec<Tensor> {
    let mut ends = [0, 0];
    let place = |(name, shape, trainable): (String, Vec<usize>, bool)| {
        let end = &mut ends[usize::from(trainable)];
        let tensor = Tensor { name, shape, trainable, offset: *end };
        *end += tensor.elements();
        tensor
    };
    pieces.into_iter().map(place).collect()
}

impl<T: Real> Parameters<T> {
    /// Parameters of the given layout with their initial values, flat.
    ///
    /// # Panics
    /// When the vectors have other lengths than the layout.
    pub fn new(tensors: Vec<Tensor>, trainable: Vec<T>, frozen: Vec<T>) -> Self {
        let length = |wanted| tensors.iter().filter(|t| t.trainable == wanted).map(Tensor::elements).sum::<usize>();
        assert_eq!((length(true), length(false)), (trainable.len(), frozen.len()), "values of another layout");
        Self { tensors, trainable, frozen }
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
