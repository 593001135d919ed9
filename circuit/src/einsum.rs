//! Einsum expressions of a plan (paper, appendix G), in the symbols of opt_einsum.
//!
//! They exist so that any other program can evaluate a circuit, and so that a test can compare with one that does. Axis `i` of N starts as symbol `i`;
//! a gate replaces the symbol `s` of each of its axes by `s + N`. Evaluating expressions is left to the kernels.

use thiserror::Error;

use crate::{Plan, PlanError};

/// Why an einsum expression is not a plan.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EinsumError {
    /// No `->`, or nothing to contract.
    #[error("`{expression}` has no output: write operands, `->` and the output symbols")]
    NoOutput {
        /// The expression.
        expression: String,
    },
    /// A gate's operand does not have two symbols or four.
    #[error("gate {gate} is `{operand}`: a gate has 2 symbols (new, old) or 4 (new b, new a, old b, old a)")]
    GateSymbols {
        /// Index of the gate in the expression.
        gate: usize,
        /// Its symbols.
        operand: String,
    },
    /// A gate reads a symbol that no axis has at this point.
    #[error(
        "gate {gate} reads `{symbol}`, which no axis has there: list the gates in order of application, each reading the symbols its axes have by then"
    )]
    NotCurrent {
        /// Index of the gate in the expression.
        gate: usize,
        /// The symbol.
        symbol: char,
    },
    /// A gate names its axes the other way round.
    #[error("gate {gate} is `{operand}`: name the axis nearer the end last, in its new and old symbols alike")]
    AxisOrder {
        /// Index of the gate in the expression.
        gate: usize,
        /// Its symbols.
        operand: String,
    },
    /// A symbol is used for two different things.
    #[error("symbol `{symbol}` is used twice: every gate needs new symbols for its outputs")]
    Reused {
        /// The symbol.
        symbol: char,
    },
    /// The output is not what the gates leave.
    #[error("the output is `{got}`, but the gates leave `{expected}`")]
    Output {
        /// What the expression says.
        got: String,
        /// What the gates leave.
        expected: String,
    },
    /// The expression is a circuit, but not with these sizes.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

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

    /// Reads an expression of either form back, with any symbols; an axis takes its output size at the last gate that touches it. An expression does not say
    /// where sizes change, so that from the expression of a plan whose axis changes before its last gate another plan is
    /// read, which is no error.
    ///
    /// The operands must stand in order of application. An expression that starts with `...` is the apply form.
    ///
    /// # Errors
    /// [`EinsumError`] where the expression is no circuit, or the dims do not fit it.
    ///
    /// ```
    /// use quanta_circuit::Plan;
    /// let plan = Plan::from_einsum("...abc,efbc,diaf,ghde->...ghi", &[4, 3, 2], &[4, 3, 2])?;
    /// assert_eq!(plan, Plan::all_pairs(&[4, 3, 2])?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn from_einsum(expression: &str, in_dims: &[usize], out_dims: &[usize]) -> Result<Self, EinsumError> {
        let (axes, gates) = gates_of_einsum(expression)?;
        if axes != in_dims.len() {
            return Err(PlanError::AxisCountMismatch { input: in_dims.len(), output: axes }.into());
        }
        Ok(Self::between(in_dims, out_dims, &gates)?)
    }
}

/// The number of axes of an expression, and the axes of its gates counted from the end, in order of application.
///
/// # Errors
/// [`EinsumError`] where the expression is no circuit.
pub fn gates_of_einsum(expression: &str) -> Result<(usize, Vec<Vec<isize>>), EinsumError> {
    let no_output = || EinsumError::NoOutput { expression: expression.to_owned() };
    let text: String = expression.chars().filter(|symbol| !symbol.is_whitespace()).collect();
    let (inputs, output) = text.split_once("->").ok_or_else(no_output)?;
    let output = output.strip_prefix("...").unwrap_or(output);
    let mut operands: Vec<Vec<char>> = inputs.split(',').map(|operand| operand.chars().collect()).collect();
    let output: Vec<char> = output.chars().collect();
    let (initial, last) = if let Some(x) = inputs.strip_prefix("...") {
        let initial = x.split(',').next().unwrap_or_default().chars().collect::<Vec<_>>();
        operands.remove(0);
        (initial, output)
    } else {
        let half = output.len() / 2;
        if output.len() % 2 == 1 {
            return Err(no_output());
        }
        (output[half..].to_vec(), output[..half].to_vec())
    };
    if initial.is_empty() {
        return Err(no_output());
    }
    // An operator without gates has one empty operand.
    operands.retain(|operand| !operand.is_empty());
    let mut seen: Vec<char> = Vec::new();
    for &symbol in &initial {
        if seen.contains(&symbol) {
            return Err(EinsumError::Reused { symbol });
        }
        seen.push(symbol);
    }
    let mut symbols = initial;
    let mut gates = Vec::with_capacity(operands.len());
    for (gate, operand) in operands.iter().enumerate() {
        gates.push(read_gate(gate, operand, &mut symbols, &mut seen)?);
    }
    if symbols != last {
        return Err(EinsumError::Output { got: last.into_iter().collect(), expected: symbols.into_iter().collect() });
    }
    Ok((symbols.len(), gates))
}

