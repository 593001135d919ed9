//! Pictures of a plan: for the terminal in box-drawing characters, for documents as SVG.
//!
//! As in the paper's figures, every axis is a wire from left (input) to right (output), the first axis on top, and a gate is a box on each of its axes,
//! joined by a line. Gates whose lines do not cross may share a column, as they may be applied at the same time. Sizes stand at both ends of a
//! wire, and behind a gate that changes them. Where the text goes is the caller's concern.

use std::fmt::Write;

use crate::{Gate, Plan};

/// The gates of each column: every gate as far left as the order of application and the space between its axes allow.
fn columns(plan: &Plan) -> Vec<Vec<usize>> {
    let axes = plan.in_dims().len();
    let mut free_from = vec![0; axes];
    let mut columns: Vec<Vec<usize>> = Vec::new();
    for (index, gate) in plan.gates().iter().enumerate() {
        let (first, last) = span(gate, axes);
        let column = free_from[first..=last].iter().copied().max().unwrap_or(0);
        free_from[first..=last].fill(column + 1);
        if column == columns.len() {
            columns.push(Vec::new());
        }
        columns[column].push(index);
    }
    columns
}

/// First and last position, from the front, of a gate's axes.
fn span(gate: &Gate, axes: usize) -> (usize, usize) {
    let positions = gate.positions(axes);
    (positions[0], positions[positions.len() - 1])
}

/// The size that the axis at `position` has behind the gate, if the gate changes it.
fn new_size(gate: &Gate, position: usize, axes: usize) -> Option<usize> {
    let axis = position as isize - axes as isize;
    let index = gate.axes().iter().position(|&of_gate| of_gate == axis)?;
    (gate.in_sizes()[index] != gate.out_sizes()[index]).then(|| gate.out_sizes()[index])
}

impl Plan {
    /// Draws the circuit for a terminal; gates are numbered in order of application, from 0.
    ///
    /// ```
    /// use quanta_circuit::Plan;
    /// let drawing = Plan::all_pairs(&[4, 3, 2])?.drawing();
    /// assert_eq!(drawing.lines().next(), Some("-3  4 ───────[1]──[2]── 4"));
    /// # Ok::<(), quanta_circuit::PlanError>(())
    /// ```
    pub fn drawing(&self) -> String {
        let axes = self.in_dims().len();
        let size_width = self.in_dims().iter().map(|size| size.to_string().len()).max().unwrap_or(1) + 1;
        let axis_width = axes.to_string().len() + 1;
        let mut wires: Vec<String> = self
            .in_dims()
            .iter()
            .enumerate()
            .map(|(i, size)| format!("{:>axis_width$} {size:>size_width$} ─", format!("-{}", axes - i)))
            .collect();
        let mut gaps = vec![" ".repeat(axis_width + size_width + 3); axes.saturating_sub(1)];
        for column in columns(self) {
            // What a wire shows in this column: a gate, a line that passes, or nothing.
            let mut cells = vec![String::new(); axes];
            let mut joined = vec![false; axes.saturating_sub(1)];
            let mut crossed = vec![false; axes];
            for &index in &column {
                let gate = &self.gates()[index];
                let (first, last) = span(gate, axes);
                joined[first..last].fill(true);
                crossed[first..last].fill(true);
                for position in gate.positions(axes) {
                    crossed[position] = false;
                    let size = new_size(gate, position, axes).map_or(String::new(), |size| format!("─{size}"));
                    cells[position] = format!("[{index}]{size}");
                }
            }
            let box_width = column.iter().map(|index| index.to_string().len() + 2).max().unwrap_or(3);
            let width = cells.iter().map(|cell| cell.chars().count()).max().unwrap_or(0).max(box_width) + 2;
            let middle = 1 + box_width / 2;
            for (i, wire) in wires.iter_mut().enumerate() {
                let cell = if crossed[i] { format!("{}┼", "─".repeat(middle - 1)) } else { cells[i].clone() };
                let length = cell.chars().count();
                let _ = write!(wire, "─{cell}{}", "─".repeat(width - 1 - length));
            }
            for (i, gap) in gaps.iter_mut().enumerate() {
                let line = if joined[i] { '│' } else { ' ' };
                let _ = write!(gap, "{}{line}{}", " ".repeat(middle), " ".repeat(width - 1 - middle));
            }
        }
        let mut drawing = String::new();
        for (i, wire) in wires.iter().enumerate() {
            let _ = writeln!(drawing, "{wire}─ {}", self.out_dims()[i]);
            if let Some(gap) = gaps.get(i) {
                let _ = writeln!(drawing, "{}", gap.trim_end());
            }
        }
        drawing
    }

