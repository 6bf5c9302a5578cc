//! A figure: one question with a bar, and how rounds of measurements become a verdict.
//!
//! Rounds alternate A B A B, so that a machine that slows down slows both; what is judged is the ratio within each
//! round, never a number of today against one of yesterday. The result is the median of those ratios with the
//! whole spread, smallest to largest.
//!
//! The verdict is honest about noise: *met* when even the worst round clears the bar, *missed* when even the best
//! one does not, *within the noise* when the spread straddles it. If the true ratio sat exactly on the bar, n
//! rounds would all fall on one given side with chance 2^-n: 3 % for the default of five. More rounds make a claim
//! stronger and rarer, which is the right way round.
//!
//! Pure: no clocks, no processes.

use serde::Serialize;

/// Fewer counted rounds than this give no verdict: two can agree by chance.
pub(crate) const ROUNDS_MIN: usize = 3;

/// What is measured, and what it must reach.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    /// The name on the command line and in JSON.
    pub(crate) key: &'static str,
    pub(crate) title: &'static str,
    /// Unit of one peer's value.
    pub(crate) unit: &'static str,
    pub(crate) judged: Judged,
    pub(crate) bar: Bar,
    /// What we would like to reach; never judged.
    pub(crate) aim: Option<f64>,
}

/// Which number is held against the bar.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Judged {
    /// Ours divided by the peer's, round by round.
    Ratio,
    /// Ours alone; the peer is measured for comparison.
    Ours,
}

/// The bar, with the direction in which better lies.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Bar {
    AtLeast(f64),
    AtMost(f64),
    /// For a peer against itself: the median must be within this distance of 1.
    NearOne(f64),
    /// There is none: the figure is told for what it is.
    Told,
}

/// What the rounds say about the bar.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    Met,
    Missed,
    WithinNoise,
    /// There is no bar.
    Told,
    /// Too few rounds counted.
    NotCounted(String),
}

/// Smallest, middle and largest of a set of rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) min: f64,
    pub(crate) median: f64,
    pub(crate) max: f64,
}

impl Figure {
    /// The same figure asked of a peer against itself: whatever the bar was, the ratio must be about 1.
    pub(crate) fn against_itself(&self, tolerance: f64) -> Self {
        Self { judged: Judged::Ratio, bar: Bar::NearOne(tolerance), aim: None, ..self.clone() }
    }

    /// The number of one round that is held against the bar.
    pub(crate) fn judged_value(&self, ours: f64, theirs: f64) -> f64 {
        match self.judged {
            Judged::Ratio => ours / theirs,
            Judged::Ours => ours,
        }
    }

    /// Judges the counted rounds; `planned` is how many there should have been.
    pub(crate) fn verdict(&self, values: &[f64], planned: usize) -> Verdict {
        if values.len() < ROUNDS_MIN {
            return Verdict::NotCounted(format!(
                "{} of {planned} rounds counted, a verdict needs {ROUNDS_MIN}",
                values.len()
            ));
        }
        let Some(spread) = Spread::of(values) else {
            return Verdict::NotCounted("a round gave no number".to_owned());
        };
        self.bar.judge(spread)
    }

    /// Whether the median reaches the aim.
    pub(crate) fn reaches_aim(&self, spread: Spread) -> bool {
        self.aim.is_some_and(|aim| match self.bar {
            Bar::AtLeast(_) => spread.median >= aim,
            Bar::AtMost(_) => spread.median <= aim,
            Bar::NearOne(_) | Bar::Told => false,
        })
    }
}

impl Bar {
    /// Whether a median is on the good side.
    pub(crate) fn is_met_by(self, median: f64) -> bool {
        match self {
            Self::AtLeast(bar) => median >= bar,
            Self::AtMost(bar) => median <= bar,
            Self::NearOne(tolerance) => (median - 1.0).abs() <= tolerance,
            Self::Told => true,
        }
    }

    fn judge(self, spread: Spread) -> Verdict {
        let (all, none) = match self {
            Self::AtLeast(bar) => (spread.min >= bar, spread.max < bar),
            Self::AtMost(bar) => (spread.max <= bar, spread.min > bar),
            // A peer against itself fails only when the median is off and no round contradicts it.
            Self::NearOne(_) => {
                let off = !self.is_met_by(spread.median);
                (!off, off && (spread.min > 1.0 || spread.max < 1.0))
            }
            Self::Told => return Verdict::Told,
        };
        match (all, none) {
            (true, _) => Verdict::Met,
            (_, true) => Verdict::Missed,
            _ => Verdict::WithinNoise,
        }
    }
}

