//! Plots as SVG that stands inside a page: curves over an axis, and bars to compare.
//!
//! A plot has no style of its own: it names classes, and the page's style sheet gives them ink and, for each run, a colour that those who see fewer
//! colours can tell apart; markers differ in shape besides. So the same plot is right on light and on dark paper. It is drawn for a width of 440, in
//! which its letters are readable from a telephone to half a desk.

use std::fmt::Write;

use super::markup::{beginning, escaped};
use super::scale::{Scale, Spacing};

const WIDTH: f64 = 440.0;
/// Height of the area in which curves run.
const AREA: f64 = 190.0;
/// Width of an average letter of the labels, for what must be known before anything is drawn.
const LETTER: f64 = 6.3;
/// Curves with more points are thinned to the lowest and highest of each stretch.
const MOST_POINTS: usize = 800;
/// Colours that the style sheet has; further tones use them again with broken lines.
pub const COLOURS: usize = 7;

/// Whom something drawn belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// The run with this number.
    Run(usize),
    /// No run: a base model, a reference.
    Neutral,
}

impl Tone {
    /// The classes that give it its colour.
    pub fn class(self) -> String {
        match self {
            Self::Run(index) if index < COLOURS => format!("tone-{index}"),
            Self::Run(index) => format!("tone-{} broken", index % COLOURS),
            Self::Neutral => "tone-none".into(),
        }
    }
}

/// How a series is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// A line.
    Line,
    /// A thin pale line: measurements behind their mean.
    Faint,
    /// A line with a marker at every point.
    Points,
}

/// Points that belong together.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Name in the legend; empty: none.
    pub name: String,
    /// Its colour.
    pub tone: Tone,
    /// Its form.
    pub mark: Mark,
    /// x and y, ascending in x; a point that cannot be drawn interrupts the line.
    pub points: Vec<(f64, f64)>,
}

/// Curves over a common axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Plot {
    /// What the y axis measures.
    pub title: String,
    /// What the x axis measures.
    pub x_label: String,
    /// Spacing of the x axis.
    pub x: Spacing,
    /// Spacing of the y axis.
    pub y: Spacing,
    /// The curves, later ones above earlier ones.
    pub series: Vec<Series>,
}

impl Plot {
    /// The plot as an `svg` element; nothing where no point can be drawn.
    pub fn svg(&self) -> Option<String> {
        let values = |pick: fn(&(f64, f64)) -> f64| self.series.iter().flat_map(|series| &series.points).map(pick);
        let x = Scale::new(self.x, values(|point| point.0), 6, false)?;
        let y = Scale::new(self.y, values(|point| point.1), 4, true)?;
        let labels = y.labels();
        let widest = labels.iter().map(|label| label.chars().count()).max().unwrap_or_default();
        let (legend, legend_height) = self.legend();
        let frame = Frame { left: widest as f64 * LETTER + 10.0, top: 28.0 + legend_height, x, y };
        let height = frame.top + AREA + 40.0;
        let mut svg = opening(&self.title, height);
        svg.push_str(&legend);
        frame.draw_grid(&mut svg, &labels, &self.x_label);
        for series in &self.series {
            frame.draw(&mut svg, series);
        }
        svg.push_str("</svg>\n");
        Some(svg)
    }

    /// The legend below the title, and its height. A single series is named by the title.
    fn legend(&self) -> (String, f64) {
        let named: Vec<&Series> = self.series.iter().filter(|series| !series.name.is_empty()).collect();
        let (mut out, mut at, mut row) = (String::new(), 0.0, 0.0);
        if named.len() < 2 {
            return (out, 0.0);
        }
        for series in named {
            let name = beginning(&series.name, 40);
            let width = 24.0 + name.chars().count() as f64 * LETTER + 14.0;
            if at > 0.0 && at + width > WIDTH {
                (at, row) = (0.0, row + 16.0);
            }
            let (class, y) = (series.tone.class(), 35.0 + row);
            let _ = write!(out, "<g class=\"{class}\"><path class=\"line\" d=\"M{at:.1} {y:.1}h16\"/>");
            if series.mark == Mark::Points {
                let _ = write!(out, "<path class=\"marker\" d=\"{}\"/>", marker(series.tone, at + 8.0, y));
            }
            let _ = writeln!(out, "</g><text x=\"{:.1}\" y=\"{:.1}\">{}</text>", at + 22.0, y + 4.0, escaped(&name));
            at += width;
        }
        (out, row + 24.0)
    }
}

