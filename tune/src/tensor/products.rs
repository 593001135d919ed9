//! Which arithmetic products of f32 rows with bf16 weights, and circuits beside such weights, have on this machine, and the switch of it.
//!
//! A matrix unit is many times faster than vectors of f32 and takes bf16 alone. Rows are given to it in two parts, so that results differ from those of
//! other machines by 2^-16 at most and not by the order of sums alone. The unit is used where it is, can be switched off, and is compared with plain code
//! once before its first use.

use std::sync::OnceLock;

use quanta_circuit::unit::{self, SIDE, Unit};

use super::{Stream, product_kernel, rounded, tiles};

/// The environment variable that chooses: `auto`, `f32` or `portable`.
pub const BF16_PRODUCTS: &str = "QUANTA_BF16_PRODUCTS";

/// How products of f32 rows with bf16 weights are computed, and gates of circuits beside them. Products with weights of fewer than 32 rows, and everything in
/// f64, are always [`Self::Widened`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bf16Products {
    /// Weights are widened; products and sums in the compute type.
    Widened,
    /// Rows are cut into two bf16 numbers, together as good as 16 bits; products and sums in f32, on the tiles of Intel's AMX. Subnormal numbers count as
    /// zero.
    Amx,
    /// The same in plain code: slow, to judge the unit and what its arithmetic does.
    Portable,
    /// Rows are rounded to bf16, eight bits; products and sums in f32. Subnormal numbers count as zero.
    Rounded(Rounder),
}

/// What multiplies rows that were rounded to bf16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounder {
    /// The tiles of Intel's AMX.
    Amx,
    /// Vectors of pairs, AVX-512-BF16. Both operands of attention's products are rounded then, too, however few their rows, and, of 32
    /// rows or more, those of the gradients of circuits.
    Avx512,
    /// Plain code, slow.
    Portable,
}

impl Bf16Products {
    /// What this process uses, and why it is not the unit: by [`BF16_PRODUCTS`] and by the machine, found out once.
    ///
    /// # Errors
    /// A message when the variable has none of its values.
    pub fn of_process() -> Result<(Self, Option<&'static str>), String> {
        static CHOICE: OnceLock<Result<(Bf16Products, Option<&'static str>), String>> = OnceLock::new();
        CHOICE.get_or_init(|| Self::chosen(std::env::var(BF16_PRODUCTS).ok().as_deref())).clone()
    }

    fn chosen(variable: Option<&str>) -> Result<(Self, Option<&'static str>), String> {
        match variable.unwrap_or_default() {
            "" | "auto" => Ok(match Self::amx() {
                Ok(()) => (Self::Amx, None),
                Err(reason) => (Self::Widened, Some(reason)),
            }),
            "f32" => Ok((Self::Widened, Some("switched off"))),
            "portable" => Ok((Self::Portable, Some("replaced by plain code"))),
            other => Err(format!("{BF16_PRODUCTS} is {other}; it may be auto, f32 or portable")),
        }
    }

    /// The kernel's name, as `quanta info` has it, for products of so many rows.
    pub fn kernel(self, rows: usize) -> &'static str {
        match self {
            _ if rows < SIDE => product_kernel(),
            Self::Widened => product_kernel(),
            Self::Amx => "amx-bf16",
            Self::Portable => "portable-bf16",
            Self::Rounded(Rounder::Amx) => "amx-bf16, rounded",
            Self::Rounded(Rounder::Avx512) => "avx512-bf16, rounded",
            Self::Rounded(Rounder::Portable) => "portable-bf16, rounded",
        }
    }

    /// What computes the gates of circuits beside bf16 weights, for so many rows, where that is not f32. On a matrix unit gates and features are cut into two
    /// bf16 numbers each, also where the rows of frozen products are rounded; vectors of pairs take the gradients of circuits alone, and round both.
    pub fn unit(self, rows: usize) -> Option<Unit> {
        match self {
            Self::Amx | Self::Rounded(Rounder::Amx) if rows >= SIDE => Some(Unit::Amx),
            Self::Portable | Self::Rounded(Rounder::Portable) if rows >= SIDE => Some(Unit::Portable),
            Self::Rounded(Rounder::Avx512) if rows >= SIDE => Some(Unit::Pairs),
            _ => None,
        }
    }

    /// The same of rows rounded to bf16: on the unit that computes it in two parts, else in vectors of pairs; none where the processor has not got them.
    pub fn rounded(self) -> Option<Self> {
        let rounder = match self {
            Self::Rounded(rounder) => rounder,
            Self::Amx => Rounder::Amx,
            Self::Portable => Rounder::Portable,
            Self::Widened => rounded::has_pairs().then_some(Rounder::Avx512)?,
        };
        Some(Self::Rounded(rounder))
    }

    /// Whether AMX can be used and computes as plain code does.
    fn amx() -> Result<(), &'static str> {
        unit::usable()?;
        let mut stream = Stream::new(1, "tensor", "bf16 products");
        // what plain code does in another order, or with another rounding of its sums, would differ by few units in the last place of a sum's size
        if tiles::judge(&mut stream) <= 1e-5 { Ok(()) } else { Err("wrong in its self-check") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_chooses_and_what_it_may_not_be_is_refused() {
        assert_eq!(Bf16Products::chosen(Some("f32")).unwrap().0, Bf16Products::Widened);
        assert_eq!(Bf16Products::chosen(Some("portable")).unwrap().0, Bf16Products::Portable);
        assert!(Bf16Products::chosen(Some("bf16")).unwrap_err().contains("auto, f32 or portable"));
        let (chosen, reason) = Bf16Products::chosen(None).unwrap();
        println!("left to itself, this machine uses {}; AMX: {reason:?}", chosen.kernel(SIDE));
        assert_eq!(chosen == Bf16Products::Amx, reason.is_none());
        assert_eq!(Bf16Products::chosen(Some("auto")), Ok((chosen, reason)));
    }

    #[test]
    fn rounded_rows_stay_on_the_unit() {
        for (products, rounder) in [(Bf16Products::Amx, Rounder::Amx), (Bf16Products::Portable, Rounder::Portable)] {
            assert_eq!(products.rounded(), Some(Bf16Products::Rounded(rounder)));
            assert_eq!(Bf16Products::Rounded(rounder).rounded(), Some(Bf16Products::Rounded(rounder)));
            assert_eq!(products.unit(SIDE), Bf16Products::Rounded(rounder).unit(SIDE));
        }
        // without a unit it takes instructions of its own
        let pairs = Bf16Products::Rounded(Rounder::Avx512);
        assert_eq!(Bf16Products::Widened.rounded(), rounded::has_pairs().then_some(pairs));
        assert_eq!((pairs.unit(SIDE), pairs.unit(SIDE - 1)), (Some(Unit::Pairs), None));
        assert_eq!(pairs.kernel(SIDE - 1), product_kernel());
    }
}
