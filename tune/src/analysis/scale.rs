//! From numbers to places on an axis: the range of the data, ticks at round numbers, and how the ticks are written.
//!
//! It is apart from the drawing because this is where plots go wrong (one value, a huge range, numbers that are no numbers), and it can be tested in
//! numbers.

/// How values are spread over an axis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Spacing {
    /// Equal differences, equal distances.
    #[default]
    Linear,
    /// Equal ratios, equal distances; values that are not above zero are left out.
    Log,
}

/// A range of values laid on a range of places.
#[derive(Clone, Debug, PartialEq)]
pub struct Scale {
    spacing: Spacing,
    low: f64,
    high: f64,
    /// Values with a grid line, ascending.
    pub ticks: Vec<f64>,
}

/// Values beyond this are drawn by nobody, and their differences would overflow.
const LARGEST: f64 = 1e150;

impl Scale {
    /// The scale that holds all of `values` that can be drawn; nothing where none can. `wanted` is about how many ticks there are to be.
    ///
    /// With `round_ends` a linear scale begins and ends with a tick; otherwise, and on a logarithmic scale, with the data.
    pub fn new(
        spacing: Spacing,
        values: impl IntoIterator<Item = f64>,
        wanted: usize,
        round_ends: bool,
    ) -> Option<Self> {
        let drawn = values.into_iter().filter(|&value| is_drawn(spacing, value));
        let bounds = |(low, high): (f64, f64), value: f64| (low.min(value), high.max(value));
        let (mut low, mut high) = drawn.map(without_denormals).fold((f64::INFINITY, f64::NEG_INFINITY), bounds);
        if low > high {
            return None;
        }
        let wanted = wanted.max(2) as f64;
        if spacing == Spacing::Log {
            if high / low < 1.1 {
                (low, high) = (low / 1.1, high * 1.1);
            }
            return Some(Self { spacing, low, high, ticks: log_ticks(low, high, wanted) });
        }
        let largest = low.abs().max(high.abs());
        if high - low <= 1e-12 * largest {
            // one value only: some room on both sides
            let room = if largest == 0.0 { 1.0 } else { 0.1 * largest };
            (low, high) = (low - room, high + room);
        }
        let step = round_step((high - low) / wanted);
        let (mut first, mut last) = ((low / step).floor(), (high / step).ceil());
        if round_ends {
            (low, high) = (first * step, last * step);
        } else {
            (first, last) = ((low / step - 1e-9).ceil(), (high / step + 1e-9).floor());
        }
        let count = (last - first).clamp(0.0, 64.0) as usize;
        let ticks = (0..=count).map(|i| clean((first + i as f64) * step)).collect();
        Some(Self { spacing, low, high, ticks })
    }

    /// Where a value lies, 0 at the low end and 1 at the high end; nothing for what cannot be drawn.
    pub fn place(&self, value: f64) -> Option<f64> {
        if !is_drawn(self.spacing, value) {
            return None;
        }
        Some(match self.spacing {
            Spacing::Linear => (value - self.low) / (self.high - self.low),
            Spacing::Log => (value / self.low).ln() / (self.high / self.low).ln(),
        })
    }

    /// The ticks as text, all with the same number of decimals on a linear scale.
    pub fn labels(&self) -> Vec<String> {
        let widest = self.ticks.iter().fold(0.0f64, |most, tick| most.max(tick.abs()));
        let step = self.ticks.windows(2).map(|pair| pair[1] - pair[0]).fold(f64::INFINITY, f64::min);
        self.ticks
            .iter()
            .map(|&tick| match self.spacing {
                Spacing::Linear => in_steps(tick, step, widest),
                Spacing::Log => in_steps(tick, tick, tick),
            })
            .collect()
    }
}

fn is_drawn(spacing: Spacing, value: f64) -> bool {
    value.abs() <= LARGEST && (spacing == Spacing::Linear || value >= 1.0 / LARGEST)
}

/// What is too small for a ratio is zero.
fn without_denormals(value: f64) -> f64 {
    if value.abs() < 1.0 / LARGEST { 0.0 } else { value }
}

/// Of 1, 2 and 5 times a power of ten the one nearest to `wanted` by ratio.
fn round_step(wanted: f64) -> f64 {
    let power = 10f64.powf(wanted.log10().floor());
    // halfway between two factors, by ratio, is the root of their product
    let factor = match wanted / power {
        ratio if ratio < 2f64.sqrt() => 1.0,
        ratio if ratio < 10f64.sqrt() => 2.0,
        ratio if ratio < 50f64.sqrt() => 5.0,
        _ => 10.0,
    };
    factor * power
}

/// Powers of ten, with 2 and 5 between them or with powers left out, whatever comes nearest to the wanted number; round steps where the range lies
/// within one power of ten.
fn log_ticks(low: f64, high: f64, wanted: f64) -> Vec<f64> {
    let inside = |value: &f64| (low * (1.0 - 1e-9)..=high * (1.0 + 1e-9)).contains(value);
    let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    let stride = (f64::from(last - first) / wanted).ceil().max(1.0) as usize;
    let powers: Vec<f64> = (first..=last).step_by(stride).map(|power| clean(10f64.powi(power))).collect();
    let decades: Vec<f64> = powers.iter().copied().filter(inside).collect();
    if decades.len() >= 3 {
        return decades;
    }
    let finer: Vec<f64> =
        powers.iter().flat_map(|&power| [power, clean(2.0 * power), clean(5.0 * power)]).filter(inside).collect();
    if finer.len() >= 3 {
        return finer;
    }
    let step = round_step((high - low) / wanted);
    let first = (low / step).ceil();
    (0..64).map(|i| clean((first + f64::from(i)) * step)).take_while(inside).collect()
}