/// The area of a plot and its two scales.
struct Frame {
    left: f64,
    top: f64,
    x: Scale,
    y: Scale,
}

impl Frame {
    fn right(&self) -> f64 {
        WIDTH - 12.0
    }

    fn at_x(&self, place: f64) -> f64 {
        self.left + place * (self.right() - self.left)
    }

    fn at_y(&self, place: f64) -> f64 {
        self.top + (1.0 - place) * AREA
    }

    fn draw_grid(&self, svg: &mut String, labels: &[String], x_label: &str) {
        let bottom = self.top + AREA;
        for (&tick, label) in self.y.ticks.iter().zip(labels) {
            let y = self.at_y(self.y.place(tick).unwrap_or_default());
            let _ = write!(svg, "<path class=\"grid\" d=\"M{:.1} {y:.1}H{:.1}\"/>", self.left, self.right());
            let _ =
                writeln!(svg, "<text class=\"end\" x=\"{:.1}\" y=\"{:.1}\">{label}</text>", self.left - 6.0, y + 4.0);
        }
        let _ = write!(svg, "<path class=\"axis\" d=\"M{:.1} {bottom:.1}H{:.1}\"/>", self.left, self.right());
        for (&tick, label) in self.x.ticks.iter().zip(self.x.labels()) {
            let x = self.at_x(self.x.place(tick).unwrap_or_default());
            let _ = write!(svg, "<path class=\"axis\" d=\"M{x:.1} {bottom:.1}v4\"/>");
            let _ = writeln!(svg, "<text class=\"middle\" x=\"{x:.1}\" y=\"{:.1}\">{label}</text>", bottom + 17.0);
        }
        let (right, y) = (self.right(), bottom + 34.0);
        let _ = writeln!(svg, "<text class=\"end\" x=\"{right:.1}\" y=\"{y:.1}\">{}</text>", escaped(x_label));
    }

    fn draw(&self, svg: &mut String, series: &Series) {
        let (mut path, mut markers, mut pen_down) = (String::new(), String::new(), false);
        let points = thinned(&series.points);
        for (index, &(x, y)) in points.iter().enumerate() {
            let (Some(x), Some(y)) = (self.x.place(x), self.y.place(y)) else {
                pen_down = false;
                continue;
            };
            let (x, y) = (self.at_x(x), self.at_y(y));
            let _ = write!(path, "{}{x:.1} {y:.1}", if pen_down { 'L' } else { 'M' });
            pen_down = true;
            // a point between two gaps has no line to be seen by
            let drawn = |other: Option<&(f64, f64)>| {
                other.is_some_and(|(x, y)| self.x.place(*x).and(self.y.place(*y)).is_some())
            };
            let alone = !drawn(index.checked_sub(1).map(|before| &points[before])) && !drawn(points.get(index + 1));
            if series.mark == Mark::Points || alone {
                markers.push_str(&marker(series.tone, x, y));
            }
        }
        let line = if series.mark == Mark::Faint { "line faint" } else { "line" };
        let _ = write!(svg, "<g class=\"{}\"><path class=\"{line}\" d=\"{path}\"/>", series.tone.class());
        if !markers.is_empty() {
            let _ = write!(svg, "<path class=\"marker\" d=\"{markers}\"/>");
        }
        svg.push_str("</g>\n");
    }
}

/// One bar.
#[derive(Clone, Debug, PartialEq)]
pub struct Bar {
    /// What it stands for.
    pub name: String,
    /// Its colour.
    pub tone: Tone,
    /// Its length; below zero and beyond `full` it is cut.
    pub value: f64,
    /// The value as it is written beside the bar.
    pub label: String,
}

/// Bars from a common zero.
#[derive(Clone, Debug, PartialEq)]
pub struct Bars {
    /// What is compared.
    pub title: String,
    /// The value of a bar of full length.
    pub full: f64,
    /// The bars from top to bottom.
    pub bars: Vec<Bar>,
}

