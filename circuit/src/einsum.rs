//! Einsum expressions of a plan (paper, appendix G), in the symbols of opt_einsum.
//!
//! They exist so that any other program can evaluate a circuit, and so that a test can compare with one that does. Axis `i` of N starts as symbol `i`;
//! a gate replaces the symbol `s` of each of its axes by `s + N`. Evaluating expressions is left to the kernels.

use crate::Plan;

/// Symbol number `index` in opt_einsum's order: a-z, A-Z, then the characters from number 192 on, the surrogates left out.
///
/// opt_einsum computes `chr(index + 140)` for `index >= 52`, and skips the surrogate range by a further 2048.
/// Indices beyond the last character repeat it; no plan that fits in memory has so many.
pub fn symbol(index: usize) -> char {
    const LETTERS: &[u8; 52] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    match LETTERS.get(index) {
        Some(&letter) => char::from(letter),
        None => {
            let code = if index >= 55_296 { index + 2048 } else { index + 140 };
            u32::try_from(code).ok().and_then(char::from_u32).unwrap_or(char::MAX)
        }
    }
}

/// The operands of the gates and the final symbols of the axes.
fn operands(plan: &Plan) -> (Vec<String>, Vec<usize>) {
    let axes = plan.in_dims().len();
    let mut symbols: Vec<usize> = (0..axes).collect();
    let mut operands = Vec::with_capacity(plan.gates().len());
    for gate in plan.gates() {
        let positions = gate.positions(axes);
        let before = positions.iter().map(|&p| symbol(symbols[p]));
        let after = positions.iter().map(|&p| symbol(symbols[p] + axes));
        operands.push(after.chain(before).collect());
        for position in positions {
            symbols[position] += axes;
        }
    }
    (operands, symbols)
}

fn join(symbols: impl IntoIterator<Item = usize>) -> String {
    symbols.into_iter().map(symbol).collect()
}

impl Plan {
    /// The expression that applies the circuit to `x`: operands `x`, then the gates in order of application.
    ///
    /// For three axes `...abc,efbc,diaf,ghde->...ghi` (paper, appendix G).
    pub fn einsum_apply(&self) -> String {
        let (operands, output) = operands(self);
        let mut expression = format!("...{}", join(0..self.in_dims().len()));
        for operand in operands {
            expression.push(',');
            expression.push_str(&operand);
        }
        expression + "->..." + &join(output)
    }

    /// The expression of the full operator: the gates in order of application, output symbols first, then the input symbols.
    ///
    /// For three axes `efbc,diaf,ghde->ghiabc`. The function that the paper prints for it starts with `...` and lacks the input symbols; this form is the
    /// one that evaluates. An axis that no gate touches has the same symbol on both sides, which means its diagonal; einsum implementations
    /// refuse such an output, so an operator of a plan with untouched axes is only written, not evaluated, this way.
    pub fn einsum_operator(&self) -> String {
        let (operands, output) = operands(self);
        operands.join(",") + "->" + &join(output) + &join(0..self.in_dims().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_match_the_paper() {
        let three = Plan::all_pairs(&[4, 3, 2]).unwrap();
        assert_eq!(three.einsum_apply(), "...abc,efbc,diaf,ghde->...ghi");
        assert_eq!(three.einsum_operator(), "efbc,diaf,ghde->ghiabc");
        let four = Plan::all_pairs(&[2, 2, 2, 2]).unwrap();
        assert_eq!(four.einsum_apply(), "...abcd,ghcd,flbh,epal,jkfg,ioek,mnij->...mnop");
    }

    #[test]
    fn symbols_continue_as_in_opt_einsum() {
        assert_eq!((symbol(0), symbol(25), symbol(26), symbol(51)), ('a', 'z', 'A', 'Z'));
        assert_eq!((symbol(52), symbol(53), symbol(20_000)), ('\u{c0}', '\u{c1}', '\u{4eac}'));
        assert_eq!(symbol(55_296), '\u{e000}');
    }
}
