//! Plans as text: what a config file holds and what a person types.
//!
//! The grammar stands at `FromStr for Plan`; the checks of the plan itself are in [`crate::Plan`].

use std::fmt::{Display, Formatter};
use std::str::FromStr;

use thiserror::Error;

use crate::{Plan, PlanError, pairs};

/// Why a text is not a plan.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TextError {
    /// Something else was expected at a place.
    #[error(
        "expected {expected} at character {at} of `{text}`: write a plan as `16-8-8-4` or `16-8-8-4: (-1,-2) (-1,-3)`"
    )]
    Expected {
        /// What may stand there.
        expected: &'static str,
        /// The number of the character, from 1.
        at: usize,
        /// The whole text.
        text: String,
    },
    /// The gates' own output sizes contradict the output dims.
    #[error(
        "the gates produce axes {got}, but the plan says `-> {stated}`: correct one of them (if one gate states its sizes, every gate that changes sizes must)"
    )]
    OutDims {
        /// What the gates produce.
        got: String,
        /// What the text says.
        stated: String,
    },
    /// The text is well formed, and what it says is no plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn skip_space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    fn accept(&mut self, token: &str) -> bool {
        self.skip_space();
        let found = self.rest().starts_with(token);
        self.at += if found { token.len() } else { 0 };
        found
    }

    fn expected(&self, expected: &'static str) -> TextError {
        TextError::Expected { expected, at: self.text[..self.at].chars().count() + 1, text: self.text.to_owned() }
    }

    fn expect(&mut self, token: &'static str) -> Result<(), TextError> {
        if self.accept(token) { Ok(()) } else { Err(self.expected(token)) }
    }

    fn size(&mut self) -> Result<usize, TextError> {
        self.skip_space();
        let digits = self.rest().bytes().take_while(u8::is_ascii_digit).count();
        let size = self.rest()[..digits].parse().map_err(|_| self.expected("a size"))?;
        self.at += digits;
        Ok(size)
    }

    fn axis(&mut self) -> Result<isize, TextError> {
        if !self.accept("-") {
            return Err(self.expected("an axis counted from the end, such as -1"));
        }
        let size = self.size()?;
        // A size that does not fit is no axis; the plan reports every other number that is out of range.
        isize::try_from(size).map(|axis| -axis).map_err(|_| self.expected("an axis"))
    }

    fn dims(&mut self) -> Result<Vec<usize>, TextError> {
        let mut dims = vec![self.size()?];
        loop {
            self.skip_space();
            if self.rest().starts_with("->") || !self.accept("-") {
                return Ok(dims);
            }
            dims.push(self.size()?);
        }
    }

    fn list<T>(&mut self, read: impl Fn(&mut Self) -> Result<T, TextError>) -> Result<Vec<T>, TextError> {
        self.expect("(")?;
        let mut items = vec![read(self)?];
        while self.accept(",") {
            items.push(read(self)?);
        }
        self.expect(")")?;
        Ok(items)
    }
}

/// A plan from text:
///
/// ```text
/// plan  = dims [ "->" dims ] [ ":" { item } ]
/// dims  = size { "-" size }
/// item  = "pairs" | "(" axis [ "," axis ] ")" [ "->" "(" size [ "," size ] ")" ]
/// ```
/// Spaces do not matter. Dims alone are the all-pairs plan. After a colon come the gates in order of application, by their axes counted from the end, and none
/// after an empty one; `pairs` stands for all pairs in the paper's order. Output dims make an axis change size at its last gate, unless a gate says itself what
/// sizes it makes, in the order of its axes: then every gate that changes one must, and output dims are compared with the result. A plan is printed with
/// each gate's last axis first, whatever order it was written in.
///
/// ```
/// use quanta_circuit::Plan;
/// let plan: Plan = "6-4: (-1)->(3) (-1,-2)".parse()?;
/// assert_eq!(plan.out_dims(), [6, 3]);
/// assert_eq!(plan.to_string().parse::<Plan>()?, plan);
/// assert_eq!("6-4: (-2,-1)->(5,3)".parse::<Plan>()?, "6-4: (-1,-2)->(3,5)".parse()?);
/// assert_eq!("16-8-8-4: pairs pairs".parse::<Plan>()?.gates().len(), 12); // two layers
/// assert_eq!("6-4 -> 6-3: (-1,-2)".parse::<Plan>()?, Plan::between(&[6, 4], &[6, 3], &[vec![-1, -2]])?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
impl FromStr for Plan {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let mut reader = Reader { text, at: 0 };
        let in_dims = reader.dims()?;
        let out_dims = if reader.accept("->") { Some(reader.dims()?) } else { None };
        let mut gates = Vec::new();
        if reader.accept(":") {
            loop {
                reader.skip_space();
                if reader.rest().is_empty() {
                    break;
                } else if reader.accept("pairs") {
                    gates.extend(pairs(in_dims.len()).into_iter().map(|axes| (axes, None)));
                } else {
                    let axes = reader.list(Reader::axis)?;
                    let sizes = if reader.accept("->") { Some(reader.list(Reader::size)?) } else { None };
                    gates.push((axes, sizes));
                }
            }
        } else {
            reader.skip_space();
            if !reader.rest().is_empty() {
                return Err(reader.expected("`->`, `:` or the end"));
            }
            return Ok(Self::all_pairs_between(&in_dims, out_dims.as_deref().unwrap_or(&in_dims))?);
        }
        let Some(out_dims) = out_dims else { return Ok(Self::new(&in_dims, &gates)?) };
        if gates.iter().all(|(_, sizes)| sizes.is_none()) {
            let axes: Vec<_> = gates.into_iter().map(|(axes, _)| axes).collect();
            return Ok(Self::between(&in_dims, &out_dims, &axes)?);
        }
        let plan = Self::new(&in_dims, &gates)?;
        if plan.out_dims() != out_dims {
            return Err(TextError::OutDims { got: dims_text(plan.out_dims()), stated: dims_text(&out_dims) });
        }
        Ok(plan)
    }
}

