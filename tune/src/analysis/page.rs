//! The page of a report: head, scores, curves, samples, configuration, in the order in which they are asked for.
//!
//! Every text goes through [`escaped`]; the rest is fixed markup. The tests stand here because the page is what a report promises.

use std::fmt::Write;

use super::markup::{beginning, ending, escaped, grouped, number};
use super::plot::{Bar, Bars, Mark, Plot, Series, Tone, smoothed};
use super::report::{Answer, Column, Measure, Report, SampleRow, ScoreTable};
use super::scale::Spacing;
use super::{EvaluationPoint, RunView, StepPoint};

/// Characters of a prompt that are shown, from its end, where the question stands.
const PROMPT: usize = 700;
/// Characters of an answer that are shown.
const ANSWER: usize = 500;
/// Characters of a name that stands beside scores.
const NAME: usize = 28;
/// Score columns that are drawn as bars besides standing in the table.
const BARS: usize = 6;
/// A curve whose highest point is so many times its lowest is drawn on a logarithmic scale.
const WIDE: f64 = 10.0;

/// The page; `generator` is the element that says who wrote it.
pub fn html(report: &Report, generator: &str) -> String {
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n{generator}\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{}</title>\n<style>\n{}</style>\n</head>\n<body>\n",
        escaped(&report.title),
        include_str!("style.css")
    );
    let _ = write!(out, "<header>\n<h1>{}</h1>\n", escaped(&report.title));
    let _ = writeln!(out, "<p>{}</p>\n</header>", escaped(&subject(&report.runs)));
    section(&mut out, "Scores", scores(&report.scores));
    section(&mut out, "Curves", curves(&report.runs));
    section(&mut out, "Sample outputs", report.samples.iter().map(sample).collect());
    section(&mut out, "Configuration", configuration(&report.runs));
    let _ = write!(out, "<footer>Written by quanta {}.</footer>\n</body>\n</html>\n", env!("CARGO_PKG_VERSION"));
    out
}

fn section(out: &mut String, title: &str, content: String) {
    if !content.is_empty() {
        let _ = write!(out, "<section>\n<h2>{title}</h2>\n{content}</section>\n");
    }
}

/// What the runs have in common, in one line.
fn subject(runs: &[RunView]) -> String {
    let mut text = if runs.len() == 1 { "1 run".to_owned() } else { format!("{} runs", runs.len()) };
    for (label, word) in [("Model", "on"), ("Data", "with")] {
        let found = |run: &RunView| run.settings.iter().find(|(name, _)| name == label).map(|(_, text)| text.clone());
        let Some(first) = runs.first().and_then(found) else { continue };
        if runs.iter().all(|run| found(run).as_ref() == Some(&first)) {
            let _ = write!(text, " {word} {first}");
        }
    }
    text
}

fn swatch(tone: Tone) -> String {
    format!("<span class=\"swatch {}\"></span>", tone.class())
}

