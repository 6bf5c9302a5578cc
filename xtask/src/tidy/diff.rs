//! A line diff, small enough for golden files.

/// Lines around a change that are shown with it.
const CONTEXT_LINES: usize = 2;

/// The difference between two texts as lines with `-` (only in `old`), `+` (only in `new`) or a
/// space (both); `…` stands for unchanged lines that are left out.
pub(super) fn lines(old: &str, new: &str) -> String {
    let old: Vec<&str> = old.lines().collect();
    let new: Vec<&str> = new.lines().collect();
    shorten(&edits(&old, &new))
}

/// Both texts merged, each line with its sign.
fn edits<'a>(old: &[&'a str], new: &[&'a str]) -> Vec<(char, &'a str)> {
    let common = common_lengths(old, new);
    let (mut i, mut j) = (0, 0);
    let mut merged = Vec::new();
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            merged.push((' ', old[i]));
            i += 1;
            j += 1;
        } else if j == new.len() || (i < old.len() && common[i + 1][j] >= common[i][j + 1]) {
            merged.push(('-', old[i]));
            i += 1;
        } else {
            merged.push(('+', new[j]));
            j += 1;
        }
    }
    merged
}

/// `[i][j]`: the length of the longest common subsequence of `old[i..]` and `new[j..]`.
fn common_lengths(old: &[&str], new: &[&str]) -> Vec<Vec<usize>> {
    let mut lengths = vec![vec![0; new.len() + 1]; old.len() + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            lengths[i][j] = if old[i] == new[j] {
                lengths[i + 1][j + 1] + 1
            } else {
                lengths[i + 1][j].max(lengths[i][j + 1])
            };
        }
    }
    lengths
}

fn shorten(merged: &[(char, &str)]) -> String {
    let near_a_change = |index: usize| {
        let from = index.saturating_sub(CONTEXT_LINES);
        let to = (index + CONTEXT_LINES + 1).min(merged.len());
        merged[from..to].iter().any(|(sign, _)| *sign != ' ')
    };
    let mut text = String::new();
    let mut left_out = false;
    for (index, (sign, line)) in merged.iter().enumerate() {
        if near_a_change(index) {
            text.push_str(&format!("{sign} {line}\n"));
            left_out = false;
        } else if !left_out {
            text.push_str("…\n");
            left_out = true;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_line_is_shown_with_its_neighbours_only() {
        let old = "a\nb\nc\nd\ne\nf\ng\n";
        let new = "a\nb\nc\nX\ne\nf\ng\n";
        assert_eq!(lines(old, new), "…\n  b\n  c\n- d\n+ X\n  e\n  f\n…\n");
    }

    #[test]
    fn added_and_removed_lines_keep_the_common_ones() {
        assert_eq!(lines("a\nb\n", "b\nc\n"), "- a\n  b\n+ c\n");
        assert_eq!(lines("", "a\n"), "+ a\n");
        assert_eq!(lines("a\n", ""), "- a\n");
    }
}