impl Spread {
    /// `None` without values, or when one of them is not a finite number.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        if values.is_empty() || values.iter().any(|value| !value.is_finite()) {
            return None;
        }
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median =
            if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 };
        Some(Self { min: sorted[0], median, max: sorted[sorted.len() - 1] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(judged: Judged, bar: Bar) -> Figure {
        Figure { key: "k", title: "t", unit: "u", judged, bar, aim: Some(1.2) }
    }

    fn judge(bar: Bar, values: &[f64]) -> Verdict {
        figure(Judged::Ratio, bar).verdict(values, values.len())
    }

    #[test]
    fn met_needs_every_round_above_the_bar() {
        assert_eq!(judge(Bar::AtLeast(0.8), &[0.80, 0.9, 1.0, 0.85, 0.81]), Verdict::Met);
        assert_eq!(judge(Bar::AtMost(0.7), &[0.70, 0.5, 0.6]), Verdict::Met);
    }

    #[test]
    fn missed_needs_every_round_below_the_bar() {
        assert_eq!(judge(Bar::AtLeast(0.8), &[0.79, 0.7, 0.6]), Verdict::Missed);
        assert_eq!(judge(Bar::AtMost(0.7), &[0.71, 0.9, 0.8]), Verdict::Missed);
    }

    #[test]
    fn one_round_on_the_other_side_is_noise_in_both_directions() {
        assert_eq!(judge(Bar::AtLeast(0.8), &[0.79, 0.9, 0.9, 0.9, 0.9]), Verdict::WithinNoise);
        assert_eq!(judge(Bar::AtLeast(0.8), &[0.81, 0.7, 0.7, 0.7, 0.7]), Verdict::WithinNoise);
        assert_eq!(judge(Bar::AtMost(0.7), &[0.5, 0.5, 0.71]), Verdict::WithinNoise);
    }

    #[test]
    fn two_rounds_or_a_number_that_is_none_give_no_verdict() {
        assert!(matches!(judge(Bar::AtLeast(0.8), &[2.0, 2.0]), Verdict::NotCounted(_)));
        assert!(matches!(judge(Bar::AtLeast(0.8), &[2.0, 2.0, f64::NAN]), Verdict::NotCounted(_)));
        assert!(matches!(judge(Bar::AtMost(0.8), &[0.1, 0.1, f64::INFINITY]), Verdict::NotCounted(_)));
    }

    #[test]
    fn a_peer_against_itself_is_near_one_or_off_or_too_noisy_to_tell() {
        let bar = Bar::NearOne(0.03);
        assert_eq!(judge(bar, &[0.9, 1.02, 1.2]), Verdict::Met);
        assert_eq!(judge(bar, &[1.04, 1.05, 1.2]), Verdict::Missed);
        assert_eq!(judge(bar, &[0.99, 1.05, 1.2]), Verdict::WithinNoise);
    }

    #[test]
    fn a_figure_without_a_bar_is_told_if_enough_rounds_counted() {
        assert_eq!(judge(Bar::Told, &[0.1, 5.0, 1.0]), Verdict::Told);
        assert!(matches!(judge(Bar::Told, &[1.0, 1.0]), Verdict::NotCounted(_)));
    }

    #[test]
    fn the_median_of_an_even_count_is_between_the_middle_two() {
        assert_eq!(Spread::of(&[4.0, 1.0, 2.0, 3.0]), Some(Spread { min: 1.0, median: 2.5, max: 4.0 }));
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn a_figure_of_our_own_ignores_the_peer_until_it_is_asked_against_itself() {
        let own = figure(Judged::Ours, Bar::AtMost(4096.0));
        assert_eq!(own.judged_value(3000.0, 10.0), 3000.0);
        assert_eq!(own.against_itself(0.03).judged_value(3000.0, 1500.0), 2.0);
    }

    #[test]
    fn the_aim_is_read_from_the_median() {
        let spread = Spread { min: 1.0, median: 1.3, max: 2.0 };
        assert!(figure(Judged::Ratio, Bar::AtLeast(0.8)).reaches_aim(spread));
        assert!(!figure(Judged::Ratio, Bar::AtMost(2.0)).reaches_aim(spread));
    }
}