fn scores(table: &ScoreTable) -> String {
    if table.rows.is_empty() || table.columns.is_empty() {
        return String::new();
    }
    let mut out = "<div class=\"scroll\"><table>\n<thead><tr><th></th>".to_owned();
    for column in &table.columns {
        let unit = if column.measure == Measure::Score { ", %" } else { "" };
        let _ = write!(out, "<th class=\"number\">{}{unit}</th>", escaped(&column.name));
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    let best: Vec<Option<usize>> = (0..table.columns.len()).map(|column| table.best(column)).collect();
    for (index, row) in table.rows.iter().enumerate() {
        let _ = write!(out, "<tr><th scope=\"row\">{}{}</th>", swatch(row.tone), escaped(&beginning(&row.name, NAME)));
        for (at, column) in table.columns.iter().enumerate() {
            let text = row.values.get(at).copied().flatten().map_or("-".into(), |value| written(column, value));
            let class = if best[at] == Some(index) { "number best" } else { "number" };
            let _ = write!(out, "<td class=\"{class}\">{text}</td>");
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody>\n</table></div>\n");
    if !table.note.is_empty() {
        let _ = writeln!(out, "<p class=\"note\">{}</p>", escaped(&table.note));
    }
    let bars: String = score_bars(table).iter().map(|bars| format!("<figure>\n{}</figure>\n", bars.svg())).collect();
    if !bars.is_empty() {
        let _ = writeln!(out, "<div class=\"plots\">\n{bars}</div>");
    }
    out
}

/// Bars for the first columns of scores that several rows have.
fn score_bars(table: &ScoreTable) -> Vec<Bars> {
    let scores = table.columns.iter().enumerate().filter(|(_, column)| column.measure == Measure::Score);
    let bars = scores.map(|(at, column)| {
        let known = table.rows.iter().filter_map(|row| Some((row, row.values.get(at).copied().flatten()?)));
        let bar = |(row, value): (&super::ScoreRow, f64)| Bar {
            name: row.name.clone(),
            tone: row.tone,
            value,
            label: written(column, value),
        };
        Bars { title: format!("{}, %", column.name), full: 1.0, bars: known.map(bar).collect() }
    });
    bars.filter(|bars| bars.bars.len() > 1).take(BARS).collect()
}

fn written(column: &Column, value: f64) -> String {
    match column.measure {
        Measure::Score if value.is_finite() => format!("{:.1}", 100.0 * value),
        Measure::Count if value >= 0.0 => grouped(value as usize),
        _ => number(value, 5),
    }
}

fn curves(runs: &[RunView]) -> String {
    let mut plots = vec![of_steps("Training loss", runs, |point| point.loss)];
    plots.push(of_evaluations("Validation loss", runs, |point| point.loss));
    let mut metrics: Vec<&str> = runs.iter().flat_map(RunView::metrics).collect();
    metrics.sort_unstable();
    metrics.dedup();
    for metric in metrics {
        let title = format!("Validation {metric}");
        plots.push(of_evaluations(&title, runs, |point| point.metrics.get(metric).copied().unwrap_or(f64::NAN)));
    }
    plots.push(learning_rate(runs));
    plots.push(of_steps("Gradient norm", runs, |point| point.grad_norm));
    let plots: String = plots.iter().filter_map(Plot::svg).map(|svg| format!("<figure>\n{svg}</figure>\n")).collect();
    if plots.is_empty() { plots } else { format!("<div class=\"plots\">\n{plots}</div>\n") }
}

fn plot(title: &str, series: Vec<Series>) -> Plot {
    let clear = series.iter().filter(|series| series.mark != Mark::Faint).flat_map(|series| &series.points);
    let values = clear.map(|point| point.1).filter(|value| value.is_finite());
    let (low, high) = values.fold((f64::INFINITY, 0.0f64), |(low, high), value| (low.min(value), high.max(value)));
    let y = if low > 0.0 && high > WIDE * low { Spacing::Log } else { Spacing::Linear };
    Plot { title: title.to_owned(), x_label: "step".into(), x: Spacing::Linear, y, series }
}

/// A value of every step: pale as it is, and its mean over a fortieth of the run on both sides, which the eye can follow.
fn of_steps(title: &str, runs: &[RunView], value: impl Fn(&StepPoint) -> f64) -> Plot {
    let (mut pale, mut clear) = (Vec::new(), Vec::new());
    for (index, run) in runs.iter().enumerate() {
        let points: Vec<(f64, f64)> = run.steps.iter().map(|point| (point.step as f64, value(point))).collect();
        let (reach, tone) = (points.len() / 40, Tone::Run(index));
        clear.push(Series { name: run.name.clone(), tone, mark: Mark::Line, points: smoothed(&points, reach) });
        if reach > 0 {
            pale.push(Series { name: String::new(), tone, mark: Mark::Faint, points });
        }
    }
    pale.extend(clear);
    plot(title, pale)
}

fn of_evaluations(title: &str, runs: &[RunView], value: impl Fn(&EvaluationPoint) -> f64) -> Plot {
    let points = |run: &RunView| run.evaluations.iter().map(|point| (point.step as f64, value(point))).collect();
    let series = runs.iter().enumerate().map(|(index, run)| Series {
        name: run.name.clone(),
        tone: Tone::Run(index),
        mark: Mark::Points,
        points: points(run),
    });
    plot(title, series.collect())
}

/// Runs that share a schedule share a curve: one would hide the others.
fn learning_rate(runs: &[RunView]) -> Plot {
    let points = |run: &RunView| -> Vec<(f64, f64)> { run.steps.iter().map(|p| (p.step as f64, p.lr)).collect() };
    let same = runs.len() > 1 && runs.iter().all(|run| points(run) == points(&runs[0]));
    let series = |(index, run): (usize, &RunView)| Series {
        name: run.name.clone(),
        tone: if same { Tone::Neutral } else { Tone::Run(index) },
        mark: Mark::Line,
        points: points(run),
    };
    let shown = if same { &runs[..1] } else { runs };
    // a schedule's shape is known by how it looks on an even scale, however far it falls
    Plot { y: Spacing::Linear, ..plot("Learning rate", shown.iter().enumerate().map(series).collect()) }
}

fn sample(row: &SampleRow) -> String {
    let prompt = escaped(&ending(row.prompt.trim_end(), PROMPT));
    let mut out = format!("<article class=\"sample\">\n<p class=\"prompt\">{prompt}</p>\n<dl class=\"answers\">\n");
    if !row.gold.is_empty() {
        let gold = escaped(&row.gold.join(" · "));
        let _ = writeln!(out, "<dt>Right answer</dt><dd class=\"gold\">{gold}</dd><dd></dd>");
    }
    row.answers.iter().for_each(|given| out.push_str(&answer(given)));
    out.push_str("</dl>\n</article>\n");
    out
}

fn answer(answer: &Answer) -> String {
    let text = match answer.text.trim() {
        "" => "<span class=\"empty\">nothing</span>".to_owned(),
        text => escaped(&beginning(text, ANSWER)),
    };
    let (class, mark) = match answer.score {
        None => ("", String::new()),
        Some(score) if score >= 1.0 - 1e-9 => ("right", "✓ right".to_owned()),
        Some(score) if score > 0.0 => ("", format!("{:.0} %", 100.0 * score)),
        Some(_) => ("wrong", "✗ wrong".to_owned()),
    };
    let name = format!("{}{}", swatch(answer.tone), escaped(&answer.name));
    format!("<dt>{name}</dt><dd>{text}</dd><dd class=\"mark {class}\">{mark}</dd>\n")
}

fn configuration(runs: &[RunView]) -> String {
    if runs.is_empty() {
        return String::new();
    }
    let mut out = "<div class=\"scroll\"><table class=\"settings\">\n<thead><tr><th></th>".to_owned();
    for (index, run) in runs.iter().enumerate() {
        let _ = write!(out, "<th>{}{}</th>", swatch(Tone::Run(index)), escaped(&run.name));
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    for (label, texts) in settings(runs) {
        let same = runs.len() > 1 && texts.iter().all(|text| *text == texts[0]);
        let _ =
            write!(out, "<tr{}><th scope=\"row\">{}</th>", if same { " class=\"same\"" } else { "" }, escaped(&label));
        for text in texts {
            let _ = write!(out, "<td>{}</td>", escaped(text.as_deref().unwrap_or("-")));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody>\n</table></div>\n");
    for run in runs {
        let (name, text) = (escaped(&run.name), escaped(&run.config));
        let _ =
            writeln!(out, "<details><summary>Complete configuration of {name}</summary>\n<pre>{text}</pre></details>");
    }
    out
}

/// All labels in the order in which they first occur, each with every run's text.
fn settings(runs: &[RunView]) -> Vec<(String, Vec<Option<String>>)> {
    let mut rows: Vec<(String, Vec<Option<String>>)> = Vec::new();
    for (index, run) in runs.iter().enumerate() {
        let mut own = run.settings.clone();
        // what is trained stands before what it is trained on
        let place = own.iter().position(|(label, _)| label == "Model").unwrap_or(own.len());
        own.splice(place..place, trainable(run));
        for (label, text) in own {
            let at = rows.iter().position(|(known, _)| *known == label).unwrap_or_else(|| {
                rows.push((label, vec![None; runs.len()]));
                rows.len() - 1
            });
            rows[at].1[index] = Some(text);
        }
    }
    rows
}

fn trainable(run: &RunView) -> Option<(String, String)> {
    let count = run.trainable?;
    let share = run.base_parameters.filter(|&base| base > 0).map(|base| 100.0 * count as f64 / base as f64);
    let share = share.map(|share| format!(" = {} % of the base", number(share, 4))).unwrap_or_default();
    Some(("Trainable parameters".into(), grouped(count) + &share))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::{AnalysisError, ScoreRow, TestResult, TestSample};

    const HOSTILE: &str = "</style></svg><script src='//x'>alert(\"1\")</script>&\u{0}";

    /// A run with `steps` steps, a validation every tenth and one evaluated sample.
    fn run(name: &str, steps: usize) -> RunView {
        let step = |step: usize| StepPoint {
            step,
            tokens: 10 * step,
            loss: 4.0 / step as f64,
            lr: 1e-3,
            grad_norm: 1.0,
            tokens_per_second: 100.0,
        };
        let evaluation = |step: usize| EvaluationPoint {
            step,
            loss: 2.0 - step as f64 / 100.0,
            is_best: step > 0,
            metrics: [("f1".to_owned(), step as f64 / 100.0)].into(),
        };
        let sample =
            TestSample { prompt: "How many?".into(), gold: vec!["3".into()], answer: "3".into(), score: Some(1.0) };
        let test = TestResult {
            task: "drop".into(),
            split: "test".into(),
            metrics: [("f1".to_owned(), 0.5)].into(),
            samples: vec![sample],
        };
        RunView {
            name: name.into(),
            settings: vec![("Model".into(), "tiny".into()), ("Seed".into(), steps.to_string())],
            config: "[model]".into(),
            trainable: Some(1234),
            base_parameters: Some(100_000),
            steps: (1..=steps).map(step).collect(),
            evaluations: (0..=steps).step_by(10).map(evaluation).collect(),
            tests: vec![test],
        }
    }

    /// Every tag opened is closed in order, but those that have no end; the texts between them.
    fn well_formed(html: &str) -> Vec<String> {
        let (mut open, mut texts) = (Vec::new(), Vec::new());
        let body = html.split_once("</style>").expect("a style").1;
        for part in body.split('<').skip(1) {
            let (tag, text) = part.split_once('>').unwrap_or_else(|| panic!("an open tag: {part}"));
            texts.push(text.to_owned());
            let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap_or_default();
            if tag.starts_with('/') {
                if name != "head" && name != "html" {
                    assert_eq!(open.pop(), Some(name), "{part}");
                }
            } else if !tag.ends_with('/') {
                open.push(name);
            }
        }
        assert!(open.is_empty(), "{open:?}");
        texts
    }

    #[test]
    fn a_report_of_runs_shows_scores_curves_samples_and_configuration() {
        let html = Report::of_runs("Two runs", vec![run("one", 100), run("two", 50)]).html();
        let texts = well_formed(&html).join("\n");
        for text in [
            "Two runs",
            "2 runs on tiny",
            "Training loss",
            "Validation loss",
            "Validation f1",
            "Learning rate",
            "Gradient norm",
            "1,234",
            "1,234 = 1.234 % of the base",
            "drop test f1, %",
            "How many?",
            "✓ right",
            "Seed",
            "Complete configuration of two",
        ] {
            assert!(texts.contains(text), "{text}");
        }
        assert_eq!(html.matches("<td class=\"number best\">").count(), 4, "two losses, two scores: {html}");
        assert!(html.contains("<td class=\"number best\">100.0</td>"), "the best validation's metric in percent");
        assert_eq!(html.matches("<article").count(), 1, "answers to one prompt stand together");
        assert_eq!(html.matches("✓ right").count(), 2);
        assert!(html.contains("class=\"same\"><th scope=\"row\">Model"));
    }

    #[test]
    fn a_page_stands_alone_and_nothing_in_it_runs() {
        let mut bad = run(HOSTILE, 30);
        bad.settings.push((HOSTILE.into(), HOSTILE.into()));
        bad.config = HOSTILE.into();
        bad.evaluations[1].metrics.insert(HOSTILE.into(), 0.5);
        bad.tests[0].task = HOSTILE.into();
        bad.tests[0].samples[0] =
            TestSample { prompt: HOSTILE.into(), gold: vec![HOSTILE.into()], answer: HOSTILE.into(), score: Some(0.5) };
        let mut report = Report::of_runs(HOSTILE, vec![bad.clone(), bad]);
        report.scores.note = HOSTILE.into();
        let html = report.html();
        let texts = well_formed(&html);
        assert!(texts.iter().filter(|text| text.contains("alert")).count() > 20);
        for word in ["<script", "//x'", "http:", "https:", "url(", "@import", "<img", "<link", "<iframe", "NaN", "\0"] {
            assert!(!html.contains(word), "{word}");
        }
        assert_eq!(html.matches("</style>").count(), 1);
        assert_eq!(report.html(), html, "the same report, the same bytes");
    }

    #[test]
    fn runs_without_results_make_a_page_too() {
        well_formed(&Report::default().html());
        let html = Report::of_runs("new", vec![RunView { name: "new".into(), ..RunView::default() }]).html();
        assert!(!html.contains("<h2>Curves") && !html.contains("<h2>Sample") && html.contains("1 run<"), "{html}");
        let mut broken = run("broken", 3);
        broken.steps.iter_mut().for_each(|point| (point.loss, point.grad_norm) = (f64::NAN, f64::INFINITY));
        broken.trainable = None;
        broken.base_parameters = Some(0);
        let html = Report::of_runs("broken", vec![broken]).html();
        assert!(!html.contains("Training loss<") && !html.contains("NaN") && !html.contains("inf"), "{html}");
    }

    #[test]
    fn the_best_is_the_highest_score_and_the_lowest_loss() {
        let row =
            |values: [f64; 3]| ScoreRow { name: String::new(), tone: Tone::Neutral, values: values.map(Some).to_vec() };
        let columns = [("f1", Measure::Score), ("loss", Measure::Loss), ("size", Measure::Count)];
        let mut table = ScoreTable {
            columns: columns.map(|(name, measure)| Column::new(name, measure)).to_vec(),
            rows: vec![row([0.25, 3.0, 9.0]), row([0.5, f64::NAN, 1.0]), row([0.125, 2.0, 5.0])],
            note: String::new(),
        };
        assert_eq!([0, 1, 2].map(|column| table.best(column)), [Some(1), Some(2), None]);
        table.rows.truncate(1);
        assert_eq!(table.best(0), None, "one alone is not the best");
        table.rows[0].values.clear();
        assert!(scores(&table).contains("<td class=\"number\">-</td>"));
    }

    #[test]
    fn only_reports_are_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.html");
        Report { title: "first".into(), ..Report::default() }.write(&path).unwrap();
        Report { title: "second".into(), ..Report::default() }.write(&path).unwrap();
        assert!(std::fs::read_to_string(&path).unwrap().contains("<h1>second</h1>"));
        std::fs::write(&path, "<!doctype html>\n<title>quanta</title> my notes").unwrap();
        for other in [path.as_path(), folder.path()] {
            let error = Report::default().write(other).unwrap_err();
            assert!(matches!(&error, AnalysisError::NotAReport { path } if path == other), "{error}");
        }
        assert!(std::fs::read_to_string(&path).unwrap().ends_with("my notes"));
    }
}