/// Without the dust of binary arithmetic: twelve digits.
fn clean(value: f64) -> f64 {
    if value == 0.0 { 0.0 } else { format!("{value:.11e}").parse().unwrap_or(value) }
}

/// A number in the digits that tell it from one `step` away, in powers of ten where the plain form is long.
fn in_steps(value: f64, step: f64, widest: f64) -> String {
    if value == 0.0 {
        return "0".into();
    }
    if !(1e-3..1e6).contains(&widest) {
        let digits = (widest.log10().floor() - step.log10().floor()).clamp(0.0, 6.0) as usize;
        let text = format!("{value:.digits$e}");
        let (digits, power) = text.split_once('e').unwrap_or((&text, "0"));
        let digits = if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.') } else { digits };
        return format!("{digits}e{power}");
    }
    let decimals = (-(step * (1.0 + 1e-9)).log10().floor()).clamp(0.0, 9.0) as usize;
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn linear(values: &[f64]) -> Scale {
        Scale::new(Spacing::Linear, values.iter().copied(), 5, true).unwrap()
    }

    fn log(values: &[f64]) -> Scale {
        Scale::new(Spacing::Log, values.iter().copied(), 5, false).unwrap()
    }

    #[test]
    fn ticks_are_round_and_hold_the_data() {
        assert_eq!(linear(&[3.57, 11.84]).ticks, [2.0, 4.0, 6.0, 8.0, 10.0, 12.0]);
        let tight = Scale::new(Spacing::Linear, [7.0, 119.0], 5, false).unwrap();
        assert_eq!((tight.labels().join(" "), tight.place(119.0)), ("20 40 60 80 100".into(), Some(1.0)));
        assert_eq!(linear(&[0.0, 120.0]).labels(), ["0", "20", "40", "60", "80", "100", "120"]);
        assert_eq!(linear(&[0.61, 0.83]).labels(), ["0.60", "0.65", "0.70", "0.75", "0.80", "0.85"]);
        assert_eq!(linear(&[-1.0, 1.0]).labels(), ["-1.0", "-0.5", "0", "0.5", "1.0"]);
        assert_eq!(linear(&[0.0, 3e-4]).labels(), ["0", "5e-5", "1e-4", "1.5e-4", "2e-4", "2.5e-4", "3e-4"]);
        assert_eq!(linear(&[0.0, 2e7]).labels(), ["0", "5e6", "1e7", "1.5e7", "2e7"]);
        let tight = Scale::new(Spacing::Linear, [7.0, 119.0], 5, false).unwrap();
        assert_eq!((tight.labels().join(" "), tight.place(119.0)), ("20 40 60 80 100".into(), Some(1.0)));
        assert_eq!(linear(&[0.0, 12_500.0]).labels(), ["0", "2000", "4000", "6000", "8000", "10000", "12000", "14000"]);
    }

    #[test]
    fn a_log_scale_has_decades_or_steps_between_them() {
        assert_eq!(log(&[1e-5, 1e-1]).labels(), ["1e-5", "1e-4", "0.001", "0.01", "0.1"]);
        assert_eq!(log(&[1.0, 60.0]).labels(), ["1", "2", "5", "10", "20", "50"]);
        assert_eq!(log(&[3.1, 4.2]).ticks, [3.2, 3.4, 3.6, 3.8, 4.0, 4.2]);
        assert!(log(&[1e-20, 1e20]).ticks.len() <= 7);
        let scale = log(&[1.0, 100.0, 0.0, -3.0]);
        assert_eq!((scale.place(10.0), scale.place(0.0)), (Some(0.5), None));
    }

    #[test]
    fn strange_data_has_a_scale_or_none() {
        assert_eq!(Scale::new(Spacing::Linear, [f64::NAN, f64::INFINITY], 5, true), None);
        assert_eq!(Scale::new(Spacing::Log, [0.0, -1.0], 5, true), None);
        for values in [
            &[0.0][..],
            &[7.0],
            &[-3.5],
            &[1e-140],
            &[f64::MAX, 1.0],
            &[1e150, -1e150],
            &[1.0, 1.0 + 1e-15],
            &[5e-324, 1.0],
            &[f64::NAN, 2.0],
        ] {
            for (spacing, round) in [(Spacing::Linear, true), (Spacing::Linear, false), (Spacing::Log, true)] {
                let Some(scale) = Scale::new(spacing, values.iter().copied(), 5, round) else { continue };
                assert!(scale.ticks.len() <= 65 && scale.ticks.is_sorted(), "{values:?}: {scale:?}");
                for &value in values {
                    let place = scale.place(value);
                    assert!(
                        place.is_none_or(|p| (-1e-6..=1.0 + 1e-6).contains(&p)),
                        "{values:?}: {place:?} in {scale:?}"
                    );
                }
                assert!(scale.labels().iter().all(|label| label.len() < 16), "{:?}", scale.labels());
            }
        }
    }
}