/// Axes of one gate; gives its axes their new symbols.
fn read_gate(
    gate: usize,
    operand: &[char],
    symbols: &mut [char],
    seen: &mut Vec<char>,
) -> Result<Vec<isize>, EinsumError> {
    let text = || operand.iter().collect::<String>();
    if operand.len() != 2 && operand.len() != 4 {
        return Err(EinsumError::GateSymbols { gate, operand: text() });
    }
    let (after, before) = operand.split_at(operand.len() / 2);
    let mut positions = Vec::with_capacity(2);
    for &symbol in before {
        let position = symbols.iter().position(|&current| current == symbol);
        positions.push(position.ok_or(EinsumError::NotCurrent { gate, symbol })?);
    }
    if positions.len() == 2 && positions[0] >= positions[1] {
        return Err(EinsumError::AxisOrder { gate, operand: text() });
    }
    for (&position, &symbol) in positions.iter().zip(after) {
        if seen.contains(&symbol) {
            return Err(EinsumError::Reused { symbol });
        }
        seen.push(symbol);
        symbols[position] = symbol;
    }
    Ok(positions.iter().rev().map(|&position| position as isize - symbols.len() as isize).collect())
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
    fn expressions_read_back_to_their_plan() {
        for text in ["4-3-2", "2-2-2-2-3", "16-8 -> 2-8", "3-2-4: (-1,-3) (-2) (-1,-2) (-1,-3)", "2-3-4: (-2)", "3-2:"]
        {
            let plan: Plan = text.parse().unwrap();
            for expression in [plan.einsum_apply(), plan.einsum_operator()] {
                let read = Plan::from_einsum(&expression, plan.in_dims(), plan.out_dims());
                assert_eq!(read.as_ref(), Ok(&plan), "{expression}");
            }
        }
    }

    #[test]
    fn expressions_that_are_no_circuit_are_refused() {
        let error = |expression: &str| gates_of_einsum(expression).unwrap_err();
        assert!(matches!(error("...abc,efbc"), EinsumError::NoOutput { .. }));
        assert!(matches!(error("ij,jk->ikx"), EinsumError::NoOutput { .. }));
        assert!(matches!(error("...ab,cdea->...cd"), EinsumError::NotCurrent { gate: 0, symbol: 'e' }));
        assert!(matches!(error("...ab,cdba->...dc"), EinsumError::AxisOrder { gate: 0, .. }));
        assert!(matches!(error("...ab,cda->...cd"), EinsumError::GateSymbols { gate: 0, .. }));
        assert!(matches!(error("...ab,aeab->...ae"), EinsumError::Reused { symbol: 'a' }));
        assert!(matches!(error("...ab,cdab->...dc"), EinsumError::Output { .. }));
        assert!(matches!(
            Plan::from_einsum("...ab,cdab->...cd", &[2, 3, 4], &[2, 3, 4]),
            Err(EinsumError::Plan(PlanError::AxisCountMismatch { .. }))
        ));
    }

    #[test]
    fn symbols_continue_as_in_opt_einsum() {
        assert_eq!((symbol(0), symbol(25), symbol(26), symbol(51)), ('a', 'z', 'A', 'Z'));
        assert_eq!((symbol(52), symbol(53), symbol(20_000)), ('\u{c0}', '\u{c1}', '\u{4eac}'));
        assert_eq!(symbol(55_296), '\u{e000}');
    }
}