/// `16-8-8-4`.
pub(crate) fn dims_text(dims: &[usize]) -> String {
    dims.iter().map(usize::to_string).collect::<Vec<_>>().join("-")
}

fn list_text<T: Display>(items: &[T]) -> String {
    format!("({})", items.iter().map(T::to_string).collect::<Vec<_>>().join(","))
}

/// The shortest text that parses to the same plan; with `{:#}` every gate is written out.
///
/// ```
/// use quanta_circuit::Plan;
/// let plan: Plan = "4-3-2 -> 2-3-2: (-1,-2) (-1,-3) (-2,-3)".parse()?;
/// assert_eq!(plan.to_string(), "4-3-2 -> 2-3-2");
/// assert_eq!(format!("{plan:#}"), "4-3-2 -> 2-3-2: (-1,-2) (-1,-3) (-2,-3)");
/// # Ok::<(), quanta_circuit::TextError>(())
/// ```
impl Display for Plan {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str(&dims_text(self.in_dims()))?;
        if self.in_dims() != self.out_dims() {
            write!(f, " -> {}", dims_text(self.out_dims()))?;
        }
        if !f.alternate() && Self::all_pairs_between(self.in_dims(), self.out_dims()).as_ref() == Ok(self) {
            return Ok(());
        }
        f.write_str(":")?;
        let axes: Vec<_> = self.gates().iter().map(|gate| gate.axes().to_vec()).collect();
        let implied = Self::between(self.in_dims(), self.out_dims(), &axes).as_ref() == Ok(self);
        for gate in self.gates() {
            write!(f, " {}", list_text(gate.axes()))?;
            if !implied && !gate.is_square() {
                write!(f, "->{}", list_text(gate.out_sizes()))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plan(text: &str) -> Plan {
        text.parse().unwrap()
    }

    #[test]
    fn short_and_long_forms_mean_the_same() {
        assert_eq!(plan("16-8-8-4"), Plan::all_pairs(&[16, 8, 8, 4]).unwrap());
        assert_eq!(plan(" 16 - 8-8-4 :pairs "), plan("16-8-8-4"));
        assert_eq!(plan("16-8-8 -> 2-8-8"), Plan::all_pairs_between(&[16, 8, 8], &[2, 8, 8]).unwrap());
        assert_eq!(plan("4-3: pairs pairs").gates().len(), 2);
        assert_eq!(plan("4-6: (-1)->(3) (-2,-1)").to_string(), "4-6 -> 4-3: (-1)->(3) (-1,-2)");
        assert_eq!(plan("4-3->2-3: (-1) (-2)").out_dims(), [2, 3]);
        assert_eq!(plan("5:").gates(), []);
    }

    #[test]
    fn broken_texts_say_where() {
        let expected = |text: &str| match text.parse::<Plan>().unwrap_err() {
            TextError::Expected { expected, at, .. } => (expected, at),
            other => panic!("{other}"),
        };
        assert_eq!(expected(""), ("a size", 1));
        assert_eq!(expected("16-8-"), ("a size", 6));
        assert_eq!(expected("16-8 ; "), ("`->`, `:` or the end", 6));
        assert_eq!(expected("16-8: (1,-2)"), ("an axis counted from the end, such as -1", 8));
        assert_eq!(expected("16-8: (-1,-2"), (")", 13));
        assert_eq!(expected("16-8: (-1)->3"), ("(", 13));
        assert_eq!(expected("99999999999999999999-2"), ("a size", 1));
        assert!(matches!("16-8: (-1,-3)".parse::<Plan>(), Err(TextError::Plan(PlanError::UnknownAxis { .. }))));
        assert!(matches!("4-3 -> 4-2: (-1)->(3)".parse::<Plan>(), Err(TextError::OutDims { .. })));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn text_round_trips(plan in crate::kernel::tests::plans(9)) {
            prop_assert_eq!(&plan.to_string().parse::<Plan>().unwrap(), &plan);
            prop_assert_eq!(&format!("{plan:#}").parse::<Plan>().unwrap(), &plan);
        }

        #[test]
        fn no_text_panics(text in "[-0-9(),:> é]{0,24}") {
            let _ = text.parse::<Plan>();
        }
    }
}
