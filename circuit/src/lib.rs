mod real;
pub use real::Real;