    /// Draws the circuit as a complete SVG document, readable on light and dark ground.
    pub fn svg(&self) -> String {
        const COLUMN: usize = 64;
        const ROW: usize = 56;
        const LEFT: usize = 70;
        let axes = self.in_dims().len();
        let columns = columns(self);
        let end = LEFT + (columns.len() + 1) * COLUMN;
        let y = |position: usize| 40 + position * ROW;
        let (width, height) = (end + 60, y(axes - 1) + 40);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
             font-family=\"sans-serif\" font-size=\"14\">\n<title>{self}</title>\n<style>text{{fill:#555}}\
             @media (prefers-color-scheme:dark){{text{{fill:#bbb}}}}text.n{{fill:#fff}}line{{stroke:#888;stroke-width:2}}\
             rect{{fill:#2f6fb0}}</style>\n"
        );
        for (i, (from, to)) in self.in_dims().iter().zip(self.out_dims()).enumerate() {
            let (y, text_y) = (y(i), y(i) + 5);
            let axis = axes - i;
            let _ = writeln!(svg, "<line x1=\"{LEFT}\" y1=\"{y}\" x2=\"{end}\" y2=\"{y}\"/>");
            let _ = writeln!(svg, "<text x=\"{}\" y=\"{text_y}\" text-anchor=\"end\">-{axis}: {from}</text>", LEFT - 8);
            let _ = writeln!(svg, "<text x=\"{}\" y=\"{text_y}\">{to}</text>", end + 8);
        }
        for (column, gates) in columns.iter().enumerate() {
            let x = LEFT + (column + 1) * COLUMN;
            for &index in gates {
                let gate = &self.gates()[index];
                let (first, last) = span(gate, axes);
                let _ = writeln!(svg, "<line x1=\"{x}\" y1=\"{}\" x2=\"{x}\" y2=\"{}\"/>", y(first), y(last));
                // Adjacent axes share one box, as in the paper; a gate over other wires is a box on each of its own.
                let boxes = if last - first <= 1 { vec![(first, last)] } else { vec![(first, first), (last, last)] };
                for (top, bottom) in boxes {
                    let (left, top_y, height) = (x - 16, y(top) - 14, y(bottom) - y(top) + 28);
                    let _ = writeln!(
                        svg,
                        "<rect x=\"{left}\" y=\"{top_y}\" width=\"32\" height=\"{height}\" rx=\"5\"/><text class=\"n\" \
                         x=\"{x}\" y=\"{}\" text-anchor=\"middle\">{index}</text>",
                        (y(top) + y(bottom)) / 2 + 5
                    );
                }
                for position in gate.positions(axes) {
                    if let Some(size) = new_size(gate, position, axes) {
                        let _ = writeln!(svg, "<text x=\"{}\" y=\"{}\">{size}</text>", x + 19, y(position) - 6);
                    }
                }
            }
        }
        svg + "</svg>\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_drawing_shows_every_gate_on_its_wires() {
        let plan: Plan = "4-3-2-2 -> 4-3-2-5: (-1,-4) (-2,-3) (-3)".parse().unwrap();
        let expected = "\
-4  4 ──[0]───────────── 4
         │
-3  3 ───┼───[1]──[2]── 3
         │    │
-2  2 ───┼───[1]─────── 2
         │
-1  2 ──[0]─5────────── 5
";
        let got = plan.drawing();
        let strip = |text: &str| text.lines().map(|line| line.replace('─', "")).collect::<Vec<_>>();
        // Wires have one length; what stands on them is compared without the dashes.
        let widths: Vec<usize> = got.lines().step_by(2).map(|line| line.chars().count()).collect();
        assert!(widths.iter().all(|&width| width == widths[0]), "{got}");
        let words =
            |text: &str| strip(text).iter().map(|line| line.split_whitespace().collect::<String>()).collect::<Vec<_>>();
        assert_eq!(words(&got), words(expected), "{got}");
    }

    #[test]
    fn lines_stand_under_their_boxes() {
        for text in ["16-8-8-4", "2-2-2-2-2-2-2-2", "8-8-8 -> 16-16-16: pairs pairs", "5-4: (-1)"] {
            let plan: Plan = text.parse().unwrap();
            let lines: Vec<Vec<char>> = plan.drawing().lines().map(|line| line.chars().collect()).collect();
            for (row, line) in lines.iter().enumerate().skip(1).step_by(2) {
                for column in (0..line.len()).filter(|&column| line[column] == '│') {
                    for neighbour in [&lines[row - 1], &lines[row + 1]] {
                        let at = neighbour[column];
                        assert!(at == '┼' || at.is_ascii_digit(), "{text}\n{}", plan.drawing());
                    }
                }
            }
        }
    }

    #[test]
    fn disjoint_gates_share_a_column() {
        let plan: Plan = "2-2-2-2: (-1,-2) (-3,-4) (-2,-3)".parse().unwrap();
        assert_eq!(columns(&plan), [vec![0, 1], vec![2]]);
        let svg = plan.svg();
        assert_eq!(svg.matches("<rect").count(), 3);
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
    }
}