impl Bars {
    /// The bars as an `svg` element.
    pub fn svg(&self) -> String {
        let names: Vec<String> = self.bars.iter().map(|bar| beginning(&bar.name, 24)).collect();
        let widest = names.iter().map(|name| name.chars().count()).max().unwrap_or_default();
        let left = widest as f64 * LETTER + 12.0;
        let room = WIDTH - left - 60.0;
        let mut svg = opening(&self.title, 34.0 + 24.0 * self.bars.len() as f64);
        for (index, (bar, name)) in self.bars.iter().zip(&names).enumerate() {
            let y = 30.0 + 24.0 * index as f64;
            let share = (bar.value / self.full).clamp(0.0, 1.0);
            let length = if share.is_finite() { (share * room).max(1.0) } else { 0.0 };
            let _ = write!(svg, "<text x=\"0\" y=\"{:.1}\">{}</text>", y + 12.0, escaped(name));
            let _ = write!(svg, "<path class=\"track\" d=\"M{left:.1} {y:.1}h{room:.1}v16h-{room:.1}z\"/>");
            let class = bar.tone.class();
            let _ = write!(svg, "<path class=\"bar {class}\" d=\"M{left:.1} {y:.1}h{length:.1}v16h-{length:.1}z\"/>");
            let (x, y) = (left + room + 8.0, y + 12.0);
            let _ = writeln!(svg, "<text class=\"value\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>", escaped(&bar.label));
        }
        svg.push_str("</svg>\n");
        svg
    }
}

fn opening(title: &str, height: f64) -> String {
    let title = escaped(title);
    format!(
        "<svg class=\"plot\" viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" aria-label=\"{title}\">\n<text class=\"title\" x=\"0\" y=\"14\">{title}</text>\n"
    )
}

/// The outline of a marker around a point.
fn marker(tone: Tone, x: f64, y: f64) -> String {
    let at = |dx: f64, dy: f64| format!("{:.1} {:.1}", x + dx, y + dy);
    match tone {
        Tone::Run(index) => match index % 4 {
            0 => format!("M{}a3 3 0 1 0 6 0a3 3 0 1 0 -6 0z", at(-3.0, 0.0)),
            1 => format!("M{}h5.6v5.6h-5.6z", at(-2.8, -2.8)),
            2 => format!("M{}l3.8 3.8l-3.8 3.8l-3.8 -3.8z", at(0.0, -3.8)),
            _ => format!("M{}l3.6 6.2h-7.2z", at(0.0, -3.9)),
        },
        Tone::Neutral => format!("M{}h6v2h-6z", at(-3.0, -1.0)),
    }
}

/// Few enough points to draw: of each stretch the lowest and the highest, in their order, so that no peak is lost.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() <= MOST_POINTS {
        return points.to_vec();
    }
    let stretch = points.len().div_ceil(MOST_POINTS / 2);
    let mut out = Vec::with_capacity(MOST_POINTS);
    for part in points.chunks(stretch) {
        let by_height = |a: &usize, b: &usize| part[*a].1.total_cmp(&part[*b].1);
        let indices = || 0..part.len();
        let (low, high) = (indices().min_by(by_height).unwrap_or(0), indices().max_by(by_height).unwrap_or(0));
        out.push(part[low.min(high)]);
        if low != high {
            out.push(part[low.max(high)]);
        }
    }
    out
}

