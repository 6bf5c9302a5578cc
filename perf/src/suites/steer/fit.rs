//! What each kind of packet costs, from the cost of bursts that mix the kinds: least squares.

/// Finds the costs `x` that explain best what each burst cost: Σ count of kind × x of kind = cost of the burst.
///
/// A burst into which an interrupt fell costs many times the others, and would pull all of them: after a first fit
/// those that are far off are left out, and the rest is fitted again. `None` when the bursts do not tell the kinds apart.
pub(super) fn costs<const KINDS: usize>(bursts: &[([f64; KINDS], f64)]) -> Option<[f64; KINDS]> {
    /// Of the middle of all distances; a normal error is that far off once in a thousand times.
    const FAR: f64 = 5.0;
    let first = least_squares(bursts.iter())?;
    let off = |(counts, cost): &([f64; KINDS], f64)| (cost - explained(counts, &first)).abs();
    let mut distances: Vec<f64> = bursts.iter().map(off).collect();
    distances.sort_unstable_by(f64::total_cmp);
    let middle = distances[distances.len() / 2];
    least_squares(bursts.iter().filter(|burst| off(burst) <= FAR * middle))
}

fn explained<const KINDS: usize>(counts: &[f64; KINDS], costs: &[f64; KINDS]) -> f64 {
    counts.iter().zip(costs).map(|(count, cost)| count * cost).sum()
}

/// By the normal equations, which are well enough behaved for a dozen kinds.
fn least_squares<'a, const KINDS: usize>(
    bursts: impl Iterator<Item = &'a ([f64; KINDS], f64)>,
) -> Option<[f64; KINDS]> {
    let mut matrix = [[0.0; KINDS]; KINDS];
    let mut right = [0.0; KINDS];
    for (counts, cost) in bursts {
        for row in 0..KINDS {
            right[row] += counts[row] * cost;
            for column in 0..KINDS {
                matrix[row][column] += counts[row] * counts[column];
            }
        }
    }
    solve(matrix, right)
}

/// Gauss and Jordan, with the largest of each column in front.
fn solve<const N: usize>(mut matrix: [[f64; N]; N], mut right: [f64; N]) -> Option<[f64; N]> {
    for pivot in 0..N {
        let largest =
            (pivot..N).max_by(|a, b| matrix[*a][pivot].abs().total_cmp(&matrix[*b][pivot].abs()))?;
        matrix.swap(pivot, largest);
        right.swap(pivot, largest);
        let head = matrix[pivot];
        if head[pivot].abs() < 1e-9 {
            return None;
        }
        for row in (0..N).filter(|row| *row != pivot) {
            let factor = matrix[row][pivot] / head[pivot];
            matrix[row].iter_mut().zip(head).for_each(|(value, above)| *value -= factor * above);
            right[row] -= factor * right[pivot];
        }
    }
    Some(std::array::from_fn(|place| right[place] / matrix[place][place]))
}

#[cfg(test)]
mod tests {
    use berth_fixtures::dice::SplitMix64;

    use super::*;

    const COSTS: [f64; 3] = [25.0, 110.0, 40.0];

    fn bursts() -> Vec<([f64; 3], f64)> {
        let mut dice = SplitMix64(3);
        let mut burst = || {
            let counts = std::array::from_fn(|_| dice.below(64) as f64);
            (counts, explained(&counts, &COSTS) + dice.fraction())
        };
        (0..500).map(|_| burst()).collect()
    }

    #[test]
    fn the_cost_of_each_kind_is_found() {
        let found = costs(&bursts()).unwrap();
        for (found, cost) in found.into_iter().zip(COSTS) {
            assert!((found - cost).abs() < 0.1, "{found} for {cost}");
        }
    }

    #[test]
    fn an_interrupted_burst_does_not_count() {
        let mut bursts = bursts();
        for burst in bursts.iter_mut().step_by(50) {
            burst.1 += 50_000.0;
        }
        let found = costs(&bursts).unwrap();
        for (found, cost) in found.into_iter().zip(COSTS) {
            assert!((found - cost).abs() < 0.1, "{found} for {cost}");
        }
    }

    #[test]
    fn kinds_that_only_come_together_cannot_be_told_apart() {
        assert_eq!(costs(&[([1.0, 1.0], 5.0), ([2.0, 2.0], 10.0)]), None);
    }
}