/// The mean around each point: over as many points before as behind it, `reach` of them where there are so many. Points that are no numbers are
/// passed over.
pub fn smoothed(points: &[(f64, f64)], reach: usize) -> Vec<(f64, f64)> {
    let mut sums = vec![(0.0, 0usize)];
    for &(_, y) in points {
        let (sum, count) = sums[sums.len() - 1];
        sums.push(if y.is_finite() { (sum + y, count + 1) } else { (sum, count) });
    }
    let mean = |(index, &(x, _)): (usize, &(f64, f64))| {
        let reach = reach.min(index).min(points.len() - 1 - index);
        let (from, to) = (sums[index - reach], sums[index + reach + 1]);
        (x, (to.0 - from.0) / (to.1 - from.1) as f64)
    };
    points.iter().enumerate().map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(name: &str, run: usize, mark: Mark, points: &[(f64, f64)]) -> Series {
        Series { name: name.into(), tone: Tone::Run(run), mark, points: points.to_vec() }
    }

    fn plot(series: Vec<Series>) -> Plot {
        Plot { title: "loss".into(), x_label: "step".into(), x: Spacing::Linear, y: Spacing::Linear, series }
    }

    /// Numbers of the first path with this class.
    fn path<'a>(svg: &'a str, class: &str) -> &'a str {
        let start = svg.find(&format!("class=\"{class}\" d=\"")).unwrap() + class.len() + 12;
        &svg[start..start + svg[start..].find('"').unwrap()]
    }

    #[test]
    fn a_curve_runs_between_its_ticks() {
        let svg = plot(vec![series("a", 0, Mark::Line, &[(0.0, 0.0), (50.0, 2.0), (100.0, 4.0)])]).svg().unwrap();
        // "0" to "4" are one letter wide: the area begins at 16.3 and ends at 428; it is 28 to 218 high
        assert_eq!(path(&svg, "line"), "M16.3 218.0L222.2 123.0L428.0 28.0");
        assert!(!svg.contains("marker") && svg.matches("class=\"grid\"").count() == 5, "{svg}");
        assert_eq!(svg.matches("<text").count(), 1 + 5 + 6 + 1, "title, ticks, label; no legend for one series: {svg}");
    }

    #[test]
    fn gaps_interrupt_and_lone_points_are_seen() {
        let points =
            [(0.0, 1.0), (1.0, 2.0), (2.0, f64::NAN), (3.0, 1.5), (4.0, f64::INFINITY), (5.0, 1.0), (6.0, 2.0)];
        let svg = plot(vec![series("a", 1, Mark::Line, &points)]).svg().unwrap();
        assert_eq!(path(&svg, "line").matches('M').count(), 3);
        assert_eq!(path(&svg, "marker").matches('M').count(), 1, "only the point between two gaps");
        assert_eq!(plot(vec![series("a", 0, Mark::Line, &[(0.0, f64::NAN)])]).svg(), None);
        assert_eq!(plot(Vec::new()).svg(), None);
    }

    #[test]
    fn names_are_escaped_and_legends_wrap() {
        let long = "<script>alert(1)</script> & more and more and more";
        let all: Vec<Series> = (0..9).map(|run| series(long, run, Mark::Points, &[(0.0, 1.0), (1.0, 2.0)])).collect();
        let svg = plot(all).svg().unwrap();
        assert!(
            !svg.contains("<script>") && svg.contains("&lt;script&gt;alert(1)&lt;/script&gt; &amp; more a"),
            "{svg}"
        );
        assert!(svg.contains("viewBox=\"0 0 440 410\""), "nine rows of legend: {svg}");
        assert!(svg.contains("class=\"tone-6\"") && svg.contains("class=\"tone-1 broken\""));
        let bars = Bars {
            title: "a<b".into(),
            full: 1.0,
            bars: vec![Bar { name: long.into(), tone: Tone::Neutral, value: f64::NAN, label: "<".into() }],
        };
        assert!(!bars.svg().contains("<script") && !bars.svg().contains("NaN") && bars.svg().contains("a&lt;b"));
    }

    #[test]
    fn bars_have_the_length_of_their_value() {
        let bar = |name: &str, value: f64| Bar { name: name.into(), tone: Tone::Run(0), value, label: String::new() };
        let bars =
            Bars { title: "F1".into(), full: 1.0, bars: vec![bar("base", 0.5), bar("long", 2.0), bar("none", -1.0)] };
        let room = WIDTH - (4.0 * LETTER + 12.0) - 60.0;
        let svg = bars.svg();
        for (length, y) in [(room / 2.0, 30), (room, 54), (1.0, 78)] {
            assert!(svg.contains(&format!("tone-0\" d=\"M37.2 {y}.0h{length:.1}v16")), "{length} at {y}: {svg}");
        }
    }

    #[test]
    fn long_curves_keep_their_peaks() {
        let mut points: Vec<(f64, f64)> = (0..100_000).map(|i| (f64::from(i), f64::from(i % 10))).collect();
        points[54_321].1 = 99.0;
        points[76_543].1 = -99.0;
        let few = thinned(&points);
        assert!(few.len() <= MOST_POINTS && few.is_sorted_by(|a, b| a.0 < b.0));
        assert!(few.contains(&(54_321.0, 99.0)) && few.contains(&(76_543.0, -99.0)));
        assert_eq!(thinned(&points[..MOST_POINTS]), &points[..MOST_POINTS]);
    }

    #[test]
    fn means_are_centred_and_pass_over_gaps() {
        let points: Vec<(f64, f64)> = [3.0, 1.0, 2.0, f64::NAN, 4.0, 9.0].map(|y| (0.0, y)).to_vec();
        let means: Vec<f64> = smoothed(&points, 2).into_iter().map(|point| point.1).collect();
        assert_eq!(means, [3.0, 2.0, 2.5, 4.0, 6.5, 9.0]);
        assert_eq!(smoothed(&points[..3], 0), &points[..3]);
        assert!(smoothed(&[], 3).is_empty());
    }
}
